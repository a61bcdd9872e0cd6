"""A run's counters, what a rank may ask of all ranks, and the keys of the random streams."""

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trpo_mpi.config import Config

EPISODES_REPORTED = 100


@dataclass
class Counters:
    """How far a run is, and its latest episodes; equal on all ranks."""

    iteration: int = 0
    timesteps: int = 0
    """Steps of all environments, unfinished episodes included."""
    episodes: int = 0
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=EPISODES_REPORTED))
    """Raw returns of the latest episodes of all ranks."""
    lengths: deque[int] = field(default_factory=lambda: deque(maxlen=EPISODES_REPORTED))

    def tree(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        return {
            "iteration": self.iteration,
            "timesteps": self.timesteps,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Counters":
        """The counters that `tree` was called on."""
        latest = {name: deque(tree[name], EPISODES_REPORTED) for name in ("returns", "lengths")}
        return cls(tree["iteration"], tree["timesteps"], tree["episodes"], **latest)

    @property
    def return_mean(self) -> float:
        """Mean raw return of the latest 100 episodes; NaN before the first."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    @property
    def length_mean(self) -> float:
        """Mean length of the latest 100 episodes, in time steps; NaN before the first."""
        return float(np.mean(self.lengths)) if self.lengths else float("nan")

    def steps_left(self, config: Config, num_envs: int) -> int:
        """Horizon that ends the run as close to `num_timesteps` as the grid allows."""
        return round((config.num_timesteps - self.timesteps) / num_envs)

    def limit_reached(self, config: Config, num_envs: int) -> str | None:
        """Which limit a run with these settings has reached, in words; None if it goes on."""
        if self.timesteps and self.steps_left(config, num_envs) <= 0:
            return "done"
        if config.max_iterations and self.iteration >= config.max_iterations:
            return f"--max-iterations {config.max_iterations} reached"
        if config.max_episodes and self.episodes >= config.max_episodes:
            return f"--max-episodes {config.max_episodes} reached"
        full = len(self.returns) == self.returns.maxlen
        if config.stop_return is not None and full and self.return_mean >= config.stop_return:
            return f"--stop-return {config.stop_return:g} reached"
        return None


class Wish(enum.IntEnum):
    """What a rank may ask of all ranks; after the iteration all follow the greatest wish."""

    NOTHING = 0
    CHECKPOINT = 1
    STOP = 2


def seed_sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """The seed sequence for one purpose; see the keys below."""
    return np.random.SeedSequence(seed, spawn_key=key)


POLICY, CRITIC, ROWS, COLUMN, EPISODE, RESTART = range(6)
"""Keys of the streams: initial policy, initial critic, choices of time steps (shared by all
ranks), columns (followed by the global index), evaluation episodes (followed by their number),
episodes begun by a resumed run (followed by iteration and column)."""
