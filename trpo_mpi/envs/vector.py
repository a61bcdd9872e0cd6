"""This rank's environments as one Gymnasium vector environment, whose state can be saved."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from trpo_mpi.envs.capture import capture, restore
from trpo_mpi.envs.spaces import flat_type, flattener
from trpo_mpi.envs.watchdog import Watchdog
from trpo_mpi.errors import EnvironmentFault, UsageError

GAME = "trpo_mpi.game"
"""Key of the info with which an episode ends, if episodes are lives: return and length of the game
that it ended, or None if that goes on. Without the key an episode is a game."""


class ColumnEnvs(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Steps its environments one after another, with SAME_STEP autoreset.

    Gymnasium's own `SyncVectorEnv` merges every environment's `info` into arrays at each step and
    stacks with the generic space functions, which takes a twelfth of a Hopper step for results that
    are not used here. This one returns flat observations of `flat_type`, an episode's final
    observation in `info["final_obs"]` {place: observation}, and names the environment that raises
    or returns a NaN. If an environment's episodes are lives of a game, its info at the end of each
    has `GAME`: these are collected in `info["games"]` {place: game}.

    Args:
        makers: one function per column, which makes its environment.
        columns: global index of each column.
        carry: whether the state of these environments can be captured; see `find_fault`.
        watchdog: told of each call into an environment, so that it can end one that hangs.
    """

    metadata: dict[str, Any] = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        columns: Sequence[int],
        carry: bool = True,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.envs = [make() for make in makers]
        if len({id(env) for env in self.envs}) < len(self.envs):
            raise UsageError("the function gave one environment twice; it must make a new one")
        self._carry = carry
        self._watchdog = watchdog or Watchdog()
        self.num_envs = len(self.envs)
        self.columns = list(columns)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        batch = gym.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, self.num_envs)
        self.action_space = batch(self.single_action_space, self.num_envs)
        self._flatten = flattener(self.single_observation_space)
        size = gym.spaces.flatdim(self.single_observation_space)
        self._observations = np.zeros(
            (self.num_envs, size), flat_type(self.single_observation_space)
        )
        self._steps = np.zeros(self.num_envs, np.int64)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes: (E, D) observations. `seed` is one per environment, or None."""
        seeds = [None] * self.num_envs if seed is None else list(seed)
        for i in range(self.num_envs):
            self._reset(i, seeds[i], options)
        self._watchdog.idle()
        check_finite(self._observations, np.zeros(self.num_envs), self._where)
        return self._observations.copy(), {}

    def _reset(self, place: int, seed: Any, options: Any = None) -> None:
        self._watchdog.watch(self.columns[place], 0)
        observation, _ = seeded_reset(self.envs[place], seed, options)
        self._observations[place] = self._flat(observation, place)
        self._steps[place] = 0

    def _flat(self, observation: Any, place: int) -> np.ndarray:
        try:
            flat = self._flatten(observation)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EnvironmentFault(
                f"an observation is not of the observation space {self.single_observation_space} "
                f"{self._where(place)}: {observation} ({type(error).__name__}: {error})"
            ) from None
        if len(flat) != self._observations.shape[1]:
            raise EnvironmentFault(
                f"an observation has shape {np.shape(observation)} {self._where(place)}; "
                f"the observation space has {self.single_observation_space.shape}"
            )
        return flat

    def capture(self, place: int) -> dict[str, Any]:
        """State of one environment as plain data; `env` is None if its own can't be captured."""
        state = None
        if self._carry:
            # A RecursionError, for instance: the environment has grown since it was tested.
            with contextlib.suppress(Exception):
                state = capture(self.envs[place])
        observation = self._observations[place].copy()
        return {"env": state, "observation": observation, "steps": int(self._steps[place])}

    def restore(self, place: int, tree: dict[str, Any], seed: int) -> bool:
        """Restore a captured state; if that fails, start a new episode and return False."""
        if tree["env"] is not None and self._carry:
            with contextlib.suppress(Exception):
                restore(self.envs[place], tree["env"])
                self._observations[place] = tree["observation"]
                self._steps[place] = tree["steps"]
                return True
        self._reset(place, seed)
        self._watchdog.idle()
        return False

    def observation(self, place: int) -> np.ndarray:
        """The current observation of one environment, (D,)."""
        return self._observations[place].copy()

    def step(
        self, actions: np.ndarray, active: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations (E, D), rewards, terminated, truncated (E,) and info.

        With `active` (E,) bool, the other environments are not stepped, and have reward 0.
        """
        n = self.num_envs
        rewards, terminated, truncated = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        final_obs: dict[int, np.ndarray] = {}
        games: dict[int, tuple[float, int] | None] = {}
        observations = self._observations
        self._steps += 1 if active is None else active
        for i, env in enumerate(self.envs):
            if active is not None and not active[i]:
                continue
            try:
                self._watchdog.watch(self.columns[i], self._steps[i])
                observation, reward, done, cut, own = env.step(actions[i])
                rewards[i] = as_number(reward, self._where, i)
                observations[i] = self._flat(observation, i)
                if done or cut:
                    terminated[i], truncated[i] = done, cut
                    final_obs[i] = observations[i].copy()
                    if GAME in own:
                        games[i] = own[GAME]
                    if not np.isfinite(final_obs[i]).all():
                        _refuse("an observation", self._where(i), final_obs[i])
                    observations[i] = self._flat(env.reset()[0], i)
            except EnvironmentFault:
                raise
            except Exception as error:
                # Python 3.10 has no notes: there it is printed above the traceback.
                getattr(error, "add_note", print)(self._where(i))
                raise
        self._watchdog.idle()
        check_finite(observations, rewards, self._where)
        if final_obs:
            self._steps[list(final_obs)] = 0
        info = {"final_obs": final_obs, "games": games} if final_obs else {}
        return observations.copy(), rewards, terminated, truncated, info

    def _where(self, place: int) -> str:
        step = self._steps[place]
        return f"in environment {self.columns[place]} at step {step} of its episode"

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            close(env)


def close(env: gym.Env[Any, Any]) -> None:
    """Close an environment that is no longer needed: what it raises then must not end a run."""
    with contextlib.suppress(Exception):
        env.close()


def as_number(reward: Any, where: Callable[..., str], *place: Any) -> float:
    """A reward as a float; an array of one is taken for its only number.

    Raises `EnvironmentFault` for anything else; `where(*place)` describes the environment.
    """
    try:
        return float(np.asarray(reward, np.float64).item())
    except (TypeError, ValueError):
        raise EnvironmentFault(f"a reward is not a number {where(*place)}: {reward}") from None


def seeded_reset(
    env: gym.Env[Any, Any], seed: int | None, options: Any = None
) -> tuple[Any, dict[str, Any]]:
    """Start an episode; `seed` also is that of the spaces, from which an environment may sample."""
    layer = env
    while seed is not None:
        layer.observation_space.seed(seed)
        layer.action_space.seed(seed)
        if not isinstance(layer, gym.Wrapper):
            break
        layer = layer.env
    return env.reset(seed=seed, options=options)


def check_finite(
    observations: np.ndarray, rewards: np.ndarray, where: Callable[[int], str]
) -> None:
    """Raise `EnvironmentFault` for the first observation (E, D) or reward (E,) that is not finite.

    `where` describes, for the message, the environment at a place.
    """
    # A sum is finite only if all its terms are, and costs a third of testing each.
    numbers = 0 if observations.dtype == np.uint8 else observations.sum()
    if np.isfinite(numbers + rewards.sum()):
        return
    for i, observation in enumerate(observations):
        if not np.isfinite(observation).all():
            _refuse("an observation", where(i), observation)
        if not np.isfinite(rewards[i]):
            _refuse("a reward", where(i), rewards[i])


def _refuse(what: str, where: str, value: Any) -> NoReturn:
    raise EnvironmentFault(f"{what} is not finite {where}: {value}")
