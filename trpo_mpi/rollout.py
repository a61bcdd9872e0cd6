"""Collects batches: this rank's columns of the grid of time steps by environments.

Arrays are column first, (E, T, ...), E the columns that this rank owns: a column's computations
then run on one contiguous block of the same shape, wherever it lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trpo_mpi.envs.adopted import AdoptedEnvs
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.normalization import ObservationNormalizer
from trpo_mpi.policies.distributions import Distribution
from trpo_mpi.policies.mlp import Actor


@dataclass
class Batch:
    """What E environments gave in T time steps. D is the size of a flat observation."""

    raw_observations: np.ndarray
    """(E, T, D) float64, as the environments gave them."""
    observations: np.ndarray
    """(E, T, D) float32, normalised by the snapshot that the policy acted with."""
    actions: np.ndarray
    """(E, T, ...) as sampled: before clipping, from index 0."""
    rewards: np.ndarray
    """(E, T) float64, raw."""
    terminated: np.ndarray
    """(E, T) bool: the episode truly ended with this step."""
    truncated: np.ndarray
    """(E, T) bool: it was cut off by a time limit."""
    mask: np.ndarray
    """(E, T) bool: a step that counts. Where it is False an environment was only being reset; what
    else stands there means nothing."""
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """(column, step) after which a value must be bootstrapped: truncations, and the last step
    of the batch where the episode goes on."""
    cut_observations: list[np.ndarray] = field(default_factory=list)
    """The observation after each of them: (D,) float64."""
    episodes: list[tuple[float, ...]] = field(default_factory=list)
    """A row (step, column, return, length) for each episode that finished, in that order."""

    @property
    def ended(self) -> np.ndarray:
        """(E, T) bool: the next step belongs to another episode."""
        return self.terminated | self.truncated | ~self.mask


class Sampler:
    """Steps this rank's environments with a policy and keeps what lies between two batches.

    Args:
        envs: the environments of this rank's columns.
        seeds: one seed sequence a column, that of its global index; the environment and the
            exploration noise each get a stream of their own from it.
        distribution: draws the noise and shapes the actions.
    """

    def __init__(
        self,
        envs: ColumnEnvs | AdoptedEnvs,
        seeds: Sequence[np.random.SeedSequence],
        distribution: Distribution,
    ) -> None:
        self._envs = envs
        self._distribution = distribution
        pairs = [seed.spawn(2) for seed in seeds]
        self._noise = [np.random.default_rng(noise) for _, noise in pairs]
        env_seeds = [int(env.generate_state(1)[0]) for env, _ in pairs]
        self._observations, _ = envs.reset(seed=env_seeds)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, np.int64)

    def column_state(self, place: int) -> dict[str, Any]:
        """All that one column carries from batch to batch, as plain data."""
        assert isinstance(self._envs, ColumnEnvs)
        return self._envs.capture(place) | {
            "noise": self._noise[place].bit_generator.state,
            "return": float(self._returns[place]),
            "length": int(self._lengths[place]),
        }

    def restore_column(self, place: int, state: dict[str, Any], seed: int) -> bool:
        """Put that back. False where a new episode had to begin, with `seed`."""
        assert isinstance(self._envs, ColumnEnvs)
        self._noise[place].bit_generator.state = state["noise"]
        carried = self._envs.restore(place, state, seed)
        self._observations[place] = self._envs.observation(place)
        self._returns[place] = state["return"] if carried else 0.0
        self._lengths[place] = state["length"] if carried else 0
        return carried

    def collect(self, actor: Actor, normalizer: ObservationNormalizer, horizon: int) -> Batch:
        """Take `horizon` steps in every environment."""
        envs, distribution = self._envs, self._distribution
        columns, size = envs.num_envs, self._observations.shape[1]
        noise = np.stack([distribution.draw_noise(stream, horizon) for stream in self._noise])
        shape = (columns, horizon)
        batch = Batch(
            raw_observations=np.empty((*shape, size)),
            observations=np.empty((*shape, size), np.float32),
            actions=np.empty((*shape, *distribution.action_shape), distribution.action_type),
            rewards=np.empty(shape),
            terminated=np.empty(shape, bool),
            truncated=np.empty(shape, bool),
            mask=np.ones(shape, bool),
        )
        for t in range(horizon):
            batch.raw_observations[:, t] = self._observations
            batch.observations[:, t] = rows = normalizer(self._observations)
            batch.actions[:, t] = actions = actor.sample(rows, noise[:, t])
            self._observations, rewards, terminated, truncated, info = envs.step(
                distribution.to_environment(actions)
            )
            batch.rewards[:, t] = rewards
            batch.terminated[:, t] = terminated
            batch.truncated[:, t] = truncated
            self._returns += rewards
            self._lengths += 1
            if "reset" in info:
                batch.mask[info["reset"], t] = False
                self._returns[info["reset"]] = 0.0
                self._lengths[info["reset"]] = 0
            if "final_obs" in info:
                self._finish_episodes(batch, t, info["final_obs"])
        for i in np.flatnonzero(~batch.ended[:, -1]):
            batch.cuts.append((int(i), horizon - 1))
            batch.cut_observations.append(self._observations[i])
        return batch

    def _finish_episodes(self, batch: Batch, t: int, final: dict[int, np.ndarray]) -> None:
        for i, observation in final.items():
            column = self._envs.columns[i]
            batch.episodes.append((t, column, self._returns[i], float(self._lengths[i])))
            # An environment may report both at once; the true end decides.
            if not batch.terminated[i, t]:
                batch.cuts.append((i, t))
                batch.cut_observations.append(observation)
        ended = list(final)
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
