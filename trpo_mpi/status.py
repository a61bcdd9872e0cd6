"""Show the status of runs: how far they are, their last return, and whether they still run.

python -m trpo_mpi.status                       the runs in runs/
python -m trpo_mpi.status /scratch/me --json    the runs below a directory, for a script
"""

import dataclasses
import json
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from trpo_mpi.command_line import parse
from trpo_mpi.errors import UsageError
from trpo_mpi.formats import aligned
from trpo_mpi.parallel import startup
from trpo_mpi.run_directory import PROGRESS, status_file
from trpo_mpi.run_directory.reading import last_row, read_config, run_directory_errors, runs_in


@dataclass(frozen=True)
class Listing:
    """List runs: environment, recipe, seed, time steps done, last return, and what became of them.

    A run is running; finished; stopped, to be resumed; failed; or lost: silent, without a record of
    its end, and with no process that can be checked from here.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[DIR ...]")] = ("runs",)
    """Run directories, or directories that hold them."""
    json: bool = False
    """Print a list of objects in place of a table."""


@dataclass
class Entry:
    """One run; a field is None if the run's files do not say."""

    run: str
    environment: str | None = None
    recipe: str | None = None
    seed: int | None = None
    timesteps: int = 0
    num_timesteps: int | None = None
    episode_return_mean: float | None = None
    state: str = ""
    since: float = 0.0
    """When that state began, in seconds since the epoch."""
    reason: str = ""
    """Why it is in that state, and which files are damaged."""


def main() -> int:
    """List the runs that the command line names; returns the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    settings = parse(Listing, "status")
    startup.check_alone()
    if "" in settings.runs:
        raise UsageError("name directories; one is empty")
    paths: list[Path] = []
    for place in map(Path, settings.runs):
        if not place.is_dir():
            raise UsageError(f"there is no directory {place}")
        found = runs_in(place)
        if not found:
            raise UsageError(f"there is no run in {place}")
        paths += [path for path in found if path not in paths]
    entries = [look(path) for path in paths]
    if settings.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))
    else:
        print(table(entries, time.time()))
    return 0


def look(path: Path) -> Entry:
    """Read a run directory into an `Entry`."""
    entry, faults = Entry(str(path)), []
    num_envs, iteration_seconds = 1, 0.0
    try:
        run = read_config(path)
        entry.environment, entry.recipe = run.settings["env"], run.recipe
        entry.seed, entry.num_timesteps = run.settings["seed"], run.settings["num_timesteps"]
        num_envs = run.settings["num_envs"]
    except UsageError as error:
        faults.append(str(error))
    try:
        row = last_row(path)
        with run_directory_errors(path, PROGRESS):
            if row is not None:
                entry.timesteps = int(row["timesteps"])
                rate = float(row["steps_per_second"])
                iteration_seconds = float(row["timesteps_per_batch"]) / max(rate, 1e-3)
                if row["episode_return_mean"]:
                    entry.episode_return_mean = float(row["episode_return_mean"])
    except UsageError as error:
        faults.append(str(error))
    left = math.inf if entry.num_timesteps is None else entry.num_timesteps - entry.timesteps
    # The last batch ends the run as close to its length as the environments allow.
    status = status_file.read(path, left <= num_envs / 2, iteration_seconds)
    entry.state, entry.since = status.state, status.since
    entry.reason = "; ".join(filter(None, [status.reason, *faults]))
    return entry


def table(entries: Sequence[Entry], now: float) -> str:
    """Aligned columns, one line per run; `now` is in seconds since the epoch."""
    head = ("run", "environment", "recipe", "seed", "steps", "", "return", "state")
    return aligned([head, *(_cells(entry, now) for entry in entries)], left=(0, 1, 2, 7))


def _cells(entry: Entry, now: float) -> tuple[str, ...]:
    asked, returned = entry.num_timesteps, entry.episode_return_mean
    share = f"{100 * entry.timesteps / asked:.0f}%" if asked else ""
    state = f"{entry.state} {_age(now - entry.since)}"
    state += "" if entry.state == status_file.RUNNING else " ago"
    # The last batch may end a run a little before its length.
    whole = asked is not None and entry.timesteps >= 0.99 * asked
    if entry.reason and not (entry.state == status_file.FINISHED and whole):
        state += f": {entry.reason.removeprefix(f'{entry.state} ')}"
    return (
        entry.run,
        entry.environment or "-",
        entry.recipe or "-",
        "-" if entry.seed is None else str(entry.seed),
        f"{_short(entry.timesteps)}/{'-' if asked is None else _short(asked)}",
        share,
        "-" if returned is None else f"{returned:.1f}",
        state,
    )


def _short(number: int) -> str:
    """A number with three digits: 1500000 as 1.5M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


if __name__ == "__main__":
    startup.run(main)
