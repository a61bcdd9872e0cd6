"""Settings: their ranges, and the batch as a grid."""

import dataclasses
import typing
from typing import Any

import pytest

from trpo_mpi.config import CONFIGS, AtariConfig, Config
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import Grid, batch_grid


def test_defaults_are_in_their_ranges() -> None:
    Config().validate()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_timesteps", 0, "a whole number from 1 to"),
        ("seed", -1, "a whole number from 0 to"),
        ("seed", 10**400, "a whole number from 0 to"),
        ("net_arch", (64, 0), "a whole number from 1 to"),
        ("num_envs", 0, "a whole number from 1 to"),
        ("timesteps_per_batch", -2048, "a whole number from 1 to"),
        ("max_kl", 0.0, "a number above 0"),
        ("max_kl", float("inf"), "a number above 0"),
        ("cg_iters", 0, "a whole number from 1 to"),
        ("cg_damping", -0.1, "a number of 0 or more"),
        ("cg_damping", float("nan"), "a number of 0 or more"),
        ("fisher_fraction", 0.0, "a number above 0 and up to 1"),
        ("fisher_fraction", 1.01, "a number above 0 and up to 1"),
        ("line_search_shrink", 1.0, "a number above 0 and below 1"),
        ("gamma", 1.01, "a number from 0 to 1"),
        ("lam", -0.01, "a number from 0 to 1"),
        ("entcoeff", -1e-9, "a number of 0 or more"),
        ("vf_iters", -1, "a whole number from 0 to"),
        ("vf_batch", 0, "a whole number from 1 to"),
        ("vf_stepsize", 0.0, "a number above 0"),
        ("vf_final_stepsize", 2.0, "a number above 0 and up to 1"),
        ("max_iterations", 0, "a whole number from 1 to"),
        ("max_episodes", 0, "a whole number from 1 to"),
        ("env_timeout", 0.5, "a number from 1 to 10^9"),
        ("stop_return", float("nan"), "a finite number"),
        ("stop_return", "10", "a finite number"),
        ("init_logstd", float("inf"), "a number from -20 to 20"),
        ("init_logstd", 100.0, "a number from -20 to 20"),
        ("net_arch", 64, "a list"),
        ("policy_iters", 2.5, "a whole number from 1 to"),
        ("timesteps_per_batch", 2048.0, "a whole number from 1 to"),
        ("vf_iters", True, "a whole number from 0 to"),
        ("vf_iters", None, "a whole number from 0 to"),
        ("gamma", "0.9", "a number from 0 to 1"),
        ("max_kl", 10**400, "a number above 0"),
        ("normalize_returns", "no", "True or False"),
        ("drift_check_every", -1, "a whole number from 0 to"),
        ("frame_stack", 101, "a whole number from 1 to 100"),
        ("max_frames", 2**31, "a whole number from 1 to 10^9"),
        ("gpu", "none", "-1, auto or a device's number"),
        ("gpu", "-2", "-1, auto or a device's number"),
    ],
)
def test_out_of_range_is_refused_by_flag_value_and_range(name: str, value: Any, words: str) -> None:
    kind = Config if hasattr(Config, name) else AtariConfig
    with pytest.raises(UsageError) as refusal:
        kind(**{name: value}).validate()
    text = str(refusal.value)
    assert text.startswith("--" + name.replace("_", "-"))
    assert str(value[-1] if isinstance(value, tuple) else value)[:37] in text
    assert f"it must be {words}" in text
    assert len(text) < 120


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"outdir": ""}, "--outdir is empty"),
        ({"resume": ""}, "--resume is empty"),
        ({"load": ""}, "--load is empty"),
        ({"resume": "a", "outdir": "b"}, "--resume a continues in that directory"),
        ({"which": "best"}, "--which best is of --load"),
    ],
)
def test_directories_that_make_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Config(**settings).validate()
    Config(resume="a", outdir="./a").validate()


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.0, "lam": 1.0, "fisher_fraction": 1.0, "cg_damping": 0.0, "vf_iters": 0},
        {"gamma": 1.0, "lam": 0.0, "num_timesteps": 1, "entcoeff": 0.0, "drift_check_every": 0},
        {"net_arch": (), "stop_return": -1e9, "gpu": "auto", "seed": 0},
        {"gpu": "3", "num_envs": None, "stop_return": None},
    ],
    ids=str,
)
def test_the_edges_of_the_ranges_are_allowed(settings: dict[str, Any]) -> None:
    Config(**settings).validate()


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_every_number_has_a_range(kind: type[Config]) -> None:
    """Except flags."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: repr(hints[field.name]) for field in dataclasses.fields(kind)}
    free = [
        name
        for name, hint in fields.items()
        if ("int" in hint or "float" in hint) and "Range" not in hint
    ]
    assert not free


@pytest.mark.parametrize(
    ("settings", "given", "idle"),
    [
        ({}, "max_kl gamma clip_range policy_iters", "clip_range policy_iters"),
        ({"algo": "npg"}, "max_kl cg_iters line_search_steps", "line_search_steps"),
        ({"algo": "ppo"}, "clip_range vf_coef vf_iters max_kl cg_iters", "max_kl cg_iters"),
        ({"algo": "ppo", "vf_coef": 0.5}, "vf_iters vf_clip", "vf_iters"),
        ({"algo": "kl-penalty"}, "max_kl policy_iters policy_batch", "policy_batch"),
        ({"adapt": "kl"}, "adapt max_kl final_max_kl", "final_max_kl"),
        ({"policy": "CnnPolicy"}, "cnn net_arch lstm_units", "net_arch lstm_units"),
        ({"policy": "MlpLstmPolicy"}, "cnn net_arch lstm_units", "cnn"),
        ({"network": "m:f"}, "activation", "activation"),
        ({"load": "x"}, "init_logstd seed", "init_logstd"),
    ],
)
def test_settings_without_effect(settings: dict[str, Any], given: str, idle: str) -> None:
    assert Config(**settings).unused(given.split()) == idle.split()


@pytest.mark.parametrize(
    ("envs", "batch", "ranks", "expected"),
    [
        (None, None, 1, Grid(16, 128)),
        (None, None, 16, Grid(16, 128)),
        (None, None, 3, Grid(16, 128)),
        (None, None, 17, Grid(17, 120)),  # 2040: 2048 is no multiple, 2057 is farther
        (None, None, 48, Grid(48, 43)),  # 2064; 2016 is farther
        (None, None, 4096, Grid(4096, 1)),
        (7, None, 2, Grid(7, 293)),  # 2051; 2044 is farther
        (7, 700, 7, Grid(7, 100)),
        (None, 160, 4, Grid(16, 10)),
    ],
)
def test_grid(envs: int | None, batch: int | None, ranks: int, expected: Grid) -> None:
    grid = batch_grid(Config(num_envs=envs, timesteps_per_batch=batch), ranks)
    assert grid == expected
    assert grid.timesteps == expected.num_envs * expected.horizon


@pytest.mark.parametrize(
    ("envs", "batch", "advice"),
    [(7, 2048, "use 2044 or 2051"), (16, 10, "use 16"), (10, 101, "use 100 or 110")],
)
def test_a_batch_that_does_not_divide_names_the_nearest(envs: int, batch: int, advice: str) -> None:
    with pytest.raises(UsageError) as refusal:
        batch_grid(Config(num_envs=envs, timesteps_per_batch=batch), 1)
    assert str(refusal.value).endswith(advice)
    for number in advice.removeprefix("use ").split(" or "):
        batch_grid(Config(num_envs=envs, timesteps_per_batch=int(number)), 1)


def test_a_rank_without_environment_is_refused_with_what_would_work() -> None:
    with pytest.raises(UsageError, match="--num-envs 4 or more, or start 3 ranks"):
        batch_grid(Config(num_envs=3), 4)
    assert batch_grid(Config(num_envs=4), 4).num_envs == 4
