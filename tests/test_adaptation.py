"""kvfrans' rule, on returns whose consequences are worked by hand."""

from typing import Any

import pytest
from toy_envs import Counter
from toy_training import toy_trainer, train

from trpo_mpi.adaptation import EVERY, Adaptation
from trpo_mpi.config import Config
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import batch_grid, largest_grid


def adaptation(adapt: str, max_kl: float = 0.005, batch: int = 10_000) -> Adaptation:
    config = Config(adapt=adapt, max_kl=max_kl, timesteps_per_batch=batch, num_envs=20)
    return Adaptation(config, batch_grid(config, 1))


def follow(subject: Adaptation, *sums: float) -> list[tuple[float, int]]:
    """Ten iterations for each sum of returns; the KL bound and the horizon after each ten."""
    given = []
    for total in sums:
        for _ in range(EVERY):
            subject.follow(total / EVERY)
        given.append((round(subject.max_kl, 6), subject.horizon))
    return given


def test_better_returns_widen_the_region_and_shorten_the_batch() -> None:
    """The first ten count as better, and so does an equal sum."""
    assert follow(adaptation("both"), 10, 11, 11, 5) == [
        (0.0055, 485),
        (0.006, 470),
        (0.0065, 455),
        (0.006, 470),
    ]


@pytest.mark.parametrize(
    ("adapt", "expected"), [("none", (0.005, 500)), ("kl", (0.0055, 500)), ("batch", (0.005, 485))]
)
def test_only_what_is_asked_for_changes(adapt: str, expected: tuple[float, int]) -> None:
    assert follow(adaptation(adapt), 1) == [expected]


def test_nothing_changes_before_ten_iterations() -> None:
    subject = adaptation("both")
    for _ in range(9):
        subject.follow(1.0)
    assert (subject.max_kl, subject.horizon) == (0.005, 500)


def test_bounds_hold() -> None:
    up = adaptation("both", 0.0098, 1300)
    assert follow(up, 1, 2, 3)[-1] == (0.01, 60)
    down = adaptation("both", 0.0012, 19_900)
    assert follow(down, 9, 8, 7, 6)[-1] == (0.001, 1000)


def test_it_goes_on_where_it_was() -> None:
    one, two = adaptation("both"), adaptation("both")
    follow(one, 5, 4)
    for _ in range(7):
        one.follow(1.0)
    two.resume(one.tree())
    for _ in range(3):
        one.follow(1.0)
        two.follow(1.0)
    assert one.tree() == two.tree()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"adapt": "kl", "max_kl": 0.05},
            "--max-kl is 0.05; with --adapt kl it must be from 0.001",
        ),
        ({"adapt": "kl", "algo": "ppo"}, "--algo ppo has no trust region"),
        ({"adapt": "both", "timesteps_per_batch": 512}, "--timesteps-per-batch is 512; with"),
    ],
)
def test_what_can_not_be_adapted_is_refused(settings: dict[str, Any], words: str) -> None:
    config = Config(**settings)

    def check() -> None:
        config.validate()
        batch_grid(config, 1)

    with pytest.raises(UsageError, match=words):
        check()


def test_a_batch_may_grow_to_its_bound() -> None:
    """The memory is checked for that."""
    for adapt, horizon in (("kl", 80), ("both", 1250)):
        config = Config(adapt=adapt, timesteps_per_batch=1280)
        assert largest_grid(config, batch_grid(config, 1), None).horizon == horizon


def test_without_adaptation_a_resumed_run_takes_the_settings() -> None:
    """A changed trust region takes precedence over the checkpoint's."""
    fixed = adaptation("none", 0.005)
    fixed.resume(adaptation("none", 0.009, 5000).tree())
    assert (fixed.max_kl, fixed.horizon) == (0.005, 500)
    begins = adaptation("both", 0.002, 2000)
    begins.resume(adaptation("none", 0.02, 5000).tree())
    assert (begins.max_kl, begins.horizon) == (0.002, 100)


@pytest.mark.parametrize(
    "policy", ["MlpPolicy", pytest.param("MlpLstmPolicy", marks=pytest.mark.long)]
)
def test_a_run_whose_batch_changes(policy: str) -> None:
    """Batches follow the returns, steps are counted, and a resumed run has the same bits."""
    settings = {
        "policy": policy,
        "lstm_units": 4,
        "adapt": "both",
        "num_envs": 4,
        "timesteps_per_batch": 1300,
        "num_timesteps": 40_000,
        "max_kl": 0.001,
    }
    whole, first, second = (toy_trainer(Counter, **settings) for _ in range(3))
    rows = train(whole)
    sizes = [row["timesteps_per_batch"] for row in rows]
    assert sizes[0] == 1300
    assert {1200, 1300} <= set(sizes)
    assert sum(sizes) == rows[-1]["timesteps"]
    # Returns rise for ever, so the region widens after every ten iterations, and never decays.
    wider = [0.001 + 0.0005 * (i // EVERY) for i in range(len(rows))]
    assert [row["max_kl"] for row in rows[1:]] == pytest.approx(wider[1:], rel=1e-9)
    assert wider[-1] > 0.002
    for _ in range(15):
        first.iterate()
    second.resume(first.model(), first.best, first.state(), first.column_states())
    train(second)
    assert second._fingerprint() == whole._fingerprint()
