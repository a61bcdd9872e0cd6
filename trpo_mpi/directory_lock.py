"""Keeps two processes from writing into one directory."""

import fcntl
import os
import time
from pathlib import Path

FILE = ".lock"
_held: dict[Path, int] = {}
"""Descriptors of the files that this process has locked, by their directories."""


def hold(directory: Path, patience: float = 0.0) -> bool:
    """Lock a directory until this process ends; False if another process has.

    A file system without locks gives True. Raises `OSError` if the directory can't be written.

    Args:
        directory: an existing one.
        patience: seconds to wait for the other process.
    """
    place = directory.resolve()
    if place in _held:
        return True
    end = time.monotonic() + patience
    while True:
        descriptor = os.open(place / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() > end:
                return False
            time.sleep(1.0)  # then opened anew: the user may have deleted it meanwhile
            continue
        except OSError:  # a file system without locks
            pass
        _held[place] = descriptor
        return True


def held(directory: Path) -> bool:
    """Whether this process holds the lock of `directory`."""
    return directory.resolve() in _held


def descriptor_of(directory: Path) -> int:
    """The descriptor that holds the lock of `directory`, to hand on to a child process."""
    return _held[directory.resolve()]
