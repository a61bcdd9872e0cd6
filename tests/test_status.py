"""`status`: what became of runs, by what they leave behind; and who writes that down."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, launcher, started
from test_ranks import FAULTY, fault
from test_resume import PENDULUM, ranks_of, wait_for

from trpo_mpi import status
from trpo_mpi.errors import UsageError
from trpo_mpi.run_directory import STATUS, status_file
from trpo_mpi.run_directory.reading import read_run
from trpo_mpi.run_directory.status_file import FAILED, FINISHED, LOST, RUNNING, STOPPED

MODULE = "trpo_mpi.run_mujoco"
HEADER = "iteration,timesteps,episode_return_mean,timesteps_per_batch,steps_per_second\n"


def run_directory(path: Path, rows: str = "", **settings: Any) -> Path:
    """A run of 1000 time steps as an older version leaves it, without status.json."""
    path.mkdir(parents=True)
    record = {"settings": {"env": "Toy-v0", "seed": 3, "num_timesteps": 1000, **settings}}
    (path / "config.json").write_text(json.dumps(record | {"recipe": "default"}))
    (path / "progress.csv").write_text(HEADER + rows)
    return path


def long_ago(path: Path, seconds: float) -> None:
    """Set back the times of a run's files."""
    for file in path.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


def note(path: Path, **changes: Any) -> None:
    """Change what status.json says."""
    record = json.loads((path / STATUS).read_text())
    (path / STATUS).write_text(json.dumps(record | changes))


def state(path: Path) -> str:
    return status.look(path).state


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    path = run_directory(tmp_path / "run", "1,100,,100,5.0\n2,200,1.5,100,5.0\n3,300,2")
    status_file.write(path, STOPPED, "stopped by SIGTERM")
    entry = status.look(path)
    assert (entry.environment, entry.recipe, entry.seed) == ("Toy-v0", "default", 3)
    assert (entry.timesteps, entry.num_timesteps, entry.episode_return_mean) == (200, 1000, 1.5)
    assert (entry.state, entry.reason) == (STOPPED, "stopped by SIGTERM")
    assert abs(entry.since - time.time()) < 60
    lines = status.table([entry], entry.since + 7200).splitlines()
    assert lines[0].split() == "run environment recipe seed steps return state".split()
    words = f"{path} Toy-v0 default 3 200/1k 20% 1.5 stopped 2 h ago: by SIGTERM"
    assert lines[1].split() == words.split()


def test_the_last_row_of_a_long_file(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i},{i / 2},100,5.0\n" for i in range(1, 1001))
    entry = status.look(run_directory(tmp_path / "run", rows))
    assert (entry.timesteps, entry.episode_return_mean) == (1000, 500.0)


def test_a_run_is_running_while_its_process_is_there(tmp_path: Path) -> None:
    path = run_directory(tmp_path / "run")
    status_file.write(path, RUNNING)
    long_ago(path, 1e6)  # suspended, say
    assert state(path) == RUNNING
    note(path, process_start=1)  # the number belongs to another process by now
    assert state(path) == FAILED
    with subprocess.Popen(["true"]) as child:
        note(path, pid=child.pid)  # dead, but not waited for
        time.sleep(0.5)
        entry = status.look(path)
        assert (entry.state, entry.reason) == (FAILED, f"killed: its process {child.pid} is gone")


def test_a_run_elsewhere_is_lost_when_it_is_silent(tmp_path: Path) -> None:
    path = run_directory(tmp_path / "run", "1,100,1.5,100,5.0\n")
    status_file.write(path, RUNNING)
    # One that ran for a day and a half; its last row is 100 s old.
    note(path, machine="another", host="node7", since="2020-01-01T00:00:00+00:00")
    long_ago(path, 100)
    assert state(path) == RUNNING
    long_ago(path, 1000)
    entry = status.look(path)
    assert (entry.state, entry.reason) == (LOST, "no row since; on node7")
    (path / "progress.csv").write_text(HEADER + "1,100,1.5,100,0.5\n")  # 200 s an iteration
    long_ago(path, 1000)
    assert state(path) == RUNNING


def test_runs_of_older_versions(tmp_path: Path) -> None:
    """Finished if all is done, as nearly as 16 environments allow; else running, or lost."""
    whole = run_directory(tmp_path / "whole", "1,992,1.5,992,5.0\n")
    part = run_directory(tmp_path / "part", "1,100,1.5,100,5.0\n")
    assert (state(whole), state(part)) == (FINISHED, RUNNING)
    for path in (whole, part):
        long_ago(path, 1000)
    assert (state(whole), state(part)) == (FINISHED, LOST)


@pytest.mark.parametrize("name", ["config.json", "progress.csv", "status.json"])
@pytest.mark.parametrize("damage", ["", "{", '{"state": 1}', "1,2\n3\n", "\xff\n\xff\n"])
def test_a_damaged_run_is_one_line_among_others(
    tmp_path: Path,
    name: str,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run in ("a", "b", "c"):
        path = run_directory(tmp_path / "runs" / "deep" / run, "1,1000,1.5,100,5.0\n")
        status_file.write(path, FINISHED)
    damaged = tmp_path / "runs" / "deep" / "b" / name
    damaged.write_bytes(damage.encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["status"])
    assert status.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"runs/deep/{run}" for run in "abc"]
    assert [FINISHED in line for line in lines[1:]] == [True] * 3
    # Without its end a line is one that is being written.
    if name == "config.json" or (name == "progress.csv" and "\n" in damage):
        assert "has a damaged " in lines[2]
    monkeypatch.setattr("sys.argv", ["status", "--json"])
    assert status.main() == 0
    assert [entry["seed"] for entry in json.loads(capsys.readouterr().out)][::2] == [3, 3]


def test_no_run_is_one_line(tmp_path: Path, python: Run) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "absent"):
        result = python("-m", "trpo_mpi.status", place)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert place in result.stderr


def test_neither_tensorflow_nor_matplotlib_is_loaded(tmp_path: Path, python: Run) -> None:
    run_directory(tmp_path / "runs" / "a")
    script = "import sys; from trpo_mpi import status; status.main(); print(sorted(sys.modules))"
    loaded = python("-c", script).stdout.splitlines()[-1]
    for module in ("tensorflow", "matplotlib", "mpi4py", "gymnasium"):
        assert f"'{module}'" not in loaded


def test_a_disk_that_is_full_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status_file.write(tmp_path / "absent", FINISHED)
    assert "status.json can't be written" in capsys.readouterr().err


@pytest.mark.mpi
def test_running_stopped_resumed_finished_and_killed(tmp_path: Path, mpirun: Run) -> None:
    command = [*launcher(), "-np", "2", sys.executable, "-m", MODULE, *PENDULUM]
    command += ["--outdir", "run", "--resume", "auto"]
    run = tmp_path / "run"
    with started(command, tmp_path) as job:
        wait_for(job, run, 2)
        assert state(run) == RUNNING
        os.kill(max(ranks_of(job)), signal.SIGTERM)
        assert job.wait(60) == 75
    entry = status.look(run)
    assert (entry.state, "signal" in entry.reason or "SIGTERM" in entry.reason) == (STOPPED, True)
    with started(command, tmp_path) as job:
        wait_for(job, run, entry.timesteps // 2048 + 1)
        assert state(run) == RUNNING
        for pid in ranks_of(job):
            os.kill(pid, signal.SIGKILL)
        job.wait(60)
    entry = status.look(run)
    assert entry.state == FAILED
    assert "killed" in entry.reason
    steps = entry.timesteps + 2048
    ended = mpirun(2, *command[command.index("-m") :], "--num-timesteps", steps)
    assert ended.returncode == 0, ended.stderr
    entry = status.look(run)
    assert (entry.state, entry.timesteps) == (FINISHED, steps)
    assert entry.reason == "done"
    progress = read_run(run)
    own, least, most = (progress.column(f"mpi_{name}seconds") for name in ("", "min_", "max_"))
    assert np.isnan(least[0])  # they are those of the iteration before, and here there was none
    known = np.flatnonzero(np.isfinite(least))
    assert len(known) >= len(own) - 3  # nor where the run was resumed, twice
    assert (least[known] - 1e-3 <= own[known - 1]).all()
    assert (own[known - 1] <= most[known] + 1e-3).all()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["raise", "hang"])
def test_a_rank_that_fails_says_so(tmp_path: Path, mpirun: Run, kind: str) -> None:
    arguments = ["--env-timeout", "3", "--outdir", "run"]
    assert mpirun(3, *FAULTY, *arguments, **fault(kind, tmp_path)).returncode != 0
    entry = status.look(tmp_path / "run")
    reason = {
        "raise": "rank 1 of 3: ValueError: the toy broke",
        "hang": "rank 1 of 3: environment 2 has not answered for 3 s",
    }[kind]
    assert entry.state == FAILED
    assert entry.reason.startswith(reason)


def test_only_directories_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["status", "a.csv"])
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UsageError, match=r"there is no directory a\.csv"):
        status.main()
    monkeypatch.setattr("sys.argv", ["status", ""])
    with pytest.raises(UsageError, match="name directories; one is empty"):
        status.main()


def test_the_end_of_a_run_is_explained_only_where_it_was_early(tmp_path: Path) -> None:
    """Here the last batch ends 8 steps before the run's length, or the run 900 before."""
    for name, timesteps, shown in (("whole", 992, False), ("early", 100, True)):
        path = run_directory(tmp_path / name, f"1,{timesteps},1.5,{timesteps},5.0\n")
        status_file.write(path, FINISHED, "some limit is reached")
        line = status.table([status.look(path)], 0.0).splitlines()[1]
        assert line.endswith(": some limit is reached") == shown
