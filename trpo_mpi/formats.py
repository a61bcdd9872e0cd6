"""Numbers as a person reads them."""

import math
from collections.abc import Mapping
from typing import Any


def number(value: float | None, digits: int) -> str:
    """With so many digits behind the point; a dash where there is no number."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def clock(seconds: float | None) -> str:
    """As h:mm:ss; a dash where it is not known."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def iteration_seconds(row: Mapping[str, Any]) -> float:
    """Wall-clock seconds of an iteration, from its row of progress.csv; NaN of an empty batch."""
    steps = row["timesteps_per_batch"]
    return steps / row["steps_per_second"] if steps else math.nan
