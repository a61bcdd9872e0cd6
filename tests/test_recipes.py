"""Recipes: complete, in range, refused where they do not belong, overridden by flags."""

import json
import typing
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from trpo_mpi.command_line import training_settings
from trpo_mpi.config import CONFIGS, Config, Recipes
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import batch_grid
from trpo_mpi.recipes import RECIPES, config_of, listing


def commands(name: str) -> list[str]:
    return [RECIPES[name].command] if RECIPES[name].command else list(CONFIGS)


def test_the_flag_takes_all_that_there_are() -> None:
    assert list(typing.get_args(Recipes)) == list(RECIPES)


@pytest.mark.parametrize("name", list(RECIPES))
def test_each_is_in_range_and_its_batch_is_a_grid(name: str) -> None:
    for command in commands(name):
        config = config_of(name, command)
        config.validate()
        assert config.recipe == name
        grid = batch_grid(config, 1)
        for setting, value in RECIPES[name].settings.items():
            assert getattr(config, setting) == value
        if "timesteps_per_batch" in RECIPES[name].settings:
            assert grid.timesteps == RECIPES[name].settings["timesteps_per_batch"]
            assert config.vf_batch % grid.num_envs == 0


def test_the_sources_batches_are_kept() -> None:
    sizes = {
        name: (batch_grid(config_of(name, command), 1))
        for name in RECIPES
        for command in commands(name)[:1]
    }
    shapes = {name: (grid.num_envs, grid.horizon) for name, grid in sizes.items()}
    assert shapes["chainerrl"] == (20, 250)
    assert shapes["baselines-mujoco"] == (16, 64)
    assert shapes["baselines-atari"] == (16, 512)
    assert shapes["parl-ppo-mujoco"] == (16, 128)
    assert shapes["parl-ppo-atari"] == (8, 128)


OF_BASELINES = {
    "max_kl": 0.01,
    "cg_iters": 10,
    "cg_damping": 0.1,
    "fisher_fraction": 0.2,
    "line_search_steps": 10,
    "line_search_shrink": 0.5,
    "gamma": 0.99,
    "lam": 0.98,
    "entcoeff": 0.0,
    "activation": "tanh",
}
OF_PPO = {"algo": "ppo", "activation": "tanh"}
SOURCES: dict[str, dict[str, Any]] = {
    "baselines-mujoco": OF_BASELINES
    | {
        "net_arch": (32, 32),
        "timesteps_per_batch": 1024,
        "vf_iters": 5,
        "vf_batch": 64,
        "vf_stepsize": 0.001,
        "normalize_observations": True,
    },
    "baselines-atari": OF_BASELINES
    | {
        "cnn": "small",
        "timesteps_per_batch": 8192,
        "max_kl": 0.001,
        "cg_damping": 0.001,
        "gamma": 0.98,
        "lam": 1.0,
        "vf_iters": 3,
        "vf_stepsize": 0.0001,
    },
    "stable-baselines": OF_BASELINES
    | {
        "net_arch": (64, 64),
        "timesteps_per_batch": 1024,
        "cg_damping": 0.01,
        "vf_iters": 3,
        "vf_batch": 128,
        "vf_stepsize": 0.0003,
        "normalize_observations": False,
    },
    "chainerrl": {
        "net_arch": (64, 64),
        "activation": "tanh",
        "num_timesteps": 2_000_000,
        "timesteps_per_batch": 5000,
        "max_kl": 0.01,
        "cg_iters": 20,
        "cg_damping": 0.1,
        "fisher_fraction": 1.0,
        "line_search_steps": 11,
        "line_search_shrink": 0.5,
        "gamma": 0.995,
        "lam": 0.97,
        "entcoeff": 0.0,
        "vf_iters": 5,
        "vf_stepsize": 0.001,
        "eval_episodes": 100,
        "eval_deterministic": False,
    },
    "parallel-trpo": {
        "net_arch": (64, 64),
        "activation": "relu",
        "num_timesteps": 6_000_000,
        "timesteps_per_batch": 10_000,
        "max_kl": 0.001,
        "cg_iters": 10,
        "cg_damping": 0.001,
        "fisher_fraction": 1.0,
        "gamma": 0.99,
        "lam": 1.0,
        "adapt": "none",
    },
    "coady": {
        "algo": "kl-penalty",
        "activation": "tanh",
        "size_multiple": 10,
        "time_feature": True,
        "reward_scale": 0.005,
        "init_logstd": -1.0 / 2,
        "episodes_per_batch": 20,
        "max_kl": 0.003,
        "policy_iters": 20,
        "gamma": 0.995,
        "lam": 0.98,
        "vf_iters": 10,
        "vf_two_batches": True,
    },
    "parl-ppo-mujoco": OF_PPO
    | {
        "num_timesteps": 10_000_000,
        "net_arch": (64, 64),
        "policy_iters": 10,
        "policy_batch": 2048 // 32,
        "policy_stepsize": 0.0003,
        "clip_range": 0.2,
        "vf_iters": 10,
        "vf_batch": 2048 // 32,
        "vf_stepsize": 0.0003,
        "normalize_observations": True,
        "normalize_returns": True,
    },
    "parl-ppo-atari": OF_PPO
    | {
        "policy_iters": 4,
        "policy_batch": 8 * 128 // 4,
        "policy_stepsize": 0.00025,
        "clip_range": 0.1,
        "entcoeff": 0.01,
        "vf_coef": 0.5,
    },
}
"""What the sources' code and papers say."""


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "default"])
def test_numbers_are_those_of_the_source(name: str) -> None:
    """And nothing decays or is scaled that is not there, but by PARL."""
    config = config_of(name, RECIPES[name].command)
    numbers = {setting: getattr(config, setting) for setting in SOURCES[name]}
    assert numbers == SOURCES[name]
    if config.algo != "ppo":
        assert config.final_max_kl == config.vf_final_stepsize == 1
        assert not config.normalize_returns
    else:
        assert config.policy_final_stepsize == 0.01
        assert config.shared_vf_coef or config.vf_final_stepsize == 0.01
        assert config.final_clip_range == 1


@pytest.mark.parametrize(
    ("env", "episodes"),
    [
        ("Reacher-v4", 50),
        ("Swimmer-v4", 5),
        ("HalfCheetah-v4", 5),
        ("HumanoidStandup-v4", 5),
        ("Humanoid-v4", 20),
        ("Hopper-v4", 20),
        ("pybullet_envs_gymnasium:HalfCheetahBulletEnv-v0", 5),
    ],
)
def test_coadys_batch_depends_on_the_environment(env: str, episodes: int) -> None:
    config = training_settings("run_mujoco", ["--recipe", "coady", "--env", env])
    assert config.episodes_per_batch == episodes


def test_default_changes_nothing() -> None:
    assert config_of("default", "run_mujoco") == Config()


def test_one_of_the_other_command_is_refused() -> None:
    with pytest.raises(UsageError, match=r"parl-ppo-atari is for run_atari; run_mujoco has"):
        config_of("parl-ppo-atari", "run_mujoco")


def test_listing_names_each_with_its_source() -> None:
    text = listing()
    for name, recipe in RECIPES.items():
        assert f"{name}: {recipe.about}" in text
        assert recipe.source in text


@pytest.mark.parametrize(
    ("words", "unset", "given"),
    [
        ("coady --timesteps-per-batch 2048", "episodes_per_batch", ("timesteps_per_batch", 2048)),
        ("coady --net_arch 64 64", "size_multiple", ("net_arch", (64, 64))),
        ("chainerrl --episodes-per-batch=20", "timesteps_per_batch", ("episodes_per_batch", 20)),
    ],
)
def test_a_flag_takes_the_place_of_its_alternative(
    words: str, unset: str, given: tuple[str, Any]
) -> None:
    config = training_settings("run_mujoco", ["--recipe", *words.split()])
    assert getattr(config, unset) is None
    assert getattr(config, given[0]) == given[1]
    assert getattr(config_of(config.recipe, "run_mujoco"), unset) is not None


def test_two_alternatives_are_refused() -> None:
    flags = ["--net-arch", "8", "8", "--size-multiple", "3"]
    with pytest.raises(UsageError, match="--net-arch 8 8 and --size-multiple 3: set only one"):
        training_settings("run_mujoco", flags)


def test_flags_override_a_recipe(python: Run, tmp_path: Path) -> None:
    """And without a value `--recipe` lists them."""
    flags = ["--recipe", "chainerrl", "--env", "CartPole-v1", "--lam", "0.9"]
    result = python("-m", "trpo_mpi.run_mujoco", *flags, "--max-iterations", 2)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "CartPole-v1-chainerrl-s0"
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["lam"] == 0.9
    assert settings["cg_iters"] == 20
    assert settings["timesteps_per_batch"] == 5000
    for alone in (["--recipe"], ["--recipe", "--seed", "1"]):
        listed = python("-m", "trpo_mpi.run_mujoco", *alone)
        assert (listed.returncode, listed.stdout) == (0, listing() + "\n")
    unknown = python("-m", "trpo_mpi.run_mujoco", "--recipe", "chainer")
    assert unknown.returncode == 2
    assert "chainerrl" in unknown.stderr
    assert len(unknown.stderr.splitlines()) == 1
