"""run/slurm/ on a real Slurm: what is interrupted comes back by itself and ends as any other run.

Needs the cluster of ci/slurm-cluster.sh, which has to be up; .ci/run sees to that where it can.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, environment
from test_ranks import exact_parts

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "ci" / "slurm-cluster.sh"
ENV = "slow_envs:SlowCartPole-v0"
ITERATIONS = 14
RUN = f"--env {ENV} --num-timesteps {2048 * ITERATIONS} --seed 4 --checkpoint-every 2"
SOME = 5
"""Iterations after which a run is disturbed."""

pytestmark = pytest.mark.long


def call(*command: object, folder: Path = ROOT, variables: dict[str, str] | None = None) -> str:
    """A command's output; `variables` are what sbatch hands on to its job."""
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=environment(TRPO_MPI_VENV=sys.prefix, **(variables or {})),
        check=False,
    )
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout.strip()


class Job:
    """A job of one run.

    Args:
        id: as Slurm's commands take it; an element of an array is ARRAY_INDEX.
        run: its run directory.
        log: what it prints.
    """

    def __init__(self, id: str, run: Path, log: Path) -> None:  # noqa: A002
        self.id, self.run, self.log = id, run, log

    def show(self, name: str) -> str:
        """One of Slurm's notes about it: JobState, Restarts, ..."""
        words = call("scontrol", "show", "job", "-o", self.id).split()
        return dict(word.partition("=")[::2] for word in words)[name]

    def rows(self) -> int:
        """Iterations that progress.csv has."""
        try:
            return len((self.run / "progress.csv").read_text(encoding="utf-8").splitlines()) - 1
        except FileNotFoundError:
            return 0

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else "no log"

    def starts(self) -> list[dict[str, object]]:
        """What config.json says of each start."""
        record = json.loads((self.run / "config.json").read_text(encoding="utf-8"))
        return [record, *record.get("earlier_starts", [])]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.text()
            time.sleep(0.2)

    def wait_for_rows(self, number: int = SOME) -> None:
        self.wait_until(lambda: self.rows() >= number)

    def wait_for_restart(self) -> None:
        self.wait_until(lambda: self.show("Restarts") == "1")

    def wait(self) -> None:
        """Wait for the job's end, which must be COMPLETED."""
        self.wait_until(lambda: self.show("JobState") in ("COMPLETED", "FAILED"), 150)
        assert self.show("JobState") == "COMPLETED", self.text()


def submit(folder: Path, *flags: str, **variables: str) -> Job:
    """train.sh with two ranks, one on each node; slow enough to be caught while it runs."""
    variables = {"SECONDS_A_STEP": "0.001"} | variables
    run, log = folder / "run", folder / "log"
    flags = ("--parsable", "--nodes=2", "--ntasks=2", f"--output={log}", *flags)
    script = ["run/slurm/train.sh", *RUN.split(), "--outdir", run]
    return Job(call("sbatch", *flags, *script, variables=variables), run, log)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    config = Path("/etc/slurm/slurm.conf")
    ours = config.exists() and CLUSTER.name in config.read_text(encoding="utf-8")
    # The file alone says little: it outlives the cluster where the machine was stopped in between.
    if not ours or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip(f"the cluster of ci/{CLUSTER.name} is not up")
    yield
    for partition in ("normal", "urgent"):
        call("scancel", f"--partition={partition}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The results of an undisturbed run."""
    job = submit(tmp_path_factory.mktemp("undisturbed"))
    job.wait()
    assert job.starts()[0]["hosts"] == ["node1", "node2"]
    assert job.rows() == ITERATIONS
    return exact_parts(job.run)


def check(job: Job, undisturbed: dict[str, object]) -> None:
    """The job came back once, continued from a checkpoint, and ended as an undisturbed run."""
    job.wait()
    assert job.show("Restarts") == "1", job.text()
    assert job.text().count("resumed from") == 1
    assert len(job.starts()) == 2
    assert job.rows() == ITERATIONS
    given = exact_parts(job.run)
    for part, value in undisturbed.items():
        assert given[part] == value, part


def test_two_nodes_talk_by_tcp(request: pytest.FixtureRequest, python: Run, tmp_path: Path) -> None:
    """And the result is that of one process, without Slurm."""
    sent = Path("/sys/class/net/trpo-node1/statistics/rx_bytes")
    before = int(sent.read_text(encoding="utf-8"))
    undisturbed = request.getfixturevalue("undisturbed")
    assert int(sent.read_text(encoding="utf-8")) - before > 10e6  # an Allreduce has 70 KB
    result = python("-m", "trpo_mpi.run_mujoco", *RUN.split(), "--outdir", tmp_path / "one")
    assert result.returncode == 0, result.stderr
    assert exact_parts(tmp_path / "one") == undisturbed


def test_warned_before_the_limit(undisturbed: dict[str, object], tmp_path: Path) -> None:
    """The limit is moved to where the warning is due at once: Slurm looks twice a minute."""
    job = submit(tmp_path, "--time=10", "--signal=USR1@90", SECONDS_A_STEP="0.003")
    job.wait_for_rows(2)
    call("scontrol", "update", f"JobId={job.id}", "TimeLimit=2")
    job.wait_for_restart()
    assert "stopped by SIGUSR1" in job.text()
    call("scontrol", "update", f"JobId={job.id}", "TimeLimit=10")
    check(job, undisturbed)


def test_preempted(undisturbed: dict[str, object], tmp_path: Path) -> None:
    job = submit(tmp_path)
    job.wait_for_rows()
    urgent = ["--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=srun sleep 1"]
    call("sbatch", *urgent)
    job.wait_for_restart()
    assert "stopped by SIGTERM" in job.text()
    check(job, undisturbed)


def test_requeued(undisturbed: dict[str, object], tmp_path: Path) -> None:
    job = submit(tmp_path)
    job.wait_for_rows()
    call("scontrol", "requeue", job.id)
    check(job, undisturbed)


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_lost_node(node: str, undisturbed: dict[str, object], tmp_path: Path) -> None:
    """node1 has the batch script and rank 0."""
    job = submit(tmp_path)
    job.wait_for_rows()
    call(CLUSTER, "lose", node)
    try:
        job.wait_for_restart()
        assert SOME <= job.rows() < ITERATIONS
    finally:
        call(CLUSTER, "mend", node)
    check(job, undisturbed)


def test_cancelled_is_not_queued_again(tmp_path: Path) -> None:
    """Although the ranks, which get TERM, stop with a checkpoint."""
    job = submit(tmp_path)
    job.wait_for_rows()
    call("scancel", job.id)
    job.wait_until(lambda: job.show("JobState") not in ("RUNNING", "COMPLETING"))
    assert job.show("JobState") == "CANCELLED"
    assert job.show("Restarts") == "0"


def test_one_element_of_an_array_comes_back_alone(tmp_path: Path) -> None:
    """One element has the job id of the whole array, by which Slurm would requeue all of them."""
    (tmp_path / "run").symlink_to(ROOT / "run")  # so that the runs are written here
    flags = ["--parsable", "--array=0-1", "--nodes=1", "--ntasks=1", f"--output={tmp_path}/%a.log"]
    command = ["sbatch", *flags, "run/slurm/array.sh", "--num-timesteps", 2048 * 6]
    variables = {"TRPO_MPI_ENVS": ENV, "TRPO_MPI_SEEDS": "2", "SECONDS_A_STEP": "0.001"}
    array = call(*command, folder=tmp_path, variables=variables)
    jobs = [
        Job(f"{array}_{i}", tmp_path / f"runs/SlowCartPole-v0-default-s{i}", tmp_path / f"{i}.log")
        for i in (0, 1)
    ]
    one, other = sorted(jobs, key=lambda job: job.show("JobId") != array)
    for job in jobs:
        job.wait_for_rows(2)
    call("scancel", "--signal=USR1", one.id)
    for job in jobs:
        job.wait()
    assert one.show("Restarts") == "1"
    assert other.show("Restarts") == "0"
    assert "resumed from" in one.text()
    assert "SIGUSR1" not in other.text()
    assert [job.rows() for job in jobs] == [6, 6]


def test_a_sweep(tmp_path: Path) -> None:
    """The script that it writes, unedited: an element that is stopped comes back alone."""
    flags = f"--num-timesteps {2048 * 6} --checkpoint-every 2"
    sweep = ["-m", "trpo_mpi.sweep", "--envs", ENV, "--seeds", "0-1", "--outdir", "runs"]
    script = ["--slurm", "array.sh", "--", *flags.split()]
    call(sys.executable, *sweep, *script, folder=tmp_path)
    variables = {"SECONDS_A_STEP": "0.001"}
    array = call("sbatch", "--parsable", "array.sh", folder=tmp_path, variables=variables)
    names = [tmp_path / f"runs/SlowCartPole-v0-s{i}" for i in (0, 1)]
    jobs = [Job(f"{array}_{i}", run, run.with_suffix(".log")) for i, run in enumerate(names)]
    for job in jobs:
        job.wait_for_rows(2)
    call("scancel", "--signal=USR1", jobs[0].id)
    for job in jobs:
        job.wait()
    assert [job.show("Restarts") for job in jobs] == ["1", "0"]
    assert "resumed from" in jobs[0].text()
    shown = call(sys.executable, *sweep, "--jobs", "0", "--", *flags.split(), folder=tmp_path)
    assert shown.startswith("2 runs in runs, 2 finished")
    assert (tmp_path / "runs" / "curves.png").exists()
