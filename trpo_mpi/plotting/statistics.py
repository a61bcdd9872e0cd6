"""Centre and spread of learning curves over seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
"""Number of bootstrap resamples."""

Points = tuple[np.ndarray, np.ndarray]
"""Time steps (n,), increasing, and values (n,)."""


@dataclass(frozen=True)
class Curve:
    """Centre and band over seeds, at n time steps."""

    timesteps: np.ndarray
    """(n,)"""
    centre: np.ndarray
    """(n,)"""
    band: tuple[np.ndarray, np.ndarray] | None
    """Lower and upper edge of the band, (n,) each; None for a single seed."""


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis."""
    result: np.ndarray = values.mean(axis=0)
    return result


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without its lowest and highest quarter.

    As in Agarwal et al. (2021), by whole seeds: the middle three of five, all of fewer than four.
    """
    cut = len(values) // 4
    return mean(np.sort(values, axis=0)[cut : len(values) - cut])


CENTRES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": mean,
    "iqm": interquartile_mean,
}


def bootstrap_interval(
    values: np.ndarray, centre: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval of the centre over resampled seeds: (S, n) to (n,) twice."""
    drawn = np.random.default_rng(0).integers(len(values), size=(len(values), RESAMPLES))
    parts = np.array_split(values, -(-values.shape[1] // 100), axis=1)  # to bound the memory
    edges = [np.quantile(centre(part[drawn]), (0.025, 0.975), axis=0) for part in parts]
    low, high = np.concatenate(edges, axis=1)
    return low, high


def on_common_steps(series: Sequence[Points]) -> Points:
    """Common time steps (n,) of S series and their linearly interpolated values there, (S, n).

    These are all time steps at which any series has a point, from the latest beginning to the
    earliest end; n is 0 if there is none.
    """
    first = max(timesteps[0] for timesteps, _ in series)
    last = min(timesteps[-1] for timesteps, _ in series)
    grid = np.unique(np.concatenate([timesteps for timesteps, _ in series]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, *points) for points in series])


def summarise(series: Sequence[Points], centre: str = "mean", band: str = "std") -> Curve:
    """The curve of several seeds.

    Args:
        series: one per seed, with at least one common time step.
        centre: `mean` or `iqm`.
        band: `std` (sample standard deviation) or `stderr` (standard error of the mean), on both
            sides of the mean; `bootstrap`, the 95 % interval of the centre.
    """
    grid, values = on_common_steps(series)
    middle = CENTRES[centre](values)
    if len(series) == 1:
        return Curve(grid, middle, None)
    if band == "bootstrap":
        return Curve(grid, middle, bootstrap_interval(values, CENTRES[centre]))
    spread = values.std(axis=0, ddof=1)
    if band == "stderr":
        spread /= math.sqrt(len(series))
    return Curve(grid, middle, (middle - spread, middle + spread))
