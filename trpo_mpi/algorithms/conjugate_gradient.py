"""Solves F x = g, given F only through its product with a vector."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Solution:
    """Result of `conjugate_gradient`."""

    x: np.ndarray
    """(P,) float64."""
    residual: np.ndarray
    """g - F x as the recursion updates it: (P,) float64."""
    steps: int
    """Iterations that updated x."""


def conjugate_gradient(
    product: Callable[[np.ndarray], np.ndarray], g: np.ndarray, iterations: int
) -> Solution:
    """Hestenes and Stiefel's method, from x = 0.

    Departures from the textbook:

    1. It always calls `product` `iterations` times. Each call is a collective, but each rank
       computes the residual itself: on mixed CPUs ranks could disagree on when to stop, and hang.
       Once the squared residual is at most 1e-20 |g|**2, or the curvature along p is not
       positive, x no longer changes.
    2. No final check of the true residual: the caller's line search judges the step.

    Args:
        product: v (P,) -> F v (P,), F symmetric and positive definite.
        g: (P,) float64.
        iterations: number of products.
    """
    x = np.zeros_like(g)
    r = g.copy()
    p = g.copy()
    rr = start = float(r @ r)
    steps = 0
    for _ in range(iterations):
        fp = product(p)
        curvature = float(p @ fp)
        if rr <= 1e-20 * start or curvature <= 0:
            continue
        alpha = rr / curvature
        x = x + alpha * p
        r = r - alpha * fp
        rr, before = float(r @ r), rr
        p = r + (rr / before) * p
        steps += 1
    return Solution(x, r, steps)
