"""An environment whose pictures tell the step, as `film_envs:Film-v0`."""

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np


def brightness(step: int) -> int:
    """The value of every pixel of the picture after `step` steps."""
    return 20 + 25 * step


class Film(gym.Env[Any, Any]):
    """Episodes of 3 to 7 steps, each paying its action; pictures have odd sides.

    Pictures take FILM_SECONDS each, and FILM_FAULT makes them fail with these words.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(3, 8))
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return observation, float(action[0]), self.steps == self.length, False, {}

    def render(self) -> Any:
        time.sleep(float(os.environ.get("FILM_SECONDS", "0")))
        if "FILM_FAULT" in os.environ:
            raise RuntimeError(os.environ["FILM_FAULT"])
        return np.full((321, 35, 3), brightness(self.steps), np.uint8)


gym.register("Film-v0", Film, disable_env_checker=True)
