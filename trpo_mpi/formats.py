"""Numbers and tables as a person reads them."""

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any


def number(value: float | None, digits: int) -> str:
    """A number with `digits` decimals; a dash for None or NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss; a dash for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def iteration_seconds(row: Mapping[str, Any]) -> float:
    """Wall-clock seconds of an iteration, from its row of progress.csv; NaN for an empty batch."""
    steps = row["timesteps_per_batch"]
    return steps / row["steps_per_second"] if steps else math.nan


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> str:
    """A table, a line per row; columns at the places in `left` are flush left, the others right."""
    columns = []
    for place, cells in enumerate(zip(*rows, strict=True)):
        width = max(map(len, cells))
        columns.append([x.ljust(width) if place in left else x.rjust(width) for x in cells])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
