"""The scripts of run/slurm/, run/pbs/ and run/lsf/, where there is no such system.

PBS and LSF are stand-ins (`batch_stand_in`) that really run the scripts. Slurm's commands do
nothing here; test_slurm.py has the real ones.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import batch_stand_in
import pytest
from conftest import Result, environment, launcher
from test_ranks import exact_parts

ROOT = Path(__file__).parents[1]
ARGUMENTS = "--env CartPole-v1 --num-timesteps 24576 --seed 5"


def scripts() -> list[Path]:
    """All shell scripts in the checkout."""
    return [*(ROOT / "run").rglob("*.sh"), *(ROOT / "ci").glob("*.sh"), ROOT / ".ci" / "run"]


def shellcheck(*words: object, text: str | None = None) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    tool = str(beside) if beside.exists() else shutil.which("shellcheck")
    if tool is None:
        pytest.skip("there is no shellcheck")
    command = [tool, *map(str, words)]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck(path: Path) -> None:
    shellcheck("--exclude=SC1091", path)  # what a script sources is checked by itself


def test_shellcheck_of_the_container() -> None:
    """Of the commands that build it."""
    text = (ROOT / "run" / "apptainer.def").read_text(encoding="utf-8")
    part = re.search(r"^%post\n(.*?)^%", text, re.MULTILINE | re.DOTALL)
    assert part
    shellcheck("--shell=sh", "-", text=part[1])


@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf"])
def test_an_array_asks_for_what_one_run_asks_for(system: str) -> None:
    """The lines for the batch system are written twice."""
    mark = {"slurm": "#SBATCH ", "pbs": "#PBS ", "lsf": "#BSUB "}[system]
    of_array = ("--array", "-J", "-o")
    found = []
    for name in ("train.sh", "array.sh"):
        lines = (ROOT / "run" / system / name).read_text(encoding="utf-8").splitlines()
        options = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        found.append([option for option in options if not option.startswith(of_array)])
    assert found[0] == found[1] != []


def element(index: int, **variables: str) -> Result:
    command = ["sh", "run/array_element.sh", str(index)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=False
    )


def test_elements_of_an_array() -> None:
    mine = {"TRPO_MPI_ENVS": "A-v0 module:B-v1", "TRPO_MPI_SEEDS": "3"}
    lines = [element(index, **mine).stdout.strip() for index in range(6)]
    assert lines == [f"--env {env} --seed {s}" for env in ("A-v0", "module:B-v1") for s in range(3)]
    behind = element(6, **mine)
    assert behind.returncode == 2
    assert behind.stdout == ""
    assert "there is no run 6" in behind.stderr
    assert element(14).stdout.strip() == "--env HalfCheetah-v4 --seed 4"
    assert element(15).returncode == 2


class Site:
    """A folder with a checkout, the batch systems' commands, and a spool of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.spool, self.tools = folder, folder / "spool", folder / "tools"
        self.called = folder / "called"
        for path in (self.spool, self.tools):
            path.mkdir()
        (folder / "run").symlink_to(ROOT / "run")
        for tool in ("qsub", "bsub"):
            module = batch_stand_in.__file__
            self.command(tool, f'exec "{sys.executable}" "{module}" {tool} "$@"')

    def command(self, name: str, line: str, folder: Path | None = None) -> None:
        """Make a command of one line."""
        path = (folder or self.tools) / name
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(0o755)

    def no_trainer(self, line: str, trap: str = ":") -> dict[str, str]:
        """Make an environment whose python sets `trap`, notes its arguments and runs `line`."""
        bin_folder = self.folder / "venv" / "bin"
        bin_folder.mkdir(parents=True)
        note = f'echo "$OMP_NUM_THREADS: $*" >>"{self.called}"'
        self.command("python", f"{trap}\n{note}\n{line}", bin_folder)
        for name in ("mpiexec", "mpirun"):
            self.command(name, 'shift 2; exec "$@"', bin_folder)
        return {"TRPO_MPI_VENV": str(self.folder / "venv")}

    def call(self, line: str, **variables: str) -> Result:
        """Run a command line of the user's."""
        path = f"{self.tools}:{os.environ['PATH']}"
        mine = {"SPOOL": str(self.spool), "STAND_INS": str(self.tools), "HOME": str(self.folder)}
        return subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=environment(PATH=path, **mine, **variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def submit(self, line: str, **variables: str) -> None:
        result = self.call(line, **variables)
        assert result.returncode == 0, result.stderr

    def waiting(self) -> list[Path]:
        return batch_stand_in.waiting(self.spool)

    def run(self, job: Path, disturb: Callable[[int], None] = lambda _: None) -> int:
        """Run a job, to its exit code; `disturb` is called with the id of its shell."""
        process = batch_stand_in.start(job)
        try:
            disturb(process.pid)
            return process.wait(120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def log(self, job: Path) -> str:
        return job.with_suffix(".log").read_text(encoding="utf-8")

    def calls(self) -> list[str]:
        """What python was called with, after the number of threads."""
        return self.called.read_text(encoding="utf-8").splitlines() if self.called.exists() else []

    def wait_for_call(self) -> None:
        end = time.monotonic() + 30
        while not self.calls():
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)  # for the script that has started it and goes on to its own traps


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The results of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "trpo_mpi.run_mujoco", *ARGUMENTS.split(), "--outdir", "run"]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return exact_parts(folder / "run")


def some_iterations(run: Path) -> None:
    """Wait until there are a few."""
    end = time.monotonic() + 90
    while not (run / "progress.csv").exists() or (run / "progress.csv").read_text().count("\n") < 4:
        assert time.monotonic() < end
        time.sleep(0.05)


def real(launcher_variable: str) -> dict[str, str]:
    """The variables with which a job runs the trainer itself."""
    return {
        "PYTHONPATH": environment()["PYTHONPATH"],
        "TRPO_MPI_VENV": sys.prefix,
        "TRPO_MPI_ARGS": f"{ARGUMENTS} --outdir out",
        launcher_variable: " ".join(launcher()),
    }


@pytest.mark.mpi
def test_pbs_run_goes_on_in_another_job(site: Site, expected: dict[str, object]) -> None:
    """After USR1 to the shell alone, as `qsig` sends it."""
    two = "-l select=1:ncpus=2:mpiprocs=2"
    variables = real("TRPO_MPI_MPIEXEC") | {"TRPO_MPI_QSUB": two}
    site.submit(f"qsub {two} -v {','.join(variables)} run/pbs/train.sh", **variables)
    (first,) = site.waiting()

    def disturb(shell: int) -> None:
        some_iterations(site.folder / "out")
        os.kill(shell, signal.SIGUSR1)

    assert site.run(first, disturb) == 0, site.log(first)
    assert "stopped by SIGUSR1" in site.log(first)
    (second,) = site.waiting()
    assert site.run(second) == 0, site.log(second)
    assert "2 ranks" in site.log(second)
    assert "resumed from" in site.log(second)
    assert site.waiting() == []
    assert exact_parts(site.folder / "out") == expected


def test_pbs_hands_on_what_it_was_given(site: Site) -> None:
    """Every job stops with 75; after two restarts it is not submitted again."""
    variables = site.no_trainer("exit 75")
    variables |= {"TRPO_MPI_ARGS": "--env A-v0 --net-arch 8 8", "TRPO_MPI_MAX_RESTARTS": "2"}
    site.submit(f"qsub -v {','.join(variables)} run/pbs/train.sh", **variables)
    codes = []
    while site.waiting():
        (job,) = site.waiting()
        codes.append(site.run(job))
    assert codes == [0, 0, 75]
    assert "started again 2 times" in site.log(job)
    call = "1: -m trpo_mpi.run_mujoco --resume auto --max-hours 3.9 --env A-v0 --net-arch 8 8"
    assert site.calls() == [call] * 3


def test_pbs_element_goes_on_alone(site: Site) -> None:
    variables = site.no_trainer('case "$*" in *"A-v0 --seed 1"*) exit 75 ;; esac')
    variables |= {"TRPO_MPI_ENVS": "A-v0", "TRPO_MPI_SEEDS": "2", "TRPO_MPI_ARGS": "--gamma 0.9"}
    variables |= {"TRPO_MPI_HOURS": "1.5"}
    site.submit(f"qsub -J 0-1 -v {','.join(variables)} run/pbs/array.sh", **variables)
    assert [site.run(job) for job in site.waiting()] == [0, 0]
    (again,) = site.waiting()
    assert site.run(again) == 0
    calls = [call.partition("--max-hours ")[2] for call in site.calls()]
    assert calls == [f"1.5 --env A-v0 --seed {seed} --gamma 0.9" for seed in (0, 1, 1)]


@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize("system", ["pbs", "lsf"])
def test_other_codes_end_the_job(system: str, code: int, site: Site) -> None:
    variables = site.no_trainer(f"exit {code}")
    if system == "pbs":
        site.submit("qsub -v TRPO_MPI_VENV run/pbs/train.sh", **variables)
    else:
        site.submit("bsub <run/lsf/train.sh", **variables)
    (job,) = site.waiting()
    assert site.run(job) == code
    assert site.waiting() == []


@pytest.mark.parametrize("system", ["pbs", "lsf"])
def test_a_job_that_is_deleted_does_not_come_back(system: str, site: Site) -> None:
    """qdel and bkill send TERM to all processes; a run of ours then stops with a checkpoint."""
    variables = site.no_trainer("while :; do sleep 0.1; done", "trap 'exit 75' TERM USR1")
    if system == "pbs":
        site.submit("qsub -v TRPO_MPI_VENV run/pbs/train.sh", **variables)
    else:
        site.submit("bsub <run/lsf/train.sh", **variables)

    def disturb(shell: int) -> None:
        site.wait_for_call()
        os.killpg(shell, signal.SIGTERM)

    (job,) = site.waiting()
    code = site.run(job, disturb)
    assert code == (75 if system == "pbs" else 1)  # LSF would queue the job again on 75
    assert site.waiting() == []


@pytest.mark.mpi
@pytest.mark.long
def test_lsf_run_goes_on_in_the_same_job(site: Site, expected: dict[str, object]) -> None:
    """After USR1 to all processes, the warning of the script's -wa; -Q has LSF start it again."""
    variables = real("TRPO_MPI_MPIRUN")
    site.submit("bsub -n 2 <run/lsf/train.sh", **variables)
    (job,) = site.waiting()

    def disturb(shell: int) -> None:
        some_iterations(site.folder / "out")
        os.killpg(shell, signal.SIGUSR1)

    assert site.run(job, disturb) == 75, site.log(job)
    assert site.run(job) == 0, site.log(job)
    assert "2 ranks" in site.log(job)
    assert "resumed from" in site.log(job)
    assert exact_parts(site.folder / "out") == expected


def test_lsf_array_counts_from_one(site: Site) -> None:
    variables = site.no_trainer("exit 0")
    variables |= {"TRPO_MPI_ENVS": "A-v0 B-v0", "TRPO_MPI_SEEDS": "1"}
    site.submit('bsub -J "mine[1-2]" <run/lsf/array.sh', **variables)
    assert [site.run(job) for job in site.waiting()] == [0, 0]
    expected = [f"1: -m trpo_mpi.run_mujoco --resume auto --env {x}-v0 --seed 0" for x in "AB"]
    assert [call.strip() for call in site.calls()] == expected


def test_lsf_asks_for_the_warning_and_the_requeue() -> None:
    text = (ROOT / "run" / "lsf" / "train.sh").read_text(encoding="utf-8")
    options = batch_stand_in.directives("bsub", text)
    assert {("wa", "USR1"), ("wt", "2"), ("Q", "75"), ("r", "")} <= set(options)


SLURM = {"SLURM_JOB_ID": "17"}
ELEMENT = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("code", "variables", "requeued"),
    [
        (0, SLURM, ""),
        (1, SLURM, ""),
        (137, SLURM, ""),
        (75, SLURM, "requeue 17"),
        (75, ELEMENT, "requeue 17_3"),
        (75, SLURM | {"SLURM_RESTART_COUNT": "99"}, "requeue 17"),
        (75, SLURM | {"SLURM_RESTART_COUNT": "100"}, ""),
        (75, SLURM | {"SLURM_RESTART_COUNT": "3", "TRPO_MPI_MAX_RESTARTS": "3"}, ""),
    ],
)
def test_slurm_requeues_on_75(
    code: int, variables: dict[str, str], requeued: str, site: Site
) -> None:
    site.command("srun", f'echo "srun $*" >>"{site.called}"\nexit {code}')
    site.command("scontrol", f'echo "$*" >>"{site.called}"')
    result = site.call("bash run/slurm/train.sh --env A-v0 --seed 3", **variables)
    assert result.returncode == code
    first, *rest = site.calls()
    assert first.startswith("srun --kill-on-bad-exit=1 --mpi=pmi2 python -m trpo_mpi.run_mujoco ")
    assert first.endswith(" --resume auto --env A-v0 --seed 3")
    assert rest == ([requeued] if requeued else [])
