"""TRPO for Gymnasium environments, data-parallel over MPI ranks.

Importing the package loads neither TensorFlow nor MPI; the commands load them once their flags are
validated, and so does `TRPO.learn`::

    python -m trpo_mpi.run_mujoco --env Hopper-v4
    mpirun -np 16 python -m trpo_mpi.run_mujoco --env Hopper-v4

    from trpo_mpi import TRPO
    TRPO("MlpPolicy", "CartPole-v1").learn(25000).save("cartpole")

Where to begin reading: `trainer` is one iteration of training; it calls `rollout`, `advantages` and
`algorithms`, whose sums over ranks `parallel` takes. The commands are the modules that can be run;
`training_command` sets up what those that train have in common, `training_run` is their loop, and
`agent` has the same for Python. `run_directory` is what they leave behind.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trpo_mpi.agent import PPO, TRPO, evaluate_policy
    from trpo_mpi.envs.atari import make_atari
    from trpo_mpi.policies.own import register_network
    from trpo_mpi.policies.policy import (
        CnnLnLstmPolicy,
        CnnLstmPolicy,
        CnnPolicy,
        MlpLnLstmPolicy,
        MlpLstmPolicy,
        MlpPolicy,
    )

__version__ = "0.1.0"
__all__ = [
    "PPO",
    "TRPO",
    "CnnLnLstmPolicy",
    "CnnLstmPolicy",
    "CnnPolicy",
    "MlpLnLstmPolicy",
    "MlpLstmPolicy",
    "MlpPolicy",
    "evaluate_policy",
    "make_atari",
    "register_network",
]


def __getattr__(name: str) -> Any:
    """Import a public class or function on first use: `--help` must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trpo_mpi.parallel import startup

    startup.limit_threads()  # before NumPy is imported, if it is not yet
    functions = {"register_network": "policies.own", "make_atari": "envs.atari"}
    module = "policies.policy" if name.endswith("Policy") else functions.get(name, "agent")
    return getattr(importlib.import_module(f"trpo_mpi.{module}"), name)
