"""Evaluation during training: it leaves the run as it is, and its own rows have the same bits."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run, environment, launcher, started
from test_ranks import exact_parts
from toy_envs import Counter
from toy_training import toy_trainer, train

from trpo_mpi.config import AtariConfig, Config
from trpo_mpi.display import evaluation_line
from trpo_mpi.envs.atari import make_atari
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.evaluation import Behaviour, Summary, play_episodes
from trpo_mpi.model import initial_model
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.run_directory import checkpoint
from trpo_mpi.run_directory.progress import EVALUATION_COLUMNS, EvaluationsFile

MODULE = "trpo_mpi.run_mujoco"
# Three iterations of 7 environments by 75 steps, dealt out unevenly.
RUN = "--env CartPole-v1 --num-envs 7 --timesteps-per-batch 525 --num-timesteps 1575 --seed 3"
EVALUATIONS = "--eval-episodes 5 --eval-every 2"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with evaluations, with which the others are compared."""
    folder = tmp_path_factory.mktemp("evaluated")
    command = [sys.executable, "-m", MODULE, *RUN.split(), *EVALUATIONS.split()]
    result = subprocess.run(
        [*command, "--outdir", "run"],
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    (folder / "run" / "log").write_text(result.stdout, encoding="utf-8")
    return folder / "run"


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "evaluations.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_same(run: Path, expected: Path) -> None:
    assert exact_parts(run) == exact_parts(expected)
    name = "evaluations.csv"
    assert (run / name).read_bytes() == (expected / name).read_bytes()


def test_it_does_not_disturb_the_run(evaluated: Path, tmp_path: Path, python: Run) -> None:
    result = python("-m", MODULE, *RUN.split(), "--outdir", "run")
    assert result.returncode == 0, result.stderr
    assert exact_parts(tmp_path / "run") == exact_parts(evaluated)
    assert not (tmp_path / "run" / "evaluations.csv").exists()


def test_each_has_a_row_and_a_line(evaluated: Path) -> None:
    """The last is what `evaluate` reports for the model, with the run's seed."""
    rows = rows_of(evaluated)
    assert tuple(rows[0]) == EVALUATION_COLUMNS
    assert [(row["iteration"], row["timesteps"]) for row in rows] == [("2", "1050"), ("3", "1575")]
    assert {(row["mode"], row["episodes"]) for row in rows} == {("stochastic", "5")}
    log = (evaluated / "log").read_text(encoding="utf-8").splitlines()
    notes = [number for number, line in enumerate(log) if line.startswith("evaluation at")]
    assert [log[number - 1].split()[0] for number in notes] == ["2", "3"]
    mean, error = (float(rows[1][name]) for name in ("return_mean", "return_std_error"))
    assert log[notes[1]] == (
        f"evaluation at 1,575 time steps: return {mean:.1f} +- {error:.1f} (5 episodes, stochastic)"
    )


def test_the_command_plays_the_same_episodes(evaluated: Path, python: Run) -> None:
    command = ("-m", "trpo_mpi.evaluate", evaluated, "--episodes", 5, "--seed", 3)
    assert python(*command).returncode == 0
    record = json.loads((evaluated / "evaluation.json").read_text(encoding="utf-8"))
    row = rows_of(evaluated)[-1]
    assert {name: str(record[name]) for name in row} == row


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.long), 3])
def test_same_bits_on_any_number_of_ranks(
    ranks: int, evaluated: Path, tmp_path: Path, mpirun: Run
) -> None:
    result = mpirun(ranks, "-m", MODULE, *RUN.split(), *EVALUATIONS.split(), "--outdir", "run")
    assert result.returncode == 0, result.stderr
    check_same(tmp_path / "run", evaluated)


@pytest.mark.long
def test_stopped_and_resumed(evaluated: Path, tmp_path: Path, python: Run, mpirun: Run) -> None:
    """A stop leaves the evaluation that is due to the next start; rows beyond it are dropped."""
    command = ["-m", MODULE, "--max-hours", 1 / 3600, "--resume"]
    first = [*RUN.split(), *EVALUATIONS.split(), "--outdir", "run"]
    found, path = [], tmp_path / "run" / "evaluations.csv"
    for ranks in (2, 3, 1):
        result = mpirun(ranks, *command, *(["run"] if found else ["auto", *first]))
        assert result.returncode == 75, result.stderr
        found.append([row["iteration"] for row in rows_of(tmp_path / "run")])
        with open(path, "a", encoding="utf-8") as file:
            file.write("99,99,stochastic,5,1.0,1.0,1.0,1.0\n100,1")  # as a kill may leave it
    assert found == [[], [], ["2"]]
    result = python(*command, "run")  # which takes no step: only that evaluation is left
    assert result.returncode == 0, result.stderr
    check_same(tmp_path / "run", evaluated)
    again = python(*command, "run")
    assert "evaluation at" not in again.stdout
    check_same(tmp_path / "run", evaluated)


@pytest.mark.long
@pytest.mark.mpi
def test_a_signal_does_not_wait_for_an_evaluation(
    evaluated: Path, tmp_path: Path, python: Run
) -> None:
    """The evaluation has 100,000 episodes, which take half an hour."""
    rest = ["-m", MODULE, *RUN.split(), "--outdir", "run", "--resume", "auto"]
    command = [*launcher(), "-np", "2", sys.executable, *rest]
    with started([*command, "--eval-episodes", "100000", "--eval-every", "2"], tmp_path) as job:
        path = tmp_path / "run" / "progress.csv"
        until = time.monotonic() + 120
        while not path.exists() or len(path.read_text(encoding="utf-8").splitlines()) < 3:
            assert job.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.5)
        os.kill(job.pid, signal.SIGUSR1)  # the launcher gives it to all ranks
        began = time.monotonic()
        out, err = job.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert job.returncode == 75, err
    assert "stopped by" in out
    assert rows_of(tmp_path / "run") == []
    assert (tmp_path / "run" / "checkpoints" / "00000002.zip").exists()
    result = python(*rest, *EVALUATIONS.split())
    assert result.returncode == 0, result.stderr
    check_same(tmp_path / "run", evaluated)


FAULTY = ["--env", "toy_envs:Faulty-v0", "--num-envs", "5", "--timesteps-per-batch", "160"]
FAULTY += ["--max-iterations", "2", "--eval-episodes", "30", "--env-timeout", "3"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("reward", "an observation or reward is not finite at step 2 of evaluation episode 12"),
        pytest.param("raise", "in evaluation episode 12 at step 2", marks=pytest.mark.long),
        pytest.param(
            "hang",
            "environment evaluation episode 12 has not answered for 3 s, in step 2",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_fault_of_one_ranks_environment_ends_the_job(
    kind: str, words: str, tmp_path: Path, mpirun: Run
) -> None:
    """Rank 1 has episodes 10 to 19, of 3, 4 and 5 steps; its third environment plays them."""
    variables = {"FAULT": kind, "FAULT_RANK": "1", "FAULT_MADE": "2", "FAULT_STEP": "9"}
    began = time.monotonic()
    result = mpirun(3, "-m", MODULE, *FAULTY, FAULT_TIME=str(tmp_path / "time"), **variables)
    assert time.monotonic() - began < 60
    assert result.returncode not in (0, 2)
    assert "rank 1 of 3" in result.stderr
    assert words in result.stderr + result.stdout  # Python 3.10 prints its note


@pytest.mark.long
def test_atari_games_count_and_not_lives(tmp_path: Path, python: Run) -> None:
    """During training as in the command: five lives a game."""
    flags = ["--env", "ALE/Breakout-v5", "--num-envs", "2", "--timesteps-per-batch", "64"]
    flags += ["--cg-iters", "2", "--vf-iters", "1", "--screen-size", "42"]
    train = [*flags, "--max-iterations", "2", "--eval-episodes", "2", "--eval-deterministic"]
    result = python("-m", "trpo_mpi.run_atari", *train, "--outdir", "run")
    assert result.returncode == 0, result.stderr
    command = ("-m", "trpo_mpi.evaluate", "run", "--episodes", "2", "--deterministic")
    assert python(*command).returncode == 0
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    (row,) = rows_of(tmp_path / "run")
    assert {name: str(record[name]) for name in row} == row


def test_a_game_is_played_to_its_last_life() -> None:
    config = AtariConfig(env="ALE/Breakout-v5", screen_size=42)
    env = make_atari(config.env, config.atari)
    model = initial_model(config, Spaces(env.observation_space, env.action_space))
    act = Behaviour(model.actor(), model.normalizer, False)
    ((total, length),) = play_episodes(env, act, Communicator(None), 1, 0)
    assert env.unwrapped.ale.lives() == 0  # type: ignore[attr-defined]
    assert total == env.get_wrapper_attr("total")
    assert length > 5 * 10


@pytest.mark.parametrize("wrong", [{"eval_every": 2}, {"eval_deterministic": True}])
def test_how_to_evaluate_without_episodes_is_refused(wrong: dict[str, int]) -> None:
    flag = "--" + next(iter(wrong)).replace("_", "-")
    with pytest.raises(UsageError, match=f"{flag} is .* --eval-episodes is 0"):
        Config(**wrong).validate()  # type: ignore[arg-type]
    Config(eval_episodes=1, **wrong).validate()  # type: ignore[arg-type]


def test_a_resumed_run_goes_on_evaluating(tmp_path: Path) -> None:
    """Unless told otherwise; how it evaluates does not change the result."""
    settings = {"eval_episodes": 3, "eval_every": 2, "eval_deterministic": True}
    trainer = toy_trainer(Counter, num_timesteps=320, timesteps_per_batch=160, **settings)
    train(trainer)
    columns = [checkpoint.archive.pack(state) for state in trainer.column_states()]
    writer = checkpoint.CheckpointWriter(tmp_path, trainer.config)
    writer.write(trainer.model(), None, trainer.state(), columns, 0.0)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    taken_over = found.defaults()
    assert {name: getattr(taken_over, name) for name in settings} == settings
    found.check(dataclasses.replace(taken_over, eval_episodes=5, eval_every=None))


def test_one_that_evaluates_no_longer(tmp_path: Path, python: Run) -> None:
    """The settings that need --eval-episodes are dropped with it."""
    result = python("-m", MODULE, *RUN.split(), *EVALUATIONS.split(), "--outdir", "run")
    assert result.returncode == 0, result.stderr
    more = ["--resume", "run", "--eval-episodes", "0", "--num-timesteps", "2100"]
    result = python("-m", MODULE, *more)
    assert result.returncode == 0, result.stderr
    assert [row["iteration"] for row in rows_of(tmp_path / "run")] == ["2", "3"]


@pytest.mark.long
def test_the_time_limit_ends_an_evaluation_that_does_not_end(tmp_path: Path, mpirun: Run) -> None:
    """Endless episodes on both ranks; the run itself is done and has its checkpoint."""
    command = "--env toy_envs:Endless-v0 --timesteps-per-batch 160 --num-timesteps 320 --outdir run"
    result = mpirun(
        2, "-m", MODULE, *command.split(), "--eval-episodes", "2", "--max-hours", "0.01"
    )
    assert result.returncode == 75, result.stderr
    assert "stopped by a signal or time limit" in result.stdout
    assert (tmp_path / "run" / "checkpoints" / "00000002.zip").exists()
    assert rows_of(tmp_path / "run") == []


def test_the_file_keeps_what_the_checkpoint_has_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of another cadence too, which stay unchanged."""
    first = EvaluationsFile(tmp_path)
    for number in (3, 6, 8, 9):
        first.add({"iteration": number, "return_mean": number / 4})
    path = tmp_path / "evaluations.csv"
    before = path.read_text(encoding="utf-8").splitlines()
    with open(path, "a", encoding="utf-8") as file:
        file.write("1")  # of 12, which a kill has cut
    again = EvaluationsFile(tmp_path, 8)
    assert again.latest == 8
    again.add({"iteration": 10, "return_std_error": None})
    after = path.read_text(encoding="utf-8").splitlines()
    assert after == [*before[:4], "10,,,,,,,"]
    assert before[2] == "6,,,,1.5,,,"
    path.unlink()
    assert EvaluationsFile(tmp_path, 8).latest == 0  # the first evaluation comes after a resume
    assert capsys.readouterr().err == ""


def test_the_line_of_a_single_episode() -> None:
    summary = Summary(1, 20.0, None, 20.0, 20.0, 20.0, 5.0)
    words = "evaluation at 64 time steps: return 20.0 (1 episode, deterministic)"
    assert evaluation_line(64, summary, "deterministic") == words
