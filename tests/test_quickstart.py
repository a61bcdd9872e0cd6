"""The quick start's arguments, with a stand-in for what it installs and starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "run" / "quickstart.sh"
STARTED = "-m trpo_mpi.run_mujoco --env Hopper-v4"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a finished run, whose commands print what they are given."""
    for folder in ("run", ".venv/bin", "runs/quickstart"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/quickstart/model.zip").touch()
    shutil.copy(SCRIPT, tmp_path / "run")
    (tmp_path / "run/environment.sh").write_text("make_environment() { :; }\n")
    for name in ("python", "mpirun"):
        command = tmp_path / ".venv/bin" / name
        command.write_text('#!/bin/sh\necho "$@"\n')
        command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "passed", "results"),
    [
        ([], "--outdir runs/quickstart-2", None),
        (["--seed", "3"], "--outdir runs/quickstart-2 --seed 3", None),
        (["--outdir=a b"], "--outdir=a b", None),
        (["--resume", "runs/quickstart"], "--resume runs/quickstart", "runs/quickstart"),
        (["--resume=auto"], "--outdir runs/quickstart --resume=auto", "runs/quickstart"),
        (
            ["--outdir", "runs/quickstart", "--resume", "auto"],
            "--outdir runs/quickstart --resume auto",
            "runs/quickstart",
        ),
    ],
)
def test_what_is_started_and_drawn(
    checkout: Path, arguments: list[str], passed: str, results: str | None
) -> None:
    command = ["sh", "run/quickstart.sh", *arguments]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    started, *rest = result.stdout.splitlines()
    assert started.endswith(f"{STARTED} {passed}"), result.stderr
    assert rest == (
        [f"results:        {results}", f"learning curve: {results}/curve.png"] if results else []
    )
