"""The command as a user runs it: without arguments, interrupted, checked, continued."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import Run, launcher, started

from trpo_mpi import status
from trpo_mpi.run_directory.status_file import FINISHED

MODULE = "trpo_mpi.run_mujoco"
SMALL = ["--env", "CartPole-v1", "--timesteps-per-batch", "512", "--num-timesteps", "1536"]


def start_and_interrupt(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Start, let it show three iterations, and press Ctrl-C once."""
    with started(command, folder) as process:
        assert process.stdout is not None
        out = ""
        for line in process.stdout:
            out += line
            if line.split()[:1] == ["3"]:
                break
        else:
            pytest.fail(process.stderr.read() if process.stderr else out)
        os.killpg(process.pid, signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    return process.returncode, out + rest, err


def test_starts_without_arguments_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    """Hopper-v4 for a million steps; what is learned before Ctrl-C is kept."""
    command = [sys.executable, "-m", MODULE]
    code, out, err = start_and_interrupt(command, tmp_path)
    assert code == 75
    assert "Traceback" not in err
    assert "Hopper-v4, 1,000,000 time steps, seed 0" in out
    assert "batch 2048 = 16 envs x 128 steps, on 1 rank" in out
    assert "stopped by SIGINT" in out
    assert "--resume runs/Hopper-v4-default-s0" in out
    run = tmp_path / "runs" / "Hopper-v4-default-s0"
    files = ".lock checkpoints config.json model.zip monitor.csv progress.csv status.json".split()
    assert sorted(path.name for path in run.iterdir()) == files
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]
    assert settings["env"] == "Hopper-v4"


@pytest.mark.mpi
def test_starts_without_arguments_on_two_ranks_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    command = [*launcher(), "-np", "2", sys.executable, "-m", MODULE]
    code, out, err = start_and_interrupt(command, tmp_path)
    assert code != 0
    assert "Traceback" not in err
    assert "on 2 ranks, 8 per rank" in out


def test_a_reader_that_goes_does_not_end_the_run(tmp_path: Path) -> None:
    """As of `| head`: the lines are lost, and nothing else."""
    with started([sys.executable, "-m", MODULE, *SMALL, "--outdir", "run"], tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        process.stderr.close()
        assert process.wait(timeout=120) == 0
    assert (tmp_path / "run" / "model.zip").exists()
    assert status.look(tmp_path / "run").state == FINISHED


def test_check_leaves_nothing_behind(tmp_path: Path, python: Run) -> None:
    result = python("-m", MODULE, "--check", *SMALL)
    assert result.returncode == 0, result.stderr
    for words in ("1 rank on", "batch 512 = 16 envs x 32 steps", "steps/s", "Allreduce", "threads"):
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten_and_can_be_loaded(tmp_path: Path, python: Run) -> None:
    """The second run takes another name; the third goes on from the first one's model."""
    assert python("-m", MODULE, *SMALL).returncode == 0
    first = tmp_path / "runs" / "CartPole-v1-default-s0"
    kept = {path.name: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    again = python("-m", MODULE, *SMALL, "--load", first, "--vf-iters", 0, "--max-iterations", 1)
    assert again.returncode == 0, again.stderr
    assert {p.name: p.read_bytes() for p in first.rglob("*") if p.is_file()} == kept
    second = tmp_path / "runs" / "CartPole-v1-default-s0-2"
    header, row = (second / "progress.csv").read_text(encoding="utf-8").splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    # Its normaliser has seen data: already the first batch is trained on, and rewards are scaled.
    assert float(values["kl"]) > 0
    assert 0 < float(values["reward_scale"]) < 1

    from trpo_mpi.run_directory import model_file

    before, after = model_file.load(str(first)), model_file.load(str(second))
    assert before.phi.tobytes() == after.phi.tobytes()  # no critic iterations
    assert before.theta.tobytes() != after.theta.tobytes()
    assert before.normalizer.moments is not None
    assert after.normalizer.moments is not None
    assert after.normalizer.moments.count == before.normalizer.moments.count + 512


def test_monitor_and_progress_agree(tmp_path: Path, python: Run) -> None:
    """16 environments take 95 steps each, in five batches.

    Of each environment of these, 23 episodes end, of 3, 4, 5, 3 ... steps, and 4 steps are left.
    """
    flags = "--env toy_envs:Counter-v0 --timesteps-per-batch 304 --num-timesteps 1520 --outdir out"
    result = python("-m", MODULE, *flags.split())
    assert result.returncode == 0
    assert result.stderr == ""
    head, columns, *episodes = (tmp_path / "out" / "monitor.csv").read_text().splitlines()
    assert json.loads(head.removeprefix("#"))["env_id"] == "toy_envs:Counter-v0"
    assert columns == "r,l,t"
    rows = [tuple(map(float, line.split(","))) for line in episodes]
    lengths = [3 + number % 3 for number in range(23)]
    ends = itertools.accumulate(lengths)
    expected = [(sum(range(end - n + 1, end + 1)), n) for end, n in zip(ends, lengths, strict=True)]
    assert sorted((total, length) for total, length, _ in rows) == sorted(expected * 16)
    header, *_, last = (tmp_path / "out" / "progress.csv").read_text().splitlines()
    values = dict(zip(header.split(","), last.split(","), strict=True))
    assert int(values["timesteps"]) == 1520
    assert int(values["episodes"]) == len(rows)
    latest = [total for total, _, _ in rows[-100:]]
    assert float(values["episode_return_mean"]) == pytest.approx(sum(latest) / len(latest))
