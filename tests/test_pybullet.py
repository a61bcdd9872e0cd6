"""PyBullet's environments, by `--env pybullet_envs_gymnasium:ID`."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run
from toy_training import toy_trainer

from trpo_mpi.envs.make import check_env, make_env
from trpo_mpi.errors import UsageError

PACKAGE = "pybullet_envs_gymnasium"
REGISTERED = [
    "InvertedPendulumBulletEnv-v0",
    "InvertedDoublePendulumBulletEnv-v0",
    "InvertedPendulumSwingupBulletEnv-v0",
    "ReacherBulletEnv-v0",
    "PusherBulletEnv-v0",
    "ThrowerBulletEnv-v0",
    "Walker2DBulletEnv-v0",
    "HalfCheetahBulletEnv-v0",
    "AntBulletEnv-v0",
    "HopperBulletEnv-v0",
    "HumanoidBulletEnv-v0",
    "HumanoidFlagrunBulletEnv-v0",
    "HumanoidFlagrunHarderBulletEnv-v0",
]
ABSENT = [
    "HumanoidDeepMimicBulletEnv-v1",
    "CartPoleBulletEnv-v1",
    "MinitaurBulletEnv-v0",
    "MinitaurBulletDuckEnv-v0",
    "RacecarBulletEnv-v0",
    "RacecarZedBulletEnv-v0",
    "KukaBulletEnv-v0",
    "KukaCamBulletEnv-v0",
    "StrikerBulletEnv-v0",
]

pytest.importorskip(PACKAGE)


@pytest.mark.parametrize(
    "name",
    [
        *REGISTERED[::6],
        *(pytest.param(x, marks=pytest.mark.long) for x in REGISTERED if x not in REGISTERED[::6]),
    ],
)
def test_two_iterations(name: str) -> None:
    check_env(f"{PACKAGE}:{name}")
    trainer = toy_trainer(lambda: make_env(f"{PACKAGE}:{name}"), num_envs=2, timesteps_per_batch=64)
    trainer.iterate()  # initialises the normalisers
    rows = [trainer.iterate().row for _ in range(2)]
    assert all(0 < row["kl"] <= 0.01 for row in rows)
    assert np.isfinite(trainer.theta).all()


def test_the_readmes_table_is_of_this_package() -> None:
    """All environments that it registers, and none of the others on Coady's page."""
    mine = {name for name, spec in gym.registry.items() if PACKAGE in str(spec.entry_point)}
    assert mine == set(REGISTERED)
    for name in ABSENT:
        with pytest.raises(UsageError, match="knows no environment of that name"):
            make_env(f"{PACKAGE}:{name}")


def test_two_ranks_begin_new_episodes_when_resumed(tmp_path: Path, mpirun: Run) -> None:
    """The physics server's state can't be read: that is said, and the run goes on."""
    command = f"-m trpo_mpi.run_mujoco --env {PACKAGE}:InvertedPendulumBulletEnv-v0 --num-envs 4"
    run = [*command.split(), "--timesteps-per-batch", "128", "--outdir", tmp_path / "run"]
    first = mpirun(2, *run, "--max-iterations", "2")
    assert first.returncode == 0, first.stderr
    assert "can't be saved" in first.stdout
    second = mpirun(2, *run, "--max-iterations", "4", "--resume", "auto")
    assert second.returncode == 0, second.stderr
    assert "note: 4 environments have started new episodes" in second.stdout
