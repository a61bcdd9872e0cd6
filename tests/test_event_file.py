"""What TensorBoard's own reader finds in an event file."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_progress import Disk

from trpo_mpi import TRPO
from trpo_mpi.errors import UsageError
from trpo_mpi.run_directory.event_file import EventFile, tag
from trpo_mpi.run_directory.progress import COLUMNS

SETTINGS = {"env": "Toy-v0", "max_kl": 0.5, "net_arch": (8, 9), "render": False, "network": None}


def read(directory: Path) -> Any:
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    return found.Reload()


def points(directory: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(directory).Scalars(name)]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`start(timesteps)`: the event file of one more start."""
    numbers = iter(range(100))

    def begin(timesteps: int) -> EventFile:
        number = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: number)
        return EventFile(tmp_path, SETTINGS, timesteps)

    return begin


def row(iteration: int, kl: float | None) -> dict[str, Any]:
    mean = float("nan") if iteration == 1 else 2.0 * iteration
    return {
        "iteration": iteration,
        "timesteps": 512 * iteration,
        "kl": kl,
        "episode_return_mean": mean,
        "steps_per_second": 5000.5,
    }


def test_numbers_stand_over_time_steps(start: Any, tmp_path: Path) -> None:
    events = start(0)
    events.add(row(1, None))
    events.add(row(2, 0.25))
    events.add(row(3, 0.75))
    assert points(tmp_path, "policy/kl") == [(1024, 0.25), (1536, 0.75)]
    assert points(tmp_path, "rollout/episode_return_mean") == [(1024, 4.0), (1536, 6.0)]
    assert points(tmp_path, "time/steps_per_second") == [(n * 512, 5000.5) for n in (1, 2, 3)]
    assert points(tmp_path, "time/iteration") == [(n * 512, n) for n in (1, 2, 3)]


def test_a_resumed_run_has_no_point_twice(start: Any, tmp_path: Path) -> None:
    """Killed in iteration 6, in the middle of a write, and resumed from iteration 3; then again."""
    first = start(0)
    for iteration in range(1, 6):
        first.add(row(iteration, 0.25))
    path = next(tmp_path.glob("*tfevents*"))
    whole = path.read_bytes()
    first.add(row(6, 0.25))
    path.write_bytes(path.read_bytes()[: len(whole) + 20])
    second = start(3 * 512)
    second.add(row(4, 0.5))
    third = start(4 * 512)
    third.add(row(5, 0.75))
    expected = [(512, 0.25), (1024, 0.25), (1536, 0.25), (2048, 0.5), (2560, 0.75)]
    assert points(tmp_path, "policy/kl") == expected


def test_a_run_that_begins_anew_has_none_of_the_old_points(start: Any, tmp_path: Path) -> None:
    start(0).add(row(2, 0.25))
    start(0).add(row(2, 0.5))
    assert points(tmp_path, "policy/kl") == [(1024, 0.5)]


def test_a_full_disk_loses_no_point(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = start(0)
    disk = events._file = Disk(events._file, 10)
    events.add(row(2, 0.25))
    events.add(row(3, 0.5))
    disk.room = 10_000
    events.add(row(4, 0.75))
    assert points(tmp_path, "policy/kl") == [(1024, 0.25), (1536, 0.5), (2048, 0.75)]
    assert capsys.readouterr().err.count("warning") == 1


def test_the_settings_are_there(start: Any, tmp_path: Path) -> None:
    start(0)
    found = read(tmp_path)
    text = found.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines() == [
        "| setting | value |",
        "|---|---|",
        "| env | Toy-v0 |",
        "| max_kl | 0.5 |",
        "| net_arch | 8 9 |",
        "| render | False |",
    ]
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert sorted(given) == ["env", "max_kl", "net_arch"]  # what changes the result
    assert given["max_kl"].number_value == 0.5
    assert given["net_arch"].string_value == "8 9"


def test_every_column_has_a_group() -> None:
    """The group `time` has what the clock decides, iterations and time steps, and nothing else."""
    for column in COLUMNS:
        by_clock = column.endswith(("seconds", "per_second", "mb")) or column == "iteration"
        assert tag(column).startswith("time/") == (by_clock or column == "timesteps"), column


def test_the_class_writes_too(tmp_path: Path) -> None:
    settings = {"timesteps_per_batch": 256, "tensorboard_log": tmp_path, "seed": 3}
    model = TRPO("MlpPolicy", "CartPole-v1", **settings)
    model.learn(512)
    model.learn(256)  # goes on
    TRPO("MlpPolicy", "CartPole-v1", **settings).learn(256)
    steps = [step for step, _ in points(tmp_path / "TRPO_1", "rollout/episodes")]
    assert steps == [256, 512, 768]
    assert [step for step, _ in points(tmp_path / "TRPO_2", "rollout/episodes")] == [256]


MISSING = """
import runpy, sys
sys.modules["tensorboard"] = None
sys.argv = ["run_mujoco", "--tensorboard", "--outdir", "run"]
runpy.run_module("trpo_mpi.run_mujoco", run_name="__main__")
"""


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, python: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = python("-c", MISSING)
    assert result.returncode == 2
    words = 'error: --tensorboard needs the package tensorboard: pip install "tensorboard>=2.16"'
    assert result.stderr.endswith(words + "\n")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match="tensorboard_log needs the package"):
        TRPO("MlpPolicy", "CartPole-v1", tensorboard_log=tmp_path)
