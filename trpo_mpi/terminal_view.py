"""What a run looks like on a terminal: a view of about ten lines, redrawn in place.

    return 1843.20   ↗ +212.42 in 20 iterations
     1903.41 ┤                       ▂▄▆█
             │           ▂▄▆▆▅▅▆▇█████████
       13.53 ┤▁▂▄▅▆▇███████████████████████
        51 %  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━──────────────────────────────

The return is drawn over the time steps of the whole run, so the progress bar is its axis.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from trpo_mpi.formats import clock, iteration_seconds, number

WIDTH = 78
"""Columns at most: a terminal that is narrowed, but not below this, breaks no line."""
CELL = 26
"""Columns of one number with its name."""
POINTS = 4 * WIDTH
"""Parts of the run with a return each, enough for a curve of any width."""
ROWS = 3
"""Lines of the curve."""
LATEST = 20
"""Iterations over which the trend, the speed and the shares of the time are taken."""
BLOCKS = " ▁▂▃▄▅▆▇█"
REFRESHES_PER_SECOND = 2.0


class TerminalView:
    """The view of one run: shown when it is created, and left on the screen when it is closed.

    Text printed meanwhile appears above it. The cursor stays visible on an empty line below, so
    that a process that is killed leaves a usable terminal.

    Args:
        console: the terminal.
        num_timesteps: the length of the run.
        done: time steps already taken.
    """

    def __init__(self, console: Console, num_timesteps: int, done: int) -> None:
        self.notice = ""
        """A line below the view; a signal handler may set it."""
        self._console, self._total, self._done = console, num_timesteps, done
        self._rows: tuple[Mapping[str, Any], ...] = ()
        self._curve = np.full(POINTS, np.nan)
        self._left: float | None = None
        self._since = time.monotonic()
        self._checkpoint: tuple[int, float] | None = None
        self._open = True
        self._live = Live(
            console=console,
            get_renderable=self._view,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stderr=sys.stderr.isatty(),  # else it goes where the user has sent it
        )
        self._live.start(refresh=True)
        console.show_cursor(True)

    def show(self, row: Mapping[str, Any], left: float | None) -> None:
        """Show one iteration, and the seconds left after it."""
        first, last = (
            int(POINTS * min(n / self._total, 1)) for n in (self._done, row["timesteps"])
        )
        self._curve[first : max(last, first + 1)] = row["episode_return_mean"]
        self._done = row["timesteps"]
        self._left, self._since = left, time.monotonic()
        # A new tuple: the drawing thread may be iterating over the old one.
        self._rows = (*self._rows, row)[-LATEST - 1 :]

    def saved(self, iteration: int) -> None:
        """Show that a checkpoint of this iteration has been written."""
        self._checkpoint = iteration, time.monotonic()

    def close(self) -> None:
        """Release the terminal."""
        self._open = False
        self._live.stop()

    def _view(self) -> Group:
        width = min(WIDTH, self._console.width - 1)
        row = self._rows[-1] if self._rows else {}
        lines = [self._trend(row), *self._curve_lines(width)]
        across = max(1, width // CELL)
        cells = list(self._cells(row))
        lines += [Text().join(cells[i : i + across]) for i in range(0, len(cells), across)]
        lines.append(self._shares())
        if self._open:
            below = [Text(self.notice, style="yellow"), Text()][not self.notice :]
            lines[self._console.height - len(below) :] = below
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Group(*lines)

    def _trend(self, row: Mapping[str, Any]) -> Text:
        now = row.get("episode_return_mean")
        text = Text.assemble(("return ", "dim"), (number(now, digits=2), "bold"))
        known = [r["episode_return_mean"] for r in self._rows]
        known = [x for x in known if not math.isnan(x)]
        if len(known) > 1:
            change = known[-1] - known[0]
            arrow, style = "→", ""
            if abs(change) > 0.01 * abs(known[-1]):
                arrow, style = ("↗", "green") if change > 0 else ("↘", "red")
            text.append(f"   {arrow} {change:+.2f}", style)
            text.append(f" in {len(known) - 1} iteration{'s' if len(known) > 2 else ''}", "dim")
        return text

    def _curve_lines(self, width: int) -> Iterator[Text]:
        """The curve of returns, and the progress bar under it."""
        columns = max(1, width - 12)
        parts = np.array_split(self._curve, columns)
        values = [part[~np.isnan(part)] for part in parts]
        means = [float(part.mean()) if part.size else math.nan for part in values]
        known = [x for x in means if not math.isnan(x)]
        low, high = (min(known), max(known)) if known else (math.nan, math.nan)
        for line in range(ROWS - 1, -1, -1):
            axis, label = "│", ""
            if line in (0, ROWS - 1):
                axis, label = "┤", number(high if line else low, digits=2)
            heights = (_eighths(x, low, high) - 8 * line for x in means)
            curve = "".join(BLOCKS[max(0, min(8, height))] for height in heights)
            yield Text.assemble((f"{label:>10} {axis}", "dim"), (curve, "cyan"))
        share = min(1.0, self._done / self._total)
        filled = int(share * columns)
        yield Text.assemble(
            f"{math.floor(100 * share):8d} %  ",
            ("━" * filled, "cyan"),
            ("─" * (columns - filled), "dim"),
        )

    def _cells(self, row: Mapping[str, Any]) -> Iterator[Text]:
        """The numbers with their names, each `CELL` wide; the most important come first."""
        passed = time.monotonic() - self._since
        left = None if self._left is None else max(0.0, self._left - passed * self._open)
        kl = number(row.get("kl"), digits=4)
        if "kl" in row and "clip_range" not in row:  # PPO has no trust region
            kl += f" / {row['max_kl']:.4f}"
        saved = "-"
        if self._checkpoint is not None:
            iteration, when = self._checkpoint
            saved = f"{iteration:,}, {clock(time.monotonic() - when)} ago"
        shown = {
            "time left": clock(left),
            "KL": kl,
            "expl.var": number(row.get("explained_variance"), digits=3),
            "elapsed": clock(row.get("seconds", 0.0) + passed * self._open),
            "step": _step(row),
            "entropy": number(row.get("entropy"), digits=3),
            "steps/s": number(self._speed(), digits=0),
            "length": number(row.get("episode_length_mean"), digits=1),
            "memory": f"{row['memory_mb']:,.0f} MB" if row else "-",
            "steps": f"{self._done:,}",
            "iteration": number(row.get("iteration"), digits=0),
            "saved": saved,
        }
        for name, value in shown.items():
            cell = Text.assemble((f"{name:<10}", "dim"), value)
            cell.truncate(CELL, pad=True)
            yield cell

    def _seconds(self) -> float:
        return sum(iteration_seconds(r) for r in self._rows if r["timesteps_per_batch"])

    def _speed(self) -> float | None:
        """Time steps per second over the latest iterations."""
        steps = sum(r["timesteps_per_batch"] for r in self._rows)
        return steps / self._seconds() if steps else None

    def _shares(self) -> Text:
        """The share of the time that each phase takes."""
        text = Text.assemble((f"{'time':<10}", "dim"))
        rest, seconds = 1.0, self._seconds()
        for part in ("sample", "policy", "critic", "other"):
            share = rest
            if part != "other" and seconds:
                share = sum(r.get(f"{part}_seconds", 0.0) for r in self._rows) / seconds
            rest -= share
            text.append(f"{part} ", "dim")
            text.append(f"{100 * max(0.0, share):3.0f} %   " if seconds else "  - %   ")
        return text


def _eighths(value: float, low: float, high: float) -> int:
    """Height in the curve in eighths of a line; 0 if there is no value."""
    if math.isnan(value):
        return 0
    return 1 + round((8 * ROWS - 1) * ((value - low) / (high - low) if high > low else 0.5))


def _step(row: Mapping[str, Any]) -> str:
    """The policy step in words, according to its kind."""
    if row.get("step_fraction") == 0:
        return "refused"
    for name, words in (("clip_range", "clipped at {:.3g}"), ("beta", "beta {:.3g}")):
        if name in row:
            return words.format(row[name])
    return f"{row['step_fraction']:.2f} of full" if "step_fraction" in row else "-"
