"""Videos of a policy while it trains, each made by a separate process that rank 0 starts.

`python -m trpo_mpi.recording` is `python -m trpo_mpi.play` at a lower priority; it ends when the
process that started it does.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from trpo_mpi.config import Config
from trpo_mpi.model import Model
from trpo_mpi.output import warn
from trpo_mpi.parallel import startup
from trpo_mpi.run_directory import VIDEOS, model_file
from trpo_mpi.stopping import StopRequest

PATIENCE = 60.0
"""Seconds that a finished run waits for its last video."""
NICENESS = 10
"""Added to a recording's niceness: it gets a tenth of a core that a rank uses, and all of an idle
one."""
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when the one that started it ends."""


class Recorder:
    """Has an episode recorded every few iterations, into `videos/<iteration>.mp4`; for rank 0.

    It is the same each time, episode 0 of `evaluate` with the run's seed. One video is made at a
    time. A video that falls due meanwhile is skipped, one that fails is given up, with a warning.

    Args:
        run: the run directory.
        config: its settings.
        stop_request: ends the wait for the last video.
    """

    def __init__(self, run: Path, config: Config, stop_request: StopRequest) -> None:
        self._config, self._stop_request = config, stop_request
        self._folder = run / VIDEOS
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._iteration = 0
        for left in self._folder.glob(".????????.*"):  # of a run that was killed
            _remove(left)

    def follow(self, iteration: int, model: Callable[[], Model]) -> None:
        """Check on the video that is being made; begin one of `model` if it is due."""
        every = self._config.video_every
        if self._process is not None and self._process.poll() is not None:
            self._reap(self._process.returncode)
        if every is None or iteration % every:
            return
        if self._process is not None:
            _warn(iteration, f"that of iteration {self._iteration} is still being made")
            return
        self._iteration = iteration
        try:
            self._folder.mkdir(exist_ok=True)
            model_file.save(self._model, model())
            self._begin()
        except OSError as error:
            _warn(iteration, str(error))
            _remove(self._model)

    @property
    def _model(self) -> Path:
        return self._folder / f".{self._iteration:08d}.zip"

    def _begin(self) -> None:
        config = self._config
        command = [sys.executable, "-m", __name__, str(self._model), "--seed", str(config.seed)]
        command += ["--video", str(self._folder / f"{self._iteration:08d}.mp4")]
        command += ["--network", config.network] if config.network else []
        # Without the variables that would make it a rank, and with one thread to draw in software.
        environment = {"LP_NUM_THREADS": "1"} | startup.without_launcher()
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C must reach only the run
        )

    def close(self, wait: bool) -> None:
        """End the video that is being made; with `wait`, after giving it up to a minute."""
        process = self._process
        if process is None:
            return
        if wait and process.poll() is None:
            print(f"waiting for the video of iteration {self._iteration}, a minute at most")
            sys.stdout.flush()
        end = time.monotonic() + (PATIENCE if wait else 0)
        while process.poll() is None and time.monotonic() < end and not self._stop_request.signal:
            time.sleep(0.05)
        if process.poll() is None:
            _warn(self._iteration, "the run has ended before it was done")
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._reap(process.returncode)

    def _reap(self, code: int) -> None:
        """Clean up after a process that has ended, and warn if it failed."""
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        self._errors.close()
        self._process = None
        _remove(self._model)
        if code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            said = [line for line in lines if line.strip()]
            _warn(self._iteration, said[-1] if said else f"its process ended with {code}")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _warn(iteration: int, reason: str) -> None:
    warn(f"no video of iteration {iteration}: {reason}")


def _step_back() -> None:
    """Lower this process's priority, and have it end when rank 0 does, however that ends."""
    os.nice(NICENESS)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    _step_back()
    startup.prepare()

    from trpo_mpi import play

    startup.run(play.main)
