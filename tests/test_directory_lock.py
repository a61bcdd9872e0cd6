"""One process at a time writes into a directory."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import Run, started

from trpo_mpi.config import Config
from trpo_mpi.directory_lock import hold
from trpo_mpi.errors import UsageError
from trpo_mpi.run_directory import directory

HOLDS = """
import sys, time
from pathlib import Path
from trpo_mpi.directory_lock import hold
print(hold(Path(sys.argv[1])), flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_it_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    with started([sys.executable, "-c", HOLDS, str(tmp_path), "1000"], tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not hold(tmp_path)
        other.kill()
        assert hold(tmp_path, patience=20)
    assert hold(tmp_path)  # by itself a process is not kept out
    again = [sys.executable, "-c", HOLDS, str(tmp_path / "." / "x" / ".."), "0"]
    (tmp_path / "x").mkdir()
    result = subprocess.run(again, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_a_deleted_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """Nor does one that waits for it take the deleted file for a lock."""
    with started([sys.executable, "-c", HOLDS, str(tmp_path), "1000"], tmp_path) as other:
        assert other.stdout is not None
        other.stdout.readline()
        threading.Timer(0.5, (tmp_path / ".lock").unlink).start()
        assert hold(tmp_path, patience=20)
        other.kill()
    again = [sys.executable, "-c", HOLDS, str(tmp_path), "0"]
    result = subprocess.run(again, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_directory_in_which_a_run_is_at_work(resume: str, tmp_path: Path, python: Run) -> None:
    """It has left nothing yet but its lock."""
    with started([sys.executable, "-c", HOLDS, str(tmp_path), "1000"], tmp_path) as other:
        assert other.stdout is not None
        other.stdout.readline()
        flags = ("--env", "CartPole-v1", "--outdir", ".", "--resume", resume)
        result = python("-m", "trpo_mpi.run_mujoco", *flags)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "a run is at work there" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_run_that_began_while_this_one_did_is_not_overwritten(
    tmp_path: Path,
) -> None:
    """Neither saw a directory when it looked; the other has made it, trained, and stopped."""
    config = Config(outdir=str(tmp_path / "run"), resume="auto")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "00000008.zip").write_bytes(b"of the other")
    with pytest.raises(UsageError, match=r"a run has begun in .*run meanwhile"):
        directory.create(config, resumes=False)


def test_a_run_in_a_directory_that_it_has_searched_begins(tmp_path: Path) -> None:
    """It has held the directory since; what is there is damaged."""
    config = Config(outdir=str(tmp_path / "run"), resume="auto")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "00000008.zip").write_bytes(b"damaged")
    directory.claim(tmp_path / "run")
    assert directory.create(config, resumes=False) == tmp_path / "run"
