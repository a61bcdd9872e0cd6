"""How a batch is laid out: a grid of time steps by environments, dealt out to ranks by columns."""

from dataclasses import dataclass
from typing import Any

from trpo_mpi.config import ADAPTED_BATCH, Config
from trpo_mpi.errors import UsageError


@dataclass(frozen=True)
class Grid:
    """The batch as a grid: `num_envs` columns of `horizon` time steps, or of whole episodes."""

    num_envs: int
    horizon: int
    """Time steps of each column; 0 if it has whole episodes, of lengths not known in advance."""
    episodes: int = 0
    """Whole episodes of each column; 0 if columns have a horizon."""

    @property
    def timesteps(self) -> int:
        """Time steps of a whole batch; 0 if not known in advance."""
        return self.num_envs * self.horizon

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `Config` that the grid determines."""
        return {"num_envs": self.num_envs, "timesteps_per_batch": self.timesteps or None}

    def rows(self, timesteps: int) -> int:
        """The most time indices, at least one, that hold no more than `timesteps` time steps."""
        return max(1, timesteps // self.num_envs)


def batch_grid(config: Config, ranks: int) -> Grid:
    """Lay the batch out over the environments.

    Raises `UsageError`, with values that would work, if a rank would have no environment or the
    environments do not divide the batch.
    """
    episodes = config.episodes_per_batch
    envs = config.num_envs or episodes or max(16, ranks)
    if envs < ranks:
        name = "--num-envs" if config.num_envs else "--episodes-per-batch"
        raise UsageError(
            f"{name} {envs} leaves some of {ranks} ranks without an environment; "
            f"use {name} {ranks} or more, or start {envs} ranks"
        )
    if episodes is not None:
        return Grid(envs, 0, _of_each("--episodes-per-batch", episodes, envs))
    batch = config.timesteps_per_batch or envs * max(1, round(config.batch_default / envs))
    horizon = _of_each("--timesteps-per-batch", batch, envs)
    low, high = ADAPTED_BATCH
    if config.adapts_batch and not low <= batch <= high:
        raise UsageError(
            f"--timesteps-per-batch is {batch}; with --adapt {config.adapt} it must be from {low} "
            f"to {high}"
        )
    return Grid(envs, horizon)


def _of_each(name: str, batch: int, envs: int) -> int:
    """Each environment's share; `UsageError`, naming the setting, if it isn't a whole number."""
    if batch % envs:
        below, above = batch // envs * envs, -(-batch // envs) * envs
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UsageError(f"{name} {batch} is not a multiple of --num-envs {envs}; use {nearest}")
    return batch // envs


def largest_grid(config: Config, grid: Grid, time_limit: int | None) -> Grid:
    """The largest batch that a run may reach, as far as that is known.

    `time_limit` is the most steps that an episode can have, if there is a limit.
    """
    if grid.episodes:
        return Grid(grid.num_envs, grid.episodes * (time_limit or 1), grid.episodes)
    if not config.adapts_batch:
        return grid
    return Grid(grid.num_envs, -(-ADAPTED_BATCH[1] // grid.num_envs))
