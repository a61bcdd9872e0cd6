"""Numbers as a person reads them."""

import math
from collections.abc import Mapping
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
