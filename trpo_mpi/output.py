"""Standard output and error that outlive their destination.

A terminal may be closed, a pipe's reader may exit, a log's disk may be full. Lines are then lost;
a run must not be.
"""

import io
import os
import sys
from typing import Any, TextIO


def outlive() -> None:
    """From now on, drop what can't be printed."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def warn(text: str) -> None:
    """Print a warning on standard error, at once."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


class _Lasting(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(memoryview(data)) if written is None else written


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed before Python started
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()
    # What the encoding of a terminal or a log has no signs for is written as \\u... .
    errors = "backslashreplace" if stream.errors == "strict" else stream.errors
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=bool(stream.line_buffering),
    )
