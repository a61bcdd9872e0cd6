"""How fast training is, as ratios of rates that were measured in turns.

    python run/benchmark/speed.py --rounds 5 --sb3-python PYTHON --output speed.csv

In each round, one after another: a single Hopper-v4 stepped with random actions drawn beforehand;
one rank; two one-rank runs side by side; two ranks; and, where `--sb3-python` names an interpreter
that has sb3-contrib, its TRPO and this one at equal settings, each on one core. The table gives
the median over the rounds of each ratio, and its range.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "trpo_mpi.run_mujoco"]
SB3_SETTINGS = ["--cg-iters", "15", "--vf-iters", "10", "--vf-batch", "128"]
SB3_SETTINGS += ["--fisher-fraction", "1", "--no-normalize-observations", "--no-normalize-returns"]
SB3_CODE = """
import time, torch
torch.set_num_threads(1)
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
env = make_vec_env("Hopper-v4", n_envs=16, seed=0)
arch = dict(activation_fn=torch.nn.Tanh, net_arch=[64, 64])
model = TRPO("MlpPolicy", env, n_steps=128, batch_size=128, cg_max_steps=15,
             n_critic_updates=10, device="cpu", policy_kwargs=arch, seed=0)
model.learn(2048 * 3)
start = time.perf_counter()
model.learn(2048 * 20, reset_num_timesteps=False)
print(2048 * 20 / (time.perf_counter() - start))
"""


def raw_rate(steps: int = 20000) -> float:
    """Steps/s of one Hopper-v4 with random actions, resets included."""
    import gymnasium as gym

    env = gym.make("Hopper-v4")
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    env.reset(seed=0)
    start = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - start)


def start_run(prefix: list[str], arguments: list[str], outdir: Path) -> subprocess.Popen[bytes]:
    """A training run of 60 iterations in the background."""
    steps = ["--num-timesteps", str(60 * 2048), "--outdir", str(outdir)]
    return subprocess.Popen([*prefix, *COMMAND, *steps, *arguments], stdout=subprocess.DEVNULL)


def rate(outdir: Path) -> float:
    """Steps/s of a run, learning included, without its first ten iterations."""
    with open(outdir / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    first, last = rows[9], rows[-1]
    seconds = float(last["seconds"]) - float(first["seconds"])
    return (int(last["timesteps"]) - int(first["timesteps"])) / seconds


def trained(*jobs: tuple[list[str], list[str]]) -> float:
    """Total steps/s of runs started together, each (prefix, arguments)."""
    with tempfile.TemporaryDirectory() as scratch:
        places = [Path(scratch) / str(i) for i in range(len(jobs))]
        runs = [start_run(*job, place) for job, place in zip(jobs, places, strict=True)]
        if any([run.wait() for run in runs]):
            sys.exit("a training run failed")
        return sum(rate(place) for place in places)


def one_round(mpirun: list[str], sb3_python: str | None) -> dict[str, float]:
    """Every rate once, in steps/s."""
    rates = {"raw": raw_rate(), "one": trained(([], []))}
    rates["side by side"] = trained(([], ["--seed", "1"]), ([], ["--seed", "2"]))
    rates["two ranks"] = trained((mpirun, []))
    if sb3_python is not None:
        one_core = ["taskset", "-c", "0"]
        command = [*one_core, "env", "OMP_NUM_THREADS=1", sb3_python, "-W", "ignore"]
        result = subprocess.run(
            [*command, "-c", SB3_CODE], capture_output=True, text=True, check=True
        )
        rates["sb3-contrib"] = float(result.stdout.split()[-1])
        rates["as sb3-contrib"] = trained((one_core, SB3_SETTINGS))
    return rates


RATIOS = (
    ("one rank over raw environment", "one", "raw", 0.80),
    ("two ranks over two runs side by side", "two ranks", "side by side", 0.88),
    ("over sb3-contrib at its settings", "as sb3-contrib", "sb3-contrib", 1.5),
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sb3-python", help="an interpreter that has sb3-contrib")
    parser.add_argument("--output", type=Path, help="CSV file for the rates of each round")
    options = parser.parse_args()
    mpirun = [str(Path(sys.executable).parent / "mpirun"), "-np", "2"]
    rounds = []
    for number in range(options.rounds):
        rounds.append(one_round(mpirun, options.sb3_python))
        print(number, {name: round(value) for name, value in rounds[-1].items()}, flush=True)
    if options.output:
        with open(options.output, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rounds[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.1f}" for k, v in r.items()} for r in rounds)
    print(f"{'ratio':40}{'median':>8}{'lowest':>8}{'highest':>8}{'at least':>10}")
    for name, over, under, target in RATIOS:
        if over in rounds[0]:
            ratios = [r[over] / r[under] for r in rounds]
            numbers = (np.median(ratios), min(ratios), max(ratios))
            print(f"{name:40}{''.join(f'{x:8.3f}' for x in numbers)}{target:10.2f}")


if __name__ == "__main__":
    main()
