"""Environments that take a memory, or eyes, as `memory_envs:NAME`."""

from typing import Any

import gymnasium as gym
import numpy as np


class Positions(gym.ObservationWrapper[Any, Any, Any]):
    """CartPole-v1 without its two velocities."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gym.make("CartPole-v1", render_mode=render_mode))
        whole = self.env.observation_space
        assert isinstance(whole, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(whole.low[::2], whole.high[::2])

    def observation(self, observation: Any) -> Any:
        return observation[::2]


class Cue(gym.Env[Any, Any]):
    """The cue is shown in the first step only, and must be named ten steps later."""

    WAIT = 10
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: Any) -> Any:
        asked = self.steps == self.WAIT
        self.steps += 1
        observation = np.array([0, self.steps == self.WAIT], np.float32)
        return observation, float(asked and action == self.cue), asked, False, {}


class Picture(gym.Env[Any, Any]):
    """One of four corners is bright; naming it pays 1. Episodes last 3 to 7 steps."""

    observation_space = gym.spaces.Box(0, 255, (24, 20, 2), np.uint8)
    action_space = gym.spaces.Discrete(4, start=-1)

    def _show(self) -> Any:
        picture = self.np_random.integers(0, 100, (24, 20, 2), np.uint8)
        self.corner = int(self.np_random.integers(4))
        row, column = divmod(self.corner, 2)
        picture[12 * row : 12 * row + 12, 10 * column : 10 * column + 10] += 150
        return picture

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 8))
        return self._show(), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        reward = float(action + 1 == self.corner)
        return self._show(), reward, self.left == 0, False, {}


for name, kind in (("Positions", Positions), ("Cue", Cue), ("Picture", Picture)):
    gym.register(f"{name}-v0", kind, disable_env_checker=True)
