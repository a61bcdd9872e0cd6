"""progress.csv: a row an iteration; and monitor.csv: a row a finished episode."""

import csv
import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    "vf_stepsize",
    "reward_scale",
    "steps_per_second",
    "seconds",
    "sample_seconds",
    "policy_seconds",
    "critic_seconds",
    "mpi_seconds",
    "memory_mb",
)
"""The columns that a clock or the memory decides end in seconds, per_second or mb; all others
are the same, to the last digit, on any number of ranks."""


class ProgressFile:
    """Appends rows to progress.csv. What a row does not have stays empty."""

    def __init__(self, directory: Path) -> None:
        self._file = open(directory / "progress.csv", "w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self._writer.writeheader()
        self._file.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; it is in the file when this returns."""
        self._writer.writerow({name: _text(name, row.get(name)) for name in COLUMNS})
        self._file.flush()


def _text(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if name.endswith(("seconds", "per_second", "mb")):
        return f"{value:.3f}"
    return repr(float(value)) if isinstance(value, float) else str(value)


class MonitorFile:
    """Appends rows to monitor.csv, in the format that this family's plotting tools read.

    A `#{json}` line, then `r,l,t`: undiscounted raw return, length in time steps, and seconds
    since the start.
    """

    def __init__(self, directory: Path, env_id: str) -> None:
        self._start = time.time()
        self._file = open(directory / "monitor.csv", "w", encoding="utf-8")
        header = json.dumps({"t_start": self._start, "env_id": env_id})
        self._file.write(f"#{header}\nr,l,t\n")
        self._file.flush()

    def write(self, episodes: Iterable[tuple[float, int]]) -> None:
        """Append finished episodes: (return, length) each."""
        seconds = time.time() - self._start
        for total, length in episodes:
            self._file.write(f"{float(total)!r},{length},{seconds:.6f}\n")
        self._file.flush()
