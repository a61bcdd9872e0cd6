"""`sweep`: which runs there are, how they end, and what is made of them."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, Run, environment, started
from test_batch_scripts import ROOT, shellcheck

from trpo_mpi import sweep
from trpo_mpi.config import AtariConfig
from trpo_mpi.errors import UsageError
from trpo_mpi.sweeps import machine, plan, results

SWEEP = [sys.executable, "-m", "trpo_mpi.sweep"]
TINY = "--max-iterations 2 --timesteps-per-batch 256"


def planned(line: str, folder: Path = Path("runs")) -> list[plan.Run]:
    """The runs of a command line."""
    settings, common = sweep._parse(shlex.split(line))
    varied, seeds = plan.variations(settings.vary), plan.seeds(settings.seeds)
    return plan.plan(settings.envs, seeds, varied, common, folder, settings.ranks)


def test_every_seed_comes_with_all_that_it_is_compared_with() -> None:
    runs = planned("--envs CartPole-v1 Acrobot-v1 --seeds 2 0 --vary max-kl 0.01 0.02")
    assert [run.directory.name for run in runs] == [
        f"{env}-v1-max_kl{kl}-s{seed}"
        for seed in (2, 0)
        for env in ("CartPole", "Acrobot")
        for kl in ("0.01", "0.02")
    ]
    assert runs[3].config.env == "Acrobot-v1"
    assert runs[3].config.seed == 2
    assert runs[3].config.max_kl == 0.02


def test_settings_of_every_kind() -> None:
    """A number below 0, several words, yes or no, text; and flags for all runs."""
    line = (
        '--envs slow_envs:SlowCartPole-v0 --vary net-arch "64 64" 32 --vary normalize_returns '
        "False --vary init-logstd -0.5 --vary policy MlpLstmPolicy -- --recipe chainerrl --lam=.9"
    )
    first, second = planned(line)
    name = "SlowCartPole-v0-net_arch{}-normalize_returns-False-init_logstd-0.5-policy-MlpLstmPolicy"
    assert first.directory.name == name.format("64-64") + "-s0"
    assert second.directory.name == name.format("32") + "-s0"
    assert first.config.net_arch == (64, 64)
    assert second.config.net_arch == (32,)
    assert not first.config.normalize_returns
    assert first.config.init_logstd == -0.5
    assert first.config.policy == "MlpLstmPolicy"
    assert first.config.lam == 0.9
    assert first.config.timesteps_per_batch == 5000  # the recipe's
    words = shlex.join(first.arguments)
    assert words.startswith("trpo_mpi.run_mujoco --env slow_envs:SlowCartPole-v0 --seed 0 ")
    assert " --recipe chainerrl --lam=.9 --num-timesteps 2000000 --net-arch 64 64 " in words
    assert words.endswith(f"--outdir {first.directory} --resume auto")


def test_games_are_for_run_atari() -> None:
    cartpole, pong = planned("--envs CartPole-v1 ALE/Pong-v5 --vary gamma 0.98")
    assert cartpole.arguments[0] == "trpo_mpi.run_mujoco"
    assert pong.arguments[0] == "trpo_mpi.run_atari"
    assert pong.directory.name == "ALE-Pong-v5-gamma0.98-s0"
    assert isinstance(pong.config, AtariConfig)


def test_seeds() -> None:
    assert plan.seeds(["0-2", "7", "1", "9-9"]) == [0, 1, 2, 7, 9]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["--envs"]),
        ("--envs", ["--envs", "one value or more"]),
        ("--envs CartPole-v1 --seeds 4-0", ["--seeds 4-0", "0-4"]),
        ("--envs CartPole-v1 --seeds one", ["--seeds one"]),
        ("--envs CartPole-v1 --ranks 0", ["--ranks is 0", "from 1 to"]),
        ("--envs CartPole-v1 --max-kl 0.1", ["--max-kl", "go after --"]),
        ("--envs CartPol-v1", ["CartPol-v1", "CartPole-v1"]),
        ("--envs CartPole-v1 -- --max-kl -1", ["--max-kl is -1.0", "above 0"]),
        ("--envs CartPole-v1 -- --max-kl 0.1 0.2", ["0.2", "--vary"]),
        ("--envs CartPole-v1 -- --max-lk 0.1", ["run_mujoco", "--max-lk", "did you mean --max-kl"]),
        ("--envs CartPole-v1 -- --seed=3", ["--seed behind --", "--seeds"]),
        ("--envs CartPole-v1 -- --resume never", ["--resume behind --"]),
        ("--envs CartPole-v1 --vary lam 0.9 -- --lam 0.5", ["--lam behind --", "--vary has it"]),
        ("--envs CartPole-v1 --vary", ["--vary", "takes a setting and its values"]),
        ("--envs CartPole-v1 --vary max-kl=1,2", ["max-kl=1,2", "--vary max-kl 0.01 0.02"]),
        ("--envs CartPole-v1 --vary max-lk 1 2", ["max-lk", "did you mean max-kl"]),
        ("--envs CartPole-v1 --vary lam 1 --vary lam 0", ["--vary lam", "twice"]),
        ("--envs CartPole-v1 --vary env A B", ["--vary env", "--envs"]),
        ("--envs CartPole-v1 --vary max-iterations 1 2", ["max-iterations", "no result"]),
        ("--envs CartPole-v1 --vary max-kl 0.01 x", ["--max-kl", "x"]),
        ("--envs CartPole-v1 --vary max-kl 0.01 1e-2", ["max_kl0.01-s0", "max_kl1e-2-s0", "same"]),
        ("--envs CartPole-v1 --vary normalize-returns 1", ["normalize-returns 1", "True or False"]),
        ("--envs CartPole-v1 --vary frame-stack 1 4", ["frame-stack", "run_mujoco"]),
        ("--envs CartPole-v1 --vary num-envs 16 2 --ranks 4", ["--num-envs 2", "4 ranks"]),
        ("--envs CartPole-v1 -- --recipe baselines-atari", ["--recipe", "run_atari"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_begins(line: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        planned(line)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_refused_command_prints_one_line_and_leaves_nothing(python: Run, tmp_path: Path) -> None:
    refused = "--envs CartPole-v1 --vary max-kl 0.01 0 --outdir runs".split()
    result = python("-m", "trpo_mpi.sweep", *refused)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"sweep: error: --max-kl is 0.0; [^\n]*\n", result.stderr)
    assert not (tmp_path / "runs").exists()


def test_it_loads_neither_tensorflow_nor_mpi(python: Run) -> None:
    code = (
        "import sys, trpo_mpi.sweep\n"
        "print([m for m in ('tensorflow', 'mpi4py.MPI', 'matplotlib') if m in sys.modules])"
    )
    assert python("-c", code).stdout == "[]\n"


def run_directory(path: Path, returns: list[Any], evaluations: str = "") -> None:
    path.mkdir(parents=True)
    lines = [f"{i},{i},{value}\n" for i, value in enumerate(returns)]
    text = "iteration,timesteps,episode_return_mean\n" + "".join(lines)
    (path / "progress.csv").write_text(text + "9,9,7")  # a row that is being written
    if evaluations:
        head = "iteration,timesteps,mode,episodes,return_mean,return_std_error\n"
        (path / "evaluations.csv").write_text(head + evaluations)


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Over the finished seeds; the last evaluation in a mode counts if all of them have one."""
    runs = planned("--envs CartPole-v1 Acrobot-v1 --seeds 0-2 --vary lam 0.9", tmp_path)
    for run, value in zip(runs[::2], (1.0, 4.0, 100.0), strict=True):
        later = f"2,2,deterministic,5,{10 * value},0\n"
        first = "1,1,deterministic,5,3,0\n1,1,stochastic,5,3,0\n"
        run_directory(run.directory, [0.5, value], (first if value == 1 else "") + later)
    run_directory(runs[1].directory, ["", ""])
    rows = results.table(runs, [*runs[0:3:2], runs[1]], ["lam"])
    cartpole = {
        "environment": "CartPole-v1",
        "lam": "0.9",
        "seeds_finished": 2,
        "seeds_asked": 3,
        "training_return_mean": 2.5,
        "training_return_std_error": 1.5,
        "stochastic_return_mean": None,
        "stochastic_return_std_error": None,
        "deterministic_return_mean": 25.0,
        "deterministic_return_std_error": 15.0,
    }
    nothing = dict.fromkeys(list(cartpole)[4:])
    acrobot = {"environment": "Acrobot-v1", "lam": "0.9", "seeds_finished": 1, "seeds_asked": 3}
    assert rows == [pytest.approx(cartpole), acrobot | nothing]
    assert results.as_text(rows, ["lam"]).splitlines() == [
        "environment  lam   seeds  training  std error  deterministic  std error",
        "CartPole-v1  0.9  2 of 3      2.50       1.50          25.00      15.00",
        "Acrobot-v1   0.9  1 of 3         -          -              -          -",
    ]


def call(folder: Path, line: str, timeout: float = 1200, **variables: str) -> Result:
    return subprocess.run(
        [*SWEEP, *shlex.split(line)],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def starts(run: Path) -> int:
    """How often a run was started."""
    record = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return 1 + len(record.get("earlier_starts", []))


def last_return(run: Path) -> float:
    with open(run / "progress.csv", encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["episode_return_mean"])


THREE = f"--envs CartPole-v1 --seeds 0-2 --jobs 2 --outdir runs -- {TINY}"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A sweep of three seeds: seed 0 can't be written, seed 1 is half done."""
    folder = tmp_path_factory.mktemp("swept")
    half = f"--envs CartPole-v1 --seeds 1 --outdir runs -- {TINY}"
    assert call(folder, half.replace("iterations 2", "iterations 1")).returncode == 0
    (folder / "runs/CartPole-v1-s0").write_text("in its way")
    return folder, call(folder, THREE)


def test_a_failed_run_does_not_end_the_others(swept: tuple[Path, Result]) -> None:
    folder, result = swept
    assert result.returncode == 1
    assert result.stderr == ""
    heading, *lines = result.stdout.splitlines()
    assert heading == "3 runs in runs, 0 finished"
    counts = [line.partition(":")[0] for line in lines[:3]]
    assert counts[-1] == "2 of 3 finished, 0 running, 1 failed"
    assert sum("CartPole-v1-s0 ended by exit code 2" in line for line in lines[:3]) == 1
    log = (folder / "runs/CartPole-v1-s0.log").read_text(encoding="utf-8")
    assert "can't be written" in log
    assert result.stdout.endswith(f"\nthe end of runs/CartPole-v1-s0.log:\n{log}")
    for seed in (1, 2):
        value = last_return(folder / f"runs/CartPole-v1-s{seed}")
        assert re.search(
            rf"CartPole-v1-s{seed} finished after 0:\d\d:\d\d, return {value:.1f}\n", result.stdout
        )


def test_the_half_done_run_went_on(swept: tuple[Path, Result]) -> None:
    folder, _ = swept
    assert [starts(folder / f"runs/CartPole-v1-s{seed}") for seed in (1, 2)] == [2, 1]
    assert "resumed from" in (folder / "runs/CartPole-v1-s1.log").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_files(swept: tuple[Path, Result]) -> None:
    folder, result = swept
    values = [last_return(folder / f"runs/CartPole-v1-s{seed}") for seed in (1, 2)]
    with open(folder / "runs/results.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["seeds_finished"], row["seeds_asked"]) == ("2", "3")
    assert float(row["training_return_mean"]) == pytest.approx(np.mean(values))
    error = np.std(values, ddof=1) / np.sqrt(2)
    assert float(row["training_return_std_error"]) == pytest.approx(error)
    assert f"CartPole-v1  2 of 3  {np.mean(values):8.2f}  {error:9.2f}\n" in result.stdout
    assert (folder / "runs/curves.png").read_bytes().startswith(b"\x89PNG")


def test_again_it_does_what_is_missing(swept: tuple[Path, Result], tmp_path: Path) -> None:
    """And with --jobs 0 it does none of it."""
    shutil.copytree(swept[0] / "runs", tmp_path / "runs")
    (tmp_path / "runs/CartPole-v1-s0").unlink()
    shown = call(tmp_path, THREE.replace("--jobs 2", "--jobs 0"))
    assert shown.returncode == 0
    assert shown.stdout.startswith("3 runs in runs, 2 finished\n")
    assert not (tmp_path / "runs/CartPole-v1-s0").exists()
    result = call(tmp_path, THREE)
    assert result.returncode == 0, result.stderr
    assert "CartPole-v1  3 of 3" in result.stdout
    assert [starts(tmp_path / f"runs/CartPole-v1-s{seed}") for seed in range(3)] == [1, 2, 1]


def test_what_is_finished(swept: tuple[Path, Result]) -> None:
    """The limits of this command decide, not those that the run was started with."""
    folder = swept[0] / "runs"
    for flags, finished in (
        (TINY, True),
        ("--timesteps-per-batch 256 --num-timesteps 512", True),
        ("--timesteps-per-batch 256 --num-timesteps 768", False),
        ("--timesteps-per-batch 256 --max-episodes 3", True),
        ("--timesteps-per-batch 256 --max-episodes 300", False),
        ("--timesteps-per-batch 256", False),
        ("--max-iterations 2", True),  # the batch is then that of the run
    ):
        (run,) = planned(f"--envs CartPole-v1 --seeds 2 -- {flags}", folder)
        assert run.finished() == finished, flags
    (run,) = planned(f"--envs CartPole-v1 --seeds 2 -- {TINY} --eval-episodes 3", folder)
    assert not run.finished()  # its evaluation is still to come
    rows = run.directory / "evaluations.csv"
    for number, finished in ((1, False), (2, True)):
        rows.write_text(f"iteration,timesteps\n1,256\n{number},512\n", encoding="utf-8")
        assert run.finished() == finished
    rows.unlink()
    (run,) = planned(f"--envs CartPole-v1 --seeds 9 -- {TINY}", folder)
    assert not run.finished()
    for flags, words in (("--gamma 0.5", "--gamma is 0.5"), ("--num-envs 8", "keeps its env")):
        (run,) = planned(f"--envs CartPole-v1 --seeds 2 -- {TINY} {flags}", folder)
        with pytest.raises(UsageError, match=words):
            run.finished()


SLOW = (
    "--envs slow_envs:SlowCartPole-v0 --seeds 0-2 --jobs 2 --outdir runs -- --num-timesteps 2560 "
    "--timesteps-per-batch 256"
)


def wait_for_rows(folder: Path, runs: int) -> None:
    """Wait until a number of runs have done an iteration."""
    end = time.monotonic() + 600
    while True:
        files = list(folder.glob("runs/*/progress.csv"))
        done = [path for path in files if path.read_text(encoding="utf-8").count("\n") > 1]
        if len(done) >= runs:
            return
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.long
def test_a_signal_stops_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Meanwhile no other sweep may work there."""
    command = [*SWEEP, *SLOW.split()]
    with started(command, tmp_path, SECONDS_A_STEP="0.01") as process:
        wait_for_rows(tmp_path, 2)
        other = call(tmp_path, SLOW)
        assert other.returncode == 2
        assert other.stdout == ""
        assert re.fullmatch(
            r"sweep: error: --outdir runs: another sweep.* using it\n", other.stderr
        )
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=600)
    assert process.returncode == 75
    assert out.count("stopped with a checkpoint") == 2
    assert out.endswith("stopped; the same command goes on\n")
    runs = [tmp_path / f"runs/SlowCartPole-v0-s{seed}" for seed in range(3)]
    assert [any(run.glob("checkpoints/0*.zip")) for run in runs] == [True, True, False]
    result = call(tmp_path, SLOW)
    assert result.returncode == 0, result.stderr
    assert [starts(run) for run in runs] == [2, 2, 1]


def at_work(folder: Path) -> list[str]:
    """Command lines of trainers that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if "trpo_mpi.run_mujoco" in words and (entry / "cwd").resolve() == folder:
                found.append(" ".join(words))
        except OSError:
            pass
    return found


@pytest.mark.long
def test_a_second_ctrl_c_ends_all_at_once(tmp_path: Path) -> None:
    line = SLOW.replace("--jobs 2", "--jobs 1")
    with started([*SWEEP, *line.split()], tmp_path, SECONDS_A_STEP="3") as process:
        end = time.monotonic() + 600
        while not any("writing to" in path.read_text() for path in tmp_path.glob("runs/*.log")):
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(0.5)  # until it heeds Ctrl-C
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        time.sleep(1.5)
        assert process.poll() is None
        assert len(at_work(tmp_path)) == 1
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    end = time.monotonic() + 60
    while at_work(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.mpi
def test_ranks_of_a_run(tmp_path: Path) -> None:
    # What Open MPI's launcher wants of root, and on a single core.
    more = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    more |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    line = f"--envs CartPole-v1 --ranks 2 --jobs 1 --outdir runs -- {TINY}"
    result = call(tmp_path, line, **more)
    assert result.returncode == 0, result.stdout
    record = json.loads((tmp_path / "runs/CartPole-v1-s0/config.json").read_text(encoding="utf-8"))
    assert record["ranks"] == 2


@pytest.mark.parametrize("ranks", ["1", None])
def test_runs_are_no_ranks_of_the_step_that_the_sweep_is(
    ranks: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `srun -n1`; outside of a step they get all that the sweep has."""
    step = {"PMI_RANK": "0", "PMI_FD": "7", "SLURM_JOB_END_TIME": "12", "MINE": "x"}
    step |= {} if ranks is None else {"PMI_SIZE": ranks}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    given = machine.run_environment()
    assert given["SLURM_JOB_END_TIME"] == "12"
    assert given["MINE"] == "x"
    assert given["I_MPI_PIN"] == "0"
    assert ("PMI_FD" in given) == (ranks is None)


def test_not_under_mpirun(python: Run) -> None:
    result = python("-m", "trpo_mpi.sweep", "--envs", "CartPole-v1", PMI_SIZE="2", PMI_RANK="0")
    assert result.returncode == 2
    assert "--ranks" in result.stderr


ARRAY = (
    '--envs CartPole-v1 --seeds 0-9 --vary net-arch "8 8" 16 --ranks 2 --outdir "my runs" '
    f"--slurm 'an array.sh' --jobs 3 -- {TINY}"
)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder")
    result = call(folder, ARRAY)
    assert result.returncode == 0, result.stderr
    assert "sbatch 'an array.sh'\n" in result.stdout
    return folder / "an array.sh"


class TestSlurm:
    """The batch script, without a Slurm; test_slurm.py has one."""

    def test_shellcheck(self, script: Path) -> None:
        shellcheck(script)

    def test_it_asks_for_what_one_run_asks_for(self, script: Path) -> None:
        """And ends as one run does: these lines are written twice."""
        text = script.read_text(encoding="utf-8")
        train = (ROOT / "run/slurm/train.sh").read_text(encoding="utf-8")
        mark = "#SBATCH "
        asked, of_one = ({x for x in t.splitlines() if x.startswith(mark)} for t in (text, train))
        assert of_one - asked == {f"{mark}--ntasks=8"}
        assert asked - of_one == {
            f"{mark}--ntasks=2",
            f"{mark}--array=0-19%3",
            f"{mark}--chdir='{script.parent}'",
            f"{mark}--output='my runs/slurm-%a.log'",
        }
        assert "if [ $code -eq 75 ]; then" in text
        assert text.endswith(train[train.rindex("fi\nexit") :])

    def test_an_element_is_a_run(self, script: Path, tmp_path: Path) -> None:
        tool = tmp_path / "srun"
        tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 75\n', encoding="utf-8")
        (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
        for path in tmp_path.iterdir():
            path.chmod(0o755)
        variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77"}
        path = f"{tmp_path}:{os.environ['PATH']}"
        command = ["bash", str(script)]

        def run(**more: str) -> Result:
            return subprocess.run(
                command,
                cwd=script.parent,
                env=environment(PATH=path, **variables, **more),
                capture_output=True,
                text=True,
                check=False,
            )

        result = run()
        assert (result.returncode, result.stdout) == (75, "requeue 77_3\n")
        third = planned(ARRAY, Path("my runs"))[3]
        assert third.directory.name == "CartPole-v1-net_arch16-s1"
        log = (script.parent / third.log).read_text(encoding="utf-8").splitlines()
        assert log == ["--kill-on-bad-exit=1", "--mpi=pmi2", sys.executable, "-m", *third.arguments]
        enough = run(SLURM_RESTART_COUNT="100")
        assert (enough.returncode, enough.stdout) == (75, "")
        variables["SLURM_ARRAY_TASK_ID"] = "20"
        assert run().returncode == 2

    def test_finished_runs_are_no_elements(self, swept: tuple[Path, Result]) -> None:
        folder, _ = swept
        line = THREE.replace("0-2", "0-5").replace("--jobs 2", "--slurm array.sh")
        assert call(folder, line).returncode == 0
        assert "#SBATCH --array=0,3-5\n" in (folder / "array.sh").read_text(encoding="utf-8")

    def test_another_file_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine.sh").write_text("echo mine\n")
        line = f"--envs CartPole-v1 --slurm mine.sh -- {TINY}"
        result = call(tmp_path, line)
        assert result.returncode == 2
        assert "not a sweep's" in result.stderr
        again = call(tmp_path, line.replace("mine.sh", "nowhere/mine.sh"))
        assert (
            again.stderr == "sweep: error: --slurm nowhere/mine.sh: there is no directory nowhere\n"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["mine.sh"]
        assert (tmp_path / "mine.sh").read_text() == "echo mine\n"
