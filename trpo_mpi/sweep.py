"""Train environments x seeds x settings, and tabulate and draw the results.

python -m trpo_mpi.sweep --envs Hopper-v4 Walker2d-v4 --seeds 0-4                     ten runs
python -m trpo_mpi.sweep --envs Ant-v4 --vary max-kl 0.01 0.02 -- --recipe chainerrl  two settings
python -m trpo_mpi.sweep --envs Ant-v4 --seeds 0-4 --ranks 8 --slurm ant.sh           a Slurm array

Flags after -- go to every run: those of run_mujoco, or of run_atari for Atari games.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from trpo_mpi.output import warn
from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

from trpo_mpi.command_line import parse
from trpo_mpi.config import Count, Natural, check_ranges
from trpo_mpi.errors import UsageError
from trpo_mpi.stopping import STOPPED
from trpo_mpi.sweeps import machine, results, slurm
from trpo_mpi.sweeps.plan import Run, plan, seeds, variations


@dataclass(frozen=True)
class Sweep:
    """Train environments x seeds x settings: on this machine, or as a Slurm array.

    The same command again skips finished runs, resumes stopped ones and retries failed ones. Flags
    for all runs go after --.
    """

    envs: tuple[str, ...]
    """Environments: any ids that Gymnasium can make, Atari games included."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds: numbers, and ranges such as 0-4."""
    vary: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="SETTING VALUE VALUE ...")
    ] = ()
    """A setting and its values: max-kl 0.01 0.02. Quote a value of several words: net-arch "64 64"
    "32 32"; a yes-or-no setting takes True and False. Repeat --vary to run all combinations of
    several settings."""
    ranks: Count = 1
    """Ranks of each run."""
    jobs: Natural | None = None
    """Runs at a time; 0 starts none and shows how far they are. [default: as many as this machine
    has cores for]"""
    outdir: str = "runs/sweep"
    """Directory for the runs, their logs, results.csv and curves.png."""
    slurm: str | None = None
    """Start nothing; write this batch script, a Slurm array. [default: none]"""


def main() -> int:
    """Run the sweep that the command line describes; returns the exit code."""
    settings, common = _parse(sys.argv[1:])
    if startup.launched().size > 1:
        raise UsageError("start this without mpirun; --ranks says how many ranks a run has")
    for name in ("outdir", "slurm"):
        if getattr(settings, name) == "":
            raise UsageError(f"--{name} is empty; it must be a name")
    outdir, varied = Path(settings.outdir), variations(settings.vary)
    runs = plan(settings.envs, seeds(settings.seeds), varied, common, outdir, settings.ranks)
    works = settings.slurm is None and settings.jobs != 0
    held = machine.lock(outdir) if works else -1
    finished = [run for run in runs if run.finished()]
    waiting = [run for run in runs if run not in finished]
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    print(f"{count} in {outdir}, {len(finished)} finished", flush=True)
    if settings.slurm is not None and waiting:
        script = Path(settings.slurm)
        slurm.write(script, runs, waiting, outdir, settings.ranks, settings.jobs)
        print(f"to submit what is not finished: sbatch {shlex.quote(str(script))}")
        print("for the table and the plot: this command with --jobs 0 in place of --slurm")
        return 0
    failed: list[machine.Job] = []
    if works:
        jobs = settings.jobs or max(1, machine.cores() // settings.ranks)
        queue = machine.Queue(waiting, len(finished), settings.ranks, jobs, held)
        queue.work()
        if queue.stopped:
            print("stopped; the same command goes on")
            return STOPPED
        failed, finished = queue.failed, [run for run in runs if run.finished()]
    _show(runs, finished, list(varied), outdir)
    for job in failed:
        print(f"\nthe end of {job.run.log}:\n{job.last_lines()}")
    return 1 if failed else 0


def _parse(arguments: list[str]) -> tuple[Sweep, list[str]]:
    """The sweep's own settings, and the flags of its runs."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        settings = parse(Sweep, "sweep", arguments[:place])
    except UsageError as error:
        hint = "; flags of the runs go after --" if "Unrecognized" in str(error) else ""
        raise UsageError(f"{error}{hint}") from None
    check_ranges(settings)
    return settings, arguments[place + 1 :]


def _show(runs: Sequence[Run], finished: Sequence[Run], varied: list[str], outdir: Path) -> None:
    """The table, on the terminal and as a file, and the learning curves."""
    rows = results.table(runs, finished, varied)
    print(results.as_text(rows, varied))
    if not outdir.is_dir():  # nothing has been started
        return
    file, curves = outdir / "results.csv", outdir / "curves.png"
    results.write(rows, file)
    fault = results.draw(finished, curves)
    print(f"the table is in {file}" + ("" if fault else f", learning curves in {curves}"))
    if fault:
        warn(f"no {curves}: {fault}")


if __name__ == "__main__":
    startup.run(main)
