"""What every training command does: set up the ranks, run the loop, keep the run directory."""

import os
import signal
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from trpo_mpi import display, tensorflow_setup
from trpo_mpi.command_line import parse
from trpo_mpi.config import Config, batch_grid
from trpo_mpi.envs.make import check_env, make_env, quiet_gymnasium
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.parallel import startup
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.run_directory import directory, model_file
from trpo_mpi.run_directory.progress import MonitorFile, ProgressFile

if TYPE_CHECKING:
    from trpo_mpi.trainer import Trainer


def main(module: str) -> int:
    """Train as the command line of `python -m trpo_mpi.<module>` says; gives the exit code."""
    config = parse(Config, module)
    config.validate()
    comm = startup.connect()
    grid = batch_grid(config, comm.size)
    comm = comm.with_columns(grid.num_envs)
    spaces = comm.on_root(lambda: check_env(config.env, config.render))
    quiet_gymnasium()  # rank 0 has just said, once, what there is to say of this environment
    start = None
    if config.load is not None:
        source = config.load
        start = comm.on_root(lambda: model_file.load(source))
        start.check_fits(config, spaces, source)
    envs = comm.everywhere(lambda: _make_envs(config, comm))
    local_rank = comm.local_rank()
    gpus = comm.everywhere(lambda: tensorflow_setup.set_up(config.gpu, local_rank))
    path = None if config.check else comm.on_root(lambda: directory.create(config))

    from trpo_mpi.trainer import Trainer  # needs TensorFlow as `set_up` has made it

    trainer = Trainer(config, grid, comm, envs, start)
    machine = _machine(comm, gpus) | {"exact_rows": trainer.exact_rows}
    if comm.is_root:
        print(display.banner(config, grid, machine), flush=True)
    if path is None:
        return _check(trainer, comm)
    if comm.is_root:
        directory.write_config(path, config, machine)
        print(f"writing to {path}", flush=True)
    return _train(trainer, path, comm)


def _make_envs(config: Config, comm: Communicator) -> ColumnEnvs:
    def make(column: int) -> gym.Env[Any, Any]:
        return make_env(config.env, "human" if config.render and column == 0 else None)

    return ColumnEnvs([partial(make, column) for column in comm.columns], comm.columns)


def _train(trainer: "Trainer", path: Path, comm: Communicator) -> int:
    config = trainer.config
    asked = _StopRequest()
    if comm.is_root:
        progress, monitor = ProgressFile(path), MonitorFile(path, config.env)
        shown = display.Display(config.num_timesteps)
    reason, code = trainer.finished(), 0
    while reason is None:
        row, episodes, stop = trainer.iterate(bool(asked.signal))
        reason = trainer.finished()
        if stop and reason is None:
            reason, code = "stopped by a signal", 128 + (asked.signal or signal.SIGINT)
        if comm.is_root:
            progress.write(row)
            monitor.write(episodes)
            shown.show(row)
            if reason is not None or row["iteration"] % config.save_every == 0:
                model_file.save(path / "model.zip", trainer.model())
    if comm.is_root:
        shown.close()
        counters = trainer.counters
        print(
            f"{reason}: {counters.timesteps:,} time steps, {counters.episodes:,} episodes, "
            f"mean return of the last {len(counters.returns)}: {counters.return_mean:.1f}\n"
            f"results are in {path}",
            flush=True,
        )
    return code


def _check(trainer: "Trainer", comm: Communicator) -> int:
    """`--check`: time an Allreduce and two iterations, and leave nothing behind."""
    buffer = np.zeros((len(comm.columns), len(trainer.theta)), np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        comm.sum_columns("check", buffer)
        times.append(time.perf_counter() - start)
    for _ in range(3):  # the first only initialises the normalisers
        row, _, _ = trainer.iterate()
    if comm.is_root:
        size = (len(trainer.theta) * 8) / 1024
        print(
            f"one exact Allreduce of {size:.0f} KiB: {np.median(times) * 1e6:.0f} us\n"
            f"expected speed: {row['steps_per_second']:.0f} steps/s, "
            f"{trainer.config.num_timesteps / row['steps_per_second'] / 60:.1f} minutes in all"
        )
    return 0


def _machine(comm: Communicator, gpus: list[str]) -> dict[str, Any]:
    """What the run runs on, for the banner and config.json."""
    hosts = comm.hosts()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = max(hosts.count(host) for host in hosts)
    # A launcher that binds each rank to cores of its own leaves few to a rank, and rightly.
    bound = comm.size > 1 and cores != os.cpu_count()
    return {
        "ranks": comm.size,
        "hosts": hosts,
        "mpi_library": comm.library(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": gpus,
        "cores": cores,
        "ranks_per_node": here,
        "ranks_per_core": 0 if bound else here / (cores or 1),
    }


class _StopRequest:
    """Notes the first SIGINT or SIGTERM; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: types.FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        if startup.launched()[2] == 0:
            print("\nstopping after this iteration; again to stop at once", file=sys.stderr)


def command(module: str) -> Callable[[], int]:
    """The `main` of a training module, for `startup.run`."""
    return lambda: main(module)
