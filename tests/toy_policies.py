"""Policies of flat observations and small critics, for tests of what works on them."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.policies.acting import Actor
from trpo_mpi.policies.policy import Architecture, Policy, ValueNetwork


def flat_box(size: int) -> gym.spaces.Box:
    """Observations of `size` numbers."""
    return gym.spaces.Box(-np.inf, np.inf, (size,))


def mlp_policy(
    size: int, space: gym.Space[Any], hidden: Sequence[int], init_logstd: float = 0.0
) -> Policy:
    """An `MlpPolicy` of `size` numbers."""
    architecture = Architecture(net_arch=tuple(hidden))
    return architecture.make_policy(flat_box(size), space, init_logstd)


def mlp_critic(size: int, hidden: Sequence[int]) -> ValueNetwork:
    """And the critic beside it."""
    architecture = Architecture(net_arch=tuple(hidden))
    observation = flat_box(size)
    policy = architecture.make_policy(observation, gym.spaces.Discrete(2))
    return ValueNetwork(policy, observation, architecture)


def mode(actor: Actor, rows: np.ndarray) -> np.ndarray:
    """The most probable actions at the beginning of episodes."""
    return actor.mode(rows, actor.begin(len(rows)))[0]


def sample(actor: Actor, rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Actions at the beginning of episodes."""
    return actor.sample(rows, noise, actor.begin(len(rows)))[0]
