"""Memory of a rank while training, over that of importing TensorFlow alone.

    python run/benchmark/memory.py

Both as PSS (which divides shared pages among the processes that share them), the mean of four
processes at the same moment: four ranks at iteration 20, and four that have imported TensorFlow.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANKS = 4
MPIRUN = [str(Path(sys.executable).parent / "mpirun"), "-np", str(RANKS), sys.executable]
IMPORT = "import tensorflow, time; print('ready', flush=True); time.sleep(60)"


def pss(launcher: subprocess.Popen[str], marker: str) -> float:
    """MiB per process, mean over the Python processes with `marker` in their command line."""
    sizes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if command[0].decode() == sys.executable and marker.encode() in b" ".join(command):
                text = (process / "smaps_rollup").read_text()
                sizes.append(int(text.split("\nPss:")[1].split()[0]) / 1024)
        except (OSError, IndexError):
            continue  # it has ended
    if len(sizes) != RANKS:
        sys.exit(f"found {len(sizes)} processes with {marker!r} and not {RANKS}")
    launcher.terminate()
    launcher.wait()
    return sum(sizes) / len(sizes)


def main() -> None:
    """Measure both and print their ratio."""
    launcher = subprocess.Popen([*MPIRUN, "-c", IMPORT], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    for _ in range(RANKS):
        launcher.stdout.readline()
    time.sleep(1)
    alone = pss(launcher, "import tensorflow, time")

    with tempfile.TemporaryDirectory() as scratch:
        command = [*MPIRUN, "-m", "trpo_mpi.run_mujoco", "--outdir", f"{scratch}/run"]
        launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.split()[:1] == ["20"]:
                break
        training = pss(launcher, f"{scratch}/run")
    print(f"importing TensorFlow: {alone:.0f} MiB a process; training: {training:.0f} MiB a rank")
    print(f"ratio {training / alone:.2f} (at most 1.40)")


if __name__ == "__main__":
    main()
