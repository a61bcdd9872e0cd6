"""Results of a sweep: a table by environment and settings, and its learning curves."""

import csv
import io
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trpo_mpi.atomic_file import write_text
from trpo_mpi.errors import UsageError
from trpo_mpi.formats import aligned
from trpo_mpi.run_directory import EVALUATIONS, PROGRESS
from trpo_mpi.run_directory.reading import last_row, read_rows
from trpo_mpi.sweeps.plan import Run

MODES = ("stochastic", "deterministic")
"""Modes of evaluations during training, as evaluations.csv names them."""
MEASURES = ("training", *MODES)
Row = dict[str, Any]


def final_returns(directory: Path) -> dict[str, float]:
    """Last mean return of 100 training episodes, and of each mode's last evaluation, if any."""
    found = {}
    if (directory / EVALUATIONS).exists():
        for row in read_rows(directory, EVALUATIONS):
            found[row["mode"]] = row["return_mean"]  # a later row replaces it
    last = last_row(directory) if (directory / PROGRESS).exists() else None
    if last is not None:
        found["training"] = last["episode_return_mean"]
    return {measure: float(x) for measure, x in found.items() if x}


def table(runs: Sequence[Run], finished: Sequence[Run], settings: Sequence[str]) -> list[Row]:
    """One row per environment and combination of `settings`: finished seeds, and their means.

    A mean is None if a run has no such return, or none has finished; so is the standard error of
    one seed.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.config.env, *run.varied), []).append(run)
    rows = []
    for key, members in groups.items():
        row: Row = dict(zip(("environment", *settings), key, strict=True))
        own = [final_returns(run.directory) for run in members if run in finished]
        row |= {"seeds_finished": len(own), "seeds_asked": len(members)}
        for measure in MEASURES:
            x = np.array([returns.get(measure, math.nan) for returns in own])
            known, several = len(x) > 0 and not np.isnan(x).any(), len(x) > 1
            error = x.std(ddof=1) / math.sqrt(len(x)) if known and several else None
            row[f"{measure}_return_mean"] = float(x.mean()) if known else None
            row[f"{measure}_return_std_error"] = None if error is None else float(error)
        rows.append(row)
    return rows


def as_text(rows: Sequence[Row], settings: Sequence[str]) -> str:
    """The table as text, without measures of evaluations that no run has."""
    titles = ["environment", *(name.replace("_", "-") for name in settings), "seeds"]
    lines = [[row["environment"], *(row[name] for name in settings)] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        line.append(f"{row['seeds_finished']} of {row['seeds_asked']}")
    for measure in MEASURES:
        names = [f"{measure}_return_{what}" for what in ("mean", "std_error")]
        if measure == "training" or any(row[names[0]] is not None for row in rows):
            titles += [measure, "std error"]
            for line, row in zip(lines, rows, strict=True):
                line += ["-" if row[name] is None else f"{row[name]:.2f}" for name in names]
    return aligned([titles, *lines], left=range(1 + len(settings)))


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as a CSV file. Raises `UsageError` if it can't be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from None


def draw(finished: Sequence[Run], path: Path) -> str:
    """Draw learning curves of the runs that have a return; returns what went wrong, or ""."""
    shown = [str(r.directory) for r in finished if "training" in final_returns(r.directory)]
    if not shown:
        return "no finished run has a return"
    command = [sys.executable, "-m", "trpo_mpi.plot", *shown, "--output", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stderr.strip() if result.returncode else ""
