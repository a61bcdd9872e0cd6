"""Draw the learning curves of runs: mean and standard deviation over seeds.

python -m trpo_mpi.plot runs/Hopper-v4-default-s0                     one run, one line
python -m trpo_mpi.plot runs/Hopper-v4-* runs/Ant-v4-* --output curves.pdf

A panel an environment, a line for the runs of one recipe with the same settings.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from trpo_mpi.command_line import parse
from trpo_mpi.config import CONFIGS, NOT_THE_RESULT, Config, batch_grid
from trpo_mpi.errors import UsageError
from trpo_mpi.parallel import startup
from trpo_mpi.run_directory.archive import whole_file
from trpo_mpi.state import EPISODES_REPORTED

# Okabe and Ito (2008): told apart by the colour-blind, too. Yellow comes last: it is pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
LINE_STYLES = ("-", "--", ":", "-.")

# Runs that differ in these alone are seeds of one curve.
NOT_COMPARED = {"seed", *NOT_THE_RESULT} - {"num_timesteps"}


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs: mean and standard deviation over seeds.

    A panel an environment; runs with one recipe and the same settings share a line.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="DIR [DIR ...]")]
    """Run directories, finished or not."""
    output: str = "curves.png"
    """File to write; its ending says the format: .png, .pdf, .svg."""


@dataclass(frozen=True)
class Run:
    """What a run directory says of its learning curve."""

    directory: str
    settings: dict[str, Any]
    recipe: str
    timesteps: np.ndarray
    """(n,) int64, increasing."""
    returns: np.ndarray
    """(n,) float64, mean return of the last 100 episodes."""


Panels = dict[str, dict[str, list[Run]]]
"""Environment -> label of a curve -> its runs, one a seed."""


@dataclass(frozen=True)
class Curve:
    """Mean and deviation over the seeds of a group, on n common time steps."""

    timesteps: np.ndarray
    """(n,)"""
    mean: np.ndarray
    """(n,)"""
    deviation: np.ndarray | None
    """(n,) sample standard deviation over the seeds; None for a single one."""


def main() -> int:
    """Draw as the command line says; gives the exit code."""
    settings = parse(Plot, "plot")
    if not settings.runs:
        raise UsageError("name one run directory or more")
    draw(group([read_run(directory) for directory in settings.runs]), Path(settings.output))
    count = len(settings.runs)
    print(f"{count} run{'s' if count > 1 else ''} drawn in {settings.output}")
    return 0


def read_run(directory: str) -> Run:
    """Settings and learning curve of a run; rows from before the first episode's end are skipped.

    Raises `UsageError`, naming the directory, where a file is missing or damaged, or where no
    row has a return yet.
    """
    path = Path(directory)
    try:
        text = (path / "progress.csv").read_text(encoding="utf-8")
        record = json.loads((path / "config.json").read_text(encoding="utf-8"))
        whole_lines = text[: text.rfind("\n") + 1]  # of a run that is writing, or was killed
        rows = list(csv.DictReader(whole_lines.splitlines()))
        points = [
            (int(row["timesteps"]), float(row["episode_return_mean"]))
            for row in rows
            if row["episode_return_mean"]
        ]
        settings, recipe = _settings(record), str(record["recipe"])
    except FileNotFoundError as error:
        raise UsageError(f"{directory} is no run directory: there is no {error.filename}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory} is no whole run directory: {error!r}") from None
    if not points:
        raise UsageError(f"{directory}: progress.csv has no row with a return yet")
    timesteps, returns = zip(*points, strict=True)
    return Run(directory, settings, recipe, np.array(timesteps), np.array(returns, np.float64))


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """All settings of a run, those included that its start or an earlier version left open."""
    kind = CONFIGS[record.get("module", Config.command)]
    settings = dataclasses.asdict(kind()) | dict(record["settings"])
    batch = {name: settings[name] for name in ("num_envs", "timesteps_per_batch")}
    grid = batch_grid(kind(**batch), int(record.get("ranks", 1)))
    filled = {"num_envs": grid.num_envs, "timesteps_per_batch": grid.timesteps}
    return settings | filled | {"env": str(settings["env"])}


def group(runs: Sequence[Run]) -> Panels:
    """Runs by environment, and there by label: the recipe, and settings in which its runs differ.

    Raises `UsageError` where two runs of a group have the same seed: the band would show seeds
    closer together than they are.
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


def _label(run: Run, runs: Sequence[Run]) -> str:
    """The recipe, with this run's value of each setting that varies in it within a panel."""
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
    return ", ".join([run.recipe, *(f"{name} {run.settings[name]}" for name in varied)])


def mean_curve(runs: Sequence[Run]) -> Curve:
    """Mean and sample standard deviation over runs, interpolated linearly between their rows.

    The common grid is every time step at which one of the runs has a row, from where the last
    begins to where the first ends. Raises `UsageError` where there is none.
    """
    first = max(run.timesteps[0] for run in runs)
    last = min(run.timesteps[-1] for run in runs)
    if first > last:
        names = ", ".join(run.directory for run in runs)
        raise UsageError(f"no time step is common to {names}: some have just begun")
    grid = np.unique(np.concatenate([run.timesteps for run in runs]))
    grid = grid[(grid >= first) & (grid <= last)]
    returns = np.stack([np.interp(grid, run.timesteps, run.returns) for run in runs])
    deviation = returns.std(axis=0, ddof=1) if len(runs) > 1 else None
    return Curve(grid, returns.mean(axis=0), deviation)


def draw(panels: Panels, output: Path) -> None:
    """Draw what `group` gave into a file, whole or not at all.

    Raises `UsageError` where the file's ending is unknown, or where it can't be written.
    """
    # Without pyplot: this needs no screen, whatever backend the user has set.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    rows = -(-len(panels) // columns)
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    names = [_with_seeds(label, panels) for label in labels]
    name_width = 0.7 + 0.085 * max(map(len, names))  # inches, as all sizes here
    width = max(1 + 3.8 * columns, name_width)
    names_across = int(width / name_width)
    height = 0.6 + 3.0 * rows + 0.25 * math.ceil(len(names) / names_across)
    figure = Figure(figsize=(width, height), layout="constrained")
    kind = output.suffix.lower().removeprefix(".")
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    if kind not in known:
        raise UsageError(f"--output {output} must end in one of .{', .'.join(sorted(known))}")
    lines: dict[str, Any] = {}
    for place, (env_id, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for label, runs in curves.items():
            lines[label] = _draw_curve(axes, mean_curve(runs), labels.index(label))
        axes.set(title=env_id, xlabel="time steps")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel(f"return (mean of last {EPISODES_REPORTED} episodes)", fontsize="medium")
    handles = [lines[label] for label in labels]
    figure.legend(handles, names, loc="outside lower center", ncols=names_across)
    try:
        with whole_file(output) as file:
            figure.savefig(file, format=kind, dpi=150)
    except OSError as error:
        raise UsageError(f"--output {output} can't be written: {error.strerror}") from None


def _draw_curve(axes: Any, curve: Curve, number: int) -> Any:
    """Draw the mean and its band; gives the line."""
    colour = COLOURS[number % len(COLOURS)]
    (line,) = axes.plot(
        curve.timesteps,
        curve.mean,
        color=colour,
        linestyle=LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)],
        marker="o" if len(curve.timesteps) == 1 else None,  # a line of one point is invisible
    )
    if curve.deviation is not None:
        band = (curve.mean - curve.deviation, curve.mean + curve.deviation)
        axes.fill_between(curve.timesteps, *band, color=colour, alpha=0.2, linewidth=0)
    return line


def _with_seeds(label: str, panels: Panels) -> str:
    counts = sorted({len(curves[label]) for curves in panels.values() if label in curves})
    number = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{label} ({number} seeds, mean ± std)" if counts[-1] > 1 else f"{label} (1 seed)"


if __name__ == "__main__":
    startup.run(main)
