"""This rank's environments as one Gymnasium vector environment."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from trpo_mpi.errors import EnvironmentFault


class ColumnEnvs(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Steps its environments one after another, with SAME_STEP autoreset.

    Gymnasium's own `SyncVectorEnv` merges every environment's `info` into arrays at each step
    and stacks by the generic space functions, which here costs a twelfth of a Hopper step
    and is thrown away. This one keeps flat float64 observations, and the final observation
    of an episode as `info["final_obs"]` {place: observation}; and it names the environment
    that raises or gives a NaN.

    Args:
        makers: one function a column, giving its environment.
        columns: the global index of each.
    """

    metadata: dict[str, Any] = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], columns: Sequence[int]):
        self.envs = [make() for make in makers]
        self.num_envs = len(self.envs)
        self.columns = list(columns)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        batch = gym.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, self.num_envs)
        self.action_space = batch(self.single_action_space, self.num_envs)
        size = int(np.prod(self.single_observation_space.shape or ()))
        self._observations = np.zeros((self.num_envs, size))
        self._steps = np.zeros(self.num_envs, np.int64)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes: (E, D) float64 observations. `seed` is one for each, or None."""
        seeds = [None] * self.num_envs if seed is None else list(seed)
        for i, env in enumerate(self.envs):
            self._observations[i] = np.ravel(env.reset(seed=seeds[i], options=options)[0])
        self._steps[:] = 0
        self._check(self._observations, np.zeros(self.num_envs))
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations (E, D), rewards, terminated, truncated (E,) and info."""
        n = self.num_envs
        rewards, terminated, truncated = np.empty(n), np.zeros(n, bool), np.zeros(n, bool)
        final_obs: dict[int, np.ndarray] = {}
        observations = self._observations
        self._steps += 1
        for i, env in enumerate(self.envs):
            try:
                observation, rewards[i], done, cut, _ = env.step(actions[i])
                observations[i] = np.ravel(observation)
                if done or cut:
                    terminated[i], truncated[i] = done, cut
                    final_obs[i] = observations[i].copy()
                    if not np.isfinite(final_obs[i]).all():
                        self._fault("observation", i, final_obs[i])
                    observations[i] = np.ravel(env.reset()[0])
            except EnvironmentFault:
                raise
            except Exception as error:
                # Python 3.10 has no notes: there it stands above the traceback.
                getattr(error, "add_note", print)(self._where(i))
                raise
        self._check(observations, rewards)
        if final_obs:
            self._steps[list(final_obs)] = 0
        info = {"final_obs": final_obs} if final_obs else {}
        return observations.copy(), rewards, terminated, truncated, info

    def _where(self, place: int) -> str:
        step = self._steps[place]
        return f"in environment {self.columns[place]} at step {step} of its episode"

    def _check(self, observations: np.ndarray, rewards: np.ndarray) -> None:
        # A sum is finite only if all its terms are, and costs a third of testing each.
        if np.isfinite(observations.sum() + rewards.sum()):
            return
        for i, observation in enumerate(observations):
            if not np.isfinite(observation).all():
                self._fault("observation", i, observation)
            if not np.isfinite(rewards[i]):
                self._fault("reward", i, rewards[i])

    def _fault(self, what: str, place: int, value: Any) -> NoReturn:
        raise EnvironmentFault(f"a {what} is not finite {self._where(place)}: {value}")

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()
