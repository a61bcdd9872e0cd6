"""Published scores, drawn beside learning curves by `--reference NAME`.

Most were measured on -v1 to -v3 of the MuJoCo environments and are listed here under -v4, which
computes the same; Ant and Humanoid changed with their versions, and have only scores from -v4.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A row of a published table."""

    label: str
    """Label in the figure's legend."""
    source: str
    """What its scores are, and where they were published."""
    scores: dict[str, float]
    """Environment -> mean return."""


REFERENCES = {
    "baselines": Reference(
        "OpenAI Baselines TRPO, 1M",
        "training return near 1M steps, 6 seeds: openai/baselines, benchmarks_mujoco1M.htm, "
        "trpo_mpi (commit ea68f3b)",
        {
            "HalfCheetah-v4": 1289.7,
            "Hopper-v4": 1912.9,
            "InvertedDoublePendulum-v4": 6731.6,
            "InvertedPendulum-v4": 905.1,
            "Reacher-v4": -4.82,
            "Swimmer-v4": 94.96,
            "Walker2d-v4": 2342.6,
        },
    ),
    "baselines-ppo2": Reference(
        "OpenAI Baselines PPO2, 1M",
        "training return near 1M steps, 6 seeds: openai/baselines, benchmarks_mujoco1M.htm, ppo2",
        {
            "HalfCheetah-v4": 1668.6,
            "Hopper-v4": 2316.2,
            "InvertedDoublePendulum-v4": 7102.9,
            "InvertedPendulum-v4": 809.4,
            "Reacher-v4": -6.71,
            "Swimmer-v4": 111.2,
            "Walker2d-v4": 3425.0,
        },
    ),
    "baselines-atari": Reference(
        "OpenAI Baselines TRPO, mean over 10M",
        "training return, by its curves a mean over all of the 10M steps, 6 runs: "
        "openai/baselines, benchmarks_atari10M.htm, trpo_mpi (commit 7bfbcf1)",
        {
            "BeamRiderNoFrameskip-v4": 683.1,
            "BreakoutNoFrameskip-v4": 15.0,
            "EnduroNoFrameskip-v4": 24.8,
            "PongNoFrameskip-v4": 2.82,
            "QbertNoFrameskip-v4": 2486.0,
            "SeaquestNoFrameskip-v4": 710.0,
            "SpaceInvadersNoFrameskip-v4": 457.7,
        },
    ),
    "trpo-paper": Reference(
        "Schulman et al. 2015, single path",
        "one run a game: Trust region policy optimization, table 1",
        {
            "BeamRiderNoFrameskip-v4": 1425.2,
            "BreakoutNoFrameskip-v4": 10.8,
            "EnduroNoFrameskip-v4": 534.6,
            "PongNoFrameskip-v4": 20.9,
            "QbertNoFrameskip-v4": 1973.5,
            "SeaquestNoFrameskip-v4": 1908.6,
            "SpaceInvadersNoFrameskip-v4": 568.4,
        },
    ),
    "henderson": Reference(
        "Deep RL that Matters TRPO, 2M",
        "bootstrap mean, 5 seeds, 2M steps: Henderson et al. 2018, table 3",
        {"HalfCheetah-v4": 1255, "Hopper-v4": 2965, "Swimmer-v4": 214, "Walker2d-v4": 3072},
    ),
    "chainerrl": Reference(
        "ChainerRL TRPO, 2M",
        "100 stochastic evaluation episodes, 20 seeds, 2M steps: chainer/chainerrl, "
        "examples/mujoco/reproduction/trpo",
        {"HalfCheetah-v4": 1474, "Hopper-v4": 3056, "Swimmer-v4": 200, "Walker2d-v4": 3073},
    ),
    "pfrl": Reference(
        "PFRL TRPO, 2M",
        "100 stochastic evaluation episodes, 20 seeds, 2M steps: pfnet/pfrl, "
        "examples/mujoco/reproduction/trpo",
        {"HalfCheetah-v4": 1561, "Hopper-v4": 3038, "Swimmer-v4": 197, "Walker2d-v4": 3260},
    ),
    "tianshou": Reference(
        "Tianshou TRPO, best within 1M",
        "best of a run's deterministic evaluations, 10 seeds: thu-ml/tianshou, "
        "examples/mujoco/README.md",
        {
            "HalfCheetah-v4": 4471.2,
            "Hopper-v4": 2046.0,
            "InvertedDoublePendulum-v4": 8435.2,
            "InvertedPendulum-v4": 1000.0,
            "Reacher-v4": -5.1,
            "Swimmer-v4": 40.9,
            "Walker2d-v4": 3826.7,
        },
    ),
    "sb3-contrib": Reference(
        "sb3-contrib TRPO, 1M",
        "deterministic evaluation, 3 seeds, tuned (Swimmer with gamma 0.9999): "
        "Stable-Baselines-Team/stable-baselines3-contrib, docs of TRPO",
        {"HalfCheetah-v4": 1803, "Hopper-v4": 3372, "Swimmer-v4": 359, "Walker2d-v4": 4502},
    ),
    "rl-zoo": Reference(
        "RL Zoo TRPO (tuned, 1 run)",
        "deterministic evaluation of one tuned run: DLR-RM/rl-baselines3-zoo, benchmark.md",
        {
            "Acrobot-v1": -83.1,
            "BipedalWalker-v3": 182,
            "CartPole-v1": 500,
            "HalfCheetah-v4": 1785,
            "Hopper-v4": 3618,
            "MountainCar-v0": -107,
            "MountainCarContinuous-v0": 92.5,
            "Pendulum-v1": -175,
            "Swimmer-v4": 366,
            "Walker2d-v4": 4933,
        },
    ),
    "cleanrl-ppo": Reference(
        "CleanRL PPO, 1M",
        "3 seeds, 1M steps: vwxyzjn/cleanrl, docs of ppo_continuous_action",
        {
            "HalfCheetah-v4": 1443,
            "Hopper-v4": 2383,
            "Humanoid-v4": 716,
            "InvertedPendulum-v4": 963,
            "Walker2d-v4": 2288,
        },
    ),
    "cleanrl-ppo-atari": Reference(
        "CleanRL PPO, 10M",
        "3 seeds, 10M steps: vwxyzjn/cleanrl, docs of ppo_atari",
        {
            "BeamRiderNoFrameskip-v4": 1916,
            "BreakoutNoFrameskip-v4": 414.7,
            "PongNoFrameskip-v4": 20.36,
        },
    ),
}
