"""Renders environments: on a screen, or as arrays without one."""

import contextlib
import ctypes.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.config import Atari
from trpo_mpi.errors import EnvironmentFault, UsageError

CONSOLE_FPS = 60
"""Frames per second of an Atari console."""
USUAL_FPS = 30
"""Frames per second assumed for an environment that does not say."""
MOST_FPS = 60
"""Frames per second above which, roughly, a video skips time steps."""


def screen_fault() -> str | None:
    """Why no window can be opened, or None; the screen may be a lost ssh session's.

    Libraries that try to open one regardless may end the process.
    """
    screens = {x: os.environ.get(x) for x in ("DISPLAY", "WAYLAND_DISPLAY")}
    if sys.platform.startswith("linux") and not any(screens.values()):
        return "DISPLAY is not set"
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if glfw.init():
            return None
    name, screen = next(((x, screen) for x, screen in screens.items() if screen), ("screen", ""))
    return f"{name} {screen} does not answer"


def prepare_offscreen() -> None:
    """Let MuJoCo render through EGL if there is no screen; call before MuJoCo is imported.

    Variables that the user has set are left alone. Without EGL, MUJOCO_GL is not set: importing
    MuJoCo would fail.
    """
    if screen_fault() is None:
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or pygame prints that it looked for one
    if ctypes.util.find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")


@contextlib.contextmanager
def drawing(env_id: str) -> Iterator[None]:
    """Turn libraries' errors when they can't render into `UsageError`, with advice."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="glfw")  # the error says it all
            yield
    except (UsageError, EnvironmentFault):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = ""
        # A failed import leaves only parts of the package behind.
        if any(name.partition(".")[0] == "mujoco" for name in sys.modules):
            chosen = os.environ.get("MUJOCO_GL")
            advice = (
                f". MUJOCO_GL is {chosen or 'not set'}: without a screen MuJoCo draws with "
                "MUJOCO_GL=egl (Debian: apt-get install libegl1) or MUJOCO_GL=osmesa "
                "(apt-get install libosmesa6)"
            )
        raise UsageError(f"{env_id} can't be drawn here: {reason}{advice}") from None


def frame_rate(env: gym.Env[Any, Any], atari: Atari | None) -> tuple[Fraction, int]:
    """Frames per second of a real-time video of `env`, and time steps per frame.

    If `env` has well over `MOST_FPS` steps per second, only every second or third step is shown.
    """
    if atari is not None:
        steps = Fraction(CONSOLE_FPS, atari.frame_skip)
    else:
        steps = Fraction(env.metadata.get("render_fps") or USUAL_FPS).limit_denominator(1000)
    every = max(1, round(steps / MOST_FPS))
    return steps / every, every


class Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Renders an episode's start, and every `every`-th step.

    Args:
        env: an environment of render mode `rgb_array`.
        show: receives the images, (height, width, 3) uint8.
        every: time steps per image.
    """

    def __init__(
        self, env: gym.Env[Any, Any], show: Callable[[np.ndarray], None], every: int
    ) -> None:
        super().__init__(env)
        self._show, self._every = show, every
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without a seed, the next life of a game, which has been shown."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._steps = 0
            self._draw()
        return observation, info

    def step(self, action: Any) -> Any:
        """Take one time step."""
        result = self.env.step(action)
        self._steps += 1
        if self._steps % self._every == 0:
            self._draw()
        return result

    def _draw(self) -> None:
        self._show(np.asarray(self.env.render()))
