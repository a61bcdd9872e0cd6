"""Hours to 10M time steps of Atari games, extrapolated from five minutes of each.

python run/benchmark/hours.py --output run/benchmark/results/hours.csv

Each game is trained from its start with the defaults, on one rank and on two. The rate leaves out
the first iteration, in which nothing is learnt.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

TIMESTEPS = 10_000_000
MINUTES = 5


def rate(game: str, ranks: int) -> float:
    """Time steps per second of a run of `MINUTES`."""
    with tempfile.TemporaryDirectory() as folder:
        mpirun = Path(sys.executable).with_name("mpirun")
        command = [str(mpirun), "-np", str(ranks)] if ranks > 1 else []
        command += [sys.executable, "-m", "trpo_mpi.run_atari", "--env", game, "--outdir", folder]
        # No checkpoint but the last: their cost is another question.
        command += ["--max-hours", str(MINUTES / 60), "--checkpoint-every", "1000000"]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code != 75:
            sys.exit(f"{game} on {ranks} ranks ended with exit code {code}")
        with open(Path(folder) / "progress.csv", encoding="utf-8", newline="") as file:
            first, *_, last = csv.DictReader(file)
    steps, seconds = (float(last[n]) - float(first[n]) for n in ("timesteps", "seconds"))
    return steps / seconds


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--games", nargs="+", default=["Pong", "Breakout"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    asked = parser.parse_args()
    rows = []
    for game in asked.games:
        for ranks in asked.ranks:
            steps = rate(f"{game}NoFrameskip-v4", ranks)
            rows.append((game, ranks, f"{steps:.0f}", f"{TIMESTEPS / steps / 3600:.1f}"))
            print(*rows[-1], flush=True)
            with open(asked.output, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("game", "ranks", "steps_per_second", "hours_to_10M"))
                writer.writerows(rows)


if __name__ == "__main__":
    main()
