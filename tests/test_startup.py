"""Launchers, MPI libraries and threads: what is refused, and what runs alone."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATHS, Run, started
from toy_envs import Counter
from toy_training import toy_trainer

from trpo_mpi import training_command
from trpo_mpi.errors import UsageError
from trpo_mpi.parallel import startup
from trpo_mpi.trainer import Iteration, Trainer

MODULE = "trpo_mpi.run_mujoco"
NUMBERS = [name for launcher in startup._LAUNCHERS for name in launcher[1:]]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("no launcher", 1, 0)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, ("mpirun (MPICH, Intel MPI or PALS)", 4, 3)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, ("mpirun (Open MPI)", 2, 1)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, ("srun", 8, 5)),
        # An mpirun inside a Slurm step, whose daemons srun started: two nodes, eight ranks.
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMI_SIZE": "8", "PMI_RANK": "6"},
            ("mpirun (MPICH, Intel MPI or PALS)", 8, 6),
        ),
        # In a batch script, outside any step.
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, ("no launcher", 1, 0)),
    ],
)
def test_launchers_are_known_by_their_variables(
    environ: dict[str, str], expected: tuple[str, int, int]
) -> None:
    assert startup.launched(environ) == expected


def test_threads_are_one_unless_the_user_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in startup.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    startup.limit_threads()
    assert {os.environ[name] for name in startup.THREAD_VARIABLES} == {"1"}
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    startup.limit_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert os.environ["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("given", "threads"), [("", "1"), ("3,2", "3")])
def test_threads_of_a_script(given: str, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sets the variable to another that is not there; or to a list, one for each level."""
    for name in startup.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    startup.limit_threads()
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == threads
    assert os.environ["OMP_NUM_THREADS"] == (given or "1")


@pytest.mark.parametrize(
    ("name", "given", "lowest"),
    [
        ("OMP_NUM_THREADS", "abc", 1),
        ("OMP_NUM_THREADS", "-1", 1),
        ("OMP_NUM_THREADS", "0", 1),
        ("MKL_NUM_THREADS", "2,3", 1),
        ("TF_NUM_INTRAOP_THREADS", "-1", 0),
    ],
)
def test_threads_that_are_no_number(
    name: str, given: str, lowest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup._check_threads()
    monkeypatch.setenv(name, given)
    with pytest.raises(UsageError, match=f"^{name} is '{given}'; .* a number of {lowest} or more$"):
        startup._check_threads()


def test_threads_that_are_no_number_are_refused_in_one_line(python: Run) -> None:
    result = python("-m", "trpo_mpi.status", "runs", OMP_NUM_THREADS="2,x")
    assert result.returncode == 2
    expected = "status: error: OMP_NUM_THREADS is '2,x'; it must be a number of 1 or more\n"
    assert result.stderr == expected


@pytest.mark.parametrize(
    ("variables", "launcher", "cure"),
    [
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "mpirun (MPICH", "mpirun that belongs"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun (Open MPI)", "mpirun that belongs"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "srun", "--mpi="),
    ],
)
def test_a_launcher_of_another_mpi_is_refused(
    variables: dict[str, str], launcher: str, cure: str, python: Run
) -> None:
    """It starts processes that each see themselves alone; the line names both numbers."""
    result = python("-m", MODULE, "--env", "CartPole-v1", "--max-iterations", "1", **variables)
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    for words in (launcher, "started 2 processes", "has 1:", cure):
        assert words in line
    assert result.stdout == ""
    others = {name: "1" for name in NUMBERS if name in variables and name.endswith(("RANK", "ID"))}
    if others:  # the same on the other process, which leaves the talking to the first
        result = python("-m", MODULE, "--env", "CartPole-v1", **(variables | others))
        assert result.returncode == 0  # the job's code is the first's
        assert "error" not in result.stderr


STUB = {
    "no mpi4py": {"__init__.py": "raise ImportError('no mpi4py')"},
    "no library": {
        "__init__.py": "class rc: pass",
        "MPI.py": "raise RuntimeError('cannot load MPI library')",
    },
}


def without_mpi(kind: str, folder: Path) -> str:
    """A PYTHONPATH on which mpi4py, or the library that it needs, is not there."""
    package = folder / "stub" / "mpi4py"
    package.mkdir(parents=True)
    for name, text in STUB[kind].items():
        (package / name).write_text(text, encoding="utf-8")
    return os.pathsep.join([str(package.parent), *PATHS])


@pytest.mark.parametrize("kind", STUB)
def test_without_an_mpi_library_it_is_one_process(kind: str, tmp_path: Path, python: Run) -> None:
    path = without_mpi(kind, tmp_path)
    arguments = ["--env", "CartPole-v1", "--max-iterations", "1", "--outdir", "out"]
    result = python("-m", MODULE, *arguments, PYTHONPATH=path)
    assert result.returncode == 0, result.stderr
    assert "1 rank on" in result.stdout
    assert "no MPI library" in result.stdout
    assert (tmp_path / "out" / "model.zip").exists()


def test_a_launcher_without_an_mpi_library_is_refused(tmp_path: Path, python: Run) -> None:
    path = without_mpi("no library", tmp_path)
    command = ["-m", MODULE, "--env", "CartPole-v1"]
    result = python(*command, PYTHONPATH=path, PMI_SIZE="3", PMI_RANK="0")
    assert result.returncode == 2
    assert f"started 3 processes, but {socket.gethostname()} has no MPI library" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("local", "lines"), [("0", 1), ("1", 0)])
def test_a_node_without_an_mpi_library_says_so(
    local: str, lines: int, tmp_path: Path, python: Run
) -> None:
    """By one of its ranks; and none waits, or exits as if all were well."""
    path = without_mpi("no library", tmp_path)
    ranks = {"PMI_SIZE": "8", "PMI_RANK": "5", "MPI_LOCALRANKID": local}
    result = python("-m", MODULE, "--env", "CartPole-v1", PYTHONPATH=path, **ranks)
    assert result.returncode == 2
    assert result.stderr.count("has no MPI library") == result.stderr.count("\n") == lines


def test_an_mpirun_inside_a_step_counts_before_the_step() -> None:
    step = {"PMI_SIZE": "1", "PMI_RANK": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    inside = step | {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
    assert startup.launched(inside) == ("mpirun (Open MPI)", 4, 3)


def test_waits_until_what_it_said_is_read(tmp_path: Path) -> None:
    """An abort makes MPICH's mpirun throw away what it has not read yet."""
    script = "import os; from trpo_mpi.parallel import startup; os.write(2, b'why'); "
    script += "startup.await_reader(60); print('read', flush=True)"
    with started([sys.executable, "-c", script], tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], 60)[0]  # it has been said
        assert not select.select([process.stdout], [], [], 0.5)[0]
        assert process.stderr.read(3) == "why"
        assert process.stdout.readline() == "read\n"


def test_waits_for_nobody_where_standard_error_is_a_file(tmp_path: Path) -> None:
    script = "from trpo_mpi.parallel import startup; startup.await_reader(60)"
    for target in ("file", "&-"):
        subprocess.run(
            ["sh", "-c", f'exec "$0" -c "{script}" 2>{target}', sys.executable],
            check=True,
            timeout=30,
            cwd=tmp_path,
        )


CORES = """
import os, sys
import numpy as np
from trpo_mpi.parallel import startup
cores = sorted(os.sched_getaffinity(0))
rank = startup.launched().rank
mine = {"one": cores[:1], "each": [cores[rank % 2]], "all": cores[:2], "odd": [cores[rank == 1]]}
os.sched_setaffinity(0, mine[sys.argv[1]])
comm = startup.connect().with_columns(2)
assert comm.on_root(lambda: "said") == "said"
total = comm.sum_columns("x", comm.gather_columns(np.ones((1, 3)))[:1]).sum()
if comm.is_root:
    print(comm.patient, total)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
def test_all_ranks_sleep_if_those_of_one_node_share_a_core(tmp_path: Path, mpirun: Run) -> None:
    """MPICH takes ranks 0 and 2 for one node, and 1 for another, which has a core for its own."""
    text = CORES.replace("with_columns(2)", "with_columns(3)")
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    result = mpirun(3, "script.py", "odd", MPIR_CVAR_ODD_EVEN_CLIQUES="1")
    assert result.stdout == "True 9.0\n", result.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
@pytest.mark.parametrize(("cores", "patient"), [("one", True), ("each", False), ("all", False)])
def test_ranks_that_share_a_core_wait_asleep(
    cores: str, patient: bool, tmp_path: Path, mpirun: Run
) -> None:
    (tmp_path / "script.py").write_text(CORES, encoding="utf-8")
    result = mpirun(2, "script.py", cores, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{patient} 6.0\n"


def test_training_that_diverges_is_one_line(mpirun: Run) -> None:
    flags = "--env CartPole-v1 --vf-stepsize 1e30 --max-iterations 4"
    result = mpirun(2, "-m", "trpo_mpi.run_mujoco", *flags.split())
    assert result.returncode != 0
    told = [line for line in result.stderr.splitlines() if "has diverged" in line]
    assert len(told) == 1
    assert told[0].startswith("rank 0 of 2: training has diverged: the critic gradient is not")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["plot", "status"])
def test_commands_for_one_process(command: str, python: Run) -> None:
    result = python("-m", f"trpo_mpi.{command}", "runs", PMI_SIZE="2", PMI_RANK="0")
    assert result.returncode == 2
    assert "started 2 processes; this command is for one" in result.stderr


def test_a_name_that_the_terminal_can_not_write(tmp_path: Path, python: Run) -> None:
    (tmp_path / "ü").mkdir()
    result = python("-m", "trpo_mpi.status", "ü", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (2, "status: error: there is no run in \\xfc\n")


def test_check_of_a_short_run_is_of_whole_batches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = toy_trainer(Counter, num_envs=2, timesteps_per_batch=32, num_timesteps=8)
    rows = []

    def iterate() -> Iteration:
        iteration = Trainer.iterate(trainer)
        rows.append(iteration.row)
        return iteration

    monkeypatch.setattr(trainer, "iterate", iterate)
    assert training_command._check(trainer, trainer.comm) == 0
    assert [row["timesteps_per_batch"] for row in rows] == [32] * 3
    said = f"expected speed: {rows[-1]['steps_per_second']:.0f} steps/s, 0.0 minutes in all\n"
    assert capsys.readouterr().out.endswith(said)
