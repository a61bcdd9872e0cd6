"""`plot`: which runs make a curve, its numbers by hand, and what the pictures say."""

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run as Command

from trpo_mpi import plot
from trpo_mpi.errors import UsageError
from trpo_mpi.plotting import learning_curves
from trpo_mpi.plotting.groups import group
from trpo_mpi.plotting.references import REFERENCES
from trpo_mpi.plotting.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    summarise,
)
from trpo_mpi.plotting.style import line_style
from trpo_mpi.run_directory.reading import Run, read_run

HEADER = "iteration,timesteps,episodes,episode_return_mean\n"
RETURN = learning_curves.COLUMNS["training"]


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


def read(*arguments: str, **settings: Any) -> list[Run]:
    return plot.read(plot.Plot(arguments, **settings))


def steps(*values: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Series with a value at time steps 0, 1, 2 ..."""
    return [(np.arange(len(row)), np.array(row, np.float64)) for row in values]


def test_mean_and_deviation_by_hand(tmp_path: Path) -> None:
    run_directory(tmp_path / "a", [(0, 0.0), (10, 10.0), (20, 40.0)])
    run_directory(tmp_path / "b", [(5, 1.0), (15, 5.0), (40, 0.0)])
    curve = summarise([read_run(tmp_path / name).points(RETURN) for name in "ab"])
    # Both have steps 5 to 20. There a is 5, 10, 25, 40, and b is 1, 3, 5, 4.
    assert curve.timesteps.tolist() == [5, 10, 15, 20]
    np.testing.assert_allclose(curve.centre, [3, 6.5, 15, 22])
    assert curve.band is not None
    deviation = np.array([4, 7, 20, 36]) / np.sqrt(2)
    np.testing.assert_allclose(curve.band, [curve.centre - deviation, curve.centre + deviation])


def test_standard_error_by_hand() -> None:
    """Of 1, 2, 3, 6: variance 14/3 over 4."""
    curve = summarise(steps([1], [2], [3], [6]), "mean", "stderr")
    assert curve.band is not None
    np.testing.assert_allclose(np.ravel(curve.band), 3 + np.sqrt(14 / 12) * np.array([-1, 1]))


def test_interquartile_mean_by_hand() -> None:
    """By whole seeds, at each time step on its own; as scipy's trim_mean, which rliable takes."""
    values = np.array([[9.0, 0], [1, 1], [2, 2], [3, 3], [-50, 100]])
    np.testing.assert_allclose(interquartile_mean(values), [2, 2])
    np.testing.assert_allclose(interquartile_mean(np.arange(8.0) ** 2), (4 + 9 + 16 + 25) / 4)
    np.testing.assert_allclose(interquartile_mean(np.array([1.0, 2, 9])), 4)


def test_bootstrap_of_two_by_hand() -> None:
    """The mean of two drawn from 0 and 1 is 0 or 1 in a quarter of the draws each."""
    low, high = bootstrap_interval(np.array([[0.0, 5], [1, 5]]), mean)
    assert (low.tolist(), high.tolist()) == ([0, 5], [1, 5])


@pytest.mark.parametrize("points", [1, 250])
def test_bootstrap_is_near_the_interval_of_a_normal(points: int) -> None:
    """Of the mean of 50 with deviation s: 1.96 s / sqrt(50) to both sides, every step alike."""
    values = np.random.default_rng(5).standard_normal((50, 1)) + np.arange(points)
    low, high = bootstrap_interval(values, mean)
    half = 1.96 * values[:, 0].std() / np.sqrt(50)
    np.testing.assert_allclose(low, mean(values) - half, atol=0.04)
    np.testing.assert_allclose(high, mean(values) + half, atol=0.04)


def test_bootstrap_is_of_the_centre() -> None:
    """An outlier among eight is in no interquartile mean but those that draw it thrice."""
    values = np.array([[1.0], [1], [1], [1], [1], [1], [1], [1000]])
    centre, (low, high) = interquartile_mean(values), bootstrap_interval(values, interquartile_mean)
    assert (centre[0], low[0]) == (1, 1)
    assert high[0] < bootstrap_interval(values, mean)[1][0]


def test_single_run_is_its_own_rows(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "a", [(8, ""), (16, 1.5), (24, -2.0)])
    curve = summarise([read_run(directory).points(RETURN)], "iqm", "bootstrap")
    assert curve.timesteps.tolist() == [16, 24]
    assert curve.centre.tolist() == [1.5, -2.0]
    assert curve.band is None


def test_half_a_last_line_is_not_read(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "a", [(8, 1.0)])
    with (tmp_path / "a" / "progress.csv").open("a") as file:
        file.write("2,16,2,12")  # of 1234.5
    assert read_run(directory).column("timesteps").tolist() == [8]


def test_curves_are_recipes_and_settings_that_vary_in_a_panel(tmp_path: Path) -> None:
    row = [(8, 1.0)]
    run_directory(tmp_path / "a", row, seed=0, max_kl=0.01, gamma=0.9)
    run_directory(tmp_path / "b", row, seed=1, max_kl=0.01, gamma=0.9, outdir="elsewhere")
    run_directory(tmp_path / "c", row, seed=0, max_kl=0.02, gamma=0.9)
    run_directory(tmp_path / "d", row, env="Other-v0", seed=0, max_kl=0.01, gamma=0.5)
    run_directory(tmp_path / "e", row, recipe="tuned", seed=0, max_kl=0.03, gamma=0.9)
    names = {
        env: {label: [Path(r.directory).name for r in seeds] for label, seeds in curves.items()}
        for env, curves in group(read(str(tmp_path))).items()
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
    """A resumed run records its batch size, an older one records fewer settings."""
    run_directory(tmp_path / "a", [(8, 1.0)], seed=0, num_envs=None)
    run_directory(tmp_path / "b", [(8, 1.0)], seed=1, num_envs=16, timesteps_per_batch=2048)
    run_directory(tmp_path / "c", [(8, 1.0)], seed=2, activation="tanh")
    (curves,) = group(read(str(tmp_path))).values()
    assert list(curves) == ["default"]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    for name in "ab":
        run_directory(tmp_path / name, [(8, 1.0)])
    with pytest.raises(UsageError, match=r"a and .*b are the same run.* seed 0"):
        group(read(str(tmp_path / "a"), str(tmp_path / "b")))


def test_runs_without_a_common_step_are_refused(tmp_path: Path) -> None:
    for seed in range(2):
        run_directory(tmp_path / str(seed), [(8 + 8 * seed, 1.0)], seed=seed)
    with pytest.raises(UsageError, match="no time step is common to"):
        learning_curves.draw(group(read(str(tmp_path))))


def test_a_run_that_was_found_may_have_just_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_directory(tmp_path / "runs" / "new", [(8, "")])
    run_directory(tmp_path / "runs" / "old", [(8, 1.0)])
    assert [Path(run.directory).name for run in read(str(tmp_path / "runs"))] == ["old"]
    assert "new: progress.csv has no row with a return yet" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no row with a return yet"):
        read(str(tmp_path / "runs" / "old"), str(tmp_path / "runs" / "new"))


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


def words_of(figure: Any) -> tuple[list[str], str]:
    """Entries and title of a figure's legend."""
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()], legend.get_title().get_text()


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    for seed in range(3):
        run_directory(tmp_path / f"a{seed}", [(8, 1.0), (16, 2.0)], seed=seed, env="Hopper-v4")
    run_directory(tmp_path / "b", [(8, 1.0)], env="Toy-v0")
    figure = learning_curves.draw(
        group(read(str(tmp_path))), "training", "iqm", "bootstrap", ["baselines", "chainerrl"]
    )
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Hopper-v4", "Toy-v0"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["time steps"] * 2
    assert left.get_ylabel() == "return\n(mean of last 100 episodes)"
    labels = [REFERENCES[name].label for name in ("baselines", "chainerrl")]
    entries, title = words_of(figure)
    assert entries == ["default (1 to 3 seeds)", *labels]
    assert title == "interquartile mean (IQM) with its 95 % bootstrap interval over seeds"
    heights = [line.get_ydata()[0] for line in left.get_lines()[1:]]
    assert heights == [1912.9, 3056]
    assert len(right.get_lines()) == 1  # the toy has no published score
    assert len(left.collections) == 1  # the band of three seeds
    assert not right.collections
    assert left.xaxis.get_major_formatter()(1_000_000) == "1M"


def test_lines_of_a_picture_all_differ() -> None:
    looks = [tuple(line_style(number).values()) for number in range(32)]
    assert len(set(looks)) == 32
    for one, other in itertools.pairwise(looks):
        assert one[0] != other[0]
        assert one[1] != other[1]


EVALUATIONS = (
    "iteration,timesteps,mode,episodes,return_mean,return_std_error,return_median,length_mean\n"
    "1,8,stochastic,5,10.0,1.0,9.0,3.0\n"
    "2,16,stochastic,5,20.0,1.0,9.0,3.0\n"
)


def test_curves_of_evaluation_returns(tmp_path: Path) -> None:
    """One line per mode, if there are two."""
    for name in "ab":
        run_directory(tmp_path / name, [(8, 1.0), (16, 2.0)], seed="ab".index(name))
        (tmp_path / name / "evaluations.csv").write_text(EVALUATIONS)
    figure = learning_curves.draw(group(read(str(tmp_path), returns="evaluation")), "evaluation")
    assert figure.axes[0].get_ylabel() == "return in evaluation\n(stochastic actions)"
    assert words_of(figure)[0] == ["default (2 seeds)"]
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [10, 20]
    with open(tmp_path / "a" / "evaluations.csv", "a") as file:
        file.write("2,16,deterministic,5,30.0,1.0,9.0,3.0\n")
    (curves,) = group(read(str(tmp_path), returns="evaluation")).values()
    assert {label: len(runs) for label, runs in curves.items()} == {
        "default, actions stochastic": 2,
        "default, actions deterministic": 1,
    }


GOOD = ["good", "--output", "c.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one run directory"),
        (["good", ""], "name one run directory"),
        (["nowhere"], "nowhere is not a run directory: no nowhere/progress.csv"),
        (["good", "bare"], "bare is not a run directory: no bare/config.json"),
        (["early"], "early: progress.csv has no row with a return yet"),
        (["broken"], "broken has a damaged config.json: Expecting property name"),
        (["good", "copy"], "good and copy are the same run"),
        (["good/progress.csv"], "good/progress.csv is not a run directory"),
        (["words"], "words has a damaged column"),
        (["good", "--output", "curves.xyz"], "--output curves.xyz must end in one of"),
        (["good", "--output", "curves"], "--output curves must end in one of"),
        (["good", "--output", "absent/c.png"], "can't be written: No such file or directory"),
        ([*GOOD, "--centre", "iqm", "--band", "std"], "with --centre iqm it must be bootstrap"),
        ([*GOOD, "--reference", "nobody"], "--reference 'nobody': there are baselines, "),
        ([*GOOD, "--reference", "chainerrl"], "Walker2d-v4; the runs are of Toy-v0"),
        ([*GOOD, "--returns", "evaluation"], "good has no evaluations.csv"),
        ([*GOOD, "--diagnostics"], "good: progress.csv has no policy step yet"),
        ([*GOOD, "--diagnostics", "--band", "std"], "--band applies only to learning curves"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    run_directory(tmp_path / "good", [(8, 1.0)])
    run_directory(tmp_path / "early", [(8, "")])
    run_directory(tmp_path / "words", [(8, "much")])
    run_directory(tmp_path / "bare", [(8, 1.0)])
    (tmp_path / "bare" / "config.json").unlink()
    run_directory(tmp_path / "copy", [(8, 1.0)])
    run_directory(tmp_path / "broken", [(8, 1.0)])
    (tmp_path / "broken" / "config.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["plot", *arguments])
    with pytest.raises(UsageError) as refused:
        plot.main()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*.png"))


def test_of_a_run_that_is_there_twice_the_longer_is_drawn(tmp_path: Path, python: Command) -> None:
    """In a directory of runs, as after a command was given twice; if both are named, they are
    refused."""
    rows = [(8, 1.0), (16, 2.0), (24, 3.0)]
    for name, count in (("a", 1), ("a-2", 3), ("a-3", 3), ("b", 2)):
        run_directory(tmp_path / "runs" / name, rows[:count], seed=int(name == "b"))
    result = python("-m", "trpo_mpi.plot", "runs", "runs/", "runs/a")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "2 runs drawn in curves.png\n"
    reason = "and not longer: one recipe, the same settings and seed"
    assert result.stderr.splitlines() == [
        f"left out: runs/{less} is the run runs/a-2, {reason}" for less in ("a", "a-3")
    ]


def test_a_refusal_is_printed_once(python: Command) -> None:
    result = python("-m", "trpo_mpi.plot", "nowhere")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "nowhere is not a run directory" in result.stderr
