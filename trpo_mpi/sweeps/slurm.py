"""A sweep as a Slurm array: a batch script in which each run is an element."""

import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trpo_mpi.atomic_file import write_text
from trpo_mpi.errors import UsageError
from trpo_mpi.sweeps.plan import Run

MARK = "# Written by trpo_mpi.sweep"
SCRIPT = """\
#!/bin/bash
%(mark)s: an array in which each run is a job of its own. After a time limit,
# a preemption, a requeue or the loss of a node it goes on by itself.
#
#   sbatch %(script)s
#   sbatch --time=12:00:00 %(script)s
#
# Flags before the script are sbatch's, and win over the lines below. From the environment:
#   TRPO_MPI_SRUN          more flags for srun (--mpi=pmi2; Open MPI wants --mpi=pmix)
#   TRPO_MPI_MAX_RESTARTS  how often a job may start again (100)
#
#SBATCH --job-name=trpo_mpi
#SBATCH --array=%(array)s
#SBATCH --chdir=%(folder)s
#SBATCH --ntasks=%(ranks)d
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
# Before the limit each rank gets USR1, and the run stops with a checkpoint and code 75. Slurm may
# send it up to a minute earlier than said; a long iteration wants more time than this.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%(output)s

# What the site needs goes here, the module of the MPI library above all:
# module load mpich
# More threads would compete with the other ranks for their cores, and change the last bits.
export OMP_NUM_THREADS=1

case $SLURM_ARRAY_TASK_ID in
%(cases)s
*)
    echo "there is no run $SLURM_ARRAY_TASK_ID" >&2
    exit 2
    ;;
esac

# When one rank dies the others would wait for it: end them, so that the job ends.
# shellcheck disable=SC2086 # several flags in one variable
srun --kill-on-bad-exit=1 ${TRPO_MPI_SRUN:---mpi=pmi2} \\
    %(python)s -m "$@" >>"$log" 2>&1
code=$?

if [ $code -eq 75 ]; then # stopped with a checkpoint: start me again
    restarts=${SLURM_RESTART_COUNT:-0}
    if [ "$restarts" -ge "${TRPO_MPI_MAX_RESTARTS:-100}" ]; then
        echo "started again $restarts times, which is enough; sbatch goes on" >&2
        exit 75
    fi
    # The id of an element may be that of the whole array, and requeue all of it.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit $code
"""


def write(
    path: Path,
    runs: Sequence[Run],
    waiting: Sequence[Run],
    outdir: Path,
    ranks: int,
    jobs: int | None,
) -> None:
    """Write the script.

    Args:
        path: the script; one that a sweep has written is replaced.
        runs: all runs, each an element of the array.
        waiting: the runs that are submitted.
        outdir: where their directories are; created if missing.
        ranks: ranks per run.
        jobs: runs at a time; None leaves that to Slurm.

    Raises `UsageError` if the file is not a sweep's, or can't be written.
    """
    elements = [i for i, run in enumerate(runs) if run in waiting]
    text = SCRIPT % {
        "mark": MARK,
        "script": shlex.quote(str(path)),
        "array": ",".join(_ranges(elements)) + (f"%{jobs}" if jobs else ""),
        "folder": shlex.quote(str(Path.cwd())),
        "ranks": ranks,
        "output": shlex.quote(str(outdir / "slurm-").replace("%", "%%") + "%a.log"),
        "cases": "\n".join(_case(i, run) for i, run in enumerate(runs)),
        "python": shlex.quote(sys.executable),
    }
    try:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise UsageError(f"--slurm {path} is there, and not a sweep's: name another file")
        if not path.parent.is_dir():
            raise UsageError(f"--slurm {path}: there is no directory {path.parent}")
        outdir.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UsageError(f"--slurm {path}: {error.filename}: {error.strerror}") from None


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Increasing numbers as Slurm takes them: 0-3, 7."""
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        first, *others = [number for _, number in group]
        yield f"{first}-{others[-1]}" if others else f"{first}"


def _case(index: int, run: Run) -> str:
    """The script's lines that set an element's log and command."""
    log, command = shlex.quote(str(run.log)), shlex.join(run.arguments)
    return f"{index})\n    log={log}\n    set -- {command}\n    ;;"
