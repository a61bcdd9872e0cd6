"""The whole of it learns."""

import csv
from pathlib import Path

from conftest import Run


def test_inverted_pendulum_to_950(tmp_path: Path, python: Run) -> None:
    """Of 1000, as the mean of the last 100 episodes, at the defaults."""
    arguments = "--env InvertedPendulum-v4 --stop-return 950 --num-timesteps 400000 --outdir out"
    result = python("-m", "trpo_mpi.run_mujoco", *arguments.split())
    assert result.returncode == 0, result.stderr
    assert "--stop-return 950 reached" in result.stdout
    with open(tmp_path / "out" / "progress.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first, last = rows[0], rows[-1]
    assert float(first["episode_return_mean"]) < 20
    assert float(last["episode_return_mean"]) >= 950
    # The monitor's own account of the same hundred episodes.
    monitor = (tmp_path / "out" / "monitor.csv").read_text(encoding="utf-8").splitlines()[-100:]
    assert sum(float(line.split(",")[0]) for line in monitor) / 100 >= 950
    kls = [float(row["kl"]) for row in rows if row["kl"]]
    assert max(kls) <= 0.01
