"""Play episodes with trained policies and report their returns.

python -m trpo_mpi.evaluate runs/Hopper-v4-default-s0                   100 episodes, as trained
python -m trpo_mpi.evaluate runs                                        one row per run
mpirun -np 4 python -m trpo_mpi.evaluate model.zip --deterministic      most probable actions

Episode k draws its start and its noise from streams of its own, so it is the same on any number
of ranks, which share out the episodes.
"""

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from trpo_mpi.parallel import startup
from trpo_mpi.run_directory import CHECKPOINTS, MODEL

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

import numpy as np

from trpo_mpi import tensorflow_setup
from trpo_mpi.atomic_file import write_text
from trpo_mpi.command_line import parse
from trpo_mpi.config import Count, Natural, check_ranges
from trpo_mpi.envs.make import check_env, quiet_gymnasium
from trpo_mpi.envs.vector import close
from trpo_mpi.errors import UsageError
from trpo_mpi.evaluation import (
    Behaviour,
    Summary,
    check_environment,
    load_model,
    mode_of,
    play_episodes,
)
from trpo_mpi.model import Model
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.run_directory.reading import read_each, runs_in


@dataclass(frozen=True)
class Evaluation:
    """Play episodes with trained policies. Under mpirun or srun the ranks share them out.

    Prints one row per policy, and writes evaluation.csv, one row per episode, and evaluation.json,
    the summary, into its directory (evaluation-NAME for a model other than a run's latest).
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="DIR [DIR ...]")]
    """Run directories, directories that hold them, or files: a model.zip or a checkpoint."""
    which: str = "latest"
    """Which model of a run directory: latest, best, or a checkpoint's iteration."""
    episodes: Count = 100
    """Episodes to play with each policy, over all ranks."""
    deterministic: bool = False
    """Take the most probable action at each step instead of sampling as in training."""
    seed: Natural = 0
    """Seed of the episodes: their starts and the noise of the actions."""
    network: str | None = None
    """Your own network, if the policy was trained with one, as module:function. [default: none]"""


def main() -> int:
    """Evaluate as the command line says; returns the exit code."""
    settings = parse(Evaluation, "evaluate")
    check_ranges(settings)
    comm = startup.connect()
    loaded = comm.on_root(lambda: _load_all(settings))
    settings = dataclasses.replace(settings, runs=tuple(run for run, _ in loaded))
    models = [model for _, model in loaded]
    quiet_gymnasium()  # rank 0 has just shown these environments' warnings once
    if any(model.architecture.needs_tensorflow for model in models):
        tensorflow_setup.set_up("-1", 0)
    for run, model in loaded:
        comm.everywhere(functools.partial(model.check_network, f"DIR {run}"))
    table = Table(settings, [model.env for model in models])
    if comm.is_root:
        print(table.head, flush=True)
    refusals = []
    for run, model in zip(settings.runs, models, strict=True):
        results = evaluate(settings, model, comm)
        if comm.is_root:
            print(table.row(run, model.env, Summary.of(results)), flush=True)
            refusals += _write(settings, run, model, results)
    comm.on_root(lambda: _close(settings, refusals))
    return 0


def evaluate(settings: Evaluation, model: Model, comm: Communicator) -> np.ndarray:
    """Play the episodes of one model, on all ranks: (episodes, 2) returns and lengths."""
    env = comm.everywhere(model.make_env)
    act = Behaviour(model.actor(), model.normalizer, settings.deterministic)
    results = play_episodes(env, act, comm, settings.episodes, settings.seed)
    close(env)
    return results


def output(run: str, which: str) -> Path:
    """Where the evaluation of a model is written, without the file extension.

    In the run directory, or beside the model's file: `evaluation` for the latest model, or
    `evaluation-NAME` for any other.
    """
    path = Path(run)
    folder, name = (path, which) if path.is_dir() else (path.parent, path.stem)
    return folder / ("evaluation" if name in ("latest", "model") else f"evaluation-{name}")


def _load_all(settings: Evaluation) -> list[tuple[str, Model]]:
    """Runs with their models, if all can be played and each writes its own files; on rank 0.

    A run that is not named itself, but lies below a directory that is, is left out with a note if
    it can't be played.
    """
    spaces_of = functools.cache(check_env)

    def load(run: str) -> list[tuple[str, Model]]:
        model = load_model(run, settings.which, settings.network)
        check_environment(model, run, spaces_of)
        return [(run, model)]

    loaded = read_each(settings.runs, load, _runs_below)
    seen: dict[Path, str] = {}
    for run, _ in loaded:
        path = output(run, settings.which).resolve()
        if path in seen:
            raise UsageError(f"DIR {run} and {seen[path]} would both write {path}.csv: name one")
        seen[path] = run
    return loaded


def _runs_below(path: Path) -> list[Path]:
    """The runs in a directory that has no model of its own."""
    if (path / MODEL).exists() or (path / CHECKPOINTS).exists():
        return []
    return runs_in(path)


class Table:
    """The printed table: one row per run, each printed as soon as it is known.

    Args:
        settings: the evaluation's settings.
        env_ids: the environment of each run; shown in a column only if they differ.
    """

    def __init__(self, settings: Evaluation, env_ids: Sequence[str]) -> None:
        several = len(set(env_ids)) > 1
        self._run = max(len(run) for run in ("run", *settings.runs))
        self._env = max(len(env_id) for env_id in ("environment", *env_ids)) if several else 0
        n = settings.episodes
        episodes = f"{n} episode{'s' if n > 1 else ''}{' each' if len(env_ids) > 1 else ''}"
        about = "" if several else f"{env_ids[0]}: "
        about += f"{episodes}, {mode_of(settings.deterministic)} policy, seed {settings.seed}"
        about += "" if settings.which == "latest" else f", --which {settings.which}"
        names = ("return", "std error", "median", "min", "max", "length")
        self.head = about + "\n" + self._line("run", "environment", names)
        """The lines above the rows."""

    def row(self, run: str, env_id: str, summary: Summary) -> str:
        """Mean return and its standard error, median and extremes; mean length."""
        values = dataclasses.astuple(summary)[1:]
        numbers = ["-" if x is None else f"{x:.2f}" for x in values]
        return self._line(run, env_id, numbers)

    def _line(self, run: str, env_id: str, cells: Sequence[str]) -> str:
        names = f"{run:{self._run}}" + (f"  {env_id:{self._env}}" if self._env else "")
        return names + "".join(f" {cell:>10}" for cell in cells)


def _write(settings: Evaluation, run: str, model: Model, results: np.ndarray) -> list[str]:
    """Write both files, each whole or not at all; returns which could not be written, and why."""
    mode, place = mode_of(settings.deterministic), output(run, settings.which)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("episode", "return", "length", "mode"))
    for number, (total, length) in enumerate(results.tolist()):
        writer.writerow((number, repr(total), int(length), mode))
    record = {
        "env": model.env,
        "iteration": model.iteration,
        "timesteps": model.timesteps,
        "mode": mode,
        "seed": settings.seed,
        **dataclasses.asdict(Summary.of(results)),
    }
    refusals = []
    for ending, content in (
        ("csv", text.getvalue()),
        ("json", json.dumps(record, indent=2) + "\n"),
    ):
        path = place.with_name(f"{place.name}.{ending}")
        try:
            write_text(path, content)
        except OSError as error:
            refusals.append(f"{path} can't be written: {error.strerror}")
    return refusals


def _close(settings: Evaluation, refusals: list[str]) -> None:
    """Say where the files are; `UsageError` if any could not be written; on rank 0."""
    if refusals:
        raise UsageError("; ".join(refusals))
    places = [output(run, settings.which) for run in settings.runs]
    if len(places) == 1:
        print(f"episodes are in {places[0]}.csv, their summary in {places[0]}.json", flush=True)
    else:
        print("episodes are in evaluation*.csv of each, summaries in evaluation*.json", flush=True)


if __name__ == "__main__":
    startup.run(main)
