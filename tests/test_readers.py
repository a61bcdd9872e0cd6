"""Files of a run that was killed and resumed, as read by the programs they are written for."""

import csv
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from conftest import started
from test_event_file import points

from trpo_mpi.run_directory.progress import COLUMNS, MonitorFile

COMMAND = [sys.executable, "-m", "trpo_mpi.run_mujoco"]
SETTINGS = "--env CartPole-v1 --timesteps-per-batch 512 --num-timesteps 6144 --tensorboard".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve iterations; killed after the eighth, when the last checkpoint was of the sixth."""
    folder = tmp_path_factory.mktemp("readers")
    command = [*COMMAND, *SETTINGS, "--outdir", "run", "--checkpoint-every", "6"]
    with started(command, folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.split()[:1] == ["8"]:
                break
        process.kill()
    time.sleep(0.1)
    with started([*COMMAND, "--resume", "run"], folder) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resumed from run/checkpoints/00000006.zip: iteration 6" in out
    return folder / "run"


def baselines_monitor() -> ModuleType:
    """Stable-Baselines3's module that reads it, without the rest, which would need PyTorch."""
    package = importlib.util.find_spec("stable_baselines3")
    if package is None or not package.submodule_search_locations:
        pytest.skip("stable_baselines3 is not installed: pip install --no-deps stable-baselines3")
    path = Path(package.submodule_search_locations[0]) / "common" / "monitor.py"
    spec = importlib.util.spec_from_file_location("baselines_monitor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pandas_reads_progress(run: Path) -> None:
    frame = pd.read_csv(run / "progress.csv")
    assert list(frame.columns) == list(COLUMNS)
    assert all(kind.kind in "if" for kind in frame.dtypes)
    assert frame["iteration"].tolist() == list(range(1, 13))
    assert frame["timesteps"].tolist() == [512 * n for n in range(1, 13)]
    assert frame["kl"].isna().tolist() == [True] + [False] * 11  # the first is not trained on
    assert frame["seconds"].is_monotonic_increasing
    with open(run / "progress.csv", encoding="utf-8") as file:
        texts = [line["episode_return_mean"] for line in csv.DictReader(file)]
    assert frame["episode_return_mean"].tolist() == [float(text) for text in texts]


def test_stable_baselines_reads_monitor(run: Path) -> None:
    frame = baselines_monitor().load_results(str(run))
    head, _, *lines = (run / "monitor.csv").read_text(encoding="utf-8").splitlines()
    assert frame["index"].tolist() == list(range(len(lines)))  # in the order of the file
    assert frame["r"].tolist() == [float(line.split(",")[0]) for line in lines]
    assert frame["l"].tolist() == frame["r"].tolist()  # CartPole pays 1 a step
    last = pd.read_csv(run / "progress.csv").iloc[-1]
    assert len(frame) == last["episodes"]
    assert frame["r"][-100:].mean() == pytest.approx(last["episode_return_mean"])
    # Seconds since the first start, over the time that the run was down.
    assert 0 < frame["t"].iloc[0] < frame["t"].iloc[-1]
    assert frame["t"].iloc[-1] < time.time() - json.loads(head[1:])["t_start"]
    assert frame["t"].iloc[-1] > last["seconds"]


def test_stable_baselines_keeps_the_order_of_many_episodes(tmp_path: Path) -> None:
    """It sorts by time, not stably; those of an iteration are reported together."""
    monitor = MonitorFile(tmp_path, "Toy-v0")
    for iteration in range(3):
        time.sleep(0.01)
        monitor.add([(float(1000 * iteration + n), 1) for n in range(1000)])
        monitor.add([])
    frame = baselines_monitor().load_results(str(tmp_path))
    assert frame["r"].tolist() == [float(n) for n in range(3000)]
    assert frame["t"].is_unique


def test_tensorboard_reads_every_iteration_once(run: Path) -> None:
    frame = pd.read_csv(run / "progress.csv")
    for column, name in (("episodes", "rollout/episodes"), ("kl", "policy/kl")):
        known = frame[frame[column].notna()]
        steps, values = zip(*points(run / "tensorboard", name), strict=True)
        assert list(steps) == known["timesteps"].tolist()
        assert list(values) == pytest.approx(known[column].tolist())
