"""`evaluate`: the same episodes on any number of ranks, and returns worked out by hand."""

import csv
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run
from toy_policies import mlp_critic, mlp_policy

from trpo_mpi.envs.make import check_env
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import EnvironmentFault, UsageError
from trpo_mpi.evaluate import Evaluation, evaluate, main, table
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.run_directory import model_file
from trpo_mpi.run_directory.model_file import Model
from trpo_mpi.state import EPISODE, stream


class SumOfActions(gym.Env[np.ndarray, np.ndarray]):
    """Rewards the action it is given; observes a number of its own stream, 4 steps long."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.left = 0
        self.fault_at = -1

    def observe(self) -> np.ndarray:
        value = np.nan if self.left == self.fault_at else self.np_random.normal(3, 2)
        return np.array([value])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 4
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.left -= 1
        return self.observe(), float(action[0]), self.left == 0, False, {}


def model_of(env_id: str, spaces: Spaces, theta: np.ndarray, net_arch: tuple[int, ...]) -> Model:
    size = spaces.observation_size
    normalizer = ObservationNormalizer(Moments(4.0, np.full(size, 3.0), np.full(size, 16.0)))
    critic = mlp_critic(size, net_arch).num_parameters
    nothing = np.zeros(critic, np.float32)
    adam = {"steps": 0, "m": nothing, "v": nothing}
    architecture = Architecture(net_arch=net_arch)
    return Model(env_id, architecture, spaces, theta, nothing, normalizer, None, adam)


def linear_model(env: SumOfActions) -> Model:
    """Mean action 0.5 * (observation - 3) / 2 + 0.25, standard deviation e^-1."""
    spaces = Spaces(env.observation_space, env.action_space)
    return model_of("SumOfActions-v0", spaces, np.array([0.5, 0.25, -1], np.float32), ())


@pytest.fixture
def hopper(tmp_path: Path) -> Path:
    """The model.zip of a policy that hops a few steps: its episodes differ in length."""
    spaces = check_env("Hopper-v5")
    policy = mlp_policy(spaces.observation_size, spaces.action, (16,), -0.5)
    theta = policy.initialise(np.random.default_rng(7))
    theta[:-3] += np.random.default_rng(8).normal(0, 0.3, len(theta) - 3).astype(np.float32)
    path = tmp_path / "model.zip"
    model_file.save(path, model_of("Hopper-v5", spaces, theta, (16,)))
    return path


@pytest.mark.parametrize("deterministic", [False, True])
def test_returns_are_those_worked_out_from_the_streams(deterministic: bool) -> None:
    env = SumOfActions()
    settings = Evaluation("", episodes=5, deterministic=deterministic, seed=3)
    results = evaluate(settings, linear_model(env), env, Communicator(None))
    for number, (total, length) in enumerate(results):
        start, noise = stream(3, EPISODE, number).spawn(2)
        first, _ = env.reset(seed=int(start.generate_state(1)[0]))
        observations = np.concatenate([first, *(env.observe() for _ in range(3))])
        means = 0.5 * (observations - 3) / 2 + 0.25
        drawn = np.random.default_rng(noise).standard_normal(4, np.float32)
        actions = means if deterministic else means + np.exp(-1) * drawn
        assert total == pytest.approx(np.clip(actions, -1, 1).sum(), rel=1e-5)
        assert length == 4


def test_an_observation_that_is_not_finite_ends_it() -> None:
    env = SumOfActions()
    env.fault_at = 1
    with pytest.raises(EnvironmentFault, match="step 3 of evaluation episode 0"):
        evaluate(Evaluation(""), linear_model(env), env, Communicator(None))


def test_table_by_hand() -> None:
    text = table(Evaluation("", episodes=2), "Toy-v0", np.array([[1.0, 10], [4.0, 12]]))
    assert text.splitlines()[0] == "Toy-v0: 2 episodes, stochastic policy, seed 0"
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["return", "2.50", "1.50", "1.00", "4.00"],
        ["length", "11.00", "1.00", "10.00", "12.00"],
    ]
    assert table(Evaluation("", episodes=1), "Toy-v0", np.ones((1, 2))).splitlines()[2].split() == [
        "return", "1.00", "-", "1.00", "1.00",
    ]  # fmt: skip


@pytest.mark.parametrize("episodes", [7, 2])
def test_same_bytes_on_any_number_of_ranks(
    hopper: Path, python: Run, mpirun: Run, episodes: int
) -> None:
    arguments = ("-m", "trpo_mpi.evaluate", hopper, "--episodes", episodes)
    jobs = [lambda: python(*arguments), *(lambda n=n: mpirun(n, *arguments) for n in (2, 3))]
    seen = set()
    for job in jobs:
        result = job()
        assert result.returncode == 0, result.stderr
        seen.add((hopper.with_name("evaluation.csv").read_bytes(), result.stdout))
    assert len(seen) == 1
    content, _ = seen.pop()
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [row["episode"] for row in rows] == [str(k) for k in range(episodes)]
    assert len({row["return"] for row in rows}) == episodes
    assert {row["mode"] for row in rows} == {"stochastic"}


def test_episodes_do_not_depend_on_how_many_there_are(hopper: Path, python: Run) -> None:
    contents = []
    for episodes in (2, 4):
        python("-m", "trpo_mpi.evaluate", hopper.parent, "--episodes", episodes, "--deterministic")
        contents.append(hopper.with_name("evaluation.csv").read_text())
    assert contents[1].startswith(contents[0])
    assert contents[0].count("deterministic") == 2


def test_tensorflow_is_not_imported(hopper: Path, python: Run) -> None:
    script = (
        "import sys; from trpo_mpi import evaluate; "
        f"sys.argv[1:] = [{str(hopper)!r}, '--episodes', '1']; "
        "evaluate.main(); print('tensorflow' in sys.modules)"
    )
    assert python("-c", script).stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DIR"),
        (["nowhere"], "there is no nowhere"),
        (["."], "there is no model.zip"),
        (["model.zip", "--episodes", "0"], "--episodes is 0"),
        (["model.zip", "--seed", "-1"], "--seed is -1"),
    ],
)
def test_wrong_usage_is_one_line(mpirun: Run, arguments: list[str], message: str) -> None:
    result = mpirun(2, "-m", "trpo_mpi.evaluate", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Hopper-v5", "has observation space"),
        ("Nothing-v0", "needs an environment: Nothing-v0: Gymnasium knows no"),
    ],
)
def test_model_and_environment_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_id: str, message: str
) -> None:
    model = linear_model(SumOfActions())
    model.env = env_id
    model_file.save(tmp_path / "model.zip", model)
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path)])
    with pytest.raises(UsageError, match=message):
        main()


def test_unwritable_result_is_one_line_after_the_table(hopper: Path, python: Run) -> None:
    hopper.with_name("evaluation.csv").mkdir()
    result = python("-m", "trpo_mpi.evaluate", hopper, "--episodes", 1)
    assert result.returncode == 2
    assert "return" in result.stdout
    assert "evaluation.csv can't be written" in result.stderr.splitlines()[-1]
    assert not list(hopper.parent.glob(".*.tmp"))
