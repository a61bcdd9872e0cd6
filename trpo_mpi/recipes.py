"""Settings that repeat older systems' experiments: the choices of `--recipe`.

A recipe keeps its source's batch, summed over all workers, and lays it out as a grid. `OF_ALL`
states in what all differ from their sources. Settings that a recipe does not name are the
command's defaults.
"""

from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from trpo_mpi.config import CONFIGS, Config, flag
from trpo_mpi.errors import UsageError

PLAIN: dict[str, Any] = {
    "final_max_kl": 1.0,
    "vf_final_stepsize": 1.0,
    "normalize_returns": False,
}
"""Turns off what this project adds: decaying settings and scaled rewards. Recipes whose source has
them turn them on again."""


OF_ALL = (
    "A recipe has its source's settings, but not its defects: time limits are told from "
    "terminations, all ranks share one normaliser, a line search's result is used. Networks begin "
    "with orthogonal matrices. Where observations or rewards are normalised, it is by this "
    "project's rule, and the first batch only initialises it. Settings that a recipe does not name "
    "are the command's defaults."
)


@dataclass(frozen=True)
class Recipe:
    """Settings with their source."""

    about: str
    source: str
    settings: dict[str, Any]
    differs: str = "nothing known"
    """Differences from the source, besides those of `OF_ALL`."""
    command: str = "run_mujoco"
    by_env: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings for single environments, by the prefix of their names."""


RECIPES = {
    "default": Recipe(
        "this project's own settings, one set for all environments of a command",
        "run/benchmark/README.md",
        {},
        command="",
    ),
    "baselines-mujoco": Recipe(
        "OpenAI Baselines' trpo_mpi on MuJoCo, as run on 1 process of 1024 steps",
        "github.com/openai/baselines, baselines/trpo_mpi/defaults.py",
        PLAIN
        | {
            "num_envs": 16,
            "timesteps_per_batch": 1024,
            "net_arch": (32, 32),
            "max_kl": 0.01,
            "cg_iters": 10,
            "cg_damping": 0.1,
            "fisher_fraction": 0.2,
            "line_search_shrink": 0.5,
            "gamma": 0.99,
            "lam": 0.98,
            "vf_iters": 5,
            "vf_batch": 64,
            "vf_stepsize": 1e-3,
        },
        "a step's KL may not exceed its limit, in the source it may by half; 16 environments "
        "of 64 steps replace one of 1024; rewards are not scaled, as they are in later versions",
    ),
    "baselines-atari": Recipe(
        "OpenAI Baselines' trpo_mpi on Atari, as run on 16 processes of 512 steps",
        "github.com/openai/baselines, baselines/trpo_mpi/defaults.py",
        PLAIN
        | {
            "num_envs": 16,
            "timesteps_per_batch": 16 * 512,
            "cnn": "small",
            "frame_stack": 1,
            "max_kl": 1e-3,
            "cg_iters": 10,
            "cg_damping": 1e-3,
            "fisher_fraction": 0.2,
            "line_search_shrink": 0.5,
            "gamma": 0.98,
            "lam": 1.0,
            "vf_iters": 3,
            "vf_batch": 16 * 64,
            "vf_stepsize": 1e-4,
        },
        "a step's KL may not exceed its limit, in the source it may by half; the critic's "
        "minibatches are of 64 steps per process in the source; the network has twice the filters "
        "and units",
        "run_atari",
    ),
    "stable-baselines": Recipe(
        "the defaults of Stable-Baselines' TRPO class",
        "stable-baselines.readthedocs.io/en/master/modules/trpo.html",
        PLAIN
        | {
            "num_envs": 16,
            "timesteps_per_batch": 1024,
            "max_kl": 0.01,
            "cg_iters": 10,
            "cg_damping": 1e-2,
            "fisher_fraction": 0.2,
            "line_search_shrink": 0.5,
            "gamma": 0.99,
            "lam": 0.98,
            "vf_iters": 3,
            "vf_batch": 128,
            "vf_stepsize": 3e-4,
            "normalize_observations": False,
        },
        "a step's KL may not exceed its limit, in the source it may by half; 16 environments "
        "of 64 steps replace one of 1024",
    ),
    "chainerrl": Recipe(
        "ChainerRL's TRPO with the settings of Henderson et al. 2018, Deep RL that Matters",
        "github.com/chainer/chainerrl, examples/mujoco/reproduction/trpo",
        PLAIN
        | {
            "num_timesteps": 2_000_000,
            "num_envs": 20,
            "timesteps_per_batch": 5000,
            "max_kl": 0.01,
            "cg_iters": 20,
            "cg_damping": 0.1,
            "fisher_fraction": 1.0,
            "line_search_steps": 11,
            "line_search_shrink": 0.5,
            "gamma": 0.995,
            "lam": 0.97,
            "vf_iters": 5,
            "vf_batch": 60,
            "vf_stepsize": 1e-3,
            "eval_episodes": 100,
        },
        "20 environments of 250 steps replace one of 5000; the source's critic has minibatches of "
        "64 steps, which 20 do not divide; the source treats time limits as terminations, and "
        "evaluates every 100000 steps, as --eval-every 20 does",
    ),
    "parallel-trpo": Recipe(
        "kvfrans' parallel-trpo; --adapt kl adds its rule",
        "github.com/kvfrans/parallel-trpo",
        PLAIN
        | {
            "num_timesteps": 6_000_000,
            "num_envs": 20,
            "timesteps_per_batch": 10_000,
            "activation": "relu",
            "max_kl": 1e-3,
            "cg_iters": 10,
            "cg_damping": 1e-3,
            "fisher_fraction": 1.0,
            "gamma": 0.99,
            "lam": 1.0,
            "vf_batch": 500,
        },
        "the critic is a network and not linear; batches are of time steps and not of whole "
        "episodes; the line search's result is used, and its steps shrink to 0.8, in the source to "
        "half",
    ),
    "coady": Recipe(
        "Patrick Coady's TRPO with GAE, which is an adaptive KL penalty",
        "github.com/pat-coady/trpo",
        PLAIN
        | {
            "algo": "kl-penalty",
            "episodes_per_batch": 20,
            "size_multiple": 10,
            "time_feature": True,
            "init_logstd": -0.5,
            "reward_scale": 0.005,
            "max_kl": 0.003,
            "policy_iters": 20,
            "gamma": 0.995,
            "lam": 0.98,
            "vf_iters": 10,
            "vf_batch": 256,
            "vf_stepsize": 2e-3,
            "vf_two_batches": True,
        },
        "the first batch initialises the scaler, in the source five episodes do; observations are "
        "divided by their standard deviation, in the source by three times that; each action has "
        "one log-variance parameter, in the source the sum of many, which learns faster; the "
        "critic's step size in the source is 0.01 over the square root of the units of its middle "
        "layer, 2e-3 for Hopper, and its targets are sums of rewards, here TD(lambda); the scale "
        "of rewards is 1 - gamma for this gamma only; time is a fraction of the limit, in the "
        "source in thousands, and not normalised; an episode that a time limit ends is "
        "bootstrapped from the critic",
        by_env={
            "Reacher": {"episodes_per_batch": 50},
            "Swimmer": {"episodes_per_batch": 5},
            "HalfCheetah": {"episodes_per_batch": 5},
            "HumanoidStandup": {"episodes_per_batch": 5},
        },
    ),
    "parl-ppo-mujoco": Recipe(
        "PARL's PPO on MuJoCo",
        "github.com/PaddlePaddle/PARL, examples/PPO",
        PLAIN
        | {
            "algo": "ppo",
            "num_timesteps": 10_000_000,
            "num_envs": 16,
            "timesteps_per_batch": 2048,
            "policy_iters": 10,
            "policy_batch": 64,
            "policy_stepsize": 3e-4,
            "clip_range": 0.2,
            "gamma": 0.99,
            "lam": 0.95,
            "policy_final_stepsize": 0.01,
            "vf_iters": 10,
            "vf_batch": 64,
            "vf_stepsize": 3e-4,
            "vf_final_stepsize": 0.01,
            "vf_clip": 0.2,
            "normalize_returns": True,
        },
        "policy and critic share no layer, only the policy's gradient is clipped, and Adam's "
        "epsilon is 1e-8, in the source 1e-5; scaled rewards are not clipped to 10; advantages "
        "are normalised over the batch, in the source over minibatches; step sizes decay to 0.01 "
        "of their initial values, in the source to 0; 16 environments of 128 steps replace one of "
        "2048",
    ),
    "parl-ppo-atari": Recipe(
        "PARL's PPO on Atari",
        "github.com/PaddlePaddle/PARL, examples/PPO",
        PLAIN
        | {
            "algo": "ppo",
            "num_envs": 8,
            "timesteps_per_batch": 1024,
            "cnn": "nature",
            "policy_iters": 4,
            "policy_batch": 256,
            "policy_stepsize": 2.5e-4,
            "clip_range": 0.1,
            "entcoeff": 0.01,
            "gamma": 0.99,
            "lam": 0.95,
            "policy_final_stepsize": 0.01,
            "vf_coef": 0.5,
            "vf_clip": 0.1,
        },
        "advantages are normalised over the batch, in the source over minibatches; the step size "
        "decays to 0.01 of its initial value, in the source to 0",
        "run_atari",
    ),
}


def listing() -> str:
    """All recipes, as text."""
    paragraphs = []
    for name, recipe in RECIPES.items():
        parts = {"from": recipe.source}
        if recipe.settings:
            parts["for"] = recipe.command
            parts["settings"] = _flags(recipe.settings)
            if recipe.by_env:
                own = (f"{env}: {_flags(more)}" for env, more in recipe.by_env.items())
                parts["but"] = "; ".join(own)
            parts["differs"] = recipe.differs
        words = [f"{name}: {recipe.about}"]
        for title, text in parts.items():
            # A flag stays with its value.
            lines = wrap(text, 86, break_long_words=False, break_on_hyphens=False)
            words += [f"    {title if not i else '':10}{line}" for i, line in enumerate(lines)]
        paragraphs.append("\n".join(words).replace("\u00a0", " "))
    return "\n\n".join([*paragraphs, "\n".join(wrap(OF_ALL, 100))])


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(_flag(key, x) for key, x in settings.items())


def _flag(name: str, value: Any) -> str:
    """A setting as on the command line, with non-breaking spaces."""
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    values = value if isinstance(value, tuple) else (value,)
    return "\u00a0".join([flag(name), *map(str, values)])


def config_of(name: str, command: str, env: str = "") -> Config:
    """The settings of a recipe, for `env`. Raises `UsageError` if it is for another command."""
    recipe = RECIPES[name]
    if recipe.command not in ("", command):
        fitting = ", ".join(n for n, r in RECIPES.items() if r.command in ("", command))
        raise UsageError(f"--recipe {name} is for {recipe.command}; {command} has {fitting}")
    settings: dict[str, Any] = {"recipe": name} | recipe.settings
    for start, more in recipe.by_env.items():
        if env.rpartition(":")[2].startswith(start):
            settings |= more
    return CONFIGS[command](**settings)
