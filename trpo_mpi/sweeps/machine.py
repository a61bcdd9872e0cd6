"""Runs of a sweep on this machine: a number of them at a time, each in its own processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trpo_mpi.directory_lock import descriptor_of, hold
from trpo_mpi.errors import UsageError
from trpo_mpi.formats import clock
from trpo_mpi.parallel import startup
from trpo_mpi.stopping import JOB_END, STOPPED, StopRequest
from trpo_mpi.sweeps.plan import Run
from trpo_mpi.sweeps.results import final_returns

POLL = 0.2
"""Seconds between polls of the runs."""
LAST_LINES = 10
"""Lines shown of a failed run's log."""
UNBOUND = {
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "I_MPI_PIN": "0",
}
"""Turns off binding: several launchers on one machine would bind to the same first cores."""


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_environment() -> dict[str, str]:
    """Environment variables of a run: not those that make this process a rank, if it is one."""
    environment = dict(os.environ)
    if startup.launched() != startup.ALONE:
        environment = startup.without_launcher()
        if (end := os.environ.get(JOB_END)) is not None:
            environment[JOB_END] = end
    return environment | UNBOUND


def launch(ranks: int) -> list[str]:
    """Command that starts Python on `ranks` ranks, by the `mpirun` beside it, or else in PATH.

    Raises `UsageError` if there is none.
    """
    if ranks == 1:
        return [sys.executable]
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        raise UsageError(f"--ranks {ranks}: there is no mpirun, beside {sys.executable} or in PATH")
    return [mpirun, "-np", str(ranks), sys.executable]


def lock(outdir: Path) -> int:
    """Make the directory and keep other sweeps out of it while a run lives; returns a descriptor.

    Raises `UsageError` if another is at work there, or if it can't be written.
    """
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        mine = hold(outdir)
    except OSError as error:
        raise UsageError(f"--outdir {outdir} can't be written: {error.strerror}") from None
    if not mine:
        raise UsageError(
            f"--outdir {outdir}: another sweep, or a run it left behind, is still using it"
        )
    return descriptor_of(outdir)


@dataclass
class Job:
    """A run in progress."""

    run: Run
    process: subprocess.Popen[bytes]
    began: float
    log_begin: int
    """Bytes in its log from earlier starts."""

    def last_lines(self) -> str:
        """The last lines that this start has printed."""
        with open(self.run.log, "rb") as file:
            file.seek(self.log_begin)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])

    def ending(self) -> str:
        """How the run has just ended, in words."""
        code, seconds = self.process.returncode, time.monotonic() - self.began
        after = f"after {clock(seconds)}"
        if code == 0:
            final = final_returns(self.run.directory).get("training")
            return f"finished {after}" + ("" if final is None else f", return {final:.1f}")
        if code == STOPPED:
            return f"stopped with a checkpoint {after}"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"ended by {how} {after}, see {self.run.log}"


class Queue:
    """Runs that are waiting, in progress or ended.

    Args:
        runs: unfinished runs, in the order in which to start them.
        finished: number of runs that are already finished.
        ranks: ranks per run.
        jobs: runs at a time.
        held: the descriptor from `lock`; runs keep it open, so that it outlives this process.
    """

    def __init__(
        self, runs: Sequence[Run], finished: int, ranks: int, jobs: int, held: int
    ) -> None:
        self._waiting, self._running = deque(runs), list[Job]()
        self._finished, self._total = finished, finished + len(runs)
        self._command, self._jobs, self._held = launch(ranks), jobs, held
        self.failed: list[Job] = []
        self.stopped = False
        """Whether a signal has come or a run has stopped: no further run is started."""

    def work(self) -> None:
        """Run all to their ends; a signal stops them, and a run that stops lets no other start."""
        stop_request = StopRequest(self._kill)
        stop_request.heed_terminal()
        told = False
        try:
            while self._running or (self._waiting and not self.stopped):
                if stop_request.signal and not told:
                    told = self.stopped = True
                    self._ask()
                ended = [job for job in self._running if job.process.poll() is not None]
                for job in ended:
                    self._running.remove(job)
                    self._note(job, told)
                while self._waiting and len(self._running) < self._jobs and not self.stopped:
                    self._running.append(self._start(self._waiting.popleft()))
                for job in ended:
                    self._say(job)
                time.sleep(POLL)
        except BaseException:
            self._ask()
            raise

    def _start(self, run: Run) -> Job:
        with open(run.log, "ab") as log:
            begin = log.tell()
            # In its own session: the terminal's Ctrl-C is for the sweep, which passes it on as
            # the one signal that every launcher forwards to its ranks.
            process = subprocess.Popen(
                [*self._command, "-m", *run.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._held,),
                env=run_environment(),
            )
            return Job(run, process, time.monotonic(), begin)

    def _ask(self) -> None:
        """Ask all runs in progress to stop."""
        for job in self._running:
            job.process.send_signal(signal.SIGUSR1)

    def _kill(self, code: int) -> None:
        """Kill all runs, and end this process."""
        for job in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)
        os._exit(code)

    def _note(self, job: Job, told: bool) -> None:
        code = job.process.returncode
        # A run that was asked before it could handle the signal has died of it.
        if code == STOPPED or (told and code not in (0, 1, 2)):
            self.stopped = True
        elif code == 0:
            self._finished += 1
        else:
            self.failed.append(job)

    def _say(self, job: Job) -> None:
        counts = f"{self._finished} of {self._total} finished, {len(self._running)} running"
        counts += f", {len(self.failed)} failed" if self.failed else ""
        print(f"{counts}: {job.run.directory.name} {job.ending()}", flush=True)
