"""Whole runs under a real mpirun: equal bits on any number of ranks, and failures that end."""

import csv
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from toy_envs import Counter
from toy_training import toy_trainer

MODULE = "trpo_mpi.run_mujoco"

HOPPER = "--env Hopper-v4 --num-timesteps 12000"
# 7 environments by 75 steps: dealt out unevenly, and no multiple of 8. The last batch is short.
CARTPOLE = (
    "--env CartPole-v1 --num-envs 7 --timesteps-per-batch 525 --num-timesteps 3000 "
    "--fisher-fraction 0.4 --vf-batch 100 --entcoeff 0.01 --seed 3"
)


def exact_parts(folder: Path) -> dict[str, Any]:
    """The results of a run, except those that a clock or the memory decides."""
    with open(folder / "progress.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    exact = [n for n in rows[0] if not n.endswith(("seconds", "per_second", "mb"))]
    monitor = (folder / "monitor.csv").read_text(encoding="utf-8").splitlines()
    return {
        "columns": exact,
        "progress": [[row[name] for name in exact] for row in rows],
        "monitor": [line.rpartition(",")[0] for line in monitor[1:]],
        "model": (folder / "model.zip").read_bytes(),
    }


def compare(arguments: str, counts: list[int], tmp_path: Path, python: Run, mpirun: Run) -> None:
    """Compare runs on several numbers of ranks with the run of one process, without mpirun."""
    command = ["-m", MODULE, *arguments.split(), "--outdir"]
    result = python(*command, tmp_path / "0")
    assert result.returncode == 0, result.stderr
    expected = exact_parts(tmp_path / "0")
    rows = [dict(zip(expected["columns"], row, strict=True)) for row in expected["progress"]]
    assert len(rows) >= 6
    assert all(float(row["step_fraction"]) > 0 for row in rows[2:])
    assert float(rows[-1]["episodes"]) == len(expected["monitor"]) - 1 > 30
    assert int(rows[-1]["timesteps_per_batch"]) < int(rows[0]["timesteps_per_batch"])
    for n in counts:
        result = mpirun(n, *command, tmp_path / str(n), timeout=600)
        assert result.returncode == 0, result.stderr
        # The warning of a deprecated environment is shown once; nothing else goes there.
        said = r"warning: The environment [^\n]* is out of date[^\n]*\n"
        assert re.fullmatch(said if "-v4" in arguments else "", result.stderr)
        shared = n > len(os.sched_getaffinity(0)) == os.cpu_count()
        assert result.stdout.count("they will wait for each other") == shared
        given = exact_parts(tmp_path / str(n))
        for part, value in expected.items():
            assert given[part] == value, f"{part} on {n} ranks"


def test_hopper_has_the_same_bits_on_1_4_ranks(tmp_path: Path, python: Run, mpirun: Run) -> None:
    compare(HOPPER, [4], tmp_path, python, mpirun)


@pytest.mark.long
def test_cartpole_dealt_unevenly_has_the_same_bits_on_1_3_ranks(
    tmp_path: Path, python: Run, mpirun: Run
) -> None:
    compare(CARTPOLE, [3], tmp_path, python, mpirun)


PICTURE = (
    "--env memory_envs:Picture-v0 --num-envs 5 --timesteps-per-batch 105 --entcoeff 0.01 "
    "--num-timesteps 700 --vf-batch 50 --vf-iters 2"
)
POLICIES = [
    (f"{CARTPOLE} --lstm-units 5 --policy MlpLstmPolicy", 3),
    (f"{CARTPOLE} --algo ppo --policy-batch 60", 3),
    (f"{CARTPOLE} --algo kl-penalty --adapt kl", 2),
    *(
        pytest.param(arguments, 3, marks=pytest.mark.long)
        for arguments in (
            f"{CARTPOLE} --policy MlpLnLstmPolicy",
            f"{CARTPOLE} --algo ppo --policy-batch 60 --policy MlpLstmPolicy --lstm-units 5",
            f"{PICTURE} --policy CnnPolicy",
            f"{PICTURE} --policy CnnLstmPolicy",
            f"{PICTURE} --policy CnnLnLstmPolicy",
            f"{PICTURE} --policy CnnPolicy --algo ppo --vf-clip 0.2",
            f"{CARTPOLE} --timesteps-per-batch 1400 --num-timesteps 24000 --algo npg --adapt both",
        )
    ),
]


@pytest.mark.parametrize(("arguments", "ranks"), POLICIES)
def test_every_policy_and_step_has_the_same_bits_on_1_and_more_ranks(
    arguments: str, ranks: int, tmp_path: Path, python: Run, mpirun: Run
) -> None:
    compare(arguments, [ranks], tmp_path, python, mpirun)


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        f"{HOPPER} --vf-iters 2",
        CARTPOLE.replace("7 ", "19 ").replace("525", "741").replace("3000", "4200 --vf-iters 2"),
        "--env Humanoid-v4 --num-timesteps 12000 --vf-iters 1 --cg-iters 5",
    ],
    ids=["Hopper", "CartPole", "Humanoid"],
)
def test_same_bits_on_16_ranks(arguments: str, tmp_path: Path, python: Run, mpirun: Run) -> None:
    """One environment per rank, an uneven deal, and 17 actions, no multiple of a SIMD width.

    Few critic steps: ranks that wait occupy cores that others need.
    """
    compare(arguments, [16], tmp_path, python, mpirun)


def fault(kind: str, tmp_path: Path) -> dict[str, str]:
    """Of five environments on three ranks, 2 is the second one of rank 1."""
    settings = {"FAULT": kind, "FAULT_RANK": "1", "FAULT_MADE": "1", "FAULT_STEP": "700"}
    return settings | {"FAULT_TIME": str(tmp_path / "time")}


def seconds_since_the_fault(tmp_path: Path) -> float:
    return time.time() - float((tmp_path / "time").read_text(encoding="utf-8"))


FAULTY = ["-m", MODULE, "--env", "toy_envs:Faulty-v0", "--num-envs", "5"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raise", ["ValueError: the toy broke", "in environment 2 at step"]),
        ("exit", ["SystemExit"]),
    ],
)
def test_an_exception_on_one_rank_ends_the_job(
    kind: str, words: list[str], tmp_path: Path, mpirun: Run
) -> None:
    """In the second batch: the others wait for it in a collective."""
    result = mpirun(3, *FAULTY, **fault(kind, tmp_path), timeout=100)
    assert seconds_since_the_fault(tmp_path) < 10
    assert result.returncode not in (0, 2)
    assert result.stderr.count("Traceback") == 1
    assert [result.stderr.count(word) for word in words] == [1] * len(words)
    assert "rank 1 of 3" in result.stderr


def test_a_nan_from_an_environment_ends_the_job(tmp_path: Path, mpirun: Run) -> None:
    result = mpirun(3, *FAULTY, **fault("reward", tmp_path))
    assert seconds_since_the_fault(tmp_path) < 10
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    line = next(line for line in result.stderr.splitlines() if "finite" in line)
    for words in ("rank 1 of 3", "reward", "environment 2", "step", "nan"):
        assert words in line


SCRIPT = """
import sys
from trpo_mpi.parallel import startup
comm = startup.connect()
who, ending = sys.argv[1:]
if str(comm.rank) == who or who == "all":
    raise {"error": ValueError, "interrupt": KeyboardInterrupt}[ending]("from the script")
comm.barrier()
"""


@pytest.mark.parametrize("who", ["2", "all"])
def test_a_script_of_ones_own_ends_as_well(who: str, tmp_path: Path, mpirun: Run) -> None:
    """Without `startup.run`; and a fault that all ranks share is shown once."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    result = mpirun(3, "script.py", who, "error", timeout=60)
    assert result.returncode not in (0, 2)
    assert result.stderr.count("Traceback") == 1
    assert result.stderr.count("ValueError: from the script") == 1
    assert f"rank {who if who != 'all' else 0} of 3" in result.stderr


def test_a_script_of_ones_own_is_interrupted_quietly(tmp_path: Path, mpirun: Run) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    result = mpirun(3, "script.py", "all", "interrupt", timeout=60)
    assert result.returncode not in (0, 2)
    assert "Traceback" not in result.stderr
    assert result.stderr.count("interrupted\n") <= 1  # none if another rank's end kills the first


DRIVE = """
from trpo_mpi.parallel import startup

startup.limit_threads()

import numpy as np
from trpo_mpi import tensorflow_setup
from trpo_mpi.config import Config
from trpo_mpi.grid import batch_grid
from trpo_mpi.envs.make import make_env
from trpo_mpi.envs.vector import ColumnEnvs

def main():
    config = Config(drift_check_every=1)
    comm = startup.connect()
    tensorflow_setup.set_up("-1", 0)
    from trpo_mpi.trainer import Trainer

    grid = batch_grid(config, comm.size)
    comm = comm.with_columns(grid.num_envs)
    makers = [lambda: make_env(config.env) for _ in comm.columns]
    trainer = Trainer(config, grid, comm, ColumnEnvs(makers, comm.columns))
    for _ in range(8):
        before = comm.collectives
        trainer.iterate()
        if comm.is_root:
            print("collectives", comm.collectives - before, flush=True)
    if comm.rank == 1:
        trainer.critic.adam.v.view(np.uint32)[123] ^= 1
    trainer.iterate()
    print("went on")

startup.run(main)
"""


def test_collectives_are_few_and_drift_is_found(tmp_path: Path, mpirun: Run) -> None:
    """At the defaults, Hopper-v4; after eight iterations one bit flips on rank 1."""
    (tmp_path / "drive.py").write_text(DRIVE, encoding="utf-8")
    result = mpirun(2, "drive.py")
    counts = [int(line.split()[1]) for line in result.stdout.splitlines() if "collectives" in line]
    assert len(counts) == 8, result.stderr
    assert 12 < max(counts) <= 60  # 10 Fisher-vector products, at least
    assert "went on" not in result.stdout
    assert result.returncode == 1
    assert result.stderr.count("parameters differ between ranks in iteration 9: rank 1 of 2") == 1
    assert result.stderr.count("Traceback") == 1


@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_fingerprint_sees_one_bit_of_each_vector(algo: str) -> None:
    trainer = toy_trainer(Counter, num_envs=2, timesteps_per_batch=16, algo=algo)
    critic, policy = trainer.critic.adam, trainer._update.adam
    vectors = [trainer.theta, trainer.critic.phi, critic.m, critic.v]
    if algo == "ppo":
        assert policy is not None
        vectors += [policy.m, policy.v]
    before = trainer._fingerprint()
    for vector in vectors:
        vector.view("u4")[-1] ^= 1
        assert trainer._fingerprint() != before
        vector.view("u4")[-1] ^= 1
        assert trainer._fingerprint() == before


USAGE = [  # a few of each kind; --full has the others
    ("--env Hoper-v4", {}, ["Hoper-v4", "Hopper-v4"]),
    ("--lam 1.5", {}, ["--lam is 1.5", "from 0 to 1"]),
    ("--num-envs 3", {}, ["--num-envs 3", "4 or more", "start 3 ranks"]),
    ("--policy CnnPolicy", {}, ["is no image: CnnPolicy needs a Box"]),
    ("--outdir run", {}, ["--outdir run", "already holds a run"]),
    *(
        pytest.param(*values, marks=pytest.mark.long)
        for values in (
            ("--env toy_envs:Conter-v0", {}, ["toy_envs:Conter-v0", "Counter-v0"]),
            ("--nun-envs 4", {}, ["--nun-envs", "did you mean --num-envs"]),
            ("--timesteps-per-batch 2050", {}, ["2050", "2048 or 2064"]),
            (
                *("--env toy_envs:Strange-v0", {"STRANGE": "observation"}),
                ["observation space Text(1, 3"],
            ),
            ("--env toy_envs:Strange-v0", {"STRANGE": "action"}, ["action space Text(1, 2"]),
            ("--load none.zip", {}, ["--load", "none.zip"]),
            ("--gpu 7", {}, ["--gpu 7"]),
            ("--outdir file/below", {}, ["--outdir file/below", "can't be written"]),
        )
    ),
]


@pytest.mark.parametrize(("arguments", "variables", "words"), USAGE)
def test_wrong_usage_is_one_line_from_four_ranks(
    arguments: str, variables: dict[str, str], words: list[str], tmp_path: Path, mpirun: Run
) -> None:
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "progress.csv").write_text("precious", encoding="utf-8")
    defaults = [] if "--env" in arguments else ["--env", "CartPole-v1"]
    started = time.time()
    result = mpirun(4, "-m", MODULE, *defaults, *arguments.split(), **variables)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("run_mujoco: error: ")
    for word in words:
        assert word in lines[0]
    assert result.stdout.strip() == ""
    assert result.returncode == 2
    left = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(map(os.fspath, left)) == ["file", "run/progress.csv"]
    assert all((tmp_path / path).read_text(encoding="utf-8") == "precious" for path in left)
    assert time.time() - started < 60
