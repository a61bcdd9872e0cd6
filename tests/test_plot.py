"""`plot`: which runs make a curve, its numbers by hand, and the file."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run as Command

from trpo_mpi import plot
from trpo_mpi.errors import UsageError

HEADER = "iteration,timesteps,episodes,episode_return_mean\n"


def run_directory(
    path: Path, rows: list[tuple[int, Any]], recipe: str = "default", **settings: Any
) -> str:
    """A directory with the two files that `plot` reads."""
    path.mkdir(parents=True)
    record = {"settings": {"env": "Toy-v0", "seed": 0, **settings}, "recipe": recipe}
    (path / "config.json").write_text(json.dumps(record))
    lines = [f"{i},{steps},{i},{value}\n" for i, (steps, value) in enumerate(rows, 1)]
    (path / "progress.csv").write_text(HEADER + "".join(lines))
    return str(path)


def test_mean_and_deviation_by_hand(tmp_path: Path) -> None:
    runs = [
        plot.read_run(run_directory(tmp_path / "a", [(0, 0.0), (10, 10.0), (20, 40.0)])),
        plot.read_run(run_directory(tmp_path / "b", [(5, 1.0), (15, 5.0), (40, 0.0)])),
    ]
    curve = plot.mean_curve(runs)
    # Both have steps 5 to 20. There a is 5, 10, 25, 40, and b is 1, 3, 5, 4.
    assert curve.timesteps.tolist() == [5, 10, 15, 20]
    np.testing.assert_allclose(curve.mean, [3, 6.5, 15, 22])
    assert curve.deviation is not None
    np.testing.assert_allclose(curve.deviation, np.array([4, 7, 20, 36]) / np.sqrt(2))


def test_single_run_is_its_own_rows(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "a", [(8, ""), (16, 1.5), (24, -2.0)])
    curve = plot.mean_curve([plot.read_run(directory)])
    assert curve.timesteps.tolist() == [16, 24]
    assert curve.mean.tolist() == [1.5, -2.0]
    assert curve.deviation is None


def test_half_a_last_line_is_not_read(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "a", [(8, 1.0)])
    with (tmp_path / "a" / "progress.csv").open("a") as file:
        file.write("2,16,2,12")  # of 1234.5
    assert plot.read_run(directory).timesteps.tolist() == [8]


def test_curves_are_recipes_and_settings_that_vary_in_a_panel(tmp_path: Path) -> None:
    row = [(8, 1.0)]
    runs = [
        run_directory(tmp_path / "a", row, seed=0, max_kl=0.01, gamma=0.9),
        run_directory(tmp_path / "b", row, seed=1, max_kl=0.01, gamma=0.9, outdir="elsewhere"),
        run_directory(tmp_path / "c", row, seed=0, max_kl=0.02, gamma=0.9),
        run_directory(tmp_path / "d", row, env="Other-v0", seed=0, max_kl=0.01, gamma=0.5),
        run_directory(tmp_path / "e", row, recipe="tuned", seed=0, max_kl=0.03, gamma=0.9),
    ]
    panels = plot.group([plot.read_run(run) for run in runs])
    names = {
        env: {label: [Path(r.directory).name for r in seeds] for label, seeds in curves.items()}
        for env, curves in panels.items()
    }
    assert names == {
        "Toy-v0": {
            "default, max_kl 0.01": ["a", "b"],
            "default, max_kl 0.02": ["c"],
            "tuned": ["e"],
        },
        "Other-v0": {"default, max_kl 0.01": ["d"]},
    }


def test_what_was_left_open_is_the_default(tmp_path: Path) -> None:
    """A resumed run says how large its batch is, an older one knows fewer settings."""
    runs = [
        run_directory(tmp_path / "a", [(8, 1.0)], seed=0, num_envs=None),
        run_directory(tmp_path / "b", [(8, 1.0)], seed=1, num_envs=16, timesteps_per_batch=2048),
        run_directory(tmp_path / "c", [(8, 1.0)], seed=2, activation="tanh"),
    ]
    (curves,) = plot.group([plot.read_run(run) for run in runs]).values()
    assert list(curves) == ["default"]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    runs = [plot.read_run(run_directory(tmp_path / name, [(8, 1.0)])) for name in "ab"]
    with pytest.raises(UsageError, match=r"a and .*b are the same run.* seed 0"):
        plot.group(runs)


def test_runs_without_a_common_step_are_refused(tmp_path: Path) -> None:
    rows = ([(8, 1.0)], [(16, 1.0)])
    runs = [plot.read_run(run_directory(tmp_path / str(i), r)) for i, r in enumerate(rows)]
    with pytest.raises(UsageError, match="no time step is common to"):
        plot.mean_curve(runs)


def test_png_of_two_runs_without_mpi_or_screen(tmp_path: Path, python: Command) -> None:
    for seed in range(2):
        run_directory(tmp_path / f"s{seed}", [(8, 1.0 + seed), (16, 2.0)], seed=seed)
    script = (
        "import sys; from trpo_mpi import plot; code = plot.main(); "
        "unwanted = {'mpi4py', 'tensorflow', 'matplotlib.pyplot'}; "
        "print(code, unwanted & set(sys.modules))"
    )
    result = python("-c", script, "s0", "s1", DISPLAY="")
    assert result.stdout.splitlines() == ["2 runs drawn in curves.png", "0 set()"], result.stderr
    content = (tmp_path / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 500
    assert height > 400


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    runs = [
        plot.read_run(run_directory(tmp_path / f"s{seed}", [(8, 1.0), (16, 2.0)], seed=seed))
        for seed in range(3)
    ]
    plot.draw(plot.group(runs), tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    for words in (
        "Toy-v0",
        "time steps",
        "return (mean of last 100 episodes)",
        "default (3 seeds, mean ± std)",
    ):
        assert f"<!-- {words} -->" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one run directory"),
        (["nowhere"], "nowhere is no run directory: there is no nowhere/progress.csv"),
        (["good", "bare"], "bare is no run directory: there is no bare/config.json"),
        (["early"], "early: progress.csv has no row with a return yet"),
        (["broken"], "broken is no whole run directory"),
        (["good", "--output", "curves.xyz"], "--output curves.xyz must end in one of"),
        (["good", "--output", "curves"], "--output curves must end in one of"),
        (["good", "--output", "absent/c.png"], "can't be written: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, python: Command, arguments: list[str], message: str
) -> None:
    run_directory(tmp_path / "good", [(8, 1.0)])
    run_directory(tmp_path / "early", [(8, "")])
    run_directory(tmp_path / "bare", [(8, 1.0)])
    (tmp_path / "bare" / "config.json").unlink()
    run_directory(tmp_path / "broken", [(8, 1.0)])
    (tmp_path / "broken" / "config.json").write_text("{")
    result = python("-m", "trpo_mpi.plot", *arguments)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr
    assert not list(tmp_path.glob("*.png"))
