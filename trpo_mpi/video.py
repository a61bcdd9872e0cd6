"""Writes pictures into MP4 files, by PyAV."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from trpo_mpi.atomic_file import whole_file
from trpo_mpi.errors import UsageError

ENDING = ".mp4"
LEAST_HEIGHT = 320
"""In pixels; smaller pictures, such as Atari's of 210, are enlarged."""


def check_library(flag: str) -> None:
    """Raise `UsageError`, naming `flag`, if PyAV is missing."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(f'{flag} needs PyAV: pip install "av>=14"')


def check_path(path: Path, flag: str) -> None:
    """Raise `UsageError` unless a video can be written there, as far as is known beforehand."""
    check_library(flag)
    if path.suffix.lower() != ENDING:
        raise UsageError(f"{flag} is {path}; its name must end in {ENDING}")
    if path.is_dir():
        raise UsageError(f"{flag} {path} is a directory")
    if not path.parent.is_dir():
        raise UsageError(f"{flag} {path}: there is no directory {path.parent}")


@contextlib.contextmanager
def video_file(path: Path, fps: Fraction) -> Iterator[Callable[[np.ndarray], None]]:
    """Open an H.264 video that appears under its name only when it is whole.

    Yields a function that adds a picture, (height, width, 3) uint8, all of one size. Raises
    `OSError` if the file can't be written.
    """
    import av

    with whole_file(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # beside a training run it may use no more

        def add(picture: np.ndarray) -> None:
            frame = av.VideoFrame.from_ndarray(_fitted(picture), format="rgb24")
            if not stream.codec_context.is_open:
                stream.width, stream.height = frame.width, frame.height
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode(None))


def _fitted(picture: np.ndarray) -> np.ndarray:
    """The picture, enlarged by a whole number if it is small, with even height and width."""
    scale = -(-LEAST_HEIGHT // picture.shape[0])
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    odd: list[Any] = [(0, side % 2) for side in large.shape[:2]]
    return np.ascontiguousarray(np.pad(large, [*odd, (0, 0)], mode="edge"))
