"""Shared by all tests: TensorFlow as the commands set it up, and real `mpirun` jobs."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trpo_mpi
from trpo_mpi import tensorflow_setup
from trpo_mpi.parallel import startup

startup.limit_threads()  # before NumPy is imported
tensorflow_setup.set_up("-1", 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]

# Where commands find the package and the toy environments.
PATHS = [str(Path(trpo_mpi.__file__).parents[1]), str(Path(__file__).parent)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked long, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; only --full runs it")
    config.addinivalue_line("markers", "mpi: starts ranks by the mpirun beside this Python")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    short = not config.getoption("--full") and "long" not in config.getoption("-m")
    for item in items:
        if "mpirun" in getattr(item, "fixturenames", ()):
            item.add_marker("mpi")
        if "mpi" in item.keywords and not launcher():
            item.add_marker(pytest.mark.skip(reason="there is no mpirun beside this Python"))
        if "long" in item.keywords and short:
            item.add_marker(pytest.mark.skip(reason="long: only --full runs it"))


@functools.cache
def launcher() -> tuple[str, ...]:
    """The `mpirun` beside this Python with the flags it needs, or nothing if there is none."""
    path = Path(sys.executable).with_name("mpirun")
    if not path.exists():
        return ()
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    if "Open MPI" in version.stdout:
        return (str(path), "--allow-run-as-root", "--oversubscribe")
    return (str(path),)


def environment(**variables: str) -> dict[str, str]:
    """The environment variables that a command is started with."""
    path = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path} | variables


@contextlib.contextmanager
def started(command: list[str], folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background; in the end, kill what is left of it and its children."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(**variables),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _run(command: list[str], folder: Path, timeout: float, variables: dict[str, str]) -> Result:
    """Run a command to its end."""
    with started(command, folder, **variables) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, _without_launcher(err))


def _without_launcher(err: str) -> str:
    """Standard error without the framed notice in which Open MPI repeats a rank's exit code."""
    return re.sub(r"^-{20,}\n(?:.*\n)*?-{20,}\n", "", err, flags=re.MULTILINE)


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """`python(*args, timeout=300, **variables)`: one Python process, in the test's own folder."""

    def run(*args: object, timeout: float = 300, **variables: str) -> Result:
        return _run([sys.executable, *map(str, args)], tmp_path, timeout, variables)

    return run


@pytest.fixture
def mpirun(tmp_path: Path) -> Run:
    """`mpirun(n, *args, timeout=300, **variables)`: the same on n ranks."""

    def run(n: int, *args: object, timeout: float = 300, **variables: str) -> Result:
        command = [*launcher(), "-np", str(n), sys.executable, *map(str, args)]
        return _run(command, tmp_path, timeout, variables)

    return run
