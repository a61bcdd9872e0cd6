"""`plot --diagnostics`: which panels a page has, and what they show."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_envs import Constant
from toy_training import toy_trainer, train

from trpo_mpi import plot
from trpo_mpi.errors import UsageError
from trpo_mpi.plotting import diagnostics
from trpo_mpi.run_directory.progress import ProgressFile
from trpo_mpi.run_directory.reading import Run, read_run

STATISTICS = {
    "return": "mean of last 100 episodes",
    "KL(old || new) of a policy step": "nats",
    "entropy of the policy": "nats",
    "variance explained by the critic": "share of the targets' variance",
}
SEARCH = {"line search: step taken (0: refused)": "share of the full step"}
STEPSIZE = {"Adam's step size, policy": "step size"}
TIME = {"time of an iteration, by phase": "seconds (running median)"}
WAITING = {"time of an iteration in MPI, by rank": "seconds (running median)"}


def run_of(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Run:
    """The run that a directory with these rows and settings is read as."""
    path.mkdir()
    record = {"settings": {"env": "Toy-v0", "seed": 0, **settings}, "recipe": "default"}
    (path / "config.json").write_text(json.dumps(record))
    file = ProgressFile(path)
    for row in rows:
        file.add(row)
    return read_run(path)


def row(iteration: int, **more: float) -> dict[str, Any]:
    """A row of 1000 time steps in 10 s, 9 of them in the phases."""
    times = {"sample_seconds": 5.0, "policy_seconds": 3.0, "critic_seconds": 1.0}
    counts = {"timesteps": 1000 * iteration, "timesteps_per_batch": 1000, "steps_per_second": 100.0}
    return {"iteration": iteration, "kl": 0.005, "max_kl": 0.01} | times | counts | more


def panels_of(figure: Any) -> dict[str, str]:
    assert {axes.get_xlabel() for axes in figure.axes} == {"time steps"}
    return {axes.get_title(): axes.get_ylabel() for axes in figure.axes}


@pytest.mark.parametrize(
    ("algo", "special"),
    [
        ("trpo", SEARCH),
        ("npg", {}),
        ("ppo", STEPSIZE | {"clip range": "distance of a ratio from 1"}),
        ("kl-penalty", STEPSIZE | {"weight of the KL penalty": "beta"}),
    ],
)
def test_a_page_has_what_the_policy_step_reports(
    tmp_path: Path, algo: str, special: dict[str, str]
) -> None:
    rows = train(toy_trainer(Constant, algo=algo, timesteps_per_batch=160, num_timesteps=480))
    figure = diagnostics.draw("page", [run_of(tmp_path / "run", rows, algo=algo)])
    assert panels_of(figure) == STATISTICS | special | TIME
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries[0] == "seed 0"
    assert any("KL" in entry for entry in entries) == (algo != "ppo")
    kl = figure.axes[1]
    assert len(kl.get_lines()) == len(entries)
    if algo == "trpo":
        steps, limit = kl.get_lines()
        assert (steps.get_ydata() <= limit.get_ydata()).all()


def test_times_by_hand(tmp_path: Path) -> None:
    """Time in no phase is `other`; a row that trained nothing is left out."""
    first = row(1) | {"policy_seconds": None, "critic_seconds": None}
    runs = [
        run_of(tmp_path / "a", [first, row(2), row(3)]),
        run_of(tmp_path / "b", [first, row(2, sample_seconds=2.0), row(3, sample_seconds=2.0)]),
    ]
    figure = diagnostics.draw("page", runs)
    axes = next(axes for axes in figure.axes if axes.get_title() in TIME)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["sample", "policy", "critic", "other"]
    tops = [stack.get_paths()[0].vertices[:, 1].max() for stack in axes.collections]
    np.testing.assert_allclose(tops, [3.5, 6.5, 7.5, 10])
    assert axes.get_xlim()[0] == 0


def test_waiting_of_all_ranks_or_of_rank_0(tmp_path: Path) -> None:
    """An older version knew rank 0 alone; a single rank waits for nobody."""
    waits = {"mpi_seconds": 2.0, "mpi_min_seconds": 1.0, "mpi_max_seconds": 4.0}
    old = {"mpi_seconds": 2.0}
    for name, more, bands in (("new", waits, 1), ("old", old, 0)):
        figure = diagnostics.draw(
            "page", [run_of(tmp_path / name, [row(1, **more), row(2, **more)])]
        )
        axes = figure.axes[-1]
        assert axes.get_title() in WAITING
        assert axes.get_lines()[0].get_ydata().tolist() == [2, 2]
        assert len(axes.collections) == bands
        if bands:
            vertices = axes.collections[0].get_paths()[0].vertices[:, 1]
            assert (vertices.min(), vertices.max()) == (1, 4)
    alone = run_of(tmp_path / "alone", [row(1, mpi_seconds=0.0), row(2, mpi_seconds=0.0)])
    assert not set(panels_of(diagnostics.draw("page", [alone]))) & set(WAITING)


def test_a_critic_that_knew_nothing_does_not_set_the_scale(tmp_path: Path) -> None:
    rows = [row(i, explained_variance=x) for i, x in enumerate((-40.0, 0.2, 0.7), 1)]
    figure = diagnostics.draw("page", [run_of(tmp_path / "a", rows)])
    axes = next(axes for axes in figure.axes if "variance" in axes.get_title())
    assert axes.get_ylim() == (-0.5, 1.05)


def test_one_slow_row_does_not_set_the_scale() -> None:
    seconds = np.ones(500)
    seconds[123] = 1000
    steps, medians = diagnostics.block_medians(np.arange(500), seconds)
    assert medians.tolist() == [1.0] * 50
    assert steps[0] == 4.5
    few = diagnostics.block_medians(np.arange(3), np.array([1.0, 9, 2]))
    assert few[1].tolist() == [1, 9, 2]


def test_a_page_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        for gamma in (0.9, 0.99):
            run_of(tmp_path / f"{gamma}-{seed}", [row(1), row(2)], seed=seed, gamma=gamma)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["plot", ".", "--diagnostics", "--output", "page.png"])
    with pytest.raises(UsageError, match=r"must end in \.pdf: there are 2 pages"):
        plot.main()
    monkeypatch.setattr("sys.argv", ["plot", ".", "--diagnostics"])
    assert plot.main() == 0
    assert (tmp_path / "diagnostics.pdf").read_bytes().count(b"/Type /Page ") == 2
