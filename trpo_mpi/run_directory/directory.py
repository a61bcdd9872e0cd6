"""Makes the run directory and describes the run in `config.json`."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trpo_mpi import __version__
from trpo_mpi.config import Config
from trpo_mpi.errors import UsageError

PACKAGES = ("numpy", "tensorflow", "gymnasium", "mujoco", "ale-py", "mpi4py")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is complete and on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create(config: Config) -> Path:
    """Make the directory of a new run.

    Raises `UsageError` where it can't be written, or where `--outdir` names a directory that
    already holds a run.
    """
    if config.outdir is not None:
        path = Path(config.outdir)
        if (path / "progress.csv").exists():
            raise UsageError(f"--outdir {path} already holds a run; name another directory")
    else:
        name = f"{config.env.rpartition(':')[2].replace('/', '-')}-default-s{config.seed}"
        path, number = Path("runs") / name, 2
        while path.exists():
            path, number = Path("runs") / f"{name}-{number}", number + 1
    try:
        path.mkdir(parents=True, exist_ok=True)
        with whole_file(path / ".writable"):
            pass
        (path / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"--outdir {path} can't be written: {error.strerror}") from None
    return path


def write_config(path: Path, config: Config, machine: dict[str, Any]) -> None:
    """Write config.json: the settings, and what they ran on."""
    record = {
        "settings": dataclasses.asdict(config),
        "recipe": "default",
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
    with whole_file(path / "config.json") as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


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
