"""The exact sum: right to its stated accuracy, and the same bits in any order."""

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest

from trpo_mpi.parallel.exact_sum import HEADROOM, SLACK, ExactSum

pytestmark = pytest.mark.filterwarnings("error")

COLUMNS = 16


def alone(columns: int = COLUMNS) -> ExactSum:
    """The sum on a single rank."""
    return ExactSum(columns, lambda _: None)


def counted(columns: int) -> tuple[ExactSum, list[int]]:
    """The same, with a list that grows with each reduction."""
    calls: list[int] = []
    return ExactSum(columns, lambda buffer: calls.append(len(buffer))), calls


def on_ranks(parts: list[np.ndarray]) -> list[np.ndarray | Exception]:
    """The sum of all columns as each of several ranks, played by threads, computes it."""
    size = len(parts)
    barrier = threading.Barrier(size)
    buffers: list[np.ndarray] = [np.empty(0)] * size
    outcomes: list[np.ndarray | Exception] = [np.empty(0)] * size

    def allreduce(rank: int) -> Callable[[np.ndarray], None]:
        def reduce(buffer: np.ndarray) -> None:
            buffers[rank] = buffer.copy()
            barrier.wait(10)
            total = np.sum(buffers, axis=0)
            barrier.wait(10)
            buffer[:] = total

        return reduce

    def play(rank: int) -> None:
        try:
            exact = ExactSum(sum(len(part) for part in parts), allreduce(rank))
            outcomes[rank] = exact("x", parts[rank])
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def true_sum(rows: np.ndarray) -> np.ndarray:
    return np.array([math.fsum(column) for column in rows.T.tolist()])


def stated_error(rows: np.ndarray, lost: int = 0) -> float:
    """C * 2**-(61 - log2 C - HEADROOM) of the largest magnitude, and float64's own rounding."""
    columns = max(len(rows), 2)
    bits = 61 - math.ceil(math.log2(columns)) - HEADROOM - lost
    return (columns * 2.0**-bits + columns * 2.0**-53) * float(np.abs(rows).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e4, 1e15])
@pytest.mark.parametrize("columns", [1, 2, 7, 16, 100])
def test_equals_fsum_within_the_stated_accuracy(
    dtype: type[np.floating], scale: float, columns: int
) -> None:
    stream = np.random.default_rng(columns)
    exact = alone(columns)
    for lost in (SLACK, 0, 0):  # the first sum guesses the scale, the others know it
        rows = (scale * stream.uniform(-1, 1, (columns, 500))).astype(dtype)
        rows[0, 0] = scale
        error = stated_error(rows, lost)
        np.testing.assert_allclose(exact("x", rows), true_sum(rows), rtol=0, atol=error)
        assert error < 2e-7 * scale


def test_cancellation_leaves_what_is_left() -> None:
    rows = np.array([[1.0], [2.0**-30], [-1.0]])
    assert alone(3)("x", rows) == [2.0**-30]


def test_rounds_to_the_nearest() -> None:
    """In each column 0.9 of a unit lies beyond the last digit, at the worst magnitude."""
    unit = 2.0 ** (1 + HEADROOM - 57)
    rows = np.tile([1.0, 2.0**-10 + 0.9 * unit], (COLUMNS, 1))
    exact = alone()
    exact("x", rows)
    error = stated_error(rows)
    np.testing.assert_allclose(exact("x", rows), true_sum(rows), rtol=0, atol=error)


def test_the_largest_sum_without_a_repetition_does_not_overflow() -> None:
    """All columns grow by the whole headroom at once."""
    for columns in (1, 2, 3, 16, 17):
        exact, calls = counted(columns)
        just_below = np.nextafter(1.0, 0)
        for _ in range(2):
            exact("x", np.full((columns, 1), just_below))
        before = len(calls)
        rows = np.full((columns, 1), just_below * 2.0**HEADROOM)
        np.testing.assert_allclose(exact("x", rows), true_sum(rows), rtol=1e-12)
        assert len(calls) == before + 1


def test_order_and_ranks_do_not_change_a_bit() -> None:
    stream = np.random.default_rng(0)
    rows = (stream.standard_normal((COLUMNS, 300)) * 10.0 ** stream.integers(-6, 3, 300)).astype(
        np.float32
    )
    expected = alone()("x", rows)
    assert not np.array_equal(rows.sum(0), rows[::-1].sum(0))  # as a plain sum does
    for _ in range(10):
        assert np.array_equal(alone()("x", stream.permutation(rows)), expected)
    for edges in ([8], [5, 10], [1, 2, 15], list(range(1, COLUMNS))):
        for outcome in on_ranks(np.split(rows, edges)):
            assert np.array_equal(outcome, expected)


def test_repeats_only_beyond_headroom_and_slack_and_stays_right() -> None:
    exact, calls = counted(2)
    rows = np.array([[0.75, -0.3], [0.1, 0.6]])
    expected = true_sum(rows)

    def reductions(factor: float) -> int:
        before = len(calls)
        np.testing.assert_allclose(exact("x", rows * factor), expected * factor, rtol=1e-9)
        return len(calls) - before

    reductions(1.0)
    assert reductions(1.0) == 1
    assert reductions(2.0**HEADROOM) == 1
    assert reductions(2.0 ** (2 * HEADROOM + 1)) == 2
    assert reductions(2.0 ** (3 * HEADROOM + 2)) == 2
    # The headroom is there to lose before the slack is.
    assert reductions(2.0 ** (3 * HEADROOM + 2 - (SLACK - HEADROOM))) == 1
    assert reductions(2.0 ** (2 * HEADROOM - 2 * SLACK)) == 2


def test_growth_on_one_rank_repeats_on_all() -> None:
    """Only rank 1 sees that the guess, 1 for a first sum, is too small."""
    parts = [np.full((1, 2), 0.25), np.full((2, 2), 1e7)]
    for outcome in on_ranks(parts):
        assert np.array_equal(outcome, [2e7 + 0.25] * 2)


def test_each_quantity_has_its_own_scale() -> None:
    exact, calls = counted(2)
    for _ in range(2):
        exact("large", np.full((2, 1), 1e9))
        exact("small", np.full((2, 1), 1e-9))
    assert len(calls) == 4 + 2


def test_zeros() -> None:
    exact, calls = counted(3)
    for _ in range(2):
        assert np.array_equal(exact("x", np.zeros((3, 4), np.float32)), np.zeros(4))
    assert len(calls) == 2
    assert np.array_equal(exact("x", np.ones((3, 4), np.float32)), np.full(4, 3.0))


@pytest.mark.parametrize("magnitude", [1e18, 1e19, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_numbers_are_summed_or_refused_never_wrong(
    magnitude: float, dtype: type[np.floating]
) -> None:
    rows = np.array([[magnitude, 1.0], [magnitude / 3, 2.0]], dtype)
    exact = alone(2)
    for _ in range(2):
        try:
            total = exact("x", rows)
        except FloatingPointError:
            continue
        np.testing.assert_allclose(total, true_sum(rows), rtol=0, atol=stated_error(rows))


@pytest.mark.parametrize("magnitude", [1e-17, 1e-20, 1e-30])
def test_tiny_numbers_are_off_by_next_to_nothing(magnitude: float) -> None:
    """Below 2**-60 magnitudes are no longer told apart: the error stays below that."""
    rows = np.array([[magnitude], [magnitude / 3]])
    exact = alone(2)
    for _ in range(2):
        assert abs(exact("x", rows)[0] - true_sum(rows)[0]) < 2.0**-57


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rank", [0, 2])
def test_not_finite_raises_on_every_rank(value: float, rank: int) -> None:
    parts = [np.ones((2, 5)) for _ in range(3)]
    parts[rank][1, 3] = value
    for outcome in on_ranks(parts):
        assert isinstance(outcome, FloatingPointError)
        assert "the x is not finite" in str(outcome)


def test_a_refused_sum_leaves_the_scale_alone() -> None:
    exact, calls = counted(2)
    exact("x", np.full((2, 1), 3e5))
    before = dict(exact.exponents)
    with pytest.raises(FloatingPointError):
        exact("x", np.full((2, 1), np.nan))
    assert exact.exponents == before
    calls.clear()
    assert exact("x", np.full((2, 1), 3e5)) == [6e5]
    assert len(calls) == 1
