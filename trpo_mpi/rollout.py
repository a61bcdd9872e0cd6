"""Collects batches: this rank's columns of the grid of time steps by environments.

Arrays are column first, (E, T, ...), E the columns that this rank owns: a column's computations
then run on one contiguous block of the same shape, wherever it lives.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from trpo_mpi.envs.adopted import AdoptedEnvs
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.normalization import ObservationNormalizer
from trpo_mpi.policies.acting import Actor
from trpo_mpi.policies.policy import Policy

SEGMENT = 64
"""Time steps that are collected at a time if a batch is counted in episodes."""


@dataclass
class Batch:
    """The data of E environments over T time steps.

    D is the size of a flat observation, S of a recurrent policy's state, and M of the part of that
    state that the critic reads.
    """

    raw_observations: np.ndarray | None
    """(E, T, D) as the environments returned them; None if they are not normalised."""
    observations: np.ndarray
    """(E, T, D), normalised by the snapshot that the policy acted with."""
    states: np.ndarray
    """(E, T, S) float32: the policy's state before each step."""
    memory: np.ndarray
    """(E, T, M) float32: the critic's part of that state once each observation has been seen."""
    actions: np.ndarray
    """(E, T, ...) as sampled: before clipping; choices counted from 0."""
    rewards: np.ndarray
    """(E, T) float64, raw."""
    terminated: np.ndarray
    """(E, T) bool: the episode ended with this step, other than by a time limit."""
    truncated: np.ndarray
    """(E, T) bool: a time limit cut the episode off at this step."""
    mask: np.ndarray
    """(E, T) bool: whether the step counts. Where False, the environment was only being reset, or
    waited for others to end their episodes, and the other arrays' entries mean nothing."""
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """(column, step) after which a value must be bootstrapped: truncations, and the last step
    of the batch if the episode goes on."""
    cut_observations: list[np.ndarray] = field(default_factory=list)
    """The raw observation after each cut: (D,)."""
    cut_states: list[np.ndarray] = field(default_factory=list)
    """The policy's state before it has seen that observation: (S,)."""
    episodes: list[tuple[float, ...]] = field(default_factory=list)
    """A row (step, column, return, length) for each episode that finished, in that order; if
    episodes are single lives, for each game."""

    @property
    def ended(self) -> np.ndarray:
        """(E, T) bool: the next step belongs to another episode."""
        return self.terminated | self.truncated | ~self.mask

    def resized(self, horizon: int) -> Batch:
        """Cut to `horizon` time steps, or padded to it with steps that do not count."""
        arrays: dict[str, Any] = {
            f.name: resized(array, horizon)
            for f in fields(self)
            if isinstance(array := getattr(self, f.name), np.ndarray)
        }
        return replace(self, **arrays)


def resized(array: np.ndarray, steps: int) -> np.ndarray:
    """(E, T, ...) cut, or padded with zeros at the end, to (E, steps, ...)."""
    if array.shape[1] >= steps:
        return array[:, :steps]
    padded = np.zeros((len(array), steps, *array.shape[2:]), array.dtype)
    padded[:, : array.shape[1]] = array
    return padded


def _joined(segments: Sequence[Batch]) -> Batch:
    """Join segments of `SEGMENT` steps each into one batch."""
    arrays: dict[str, Any] = {
        f.name: np.concatenate([getattr(s, f.name) for s in segments], axis=1)
        for f in fields(Batch)
        if isinstance(getattr(segments[0], f.name), np.ndarray)
    }
    firsts = range(0, SEGMENT * len(segments), SEGMENT)
    pairs = list(zip(firsts, segments, strict=True))
    return replace(
        segments[0],
        **arrays,
        cuts=[(i, first + t) for first, s in pairs for i, t in s.cuts],
        cut_observations=[x for s in segments for x in s.cut_observations],
        cut_states=[x for s in segments for x in s.cut_states],
        episodes=[(first + t, *rest) for first, s in pairs for t, *rest in s.episodes],
    )


class Sampler:
    """Steps this rank's environments with a policy, and keeps their state between batches.

    Args:
        envs: the environments of this rank's columns.
        seeds: one seed sequence per column, by its global index; the environment and the
            exploration noise each get a stream of their own from it.
        policy: draws the noise, shapes the actions, and has the size of the recurrent state.
    """

    def __init__(
        self,
        envs: ColumnEnvs | AdoptedEnvs,
        seeds: Sequence[np.random.SeedSequence],
        policy: Policy,
    ) -> None:
        self._envs = envs
        self._policy = policy
        pairs = [seed.spawn(2) for seed in seeds]
        self._noise = [np.random.default_rng(noise) for _, noise in pairs]
        env_seeds = [int(env.generate_state(1)[0]) for env, _ in pairs]
        self._observations, _ = envs.reset(seed=env_seeds)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, np.int64)
        self._states = np.zeros((envs.num_envs, policy.state_size), np.float32)

    def column_state(self, place: int) -> dict[str, Any]:
        """Everything that one column carries from batch to batch, as plain data."""
        assert isinstance(self._envs, ColumnEnvs)
        return self._envs.capture(place) | {
            "noise": self._noise[place].bit_generator.state,
            "return": float(self._returns[place]),
            "length": int(self._lengths[place]),
            "policy_state": self._states[place].copy(),
        }

    def restore_column(self, place: int, state: dict[str, Any], seed: int) -> bool:
        """Restore that state. False if a new episode had to begin, with `seed`."""
        assert isinstance(self._envs, ColumnEnvs)
        self._noise[place].bit_generator.state = state["noise"]
        carried = self._envs.restore(place, state, seed)
        self._observations[place] = self._envs.observation(place)
        self._returns[place] = state["return"] if carried else 0.0
        self._lengths[place] = state["length"] if carried else 0
        # Checkpoints from before there were recurrent policies do not have it.
        self._states[place] = state.get("policy_state", 0.0) if carried else 0.0
        return carried

    def collect(self, actor: Actor, normalizer: ObservationNormalizer, horizon: int) -> Batch:
        """Take `horizon` steps in every environment."""
        batch = self._collect(actor, normalizer, horizon)
        for i in np.flatnonzero(~batch.ended[:, -1]):
            self._cut(batch, int(i), horizon - 1, self._observations[i])
        return batch

    def collect_episodes(
        self, actor: Actor, normalizer: ObservationNormalizer, episodes: int
    ) -> Batch:
        """Play `episodes` whole episodes in every environment; T is the most steps any one took."""
        left = np.full(self._envs.num_envs, episodes)
        segments = []
        while left.any():
            segments.append(self._collect(actor, normalizer, SEGMENT, left))
        batch = _joined(segments)
        return batch.resized(int(np.flatnonzero(batch.mask.any(axis=0))[-1]) + 1)

    def _collect(
        self,
        actor: Actor,
        normalizer: ObservationNormalizer,
        horizon: int,
        left: np.ndarray | None = None,
    ) -> Batch:
        """Take up to `horizon` steps in every environment.

        If `left` (E,) is given, it is the number of episodes that each environment still has to
        play: at 0 it takes no more steps. It is updated in place.
        """
        envs, policy, distribution = self._envs, self._policy, self._policy.distribution
        columns, size = envs.num_envs, self._observations.shape[1]
        # How long others go on must not affect the stream of an environment that waits for them.
        waits = np.zeros(columns, bool) if left is None else left == 0
        streams = [copy.deepcopy(s) if w else s for s, w in zip(self._noise, waits, strict=True)]
        noise = np.stack([distribution.draw_noise(stream, horizon) for stream in streams])
        shape = (columns, horizon)
        learnt = normalizer.moments is not None
        batch = Batch(
            raw_observations=np.empty((*shape, size)) if learnt else None,
            observations=np.empty((*shape, size), policy.observation_type),
            states=np.empty((*shape, policy.state_size), np.float32),
            memory=np.empty((*shape, policy.memory_size), np.float32),
            actions=np.empty((*shape, *distribution.action_shape), distribution.action_type),
            rewards=np.empty(shape),
            terminated=np.empty(shape, bool),
            truncated=np.empty(shape, bool),
            mask=np.ones(shape, bool),
        )
        active: np.ndarray | None = None
        for t in range(horizon):
            if left is not None:
                batch.mask[:, t] = active = left > 0
            if batch.raw_observations is not None:
                batch.raw_observations[:, t] = self._observations
            batch.observations[:, t] = rows = normalizer(self._observations)
            batch.states[:, t] = self._states
            actions, states = actor.sample(rows, noise[:, t], self._states)
            self._states = states if active is None else np.where(active[:, None], states, 0)
            batch.actions[:, t] = actions
            batch.memory[:, t] = actor.remembered(self._states)
            choices = distribution.to_environment(actions)
            given = (choices,) if active is None else (choices, active)
            self._observations, rewards, terminated, truncated, info = envs.step(*given)
            batch.rewards[:, t] = rewards
            batch.terminated[:, t] = terminated
            batch.truncated[:, t] = truncated
            self._returns += rewards
            self._lengths += 1 if active is None else active
            if "reset" in info:
                batch.mask[info["reset"], t] = False
                self._returns[info["reset"]] = 0.0
                self._lengths[info["reset"]] = 0
                self._states[info["reset"]] = 0.0
            if "final_obs" in info:
                self._finish_episodes(batch, t, info["final_obs"], info.get("games", {}))
                if left is not None:
                    left[list(info["final_obs"])] -= 1
        return batch

    def _cut(self, batch: Batch, place: int, step: int, observation: np.ndarray) -> None:
        batch.cuts.append((place, step))
        batch.cut_observations.append(observation)
        batch.cut_states.append(self._states[place].copy())

    def _finish_episodes(
        self,
        batch: Batch,
        t: int,
        final: dict[int, np.ndarray],
        games: dict[int, tuple[float, int] | None],
    ) -> None:
        for i, observation in final.items():
            game = games.get(i, (self._returns[i], self._lengths[i]))
            if game is not None:
                batch.episodes.append((t, self._envs.columns[i], game[0], float(game[1])))
            # An environment may report both at once; termination decides.
            if not batch.terminated[i, t]:
                self._cut(batch, i, t, observation)
        ended = list(final)
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        self._states[ended] = 0.0
