"""status.json: whether a run is running, and how it ended; written whole at its start and end.

A run that is killed records no end. So the file also says where it runs: on that machine its reader
checks whether the process still exists, and elsewhere how long ago progress.csv last grew.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trpo_mpi.atomic_file import write_text
from trpo_mpi.output import warn
from trpo_mpi.run_directory import CONFIG, PROGRESS, STATUS

RUNNING, FINISHED, STOPPED, FAILED, LOST = "running", "finished", "stopped", "failed", "lost"
SILENCE = 600.0
"""Seconds without a row after which a run elsewhere counts as lost, if ten iterations take less."""


@dataclass(frozen=True)
class Status:
    """What became of a run."""

    state: str
    """`running`, `finished`, `stopped` (to be resumed), `failed`, or `lost` (none is known)."""
    since: float
    """Seconds since the epoch."""
    reason: str
    """Why it ended, in a line; empty while it runs."""


def write(path: Path, state: str, reason: str = "") -> None:
    """Write a run's state into its directory; if that fails, print a warning."""
    record: dict[str, Any] = {
        "state": state,
        "since": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        "reason": reason,
    }
    if state == RUNNING:
        record |= {"host": socket.gethostname(), "pid": os.getpid()}
        record |= {"process_start": _process_start(os.getpid()), "machine": _machine()}
    try:
        write_text(path / STATUS, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        warn(f"{path / STATUS} can't be written: {error.strerror}")


def read(path: Path, done: bool, iteration_seconds: float = 0.0) -> Status:
    """The state of the run in a directory.

    Args:
        path: the directory.
        done: whether the run has made all the time steps it was to make.
        iteration_seconds: seconds that an iteration takes.

    Without the file, which older versions did not write, or if it is damaged, progress.csv shows
    whether the run is done, still growing, or lost.
    """
    try:
        record = json.loads((path / STATUS).read_text(encoding="utf-8"))
        since = datetime.fromisoformat(record["since"]).timestamp()
        state, reason = str(record["state"]), str(record["reason"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        record, since = {}, _changed(path, CONFIG)
        state, reason = (FINISHED if done else RUNNING), ""
        if done:
            since = _changed(path, PROGRESS)
    if state != RUNNING:
        return Status(state, since, reason)
    latest = max(since, _changed(path, PROGRESS))
    if record.get("machine") is not None and record["machine"] == _machine():
        pid, start = record.get("pid"), record.get("process_start")
        if start is not None and _process_start(pid) == start:
            return Status(RUNNING, since, "")
        return Status(FAILED, latest, f"killed: its process {pid} is gone")
    silence = time.time() - latest
    if silence < max(SILENCE, 10 * iteration_seconds):
        return Status(RUNNING, since, "")
    where = f"on {record['host']}" if "host" in record else f"no whole {STATUS}"
    return Status(LOST, latest, f"no row since; {where}")


def host_of(path: Path) -> str | None:
    """The host on which the run in a directory is or was last at work, if its file says so."""
    try:
        host = json.loads((path / STATUS).read_text(encoding="utf-8")).get("host")
    except (OSError, ValueError, AttributeError):
        return None
    return host if isinstance(host, str) else None


def _changed(path: Path, name: str) -> float:
    """When a file was last written; 0 if there is none."""
    with contextlib.suppress(OSError):
        return (path / name).stat().st_mtime
    return 0.0


def _machine() -> str | None:
    """Scope in which a process number is unique: this boot of a machine, and a namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_start(pid: Any) -> int | None:
    """When a process began, in ticks since the boot; None if there is none, or it is dead."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if words[0] in "ZX" else int(words[19])
    except (OSError, ValueError, IndexError):
        return None
