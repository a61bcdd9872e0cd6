"""Centre and spread of learning curves over seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
"""Draws of the bootstrap."""

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
    """Its lower and upper edge, (n,) each; None for a single seed."""


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis."""
    result: np.ndarray = values.mean(axis=0)
    return result


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is left without its lowest and highest quarter.

    As Agarwal et al. (2021) take it, by whole seeds: of five the middle three, of fewer than four
    all.
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
    """95 % percentile interval of the centre over seeds drawn again: (S, n) to (n,) twice."""
    drawn = np.random.default_rng(0).integers(len(values), size=(len(values), RESAMPLES))
    parts = np.array_split(values, -(-values.shape[1] // 100), axis=1)  # to bound the memory
    edges = [np.quantile(centre(part[drawn]), (0.025, 0.975), axis=0) for part in parts]
    low, high = np.concatenate(edges, axis=1)
    return low, high


def on_common_steps(series: Sequence[Points]) -> Points:
    """Time steps (n,) and the values there of each of S series (S, n), linear between its points.

    These are all time steps at which one of them has a point, from where the last begins to where
    the first ends; n is 0 where there is none.
    """
    first = max(timesteps[0] for timesteps, _ in series)
    last = min(timesteps[-1] for timesteps, _ in series)
    grid = np.unique(np.concatenate([timesteps for timesteps, _ in series]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, *points) for points in series])


def summarise(series: Sequence[Points], centre: str = "mean", band: str = "std") -> Curve:
    """The curve of several seeds.

    Args:
        series: one a seed, with a common time step at least.
        centre: `mean` or `iqm`.
        band: `std` (sample standard deviation) or `stderr` (its part in the mean's error), to both
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
