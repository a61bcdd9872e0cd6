"""Jobs that are killed, stopped, cut while they write, and given damaged files.

    python run/benchmark/chaos.py --output run/benchmark/results/chaos.csv
    python run/benchmark/chaos.py --only kills --repeat 100

Trials that end a run are resumed to the end and compared with an undisturbed run: `model.zip`,
monitor.csv's returns and lengths, and progress.csv without its clock columns must have the same
bits. Aimed kills must leave every checkpoint whole, and bad inputs every file as it was. Kills fall
at random moments, start-up and checkpoint writing included. Takes half an hour on two cores.
"""

import argparse
import contextlib
import csv
import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

RUN = ["-m", "trpo_mpi.run_mujoco"]
HOPPER = ["--env", "Hopper-v4", "--num-timesteps", "24576", "--checkpoint-every", "2"]
MPIRUN = Path(sys.executable).with_name("mpirun")
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "ignore"}


def command(ranks: int, *arguments: str) -> list[str]:
    """A training run on `ranks` ranks; one rank runs without mpirun."""
    start = [sys.executable, *RUN, *HOPPER, *arguments]
    if ranks == 1:
        return start
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=True)
    flags = ["--oversubscribe", "--allow-run-as-root"] if "Open MPI" in version.stdout else []
    return [str(MPIRUN), *flags, "-np", str(ranks), *start]


def exact(run: Path) -> tuple[bytes, list[str], list[list[str]]]:
    """The results of a run that do not depend on a clock."""
    with open(run / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [n for n in rows[0] if not n.endswith(("seconds", "per_second", "mb"))]
    monitor = [
        line.rpartition(",")[0] for line in (run / "monitor.csv").read_text().split("\n")[1:]
    ]
    return (run / "model.zip").read_bytes(), monitor, [[row[n] for n in names] for row in rows]


def train(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the training to its end."""
    return subprocess.run(
        command(ranks, *arguments), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@contextlib.contextmanager
def job(ranks: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run in the background, with all its processes in one session."""
    with subprocess.Popen(
        command(ranks, *arguments),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def rank_processes(run: Path) -> list[int]:
    """Process numbers of the ranks that write to a run directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
            if str(run).encode() in words and words[0] == sys.executable.encode():
                found.append(int(entry.name))
    return found


def wait_for_rows(run: Path, rows: int) -> None:
    """Wait until progress.csv has that many rows."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if (run / "progress.csv").read_text().count("\n") > rows:
                return
        time.sleep(0.01)
    raise TimeoutError(run)


def kills(run: Path, dice: random.Random, expected: object) -> bool:
    """`kill -9` of one rank or all at a random moment; then to the end on 1 to 3 ranks."""
    with job(2, "--outdir", str(run), "--resume", "auto") as process:
        time.sleep(dice.uniform(3, 14))
        ranks = rank_processes(run)
        for pid in ranks if dice.random() < 0.5 else ranks[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)
    result = train(dice.choice([1, 2, 3]), "--outdir", str(run), "--resume", "auto")
    return result.returncode == 0 and exact(run) == expected


def aimed_kills(run: Path, dice: random.Random, _: object) -> bool:
    """`kill -9` of rank 0 while it writes a checkpoint; then every checkpoint must be whole.

    The temporary file shows the writing. There is a checkpoint after every iteration.
    """
    from trpo_mpi.run_directory import checkpoint

    if not (run / "checkpoints").exists():
        (run / "checkpoints").mkdir(parents=True)
    arguments = ["--outdir", str(run), "--resume", "auto", "--checkpoint-every", "1"]
    with job(1, *arguments, "--timesteps-per-batch", "64", "--num-timesteps", "1000000") as process:
        before = set(os.listdir(run / "checkpoints"))
        until = time.monotonic() + 60
        while time.monotonic() < until:
            now = set(os.listdir(run / "checkpoints"))
            if any(name.endswith(".tmp") for name in now - before):
                time.sleep(dice.uniform(0, 0.02))
                break
        process.kill()
        process.wait()
    for path in checkpoint.numbered(run):
        checkpoint.read(path)
    return checkpoint.newest(run) is not None


def signals(run: Path, dice: random.Random, expected: object) -> bool:
    """A signal to one rank of two, or to the launcher; exit code 75; then to the end."""
    with job(2, "--outdir", str(run), "--resume", "auto") as process:
        wait_for_rows(run, dice.randrange(1, 9))
        number = dice.choice([signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
        if number == signal.SIGUSR1 and dice.random() < 0.5:
            process.send_signal(number)
        else:
            os.kill(dice.choice(rank_processes(run)), number)
        if process.wait(20) != 75:
            return False
    result = train(dice.choice([1, 2, 3]), "--outdir", str(run), "--resume", "auto")
    return result.returncode == 0 and exact(run) == expected


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def damaged(whole: bytes, dice: random.Random, trap: Path) -> bytes:
    """A file with one of many things wrong."""
    kind = dice.choice(["cut", "empty", "bits", "foreign", "other zip", "pickle", "pickle inside"])
    if kind == "cut":
        return whole[: dice.randrange(1, len(whole))]
    if kind == "bits":
        with zipfile.ZipFile(io.BytesIO(whole)) as file:
            member = max(file.infolist(), key=lambda member: member.compress_size)
        place = member.header_offset + 60 + dice.randrange(member.compress_size - 60)
        return whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :]
    if kind == "foreign":
        return b"iteration,timesteps\n" + dice.randbytes(1000)
    if kind == "pickle":
        return pickle.dumps(Trap(trap))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as new, zipfile.ZipFile(io.BytesIO(whole)) as file:
        for name in file.namelist() if kind == "pickle inside" else ["readme.txt"]:
            new.writestr(name, pickle.dumps(Trap(trap)))
    return content.getvalue() if kind != "empty" else b""


WRONG = [
    ["--env", "Hoper-v4"],
    ["--gamma", "1.5"],
    ["--max-kl", "-1"],
    ["--num-envs", "0"],
    ["--timesteps-per-batch", "2050"],
    ["--net-arch", "64", "x"],
    ["--stepsize", "3"],
    ["--checkpoint-every", "0"],
    ["--max-hours", "nan"],
    ["--env-timeout", "-5"],
    ["--env", "FrozenLake-v1", "--policy", "CnnPolicy"],
    ["--load", "nowhere"],
    ["--resume", "nowhere"],
    ["--gpu", "x"],
]


def bad_inputs(run: Path, dice: random.Random, _: object) -> bool:
    """A damaged model, a damaged checkpoint or a wrong flag: one line, code 2, nothing lost."""
    if not run.exists() and train(1, "--outdir", str(run), "--max-iterations", "4").returncode:
        return False
    what = dice.choice(["model", "checkpoint", "flag"])
    with tempfile.TemporaryDirectory() as folder:
        copy, trap = Path(folder) / "run", Path(folder) / "sprung"
        shutil.copytree(run, copy)
        if what == "model":
            (copy / "model.zip").write_bytes(damaged((run / "model.zip").read_bytes(), dice, trap))
            flags = ["--load", str(copy), "--outdir", str(Path(folder) / "new")]
        elif what == "checkpoint":
            for path in (copy / "checkpoints").glob("*.zip"):
                path.write_bytes(damaged(path.read_bytes(), dice, trap))
            flags = ["--resume", str(copy)]
        else:
            flags = [*dice.choice(WRONG), "--outdir", str(Path(folder) / "new")]
        before = {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
        result = train(1, *flags)
        lines = [x for x in result.stderr.splitlines() if x and not x.startswith("warning: ")]
        after = {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
        good = result.returncode == 2 and len(lines) == 1 and after == before
        if not good:
            print(f"{flags}: code {result.returncode}\n{result.stderr}", flush=True)
        return good


TRIALS: dict[str, tuple[Callable[[Path, random.Random, object], bool], int]] = {
    "kills": (kills, 20),
    "aimed kills": (aimed_kills, 100),
    "signals": (signals, 12),
    "bad inputs": (bad_inputs, 60),
}


def main() -> None:
    """Run the trials and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(TRIALS), help="one kind of trial")
    parser.add_argument("--repeat", type=int, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="CSV file, a row a kind of trial")
    options = parser.parse_args()
    table = [("trial", "passed", "of")]
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed = Path(scratch) / "undisturbed"
        if train(1, "--outdir", str(undisturbed)).returncode:
            sys.exit("the undisturbed run failed")
        expected = exact(undisturbed)
        for name, (trial, usual) in TRIALS.items():
            if options.only not in (None, name):
                continue
            dice = random.Random(f"{name} {options.seed}")
            count, passed = options.repeat or usual, 0
            for number in range(count):
                # These trials share one run, so that there are older checkpoints to lose.
                own = "one" if trial in (aimed_kills, bad_inputs) else str(number)
                place = Path(scratch) / f"{name.replace(' ', '-')}-{own}"
                good = trial(place, dice, expected)
                passed += good
                if not good:
                    print(f"{name} {number}: FAILED", flush=True)
            table.append((name, str(passed), str(count)))
            print(f"{name}: {passed} of {count}", flush=True)
    if options.output is not None:
        with open(options.output, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
