"""Makes the run directory and describes the run in `config.json`."""

import dataclasses
import importlib.metadata
import json
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trpo_mpi import __version__
from trpo_mpi.atomic_file import whole_file, write_text
from trpo_mpi.config import Config
from trpo_mpi.directory_lock import FILE, held, hold
from trpo_mpi.errors import UsageError
from trpo_mpi.output import warn
from trpo_mpi.run_directory import (
    CHECKPOINTS,
    CONFIG,
    MODEL,
    MONITOR,
    PROGRESS,
    STATUS,
    checkpoint,
    status_file,
)

FILES = (PROGRESS, MONITOR, CONFIG, STATUS, MODEL, CHECKPOINTS)
"""What shows that a directory holds a run."""
KILLED, CRASHED = 5.0, 100.0
"""Seconds to wait for the lock of a process that is being killed, and of one on another machine:
if that has crashed, NFS holds its lock for a minute and a half."""
PACKAGES = ("numpy", "tensorflow", "gymnasium", "mujoco", "ale-py", "mpi4py")


def path_of(config: Config) -> Path:
    """The run directory that the settings name, or else the default name without a number."""
    if config.resume not in ("never", "auto"):
        return Path(config.resume)
    if config.outdir is not None:
        return Path(config.outdir)
    name = f"{config.env.rpartition(':')[2].replace('/', '-')}-{config.recipe}-s{config.seed}"
    return Path("runs") / name


def create(config: Config, resumes: bool) -> Path:
    """Make the run directory, or see that that of a resumed run can be written; see `claim`, too.

    Raises `UsageError` if it can't be, or if `--outdir` names a directory that already holds a run
    which is not to be resumed.
    """
    path = path_of(config)
    if config.resume == "never" and config.outdir is not None:
        there = next((name for name in FILES if (path / name).exists()), None)
        if there is not None:
            raise UsageError(
                f"--outdir {path} already holds a run, or at least {there}; name another "
                "directory, or continue that run by --resume auto"
            )
    try:
        if config.resume == "never" and config.outdir is None:
            path = _new_directory(path)
        path.mkdir(parents=True, exist_ok=True)
        looked = held(path)  # for checkpoints, when nobody else could write any
        claim(path)
        if config.resume == "auto" and not looked and checkpoint.numbered(path):
            raise UsageError(
                f"--resume auto: a run has begun in {path} meanwhile; the same command continues it"
            )
        with whole_file(path / ".writable") as file:
            file.write(bytes(2**16))  # of a full disk, too, an empty file could be had
        (path / ".writable").unlink()
    except OSError as error:
        if resumes:
            raise UsageError(f"--resume: {path} can't be written: {error.strerror}") from None
        raise UsageError(f"--outdir {path} can't be written: {error.strerror}") from None
    return path


def _new_directory(path: Path) -> Path:
    """Make the first of PATH, PATH-2, PATH-3, ... that is not there."""
    chosen, number = path, 1
    while True:
        try:
            chosen.mkdir(parents=True)
            return chosen
        except FileExistsError:
            number += 1
            chosen = path.with_name(f"{path.name}-{number}")


def claim(path: Path) -> None:
    """Keep other runs out of a directory that is there, as long as this process lives.

    Raises `UsageError` if a run is at work in it, and `OSError` if it can't be written.
    """
    if hold(path):
        return
    host = status_file.host_of(path)
    patience = KILLED
    if host not in (None, socket.gethostname()):
        patience = CRASHED
        note = f"a run on {host} holds {path}; waiting up to {patience:.0f} s for its end"
        print(f"note: {note}", file=sys.stderr, flush=True)
    if not hold(path, patience):
        raise UsageError(
            f"{path}: a run is at work there{f' on {host}' if host else ''}; wait for its end, or "
            "name another directory by --outdir; if its machine has crashed and keeps it locked, "
            f"delete {path / FILE}"
        )


def write_config(path: Path, config: Config, machine: dict[str, Any], resumes: bool) -> None:
    """Write config.json: settings, machine and versions, and the records of earlier starts."""
    record = {
        "settings": dataclasses.asdict(config),
        "recipe": config.recipe,
        "module": config.command,
        "command": [sys.executable, *sys.argv],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **machine,
        "trpo_mpi": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    if resumes:
        record["earlier_starts"] = _earlier_starts(path / CONFIG)
    try:
        write_text(path / CONFIG, json.dumps(record, indent=2) + "\n")
    except OSError as error:  # a resumed run may find the disk full, and go on
        warn(f"{path / CONFIG} can't be written: {error.strerror}")


def _earlier_starts(path: Path) -> list[Any]:
    try:
        last = json.loads(path.read_text(encoding="utf-8"))
        return [*last.pop("earlier_starts", []), last]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def _version(package: str) -> str | None:
    names = ("tensorflow", "tensorflow-cpu") if package == "tensorflow" else (package,)
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _git_commit() -> str | None:
    """The commit this package was run from, `-dirty` if files differ; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(
            [*command, "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
