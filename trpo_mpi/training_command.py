"""What every training command does: set up the ranks, run the loop, keep the run directory."""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from trpo_mpi import display, memory, tensorflow_setup, video
from trpo_mpi.command_line import parse, training_settings
from trpo_mpi.config import CONFIGS, Config, batch_grid, largest_grid
from trpo_mpi.envs.capture import find_fault
from trpo_mpi.envs.make import check_env, make_env, quiet_gymnasium, time_limit
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.envs.watchdog import Watchdog
from trpo_mpi.errors import UsageError
from trpo_mpi.evaluation import Evaluator, mode_of
from trpo_mpi.parallel import startup
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.recording import Recorder
from trpo_mpi.run_directory import (
    archive,
    checkpoint,
    directory,
    event_file,
    model_file,
    status_file,
)
from trpo_mpi.run_directory.checkpoint import Checkpoint, CheckpointWriter
from trpo_mpi.run_directory.event_file import EventFile
from trpo_mpi.run_directory.model_file import Model
from trpo_mpi.run_directory.progress import EvaluationsFile, GrowingFile, MonitorFile, ProgressFile
from trpo_mpi.state import Wish
from trpo_mpi.stopping import STOPPED, StopRequest, TimeLimit

if TYPE_CHECKING:
    from trpo_mpi.trainer import Trainer


def main(module: str) -> int:
    """Train as the command line of `python -m trpo_mpi.<module>` says; gives the exit code."""
    asked = StopRequest()
    config = training_settings(module)
    comm = startup.connect()
    found = comm.on_root(lambda: _find(config))
    if found is not None:
        config = parse(CONFIGS[module], module, default=found.defaults())
        config.validate()
        found.check(config)
    if config.tensorboard:
        comm.on_root(lambda: event_file.check_installed("--tensorboard"))
    grid = batch_grid(config, comm.size)
    comm = comm.with_columns(grid.num_envs)
    start = None
    if config.load is not None and found is None:
        source, which = config.load, config.which
        start = comm.on_root(lambda: model_file.load(source, "--load", which))
    watchdog = Watchdog(config.env_timeout)
    spaces, fault = comm.on_root(lambda: _try_env(config, watchdog))
    quiet_gymnasium()  # on the other ranks as well
    if start is not None:
        start.check_fits(config, spaces, f"--load {config.load}")
    if found is not None:
        found.model.check_fits(config, spaces, f"--resume {found.path}")
    on_node = comm.node_sum(len(comm.columns))
    largest = largest_grid(config, grid, time_limit(config.env, config.atari))
    comm.everywhere(lambda: memory.check_batch(config, largest, spaces, on_node))
    envs = comm.everywhere(lambda: _make_envs(config, comm, fault is None, watchdog))
    evaluator = None
    if config.eval_episodes:
        env = comm.everywhere(lambda: _make_env(config))
        evaluator = Evaluator(env, comm, config, watchdog)
    local_rank = comm.local_rank()
    gpus = comm.everywhere(lambda: tensorflow_setup.set_up(config.gpu, local_rank))
    given, source = start, f"--load {config.load}"
    if found is not None:
        given, source = found.model, f"--resume {found.path}"
    comm.on_root(lambda: _try_policy(config, spaces, given, source))
    resumes = found is not None
    path = None if config.check else comm.on_root(lambda: directory.create(config, resumes))

    from trpo_mpi.trainer import Trainer  # needs TensorFlow as `set_up` has made it

    trainer = Trainer(config, grid, comm, envs, start)
    begun = 0
    if found is not None:
        begun = trainer.resume(found.model, found.best, found.state, found.columns)
        begun = int(comm.gather_rows(np.array([[begun]]), np.ones(comm.size, int)).sum())
    machine = _machine(comm, gpus) | {"exact_rows": trainer.exact_rows}
    if comm.is_root:
        print(display.banner(config, grid, machine), flush=True)
        for line in display.resume_notes(config, found, fault, begun):
            print(line, flush=True)
    if path is None:
        return _check(trainer, comm)
    startup.on_failure(partial(status_file.write, path, status_file.FAILED))
    if comm.is_root:
        directory.write_config(path, config, machine, resumes)
        status_file.write(path, status_file.RUNNING)
        print(f"writing to {path}", flush=True)
    return _Run(trainer, path, comm, asked, evaluator).train()


def _find(config: Config) -> Checkpoint | None:
    """The checkpoint to go on from, if any; on rank 0."""
    if config.resume == "never":
        return None
    path = directory.path_of(config)
    found = checkpoint.newest(path)
    if found is None and config.resume != "auto":
        raise UsageError(f"--resume {config.resume}: there is no whole checkpoint in {path}")
    if found is not None and found.settings.command != config.command:
        raise UsageError(
            f"--resume {config.resume}: {path} holds a run of {found.settings.command}; "
            f"use python -m trpo_mpi.{found.settings.command}"
        )
    return found


def _try_env(config: Config, watchdog: Watchdog) -> tuple[Spaces, str | None]:
    """Spaces of the environment, and why its state can't be carried over, if so; on rank 0."""
    films = config.video_every is not None
    if films:
        video.check_library("--video-every")
    spaces = check_env(config.env, config.render, config.atari, config.time_feature, films)
    quiet_gymnasium()  # it has said, once, what there is to say of this environment
    try:
        return spaces, find_fault(lambda: _make_env(config), lambda: watchdog.watch(0, 0))
    finally:
        watchdog.idle()


def _try_policy(config: Config, spaces: Spaces, given: Model | None, source: str) -> None:
    """Raise `UsageError` where there is no such policy, or `given` does not fit it; on rank 0."""
    Architecture.of(config).make_policy(spaces.observation, spaces.action)
    if given is not None:
        given.check_network(source)


def _make_env(config: Config, mode: str | None = None) -> gym.Env[Any, Any]:
    return make_env(config.env, mode, config.atari, config.time_feature)


def _make_envs(config: Config, comm: Communicator, carry: bool, watchdog: Watchdog) -> ColumnEnvs:
    def make(column: int) -> gym.Env[Any, Any]:
        mode = "human" if config.render and column == 0 else None
        return _make_env(config, mode)

    makers = [partial(make, column) for column in comm.columns]
    return ColumnEnvs(makers, comm.columns, carry, watchdog)


class _Run:
    """The loop around the trainer: what is written and shown, and when it ends."""

    def __init__(
        self,
        trainer: "Trainer",
        path: Path,
        comm: Communicator,
        asked: StopRequest,
        evaluator: Evaluator | None,
    ) -> None:
        self._trainer, self._path, self._comm, self._asked = trainer, path, comm, asked
        self._evaluator = evaluator
        asked.heed_ctrl_c()
        config, counters = trainer.config, trainer.counters
        if comm.is_root:
            kept = (counters.iteration, counters.episodes) if counters.iteration else (None, None)
            self._progress = ProgressFile(path, kept[0])
            self._monitor = MonitorFile(path, config.env, kept[1])
            self._files: list[GrowingFile] = [self._progress, self._monitor]
            if evaluator is not None or (path / EvaluationsFile.NAME).exists():
                self._evaluations = EvaluationsFile(path, kept[0])
                self._files.append(self._evaluations)
            settings = replace(
                config,
                num_envs=trainer.grid.num_envs,
                timesteps_per_batch=trainer.grid.timesteps or None,
            )
            self._writer = CheckpointWriter(path, settings)
            self._recorder = Recorder(path, config, asked)
            self._events: EventFile | None = None
            if config.tensorboard:
                values = dataclasses.asdict(settings)
                self._events = EventFile(path / "tensorboard", values, counters.timesteps)
            self._limit = TimeLimit(config.max_hours)
            self._seconds = 0.0  # of the last iteration
            self._shown = display.Display(config.num_timesteps, counters.timesteps)
            asked.announce = self._shown.announce

    def train(self) -> int:
        """Iterate to the end, or until the run is asked to stop; gives the exit code."""
        try:
            return self._iterate()
        finally:
            if self._comm.is_root:
                self._shown.close()

    def _iterate(self) -> int:
        trainer = self._trainer
        reason, whole = trainer.finished(), True
        if reason is not None and self._comm.is_root:
            print("the run is finished; a larger --num-timesteps would go on", flush=True)
        code = 0
        if self._lacks_evaluation(reason is not None) and not self._evaluate():
            reason, code = self._why(), STOPPED
        while reason is None:
            row, episodes, wish = trainer.iterate(self._wish)
            reason = trainer.finished()
            if self._comm.is_root:
                self._seconds = row["timesteps_per_batch"] / row["steps_per_second"]
                self._progress.add(row)
                self._monitor.add(episodes)
                if self._events is not None:
                    self._events.add(row)
                self._shown.show(row)
                self._recorder.follow(row["iteration"], trainer.model)
            due = self._due(trainer.counters.iteration, reason is not None)
            left_open = due and (wish == Wish.STOP or not self._evaluate())
            if left_open or (reason is None and wish == Wish.STOP):
                reason, code = self._why(), STOPPED
            if reason is not None or wish == Wish.CHECKPOINT:
                whole = self._checkpoint()
        if self._comm.is_root:
            self._shown.close()
            print(self._ending(reason), flush=True)
            state = status_file.STOPPED if code == STOPPED else status_file.FINISHED
            if not whole:
                state, reason = status_file.FAILED, "no checkpoint of its end could be written"
            status_file.write(self._path, state, reason)
            self._recorder.close(wait=code == 0)
        return code if self._comm.on_root(lambda: whole) else 1

    def _wish(self) -> Wish:
        """What this rank asks for in the iteration that is running."""
        if self._asked.signal:
            return Wish.STOP
        if self._comm.is_root:
            number, seconds = self._trainer.counters.iteration + 1, self._seconds
            if self._evaluator is not None and self._due(number, False):
                seconds += self._evaluator.seconds
            if self._limit.near(seconds, self._writer.cost):
                return Wish.STOP
            if self._writer.due(number):
                return Wish.CHECKPOINT
        return Wish.NOTHING

    def _due(self, iteration: int, finished: bool) -> bool:
        return self._evaluator is not None and self._evaluator.due(iteration, finished)

    def _lacks_evaluation(self, finished: bool) -> bool:
        """Whether an earlier start has left the evaluation of the last iteration to this one."""
        number = self._trainer.counters.iteration
        if not number or not self._due(number, finished):
            return False
        return self._comm.on_root(lambda: self._evaluations.latest < number)

    def _evaluate(self) -> bool:
        """Evaluate the policy as it is; False where the run was asked to stop meanwhile.

        A stop does not wait for it: the next start does it again, with the same episodes.
        """
        trainer, evaluator = self._trainer, self._evaluator
        assert evaluator is not None
        asked = self._asked
        summary = evaluator.evaluate(
            trainer.actor(), trainer.normalizer, lambda: bool(asked.signal)
        )
        if summary is not None and self._comm.is_root:
            mode, counters = mode_of(trainer.config.eval_deterministic), trainer.counters
            reached = {"iteration": counters.iteration, "timesteps": counters.timesteps}
            self._evaluations.add({**reached, "mode": mode, **dataclasses.asdict(summary)})
            if self._events is not None:
                means = {"return_mean": summary.return_mean, "length_mean": summary.length_mean}
                tagged = {f"evaluation/{name}": x for name, x in means.items()}
                self._events.add_scalars(counters.timesteps, tagged)
            self._shown.say(display.evaluation_line(counters.timesteps, summary, mode))
        return summary is not None

    def _why(self) -> str:
        """Why it stops before its end; said by rank 0, which need not be the one that was asked."""
        number = self._asked.signal
        return f"stopped by {signal.Signals(number).name if number else 'a signal or time limit'}"

    def _checkpoint(self) -> bool:
        """Write one; False, and a warning, where the disk does not take it."""
        trainer, comm = self._trainer, self._comm
        began = time.monotonic()
        columns = comm.collect_on_root([archive.pack(s) for s in trainer.column_states()])
        if not comm.is_root:
            return True
        try:
            for file in self._files:
                file.sync()
            if self._events is not None:
                self._events.sync()
            self._writer.write(trainer.model(), trainer.best, trainer.state(), columns, began)
            self._shown.saved(trainer.counters.iteration)
        except OSError as error:
            self._writer.postpone()
            print(
                f"warning: no checkpoint of iteration {trainer.counters.iteration} could be "
                f"written to {self._path}: {error.strerror}; older ones are whole",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True

    def _ending(self, reason: str) -> str:
        counters = self._trainer.counters
        words = f"{reason}: {counters.timesteps:,} time steps, {counters.episodes:,} episodes"
        if counters.returns:
            mean, latest = counters.return_mean, len(counters.returns)
            words += f", mean return of the last {latest}: {mean:.1f}"
        words += f"\nresults are in {self._path}"
        if reason.startswith("stopped"):
            words += f"\nto go on: the same command with --resume {self._path}"
        return words


def _check(trainer: "Trainer", comm: Communicator) -> int:
    """`--check`: time an Allreduce and two iterations, and leave nothing behind."""
    buffer = np.zeros((len(comm.columns), len(trainer.theta)), np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        comm.sum_columns("check", buffer)
        times.append(time.perf_counter() - start)
    for _ in range(3):  # the first only initialises the normalisers
        row = trainer.iterate().row
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


def command(module: str) -> Callable[[], int]:
    """The `main` of a training module, for `startup.run`."""
    return lambda: main(module)
