"""`--video-every`: videos beside a run, which they neither change nor hold up nor outlive."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run, environment
from test_play import FILM, read, save_model
from test_ranks import exact_parts

from trpo_mpi.config import Config
from trpo_mpi.parallel import startup
from trpo_mpi.recording import Recorder
from trpo_mpi.run_directory import model_file
from trpo_mpi.stopping import StopRequest

SMALL = f"--env {FILM} --num-envs 4 --timesteps-per-batch 64 --max-iterations 4"


class Unasked(StopRequest):
    """Nobody asks it to stop, and it takes no signals."""

    def __init__(self) -> None:
        self.signal = 0


def recorder(folder: Path) -> Recorder:
    return Recorder(folder, Config(video_every=2), Unasked())


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def await_no_process(number: int) -> None:
    end = time.monotonic() + 60
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.long
def test_same_bits_with_and_without(tmp_path: Path, mpirun: Run) -> None:
    command = ["-m", "trpo_mpi.run_mujoco", *SMALL.split(), "--outdir"]
    for folder, more in (("without", []), ("with", ["--video-every", 2, "--checkpoint-every", 2])):
        result = mpirun(2, *command, folder, *more)
        assert result.returncode == 0, result.stderr
    assert exact_parts(tmp_path / "without") == exact_parts(tmp_path / "with")
    assert not (tmp_path / "without" / "videos").exists()
    made = {path.name for path in (tmp_path / "with" / "videos").iterdir()}
    assert "00000002.mp4" in made  # and perhaps that of iteration 4, if the first was done by then
    assert made <= {"00000002.mp4", "00000004.mp4"}


def test_videos_are_of_the_policy_at_that_time(tmp_path: Path, python: Run) -> None:
    path = save_model(tmp_path, FILM)
    model = model_file.load(str(path))
    films = recorder(tmp_path)
    for iteration in (1, 2):
        films.follow(iteration, lambda: model)
    films.close(wait=True)
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["00000002.mp4"]
    played = python("-m", "trpo_mpi.play", path, "--video", "film.mp4")
    assert played.returncode == 0
    one, other = (read(p) for p in (tmp_path / "film.mp4", tmp_path / "videos" / "00000002.mp4"))
    assert one[0] == other[0]
    assert [f.tobytes() for f in one[1]] == [f.tobytes() for f in other[1]]


def test_a_failure_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_file.load(str(save_model(tmp_path, FILM)))
    films = recorder(tmp_path)
    monkeypatch.setenv("FILM_FAULT", "no colours")
    films.follow(2, lambda: model)
    films.close(wait=True)
    assert "no video of iteration 2: recording: error: film_envs:Film-v0 can't be drawn" in (
        capsys.readouterr().err
    )
    (tmp_path / "videos").rmdir()  # nothing is left in it
    (tmp_path / "videos").touch()
    films.follow(4, lambda: model)
    assert "no video of iteration 4: " in capsys.readouterr().err


def test_one_at_a_time_and_ended_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_file.load(str(save_model(tmp_path, FILM)))
    monkeypatch.setenv("FILM_SECONDS", "100")
    films = recorder(tmp_path)
    films.follow(2, lambda: model)
    process = films._process
    films.follow(4, lambda: model)
    assert films._process is process is not None
    began = time.monotonic()
    films.close(wait=False)
    assert time.monotonic() - began < 10
    assert process.returncode is not None
    assert [line[:30] for line in capsys.readouterr().err.splitlines()] == [
        "warning: no video of iteration",
        "warning: no video of iteration",
    ]
    assert not list((tmp_path / "videos").iterdir())


def test_it_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    save_model(tmp_path, FILM)
    script = (
        "import time; from pathlib import Path; from trpo_mpi.config import Config\n"
        "from trpo_mpi.recording import Recorder; from trpo_mpi.stopping import StopRequest\n"
        "from trpo_mpi.run_directory import model_file\n"
        "films = Recorder(Path('.'), Config(video_every=2), StopRequest())\n"
        "model = model_file.load('model.zip')\n"
        "films.follow(2, lambda: model); print(films._process.pid, flush=True); time.sleep(1000)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(FILM_SECONDS="5"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stdout is not None
        number = int(run.stdout.readline())
        end = time.monotonic() + 200
        while not list((tmp_path / "videos").glob(".*.tmp")):  # it has begun
            assert time.monotonic() < end
            time.sleep(0.05)
        own = os.getpriority(os.PRIO_PROCESS, run.pid)
        assert os.getpriority(os.PRIO_PROCESS, number) == min(19, own + 10)
    finally:
        run.kill()
        run.wait()
    await_no_process(number)
    left = [path.name for path in (tmp_path / "videos").iterdir()]
    assert left == [".00000002.zip"]
    recorder(tmp_path)  # as the resumed run does
    assert not list((tmp_path / "videos").iterdir())


def test_launchers_do_not_show() -> None:
    environ = {"PATH": "/bin", "OMP_NUM_THREADS": "1"}
    for _, size, rank in startup._LAUNCHERS:
        mine = environ | {size: "4", rank: "3"} | dict.fromkeys(startup._LOCAL_RANKS, "1")
        assert startup.launched(mine)[1:] == (4, 3)
        assert startup.without_launcher(mine) == environ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--video-every 0", "--video-every is 0"),
        ("--video-every 2 --env memory_envs:Cue-v0", "--video-every: memory_envs:Cue-v0 has no"),
    ],
)
def test_wrong_usage_is_one_line(python: Run, arguments: str, message: str) -> None:
    result = python("-m", "trpo_mpi.run_mujoco", *SMALL.split(), *arguments.split())
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
