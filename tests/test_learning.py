"""The whole program learns."""

import csv
from pathlib import Path

import pytest
from conftest import Run


def returns(folder: Path) -> list[float]:
    """`episode_return_mean` of a run, iteration by iteration."""
    with open(folder / "progress.csv", encoding="utf-8", newline="") as file:
        return [float(row["episode_return_mean"]) for row in csv.DictReader(file)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "goal"),
    [
        ("--env CartPole-v1 --num-timesteps 100000", 500),
        ("--env memory_envs:Positions-v0 --policy MlpLstmPolicy --num-timesteps 500000", 475),
        ("--env memory_envs:Cue-v0 --policy MlpLstmPolicy --num-timesteps 300000", 0.95),
        ("--env memory_envs:Cue-v0 --policy MlpLnLstmPolicy --num-timesteps 300000", 0.95),
        ("--env memory_envs:Picture-v0 --policy CnnPolicy --num-timesteps 100000", 3),
    ],
)
def test_learns(arguments: str, goal: float, tmp_path: Path, python: Run) -> None:
    """To a mean of 100 episodes, at the defaults."""
    command = ["-m", "trpo_mpi.run_mujoco", *arguments.split(), "--outdir", "out"]
    result = python(*command, "--stop-return", goal, timeout=900)
    assert result.returncode == 0, result.stderr
    assert returns(tmp_path / "out")[0] < 0.7 * goal
    assert f"--stop-return {goal:g} reached" in result.stdout


@pytest.mark.long
def test_a_policy_without_memory_does_not_balance_by_positions(tmp_path: Path, python: Run) -> None:
    """What the recurrent policy learns can't be learnt without memory."""
    arguments = "--env memory_envs:Positions-v0 --num-timesteps 500000 --outdir out"
    result = python("-m", "trpo_mpi.run_mujoco", *arguments.split(), timeout=900)
    assert result.returncode == 0, result.stderr
    assert max(returns(tmp_path / "out")) < 200


def test_inverted_pendulum_to_950(tmp_path: Path, python: Run) -> None:
    """Of 1000, as the mean of the last 100 episodes, at the defaults."""
    arguments = "--env InvertedPendulum-v4 --stop-return 950 --num-timesteps 400000 --outdir out"
    result = python("-m", "trpo_mpi.run_mujoco", *arguments.split())
    assert result.returncode == 0, result.stderr
    assert "--stop-return 950 reached" in result.stdout
    with open(tmp_path / "out" / "progress.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first, last = rows[0], rows[-1]
    assert float(first["episode_return_mean"]) < 20
    assert float(last["episode_return_mean"]) >= 950
    # The monitor's own account of the same hundred episodes.
    monitor = (tmp_path / "out" / "monitor.csv").read_text(encoding="utf-8").splitlines()[-100:]
    assert sum(float(line.split(",")[0]) for line in monitor) / 100 >= 950
    kls = [float(row["kl"]) for row in rows if row["kl"]]
    assert max(kls) <= 0.01
