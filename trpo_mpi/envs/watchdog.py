"""Ends the job when an environment hangs: its rank would wait for ever, and all others for it."""

import faulthandler
import os
import signal
import sys
import threading
import time

from trpo_mpi.parallel import startup


class Watchdog:
    """Watches, from its own thread, how long the current call into an environment has taken.

    Args:
        seconds: the longest a call may take; None disables the watchdog.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._limit = seconds
        self._env: int | str = 0
        self._step = 0
        self._since: float | None = None
        if seconds is not None:
            threading.Thread(target=self._look, args=(seconds,), daemon=True).start()

    def watch(self, env: int | str, step: int) -> None:
        """Note that a call into `env`, a column or a name, begins at step `step` of its episode."""
        self._env, self._step = env, step
        self._since = time.monotonic()

    def idle(self) -> None:
        """Note that no environment is being called."""
        self._since = None

    def _look(self, limit: float) -> None:
        pause = min(1.0, limit / 4)
        # A call into C that holds the GIL stops this thread as well: then a timer that needs no
        # lock shows where it hangs, and ends the rank. It counts CPU time: a job that was suspended
        # must not be ended when it resumes.
        faulthandler.register(signal.SIGPROF, chain=True)
        last = time.monotonic()
        while True:
            signal.setitimer(signal.ITIMER_PROF, limit + 2 * pause)
            time.sleep(pause)
            now = time.monotonic()
            since = self._since
            if since is not None and now - last > pause + 1.0:
                self._since = since = since + now - last  # leave out a suspension
            last = now
            if since is not None and now - since > limit:
                self._end(limit)

    def _end(self, limit: float) -> None:
        _, size, rank = startup.launched()
        line = (
            f"rank {rank} of {size}: environment {self._env} has not answered for {limit:g} s, "
            f"in step {self._step} of its episode (--env-timeout)"
        )
        print(f"{line}; it hangs here:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        startup.note_failure(line)
        startup.await_reader()
        os._exit(1)  # the launcher ends the other ranks; MPI may be called by the main thread only
