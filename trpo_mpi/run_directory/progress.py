"""Rows per iteration (progress.csv), evaluation (evaluations.csv) and episode (monitor.csv)."""

import io
import json
import math
import os
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trpo_mpi.atomic_file import set_aside
from trpo_mpi.output import warn
from trpo_mpi.run_directory import EVALUATIONS, MONITOR, PROGRESS

COLUMNS = (
    "iteration",
    "timesteps",
    "episodes",
    "episode_return_mean",
    "episode_length_mean",
    "kl",
    "entropy",
    "surrogate_improvement",
    "step_fraction",
    "explained_variance",
    "max_kl",
    "timesteps_per_batch",
    "policy_stepsize",
    "clip_range",
    "beta",
    "vf_stepsize",
    "reward_scale",
    "steps_per_second",
    "seconds",
    "sample_seconds",
    "policy_seconds",
    "critic_seconds",
    "mpi_seconds",
    "mpi_min_seconds",
    "mpi_max_seconds",
    "memory_mb",
)
"""Columns that depend on the clock or on memory end in seconds, per_second or mb; all others are
the same, to the last digit, on any number of ranks. mpi_seconds is rank 0's; the minimum and
maximum over ranks are those of the previous iteration, as they travel with a batch."""

EVALUATION_COLUMNS = (
    "iteration",
    "timesteps",
    "mode",
    "episodes",
    "return_mean",
    "return_std_error",
    "return_median",
    "length_mean",
)
"""Columns of evaluations.csv, all of them exact."""


class GrowingFile:
    """A text file that grows by whole lines, each in the file as soon as it is written.

    Lines that a full disk refuses, at once or, as NFS does, when they are synchronised, are held
    back and written once there is room, so that none is lost, doubled or cut. Each such period
    begins with one warning.

    Args:
        path: the file.
        head: its first lines.
        keep: lines after the head to keep of an existing file; None starts a new file, and
            renames an old one to end in .old.
    """

    def __init__(self, path: Path, head: str, keep: int | None = None) -> None:
        self._path = path
        self._pending = bytearray()  # what is not known to be on the disk
        self._written = 0  # bytes of it that are in the file
        self._warned = False
        if keep is None or not _begins(path, head):
            if keep is not None:
                fault = "is damaged" if path.exists() else "is gone"
                warn(f"{path} {fault} and begins anew")
            set_aside(path)
            self._open("wb")
            self._end = 0  # of what precedes the pending
            self.write(head)
            return
        self._open("r+b")
        lines = self._file.read().splitlines(keepends=True)
        whole = lines[: head.count("\n") + keep]
        if len(whole) < head.count("\n") + keep:
            warn(f"{path} has lost rows")
        self._end = sum(len(line) for line in whole)
        self._file.truncate(self._end)

    def _open(self, mode: str) -> None:
        """Open the file; it is closed when this object is deleted."""
        self._file = io.FileIO(self._path, mode)
        weakref.finalize(self, self._file.close)

    def write(self, text: str) -> None:
        """Append whole lines."""
        self.append(text.encode())

    def append(self, content: bytes) -> None:
        """Append content, whole or not at all."""
        self._pending += content
        try:
            self._write_pending()
        except OSError as error:
            if not self._warned:
                warn(
                    f"{self._path} can't be written: {error.strerror}; "
                    "its rows are kept until it can"
                )
            self._warned = True

    def _write_pending(self) -> None:
        self._file.seek(self._end + self._written)
        content = bytes(self._pending[self._written :])
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError:
            self._file.truncate(self._end + self._written)  # a row cut in half
            raise
        self._written = len(self._pending)
        self._warned = False

    def sync(self) -> None:
        """Make sure that everything is on disk; raises `OSError` if it can't be."""
        self._write_pending()
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self._written = 0  # NFS has perhaps dropped it all
            self._file.truncate(self._end)
            raise
        self._end += self._written
        self._pending.clear()
        self._written = 0


def _begins(path: Path, head: str) -> bool:
    """Whether a file is there and begins with `head`."""
    try:
        with open(path, "rb") as file:
            return file.read(len(head.encode())) == head.encode()
    except FileNotFoundError:
        return False


class ProgressFile(GrowingFile):
    """progress.csv; values that a row lacks stay empty.

    Args:
        directory: the run directory.
        keep: iterations to keep of a resumed run.
    """

    def __init__(self, directory: Path, keep: int | None = None) -> None:
        path = directory / PROGRESS
        self._columns = COLUMNS if keep is None else _columns_of(path)
        super().__init__(path, ",".join(self._columns) + "\n", keep)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self.write(_line(self._columns, row))


class EvaluationsFile(GrowingFile):
    """evaluations.csv: rows for the iterations after which there was an evaluation.

    Args:
        directory: the run directory.
        iteration: the one from which a run is resumed; rows up to it are kept, whatever settings
            they were made with. None starts a new file.
    """

    def __init__(self, directory: Path, iteration: int | None = None) -> None:
        path = directory / EVALUATIONS
        kept = [] if iteration is None else [n for n in _iterations(path) if n <= iteration]
        self.latest = kept[-1] if kept else 0
        """The iteration of the last row; 0 if there is none."""
        resumes = iteration is not None and path.exists()
        super().__init__(path, ",".join(EVALUATION_COLUMNS) + "\n", len(kept) if resumes else None)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self.write(_line(EVALUATION_COLUMNS, row))


def evaluated(directory: Path) -> int:
    """The iteration of a run's last evaluation; 0 if there is none."""
    return max(_iterations(directory / EVALUATIONS), default=0)


def _iterations(path: Path) -> list[int]:
    """First column of the whole rows of a file; empty if there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[1:]
    except OSError:
        return []
    numbers = [line.partition(",")[0] for line in lines if line.endswith("\n")]
    return [int(number) for number in numbers if number.isdecimal()]


def _line(columns: Iterable[str], row: Mapping[str, Any]) -> str:
    return ",".join(_text(name, row.get(name)) for name in columns) + "\n"


def _columns_of(path: Path) -> tuple[str, ...]:
    """Columns of an existing file; an older version may have written fewer."""
    try:
        head = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return COLUMNS
    return tuple(head.split(",")) if head.startswith(COLUMNS[0]) else COLUMNS


def _text(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if name.endswith(("seconds", "per_second", "mb")):
        return f"{value:.3f}"
    return repr(float(value)) if isinstance(value, float) else str(value)


class MonitorFile(GrowingFile):
    """monitor.csv, in the format that this family's plotting tools read.

    A `#{json}` line, then `r,l,t`: undiscounted raw return, length in time steps, and seconds
    since the start.

    Args:
        directory: the run directory.
        env_id: the environment.
        keep: episodes to keep of a resumed run.
    """

    def __init__(self, directory: Path, env_id: str, keep: int | None = None) -> None:
        path = directory / MONITOR
        self._start = time.time() if keep is None else _started(path)
        self._last = time.time() - self._start
        header = json.dumps({"t_start": self._start, "env_id": env_id})
        super().__init__(path, f"#{header}\nr,l,t\n", keep)

    def add(self, episodes: Sequence[tuple[float, int]]) -> None:
        """Append finished episodes of one iteration: (return, length) each.

        Each gets its own time between the iteration's beginning and end: readers sort by time, and
        not all sorts are stable.
        """
        now = max(self._last, time.time() - self._start)
        share = (now - self._last) / max(1, len(episodes))
        times = (self._last + share * number for number in range(1, len(episodes) + 1))
        rows = zip(episodes, times, strict=True)
        self.write("".join(f"{float(r)!r},{length},{t:.6f}\n" for (r, length), t in rows))
        self._last = now


def _started(path: Path) -> float:
    """Start of the run that a monitor.csv belongs to, in seconds since the epoch."""
    try:
        with open(path, encoding="utf-8") as file:
            return float(json.loads(file.readline()[1:])["t_start"])
    except (OSError, ValueError, KeyError, TypeError):
        return time.time()
