"""Reads run directories, finished or not, for the commands that show what is there."""

import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trpo_mpi.config import CONFIGS, Config
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import batch_grid
from trpo_mpi.run_directory import CONFIG, PROGRESS, STATUS

Result = TypeVar("Result")

Row = dict[str, str]
"""A row of a CSV file, by the names of its columns; missing values are empty."""


@dataclass(frozen=True)
class Run:
    """A run as its directory describes it."""

    directory: str
    settings: dict[str, Any]
    """All of them, including those that its start or an earlier version left unset."""
    recipe: str
    rows: Sequence[Row] = ()
    """Rows of progress.csv, or of another of its files."""

    def column(self, name: str) -> np.ndarray:
        """A column as (rows,) float64; NaN where it is empty, or if its version had none.

        Raises `UsageError`, naming the directory, if a value is not a number.
        """
        with run_directory_errors(self.directory, f"column {name}"):
            return np.array([float(row.get(name) or "nan") for row in self.rows], np.float64)

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Time steps and values (n,) of the rows that have both. Raises as `column` does."""
        timesteps, values = self.column("timesteps"), self.column(name)
        there = np.isfinite(timesteps) & np.isfinite(values)
        return timesteps[there], values[there]


def runs_in(path: Path) -> list[Path]:
    """The run directories at or below `path`, in order; none inside another."""
    found = []
    for folder, below, files in os.walk(path):
        if PROGRESS in files or STATUS in files:
            found.append(Path(folder))
            below.clear()
    return sorted(found)


def read_each(
    named: Sequence[str],
    read: Callable[[str], list[Result]],
    runs_of: Callable[[Path], list[Path]] = runs_in,
) -> list[Result]:
    """All results of `read` for the runs that a command line names.

    If it raises `UsageError` for a run that is not named itself, but lies in a directory that is,
    the run is left out, with a note.

    Args:
        named: run directories, files, or directories that hold runs.
        read: reads one run.
        runs_of: finds the runs in a named path; if there are none, the path is read as one.

    Raises `UsageError` if nothing is named, or every run is left out.
    """
    if not named or "" in named:  # "" comes from a variable that is not set
        raise UsageError("name one run directory or more")
    results: list[Result] = []
    left_out: UsageError | None = None
    for name in named:
        for run in [str(path) for path in runs_of(Path(name))] or [name]:
            try:
                results += read(run)
            except UsageError as error:
                if Path(run) == Path(name):
                    raise
                left_out = error
                print(f"left out: {error}", file=sys.stderr, flush=True)
    if not results and left_out is not None:
        raise left_out
    return results


def read_run(directory: str | Path) -> Run:
    """Settings and progress of a run.

    Raises `UsageError`, naming the directory, if a file is missing or damaged.
    """
    rows = read_rows(directory)
    return dataclasses.replace(read_config(directory), rows=rows)


def read_config(directory: str | Path) -> Run:
    """Settings of a run, without its rows. Raises `UsageError` as `read_run` does."""
    with run_directory_errors(directory, CONFIG):
        record = json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8"))
        return Run(str(directory), _settings(record), str(record["recipe"]))


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    kind = CONFIGS[record.get("module", Config.command)]
    settings = dataclasses.asdict(kind()) | dict(record["settings"])
    names = ("num_envs", "timesteps_per_batch", "episodes_per_batch")
    batch = {name: settings[name] for name in names}
    grid = batch_grid(kind(**batch), int(record.get("ranks", 1)))
    return settings | grid.settings | {"env": str(settings["env"])}


def read_rows(directory: str | Path, name: str = PROGRESS) -> list[Row]:
    """The whole rows of a CSV file. Raises `UsageError` as `read_run` does.

    An incomplete last line, of a run that is writing or was killed, is left out.
    """
    with run_directory_errors(directory, name):
        text = (Path(directory) / name).read_text(encoding="utf-8")
        return _rows(text[: text.rfind("\n") + 1].splitlines())


def last_row(directory: str | Path) -> Row | None:
    """The last whole row of progress.csv, None before the first; reads only a long file's end.

    Raises `UsageError` as `read_run` does.
    """
    with run_directory_errors(directory, PROGRESS), open(Path(directory) / PROGRESS, "rb") as file:
        head = file.readline()
        file.seek(max(len(head), file.seek(0, os.SEEK_END) - 4096))
        *lines, _ = file.read().split(b"\n")
        if not lines:
            return None
        return _rows([head.decode().rstrip("\n"), lines[-1].decode()])[0]


def _rows(lines: list[str]) -> list[Row]:
    rows = list(csv.DictReader(lines, strict=True))
    for row in rows:
        if None in row or None in row.values():
            raise ValueError("a row is of another length than its head")
    return rows


@contextmanager
def run_directory_errors(directory: str | Path, name: str) -> Iterator[None]:
    """Turn errors from reading the part `name` of a run directory into `UsageError`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{directory} is not a run directory: no {error.filename}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", error)
        raise UsageError(f"{directory} has a damaged {name}: {reason}") from None
