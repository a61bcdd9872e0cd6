"""The quick start's arguments, with a stand-in for what it installs and starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "run" / "quickstart.sh"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a finished run, whose commands note how they are called."""
    for folder in ("run", ".venv/bin", "runs/quickstart"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/quickstart/model.zip").touch()
    shutil.copy(SCRIPT, tmp_path / "run")
    (tmp_path / "run/environment.sh").write_text("make_environment() { :; }\n")
    for name in ("python", "mpirun"):
        command = tmp_path / ".venv/bin" / name
        command.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@" >>calls\n')
        command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "added", "results"),
    [
        ([], "--outdir runs/quickstart-2", None),
        (["--seed", "3"], "--outdir runs/quickstart-2", None),
        (["--outdir=a b"], "", None),
        (["--resume", "runs/quickstart"], "", "runs/quickstart"),
        (["--resume=auto"], "--outdir runs/quickstart", "runs/quickstart"),
        (["--outdir", "runs/quickstart", "--resume", "auto"], "", "runs/quickstart"),
    ],
)
def test_what_is_started_and_drawn(
    checkout: Path, arguments: list[str], added: str, results: str | None
) -> None:
    command = ["sh", "run/quickstart.sh", *arguments]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    commands = checkout / ".venv/bin"
    python = f"{commands}/python"
    train = f"{commands}/mpirun -np 2 {python} -m trpo_mpi.run_mujoco --env Hopper-v4".split()
    draw = f"{python} -m trpo_mpi.plot {results} --output {results}/curve.png".split()
    calls = (checkout / "calls").read_text(encoding="utf-8").splitlines()
    assert calls == [*train, *added.split(), *arguments, *(draw if results else [])], result.stderr
    assert result.stdout.splitlines() == (
        [f"results:        {results}", f"learning curve: {results}/curve.png"] if results else []
    )
