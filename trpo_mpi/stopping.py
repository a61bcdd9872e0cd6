"""What stops a run before its end: signals, and its job's time limit."""

import contextlib
import os
import signal
import time
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from trpo_mpi.parallel import startup

STOPPED = 75
"""Exit code of a run that stopped with a checkpoint: EX_TEMPFAIL, start me again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ONE_CTRL_C = 1.0
"""Seconds within which a rank may get one Ctrl-C twice, from the terminal and its launcher."""
RESERVE = 10.0
"""Seconds reserved for the end of a job, besides those of an iteration and a checkpoint."""


JOB_END = "SLURM_JOB_END_TIME"
"""The variable in which Slurm says when a job ends, in seconds since the epoch."""


class StopRequest:
    """Notes the first signal that asks this rank to stop.

    It listens from its creation: a signal before the first iteration takes effect after it.

    Args:
        end_at_once: what a second Ctrl-C calls, with the exit code.
    """

    def __init__(self, end_at_once: Callable[[int], object] = os._exit) -> None:
        self.signal = 0
        self._when = 0.0
        self._end_at_once = end_at_once
        self.announce: Callable[[str], None] = to_stderr
        """How rank 0 reports it; called by a signal handler, which may interrupt a print."""
        self._heed(SIGNALS)
        # Held back meanwhile: a SIGTERM that came at once would still be noted here, and be lost.
        os.register_at_fork(
            before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGTERM}),
            after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM}),
            after_in_child=_heed_as_a_worker,
        )

    def _heed(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            signal.signal(number, self._note)

    def heed_terminal(self) -> None:
        """From now on the first Ctrl-C is such a signal, too; a second ends the rank at once."""
        self._heed((*SIGNALS, signal.SIGINT))  # an environment may have set its own meanwhile
        self.heed_hangup()

    def heed_hangup(self) -> None:
        """From now on the end of the terminal is such a signal, too, unless nohup has it ignored.

        To be called when MPI is there: UCX, below MPICH, takes that signal for itself, and would
        then print all that it does.
        """
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else self._note)

    def _note(self, number: int, _frame: types.FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self._when = number, now
            if startup.launched().rank == 0:
                name = signal.Signals(number).name
                again = "; Ctrl-C again to stop at once" if number == signal.SIGINT else ""
                self.announce(f"{name}: stopping after this iteration{again}")
        elif number == signal.SIGINT and now - self._when > ONE_CTRL_C:
            self._end_at_once(128 + number)


def _heed_as_a_worker() -> None:
    """In a process that an environment has forked: its owner ends it, by SIGTERM.

    The others reach it together with the rank, which still needs it for an iteration.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def to_stderr(text: str) -> None:
    """Print a line at once, even in the middle of another print."""
    with contextlib.suppress(OSError):  # the terminal has gone
        os.write(2, f"\n{text}\n".encode())


class TimeLimit:
    """The end of the time that this start has, by `hours` or by its Slurm job.

    Args:
        hours: from the start of the process; None for no limit.
        environ: environment variables, of which `JOB_END` is read.
    """

    def __init__(self, hours: float | None, environ: Mapping[str, str] = os.environ) -> None:
        ends = []
        if hours is not None:
            ends.append(_process_start() + 3600 * hours)
        if environ.get(JOB_END, "").isdecimal():
            ends.append(float(environ[JOB_END]))
        self._end = min(ends, default=float("inf"))

    def near(self, iteration_seconds: float, checkpoint_seconds: float) -> bool:
        """Whether there may be no time for more than one further iteration and a checkpoint."""
        needed = 2 * (iteration_seconds + checkpoint_seconds) + RESERVE
        return time.time() + needed > self._end


def _process_start() -> float:
    """When this process began, in seconds since the epoch."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            up = float(file.read().split()[0])
        # The uptime may be that of a container, and too short.
        return min(time.time(), time.time() - up + ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return time.time()
