"""Running mean and variance, merged over columns and iterations.

Moments are stored as (count, mean, M2), M2 the sum of squared deviations, and merged by Chan,
Golub and LeVeque's formula (1979), in float64: sums of squares would cancel if the mean were
large compared with the deviation.
"""

import numpy as np

CLIP = 10.0
"""Normalised observations are clipped to +-CLIP standard deviations."""
FLOOR = 0.1
"""Smallest standard deviation, in the observation's own unit, that observations are divided by. A
policy that holds still makes deviations small; without a floor, observations after a disturbance
would be unlike any it has seen, and be clipped."""


class Moments:
    """Count, mean and M2 of vectors of K numbers; mean and M2 are (K,) float64."""

    def __init__(self, count: float, mean: np.ndarray, m2: np.ndarray) -> None:
        self.count, self.mean, self.m2 = count, mean, m2
        self.deviation = self._deviation()
        """Population standard deviation, with a floor of 1e-4 that keeps a constant harmless;
        1 while there is no data."""

    @classmethod
    def none(cls, size: int) -> "Moments":
        """The moments of no data."""
        return cls(0.0, np.zeros(size), np.zeros(size))

    def merge(self, count: float, mean: np.ndarray, m2: np.ndarray) -> None:
        """Add the moments of further data."""
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.m2 = self.m2 + m2 + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total
        self.deviation = self._deviation()

    def _deviation(self) -> np.ndarray:
        variance = self.m2 / self.count if self.count else np.ones_like(self.m2)
        deviation: np.ndarray = np.sqrt(variance + 1e-8)
        return deviation


def column_moments(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and M2 over time of each column: (E, T, K) -> (E, K), (E, K).

    Column by column, since a reduction over the whole block may add in another order for another
    number of columns. `mask` (E, T) says which values count; if none do, both are 0.
    """
    counted = [column[steps] for column, steps in zip(values, mask, strict=True)]
    means = np.stack([c.sum(axis=0) / max(1, len(c)) for c in counted])
    m2 = np.stack([((c - m) ** 2).sum(axis=0) for c, m in zip(counted, means, strict=True)])
    return means, m2


def pool(
    counts: np.ndarray, means: np.ndarray, m2: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Moments of all columns together, from (C, K) means and M2 of `counts` (C,) values each."""
    if not counts.any():
        return 0.0, np.zeros(means.shape[1]), np.zeros(means.shape[1])
    average = counts.mean()
    weights = (counts / average)[:, None]
    mean = (weights * means).mean(axis=0)
    pooled = m2.sum(axis=0) + average * (weights * (means - mean) ** 2).sum(axis=0)
    return float(counts.sum()), mean, pooled


def reward_scale(returns: Moments | None, factor: float) -> float:
    """What rewards are multiplied by for the critic: `factor`, over the returns' deviation.

    As long as all returns are equal, but for rounding, it is `factor` alone: the scale would
    otherwise be enormous.
    """
    if returns is None or returns.m2[0] <= 1e-24 * returns.count * returns.mean[0] ** 2:
        return factor
    return factor / float(returns.deviation[0])


class ObservationNormalizer:
    """Shifts and scales flat observations of size D.

    With `moments` None it only converts them to the type `kind`.
    """

    def __init__(self, moments: Moments | None, kind: type[np.generic] = np.float32) -> None:
        self.moments = moments
        self.kind = kind

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """(..., D) raw -> (..., D) float32, clipped to +-`CLIP`; without moments, of `kind`."""
        if self.moments is None:
            return observations.astype(self.kind)
        scaled = observations - self.moments.mean
        scaled /= np.maximum(self.moments.deviation, FLOOR)
        np.minimum(scaled, CLIP, out=scaled)
        np.maximum(scaled, -CLIP, out=scaled)
        return scaled.astype(np.float32)
