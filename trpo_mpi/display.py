"""What rank 0 says on the terminal or in a batch log."""

import math
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from trpo_mpi import __version__
from trpo_mpi.config import Config, Grid
from trpo_mpi.evaluation import Summary
from trpo_mpi.parallel import startup
from trpo_mpi.run_directory.checkpoint import Checkpoint

HEADER = "iteration  time steps     return    length       kl  expl.var  steps/s  time left"
HEADER_EVERY = 50


def banner(config: Config, grid: Grid, machine: dict[str, Any]) -> str:
    """The run in a few lines: ranks, hosts, MPI library, batch."""
    ranks, own = machine["ranks"], grid.num_envs / machine["ranks"]
    hosts = Counter(machine["hosts"])
    where = ", ".join(f"{host} x{count}" if ranks > 1 else host for host, count in hosts.items())
    each = f"{own:g} a rank" if own == int(own) else f"{int(own)} or {int(own) + 1} a rank"
    devices = ", ".join(machine["gpus"]) or "CPU"
    note = (
        ""
        if config.num_envs or grid.episodes
        else f" (16 by default{', one a rank' if ranks > 16 else ''})"
    )
    lines = [
        f"trpo_mpi {__version__}: {config.env}, {config.num_timesteps:,} time steps, "
        f"seed {config.seed}",
        f"{ranks} rank{'s' if ranks > 1 else ''} on {where}; {machine['mpi_library']}; "
        f"threads a rank {machine['threads']}; {devices}",
        f"batch {_size(grid)}, on {ranks} rank{'s' if ranks > 1 else ''}, {each}{note}",
    ]
    if machine["ranks_per_core"] > 1:
        lines.append(
            f"warning: {machine['ranks_per_node']} ranks on a node where "
            f"{machine['cores']} cores are free to them: they will wait for each other"
        )
    if not machine["exact_rows"]:
        lines.append("note: this BLAS needs single rows for equal bits: acting is slower")
    return "\n".join(lines)


def _size(grid: Grid) -> str:
    if grid.episodes:
        every = f"episode{'s' if grid.episodes > 1 else ''}"
        whole = f"of {grid.num_envs * grid.episodes} whole episodes"
        return f"{whole} = {grid.num_envs} envs x {grid.episodes} {every}"
    return f"{grid.timesteps} = {grid.num_envs} envs x {grid.horizon} steps"


def resume_notes(
    config: Config, found: Checkpoint | None, fault: str | None, begun: int
) -> Iterator[str]:
    """What there is to say of a run that is resumed, or will be."""
    if fault is not None:
        yield (
            f"note: {config.env} does not give its state ({fault}): where a run is resumed, its "
            "environments begin new episodes"
        )
    if found is None:
        return
    counters = found.state["counters"]
    yield (
        f"resumed from {found.path}: iteration {found.iteration}, "
        f"{counters['timesteps']:,} time steps"
    )
    if begun:
        yield f"note: {begun} environments have begun new episodes"
    first = found.state["schedule_timesteps"]
    if config.num_timesteps > first:
        yield f"note: schedules ran over the first {first:,} time steps and hold their last values"


def evaluation_line(timesteps: int, summary: Summary, mode: str) -> str:
    """What an evaluation during training has shown."""
    error = "" if summary.return_std_error is None else f" +- {summary.return_std_error:.1f}"
    episodes = f"{summary.episodes} episode{'s' if summary.episodes > 1 else ''}"
    return (
        f"evaluation at {timesteps} time steps: return {summary.return_mean:.1f}{error} "
        f"({episodes}, {mode})"
    )


class Display:
    """A progress bar on a terminal, a line an iteration in a log."""

    def __init__(self, num_timesteps: int, done: int = 0) -> None:
        self._total = num_timesteps
        self._lines = 0
        self._bar: tqdm[Any] | None = None
        # Open MPI gives its ranks a terminal of its own, whatever its own output goes to.
        if sys.stdout.isatty() and startup.launched()[1] == 1:
            self._bar = tqdm(
                total=num_timesteps,
                initial=done,
                unit="step",
                unit_scale=True,
                file=sys.stdout,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} {rate_fmt} "
                "left {remaining} {postfix}",
            )

    def show(self, row: dict[str, Any]) -> None:
        """One iteration."""
        if self._bar is not None:
            shown = {"return": row["episode_return_mean"], "kl": row.get("kl")}
            self._bar.set_postfix({k: _number(v, 0, 4) for k, v in shown.items()}, refresh=False)
            self._bar.update(row["timesteps"] - self._bar.n)
            return
        if self._lines % HEADER_EVERY == 0:
            print(HEADER)
        self._lines += 1
        rate = row["timesteps"] / row["seconds"]
        left = max(0, round((self._total - row["timesteps"]) / rate))
        print(
            f"{row['iteration']:9d} {row['timesteps']:11d} "
            f"{_number(row['episode_return_mean'], 10, 1)} "
            f"{_number(row['episode_length_mean'], 9, 1)} "
            f"{_number(row.get('kl'), 8, 5)} {_number(row.get('explained_variance'), 9, 3)} "
            f"{row['steps_per_second']:8.0f}  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}",
            flush=True,
        )

    def note(self, line: str) -> None:
        """A line of its own, between those of iterations."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Leave the terminal to others."""
        if self._bar is not None:
            self._bar.close()


def _number(value: float | None, width: int, digits: int) -> str:
    if value is None or math.isnan(value):
        return "-".rjust(width)
    return f"{value:{width}.{digits}f}"
