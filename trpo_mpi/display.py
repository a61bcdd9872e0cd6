"""What rank 0 prints on the terminal or in a batch log."""

import sys
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trpo_mpi import __version__, stopping
from trpo_mpi.config import Config
from trpo_mpi.evaluation import Summary
from trpo_mpi.formats import clock, iteration_seconds, number
from trpo_mpi.grid import Grid
from trpo_mpi.parallel import startup
from trpo_mpi.run_directory.checkpoint import Checkpoint

if TYPE_CHECKING:
    from trpo_mpi.terminal_view import TerminalView

HEADER = (
    "iteration  time steps     return    length       kl  entropy  expl.var  steps/s  mpi %"
    "  time left"
)
HEADER_EVERY = 50
LATEST = 50
"""Iterations from whose speed the time left is estimated."""


def banner(config: Config, grid: Grid, machine: dict[str, Any]) -> str:
    """The run in a few lines: ranks, hosts, MPI library, batch."""
    ranks, own = machine["ranks"], grid.num_envs / machine["ranks"]
    hosts = Counter(machine["hosts"])
    where = ", ".join(f"{host} x{count}" if ranks > 1 else host for host, count in hosts.items())
    each = f"{own:g} per rank" if own == int(own) else f"{int(own)} or {int(own) + 1} per rank"
    devices = ", ".join(machine["gpus"]) or "CPU"
    note = (
        ""
        if config.num_envs or grid.episodes
        else f" (16 by default{', one per rank' if ranks > 16 else ''})"
    )
    lines = [
        f"trpo_mpi {__version__}: {config.env}, {config.num_timesteps:,} time steps, "
        f"seed {config.seed}",
        f"{ranks} rank{'s' if ranks > 1 else ''} on {where}; {machine['mpi_library']}; "
        f"threads per rank: {machine['threads']}; {devices}",
        f"batch {_size(grid)}, on {ranks} rank{'s' if ranks > 1 else ''}, {each}{note}",
    ]
    if machine["ranks_per_core"] > 1:
        lines.append(
            f"warning: {machine['ranks_per_node']} ranks on a node where "
            f"{machine['cores']} cores are free to them: they will wait for each other"
        )
    if not machine["exact_rows"]:
        lines.append("note: this BLAS takes single rows for equal bits, which makes acting slower")
    return "\n".join(lines)


def _size(grid: Grid) -> str:
    if grid.episodes:
        every = f"episode{'s' if grid.episodes > 1 else ''}"
        whole = f"of {grid.num_envs * grid.episodes} whole episodes"
        return f"{whole} = {grid.num_envs} envs x {grid.episodes} {every}"
    return f"{grid.timesteps} = {grid.num_envs} envs x {grid.horizon} steps"


def resume_notes(
    config: Config, found: Checkpoint | None, fault: str | None, restarted: int
) -> Iterator[str]:
    """Notes on a run that is resumed, or may be resumed later."""
    if fault is not None:
        yield (
            f"note: the state of {config.env} can't be saved ({fault}): after a resume its "
            "environments start new episodes"
        )
    if found is None:
        return
    counters = found.state["counters"]
    yield (
        f"resumed from {found.path}: iteration {found.iteration}, "
        f"{counters['timesteps']:,} time steps"
    )
    if restarted:
        yield f"note: {restarted} environments have started new episodes"
    first = found.state["schedule_timesteps"]
    if config.num_timesteps > first:
        yield f"note: schedules ran over the first {first:,} time steps and hold their last values"


def evaluation_line(timesteps: int, summary: Summary, mode: str) -> str:
    """One line on an evaluation during training."""
    error = "" if summary.return_std_error is None else f" +- {summary.return_std_error:.1f}"
    episodes = f"{summary.episodes} episode{'s' if summary.episodes > 1 else ''}"
    return (
        f"evaluation at {timesteps:,} time steps: return {summary.return_mean:.1f}{error} "
        f"({episodes}, {mode})"
    )


class Display:
    """Shows a run: a view drawn in place on a terminal, or one line per iteration in a log.

    Args:
        num_timesteps: the length of the run.
        done: time steps already taken.
    """

    def __init__(self, num_timesteps: int, done: int = 0) -> None:
        self._total = num_timesteps
        self._lines = 0
        self._passed: deque[tuple[int, float]] = deque(maxlen=LATEST)
        self._view = _view(num_timesteps, done)

    def show(self, row: dict[str, Any], line: bool = True) -> None:
        """Show one iteration; a log leaves it out unless `line`."""
        left = self._left(row)
        if self._view is not None:
            self._view.show(row, left)
        elif line:
            self._log(row, left)

    def say(self, text: str) -> None:
        """Print a line above the view, or into the log."""
        print(text, flush=True)

    def announce(self, text: str) -> None:
        """Say that the run is about to stop; a signal handler may call it."""
        if self._view is not None:
            self._view.notice = text
        else:
            stopping.to_stderr(text)

    def saved(self, iteration: int) -> None:
        """Show that a checkpoint of this iteration has been written."""
        if self._view is not None:
            self._view.saved(iteration)

    def close(self) -> None:
        """Release the terminal."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def _left(self, row: dict[str, Any]) -> float | None:
        """Seconds to the end, at the speed of the latest iterations and the pauses between them."""
        now = row["timesteps"], row["seconds"]
        self._passed.append(now)
        steps, seconds = (b - a for a, b in zip(self._passed[0], now, strict=True))
        rate = steps / seconds if seconds > 0 else row["steps_per_second"]
        return max(0.0, (self._total - row["timesteps"]) / rate) if rate else None

    def _log(self, row: dict[str, Any], left: float | None) -> None:
        if self._lines % HEADER_EVERY == 0:
            print(HEADER)
        self._lines += 1
        print(
            f"{row['iteration']:9d} {row['timesteps']:11d} "
            f"{number(row['episode_return_mean'], 2):>10} "
            f"{number(row['episode_length_mean'], 1):>9} "
            f"{number(row.get('kl'), 5):>8} {number(row.get('entropy'), 3):>8} "
            f"{number(row.get('explained_variance'), 3):>9} "
            f"{row['steps_per_second']:8.0f} "
            f"{number(100 * row['mpi_seconds'] / iteration_seconds(row), 0):>6} "
            f"{clock(left):>10}",
            flush=True,
        )


def _view(num_timesteps: int, done: int) -> "TerminalView | None":
    """The view, if standard output is a terminal that can show it."""
    launcher, size, _ = startup.launched()
    # Open MPI gives its ranks a terminal of its own, wherever its output goes.
    if not sys.stdout.isatty() or size > 1 or "Open MPI" in launcher:
        return None
    from rich.console import Console  # rich takes time to load, and logs do not need it

    from trpo_mpi.terminal_view import TerminalView

    console = Console(highlight=False)
    if console.is_dumb_terminal or console.options.ascii_only:
        return None
    return TerminalView(console, num_timesteps, done)
