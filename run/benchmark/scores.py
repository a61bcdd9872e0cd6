"""Scores of the defaults, or of other settings: training and evaluation returns, over seeds.

    python run/benchmark/scores.py --runs DIR --results run/benchmark/results/mujoco --jobs 2
    python run/benchmark/scores.py --runs DIR --results DIR --envs Hopper-v4 -- --algo ppo

Trains every environment, seed by seed (by `sweep`, one rank a run, `--jobs` runs at a time), and
plays 100 episodes in both modes. For each run --results keeps a directory with its scores, its
settings and every tenth row of its progress.csv; a run that has one is not repeated, one that was
cut off is resumed; `--seeds 0` makes none. `scores.md` (means with 95 % bootstrap intervals over
seeds) and the learning curves are made from all that is kept.
"""

import argparse
import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from trpo_mpi.plotting.references import REFERENCES

BASELINES = REFERENCES["baselines"].scores
ENVS = (
    *("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Swimmer-v4"),
    *("InvertedPendulum-v4", "InvertedDoublePendulum-v4", "Reacher-v4"),
)
MODES = ("training", "stochastic", "deterministic")


def run(module: str, *arguments: str, log: Path | None = None) -> None:
    """Run a command of this package; its output is appended to `log`, if there is one."""
    command = [sys.executable, "-m", f"trpo_mpi.{module}", *arguments]
    with open(log, "a") if log else nullcontext() as file:
        subprocess.run(command, stdout=file, stderr=file and subprocess.STDOUT, check=True)


def column(path: Path, name: str) -> list[float]:
    """A column of a CSV file, as numbers; NaN where it is empty."""
    with open(path) as file:
        rows = csv.DictReader(line for line in file if line[0] != "#")
        return [float(row[name] or "nan") for row in rows]


def keep(place: Path, kept: Path) -> None:
    """Evaluate a run, and write its scores, settings and progress to `kept`."""
    config = json.loads((place / "config.json").read_text())
    scores: dict[str, Any] = {name: config["settings"][name] for name in ("env", "seed")}
    scores["training"] = np.mean(column(place / "monitor.csv", "r")[-100:])
    for mode in MODES[1:]:
        flags = ["--deterministic"] if mode == "deterministic" else []
        log = place.with_name(f"{place.name}.log")
        run("evaluate", str(place), "--episodes", "100", *flags, log=log)
        scores[mode] = np.mean(column(place / "evaluation.csv", "return"))
    scores["seconds"] = column(place / "progress.csv", "seconds")[-1]
    kept.mkdir(exist_ok=True)
    config = {name: config[name] for name in ("settings", "recipe", "git_commit", "cpu")}
    config["settings"] |= {"outdir": None, "resume": "auto"}
    (kept / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    lines = (place / "progress.csv").read_text().splitlines(keepends=True)
    (kept / "progress.csv").write_text("".join([lines[0], *lines[1:-1:10], lines[-1]]))
    (kept / "scores.json").write_text(json.dumps(scores) + "\n")


def interval(values: list[float]) -> str:
    """Mean and 95 % bootstrap interval over seeds."""
    x = np.array(values)
    means = np.random.default_rng(0).choice(x, (10000, len(x))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    digits = 1 if abs(x.mean()) < 100 else 0
    if len(x) == 1:
        return f"{x[0]:.{digits}f}"
    return f"{x.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    """Train, evaluate, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("flags", nargs="*", help="of the runs, behind --")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    options.runs.mkdir(parents=True, exist_ok=True)
    where = ["--jobs", str(options.jobs), "--outdir", str(options.runs)]
    for seed in range(options.seeds):
        kept = {env: options.results / f"{env}-s{seed}" for env in options.envs}
        missing = [env for env in kept if not (kept[env] / "scores.json").exists()]
        if missing:
            flags = ["--num-timesteps", str(options.steps), *options.flags]
            run("sweep", "--envs", *missing, "--seeds", str(seed), *where, "--", *flags)
            places = [kept[env] for env in missing]
            with ThreadPoolExecutor(options.jobs) as pool:
                list(pool.map(keep, [options.runs / place.name for place in places], places))
    done = sorted(options.results.glob("*/scores.json"))
    rows = [json.loads(path.read_text()) for path in done]
    table = (
        "| environment | seeds | training | stochastic | deterministic | Baselines, training |\n"
    )
    table += "|---|---|---|---|---|---|\n"
    for env in options.envs:
        own = [row for row in rows if row["env"] == env]
        if own:
            cells = [str(len(own)), *(interval([row[mode] for row in own]) for mode in MODES)]
            published = BASELINES.get(env)
            digits = 1 if published is not None and abs(published) < 10 else 0
            cells.append("" if published is None else f"{published:.{digits}f}")
            table += f"| {env} | {' | '.join(cells)} |\n"
    (options.results / "scores.md").write_text(table)
    print(table)
    drawn = [*(str(path.parent) for path in done), "--output", str(options.results / "curves.png")]
    if any(row["env"] in BASELINES for row in rows):
        drawn += ["--reference", "baselines"]
    run("plot", *drawn, log=options.runs / "plot.log")


if __name__ == "__main__":
    main()
