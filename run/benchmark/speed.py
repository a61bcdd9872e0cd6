"""How fast training is, as ratios of rates that are measured in turns.

    python run/benchmark/speed.py --rounds 5 --sb3-python PYTHON --output speed.csv
    python run/benchmark/speed.py --suite atari --rounds 3 --sb3-python PYTHON --output atari.csv

In each round, one after another: the bare environment with random actions, a single Hopper-v4 or
ale-py's own vector of 16 Pongs on one core; one rank; the bare environment once more; two one-rank
runs side by side; two ranks; for Atari 16 ranks, and one rank with the network of Mnih et al. 2015;
and, where `--sb3-python` names an interpreter that has sb3-contrib, its TRPO and this one at equal
settings, each on one core; for MuJoCo also Stable-Baselines3's PPO, with its default of one
environment and with 16. The table gives the median over the rounds of each ratio, and its range.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

SB3_HOPPER = """
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
SB3_PPO = """
import time, torch
torch.set_num_threads(1)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
env = make_vec_env("Hopper-v4", n_envs={envs}, seed=0)
arch = dict(activation_fn=torch.nn.Tanh, net_arch=[64, 64])
model = PPO("MlpPolicy", env, n_steps=2048 // {envs}, batch_size=64, n_epochs=10, device="cpu",
            policy_kwargs=arch, seed=0)
model.learn(2048 * 3)
start = time.perf_counter()
model.learn(2048 * 20, reset_num_timesteps=False)
print(2048 * 20 / (time.perf_counter() - start))
"""
SB3_PONG = """
import time, torch
torch.set_num_threads(1)
import ale_py, gymnasium
gymnasium.register_envs(ale_py)
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack
env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=0), n_stack=4)
model = TRPO("CnnPolicy", env, n_steps=64, batch_size=128, cg_max_steps=15,
             n_critic_updates=10, device="cpu", seed=0)
model.learn(512)
start = time.perf_counter()
model.learn(512 * 2, reset_num_timesteps=False)
print(512 * 2 / (time.perf_counter() - start))
"""
PLAIN = "--no-normalize-returns --no-normalize-observations"
EQUAL_TRPO = f"{PLAIN} --cg-iters 15 --vf-iters 10 --vf-batch 128 --fisher-fraction 1"
EQUAL_PPO = f"{PLAIN} --algo ppo --policy-iters 10 --policy-batch 64 --vf-iters 10 --vf-batch 64"


def bare_hopper(steps: int = 20000) -> float:
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


def bare_pong(steps: int = 1000) -> float:
    """Steps/s of ale-py's vector of 16 games on one core, with random actions."""
    import ale_py

    envs = ale_py.AtariVectorEnv("pong", 16, num_threads=1)
    envs.reset(seed=np.arange(16))
    actions = np.random.default_rng(0).integers(0, 6, (steps, 16))
    start = time.perf_counter()
    for action in actions:
        envs.step(action)
    return 16 * steps / (time.perf_counter() - start)


class Suite(NamedTuple):
    """What is measured for one kind of environment."""

    module: str
    bare: Callable[[], float]
    iterations: int
    first: int
    """The number of first iterations to leave out."""
    runs: dict[str, tuple[tuple[int, str], ...]]
    """Rates by name: runs that are started together, each as ranks and flags."""
    rivals: dict[str, tuple[str, str]]
    """Of Stable-Baselines3, by name: a script that prints its rate, and our flags to match it."""
    ratios: tuple[tuple[str, str, str, float], ...]
    """In words; the two rates, one over the other; and the least that the ratio should be."""


SIDE_BY_SIDE = ((1, "--seed 1"), (1, "--seed 2"))
SUITES = {
    "mujoco": Suite(
        "run_mujoco",
        bare_hopper,
        60,
        10,
        {"one": ((1, ""),), "side by side": SIDE_BY_SIDE, "two ranks": ((2, ""),)},
        {
            "sb3-contrib": (SB3_HOPPER, EQUAL_TRPO),
            "SB3 PPO": (SB3_PPO.format(envs=1), f"{EQUAL_PPO} --num-envs 1"),
            "SB3 PPO of 16": (SB3_PPO.format(envs=16), EQUAL_PPO),
        },
        (
            ("one rank over raw environment", "one", "bare", 0.80),
            ("two ranks over two runs side by side", "two ranks", "side by side", 0.88),
            ("over sb3-contrib at its settings", "as sb3-contrib", "sb3-contrib", 1.5),
            ("PPO over SB3's at its settings", "as SB3 PPO", "SB3 PPO", 1.5),
            ("PPO over SB3's, 16 environments", "as SB3 PPO of 16", "SB3 PPO of 16", 1.5),
        ),
    ),
    "atari": Suite(
        "run_atari",
        bare_pong,
        6,
        2,
        {
            "one": ((1, ""),),
            "nature": ((1, "--cnn nature"),),
            "side by side": SIDE_BY_SIDE,
            "two ranks": ((2, ""),),
            "16 ranks": ((16, ""),),
        },
        {
            "sb3-contrib": (
                SB3_PONG,
                f"--num-envs 8 --timesteps-per-batch 512 --cnn nature {EQUAL_TRPO}",
            )
        },
        (
            ("small network over bare vector", "one", "bare", 0.20),
            ("Nature's network over bare vector", "nature", "bare", 0.10),
            ("two ranks over two runs side by side", "two ranks", "side by side", 0.93),
            ("16 ranks over two", "16 ranks", "two ranks", 0.50),
            ("over sb3-contrib at its settings", "as sb3-contrib", "sb3-contrib", 4.0),
        ),
    ),
}


def start_run(suite: Suite, prefix: list[str], flags: str, outdir: Path) -> subprocess.Popen[bytes]:
    """A training run in the background."""
    command = [*prefix, sys.executable, "-m", f"trpo_mpi.{suite.module}", *flags.split()]
    command += ["--max-iterations", str(suite.iterations), "--outdir", str(outdir)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def rate(outdir: Path, first: int) -> float:
    """Steps/s of a run, learning included, without its first iterations."""
    with open(outdir / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    begun, last = rows[first - 1], rows[-1]
    seconds = float(last["seconds"]) - float(begun["seconds"])
    return (int(last["timesteps"]) - int(begun["timesteps"])) / seconds


def trained(suite: Suite, *jobs: tuple[list[str], str]) -> float:
    """Total steps/s of runs started together, each (prefix, flags)."""
    with tempfile.TemporaryDirectory() as scratch:
        places = [Path(scratch) / str(i) for i in range(len(jobs))]
        runs = [start_run(suite, *job, place) for job, place in zip(jobs, places, strict=True)]
        if any([run.wait() for run in runs]):
            sys.exit("a training run failed")
        return sum(rate(place, suite.first) for place in places)


def one_round(suite: Suite, sb3_python: str | None) -> dict[str, float]:
    """Every rate once, in steps/s."""
    rates = {"bare": suite.bare()}
    mpirun = str(Path(sys.executable).parent / "mpirun")
    for name, jobs in suite.runs.items():
        prefixed = [([mpirun, "-np", str(n)] if n > 1 else [], flags) for n, flags in jobs]
        rates[name] = trained(suite, *prefixed)
        if name == "one":  # before and after: the speed of a shared machine may change in between
            rates["bare"] = (rates["bare"] + suite.bare()) / 2
    if sb3_python is not None:
        one_core = ["taskset", "-c", "0"]
        command = [*one_core, "env", "OMP_NUM_THREADS=1", sb3_python, "-W", "ignore"]
        for name, (script, flags) in suite.rivals.items():
            result = subprocess.run(
                [*command, "-c", script], capture_output=True, text=True, check=True
            )
            rates[name] = float(result.stdout.split()[-1])
            rates[f"as {name}"] = trained(suite, (one_core, flags))
    return rates


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=list(SUITES), default="mujoco")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sb3-python", help="an interpreter that has sb3-contrib")
    parser.add_argument("--output", type=Path, help="CSV file for the rates of each round")
    options = parser.parse_args()
    suite = SUITES[options.suite]
    rounds = []
    for number in range(options.rounds):
        rounds.append(one_round(suite, options.sb3_python))
        print(number, {name: round(value) for name, value in rounds[-1].items()}, flush=True)
        if options.output:
            with open(options.output, "w", newline="") as file:
                writer = csv.DictWriter(file, list(rounds[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows({k: f"{v:.1f}" for k, v in r.items()} for r in rounds)
    print(f"{'ratio':40}{'median':>8}{'lowest':>8}{'highest':>8}{'at least':>10}")
    for name, over, under, target in suite.ratios:
        if over in rounds[0]:
            ratios = [r[over] / r[under] for r in rounds]
            numbers = (np.median(ratios), min(ratios), max(ratios))
            print(f"{name:40}{''.join(f'{x:8.3f}' for x in numbers)}{target:10.2f}")


if __name__ == "__main__":
    main()
