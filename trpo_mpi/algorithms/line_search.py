"""Backtracking along the natural-gradient step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trial:
    """Outcome of one candidate, from values reduced over all ranks."""

    improvement: float
    """Gain of the objective over its value at the old parameters."""
    kl: float
    """Mean KL(old || new) in nats."""

    def accepted(self, max_kl: float) -> bool:
        """Whether the objective improves inside the trust region; False for a NaN."""
        return self.improvement > 0 and self.kl <= max_kl


def line_search(
    evaluate: Callable[[np.ndarray], Trial],
    theta: np.ndarray,
    step: np.ndarray,
    max_kl: float,
    shrink: float,
    trials: int,
) -> tuple[np.ndarray, float, Trial]:
    """Find the first of theta + step, theta + shrink * step, ... that `Trial.accepted` accepts.

    Returns the new parameters, the fraction of the step taken, and its trial; if all `trials` are
    rejected, `theta` itself, 0, and a trial with zero improvement and KL.
    """
    fraction = 1.0
    for _ in range(trials):
        candidate = (theta + fraction * step).astype(theta.dtype)
        trial = evaluate(candidate)
        if trial.accepted(max_kl):
            return candidate, fraction, trial
        fraction *= shrink
    return theta, 0.0, Trial(0.0, 0.0)
