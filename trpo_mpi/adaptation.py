"""Adapts the trust region and the batch to the returns, by kvfrans' rule (parallel-trpo, 2016).

After every `EVERY` iterations in which episodes have ended, the sum of their mean returns is
compared with the previous sum. If it has not fallen, the batch shrinks and the trust region widens;
if it has, the reverse. The original tests its bounds before a step, and so exceeds them by one
step; here they hold.
"""

from typing import Any

from trpo_mpi.config import ADAPTED_BATCH, ADAPTED_KL, Config
from trpo_mpi.grid import Grid

EVERY = 10
"""Iterations between two comparisons."""
KL_STEP = 0.0005
BATCH_STEP = 300


class Adaptation:
    """The trust region and the batch of the next iteration.

    Args:
        config: `max_kl` to begin with, and `adapt`, which says what is adapted.
        grid: the first batch.
    """

    def __init__(self, config: Config, grid: Grid) -> None:
        self._kl = config.adapts_kl
        self._batch = config.adapts_batch
        self._envs = grid.num_envs
        self._timesteps = grid.timesteps
        self._returns: list[float] = []
        self._last: float | None = None
        self.max_kl = config.max_kl

    @property
    def horizon(self) -> int:
        """Time steps of each environment in the next batch."""
        return max(1, round(self._timesteps / self._envs))

    def follow(self, mean_return: float) -> None:
        """Record an iteration's mean episode return, and adapt after every `EVERY` of them."""
        self._returns.append(mean_return)
        if len(self._returns) < EVERY:
            return
        total = sum(self._returns)
        direction = -1 if self._last is not None and total < self._last else 1
        self._returns, self._last = [], total
        if self._kl:
            self.max_kl = _within(self.max_kl + direction * KL_STEP, ADAPTED_KL)
        if self._batch:
            self._timesteps = round(
                _within(self._timesteps - direction * BATCH_STEP, ADAPTED_BATCH)
            )

    def tree(self) -> dict[str, Any]:
        """The state, as plain data."""
        return {
            "returns": list(self._returns),
            "last": self._last,
            "max_kl": self.max_kl if self._kl else None,
            "timesteps": self._timesteps if self._batch else None,
        }

    def resume(self, tree: dict[str, Any]) -> None:
        """Continue from the state that `tree` returned, if perhaps for another `adapt`."""
        self._returns, self._last = list(tree["returns"]), tree["last"]
        if self._kl and tree["max_kl"] is not None:
            self.max_kl = tree["max_kl"]
        if self._batch and tree["timesteps"] is not None:
            self._timesteps = tree["timesteps"]


def _within(x: float, bounds: tuple[float, float]) -> float:
    return min(max(x, bounds[0]), bounds[1])
