"""Files of JSON and plain arrays: nothing in them runs when they are read.

A file is a zip archive, with zip's checksum for each member. A member is JSON, an array in NumPy's
format, or a packed *tree*: lists, dicts with text keys, numbers, text, None, and arrays of plain
numbers.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from trpo_mpi.errors import UsageError

DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, RecursionError, MemoryError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError),
)
"""Errors from reading a damaged or foreign file, and from building objects out of its content."""


class NewerFormatError(Exception):
    """A file was written by a later version of this package."""


def check_format(given: int, newest: int) -> None:
    """Raise `NewerFormatError` if the format `given` is newer than `newest`."""
    if given > newest:
        raise NewerFormatError(f"has format {given}; this version reads up to {newest}")


@contextmanager
def model_file_errors(name: str, missing: str) -> Iterator[None]:
    """Turn errors from reading a file into `UsageError`.

    Args:
        name: the file's name, as the user knows it.
        missing: the message if there is no such file.
    """
    try:
        yield
    except NewerFormatError as error:
        raise UsageError(f"{name} {error}") from None
    except FileNotFoundError:
        raise UsageError(missing) from None
    except DAMAGE as error:
        raise UsageError(f"{name} is not a whole model file: {error}") from None


def write(file: IO[bytes], members: Mapping[str, bytes]) -> None:
    """Write an archive; the same members give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # A fixed date and mode: the bytes of the file depend on its content alone.
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            # The fastest level: floating-point numbers hardly get smaller at the others.
            archive.writestr(member, content, compresslevel=1)


def npy(array: np.ndarray) -> bytes:
    """An array as the content of a `.npy` member."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(content: bytes) -> np.ndarray:
    """The array of a `.npy` member."""
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def pack(tree: Any) -> bytes:
    """A tree as bytes: the length of its JSON, the JSON, then its arrays one after the other."""
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(np.ascontiguousarray(value).reshape(value.shape))
            return {"npy": [value.dtype.str, value.shape]}
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    text = json.dumps(plain(tree)).encode()
    for array in arrays:
        if array.dtype.hasobject:
            raise ValueError("an array of objects is no plain data")
    return b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in arrays)])


def unpack(content: bytes) -> Any:
    """The tree that `pack` was given, with writable arrays."""
    end = 8 + int.from_bytes(content[:8], "little")
    place = end

    def whole(value: Any) -> Any:
        nonlocal place
        if isinstance(value, list):
            return [whole(part) for part in value]
        if not isinstance(value, dict):
            return value
        if set(value) != {"npy"}:
            return {name: whole(part) for name, part in value.items()}
        kind, shape = value["npy"]
        dtype = np.dtype(kind)
        if dtype.hasobject:
            raise ValueError("an array of objects is no plain data")
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(content, dtype, count, place) if count else np.empty(0, dtype)
        place += array.nbytes
        return array.reshape(shape).copy()

    return whole(json.loads(content[8:end]))
