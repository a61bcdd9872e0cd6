"""Conjugate gradient against a direct solver."""

import itertools

import numpy as np
import pytest

from trpo_mpi.algorithms.conjugate_gradient import conjugate_gradient


def positive_definite(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    a = stream.standard_normal((size, size))
    return a @ a.T + np.eye(size), stream.standard_normal(size)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_solves_exactly_in_as_many_steps_as_dimensions(size: int) -> None:
    f, g = positive_definite(size)
    solution = conjugate_gradient(lambda v: f @ v, g, size)
    np.testing.assert_allclose(solution.x, np.linalg.solve(f, g), rtol=1e-8)
    assert solution.steps == size


def test_residual_is_the_true_one() -> None:
    """So that x'Fx = x'(g - r) needs no further product, however early the iteration stops."""
    f, g = positive_definite(20)
    for iterations in (1, 3, 10):
        solution = conjugate_gradient(lambda v: f @ v, g, iterations)
        x = solution.x
        np.testing.assert_allclose(solution.residual, g - f @ x, atol=1e-10)
        np.testing.assert_allclose(x @ (g - solution.residual), x @ f @ x, rtol=1e-10)


def test_nearer_with_every_step_in_the_norm_of_f() -> None:
    f, g = positive_definite(20)
    true = np.linalg.solve(f, g)
    errors = [conjugate_gradient(lambda v: f @ v, g, n).x - true for n in range(1, 12)]
    lengths = [e @ f @ e for e in errors]
    assert all(b < a for a, b in itertools.pairwise(lengths))


def test_stands_still_once_solved() -> None:
    """The products go on, since other ranks may not be done yet; x does not move."""
    calls = []
    f, g = positive_definite(4)

    def product(v: np.ndarray) -> np.ndarray:
        calls.append(v)
        return f @ v

    solution = conjugate_gradient(product, g, 50)
    assert len(calls) == 50
    assert 4 <= solution.steps < 8
    shorter = conjugate_gradient(product, g, solution.steps)
    assert np.array_equal(solution.x, shorter.x)
    assert np.array_equal(solution.residual, shorter.residual)


def test_no_gradient_no_step() -> None:
    f, _ = positive_definite(6)
    solution = conjugate_gradient(lambda v: f @ v, np.zeros(6), 10)
    assert np.array_equal(solution.x, np.zeros(6))
    assert solution.steps == 0
    assert not solution.residual.any()


def test_stops_where_the_curvature_is_not_positive() -> None:
    """Along the second axis there is none: x stays where the earlier steps left it."""
    f = np.diag([2.0, 0.0])
    g = np.array([0.0, 1.0])
    assert np.array_equal(conjugate_gradient(lambda v: f @ v, g, 5).x, [0.0, 0.0])
    assert np.array_equal(conjugate_gradient(lambda v: -v, g, 5).x, [0.0, 0.0])
