"""Environments made from ids, or refused in one line."""

import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import Run

from trpo_mpi.envs.make import check_env, make_env
from trpo_mpi.errors import UsageError


@pytest.mark.parametrize("env_id", ["Counter-v0", "Plain-v0"])
def test_makes_what_gymnasium_makes(env_id: str) -> None:
    """From a module of one's own, and whether or not the environment knows of render modes."""
    gym.make(f"toy_envs:{env_id}")
    spaces = check_env(f"toy_envs:{env_id}")
    assert spaces.observation_size == 3
    assert spaces.action == gym.spaces.Discrete(2)
    assert np.array_equal(make_env(f"toy_envs:{env_id}").reset()[0], [0, 0, 0])


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("Hoper-v4", ["Hoper-v4", "Hopper-v4"]),
        ("hopper", ["near matches"]),
        ("Hopper-v99", ["Hopper-v99", "Hopper-v5"]),
        ("Xq7-v0", ["Xq7-v0"]),
        ("no_such_module:Hopper-v4", ["no_such_module"]),
        ("a/b/c/d", ["a/b/c/d"]),
        ("", ["--env"]),
        (":Hopper-v4", ["--env"]),
        ("a:b:Hopper-v4", ["a:b:Hopper-v4", "MODULE:ID"]),
        (".a:Hopper-v4", [".a:Hopper-v4", "MODULE:ID"]),
        ("../a:Hopper-v4", ["../a:Hopper-v4", "MODULE:ID"]),
        ("Hopper v4", ["Hopper v4"]),
    ],
)
def test_what_can_not_be_made_is_refused_in_one_line(env_id: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        check_env(env_id)
    text = str(refusal.value)
    assert text.startswith("--env")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_nothing_near_is_not_suggested() -> None:
    with pytest.raises(UsageError) as refusal:
        check_env("Xq7zzz-v0")
    assert "near" not in str(refusal.value)


@pytest.mark.parametrize("what", ["observation", "action"])
def test_spaces_that_are_not_supported(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRANGE", what)
    with pytest.raises(UsageError, match=f"{what} space Text"):
        check_env("toy_envs:Strange-v0")


def test_a_window_needs_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match="--render needs a screen"):
        check_env("CartPole-v1", render=True)


def test_a_warning_of_gymnasium_is_one_plain_line(python: Run) -> None:
    """A batch log shows neither colours nor the lines of Gymnasium's code that warned."""
    code = "from trpo_mpi.envs.make import check_env; check_env('Hopper-v4')"
    err = python("-c", code).stderr
    assert re.fullmatch(r"warning: The environment Hopper-v4 is out of date\.[^\n\x1b]*\n", err)


def test_a_warning_of_anything_else_is_shown_as_ever() -> None:
    gym.register("Warns-v0", warns)
    try:
        with pytest.warns(UserWarning, match="a warning of its own"):
            check_env("Warns-v0")
    finally:
        del gym.registry["Warns-v0"]


def warns() -> gym.Env[Any, Any]:
    warnings.warn("a warning of its own", stacklevel=1)
    return gym.make("toy_envs:Counter-v0")


MUJOCO = """
from trpo_mpi.envs.make import check_env, make_env, quiet_gymnasium
check_env("HalfCheetah-v4")
quiet_gymnasium()
for _ in range(3):
    make_env("HalfCheetah-v4")
"""


def test_mujocos_warnings_of_a_model_are_said_once(python: Run, tmp_path: Path) -> None:
    """MuJoCo 4 has one for HalfCheetah-v4; by default it also writes it to a file."""
    result = python("-c", MUJOCO)
    assert result.returncode == 0, result.stderr
    said = int(mujoco.mj_versionString() >= "4")
    assert result.stderr.count("compiler attribute") == said
    assert result.stderr.count("warning: MuJoCo: ") == said
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
