"""`play`: the episodes of `evaluate`, as pictures that show what they should."""

import csv
import ctypes.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
from conftest import Run, started
from film_envs import brightness

from trpo_mpi.config import Atari, Config
from trpo_mpi.envs.make import check_env
from trpo_mpi.envs.rendering import frame_rate
from trpo_mpi.errors import UsageError
from trpo_mpi.model import initial_model
from trpo_mpi.play import main
from trpo_mpi.run_directory import model_file

FILM = "film_envs:Film-v0"


def save_model(folder: Path, env_id: str, network: str | None = None) -> Path:
    """A policy that has learnt nothing."""
    config = Config(env=env_id, net_arch=(4,), network=network)
    path = folder / "model.zip"
    model_file.save(path, initial_model(config, check_env(env_id)))
    return path


def read(path: Path) -> tuple[Fraction, list[np.ndarray]]:
    """Frames a second, and frames, (height, width, 3)."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate is not None
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream.average_rate, frames


def evaluated(folder: Path) -> list[tuple[float, int]]:
    """Returns and lengths in evaluation.csv."""
    rows = csv.DictReader((folder / "evaluation.csv").read_text(encoding="utf-8").splitlines())
    return [(float(row["return"]), int(row["length"])) for row in rows]


@pytest.mark.parametrize("mode", [[], ["--deterministic"]])
def test_a_video_shows_the_episodes_of_evaluate(tmp_path: Path, python: Run, mode: Any) -> None:
    save_model(tmp_path, FILM)
    arguments = ["model.zip", "--episodes", 3, "--seed", 5, *mode]
    result = python("-m", "trpo_mpi.play", *arguments, "--video", "film.mp4")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert python("-m", "trpo_mpi.evaluate", *arguments).returncode == 0
    episodes = evaluated(tmp_path)
    shown = [line.split() for line in result.stdout.splitlines()[2:5]]
    assert shown == [[str(k), f"{r:.2f}", str(n)] for k, (r, n) in enumerate(episodes)]
    assert len({length for _, length in episodes}) > 1
    rate, frames = read(tmp_path / "film.mp4")
    assert rate == 10
    assert frames[0].shape == (322, 36, 3)
    wanted = [brightness(step) for _, length in episodes for step in range(length + 1)]
    assert [float(frame.mean()) for frame in frames] == pytest.approx(wanted, abs=4)
    written = ["evaluation.csv", "evaluation.json", "film.mp4", "model.zip"]
    assert sorted(os.listdir(tmp_path)) == written


@pytest.mark.parametrize(("network", "screen"), [(None, ""), ("toy_own:network", ":1234")])
def test_mujoco_draws_without_a_screen(
    tmp_path: Path, python: Run, network: str | None, screen: str
) -> None:
    """Also beside TensorFlow, whose LLVM together with that of Mesa's OpenGL crashes a process."""
    if not ctypes.util.find_library("EGL"):
        pytest.skip("there is no EGL here (Debian: libegl1)")
    save_model(tmp_path, "InvertedPendulum-v5", network)
    nowhere = {"DISPLAY": screen, "WAYLAND_DISPLAY": ""}
    arguments = ["model.zip", "--video", "pole.mp4", *(["--network", network] if network else [])]
    result = python("-m", "trpo_mpi.play", *arguments, **nowhere)
    assert result.returncode == 0, result.stderr
    length = int(result.stdout.splitlines()[2].split()[2])
    rate, frames = read(tmp_path / "pole.mp4")
    assert rate == 25
    assert len(frames) == length + 1
    assert frames[0].std() > 10  # a scene,
    assert np.abs(frames[-1].astype(int) - frames[0]).max() > 50  # and something moves in it


def test_frames_are_in_real_time() -> None:
    env = gym.make("CartPole-v1")
    env.metadata = {"render_fps": 50}
    assert frame_rate(env, None) == (50, 1)
    assert frame_rate(env, Atari()) == (15, 1)
    assert frame_rate(env, Atari(frame_skip=1)) == (60, 1)
    env.metadata = {"render_fps": 125}  # Hopper's: more than the eye takes
    assert frame_rate(env, None) == (Fraction(125, 2), 2)
    env.metadata = {}
    assert frame_rate(env, None) == (30, 1)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`play(*args)`: the command in this process."""
    save_model(tmp_path, FILM)
    (tmp_path / "folder.mp4").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name, value in {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"}.items():
        monkeypatch.setenv(name, value)  # which the command would, for good
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["play", *arguments])
        return main()

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.zip"], "no window: DISPLAY is not set; write a video, --video FILE.mp4"),
        (["model.zip", "--video", "x.txt"], "--video is x.txt; its name must end in .mp4"),
        (["model.zip", "--video", "no/x.mp4"], "there is no directory no"),
        (["model.zip", "--video", "model.zip/x.mp4"], "there is no directory model.zip"),
        (["model.zip", "--video", "folder.mp4"], "folder.mp4 is a directory"),
        (["model.zip", "--video", "/proc/x.mp4"], "/proc/x.mp4 can't be written"),
        (["model.zip", "--video", "x.mp4", "--episodes", "0"], "--episodes is 0"),
        (["nowhere", "--video", "x.mp4"], "there is no nowhere"),
    ],
)
def test_wrong_usage_is_one_line(play: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        play(*arguments)
    assert sorted(os.listdir()) == ["folder.mp4", "model.zip"]


def test_a_screen_that_does_not_answer_is_one_line(tmp_path: Path, python: Run) -> None:
    save_model(tmp_path, "InvertedPendulum-v5")
    result = python("-m", "trpo_mpi.play", "model.zip", DISPLAY=":1234", WAYLAND_DISPLAY="")
    assert result.returncode == 2
    assert result.stderr.startswith("play: error: no window: DISPLAY :1234 does not answer")
    assert len(result.stderr.splitlines()) == 1


def test_it_is_for_one_process(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(UsageError, match="started 2 processes; this command is for one"):
        play("model.zip", "--video", "x.mp4")


def test_a_missing_library_is_named(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match='--video needs PyAV: pip install "av'):
        play("model.zip", "--video", "x.mp4")


def test_an_environment_without_pictures_is_refused(play: Any, tmp_path: Path) -> None:
    save_model(tmp_path, "memory_envs:Cue-v0")
    with pytest.raises(UsageError, match="Cue-v0 has no pictures to record"):
        play("model.zip", "--video", "x.mp4")


def test_what_can_not_be_drawn_is_one_line(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILM_FAULT", "no\ncolours")
    with pytest.raises(UsageError, match="Film-v0 can't be drawn here: no colours"):
        play("model.zip", "--video", "x.mp4")
    assert sorted(os.listdir()) == ["folder.mp4", "model.zip"]


def test_a_wrong_mujoco_gl_is_one_line(tmp_path: Path, python: Run) -> None:
    save_model(tmp_path, "InvertedPendulum-v5")
    arguments = ("model.zip", "--video", "x.mp4")
    result = python("-m", "trpo_mpi.play", *arguments, MUJOCO_GL="nonsense")
    assert result.returncode == 2
    assert "MUJOCO_GL is nonsense" in result.stderr
    assert "libegl1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_stop_leaves_no_half_of_a_video(tmp_path: Path) -> None:
    save_model(tmp_path, FILM)
    command = [sys.executable, "-m", "trpo_mpi.play", "model.zip", "--video", "x.mp4"]
    with started([*command, "--episodes", "1000"], tmp_path, FILM_SECONDS="0.1") as process:
        end = time.monotonic() + 200
        while not list(tmp_path.glob(".*.tmp")) and time.monotonic() < end:
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == ""
    assert os.listdir(tmp_path) == ["model.zip"]
