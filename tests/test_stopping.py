"""Signals that ask a run to stop, and the end of its time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest import environment

from trpo_mpi import stopping
from trpo_mpi.stopping import SIGNALS, StopRequest, TimeLimit


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Restore every signal's handler."""
    before = {
        number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT, signal.SIGHUP)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_noted(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    asked = StopRequest()
    asked.heed_terminal()
    assert asked.signal == 0
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does, at the end of the time of grace
    assert asked.signal == number
    assert capfd.readouterr().err.count("stopping after this iteration") == 1


def test_a_terminal_may_end_before_training_begins(capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C then ends it at once, as ever."""
    before = signal.getsignal(signal.SIGINT)
    request = StopRequest()
    request.heed_hangup()
    os.kill(os.getpid(), signal.SIGHUP)
    assert request.signal == signal.SIGHUP
    assert signal.getsignal(signal.SIGINT) is before
    assert "SIGHUP: stopping" in capfd.readouterr().err


def test_nohup_is_heeded() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked = StopRequest()
    asked.heed_terminal()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not asked.signal


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGUSR1, False), (signal.SIGTERM, True)])
def test_a_worker_of_an_environment_ends_when_its_owner_says(number: int, ends: bool) -> None:
    StopRequest()
    worker = os.fork()
    if not worker:
        time.sleep(30)
        os._exit(0)
    os.kill(worker, number)  # at once
    time.sleep(0.2)
    ended, status = os.waitpid(worker, os.WNOHANG)
    assert bool(ended) == ends
    if ended:
        assert os.WTERMSIG(status) == signal.SIGTERM
    else:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_handler_of_the_environment_gives_way() -> None:
    asked = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    asked.heed_terminal()
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked.signal == signal.SIGTERM


SCRIPT = """
import os, signal, sys, time
from trpo_mpi.stopping import StopRequest
asked = StopRequest()
asked.heed_terminal()
for pause in map(float, sys.argv[1:]):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(pause)
print("went on")
"""


@pytest.mark.parametrize(("pauses", "code"), [((0.1, 0.1, 0.1), 0), ((1.1, 0.1), 130)])
def test_a_second_ctrl_c_ends_it(pauses: tuple[float, ...], code: int) -> None:
    """But not the same one, that comes from the terminal and from the launcher."""
    command = [sys.executable, "-c", SCRIPT, *map(str, pauses)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert ("went on" in result.stdout) == (code == 0)
    assert "Traceback" not in result.stderr


def test_time_limits() -> None:
    assert not TimeLimit(None, {}).near(1e9, 1e9)
    soon = str(int(time.time()) + 100)
    assert not TimeLimit(None, {"SLURM_JOB_END_TIME": soon}).near(20, 10)
    assert TimeLimit(None, {"SLURM_JOB_END_TIME": soon}).near(40, 10)
    assert TimeLimit(10, {"SLURM_JOB_END_TIME": soon}).near(40, 10)  # the nearer one counts
    assert not TimeLimit(10, {}).near(40, 10)
    assert TimeLimit(1e-9, {}).near(0, 0)
    assert not TimeLimit(1000, {}).near(0, 0)
    assert not TimeLimit(None, {"SLURM_JOB_END_TIME": "never"}).near(1, 1)


def test_hours_count_from_the_start_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_process_start", lambda: time.time() - 3600)
    assert TimeLimit(0.9, {}).near(0, 0)
    assert not TimeLimit(1.1, {}).near(0, 0)


def test_when_a_process_started() -> None:
    script = "import time; time.sleep(1); from trpo_mpi import stopping; "
    script += "print(stopping._process_start())"
    before = time.time()
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        after = time.time()
        out, _ = process.communicate(timeout=60)
    assert before - 0.1 < float(out) < after + 0.1
