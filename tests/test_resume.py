"""Whole runs, stopped in every way and resumed: the same bits as the run that was never stopped."""

import contextlib
import csv
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run, environment, launcher, started
from test_ranks import CARTPOLE, HOPPER, exact_parts, fault

from trpo_mpi.stopping import SIGNALS

MODULE = "trpo_mpi.run_mujoco"
OPEN_MPI = "--oversubscribe" in launcher()

# Long enough to be hit in mid-run, in mid-episode.
PENDULUM = "--env Pendulum-v1 --num-timesteps 32000 --seed 5".split()


def iterations(run: Path) -> int:
    """Rows of progress.csv so far."""
    path = run / "progress.csv"
    return len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.exists() else 0


def wait_for(job: subprocess.Popen[str], run: Path, done: int) -> None:
    """Until a job has done some iterations."""
    until = time.monotonic() + 120
    while iterations(run) < done:
        assert job.poll() is None, job.stderr and job.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)


def ranks_of(job: subprocess.Popen[str]) -> list[int]:
    """Process numbers of the ranks of a job, in no order."""
    ranks, parents = [], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if MODULE.encode() in words and words[0] == os.fsencode(sys.executable):
                    ranks.append(int(entry.name))

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == job.pid:
                return True
        return False

    return [pid for pid in ranks if descends(pid)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with which the others are compared."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", MODULE, *PENDULUM, "--outdir", "run"]
    subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


def check_same(run: Path, expected: Path) -> None:
    given, wanted = exact_parts(run), exact_parts(expected)
    for part, value in wanted.items():
        assert given[part] == value, part


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(HOPPER, id="Hopper"),
        pytest.param(CARTPOLE, id="CartPole", marks=pytest.mark.long),
    ],
)
def test_stopped_and_resumed_on_4_3_and_1_ranks(
    arguments: str, tmp_path: Path, python: Run, mpirun: Run
) -> None:
    """By iterations, in mid-episode; the last time as one process."""
    command = ["-m", MODULE, *arguments.split(), "--outdir"]
    assert python(*command, tmp_path / "whole").returncode == 0
    for ranks, until in ((4, 1), (3, 3)):
        stop = ["--resume", "auto", "--max-iterations", until]
        result = mpirun(ranks, *command, tmp_path / "cut", *stop)
        assert result.returncode == 0, result.stderr
        assert iterations(tmp_path / "cut") == until
    result = python("-m", MODULE, "--resume", tmp_path / "cut")
    assert result.returncode == 0, result.stderr
    assert "resumed from" in result.stdout
    check_same(tmp_path / "cut", tmp_path / "whole")
    again = python("-m", MODULE, "--resume", tmp_path / "cut")
    assert again.returncode == 0
    assert "the run is finished" in again.stdout
    check_same(tmp_path / "cut", tmp_path / "whole")


# What mpirun does not pass on to its ranks, but answers by its own end or theirs.
KILLS = [signal.SIGHUP, *([signal.SIGINT, signal.SIGTERM] if OPEN_MPI else [signal.SIGUSR2])]
# One of each kind is enough while one works; --full tries them all.
ASKED = [
    pytest.param(to, number, id=f"{number.name} to {to}", marks=() if quick else pytest.mark.long)
    for to in ("the launcher", "one rank")
    for number in (*SIGNALS, signal.SIGINT, signal.SIGHUP)
    for quick in [(to, number) == ("one rank", signal.SIGTERM)]
    if to == "one rank" or number not in KILLS
]


@pytest.mark.parametrize(("to", "number"), ASKED)
@pytest.mark.mpi
def test_a_signal_stops_with_a_checkpoint(
    to: str, number: signal.Signals, tmp_path: Path, undisturbed: Path, python: Run
) -> None:
    command = [*launcher(), "-np", "2", sys.executable, "-m", MODULE, *PENDULUM]
    command += ["--outdir", "run", "--resume", "auto"]
    with started(command, tmp_path) as job:
        wait_for(job, tmp_path / "run", 4)
        os.kill(job.pid if to == "the launcher" else max(ranks_of(job)), number)
        began = time.monotonic()
        out, err = job.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert job.returncode == 75, err
    assert "Traceback" not in err
    assert "stopped by" in out
    done = iterations(tmp_path / "run")
    assert 4 <= done < 20
    result = python(*command[command.index("-m") :])
    assert result.returncode == 0, result.stderr
    assert f"iteration {done}" in result.stdout
    check_same(tmp_path / "run", undisturbed)


@pytest.mark.mpi
@pytest.mark.parametrize("whom", ["one rank", pytest.param("all", marks=pytest.mark.long)])
def test_killed_ranks_end_the_job_and_it_resumes(
    whom: str, tmp_path: Path, undisturbed: Path, python: Run
) -> None:
    command = [*launcher(), "-np", "2", sys.executable, "-m", MODULE, *PENDULUM]
    command += ["--outdir", "run", "--resume", "auto", "--checkpoint-every", "3"]
    with started(command, tmp_path) as job:
        wait_for(job, tmp_path / "run", 7)
        ranks = ranks_of(job)
        assert len(ranks) == 2
        for pid in ranks if whom == "all" else ranks[:1]:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        job.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert job.returncode != 0
    result = python("-m", MODULE, "--resume", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    check_same(tmp_path / "run", undisturbed)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """In an iteration that would take a minute; the previous one's checkpoint stays."""
    command = [sys.executable, "-m", MODULE, "--env", "Pendulum-v1", "--outdir", "run"]
    command += ["--timesteps-per-batch", "20480", "--vf-iters", "1", "--checkpoint-every", "1"]
    with started(command, tmp_path) as job:
        wait_for(job, tmp_path / "run", 1)
        time.sleep(0.3)
        os.kill(job.pid, signal.SIGINT)
        time.sleep(1.2)
        os.kill(job.pid, signal.SIGINT)
        _, err = job.communicate(timeout=5)
    assert job.returncode in (75, 130)  # a fast machine may have stopped before the second
    assert "Traceback" not in err
    assert (tmp_path / "run" / "checkpoints" / "00000001.zip").exists()


@pytest.mark.long
def test_a_time_limit_stops_in_time(tmp_path: Path, python: Run, undisturbed: Path) -> None:
    """Each start does at least one iteration, so that restarts can't go on for ever."""
    command = ["-m", MODULE, *PENDULUM, "--outdir", "run", "--resume", "auto"]
    for start in (1, 2):
        result = python(*command, "--max-hours", 1 / 3600)
        assert result.returncode == 75, result.stderr
        assert iterations(tmp_path / "run") == start
    end = str(int(time.time()) + 5)
    assert python(*command, SLURM_JOB_END_TIME=end).returncode == 75
    assert iterations(tmp_path / "run") == 3
    assert python(*command, "--max-hours", 2).returncode == 0
    check_same(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_damaged_checkpoints(tmp_path: Path, python: Run, undisturbed: Path) -> None:
    """A damaged newest one is skipped; if none is whole the run begins anew by the old files."""
    command = ["-m", MODULE, *PENDULUM, "--outdir", "run", "--checkpoint-every", "2"]
    assert python(*command, "--max-iterations", 6).returncode == 0
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in folder.glob("0*")) == [f"0000000{i}.zip" for i in (2, 4, 6)]
    (folder / "00000006.zip").write_bytes((folder / "00000006.zip").read_bytes()[:-100])
    result = python(*command, "--resume", "auto", "--max-iterations", 7)
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1
    assert "00000006.zip is damaged" in result.stderr
    assert "00000004.zip: iteration 4" in result.stdout
    for path in folder.glob("*"):
        path.write_bytes(b"nonsense")
    refused = python("-m", MODULE, "--resume", "run")
    assert refused.returncode == 2
    assert "there is no whole checkpoint in run" in refused.stderr
    kept = {name: (tmp_path / "run" / name).read_bytes() for name in ("progress.csv", "model.zip")}
    result = python(*command, "--resume", "auto")
    assert result.returncode == 0, result.stderr
    assert "run begins anew: its model.zip is now model.zip.old" in result.stderr
    check_same(tmp_path / "run", undisturbed)
    for name, content in kept.items():
        assert (tmp_path / "run" / f"{name}.old").read_bytes() == content


@pytest.mark.long
def test_settings_and_a_longer_run(tmp_path: Path, python: Run) -> None:
    """Changed settings are refused by name; more time steps are not such a change."""
    command = ["-m", MODULE, *PENDULUM[:2], "--num-timesteps", "6000", "--gamma", "0.9"]
    command += ["--outdir", "run", "--resume", "auto"]
    assert python(*command).returncode == 0
    before = exact_parts(tmp_path / "run")
    refused = python(*command, "--gamma", "0.8")
    assert refused.returncode == 2
    assert "--gamma is 0.8, but the run of run/checkpoints/00000003.zip has 0.9" in refused.stderr
    assert "--allow-changes" in refused.stderr
    assert exact_parts(tmp_path / "run") == before
    longer = python("-m", MODULE, "--resume", "run", "--num-timesteps", "10000")
    assert longer.returncode == 0, longer.stderr
    assert "schedules ran over the first 6,000 time steps" in longer.stdout
    with open(tmp_path / "run" / "progress.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["1", "2", "3", "4", "5"]
    # The schedule ended at a tenth; had it been stretched, it would have gone up again.
    assert [float(row["max_kl"]) for row in rows[-2:]] == [pytest.approx(0.001)] * 2
    changed = python(
        *("-m", MODULE, "--resume", "run", "--num-timesteps", "12000"),
        *("--gamma", "0.8", "--allow-changes"),
    )
    assert changed.returncode == 0, changed.stderr


@pytest.mark.long
def test_an_environment_without_its_state_begins_new_episodes(tmp_path: Path, python: Run) -> None:
    """And the log says so once at each start."""
    command = ["-m", MODULE, "--env", "toy_envs:Stateless-v0", "--timesteps-per-batch", "160"]
    command += ["--num-timesteps", "800", "--outdir", "run", "--resume", "auto"]
    first = python(*command, "--max-iterations", "2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("can't be saved (env.ticks is a itertools.count)") == 1
    second = python(*command)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("note: 16 environments have started new episodes") == 1
    assert iterations(tmp_path / "run") == 5


def test_a_full_disk_does_not_end_the_training(tmp_path: Path) -> None:
    """From its first iteration on, files may have 24 KiB: rows fit, a checkpoint does not."""
    command = [sys.executable, "-m", MODULE, *PENDULUM, "--max-iterations", "9"]
    command += ["--checkpoint-every", "3", "--outdir", "run"]
    with started(command, tmp_path) as job:
        wait_for(job, tmp_path / "run", 1)
        resource.prlimit(job.pid, resource.RLIMIT_FSIZE, (24 * 1024, 24 * 1024))
        _, err = job.communicate(timeout=120)
    assert job.returncode == 1, err
    lines = err.splitlines()
    assert len(lines) == 3  # after 3, 6 and 9 iterations
    assert all("could be written to run: File too large" in line for line in lines)
    assert iterations(tmp_path / "run") == 9
    left = sorted(p.name for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert left == [".lock", "config.json", "monitor.csv", "progress.csv", "status.json"]


FAULTY = ["-m", MODULE, "--env", "toy_envs:Faulty-v0", "--num-envs", "5"]


def test_an_environment_that_hangs_ends_the_job(tmp_path: Path, mpirun: Run) -> None:
    result = mpirun(3, *FAULTY, "--env-timeout", "3", **fault("hang", tmp_path))
    seconds = time.time() - float((tmp_path / "time").read_text(encoding="utf-8"))
    assert seconds < 3 + 10
    assert result.returncode not in (0, 2)
    assert "rank 1 of 3: environment 2 has not answered for 3 s, in step" in result.stderr
    assert "toy_envs.py" in result.stderr  # where it hangs


@pytest.mark.long
def test_an_environment_that_hangs_in_c_code_ends_the_job(tmp_path: Path, mpirun: Run) -> None:
    """In code that lets no other Python thread run."""
    result = mpirun(3, *FAULTY, "--env-timeout", "3", **fault("spin", tmp_path))
    seconds = time.time() - float((tmp_path / "time").read_text(encoding="utf-8"))
    assert seconds < 60  # three of them on two cores, and seconds of processor time
    assert result.returncode not in (0, 2)
    assert "toy_envs.py" in result.stderr


@pytest.mark.long
def test_a_job_that_was_suspended_goes_on(tmp_path: Path) -> None:
    """For longer than an environment may take, as Slurm's gang scheduling does it."""
    command = [sys.executable, "-m", MODULE, *PENDULUM, "--env-timeout", "2", "--outdir", "run"]
    with started(command, tmp_path) as job:
        wait_for(job, tmp_path / "run", 2)
        for _ in range(2):
            os.kill(job.pid, signal.SIGSTOP)
            time.sleep(5)
            os.kill(job.pid, signal.SIGCONT)
            time.sleep(0.3)
        _, err = job.communicate(timeout=120)
    assert job.returncode == 0, err


def test_an_observation_of_another_shape_ends_the_job(tmp_path: Path, mpirun: Run) -> None:
    result = mpirun(3, *FAULTY, **fault("shape", tmp_path))
    assert result.returncode == 1
    line = next(line for line in result.stderr.splitlines() if "shape" in line)
    for words in ("rank 1 of 3", "environment 2", "shape (2,)", "(3,)"):
        assert words in line
    assert "Traceback" not in result.stderr
