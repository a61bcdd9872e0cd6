"""Makes environments from their ids, and says in one line why one can't be made."""

import contextlib
import difflib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import FlattenObservation, TimeAwareObservation

from trpo_mpi.config import Atari, AtariConfig, Config
from trpo_mpi.envs import atari as games
from trpo_mpi.envs.rendering import screen_fault
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.envs.vector import close
from trpo_mpi.errors import UsageError
from trpo_mpi.output import warn


def make_env(
    env_id: str,
    render_mode: str | None = None,
    atari: Atari | None = None,
    time_feature: bool = False,
) -> gym.Env[Any, Any]:
    """Make one environment; with `atari`, an ale-py game.

    With `time_feature`, observations end with the elapsed fraction of the time limit.

    Raises `UsageError` for a malformed id, an unknown one (naming similar ones), an Atari game
    without `atari` or another environment with it, missing packages, or `time_feature` without a
    limit.
    """
    module, colon, name = env_id.rpartition(":")
    if not name or (colon and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module)):
        raise UsageError(f"--env {env_id}: it must be ID or MODULE:ID")
    if atari is not None and not games.is_atari(env_id):
        raise UsageError(f"--env {env_id}: {_no_game(env_id)}")
    # An environment need not accept a render mode: none is passed unless wanted.
    mode: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        if atari is not None:
            return games.make_atari(env_id, atari, render_mode)
        # The passive checker checks only the first step, but takes 3 % of all others.
        with _mujoco_warns_as_gymnasium():
            env = gym.make(env_id, disable_env_checker=True, **mode)
    except gym.error.UnregisteredEnv:
        raise UsageError(f"--env {env_id}: {_unknown(env_id)}") from None
    except (gym.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--env {env_id} can't be made: {reason}") from None
    if not time_feature:
        return env
    if env.spec is None or env.spec.max_episode_steps is None:
        raise UsageError(
            f"--time-feature: {env_id} has no time limit; leave it out, or beside a recipe say "
            "--no-time-feature"
        )
    if isinstance(env.observation_space, gym.spaces.Dict):
        env = FlattenObservation(env)  # or the time would stand where its name is sorted to
    try:
        return TimeAwareObservation(env, normalize_time=True)
    except (ValueError, AssertionError) as error:
        raise UsageError(f"--time-feature: {env_id} can't have one: {error}") from None


@contextlib.contextmanager
def _mujoco_warns_as_gymnasium() -> Iterator[None]:
    """Send MuJoCo's warnings on a model file to Gymnasium's logger: they are repeated as often."""
    try:
        import mujoco
    except Exception:  # without graphics it may be any error, and MuJoCo may not be needed
        yield
        return
    mujoco.set_mju_user_warning(lambda text: gym.logger.warn(f"MuJoCo: {text}"))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)


def _unknown(env_id: str) -> str:
    if games.is_atari(env_id):
        return f"an Atari game; use python -m trpo_mpi.{AtariConfig.command}"
    return f"Gymnasium knows no environment of that name{_near(env_id, list(gym.registry))}"


def _no_game(env_id: str) -> str:
    if env_id in gym.registry:
        return f"no Atari game; use python -m trpo_mpi.{Config.command}"
    return f"ale-py knows no game of that name{_near(env_id, games.ids())}"


def _near(env_id: str, ids: list[str]) -> str:
    known = {known.lower(): known for known in ids}
    name = env_id.rpartition(":")[2].lower()
    near = difflib.get_close_matches(name, known, 3, cutoff=0.6)
    return f"; near matches are {', '.join(known[n] for n in near)}" if near else ""


def time_limit(env: gym.Env[Any, Any], atari: Atari | None) -> int | None:
    """Maximum number of time steps in an episode; None if unknown."""
    if atari is not None:
        return atari.max_frames // atari.frame_skip
    return None if env.spec is None else env.spec.max_episode_steps


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print each Gymnasium warning as a plain line, without colours or source location."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        text = str(warning.message)
        if of_gymnasium := re.fullmatch(r"\x1b\[\d+mWARN: (.*)\x1b\[0m", text, re.DOTALL):
            text = " ".join(of_gymnasium[1].split())
            warn(text)
        else:
            about = warning.category, warning.filename, warning.lineno
            warnings.showwarning(warning.message, *about, warning.file, warning.line)


@_plain_warnings()
def check_env(
    env_id: str,
    render: bool = False,
    atari: Atari | None = None,
    time_feature: bool = False,
    film: bool = False,
) -> Spaces:
    """Spaces of an environment to train on; raises `UsageError` if that is not possible.

    With `render` it must have a window to show, and a screen; with `film` it must have images.
    """
    if render and (fault := screen_fault()) is not None:
        raise UsageError(f"--render needs a screen: {fault}")
    env = make_env(env_id, None, atari, time_feature)
    modes = env.metadata.get("render_modes", [])
    if render and "human" not in modes:
        raise UsageError(f"--render: {env_id} has no window to show")
    if film and "rgb_array" not in modes:
        raise UsageError(f"--video-every: {env_id} has no pictures to record")
    spaces = Spaces(env.observation_space, env.action_space)
    close(env)
    try:
        spaces.check()
    except UsageError as error:
        raise UsageError(f"--env {env_id}: {error}") from None
    return spaces


def quiet_gymnasium() -> None:
    """Silence Gymnasium's warnings, which each further environment would repeat."""
    gym.logger.min_level = gym.logger.ERROR
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
