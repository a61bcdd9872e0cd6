"""Adam, on flat parameter vectors."""

from typing import Any

import numpy as np


class Adam:
    """Kingma and Ba 2015, algorithm 1, on a flat float32 vector of `size` numbers."""

    BETA1, BETA2 = 0.9, 0.999

    def __init__(self, size: int, epsilon: float = 1e-8) -> None:
        self._epsilon = np.float32(epsilon)
        self.steps = 0
        self.m = np.zeros(size, np.float32)
        self.v = np.zeros(size, np.float32)

    def update(self, x: np.ndarray, gradient: np.ndarray, stepsize: float) -> np.ndarray:
        """`x` (P,) after one descent step along `gradient` (P,)."""
        self.steps += 1
        self.m = self.BETA1 * self.m + np.float32(1 - self.BETA1) * gradient
        self.v = self.BETA2 * self.v + np.float32(1 - self.BETA2) * gradient**2
        rate = stepsize * np.sqrt(1 - self.BETA2**self.steps) / (1 - self.BETA1**self.steps)
        scale = np.sqrt(self.v) + self._epsilon
        updated: np.ndarray = x - np.float32(rate) * self.m / scale
        return updated

    def tree(self) -> dict[str, Any]:
        """The optimiser's state, as plain data."""
        return {"steps": self.steps, "m": self.m, "v": self.v}

    def resume(self, tree: dict[str, Any]) -> None:
        """Restore the state that `tree` returned."""
        self.steps, self.m, self.v = (tree[name] for name in ("steps", "m", "v"))
