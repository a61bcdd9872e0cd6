"""What a policy step on Atari costs, in forward passes of the network over the whole batch.

    python run/benchmark/policy_step.py [--cnn nature] [--rounds 5]

At the defaults of `run_atari`: gradient, conjugate gradient, line search and the exact sums among
them, on one rank; the step and the forward pass in turns. The table gives medians and the range.
"""

import argparse
import time
from dataclasses import replace

from trpo_mpi.parallel import startup

startup.limit_threads()

import gymnasium as gym
import numpy as np

from trpo_mpi import tensorflow_setup

tensorflow_setup.set_up("-1", 0)

from trpo_mpi.algorithms.policy_update import GradientKernels, PolicyBatch, Stage
from trpo_mpi.algorithms.trpo import Trpo
from trpo_mpi.config import AtariConfig
from trpo_mpi.grid import batch_grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.policy import Architecture

AT_MOST = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cnn", choices=["small", "nature"], default="small")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = replace(AtariConfig(), cnn=options.cnn)
    grid = batch_grid(config, 1)
    columns, steps = shape = (grid.num_envs, grid.horizon)
    image = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    policy = Architecture.of(config).make_policy(image, gym.spaces.Discrete(6))
    stream = np.random.default_rng(0)
    ones = np.ones(shape, np.float32)
    batch = PolicyBatch(
        stream.integers(0, 256, (*shape, policy.observation_size), np.uint8),
        0 * ones,
        np.zeros((*shape, 0), np.float32),
        stream.integers(0, 6, shape).astype(policy.distribution.action_type),
        stream.standard_normal(shape).astype(np.float32),
        ones,
        ones > 0,
    )
    trpo = Trpo(policy, config, grid, columns, steps)
    forward = GradientKernels(policy, columns, steps, 0.0)
    data = forward.data(batch)
    theta, comm = policy.initialise(stream), Communicator(None, columns)
    times: dict[str, list[float]] = {"step": [], "forward": []}
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        forward.old(theta, data)
        times["forward"].append(time.perf_counter() - start)
        start = time.perf_counter()
        trpo.step(theta, batch, comm, Stage(config.max_kl, 0.0, stream))
        times["step"].append(time.perf_counter() - start)
    pairs = list(zip(times["step"], times["forward"], strict=True))[1:]  # the first warms up
    ratios = [step / one for step, one in pairs]
    seconds = [float(np.median(x)) for x in zip(*pairs, strict=True)]
    print(f"policy step {seconds[0]:.2f} s, a forward pass {seconds[1]:.2f} s (medians)")
    low, mid, high = min(ratios), float(np.median(ratios)), max(ratios)
    print(f"forward passes a step: {mid:.1f}, {low:.1f} to {high:.1f} (at most {AT_MOST})")


if __name__ == "__main__":
    main()
