"""Show what a trained policy does: in a window, or as a video.

python -m trpo_mpi.play runs/Hopper-v4-default-s0                       a window, one episode
python -m trpo_mpi.play runs/Hopper-v4-default-s0 --video hopper.mp4    where there is no screen

Its episodes are those that `evaluate` plays, with the same numbering.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

import gymnasium as gym

from trpo_mpi import tensorflow_setup, video
from trpo_mpi.command_line import parse
from trpo_mpi.config import Count, Natural, check_ranges
from trpo_mpi.envs.make import quiet_gymnasium
from trpo_mpi.envs.rendering import Filmed, drawing, frame_rate, prepare_offscreen, screen_fault
from trpo_mpi.envs.vector import close
from trpo_mpi.errors import UsageError
from trpo_mpi.evaluation import (
    Behaviour,
    check_environment,
    load_model,
    mode_of,
    play_episode,
)
from trpo_mpi.model import Model


@dataclass(frozen=True)
class Play:
    """Show what a trained policy does: in a window, or with --video as a file.

    Prints the return and the length of each episode, the same as evaluate reports for it.
    """

    run: Annotated[Positional[str], arg(metavar="DIR")]
    """A run directory, a model.zip or a checkpoint."""
    video: str | None = None
    """Write an MP4 file that plays in real time, and open no window. Several
    episodes follow one another. [default: none]"""
    which: str = "latest"
    """Which model of a run directory: latest, best, or a checkpoint's iteration."""
    episodes: Count = 1
    """Episodes to play."""
    deterministic: bool = False
    """Take the most probable action at each step instead of sampling as in training."""
    seed: Natural = 0
    """Seed of the episodes: their starts and the noise of the actions."""
    network: str | None = None
    """Your own network, if the policy was trained with one, as module:function. [default: none]"""


def main() -> int:
    """Play as the command line says; returns the exit code."""
    settings = parse(Play, "play")
    check_ranges(settings)
    startup.check_alone()
    startup.unwind_on_signals()
    if settings.video is not None:
        video.check_path(Path(settings.video), "--video")
        prepare_offscreen()
    elif (fault := screen_fault()) is not None:
        raise UsageError(f"no window: {fault}; write a video, --video FILE.mp4")
    model = load_model(settings.run, settings.which, settings.network)
    with drawing(model.env):
        check_environment(model, settings.run)
    quiet_gymnasium()
    env = open_env(model, "human" if settings.video is None else "rgb_array")
    if model.architecture.needs_tensorflow:
        tensorflow_setup.set_up("-1", 0, drawn=True)
    model.check_network(f"DIR {settings.run}")
    if settings.video is None:
        play(settings, model, env)
    else:
        film(settings, model, env, Path(settings.video))
    close(env)
    return 0


def open_env(model: Model, mode: str) -> gym.Env[Any, Any]:
    """Make the model's environment in a render mode, and have it draw a first picture."""
    with drawing(model.env):
        plain = model.make_env()
        modes = plain.metadata.get("render_modes", [])
        close(plain)
        if mode not in modes:
            what = "window to show" if mode == "human" else "pictures to record"
            raise UsageError(
                f"{model.env} has no {what}; its render modes: {', '.join(modes) or 'none'}"
            )
        env = model.make_env(mode)
        env.reset(seed=0)
        env.render()
    return env


def play(settings: Play, model: Model, env: gym.Env[Any, Any]) -> None:
    """Play the episodes and print each one's return and length."""
    print(f"{model.env}: {mode_of(settings.deterministic)} policy, seed {settings.seed}")
    print("episode      return  length", flush=True)
    act = Behaviour(model.actor(), model.normalizer, settings.deterministic)
    for number in range(settings.episodes):
        played = play_episode(env, act, settings.seed, number)
        assert played is not None  # it is never asked to stop
        total, length = played
        print(f"{number:7d}{total:12.2f}{length:8d}", flush=True)


def film(settings: Play, model: Model, env: gym.Env[Any, Any], path: Path) -> None:
    """Play the episodes into a video, written whole or not at all."""
    fps, every = frame_rate(env, model.atari)
    try:
        with video.video_file(path, fps) as show:
            play(settings, model, Filmed(env, show, every))
    except OSError as error:
        raise UsageError(f"--video {path} can't be written: {error.strerror or error}") from None
    print(f"the video is {path}, {float(fps):g} frames a second", flush=True)


if __name__ == "__main__":
    startup.run(main)
