"""From a launcher to a communicator, and from a failure on one rank to the end of the job.

Every command runs its `main` through `run`. What it guards against:

- *Silent singletons.* A launcher whose MPI is not the library's (MPICH's mpirun with Open MPI's
  library, srun with the wrong PMI) starts N processes that each take themselves for rank 0 of 1.
  The launcher's size, from its environment variables, is compared with the communicator's.
- *Hangs.* An exception on one rank leaves the others waiting in a collective for ever. Here the
  rank prints its traceback and calls MPI_Abort.
- *Walls of text.* A usage error is printed by one rank; Ctrl-C prints one line.

This module imports nothing heavy: the thread limits it sets must come before NumPy.
"""

import fcntl
import os
import signal
import socket
import stat
import sys
import termios
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from trpo_mpi import output
from trpo_mpi.errors import DivergedError, EnvironmentFault, UsageError

if TYPE_CHECKING:
    from trpo_mpi.parallel.communicator import Communicator

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

# Launchers that say how many processes they started, most specific first: an mpirun inside a
# Slurm step starts its daemons by srun, so Slurm's variables count only without any others, and
# the step may have set PMI's.
_LAUNCHERS = (
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpirun (MVAPICH)", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    ("mpirun (MPICH, Intel MPI or PALS)", "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


_LOCAL_RANKS = (
    *("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
    *("JSM_NAMESPACE_LOCAL_RANK", "PALS_LOCAL_RANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID"),
)

_OF_LAUNCHERS = (
    *("PMI", "MPI_LOCAL", "MPIR_", "HYDI_", "HYDRA_", "PALS_", "ALPS_", "I_MPI_"),
    *("OMPI_", "PRTE_", "ORTE_", "OPAL_", "MV2_", "JSM_", "SLURM_"),
)


ABORTING = 15.0
"""Seconds in which a rank that aborts has ended the job, even if a disk hangs."""


def local_rank(environ: Mapping[str, str] = os.environ) -> int:
    """This process's number on its node, according to the launcher; 0 without one."""
    return next((int(environ[name]) for name in _LOCAL_RANKS if name in environ), 0)


def limit_threads() -> None:
    """Use one thread per rank for BLAS, OpenMP and TensorFlow, unless the user set a number.

    OMP_NUM_THREADS, or the first number of its list, counts for those that are not set themselves.
    """
    # Empty is as good as unset: scripts set it to a variable that Slurm may leave out.
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip() or "1"
    for variable in THREAD_VARIABLES:
        if not os.environ.get(variable):
            os.environ[variable] = threads


def _check_threads() -> None:
    """Raise `UsageError` for numbers of threads that TensorFlow or a BLAS would choke on."""
    for variable in THREAD_VARIABLES:
        value = os.environ.get(variable, "1")
        # OpenMP takes a list, a number for each level of nesting.
        numbers = value.split(",") if variable.startswith("OMP") else [value]
        lowest = 0 if variable.startswith("TF") else 1
        if not all(x.strip().isdecimal() and int(x) >= lowest for x in numbers):
            raise UsageError(f"{variable} is {value!r}; it must be a number of {lowest} or more")


def prepare() -> None:
    """Do what must precede a command's other imports: thread limits, and a quiet Ctrl-C."""
    limit_threads()
    signal.signal(signal.SIGINT, _quit_quietly)


def unwind_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end a command by an exception, so that no partial file is left."""

    def unwind(number: int, _frame: types.FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, unwind)


class Launch(NamedTuple):
    """How a launcher such as mpirun started this process."""

    launcher: str
    size: int
    """Number of processes it started."""
    rank: int
    """Rank of this process among them."""


ALONE = Launch("no launcher", 1, 0)


def launched(environ: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started, according to launchers' environment variables."""
    for name, size, rank in _LAUNCHERS:
        if environ.get(size, "").isdecimal():
            return Launch(name, int(environ[size]), int(environ.get(rank) or 0))
    return ALONE


def check_alone() -> None:
    """Raise `UsageError` if a launcher started several processes of a single-process command."""
    name, size, _ = launched()
    if size > 1:
        raise UsageError(f"{name} started {size} processes; this command is for one")


def without_launcher(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables without launchers', for a process that is not to be a rank."""
    return {name: x for name, x in environ.items() if not name.startswith(_OF_LAUNCHERS)}


class NoLibraryError(UsageError):
    """This rank finds no MPI library; others may have one, and wait for it."""


def connect() -> "Communicator":
    """The communicator of all ranks, or of this process alone if there is no MPI library.

    Raises `UsageError` if the launcher started a different number of processes than MPI sees.
    """
    from trpo_mpi.parallel.communicator import Communicator

    world = None
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
        from mpi4py import MPI

        world = MPI.COMM_WORLD
    except (ImportError, RuntimeError):  # mpi4py, or its MPI library, is missing
        pass
    comm = Communicator(world)
    name, size, _ = launched()
    if size != comm.size:
        host = socket.gethostname()
        have = f"{comm.library()} has {comm.size}" if world else f"{host} has no MPI library"
        raise (UsageError if world else NoLibraryError)(
            f"{name} started {size} processes, but {have}: each would train alone. "
            + _cure(name, world is not None)
        )
    if comm.size > 1:
        abort_on_failure()
        # On all ranks if on any: blocking collectives do not match those that are polled.
        comm.patient = bool(comm.gather_number(int(comm.oversubscribed())).any())
    return comm


def _cure(launcher: str, has_library: bool) -> str:
    if not has_library:
        return 'Load the site\'s MPI module, or pip install "trpo-mpi[mpich]" and use that mpirun'
    if launcher == "srun":
        return (
            "Use srun --mpi=pmi2 for MPICH or Intel MPI, srun --mpi=pmix for Open MPI "
            "(srun --mpi=list shows what there is)"
        )
    return "Use the mpirun that belongs to that library (which mpirun), or set MPI4PY_LIBMPI"


def run(main: Callable[[], int]) -> NoReturn:
    """Call `main` and exit with the code it returns, 2 for a `UsageError`, 1 for a failure."""
    prepare()
    output.outlive()
    try:
        _check_threads()
        code = main()
    except UsageError as error:
        message = f"{os.path.basename(sys.argv[0]).removesuffix('.py')}: error: {error}"
        if isinstance(error, NoLibraryError):
            _refuse_node(message)
        code = _refuse(message)
    except BaseException as error:
        # `--help` exits like this, before MPI is initialised. Later, say from inside an
        # environment, it may be this rank alone, and the others would wait.
        if not isinstance(error, SystemExit) or _initialised_mpi() is not None:
            abort(error)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    _leave(code)


def _refuse(message: str) -> int:
    if launched().rank == 0:
        print(message, file=sys.stderr, flush=True)
    return 2


def _refuse_node(message: str) -> NoReturn:
    """End this rank, which can't wait for the others; print once per node, rank 0's first."""
    rank = launched().rank
    _await_turn(rank)
    if rank == 0 or local_rank() == 0:
        print(message, file=sys.stderr, flush=True)
        await_reader()
    else:
        time.sleep(3.0)  # the first rank to end may be the end of those that have yet to speak
    sys.exit(2)


def _await_turn(rank: int) -> None:
    """Sleep for longer the higher the rank, so that rank 0 speaks first."""
    time.sleep(min(0.2 * rank, 2.0))


def _leave(code: int) -> NoReturn:
    """End this rank together with all others; the job's exit code is rank 0's.

    The other ranks exit with 0: as soon as one exits with another code, a launcher kills the rest.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    for number in asking:
        signal.signal(number, signal.SIG_IGN)
    MPI = _initialised_mpi()
    if MPI is not None:
        MPI.COMM_WORLD.Barrier()
        MPI.Finalize()
    # Not os._exit: MPICH tells its mpirun from an exit handler that a rank is done; otherwise
    # mpirun kills the others.
    sys.exit(code if launched().rank == 0 else 0)


def _initialised_mpi() -> Any:
    """The mpi4py.MPI module if this process has it and MPI is running, else None."""
    MPI = sys.modules.get("mpi4py.MPI")
    return MPI if MPI is not None and MPI.Is_initialized() and not MPI.Is_finalized() else None


_failure_notes: list[Callable[[str], None]] = []


def on_failure(note: Callable[[str], None]) -> None:
    """Have `note` called with a line that says what failed, before this rank ends the job."""
    _failure_notes.append(note)


def note_failure(line: str, seconds: float = 5.0) -> None:
    """Call what `on_failure` registered, waiting up to `seconds` for each: a disk may hang."""
    for note in _failure_notes:
        thread = threading.Thread(target=note, args=(line,), daemon=True)
        thread.start()
        thread.join(seconds)


def abort(error: BaseException) -> NoReturn:
    """Print a failure once and end all ranks with exit code 1."""
    _, size, rank = launched()
    # A fault that all ranks share is reported by the first, whose abort ends the others' sleep.
    if isinstance(error, DivergedError) and rank > 0:
        time.sleep(ABORTING)
    else:
        _await_turn(rank)
    where = f"rank {rank} of {size}: "
    if isinstance(error, EnvironmentFault | DivergedError):
        line = f"{where}{error}"
        print(line, file=sys.stderr, flush=True)
    else:
        text = "".join(traceback.format_exception(error))
        line = where + "; ".join("".join(traceback.format_exception_only(error)).splitlines())
        print(f"{where}failed\n{text}", end="", file=sys.stderr, flush=True)
    sys.stdout.flush()
    note_failure(line)
    await_reader()
    MPI = _initialised_mpi()
    if MPI is not None and MPI.COMM_WORLD.Get_size() > 1:
        MPI.COMM_WORLD.Abort(1)
    os._exit(1)


def await_reader(seconds: float = 2.0) -> None:
    """Wait up to `seconds` until the launcher has read all of standard error, if it is a pipe.

    MPICH's mpirun discards what it has not read when a rank aborts.
    """
    end = time.monotonic() + seconds
    try:
        while stat.S_ISFIFO(os.fstat(2).st_mode) and time.monotonic() < end:
            unread = fcntl.ioctl(2, termios.FIONREAD, bytes(4))
            if not any(unread):
                break
            time.sleep(0.01)
    except OSError:  # closed, or the system does not report it
        pass


def abort_on_failure() -> None:
    """From now on an uncaught exception on this rank ends all of them."""
    sys.excepthook = _abort_on_exception


def _abort_on_exception(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """`sys.excepthook` for scripts that use this package without `run`."""
    if issubclass(kind, KeyboardInterrupt):
        _quit_quietly(signal.SIGINT, None)
    abort(error.with_traceback(trace))


def _quit_quietly(_signum: int, _frame: types.FrameType | None) -> NoReturn:
    if launched().rank == 0:
        print("\ninterrupted", file=sys.stderr, flush=True)
    os._exit(130)
