"""Rows of progress.csv, made up: what a `Display` is shown."""

import math
from typing import Any

N = 48
BATCH = 2048

Rows = dict[str, Any]


def row(i: int, algo: str = "trpo") -> Rows:
    """The row of iteration `i` of `N`: 0.5 s between two, 0.4 s of them in the trainer."""
    learnt: Rows = {
        "kl": 0.0093,
        "entropy": 4.25,
        "step_fraction": 0.64,
        "explained_variance": 0.87,
        "max_kl": 0.0095,
        "policy_seconds": 0.06,
        "critic_seconds": 0.02,
        **{"trpo": {}, "ppo": {"clip_range": 0.2}, "kl-penalty": {"beta": 1.5}}[algo],
    }
    return {
        "iteration": i,
        "timesteps": BATCH * i,
        "episode_return_mean": math.nan if i == 1 else 100.0 * i,
        "episode_length_mean": 10.0 * i,
        "timesteps_per_batch": BATCH,
        "steps_per_second": BATCH / 0.4,
        "seconds": 0.5 * i,
        "sample_seconds": 0.3,
        "mpi_seconds": 0.02,
        "memory_mb": 731.0,
    } | (learnt if i > 1 else {})
