"""The run for TensorBoard: one event file per start.

    tensorboard --logdir runs

Scalars are the columns of progress.csv, over time steps; the settings appear as text and as
hyperparameters. Needs the package `tensorboard`, which TensorFlow does not install.
"""

import importlib.util
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trpo_mpi.config import NOT_THE_RESULT
from trpo_mpi.errors import UsageError
from trpo_mpi.run_directory.progress import GrowingFile

GROUPS = {
    "policy": (
        *("kl", "max_kl", "entropy", "surrogate_improvement", "step_fraction"),
        *("policy_stepsize", "clip_range", "beta"),
    ),
    "critic": ("explained_variance", "vf_stepsize", "reward_scale"),
    "rollout": ("episodes", "episode_return_mean", "episode_length_mean", "timesteps_per_batch"),
}
"""Heading -> its columns; all others, mostly timings, are under `time`."""


def check_installed(flag: str) -> None:
    """Raise `UsageError`, naming `flag`, if the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(f'{flag} needs the package tensorboard: pip install "tensorboard>=2.16"')


def tag(column: str) -> str:
    """The name of a column of progress.csv in TensorBoard."""
    return next((g for g, names in GROUPS.items() if column in names), "time") + f"/{column}"


class EventFile(GrowingFile):
    """The event file of one start.

    It begins by telling readers to discard what earlier starts wrote after `timesteps`, so that
    what came after the checkpoint from which a run is resumed appears once.

    Args:
        directory: where to write it; created if missing.
        settings: the run's settings.
        timesteps: number of time steps the run has made.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], timesteps: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        began = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        super().__init__(directory / f"events.out.tfevents.{began}", "")
        self._event, self._records = Event, RecordWriter(SimpleNamespace(write=self.append))
        self._add(file_version="brain.Event:2")
        restart = SessionLog(status=SessionLog.START)
        self._add(step=timesteps + 1 if timesteps else 0, session_log=restart)
        values = {name: _plain(x) for name, x in settings.items() if x is not None}
        compared = {name: x for name, x in values.items() if name not in NOT_THE_RESULT}
        self._add(summary=hparams_pb(compared))
        lines = [f"| {name} | {x} |" for name, x in values.items()]
        table = "\n".join(["| setting | value |", "|---|---|", *lines])
        self._add(step=timesteps, summary=text_pb("settings", table))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row of progress.csv."""
        numbers = {tag(name): x for name, x in row.items() if name != "timesteps"}
        self.add_scalars(row["timesteps"], numbers)

    def add_scalars(self, timesteps: int, numbers: Mapping[str, float | None]) -> None:
        """Append numbers by their tags; None and NaN are left out."""
        known = {name: x for name, x in numbers.items() if x is not None and not math.isnan(x)}
        values = [{"tag": name, "simple_value": x} for name, x in known.items()]
        self._add(step=timesteps, summary={"value": values})

    def _add(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())


def _plain(value: Any) -> bool | float | str:
    """A setting as TensorBoard takes it."""
    if isinstance(value, tuple):
        return " ".join(str(x) for x in value)
    return value if isinstance(value, bool | int | float) else str(value)
