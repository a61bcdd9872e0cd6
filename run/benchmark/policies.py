"""What policies cost: `predict` on one observation, and a Fisher-vector product through time.

    python run/benchmark/policies.py --rounds 5 --sb3-python PYTHON

`predict` is timed in turns with sb3-contrib's, run by PYTHON: TRPO's MLP and Nature CNN, and
RecurrentPPO's LSTM. A recurrent Fisher-vector product is compared with the gradient of the same
batch, 16 x 128 time steps, which is one pass forward and one backward. All on one core.
"""

import argparse
import subprocess
import sys

import numpy as np

TIMED = """
import time
import numpy as np, gymnasium as gym
class Frames(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Discrete(6)
    def reset(self, seed=None, options=None):
        return self.observation_space.sample(), {}
    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}
def microseconds(function, calls):
    for _ in range(20):
        function()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return np.median(times) * 1e6
def show(name, model, observation):
    print(name, microseconds(lambda: model.predict(observation), 100), flush=True)
numbers, picture = np.zeros(11, np.float32), np.zeros((84, 84, 4), np.uint8)
"""
OURS = """
from trpo_mpi import TRPO
def make(policy, env, **more):
    return TRPO(policy, env, timesteps_per_batch=16, num_envs=2, **more).learn(16)
"""
OURS += TIMED
OURS += """
show("MLP", make("MlpPolicy", "Hopper-v4"), numbers)
show("LSTM", make("MlpLstmPolicy", "Hopper-v4"), numbers)
show("CNN", make("CnnPolicy", Frames, cnn="nature"), picture)

from trpo_mpi.algorithms.policy_update import PolicyBatch
from trpo_mpi.algorithms.trpo import TrpoKernels
from trpo_mpi.policies.policy import Architecture
box = gym.spaces.Box(-1, 1, (11,)), gym.spaces.Box(-1, 1, (3,))
policy = Architecture("MlpLstmPolicy").make_policy(*box)
theta = policy.initialise(np.random.default_rng(0))
numbers = np.zeros((16, 128), np.float32)
seen = np.zeros((16, 128, 11), np.float32), numbers
states, actions = (np.zeros((16, 128, n), np.float32) for n in (policy.state_size, 3))
batch = PolicyBatch(*seen, states, actions, numbers, numbers + 1, numbers == 0)
kernels = TrpoKernels(policy, 16, 128, 128, 0.0)
data, fisher_data = kernels.data(batch), kernels.fisher_data(theta, batch, np.arange(128))
print("gradient", microseconds(lambda: kernels.gradient(theta, data), 20))
print("product", microseconds(lambda: kernels.fisher_product(theta, theta, fisher_data), 20))
"""
THEIRS = """
import torch
torch.set_num_threads(1)
from sb3_contrib import TRPO, RecurrentPPO
"""
THEIRS += TIMED
THEIRS += """
show("MLP", TRPO("MlpPolicy", "Hopper-v4", device="cpu"), numbers)
show("LSTM", RecurrentPPO("MlpLstmPolicy", "Hopper-v4", device="cpu"), numbers)
show("CNN", TRPO("CnnPolicy", Frames(), device="cpu"), picture.transpose(2, 0, 1))
"""


def measured(python: str, code: str) -> dict[str, float]:
    """The numbers that a script prints, by name."""
    command = ["taskset", "-c", "0", "env", "OMP_NUM_THREADS=1", python, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in result.stdout.splitlines()]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sb3-python", required=True, help="an interpreter that has sb3-contrib")
    options = parser.parse_args()
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(measured(sys.executable, OURS))
        theirs.append(measured(options.sb3_python, THEIRS))
    print(f"{'ratio':40}{'median':>8}{'lowest':>8}{'highest':>8}{'at most':>10}")
    for name in theirs[0]:
        ratios = [a[name] / b[name] for a, b in zip(ours, theirs, strict=True)]
        show(f"predict, {name}, over sb3-contrib's", ratios, 2.0)
    products = [a["product"] / a["gradient"] for a in ours]
    show("recurrent Fisher product over gradient", products, 3.0)


def show(name: str, ratios: list[float], target: float) -> None:
    """Print a row of the table."""
    numbers = (np.median(ratios), min(ratios), max(ratios))
    print(f"{name:40}{''.join(f'{x:8.3f}' for x in numbers)}{target:10.1f}")


if __name__ == "__main__":
    main()
