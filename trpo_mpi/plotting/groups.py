"""Groups runs into panels by environment, and in each panel into the seeds of one curve."""

from collections.abc import Sequence
from typing import Any

from trpo_mpi.config import NOT_THE_RESULT
from trpo_mpi.errors import UsageError
from trpo_mpi.run_directory.reading import Run

# Runs that differ only in these are seeds of one curve.
NOT_COMPARED = {"seed", *NOT_THE_RESULT} - {"num_timesteps"}

Panels = dict[str, dict[str, list[Run]]]
"""Environment -> label of a curve -> its runs, one per seed."""


def group(runs: Sequence[Run]) -> Panels:
    """Group runs by environment and label: the recipe, and settings in which its runs differ.

    Raises `UsageError` if two runs of a curve have the same seed: the band would show seeds closer
    together than they are.
    """
    panels: Panels = {}
    for run in runs:
        curves = panels.setdefault(run.settings["env"], {})
        seeds = curves.setdefault(_label(run, runs), [])
        for other in seeds:
            if other.settings.get("seed") == run.settings.get("seed"):
                raise UsageError(
                    f"{other.directory} and {run.directory} are the same run: "
                    f"one recipe, the same settings, seed {run.settings.get('seed')}"
                )
        seeds.append(run)
    return panels


def same(one: Run, other: Run) -> bool:
    """Whether two runs have the same settings and seed, and so the same bits."""
    compared = (one.settings.keys() | other.settings.keys()) - NOT_COMPARED | {"seed"}
    return one.recipe == other.recipe and all(
        one.settings.get(name) == other.settings.get(name) for name in compared
    )


def _label(run: Run, runs: Sequence[Run]) -> str:
    """The recipe, with this run's value of each setting that varies among its runs in a panel."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for other in runs:
        if other.recipe == run.recipe:
            panels.setdefault(other.settings["env"], []).append(other.settings)
    varied = [
        name
        for name in run.settings
        if name not in NOT_COMPARED
        and any(s.get(name) != panel[0].get(name) for panel in panels.values() for s in panel)
    ]
    return ", ".join([run.recipe, *(f"{name} {_words(run.settings[name])}" for name in varied)])


def _words(value: Any) -> str:
    """A setting as a flag takes it: several values separated by spaces."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
