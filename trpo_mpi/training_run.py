"""Runs the training loop: what is written and shown meanwhile, and when it ends."""

import dataclasses
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from trpo_mpi import display
from trpo_mpi.evaluation import Evaluator, mode_of
from trpo_mpi.formats import iteration_seconds
from trpo_mpi.output import warn
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.recording import Recorder
from trpo_mpi.run_directory import EVALUATIONS, archive, checkpoint, status_file
from trpo_mpi.run_directory.event_file import EventFile
from trpo_mpi.run_directory.progress import EvaluationsFile, GrowingFile, MonitorFile, ProgressFile
from trpo_mpi.state import Wish
from trpo_mpi.stopping import STOPPED, StopRequest, TimeLimit

if TYPE_CHECKING:
    from trpo_mpi.trainer import Trainer


class TrainingRun:
    """The loop around the trainer: what is written and shown, and when it ends."""

    def __init__(
        self,
        trainer: "Trainer",
        path: Path,
        comm: Communicator,
        stop_request: StopRequest,
        evaluator: Evaluator | None,
    ) -> None:
        self._trainer, self._path = trainer, path
        self._comm, self._stop_request = comm, stop_request
        self._evaluator = evaluator
        stop_request.heed_terminal()
        self._limit = TimeLimit(trainer.config.max_hours)
        config, counters = trainer.config, trainer.counters
        if comm.is_root:
            kept = (counters.iteration, counters.episodes) if counters.iteration else (None, None)
            if kept[0] is None:
                checkpoint.set_models_aside(path)
            self._progress = ProgressFile(path, kept[0])
            self._monitor = MonitorFile(path, config.env, kept[1])
            self._files: list[GrowingFile] = [self._progress, self._monitor]
            if evaluator is not None or (path / EVALUATIONS).exists():
                self._evaluations = EvaluationsFile(path, kept[0])
                self._files.append(self._evaluations)
            settings = dataclasses.replace(config, **trainer.grid.settings)
            self._writer = checkpoint.CheckpointWriter(path, settings)
            self._recorder = Recorder(path, config, stop_request)
            self._events: EventFile | None = None
            if config.tensorboard:
                values = dataclasses.asdict(settings)
                self._events = EventFile(path / "tensorboard", values, counters.timesteps)
            self._seconds = 0.0  # of the last iteration
            self._shown = display.Display(config.num_timesteps, counters.timesteps)
            stop_request.announce = self._shown.announce

    def train(self) -> int:
        """Iterate to the end, or until the run is asked to stop; returns the exit code."""
        try:
            return self._iterate()
        finally:
            if self._comm.is_root:
                self._shown.close()

    def _iterate(self) -> int:
        trainer = self._trainer
        reason, whole = trainer.finished(), True
        if reason is not None and self._comm.is_root:
            limit = "--num-timesteps reached" if reason == "done" else reason
            print(f"the run is finished, {limit}: a larger limit continues it", flush=True)
        code = 0
        if self._lacks_evaluation(reason is not None) and not self._evaluate():
            reason, code = self._why(), STOPPED
        while reason is None:
            row, episodes, wish = trainer.iterate(self._wish)
            reason = trainer.finished()
            if self._comm.is_root:
                self._seconds = iteration_seconds(row)
                self._progress.add(row)
                self._monitor.add(episodes)
                if self._events is not None:
                    self._events.add(row)
                self._shown.show(row)
                self._recorder.follow(row["iteration"], trainer.model)
            ended = reason is not None
            if ended:  # before an evaluation, which may be long, and cut off
                whole = self._checkpoint()
            due = self._due(trainer.counters.iteration, ended)
            left_open = due and (wish == Wish.STOP or not self._evaluate(limited=True))
            if left_open or (not ended and wish == Wish.STOP):
                reason, code = self._why(), STOPPED
            if not ended and (reason is not None or wish == Wish.CHECKPOINT):
                whole = self._checkpoint()
        if self._comm.is_root:
            self._shown.close()
            print(self._ending(reason, stopped=code == STOPPED), flush=True)
            state = status_file.STOPPED if code == STOPPED else status_file.FINISHED
            if not whole:
                state, reason = status_file.FAILED, "the final checkpoint could not be written"
            status_file.write(self._path, state, reason)
            self._recorder.close(wait=code == 0)
        return code if self._comm.on_root(lambda: whole) else 1

    def _wish(self) -> Wish:
        """What this rank asks for in the current iteration."""
        if self._stop_request.signal:
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
        """Whether an earlier start has left the last iteration's evaluation to this one."""
        number = self._trainer.counters.iteration
        if not number or not self._due(number, finished):
            return False
        return self._comm.on_root(lambda: self._evaluations.latest < number)

    def _evaluate(self, limited: bool = False) -> bool:
        """Evaluate the current policy; False if the run was asked to stop meanwhile.

        A stop cuts it short: the next start repeats it, with the same episodes. If `limited`, the
        time limit cuts it short too; not at a start, which would otherwise make no progress.
        """
        trainer, evaluator = self._trainer, self._evaluator
        assert evaluator is not None
        cost = self._comm.on_root(lambda: self._writer.cost)  # so that all stop at the same time

        def should_stop() -> bool:
            return bool(self._stop_request.signal) or (limited and self._limit.near(0, cost))

        summary = evaluator.evaluate(trainer.actor(), trainer.normalizer, should_stop)
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
        """Why the run stops early; said by rank 0, which need not be the one that was signalled."""
        number = self._stop_request.signal
        return f"stopped by {signal.Signals(number).name if number else 'a signal or time limit'}"

    def _checkpoint(self) -> bool:
        """Write a checkpoint; if the disk does not take it, warn and return False."""
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
            warn(
                f"no checkpoint of iteration {trainer.counters.iteration} could be written to "
                f"{self._path}: {error.strerror}; older ones are whole"
            )
            return False
        return True

    def _ending(self, reason: str, stopped: bool) -> str:
        counters = self._trainer.counters
        words = f"{reason}: {counters.timesteps:,} time steps, {counters.episodes:,} episodes"
        if counters.returns:
            mean, latest = counters.return_mean, len(counters.returns)
            words += f", mean return of the last {latest}: {mean:.1f}"
        words += f"\nresults are in {self._path}"
        if stopped:
            words += f"\nto continue: the same command with --resume {self._path}"
        return words
