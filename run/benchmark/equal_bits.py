"""What equal bits on any number of ranks cost: a share of an iteration on one rank.

    python run/benchmark/equal_bits.py

One iteration of Hopper-v4 at the defaults in two ways, in turns: as implemented (derivatives column
by column, sums in fixed point), and plain (derivatives of the whole batch at once, sums in floating
point). Sampling is the same in both and is timed once in each turn.
"""

import time
from types import SimpleNamespace
from typing import Any

from trpo_mpi.parallel import startup

startup.limit_threads()

import numpy as np

from trpo_mpi import tensorflow_setup

tensorflow_setup.set_up("-1", 0)

from trpo_mpi.algorithms.critic import Critic
from trpo_mpi.algorithms.policy_update import PolicyBatch, Stage
from trpo_mpi.algorithms.trpo import Trpo
from trpo_mpi.config import Config
from trpo_mpi.envs.make import make_env, quiet_gymnasium
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.grid import batch_grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.acting import Actor
from trpo_mpi.trainer import Trainer

TURNS = 30


class Update:
    """The policy step and the critic's fit on a batch of `columns` by `steps`."""

    def __init__(self, trainer: Trainer, columns: int, steps: int, comm: Any) -> None:
        config = trainer.config
        self._comm = comm
        self._trpo = Trpo(trainer.policy, config, trainer.grid, columns, steps)
        self._max_kl = config.max_kl
        rows = config.vf_batch // columns
        phi = trainer.critic.phi
        self._critic = Critic(trainer.critic.network, phi, columns, steps, rows)
        self._epochs, self._stepsize = config.vf_iters, config.vf_stepsize
        self._theta, self._steps = trainer.theta, steps

    def seconds(self, observations: np.ndarray, actions: np.ndarray, numbers: np.ndarray) -> float:
        """Time of one update; the arrays are (columns, steps, ...)."""
        start = time.perf_counter()
        ones, nothing = np.ones_like(numbers), np.zeros((*numbers.shape, 0), np.float32)
        stream = np.random.default_rng(0)
        batch = PolicyBatch(observations, 0 * ones, nothing, actions, numbers, ones, ones > 0)
        self._trpo.step(self._theta, batch, self._comm, Stage(self._max_kl, 0.0, stream))
        arguments = (ones > 0, self._stepsize, self._epochs, stream, self._comm)
        self._critic.fit(observations, nothing, numbers, *arguments)
        return time.perf_counter() - start


def plain_sum(_name: str, *parts: np.ndarray) -> np.ndarray:
    """The sum over columns in floating point."""
    total: np.ndarray = np.concatenate(parts).sum(axis=0, dtype=np.float64)
    return total


def main() -> None:
    """Measure and print."""
    quiet_gymnasium()
    config = Config()
    grid = batch_grid(config, 1)
    columns, steps = grid.num_envs, grid.horizon
    comm = Communicator(None, columns)
    makers = [lambda: make_env(config.env)] * columns
    trainer = Trainer(config, grid, comm, ColumnEnvs(makers, range(columns)))
    exact = Update(trainer, columns, steps, comm)
    plain_comm = SimpleNamespace(num_columns=1, columns=range(1), sum_columns=plain_sum)
    plain = Update(trainer, 1, columns * steps, plain_comm)
    sampling, exact_times, plain_times = [], [], []
    for _ in range(TURNS):
        start = time.perf_counter()
        actor = Actor(trainer.policy, trainer.theta)
        batch = trainer._sampler.collect(actor, trainer.normalizer, steps)
        sampling.append(time.perf_counter() - start)
        numbers = np.random.default_rng(0).standard_normal((columns, steps)).astype(np.float32)
        arrays = (batch.observations, batch.actions, numbers)
        exact_times.append(exact.seconds(*arrays))
        flat = [x.reshape(1, columns * steps, *x.shape[2:]) for x in arrays]
        plain_times.append(plain.seconds(*flat))
    medians = [1000 * float(np.median(x)) for x in (sampling, exact_times, plain_times)]
    sample, with_bits, without = medians
    cost = (with_bits - without) / (sample + with_bits)
    print(f"sampling {sample:.0f} ms; update {with_bits:.1f} ms, plain {without:.1f} ms")
    print(f"equal bits cost {100 * cost:.1f} % of an iteration (at most 10 %)")


if __name__ == "__main__":
    main()
