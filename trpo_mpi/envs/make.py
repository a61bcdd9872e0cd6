"""Makes environments from their ids, and says in one line why one can't be made."""

import difflib
import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.distributions import distribution_for


@dataclass(frozen=True)
class Spaces:
    """Observation and action space of an environment."""

    observation: gym.spaces.Box
    action: gym.Space[Any]

    @classmethod
    def of(cls, envs: gym.vector.VectorEnv[Any, Any, Any]) -> "Spaces":
        """Those of a vector environment's single environments; see `check_env`."""
        observation = cast(gym.spaces.Box, envs.single_observation_space)
        return cls(observation, envs.single_action_space)

    @property
    def observation_size(self) -> int:
        """Numbers in one flat observation, D."""
        return int(np.prod(self.observation.shape))


def make_env(env_id: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment.

    Raises `UsageError` for an id that Gymnasium does not know, naming near ones, and for an
    environment whose packages are missing.
    """
    module, colon, name = env_id.rpartition(":")
    if not name or (colon and not module):
        raise UsageError(f"--env {env_id}: it must be ID or MODULE:ID")
    # An environment need not know of render modes: none is named unless it is wanted.
    mode: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        # The passive checker looks at the first step alone and costs 3 % of all the others.
        return gym.make(env_id, disable_env_checker=True, **mode)
    except gym.error.UnregisteredEnv:
        raise UsageError(f"--env {env_id}: {_unknown(env_id)}") from None
    except (gym.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--env {env_id} can't be made: {reason}") from None


def _unknown(env_id: str) -> str:
    name = env_id.rpartition(":")[2]
    known = {known.lower(): known for known in gym.registry}
    near = difflib.get_close_matches(name.lower(), known, 3, cutoff=0.6)
    hint = f"; near matches are {', '.join(known[n] for n in near)}" if near else ""
    return f"Gymnasium knows no environment of that name{hint}"


def check_env(env_id: str, render: bool = False) -> Spaces:
    """Spaces of an environment that can be trained on; `UsageError` where it can't be."""
    if render and sys.platform.startswith("linux"):
        if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
            raise UsageError("--render needs a screen: DISPLAY and WAYLAND_DISPLAY are not set")
    env = make_env(env_id)
    if render and "human" not in env.metadata.get("render_modes", []):
        raise UsageError(f"--render: {env_id} has no window to show")
    observation, action = env.observation_space, env.action_space
    env.close()
    if not isinstance(observation, gym.spaces.Box):
        raise UsageError(f"--env {env_id}: its observation space {observation} is not a Box")
    distribution_for(action)
    return Spaces(observation, action)


def quiet_gymnasium() -> None:
    """Show no more of Gymnasium's warnings: each making of an environment repeats them."""
    gym.logger.min_level = gym.logger.ERROR
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
