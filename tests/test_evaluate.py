"""`evaluate`: the same episodes on any number of ranks, and returns worked out by hand."""

import csv
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run
from toy_policies import mlp_critic, mlp_policy

from trpo_mpi.envs.atari import GAME
from trpo_mpi.envs.make import check_env
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import EnvironmentFault, UsageError
from trpo_mpi.evaluate import Evaluation, Table, main
from trpo_mpi.evaluation import Behaviour, Summary, play_episodes
from trpo_mpi.model import Model
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.run_directory import model_file
from trpo_mpi.state import EPISODE, seed_sequence


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


def play(env: SumOfActions, deterministic: bool = False) -> np.ndarray:
    model = linear_model(env)
    act = Behaviour(model.actor(), model.normalizer, deterministic)
    return play_episodes(env, act, Communicator(None), 5, 3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_returns_are_those_worked_out_from_the_streams(deterministic: bool) -> None:
    env = SumOfActions()
    results = play(env, deterministic)
    for number, (total, length) in enumerate(results):
        start, noise = seed_sequence(3, EPISODE, number).spawn(2)
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
        play(env)


class Lives(SumOfActions):
    """Episodes are the three lives of a game, which reports its own return and length."""

    life = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.life = self.life % 3 + 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        observation, _, ended, *_ = super().step(action)
        return observation, 0.5, ended, False, {GAME: (100.0, 12) if self.life == 3 else None}


def test_of_an_environment_with_lives_whole_games_count() -> None:
    env = Lives()
    assert play(env).tolist() == [[100.0, 12.0]] * 5
    assert env.life == 3


def test_summary_by_hand() -> None:
    """The deviation of 1, 2, 6, 11 is the root of 62 / 3; their mean's standard error is half."""
    results = np.array([[6.0, 10], [1.0, 12], [11.0, 11], [2.0, 14]])
    summary = Summary.of(results)
    assert summary == Summary(4, 5.0, pytest.approx((62 / 3) ** 0.5 / 2), 4.0, 1.0, 11.0, 11.75)
    assert Summary.of(results[:1]) == Summary(1, 6.0, None, 6.0, 6.0, 6.0, 10.0)


def test_table_of_one_run_and_of_several() -> None:
    summary = Summary(2, 2.5, 1.5, 2.0, 1.0, 4.0, 11.0)
    one = Table(Evaluation(("runs/a",), episodes=2), ["Toy-v0"])
    about, head = one.head.splitlines()
    assert about == "Toy-v0: 2 episodes, stochastic policy, seed 0"
    assert "environment" not in head  # it stands above
    cells = ["runs/a", "2.50", "1.50", "2.00", "1.00", "4.00", "11.00"]
    row = one.row("runs/a", "Toy-v0", summary)
    assert row.split() == cells
    assert len(row) == len(head)
    runs = ("runs/a", "runs/with-a-long-name")
    several = Table(Evaluation(runs, "best", 2, True, 5), ["Toy-v0", "AnotherToy-v0"])
    about, head = several.head.splitlines()
    assert about == "2 episodes each, deterministic policy, seed 5, --which best"
    lines = [several.row(run, "Toy-v0", summary) for run in runs]
    assert [line.split()[:3] for line in lines] == [[run, "Toy-v0", "2.50"] for run in runs]
    assert {len(line) for line in [head, *lines]} == {len(head)}
    assert one.row("runs/a", "", Summary(1, 2.5, None, 2.5, 2.5, 2.5, 3.0)).split()[2] == "-"


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
        files = [hopper.with_name(f"evaluation.{ending}") for ending in ("csv", "json")]
        seen.add((*(file.read_bytes() for file in files), result.stdout))
    assert len(seen) == 1
    content, record, out = seen.pop()
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [row["episode"] for row in rows] == [str(k) for k in range(episodes)]
    assert len({row["return"] for row in rows}) == episodes
    assert {row["mode"] for row in rows} == {"stochastic"}
    returns = [float(row["return"]) for row in rows]
    summary = json.loads(record)
    assert summary == {
        "env": "Hopper-v5",
        "iteration": None,  # the file does not know
        "timesteps": None,
        "mode": "stochastic",
        "seed": 0,
        "episodes": episodes,
        "return_mean": pytest.approx(statistics.mean(returns)),
        "return_std_error": pytest.approx(statistics.stdev(returns) / episodes**0.5),
        "return_median": pytest.approx(statistics.median(returns)),
        "return_min": min(returns),
        "return_max": max(returns),
        "length_mean": pytest.approx(statistics.mean(int(row["length"]) for row in rows)),
    }
    assert f"{summary['return_mean']:.2f}" in out.splitlines()[2]


def test_several_models_have_a_row_and_files_each(hopper: Path, python: Run) -> None:
    """Also if two lie in one directory; files of a model that is not the latest have its name."""
    other = hopper.with_name("other.zip")
    shutil.copy(hopper, other)
    folder = hopper.parent / "run" / "checkpoints"
    folder.mkdir(parents=True)
    model = model_file.load(str(hopper))
    model.theta, model.iteration, model.timesteps = model.theta + 0.1, 7, 14336
    model_file.save(folder / "best.zip", model)
    result = python("-m", "trpo_mpi.evaluate", hopper, other, "--episodes", 3)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[2:4]]
    assert [row[0] for row in rows] == [str(hopper), str(other)]
    assert rows[0][1:] == rows[1][1:]
    contents = [
        hopper.with_name(f"{name}.csv").read_text() for name in ("evaluation", "evaluation-other")
    ]
    assert contents[0] == contents[1]
    result = python("-m", "trpo_mpi.evaluate", "run", "--which", "best", "--episodes", 3)
    assert result.returncode == 0, result.stderr
    best = hopper.parent / "run" / "evaluation-best.csv"
    assert best.read_text() not in contents
    record = json.loads(best.with_suffix(".json").read_text())
    assert (record["iteration"], record["timesteps"]) == (7, 14336)


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
        (["nowhere"], "there is no nowhere"),
        (["model.zip", "--episodes", "0"], "--episodes is 0"),
    ],
)
def test_wrong_usage_is_one_line(mpirun: Run, arguments: list[str], message: str) -> None:
    result = mpirun(2, "-m", "trpo_mpi.evaluate", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one run directory or more"),
        (["model.zip", ""], "name one run directory or more"),
        (["."], "there is no model.zip"),
        (["model.zip", "--seed", "-1"], "--seed is -1"),
    ],
)
def test_wrong_usage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(UsageError, match=message):
        main()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("nowhere", "DIR nowhere: there is no nowhere"),
        ("damaged.zip", "DIR damaged.zip is not a whole model file"),
        (".", "DIR . and model.zip would both write .*evaluation.csv"),
    ],
)
def test_one_of_several_that_is_no_good_is_refused_before_any_episode(
    hopper: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: str,
    message: str,
) -> None:
    hopper.with_name("damaged.zip").write_bytes(b"no archive")
    monkeypatch.chdir(hopper.parent)
    monkeypatch.setattr(sys, "argv", ["evaluate", "model.zip", last])
    with pytest.raises(UsageError, match=message):
        main()
    assert capsys.readouterr().out == ""


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
    """And the other results are written all the same."""
    other = hopper.with_name("other.zip")
    shutil.copy(hopper, other)
    hopper.with_name("evaluation.csv").mkdir()
    result = python("-m", "trpo_mpi.evaluate", hopper, other, "--episodes", 1)
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 4
    assert "evaluation.csv can't be written" in result.stderr.splitlines()[-1]
    written = sorted(path.name for path in hopper.parent.glob("evaluation*.*") if path.is_file())
    assert written == ["evaluation-other.csv", "evaluation-other.json", "evaluation.json"]
    assert not list(hopper.parent.glob(".*.tmp"))


def test_of_a_directory_of_runs_each_that_can_be_played_has_a_row(
    hopper: Path, python: Run
) -> None:
    for name in ("b", "a", "just begun"):
        folder = hopper.parent / "runs" / name
        folder.mkdir(parents=True)
        (folder / "progress.csv").touch()
        if name != "just begun":
            shutil.copy(hopper, folder)
    result = python("-m", "trpo_mpi.evaluate", "runs", "--episodes", 2)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[2:-1]] == ["runs/a", "runs/b"]
    assert "left out: DIR runs/just begun: there is no runs/just begun/model.zip" in result.stderr
    assert len(list(hopper.parent.glob("runs/*/evaluation.json"))) == 2
    result = python("-m", "trpo_mpi.evaluate", "runs", "--which", "best")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("evaluate: error: --which best: runs/just")


def test_a_file_has_no_other_models(hopper: Path, python: Run) -> None:
    result = python("-m", "trpo_mpi.evaluate", "model.zip", "--which", "best")
    assert result.returncode == 2
    expected = "--which best needs a run directory, but model.zip is a file"
    assert result.stderr == f"evaluate: error: {expected}\n"
    assert not list(hopper.parent.glob("evaluation*"))
