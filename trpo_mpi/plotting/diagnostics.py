"""A page of diagnostics: how the updates of some runs went, and where their time went."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trpo_mpi.plotting import style
from trpo_mpi.plotting.statistics import Points, mean, on_common_steps
from trpo_mpi.run_directory.reading import Run
from trpo_mpi.state import EPISODES_REPORTED

STATISTICS = {
    "episode_return_mean": ("return", f"mean of last {EPISODES_REPORTED} episodes"),
    "kl": ("KL(old || new) of a policy step", "nats"),
    "entropy": ("entropy of the policy", "nats"),
    "explained_variance": ("variance explained by the critic", "share of the targets' variance"),
    "step_fraction": ("line search: step taken (0: refused)", "share of the full step"),
    "policy_stepsize": ("Adam's step size, policy", "step size"),
    "clip_range": ("clip range", "distance of a ratio from 1"),
    "beta": ("weight of the KL penalty", "beta"),
}
"""Column of progress.csv -> title and label of its panel."""
LIMITS = {
    "trpo": ("max_kl", "limit of the KL"),
    "npg": ("max_kl", "limit of the KL, to second order"),
    "kl-penalty": ("max_kl", "target of the KL"),
}
"""Policy step -> column with the limit or target of its KL, and its label."""
PHASES = ("sample", "policy", "critic", "other")
BLOCKS = 50
PHASE_COLOURS = ("#56B4E9", "#009E73", "#E69F00", "0.75")
TITLE_PAD = 20
"""Points between a title and a panel that has its own legend."""
LEAST_VARIANCE_SHOWN = -0.5
"""Lower limit of its axis: an untrained critic's explained variance may be hugely negative."""

Draw = Callable[[Any], None]
"""Draws a panel into its axes."""


def draw(title: str, runs: Sequence[Run]) -> Figure:
    """Draw runs, seeds of one setting, over one another; times as means over the runs.

    A panel is drawn if any run has data for it; each run must have made a policy step.
    Raises as `Run.column` does.
    """
    algo = runs[0].settings["algo"]
    names = [f"seed {run.settings['seed']}" for run in runs]
    handles = [Line2D([], [], **_look(number)) for number in range(len(runs))]
    if algo in LIMITS:
        names.append(LIMITS[algo][1])
        handles.append(Line2D([], [], color="black", linestyle="--"))
    panels: list[Draw] = [
        partial(_draw_statistic, runs=runs, column=column)
        for column in STATISTICS
        if any(len(run.points(column)[0]) for run in runs)
        and (column != "step_fraction" or algo == "trpo")  # others have no line search
    ]
    times, waits = _times(runs), _waits(runs)
    if len(times[0]):
        panels.append(partial(_draw_times, times=times, waits=waits))
    if waits:
        panels.append(partial(_draw_waits, waits=waits))
    figure = style.new_figure(len(panels), names)
    for axes, panel in zip(figure.axes, panels, strict=True):
        panel(axes)
        axes.set_xlim(left=0)
    figure.suptitle(title)
    style.add_legend(figure, handles, names, None)
    return figure


def _look(number: int) -> dict[str, Any]:
    return {"color": style.COLOURS[number % len(style.COLOURS)], "linewidth": 1.0}


def _draw_statistic(axes: Any, runs: Sequence[Run], column: str) -> None:
    title, label = STATISTICS[column]
    axes.set_title(title)
    axes.set_ylabel(label)
    for number, run in enumerate(runs):
        timesteps, values = run.points(column)
        alone = column == "step_fraction" or len(timesteps) == 1
        marks = {"linestyle": "", "marker": ".", "markersize": 4} if alone else {}
        axes.plot(timesteps, values, **_look(number), **marks)
    algo = runs[0].settings["algo"]
    if column == "kl" and algo in LIMITS:
        for run in runs:
            axes.plot(*run.points(LIMITS[algo][0]), color="black", linestyle="--", linewidth=1)
        axes.set_ylim(bottom=0)
    if column == "step_fraction":
        axes.set_ylim(-0.05, 1.05)
    if column == "explained_variance":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, LEAST_VARIANCE_SHOWN), min(high, 1.05))


def _times(runs: Sequence[Run]) -> Points:
    """Seconds per iteration, mean over runs: time steps (n,), and seconds by phase (phases, n)."""
    phases = []
    for run in runs:
        total = run.column("timesteps_per_batch") / run.column("steps_per_second")
        parts = [run.column(f"{phase}_seconds") for phase in PHASES[:-1]]
        times = np.array([*parts, total - sum(parts)])
        there = np.isfinite(times).all(axis=0)  # not in the first, which trains nothing
        phases.append((run.column("timesteps")[there], times[:, there]))
    if not all(len(timesteps) for timesteps, _ in phases):
        return np.empty(0), np.empty((len(PHASES), 0))
    means = [_mean([(steps, times[i]) for steps, times in phases]) for i in range(len(PHASES))]
    return means[0][0], np.array([values for _, values in means])


def _waits(runs: Sequence[Run]) -> dict[str, Points]:
    """Seconds per iteration in MPI, mean over runs, by column; empty on a single rank."""
    found = {}
    for column in ("mpi_seconds", "mpi_min_seconds", "mpi_max_seconds"):
        series = [
            run.points(column) if column == "mpi_seconds" else _before(run, column) for run in runs
        ]
        if all(len(timesteps) for timesteps, _ in series):
            found[column] = _mean(series)
    return found if any(values.any() for _, values in found.values()) else {}


def _before(run: Run, column: str) -> Points:
    """The points of a column whose values belong to the iteration before their row's."""
    timesteps, values = run.column("timesteps")[:-1], run.column(column)[1:]
    there = np.isfinite(timesteps) & np.isfinite(values)
    return timesteps[there], values[there]


def _mean(series: Sequence[Points]) -> Points:
    grid, values = on_common_steps([block_medians(*points) for points in series])
    return grid, mean(values)


def block_medians(timesteps: np.ndarray, seconds: np.ndarray) -> Points:
    """Medians of at most `BLOCKS` blocks of rows, lest a single slow row set the scale."""
    blocks = min(BLOCKS, len(timesteps))
    steps, times = (np.array_split(x, blocks) for x in (timesteps, seconds))
    return np.array([*map(np.median, steps)]), np.array([*map(np.median, times)])


def _draw_times(axes: Any, times: Points, waits: dict[str, Points]) -> None:
    axes.set_title("time of an iteration, by phase", pad=TITLE_PAD)
    axes.set_ylabel("seconds (running median)")
    axes.stackplot(*times, labels=PHASES, colors=PHASE_COLOURS, linewidth=0)
    if waits:
        label = "in MPI"
        axes.plot(*waits["mpi_seconds"], color="black", linewidth=1, label=label)
    _legend_above(axes)


def _draw_waits(axes: Any, waits: dict[str, Points]) -> None:
    axes.set_title("time of an iteration in MPI, by rank", pad=TITLE_PAD)
    axes.set_ylabel("seconds (running median)")
    if "mpi_min_seconds" in waits:
        (steps, least), (_, most) = waits["mpi_min_seconds"], waits["mpi_max_seconds"]
        axes.fill_between(steps, least, most, color="0.8", label="least to most of a rank")
    axes.plot(*waits["mpi_seconds"], color="black", linewidth=1, label="rank 0")
    axes.set_ylim(bottom=0)
    _legend_above(axes)


def _legend_above(axes: Any) -> None:
    """A panel's own legend, between its title and its curves."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.1,
        ncols=5,
        frameon=False,
        fontsize="small",
        handlelength=1.2,
        columnspacing=0.8,
    )
