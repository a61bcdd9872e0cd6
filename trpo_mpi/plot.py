"""Draw the learning curves of runs, with a centre line and a band over seeds; or diagnostics.

python -m trpo_mpi.plot runs/Hopper-v4-default-s0                     one run, one line
python -m trpo_mpi.plot runs --output curves.pdf                      all runs in a directory
python -m trpo_mpi.plot runs --centre iqm --reference baselines
python -m trpo_mpi.plot runs/Hopper-v4-default-s0 --diagnostics

One panel per environment; one line per recipe and settings, over the runs that share them.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from trpo_mpi.command_line import parse
from trpo_mpi.errors import UsageError
from trpo_mpi.parallel import startup
from trpo_mpi.plotting.groups import Panels, group, same
from trpo_mpi.plotting.references import REFERENCES
from trpo_mpi.run_directory import EVALUATIONS
from trpo_mpi.run_directory.reading import Run, read_each, read_rows, read_run


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs: their mean and a band over seeds.

    One panel per environment; runs with the same recipe and settings share a line. Nothing is
    smoothed: a training return is already the mean of the last 100 episodes.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="DIR [DIR ...]")]
    """Run directories, finished or not, or directories that hold them."""
    output: str | None = None
    """File to write; its ending says the format: .png, .pdf, .svg. [default: curves.png, or
    diagnostics.png, of several pages diagnostics.pdf]"""
    returns: Literal["training", "evaluation"] = "training"
    """Returns of the training episodes, or of the evaluations made during training."""
    centre: Literal["mean", "iqm"] = "mean"
    """The line: mean over seeds, or interquartile mean (without the lowest and the highest quarter;
    Agarwal et al. 2021)."""
    band: Literal["std", "stderr", "bootstrap"] | None = None
    """Around it: standard deviation over seeds, standard error of the mean, or the centre's 95 %
    bootstrap interval. [default: std; bootstrap for iqm]"""
    reference: tuple[str, ...] = ()
    """Published scores to draw as dashed lines, by name, as baselines or sb3-contrib; any other
    word lists them all."""
    diagnostics: bool = False
    """Draw in place of the curves how the updates went and where the time goes: KL and its limit,
    entropy, critic, line search, seconds of each phase, waiting. A page for the seeds of one
    setting; several pages make a .pdf."""


def main() -> int:
    """Draw as the command line says; returns the exit code."""
    settings = parse(Plot, "plot")
    startup.check_alone()
    check(settings)

    from trpo_mpi.plotting import diagnostics, learning_curves, style  # matplotlib takes a while

    if settings.output is not None:
        style.check_ending(Path(settings.output))
    runs = read(settings)
    panels = group(runs)
    check_references(settings.reference, panels)
    if settings.diagnostics:
        pages = [
            diagnostics.draw(_title(env, label, seeds), seeds)
            for env, curves in panels.items()
            for label, seeds in curves.items()
        ]
    else:
        band = settings.band or ("std" if settings.centre == "mean" else "bootstrap")
        chosen = (settings.returns, settings.centre, band, settings.reference)
        pages = [learning_curves.draw(panels, *chosen)]
    kind = "diagnostics" if settings.diagnostics else "curves"
    output = Path(settings.output or f"{kind}.{'png' if len(pages) == 1 else 'pdf'}")
    style.save(pages, output)
    count = len({run.directory for run in runs})
    print(f"{count} run{'s' if count > 1 else ''} drawn in {output}")
    for name in settings.reference:
        print(f"{REFERENCES[name].label}: {REFERENCES[name].source}")
    return 0


def check(settings: Plot) -> None:
    """Raise `UsageError` if settings do not go together, or a reference is unknown."""
    if settings.centre == "iqm" and settings.band in ("std", "stderr"):
        raise UsageError(
            f"--band {settings.band} is a deviation from the mean; with --centre iqm it must be "
            "bootstrap"
        )
    for name in settings.reference:
        if name not in REFERENCES:
            raise UsageError(f"--reference {name!r}: there are {', '.join(REFERENCES)}")
    if settings.diagnostics:
        for field in dataclasses.fields(settings):
            name = field.name
            drawn = name in ("returns", "centre", "band", "reference")
            if drawn and getattr(settings, name) != field.default:
                raise UsageError(
                    f"--{name} applies only to learning curves; omit it with --diagnostics"
                )


def check_references(names: Sequence[str], panels: Panels) -> None:
    """Raise `UsageError` for the first reference that has a score for none of the panels."""
    for name in names:
        scores = REFERENCES[name].scores
        if not scores.keys() & panels.keys():
            raise UsageError(
                f"--reference {name} has {', '.join(scores)}; the runs are of {', '.join(panels)}"
            )


def read(settings: Plot) -> list[Run]:
    """The runs, each with the rows to draw.

    If a run can't be drawn, a named one raises `UsageError`, and one below a named directory is
    left out with a note. Of two copies of a run the shorter is left out; see `_once`.
    """
    seen: set[Path] = set()

    def unseen(run: str) -> list[Run]:
        place = Path(run).resolve()
        if place in seen:
            return []
        seen.add(place)
        return _drawable(Path(run), settings)

    return _once(read_each(settings.runs, unseen), settings.runs)


def _once(runs: Sequence[Run], named: Sequence[str]) -> list[Run]:
    """Drop the shorter of two copies of a run, with a note; keep both if both are named."""
    kept: list[Run] = []
    for run in runs:
        twin = next((other for other in kept if same(other, run)), None)
        if twin is None or {twin.directory, run.directory} <= {str(Path(name)) for name in named}:
            kept.append(run)
            continue
        longer, shorter = sorted((twin, run), key=lambda one: len(one.rows), reverse=True)
        kept[kept.index(twin)] = longer
        about = f"{shorter.directory} is the run {longer.directory}, and not longer"
        print(f"left out: {about}: one recipe, the same settings and seed", file=sys.stderr)
    return kept


def _drawable(path: Path, settings: Plot) -> list[Run]:
    """A run, or one for each mode of its evaluations. Raises `UsageError` if it has no rows."""
    run = read_run(path)
    if settings.diagnostics:
        if not len(run.points("kl")[0]):
            raise UsageError(f"{path}: progress.csv has no policy step yet")
        return [run]
    if settings.returns == "training":
        if not len(run.points("episode_return_mean")[0]):
            raise UsageError(f"{path}: progress.csv has no row with a return yet")
        return [run]
    if not (path / EVALUATIONS).exists():
        raise UsageError(f"{path} has no evaluations.csv: it was trained without --eval-every")
    rows = read_rows(path, EVALUATIONS)
    modes: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        modes.setdefault(row.get("mode", ""), []).append(row)
    if not modes:
        raise UsageError(f"{path}: evaluations.csv has no row yet")
    return [
        dataclasses.replace(run, settings=run.settings | {"actions": mode}, rows=rows)
        for mode, rows in modes.items()
    ]


def _title(env: str, label: str, seeds: Sequence[Run]) -> str:
    if len(seeds) > 1:
        return f"{env}, {label}: {len(seeds)} seeds"
    return f"{env}, {label}: {seeds[0].directory}"


if __name__ == "__main__":
    startup.run(main)
