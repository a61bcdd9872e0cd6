"""Small tasks, each with the return that it should reach, over seeds.

    python run/benchmark/learning.py --runs DIR --output run/benchmark/results/learning.csv --jobs 2

Trains every task with every seed (one rank a run, `--jobs` runs at a time), and plays 100 episodes
with sampled and with the most probable actions. --output has one row per run: the time steps after
which 100 episodes in a row returned the goal on average, the mean of the last 100, and the means of
both evaluations. A run that has a row is not repeated; one that was cut off is resumed. Then the
table is printed. Environments that need a memory are the tests' own.
"""

import argparse
import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from scores import column, run

ROOT = Path(__file__).parents[2]
FIELDS = ("task", "seed", "reached_at", "training", "stochastic", "deterministic", "command")


class Task(NamedTuple):
    """What is trained, and the return that it should reach."""

    env: str
    steps: int
    goal: float
    flags: str = ""


TASKS = {
    "CartPole": Task("CartPole-v1", 100_000, 500, "--stop-return 500"),
    "CartPole by positions, MlpLstm": Task(
        "memory_envs:Positions-v0", 500_000, 475, "--policy MlpLstmPolicy --stop-return 475"
    ),
    "CartPole by positions, Mlp": Task(
        "memory_envs:Positions-v0", 500_000, 475, "--stop-return 475"
    ),
    "cue ten steps before, MlpLstm": Task(
        "memory_envs:Cue-v0", 300_000, 0.95, "--policy MlpLstmPolicy --stop-return 0.95"
    ),
    "cue ten steps before, MlpLnLstm": Task(
        "memory_envs:Cue-v0", 300_000, 0.95, "--policy MlpLnLstmPolicy --stop-return 0.95"
    ),
    "MountainCarContinuous": Task("MountainCarContinuous-v0", 100_000, 90, "--init-logstd 1"),
    "LunarLanderContinuous": Task(
        "LunarLanderContinuous-v3",
        300_000,
        200,
        "--gamma 0.99 --lam 0.97 --max-kl 0.02 --final-max-kl 0.5 --vf-iters 20 --init-logstd -0.5",
    ),
}


def one(name: str, seed: int, runs: Path) -> dict[str, object]:
    """Train and evaluate; returns a row."""
    task = TASKS[name]
    place = runs / f"{name.replace(' ', '-').replace(',', '')}-s{seed}"
    log = place.with_suffix(".log")
    arguments = ["--env", task.env, "--num-timesteps", str(task.steps), *task.flags.split()]
    arguments += ["--seed", str(seed)]
    run("run_mujoco", *arguments, "--outdir", str(place), "--resume", "auto", log=log)
    progress = place / "progress.csv"
    means, steps = column(progress, "episode_return_mean"), column(progress, "timesteps")
    episodes = column(progress, "episodes")
    whole = [(t, m) for t, m, n in zip(steps, means, episodes, strict=True) if n >= 100]
    row: dict[str, object] = {"task": name, "seed": seed, "command": " ".join(arguments)}
    row["reached_at"] = next((int(t) for t, mean in whole if mean >= task.goal), "")
    row["training"] = f"{means[-1]:.2f}"
    for mode, flags in (("stochastic", []), ("deterministic", ["--deterministic"])):
        run("evaluate", str(place), "--episodes", "100", *flags, log=log)
        row[mode] = f"{np.mean(column(place / 'evaluation.csv', 'return')):.2f}"
    return row


def table(rows: list[dict[str, str]]) -> str:
    """The rows by task: how many reached the goal in training or evaluation, and the means."""
    lines = ["| task | goal | time steps | reached | training | stochastic | deterministic |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, task in TASKS.items():
        own = [row for row in rows if row["task"] == name]
        if not own:
            continue
        scores = [[float(row[mode]) for mode in FIELDS[3:6]] for row in own]
        reached = sum(
            bool(row["reached_at"]) or max(score) >= task.goal
            for row, score in zip(own, scores, strict=True)
        )
        means = " | ".join(f"{mean:.2f}" for mean in np.mean(scores, axis=0))
        lines.append(
            f"| {name} | {task.goal:g} | {task.steps:,} | {reached} of {len(own)} | {means} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what has no row yet, and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--output", type=Path, required=True, help="CSV file of the results")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    rows: list[dict[str, object]] = []
    if options.output.exists():
        with open(options.output) as file:
            rows = list(csv.DictReader(file))
    lock = Lock()

    def add(job: tuple[int, str]) -> None:
        seed, name = job
        row = one(name, seed, options.runs)
        with lock, open(options.output, "w", newline="") as file:
            rows.append(row)
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda r: (r["task"], int(str(r["seed"])))))

    have = {(str(row["task"]), int(str(row["seed"]))) for row in rows}
    jobs = [(s, name) for s in range(options.seeds) for name in options.tasks]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(add, [(s, name) for s, name in jobs if (name, s) not in have]))
    print(table([{k: str(v) for k, v in row.items()} for row in rows]))


if __name__ == "__main__":
    main()
