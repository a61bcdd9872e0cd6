"""Atari games as the literature trains on them: frames skipped, pooled, shrunk and stacked.

The preprocessing is that of Mnih et al. 2015, by Gymnasium's wrappers, whose state can be captured
and restored mid-game. ale-py's own vector environment would take 0.8 times the CPU time, but does
not expose its state, and restarts the whole game at each lost life.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AtariPreprocessing

from trpo_mpi.config import Atari
from trpo_mpi.envs.vector import GAME

Env = gym.Env[Any, Any]

CONSOLE = "ale_py.env:AtariEnv"
"""The entry point of all ids that ale-py registers."""


def register() -> None:
    """Make ale-py's ids known to Gymnasium."""
    import ale_py

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner from every rank


def ids() -> list[str]:
    """All ids that ale-py registers."""
    register()
    return [spec.id for spec in gym.registry.values() if spec.entry_point == CONSOLE]


def is_atari(env_id: str) -> bool:
    """Whether ale-py registers an id."""
    return env_id in ids()


def make_atari(env_id: str, settings: Atari | None = None, render_mode: str | None = None) -> Env:
    """An ale-py game as an environment with uint8 images of (size, size, channels).

    The channels are the stacked frames, the latest last; three per frame in colour.

    When an episode ends, the info has `GAME`: (return, length) of the whole game, or None if only
    a life was lost and the game goes on. Raises `gymnasium.error.Error` for an unknown id.
    """
    register()
    chosen = Atari() if settings is None else settings
    options: dict[str, Any] = {
        "frameskip": 1,  # the wrapper skips
        "obs_type": "ram",  # see `Screen`
        "max_num_frames_per_episode": chosen.max_frames,
    }
    if chosen.sticky_actions is not None:
        options["repeat_action_probability"] = chosen.sticky_actions
    env: Env = gym.make(env_id, render_mode=render_mode, disable_env_checker=True, **options)
    env = Frames(Score(Screen(env, chosen.grayscale)), chosen)
    env = Lives(env, chosen.episodic_life, chosen.fire_reset)
    return Stack(env, chosen.frame_stack)


class Screen(gym.Wrapper[Any, Any, Any, Any]):
    """Declares the screen as the observation space, without rendering it.

    `Frames` fetches only the frames it shows; rendering every frame takes a tenth of a step's time.
    """

    def __init__(self, env: Env, grayscale: bool) -> None:
        super().__init__(env)
        shape = env.unwrapped.ale.getScreenDims()  # type: ignore[attr-defined]
        shape = shape if grayscale else (*shape, 3)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)


class Score(gym.Wrapper[Any, Any, Any, Any]):
    """Adds up a game's points, including those of steps that the policy does not take."""

    total = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start a new game."""
        self.total = 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play one frame."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.total += float(reward)
        return observation, float(reward), terminated, truncated, info


class Frames(AtariPreprocessing):
    """Gymnasium's preprocessing, with optional pooling."""

    def __init__(self, env: Env, settings: Atari) -> None:
        # Backgammon and VideoCheckers have no action that does nothing.
        can_wait = env.unwrapped.get_action_meanings()[0] == "NOOP"  # type: ignore[attr-defined]
        super().__init__(
            env,
            noop_max=settings.noop_max if can_wait else 0,
            frame_skip=settings.frame_skip,
            screen_size=settings.screen_size,
            grayscale_obs=settings.grayscale,
            grayscale_newaxis=True,
        )
        self._pools = settings.max_pool

    def _get_obs(self) -> Any:
        if not self._pools:
            self.obs_buffer[1][...] = 0  # the maximum is then the last frame
        return super()._get_obs()  # type: ignore[no-untyped-call]


class Lives(gym.Wrapper[Any, Any, Any, Any]):
    """Ends an episode when a life is lost, and starts episodes that wait for FIRE.

    After a lost life the game goes on: `reset` without a seed returns its current observation.
    """

    def __init__(self, env: Env, episodic: bool, fire: bool) -> None:
        super().__init__(env)
        self._episodic = episodic
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self._fires = fire and len(meanings) > 2 and meanings[1] == "FIRE"
        self._lives = 0
        self._length = 0
        self._next: Any = None  # first observation of the next life, if any

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start the next life, or a new game."""
        if self._next is not None and seed is None and not options:
            observation, self._next = self._next, None
            return observation, {}
        self._next, self._length = None, 0
        observation, info = self.env.reset(seed=seed, options=options)
        if self._fires:
            observation, _, terminated, truncated, info = self.env.step(1)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        self._lives = self._count()
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one time step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._length += 1
        over, before, self._lives = terminated or truncated, self._lives, self._count()
        if self._episodic and not over and self._lives < before:
            terminated, self._next = True, observation
            if self._fires:  # here and not in `reset`, since it may end the game
                self._next, _, *ends, _ = self.env.step(1)
                over, self._lives = any(ends), self._count()
            self._next = None if over else self._next
        if terminated or truncated:
            game = (self.env.get_wrapper_attr("total"), self._length) if over else None
            info = info | {GAME: game}
        return observation, float(reward), terminated, truncated, info

    def _count(self) -> int:
        lives: int = self.unwrapped.ale.lives()  # type: ignore[attr-defined]
        return lives


class Stack(gym.Wrapper[Any, Any, Any, Any]):
    """Stacks the last `n` frames into one image, the latest in the last channels.

    An episode's first frame also stands in for those before it.

    Channels are put last once, here: in every pass of a network it would double the pass's time.
    """

    def __init__(self, env: Env, n: int) -> None:
        super().__init__(env)
        *sides, self._channels = env.observation_space.shape  # type: ignore[misc]
        shape = (*sides, n * self._channels)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self._shown = np.zeros(shape, np.uint8)
        self._n = n

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode."""
        picture, info = self.env.reset(seed=seed, options=options)
        self._shown[...] = np.tile(picture, self._n)
        return self._shown.copy(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one time step."""
        picture, reward, terminated, truncated, info = self.env.step(action)
        # Shifting all bytes moves each pixel's history along, ten times as fast as per pixel.
        flat = self._shown.reshape(-1)
        flat[: -self._channels] = flat[self._channels :]
        self._shown[..., -self._channels :] = picture
        return self._shown.copy(), float(reward), terminated, truncated, info
