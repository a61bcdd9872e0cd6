"""Environments whose right answers are known, as `toy_envs:Counter-v0` and so on."""

import itertools
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Counter(gym.Env[np.ndarray, Any]):
    """Observes [steps ever taken, episodes before this one, steps in this one].

    Step n, from 1, gives reward n. Episodes have 3, 4, 5, 3, 4, 5 ... steps, and end truly, by
    a time limit, and by both at once.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(2)
        self.total, self.episode, self.step_number = 0, -1, 0
        self.actions: list[Any] = []

    def observe(self) -> np.ndarray:
        return np.array([self.total, self.episode, self.step_number], np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode += 1
        self.step_number = 0
        return self.observe(), {}

    def step(self, action: Any) -> Step:
        self.actions.append(action)
        self.total += 1
        self.step_number += 1
        kind = self.episode % 3
        over = self.step_number == 3 + kind
        reward = float(self.total)
        return self.observe(), reward, over and kind != 1, over and kind != 0, {}


class Plain(Counter):
    """Takes no arguments, as an environment without pictures may."""

    def __init__(self) -> None:
        super().__init__()


class Constant(Counter):
    """Reward 1 at each of an episode's 5 steps, at the end of which it ends as `end` says."""

    def __init__(self, end: str = "terminated") -> None:
        super().__init__()
        self.end = end

    def step(self, action: Any) -> Step:
        observation, *_ = super().step(action)
        over = self.step_number == 5
        terminated = over and self.end == "terminated"
        return observation, 1.0, terminated, over and not terminated, {}


class Noisy(Counter):
    """Observes noise of its own stream, so that its seed shows."""

    def observe(self) -> np.ndarray:
        return self.np_random.standard_normal(3)


class Faulty(Noisy):
    """Goes wrong at step FAULT_STEP, in environment number FAULT_MADE (from 0) of rank FAULT_RANK.

    FAULT says how: `raise`, `exit`, `hang`, `spin` in C code, `shape` of an observation, or
    `observation`, `reward` for a NaN there. The file FAULT_TIME then holds the time.
    """

    made = 0

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
        # The checks at the start make three more, on rank 0.
        mine = Faulty.made - 3 * (rank == "0")
        Faulty.made += 1
        asked = (os.environ["FAULT_RANK"], os.environ["FAULT_MADE"])
        self.fault = os.environ["FAULT"] if (rank, str(mine)) == asked else ""

    def step(self, action: Any) -> Step:
        observation, _, *rest = super().step(action)
        reward = 0.0
        if self.fault and self.total == int(os.environ["FAULT_STEP"]):
            Path(os.environ["FAULT_TIME"]).write_text(str(time.time()), encoding="utf-8")
            if self.fault == "raise":
                raise ValueError("the toy broke")
            if self.fault == "exit":
                sys.exit()
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "spin":
                re.match("(a+)+b", "a" * 60)  # takes for ever, and keeps Python's lock
            if self.fault == "shape":
                observation = observation[:2]
            elif self.fault == "reward":
                reward = np.nan
            else:
                observation[1] = np.nan
        return observation, reward, *rest


class Stateless(Counter):
    """Keeps what it counts where nothing can read it."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks = iter(itertools.count())

    def step(self, action: Any) -> Step:
        next(self.ticks)
        return super().step(action)


class Endless(Counter):
    """One episode for ever, without a time limit."""

    def step(self, action: Any) -> Step:
        observation, reward, *_ = super().step(action)
        return observation, reward, False, False, {}


class Strange(Counter):
    """Spaces that can't be trained on: STRANGE says which."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        if os.environ["STRANGE"] == "observation":
            self.observation_space = gym.spaces.Text(3)  # type: ignore[assignment]
        else:
            self.action_space = gym.spaces.Text(2)


for toy in (Counter, Plain, Constant, Noisy, Faulty, Stateless, Endless, Strange):
    name = toy.__name__
    gym.register(f"{name}-v0", f"{__name__}:{name}", order_enforce=False, disable_env_checker=True)
gym.register("Limited-v0", f"{__name__}:Endless", max_episode_steps=7)
