"""Trainers on the toy environments, in this process."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from trpo_mpi.config import Config
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.grid import batch_grid
from trpo_mpi.model import Model
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.trainer import Trainer


def toy_trainer(
    make: Callable[[], gym.Env[Any, Any]], start: Model | None = None, **settings: Any
) -> Trainer:
    """A trainer of small networks on environments that `make` gives."""
    config = Config(**{"net_arch": (8,), "vf_iters": 1, **settings})
    grid = batch_grid(config, 1)
    columns = range(grid.num_envs)
    envs = ColumnEnvs([make for _ in columns], columns)
    return Trainer(config, grid, Communicator(None, grid.num_envs), envs, start)


def train(trainer: Trainer) -> list[dict[str, Any]]:
    """Iterate to the end; the rows of progress.csv."""
    rows = []
    while trainer.finished() is None:
        rows.append(trainer.iterate().row)
    return rows
