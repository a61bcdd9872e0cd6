"""CartPole-v1 that takes its time, as `slow_envs:SlowCartPole-v0`."""

import os
import time
from typing import Any

import gymnasium as gym

SECONDS = float(os.environ.get("SECONDS_A_STEP", "0"))


class SlowCartPole(gym.Wrapper[Any, Any, Any, Any]):
    """It behaves as CartPole at any pace: runs at two paces have the same result."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gym.make("CartPole-v1", render_mode=render_mode))

    def step(self, action: Any) -> Any:
        time.sleep(SECONDS)
        return super().step(action)


gym.register("SlowCartPole-v0", f"{__name__}:SlowCartPole", disable_env_checker=True)
