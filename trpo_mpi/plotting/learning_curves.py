"""The page of learning curves: one panel per environment, one line for the seeds of a setting."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from trpo_mpi.errors import UsageError
from trpo_mpi.plotting import style
from trpo_mpi.plotting.groups import Panels
from trpo_mpi.plotting.references import REFERENCES
from trpo_mpi.plotting.statistics import Curve, on_common_steps, summarise
from trpo_mpi.run_directory.reading import Run
from trpo_mpi.state import EPISODES_REPORTED

COLUMNS = {"training": "episode_return_mean", "evaluation": "return_mean"}
"""Kind of returns -> their column in a run's rows."""
CENTRE_WORDS = {"mean": "mean", "iqm": "interquartile mean (IQM)"}
BAND_WORDS = {
    "std": " ± standard deviation",
    "stderr": " ± standard error",
    "bootstrap": " with its 95 % bootstrap interval",
}
REFERENCE_DASHES = ((0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (1, 1)))


def draw(
    panels: Panels,
    returns: str = "training",
    centre: str = "mean",
    band: str = "std",
    references: Sequence[str] = (),
) -> Figure:
    """Draw the result of `group`; every run must have at least one return.

    Args:
        panels: the runs.
        returns: `training` or `evaluation`.
        centre, band: as in `summarise`.
        references: names in `REFERENCES`.

    Raises `UsageError` if seeds of a curve have no time step in common.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    names = [_with_seeds(label, panels) for label in labels]
    names += [REFERENCES[name].label for name in references]
    several = any(len(runs) > 1 for curves in panels.values() for runs in curves.values())
    title = f"{CENTRE_WORDS[centre]}{BAND_WORDS[band]} over seeds" if several else None
    figure = style.new_figure(len(panels), names, title, _returns_in_words(panels, returns))
    lines: dict[str, Any] = {}
    for axes, (env_id, curves) in zip(figure.axes, panels.items(), strict=True):
        axes.set_title(env_id)
        for label, runs in curves.items():
            number = labels.index(label)
            lines[label] = _draw_curve(axes, _curve(runs, COLUMNS[returns], centre, band), number)
        axes.set_xlim(left=0)
        for number, name in enumerate(references):
            if env_id in REFERENCES[name].scores:
                score = REFERENCES[name].scores[env_id]
                dashes = REFERENCE_DASHES[number % len(REFERENCE_DASHES)]
                lines[name] = axes.axhline(score, color="0.35", linewidth=1.2, linestyle=dashes)
    style.add_legend(figure, [lines[name] for name in (*labels, *references)], names, title)
    return figure


def _curve(runs: Sequence[Run], column: str, centre: str, band: str) -> Curve:
    series = [run.points(column) for run in runs]
    if not len(on_common_steps(series)[0]):
        names = ", ".join(run.directory for run in runs)
        raise UsageError(f"no time step is common to {names}: some have just begun")
    return summarise(series, centre, band)


def _draw_curve(axes: Any, curve: Curve, number: int) -> Any:
    """Draw the centre and its band; return the line."""
    look = style.line_style(number)
    marker = "o" if len(curve.timesteps) == 1 else None  # a line of one point is invisible
    (line,) = axes.plot(curve.timesteps, curve.centre, marker=marker, **look)
    if curve.band is not None:
        axes.fill_between(curve.timesteps, *curve.band, color=look["color"], alpha=0.2, linewidth=0)
    return line


def _with_seeds(label: str, panels: Panels) -> str:
    counts = sorted({len(curves[label]) for curves in panels.values() if label in curves})
    number = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{label} ({number} seed{'s' if counts[-1] > 1 else ''})"


def _returns_in_words(panels: Panels, returns: str) -> str:
    if returns == "training":
        return f"return\n(mean of last {EPISODES_REPORTED} episodes)"
    runs = [run for curves in panels.values() for seeds in curves.values() for run in seeds]
    modes = sorted({str(run.settings["actions"]) for run in runs})
    return f"return in evaluation\n({' or '.join(modes)} actions)"
