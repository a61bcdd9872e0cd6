"""Moments merged from parts against those of the whole, far from zero too."""

import numpy as np
import pytest

from trpo_mpi.normalization import (
    CLIP,
    Moments,
    ObservationNormalizer,
    column_moments,
    pool,
    reward_scale,
)

FAR = pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1e6, 1.0), (-3e8, 0.5)])


def moments_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `pool`, with every value counting."""
    columns, steps, _ = values.shape
    return np.full(columns, steps), *column_moments(values, np.ones((columns, steps), bool))


def data(mean: float, deviation: float, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, deviation, shape)


@FAR
def test_merged_moments_are_the_pooled_ones(mean: float, deviation: float) -> None:
    values = data(mean, deviation, 1000, 3)
    moments = Moments.none(3)
    for part in np.split(values, [1, 10, 400]):
        centre = part.mean(0)
        moments.merge(len(part), centre, ((part - centre) ** 2).sum(0))
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.deviation, values.std(0), rtol=1e-6)


@FAR
def test_columns_pooled_are_the_whole(mean: float, deviation: float) -> None:
    values = data(mean, deviation, 7, 50, 3) + np.arange(7)[:, None, None]
    count, centre, m2 = pool(*moments_of(values))
    flat = values.reshape(-1, 3)
    assert count == 350
    np.testing.assert_allclose(centre, flat.mean(0), rtol=1e-14)
    np.testing.assert_allclose(m2 / count, flat.var(0), rtol=1e-6)


def test_column_moments_by_hand() -> None:
    counts, means, m2 = moments_of(np.array([[[1.0], [3.0]], [[10.0], [10.0]]]))
    assert means.tolist() == [[2], [10]]
    assert m2.tolist() == [[2], [0]]
    assert pool(counts, means, m2)[1:] == (np.array([6.0]), np.array([2 + 2 * (16 + 16)]))


@FAR
def test_only_what_counts_is_pooled(mean: float, deviation: float) -> None:
    """Columns of 50, 37 and no values that count; the others are junk."""
    values = data(mean, deviation, 3, 50, 2) + np.arange(3)[:, None, None]
    mask = np.random.default_rng(1).permutation(np.arange(150).reshape(3, 50) % 50, axis=1)
    mask = mask < np.array([50, 37, 0])[:, None]
    values[~mask] = 1e30
    count, centre, m2 = pool(mask.sum(1), *column_moments(values, mask))
    flat = values[mask]
    assert count == 87
    np.testing.assert_allclose(centre, flat.mean(0), rtol=1e-14)
    np.testing.assert_allclose(m2 / count, flat.var(0), rtol=1e-6)


def test_a_columns_moments_have_the_same_bits_alone() -> None:
    values = data(1.0, 1.0, 13, 37, 5)
    _, means, m2 = moments_of(values)
    for i in range(13):
        _, mean, spread = moments_of(values[i : i + 1])
        assert np.array_equal(mean[0], means[i])
        assert np.array_equal(spread[0], m2[i])


def test_nothing_merged_changes_nothing() -> None:
    moments = Moments.none(2)
    np.testing.assert_allclose(moments.deviation, [1, 1])
    moments.merge(0, np.array([np.nan, 3]), np.zeros(2))
    assert moments.count == 0
    assert moments.mean.tolist() == [0, 0]


@FAR
def test_normalised_observations_are_standard(mean: float, deviation: float) -> None:
    values = data(mean, deviation, 4, 500, 3)
    scaled = ObservationNormalizer(Moments(*pool(*moments_of(values))))(values)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 1)), 1, atol=1e-4)


def test_clips_and_survives_a_constant() -> None:
    normalizer = ObservationNormalizer(Moments(100, np.array([5.0, 0.0]), np.array([0.0, 100.0])))
    rows = np.array([[5.0, 1e9], [6.0, -1e9], [5.0, 3.0]])
    np.testing.assert_allclose(normalizer(rows), [[0, CLIP], [CLIP, -CLIP], [0, 3]], rtol=1e-6)


def test_a_small_deviation_is_not_blown_up() -> None:
    """Below the floor of 0.1, observations are divided by the floor."""
    normalizer = ObservationNormalizer(Moments(100, np.array([2.0]), np.array([100 * 0.01**2])))
    np.testing.assert_allclose(normalizer(np.array([[2.05]])), [[0.5]], rtol=1e-6)


def test_rewards_are_not_blown_up_where_none_has_been_seen() -> None:
    """Divided by the deviation of returns, once there is one."""
    moments = Moments.none(1)
    assert reward_scale(moments, 0.5) == 0.5
    moments.merge(1000, np.zeros(1), np.zeros(1))
    assert reward_scale(moments, 0.5) == 0.5
    moments.merge(1000, np.zeros(1), np.full(1, 2000 * 9.0))
    assert reward_scale(moments, 0.5) == pytest.approx(0.5 / 3)
    assert reward_scale(None, 0.5) == 0.5


def test_equal_returns_have_no_deviation_by_rounding() -> None:
    moments = Moments.none(1)
    for _ in range(3):
        values = np.full((4, 7, 1), -0.1)
        moments.merge(*pool(*moments_of(values)))
    moments.m2 += 4e-31
    assert reward_scale(moments, 0.5) == 0.5


def test_no_columns_count() -> None:
    count, mean, m2 = pool(np.zeros(2), np.ones((2, 3)), np.ones((2, 3)))
    assert (count, mean.tolist(), m2.tolist()) == (0, [0, 0, 0], [0, 0, 0])


def test_switched_off_it_only_converts() -> None:
    rows = np.array([[1e6, -2.5]])
    scaled = ObservationNormalizer(None)(rows)
    assert np.array_equal(scaled, rows.astype(np.float32))
