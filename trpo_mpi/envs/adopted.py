"""A user's own vector environment, in place of `ColumnEnvs`."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from trpo_mpi.envs.spaces import flat_rows, flat_type, flattener
from trpo_mpi.envs.vector import GAME, check_finite
from trpo_mpi.errors import EnvironmentFault, UsageError


class AdoptedEnvs(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Steps any Gymnasium vector environment, and returns what `ColumnEnvs` returns.

    With NEXT_STEP autoreset an environment whose episode has ended spends its next step on the
    reset; that step is not a time step, and `info["reset"]` (E,) bool marks it.

    Args:
        envs: the vector environment; each of its environments is one column of this rank.
        columns: global index of each column.
    """

    def __init__(
        self, envs: gym.vector.VectorEnv[Any, Any, Any], columns: range | None = None
    ) -> None:
        # Before Gymnasium 1.4 all vectors of one environment share their metadata, which then has
        # the mode of the newest. Without any it is Gymnasium's default.
        of_all = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._mode = getattr(envs.unwrapped, "autoreset_mode", of_all)
        if self._mode == AutoresetMode.DISABLED:
            raise UsageError(
                "the vector environment has autoreset_mode DISABLED; it must be NEXT_STEP or "
                "SAME_STEP"
            )
        self.envs = envs
        self.num_envs = envs.num_envs
        self.columns = list(columns or range(envs.num_envs))
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self._flatten = flattener(self.single_observation_space)
        self._ended = np.zeros(self.num_envs, bool)
        self._observations = np.zeros((self.num_envs, 0))

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes and return (E, D) observations; only the first seed is used."""
        # Every vector environment takes a single number, and seeds its environments from it.
        first = None if seed is None else int(np.ravel(seed)[0])
        observations, _ = self.envs.reset(seed=first, options=options)
        self._ended[:] = False
        self._observations = self._rows(observations)
        check_finite(self._observations, np.zeros(self.num_envs), self._where)
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations (E, D), rewards, terminated, truncated (E,) and info."""
        observations, rewards, terminated, truncated, given = self.envs.step(actions)
        rewards = np.asarray(rewards, np.float64)
        self._observations = self._rows(observations)
        check_finite(self._observations, rewards, self._where)
        info: dict[str, Any] = {}
        if self._ended.any():
            info["reset"] = self._ended
        ended = np.asarray(terminated) | np.asarray(truncated)
        if ended.any():
            places = [int(i) for i in np.flatnonzero(ended)]
            info["final_obs"] = {i: self._final(i, given) for i in places}
            info["games"] = self._games(places, given)
        self._ended = ended if self._mode == AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        return self._observations.copy(), rewards, terminated, truncated, info

    def _final(self, place: int, info: dict[str, Any]) -> np.ndarray:
        """The last observation of an episode that has just ended, flat."""
        if self._mode == AutoresetMode.NEXT_STEP:
            return self._observations[place].copy()
        if "final_obs" not in info:
            raise EnvironmentFault("a SAME_STEP vector environment gives no info['final_obs']")
        flat = self._flatten(_part(info["final_obs"], place))
        check_finite(flat[None], np.zeros(1), lambda _: self._where(place))
        return flat.astype(self._observations.dtype, copy=False)

    def _games(
        self, places: list[int], info: dict[str, Any]
    ) -> dict[int, tuple[float, int] | None]:
        """What `GAME` says of the episodes that have just ended, where it says something."""
        if self._mode == AutoresetMode.SAME_STEP:
            info = info.get("final_info", {})
        if GAME not in info:
            return {}
        return {i: info[GAME][i] for i in places if info[f"_{GAME}"][i]}

    def _rows(self, observations: Any) -> np.ndarray:
        space = self.single_observation_space
        return flat_rows(space, observations)[0].astype(flat_type(space), copy=False)

    def _where(self, place: int) -> str:
        return f"in environment {self.columns[place]}"

    def close_extras(self, **kwargs: Any) -> None:
        """Close the user's vector environment."""
        self.envs.close(**kwargs)


def _part(infos: Any, place: int) -> Any:
    """One environment's part of an info, which Gymnasium batches key by key."""
    if isinstance(infos, dict):
        return {key: _part(infos[key], place) for key in infos if f"_{key}" in infos}
    return infos[place]
