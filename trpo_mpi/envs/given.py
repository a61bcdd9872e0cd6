"""What a user may pass as an environment: an id, a factory, an environment or a vector of them."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from trpo_mpi.envs.adopted import AdoptedEnvs
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.envs.vector import ColumnEnvs, close

VectorEnv = gym.vector.VectorEnv[Any, Any, Any]
Make = Callable[[str], gym.Env[Any, Any]]
"""Makes an environment from its id."""
Env = str | Callable[[], gym.Env[Any, Any]] | gym.Env[Any, Any] | VectorEnv


def is_own(env: Env) -> bool:
    """Whether `env` is this rank's own environment, not an id or factory to make any number of."""
    return isinstance(env, gym.Env | gym.vector.VectorEnv)


def name_of(env: Env) -> str:
    """The environment's name in files."""
    if isinstance(env, str):
        return env
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else getattr(env, "__name__", type(env).__name__)


def _one(env: Env, make: Make) -> gym.Env[Any, Any]:
    if isinstance(env, str):
        return make(env)
    if isinstance(env, gym.Env):
        return env
    assert not isinstance(env, gym.vector.VectorEnv)
    return env()


def columns_of(env: Env, columns: range, make: Make) -> ColumnEnvs | AdoptedEnvs:
    """The environments of this rank's columns."""
    if isinstance(env, gym.vector.VectorEnv):
        return AdoptedEnvs(env, columns)
    return ColumnEnvs([functools.partial(_one, env, make)] * len(columns), columns, carry=False)


def spaces_of(env: Env, make: Make) -> Spaces:
    """Observation and action space of `env`."""
    if isinstance(env, gym.vector.VectorEnv):
        return Spaces.of(env)
    one = _one(env, make)
    spaces = Spaces(one.observation_space, one.action_space)
    if one is not env:
        close(one)
    return spaces
