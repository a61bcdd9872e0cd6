"""Atari games: what lies between them and the policy, and runs that are resumed in mid-game."""

import itertools
import sys
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from conftest import Run, started

from trpo_mpi.config import Atari
from trpo_mpi.envs import atari
from trpo_mpi.envs.atari import GAME
from trpo_mpi.envs.capture import find_fault
from trpo_mpi.envs.make import check_env
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.errors import UsageError

PLAIN = Atari(noop_max=0, fire_reset=False, episodic_life=False)
"""Settings under which games can be compared with ale-py's own vector environment."""


def reference(game: str, **changes: Any) -> ale_py.AtariVectorEnv:
    """ale-py's C++ implementation of the same steps, one environment."""
    settings = {"noop_max": 0, "use_fire_reset": False, "reward_clipping": False} | changes
    return ale_py.AtariVectorEnv(game, 1, num_threads=1, **settings)


@pytest.mark.parametrize(
    ("game", "settings", "changes"),
    [
        ("Pong", {}, {}),
        ("Breakout", {}, {}),
        ("SpaceInvaders", {"frame_skip": 3}, {"frameskip": 3}),
        ("Seaquest", {"screen_size": 64}, {"img_height": 64, "img_width": 64}),
        ("Breakout", {"max_pool": False}, {"maxpool": False}),
        ("Qbert", {"frame_stack": 2}, {"stack_num": 2}),
        ("Pong", {"max_frames": 400}, {"max_num_frames_per_episode": 400}),
    ],
    ids=str,
)
def test_pictures_rewards_and_ends_are_those_of_ale_py(
    game: str, settings: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Pixel by pixel, over 300 steps."""
    chosen = Atari(**(vars(PLAIN) | settings))
    env = atari.make_atari(f"{game}NoFrameskip-v4", chosen)
    name = "space_invaders" if game == "SpaceInvaders" else game.lower()
    other = reference(name, **changes)
    env.reset(seed=0)
    other.reset(seed=np.array([0]))
    env.action_space.seed(0)
    for number in range(300):
        action = env.action_space.sample()
        mine, reward, terminated, truncated, _ = env.step(action)
        its, *numbers, _ = other.step(np.array([action]))
        assert [reward, terminated, truncated] == [x[0] for x in numbers]
        if number >= chosen.frame_stack:  # at the start the stack holds the first picture there
            np.testing.assert_array_equal(np.moveaxis(mine, 2, 0), its[0])
        if terminated or truncated:
            break
    assert (number == 99) == (chosen.max_frames == 400)


def test_the_shape_of_an_observation() -> None:
    spaces = {
        settings: atari.make_atari("ALE/Pong-v5", settings).observation_space
        for settings in (Atari(), Atari(frame_stack=1), Atari(grayscale=False, screen_size=42))
    }
    shapes = [(84, 84, 4), (84, 84, 1), (42, 42, 12)]
    for space, shape in zip(spaces.values(), shapes, strict=True):
        assert space == gym.spaces.Box(0, 255, shape, np.uint8)


def test_the_latest_picture_stands_last() -> None:
    env = atari.make_atari("BreakoutNoFrameskip-v4")
    first, _ = env.reset(seed=0)
    assert all(np.array_equal(first[:, :, 0], first[:, :, i]) for i in range(4))
    pictures = [env.step(3)[0] for _ in range(6)]
    for one, after in itertools.pairwise(pictures):
        np.testing.assert_array_equal(one[:, :, 1:], after[:, :, :3])
    assert not np.array_equal(pictures[-1][:, :, 3], pictures[-1][:, :, 2])


def play(env: gym.Env[Any, Any], games: int, seed: int = 0) -> list[tuple[int, Any, float]]:
    """(length, game, points) of each episode, over `games` games of random actions."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    episodes, length, points = [], 0, 0.0
    while games:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        length, points = length + 1, points + float(reward)
        if terminated or truncated:
            episodes.append((length, info[GAME], points))
            games -= info[GAME] is not None
            length, points = 0, 0.0
            env.reset()
    return episodes


@pytest.mark.parametrize("env_id", ["BreakoutNoFrameskip-v4", "ALE/SpaceInvaders-v5"])
def test_a_lost_life_ends_an_episode_and_not_the_game(env_id: str) -> None:
    lives = 5 if "Breakout" in env_id else 3
    episodes = play(atari.make_atari(env_id), 3)
    assert len(episodes) == 3 * lives
    for first in range(0, 3 * lives, lives):
        game = episodes[first : first + lives]
        assert [whole for _, whole, _ in game[:-1]] == [None] * (lives - 1)
        # No points are made while FIRE is pressed, here.
        assert game[-1][1] == (sum(p for *_, p in game), sum(n for n, *_ in game))


def test_whole_games_as_episodes() -> None:
    for length, game, points in play(atari.make_atari("ALE/Breakout-v5", PLAIN), 3):
        assert game == (points, length)


def test_each_life_of_breakout_starts_with_the_ball_in_play() -> None:
    """Without FIRE the ball would never come; with it, no-ops alone lose each life."""
    env = atari.make_atari("BreakoutNoFrameskip-v4", Atari(noop_max=0))
    env.reset(seed=0)
    ends = [any(env.step(0)[2:4]) and env.reset() is not None for _ in range(200)]
    assert sum(ends) >= 4
    env = atari.make_atari("BreakoutNoFrameskip-v4", PLAIN)
    env.reset(seed=0)
    assert not any(env.step(0)[2] for _ in range(200))


def test_no_ops_and_seeds() -> None:
    """A seed fixes the number of no-ops; other seeds change it."""
    env = atari.make_atari("FreewayNoFrameskip-v4")
    starts = [env.reset(seed=seed)[0].tobytes() for seed in (1, 2, 3, 1)]
    assert starts[0] == starts[3]
    assert len(set(starts)) == 3


def test_games_without_a_no_op_begin_without() -> None:
    atari.make_atari("ALE/Backgammon-v5").reset(seed=0)


def test_sticky_actions_are_the_ids_own_or_as_asked() -> None:
    def chance(env_id: str, asked: float | None) -> float:
        env = atari.make_atari(env_id, Atari(sticky_actions=asked))
        return float(env.unwrapped.ale.getFloat("repeat_action_probability"))  # type: ignore[attr-defined]

    assert chance("ALE/Pong-v5", None) == 0.25
    assert chance("PongNoFrameskip-v4", None) == 0
    assert chance("PongNoFrameskip-v4", 0.25) == 0.25
    assert chance("ALE/Pong-v5", 0.0) == 0


def test_environments_together_give_what_each_gives_alone() -> None:
    """Also across lives, and with sticky actions."""

    def steps(columns: range) -> list[tuple[bytes, ...]]:
        makers = [lambda: atari.make_atari("ALE/Breakout-v5")] * len(columns)
        envs = ColumnEnvs(makers, columns)
        first, _ = envs.reset(seed=[10 + column for column in columns])
        taken = [(first,)]
        stream = np.random.default_rng(0)
        for _ in range(150):
            actions = stream.integers(0, 4, 3)[list(columns)]
            taken.append(envs.step(actions)[:4])
        return [
            tuple(
                np.stack([x[i] for x in part]).tobytes() for part in (zip(*taken[1:], strict=True))
            )
            for i in range(len(columns))
        ]

    together = steps(range(3))
    assert [steps(range(i, i + 1))[0] for i in range(3)] == together
    assert len(set(together)) == 3


@pytest.mark.parametrize(
    "env_id", ["ALE/Breakout-v5", "PongNoFrameskip-v4", "SeaquestNoFrameskip-v0"]
)
def test_the_state_of_a_game_can_be_carried_over(env_id: str) -> None:
    assert find_fault(lambda: atari.make_atari(env_id)) is None


@pytest.mark.parametrize(
    ("env_id", "settings", "words"),
    [
        ("Pnog-v4", Atari(), ["Pong-v4"]),
        ("ALE/Pongg-v5", Atari(), ["ALE/Pong-v5"]),
        ("Hopper-v4", Atari(), ["no Atari game", "run_mujoco"]),
    ],
)
def test_what_is_no_game_is_refused(env_id: str, settings: Atari, words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"^--env {env_id}") as refusal:
        check_env(env_id, atari=settings)
    for word in words:
        assert word in str(refusal.value)


RUN = ["--env", "ALE/Breakout-v5", "--num-envs", "3", "--timesteps-per-batch", "96"]
RUN += ["--cg-iters", "3", "--vf-iters", "1", "--screen-size", "42"]


def test_a_run_is_the_same_on_any_number_of_ranks_and_resumed(
    tmp_path: Any, python: Run, mpirun: Run
) -> None:
    """In mid-game, sticky actions and lost lives included."""
    train = ["-m", "trpo_mpi.run_atari", *RUN]
    result = python(*train, "--num-timesteps", "960", "--outdir", "one")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    result = mpirun(2, *train, "--num-timesteps", "960", "--max-iterations", "4", "--outdir", "two")
    assert result.returncode == 0, result.stderr
    result = mpirun(3, *train, "--resume", "two", "--max-iterations", "100")
    assert result.returncode == 0, result.stderr
    one, two = ((tmp_path / name / "model.zip").read_bytes() for name in ("one", "two"))
    assert one == two
    rows = (tmp_path / "one" / "monitor.csv").read_text().splitlines()[2:]
    assert rows
    result = python("-m", "trpo_mpi.evaluate", "two", "--episodes", "2")
    assert result.returncode == 0, result.stderr
    for command in (["--resume", "one"], ["--env", "ALE/Pong-v5"], ["--env", "Pong-v4"]):
        result = python("-m", "trpo_mpi.run_mujoco", *command)
        assert result.returncode == 2
        assert "run_atari" in result.stderr


def test_starts_without_arguments(tmp_path: Path) -> None:
    with started([sys.executable, "-m", "trpo_mpi.run_atari"], tmp_path) as process:
        assert process.stdout is not None
        game, _, batch = (process.stdout.readline() for _ in range(3))
    assert ": PongNoFrameskip-v4, 10,000,000 time steps, seed 0\n" in game
    assert batch.startswith("batch 4096 = 16 envs x 256 steps, on 1 rank")
