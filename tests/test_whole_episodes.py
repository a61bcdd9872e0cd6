"""Batches of whole episodes, the critic's second batch, the time feature: Coady's recipe."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run
from test_ranks import exact_parts
from test_rollout import Rollout
from toy_envs import Counter
from toy_training import toy_trainer

from trpo_mpi import memory
from trpo_mpi.config import AtariConfig, Config
from trpo_mpi.envs.capture import find_fault
from trpo_mpi.envs.make import make_env, time_limit
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import Grid, batch_grid, largest_grid
from trpo_mpi.rollout import Batch

COADY = (
    "--env InvertedDoublePendulum-v4 --recipe coady --num-envs 5 --episodes-per-batch 10 "
    "--max-iterations 6"
)


class Uneven(Counter):
    """A `Counter` whose first episode is number `first`: then it has 3 + first % 3 steps."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.episode = first - 1


def collected(firsts: list[int], columns: list[int], episodes: list[int]) -> list[Batch]:
    """Batches of the given numbers of episodes, of environments with these first episodes."""
    makers = [partial(Uneven, first) for first in firsts]
    rollout = Rollout(makers, columns)
    return [
        rollout.sampler.collect_episodes(rollout.actor, rollout.normalizer, n) for n in episodes
    ]


def test_each_environment_plays_its_episodes_and_no_step_more() -> None:
    batches = collected([0, 1, 2], [0, 1, 2], [1, 2, 30])
    lengths = ([3, 4, 5], [4 + 5, 5 + 3, 3 + 4], [30 * 4] * 3)
    taken = np.zeros(3)
    for batch, expected, n in zip(batches, lengths, [1, 2, 30], strict=True):
        assert batch.mask.sum(axis=1).tolist() == expected
        assert batch.mask.shape == (3, max(expected))
        ended = (batch.terminated | batch.truncated) & batch.mask
        assert ended.sum(axis=1).tolist() == [n] * 3
        assert len(batch.episodes) == 3 * n
        for i, steps in enumerate(expected):
            assert batch.mask[i, :steps].all()
            assert batch.raw_observations is not None
            assert np.array_equal(batch.raw_observations[i, :steps, 0], taken[i] + range(steps))
            assert np.array_equal(batch.rewards[i, :steps], taken[i] + np.arange(1, steps + 1))
            assert batch.raw_observations[i, 0, 2] == 0  # from an episode's first step
        assert batch.ended[:, -1].all()
        taken += expected


def test_only_time_limits_are_cut() -> None:
    (batch,) = collected([0, 1, 2], [0, 1, 2], [3])
    cut = batch.truncated & ~batch.terminated & batch.mask
    assert sorted(batch.cuts) == sorted(zip(*np.nonzero(cut), strict=True))
    assert len(batch.cuts) == 3


def test_a_column_does_not_depend_on_how_long_others_go_on() -> None:
    together = collected([0, 1, 2], [0, 1, 2], [40, 7])
    alone = collected([1], [1], [40, 7])
    for many, one in zip(together, alone, strict=True):
        steps = one.mask.shape[1]
        for name in ("raw_observations", "actions", "rewards", "terminated", "truncated", "mask"):
            assert np.array_equal(getattr(many, name)[1, :steps], getattr(one, name)[0]), name
        assert not many.mask[1, steps:].any()


def test_a_trainer_counts_whole_episodes() -> None:
    trainer = toy_trainer(partial(Uneven, 1), episodes_per_batch=6, num_envs=3)
    rows = [trainer.iterate().row for _ in range(4)]
    assert [row["episodes"] for row in rows] == [6, 12, 18, 24]
    assert [row["timesteps_per_batch"] for row in rows] == [27, 21, 24, 27]  # 4+5, 3+4, 5+3 ...
    assert all(np.isfinite(row["kl"]) for row in rows[1:])


@pytest.mark.parametrize(
    ("settings", "ranks", "words"),
    [
        ({}, 21, "--episodes-per-batch 20 leaves some of 21 ranks"),
        ({"num_envs": 4}, 5, "--num-envs 4 leaves some of 5 ranks"),
        ({"num_envs": 3}, 1, "not a multiple of --num-envs 3; use 18 or 21"),
        ({"num_envs": 30}, 1, "not a multiple of --num-envs 30; use 30"),
    ],
)
def test_grids_that_do_not_go(settings: dict[str, Any], ranks: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        batch_grid(Config(episodes_per_batch=20, **settings), ranks)


def test_grid() -> None:
    assert batch_grid(Config(episodes_per_batch=20), 20) == Grid(20, 0, 1)
    assert batch_grid(Config(episodes_per_batch=20, num_envs=5), 2) == Grid(5, 0, 4)
    assert Grid(5, 0, 4).rows(256) == 51
    assert Grid(16, 75).rows(4096) == 256  # a batch that is adapted may grow that large


@pytest.mark.parametrize(
    "settings", [{"timesteps_per_batch": 2048}, {"adapt": "batch"}, {"adapt": "both"}]
)
def test_a_batch_is_counted_one_way(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="and --episodes-per-batch 20: set only one"):
        Config(episodes_per_batch=20, **settings).validate()


def test_memory_of_the_longest_episodes_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(episodes_per_batch=20)
    assert time_limit(make_env("Hopper-v5"), None) == 1000
    assert time_limit(make_env("toy_envs:Limited-v0"), None) == 7
    assert time_limit(make_env("toy_envs:Counter-v0"), None) is None
    assert time_limit(Counter(), None) is None
    assert time_limit(Counter(), AtariConfig().atari) == 27_000
    grid = largest_grid(config, batch_grid(config, 1), 1000)
    assert grid.timesteps == 20_000
    spaces = Spaces(gym.spaces.Box(-1, 1, (11,)), gym.spaces.Box(-1, 1, (3,)))
    monkeypatch.setattr(memory, "available", lambda: 2 * 10**6)
    warning = memory.check_batch(config, grid, spaces, 1, 20)
    assert warning is not None
    assert re.match(r"--episodes-per-batch 20 takes up to .* if episodes are that long", warning)
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    assert memory.check_batch(config, grid, spaces, 1, 20) is None


class Parts(Counter):
    """Observes [5], [6] and [7], under names between which `time` would be sorted."""

    def __init__(self) -> None:
        super().__init__()
        one = gym.spaces.Box(0, 10, (1,), np.float64)
        self.observation_space = gym.spaces.Dict({"v": one, "u": one, "a": one})  # type: ignore[assignment]

    def observe(self) -> Any:
        return {"u": np.full(1, 6.0), "v": np.full(1, 7.0), "a": np.full(1, 5.0)}


def test_time_feature() -> None:
    env = make_env("CartPole-v1", time_feature=True)
    first, _ = env.reset(seed=0)
    assert first.shape == (5,)
    shares = [first[4], *(env.step(0)[0][4] for _ in range(3))]
    assert shares == pytest.approx([0, 1 / 500, 2 / 500, 3 / 500])
    assert env.reset()[0][4] == 0
    gym.register("Parts-v0", Parts, max_episode_steps=20)
    parts = make_env("Parts-v0", time_feature=True)
    assert parts.reset(seed=1)[0].tolist() == [5, 6, 7, 0]  # a, u, v
    assert parts.step(0)[0].tolist() == pytest.approx([5, 6, 7, 0.05])
    assert find_fault(lambda: make_env("Parts-v0", time_feature=True), lambda: None) is None
    with pytest.raises(UsageError, match="--time-feature: toy_envs:Counter-v0 has no time limit"):
        make_env("toy_envs:Counter-v0", time_feature=True)
    with pytest.raises(UsageError, match="not images"):
        AtariConfig(time_feature=True).validate()


def test_the_same_bits_on_1_2_3_ranks_and_resumed(tmp_path: Path, python: Run, mpirun: Run) -> None:
    command = ["-m", "trpo_mpi.run_mujoco", *COADY.split(), "--outdir"]
    whole = python(*command, tmp_path / "1")
    assert whole.returncode == 0, whole.stderr
    assert "batch of 10 whole episodes = 5 envs x 2 episodes" in whole.stdout
    expected = exact_parts(tmp_path / "1")
    for n in (2, 3):
        result = mpirun(n, *command, tmp_path / str(n))
        assert result.returncode == 0, result.stderr
        assert exact_parts(tmp_path / str(n)) == expected
    result = mpirun(2, *command, tmp_path / "half", "--max-iterations", "3")
    assert result.returncode == 0, result.stderr
    result = python(*command, tmp_path / "half", "--resume", "auto")
    assert result.returncode == 0, result.stderr
    assert exact_parts(tmp_path / "half") == expected


def test_it_is_evaluated_as_it_was_trained(tmp_path: Path, python: Run) -> None:
    short = "--env CartPole-v1 --time-feature --num-timesteps 4096 --outdir".split()
    assert python("-m", "trpo_mpi.run_mujoco", *short, tmp_path / "run").returncode == 0
    result = python("-m", "trpo_mpi.evaluate", tmp_path / "run", "--episodes", "3")
    assert result.returncode == 0, result.stderr
