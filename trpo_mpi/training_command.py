"""What every training command does: check its settings, set up the ranks, and run the loop."""

import dataclasses
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from trpo_mpi import display, memory, output, tensorflow_setup, video
from trpo_mpi.command_line import parse, training_settings, unused_flags
from trpo_mpi.config import CONFIGS, Config
from trpo_mpi.envs.capture import find_fault
from trpo_mpi.envs.make import check_env, make_env, quiet_gymnasium, time_limit
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.envs.vector import ColumnEnvs, close
from trpo_mpi.envs.watchdog import Watchdog
from trpo_mpi.errors import UsageError
from trpo_mpi.evaluation import Evaluator
from trpo_mpi.grid import Grid, batch_grid, largest_grid
from trpo_mpi.model import Model
from trpo_mpi.parallel import startup
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.run_directory import (
    checkpoint,
    directory,
    event_file,
    model_file,
    status_file,
)
from trpo_mpi.run_directory.checkpoint import Checkpoint
from trpo_mpi.stopping import StopRequest
from trpo_mpi.training_run import TrainingRun

if TYPE_CHECKING:
    from trpo_mpi.trainer import Trainer

OF_THE_ENV = ("env", "time_feature", "atari")
"""What makes a run's environments."""


def main(module: str) -> int:
    """Train as the command line of `python -m trpo_mpi.<module>` says; returns the exit code."""
    stop_request = StopRequest()
    config = training_settings(module)
    comm = startup.connect()
    stop_request.heed_hangup()
    found = comm.on_root(lambda: _find(config))
    if found is not None:
        config = _settings_to_resume(found, module)
    if config.tensorboard:
        comm.on_root(lambda: event_file.check_installed("--tensorboard"))
    grid = batch_grid(config, comm.size)
    comm = comm.with_columns(grid.num_envs)
    start, source = comm.on_root(lambda: _start(config, found))
    watchdog = Watchdog(config.env_timeout)
    spaces, fault = comm.on_root(lambda: _try_env(config, watchdog))
    quiet_gymnasium()  # on the other ranks as well
    if start is not None:
        start.check_fits(config, spaces, source)
    _check_memory(config, grid, spaces, comm)
    envs = comm.everywhere(lambda: _make_envs(config, comm, fault is None, watchdog))
    evaluator = None
    if config.eval_episodes:
        env = comm.everywhere(lambda: _make_env(config))
        evaluator = Evaluator(env, comm, config, watchdog)
    local_rank = comm.local_rank()
    shows = config.render and comm.is_root
    if shows:
        envs.envs[0].reset()  # opens its window
    gpus = comm.everywhere(lambda: tensorflow_setup.set_up(config.gpu, local_rank, shows))
    comm.everywhere(lambda: _try_policy(config, spaces, start, source))
    resumes = found is not None
    path = None if config.check else comm.on_root(lambda: directory.create(config, resumes))

    from trpo_mpi.trainer import Trainer  # needs TensorFlow as `set_up` has made it

    trainer = Trainer(config, grid, comm, envs, start)
    restarted = 0
    if found is not None:
        if any(getattr(found.settings, x) != getattr(config, x) for x in OF_THE_ENV):
            found.columns.clear()  # they hold the settings of the environment, too
        restarted = trainer.resume(found.model, found.best, found.state, found.columns)
        restarted = int(comm.gather_number(restarted).sum())
        found.columns.clear()  # of all ranks: perhaps gigabytes
    machine = _machine(comm, gpus) | {"exact_rows": trainer.exact_rows}
    if comm.is_root:
        print(display.banner(config, grid, machine), flush=True)
        if (idle := unused_flags(config)) is not None:
            print(f"note: {idle}", flush=True)
        for line in display.resume_notes(config, found, fault, restarted):
            print(line, flush=True)
    if path is None:
        return _check(trainer, comm)
    startup.on_failure(partial(status_file.write, path, status_file.FAILED))
    if comm.is_root:
        directory.write_config(path, config, machine, resumes)
        status_file.write(path, status_file.RUNNING)
        print(f"writing to {path}", flush=True)
    code = TrainingRun(trainer, path, comm, stop_request, evaluator).train()
    watchdog.watch(comm.columns[0], 0)
    envs.close()
    if evaluator is not None:
        evaluator.close()
    watchdog.idle()
    return code


def _find(config: Config) -> Checkpoint | None:
    """The checkpoint to resume from, if any; on rank 0."""
    if config.resume == "never":
        return None
    path = directory.path_of(config)
    try:
        if path.is_dir() and not config.check:
            directory.claim(path)
            checkpoint.remove_remains(path)
        is_file = path.is_file()
    except OSError as error:
        raise UsageError(f"--resume: {path} can't be written: {error.strerror}") from None
    if config.resume != "auto" and is_file:
        raise UsageError(
            f"--resume {path} is a file; name the run directory, or start from it by --load {path}"
        )
    found = checkpoint.newest(path)
    if found is None and config.resume != "auto":
        raise UsageError(f"--resume {config.resume}: there is no whole checkpoint in {path}")
    if found is not None and found.settings.command != config.command:
        raise UsageError(
            f"--resume {config.resume}: {path} holds a run of {found.settings.command}; "
            f"use python -m trpo_mpi.{found.settings.command}"
        )
    return found


def _settings_to_resume(found: Checkpoint, module: str) -> Config:
    """Parse the command line again, on top of the settings of the run that it resumes."""
    config = parse(CONFIGS[module], module, default=found.defaults())
    if not config.eval_episodes:  # then the settings that need them are not inherited either
        config = dataclasses.replace(config, eval_every=None, eval_deterministic=False)
    config.validate()
    found.check(config)
    return config


def _start(config: Config, found: Checkpoint | None) -> tuple[Model | None, str]:
    """The model to start from, if any, and the flag that names it."""
    if found is not None:
        return found.model, f"--resume {found.path}"
    if config.load is not None:
        return model_file.load(config.load, "--load", config.which), f"--load {config.load}"
    return None, ""


def _try_env(config: Config, watchdog: Watchdog) -> tuple[Spaces, str | None]:
    """Spaces of the environment, and why its state can't be saved, if it can't; on rank 0."""
    films = config.video_every is not None
    if films:
        video.check_library("--video-every")
    watchdog.watch(0, 0)
    spaces = check_env(config.env, config.render, config.atari, config.time_feature, films)
    quiet_gymnasium()  # this environment's warnings have been shown once
    fault = find_fault(lambda: _make_env(config), lambda: watchdog.watch(0, 0))
    watchdog.idle()
    return spaces, fault


def _check_memory(config: Config, grid: Grid, spaces: Spaces, comm: Communicator) -> None:
    """Raise `UsageError` if networks or batch do not fit the nodes; warn if a batch may not."""
    ranks, columns = comm.node_sum(1), comm.node_sum(len(comm.columns))
    limit = comm.on_root(lambda: _time_limit(config)) if grid.episodes else None
    largest = largest_grid(config, grid, limit)
    comm.everywhere(lambda: memory.check_networks(config, spaces, ranks, columns))
    doubt = comm.everywhere(lambda: memory.check_batch(config, largest, spaces, ranks, columns))
    if grid.episodes and limit is None:
        doubt = f"{config.env} has no time limit: a batch lasts until its episodes have ended"
    if doubt and comm.is_root:
        output.warn(doubt)


def _time_limit(config: Config) -> int | None:
    env = _make_env(config)
    try:
        return time_limit(env, config.atari)
    finally:
        close(env)


def _try_policy(config: Config, spaces: Spaces, start: Model | None, source: str) -> None:
    """Raise `UsageError` if the policy can't be made, or `start` does not fit it."""
    Architecture.of(config).make_policy(spaces.observation, spaces.action)
    if start is not None:
        start.check_network(source)


def _make_env(config: Config, mode: str | None = None) -> gym.Env[Any, Any]:
    return make_env(config.env, mode, config.atari, config.time_feature)


def _make_envs(config: Config, comm: Communicator, carry: bool, watchdog: Watchdog) -> ColumnEnvs:
    def make(column: int) -> gym.Env[Any, Any]:
        watchdog.watch(column, 0)
        mode = "human" if config.render and column == 0 else None
        return _make_env(config, mode)

    makers = [partial(make, column) for column in comm.columns]
    try:
        return ColumnEnvs(makers, comm.columns, carry, watchdog)
    finally:
        watchdog.idle()


def _check(trainer: "Trainer", comm: Communicator) -> int:
    """`--check`: time an Allreduce and an iteration, and leave nothing behind."""
    buffer = np.zeros((len(comm.columns), len(trainer.theta)), np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        comm.sum_columns("check", buffer)
        times.append(time.perf_counter() - start)
    timesteps = trainer.config.num_timesteps
    left = 4 * max(1, trainer.grid.timesteps)  # so that no batch is cut short at the end of the run
    trainer.config = dataclasses.replace(
        trainer.config, num_timesteps=trainer.counters.timesteps + left
    )
    for _ in range(3):  # the first only initialises the normalisers
        row = trainer.iterate().row
    if comm.is_root:
        size = (len(trainer.theta) * 8) / 1024
        print(
            f"one exact Allreduce of {size:.0f} KiB: {np.median(times) * 1e6:.0f} us\n"
            f"expected speed: {row['steps_per_second']:.0f} steps/s, "
            f"{timesteps / row['steps_per_second'] / 60:.1f} minutes in all"
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
