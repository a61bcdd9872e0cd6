"""The policy as a tf.function and as the NumPy actor; its parameters and how they begin."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf

from trpo_mpi.policies.distributions import DiagonalGaussian
from trpo_mpi.policies.mlp import MlpPolicy, critic_network
from trpo_mpi.policies.networks import BLOCK, Mlp, NumpyMlp, safe_block

SIZE = 11
BOX = gym.spaces.Box(-1, 1, (3,))
SPACES = pytest.mark.parametrize("space", [BOX, gym.spaces.Discrete(5)], ids=["box", "discrete"])


def make_policy(
    space: gym.Space[Any], hidden: tuple[int, ...] = (64, 64)
) -> tuple[MlpPolicy, np.ndarray]:
    """A policy with parameters far from their small beginning."""
    policy = MlpPolicy(SIZE, space, hidden, -0.5)
    theta = np.random.default_rng(0).standard_normal(policy.num_parameters) * 0.3
    return policy, theta.astype(np.float32)


def observations(rows: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, SIZE)).astype(np.float32)


def parameters(policy: MlpPolicy, theta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What the `tf.function` that the update uses gives for each row."""
    function = tf.function(lambda x: policy(policy.network.weights(theta[None]), x[None])[0])
    return function(tf.constant(rows)).numpy()


@SPACES
@pytest.mark.parametrize("hidden", [(), (7,), (64, 64), (10, 20, 30)], ids=str)
def test_actor_equals_the_tf_function(space: gym.Space[Any], hidden: tuple[int, ...]) -> None:
    policy, theta = make_policy(space, hidden)
    rows = observations(50)
    given = parameters(policy, theta, rows)
    size = policy.distribution.size
    noise = policy.distribution.draw_noise(np.random.default_rng(2), 50)
    actor = policy.actor(theta)
    if isinstance(policy.distribution, DiagonalGaussian):
        mean, std = given[:, :size], np.exp(given[:, size:])
        np.testing.assert_allclose(actor.mode(rows), mean, atol=1e-5)
        np.testing.assert_allclose(actor.sample(rows, noise), mean + std * noise, atol=1e-5)
    else:
        assert np.array_equal(actor.mode(rows), given.argmax(1))
        assert np.array_equal(actor.sample(rows, noise), (given + noise).argmax(1))
        assert len(set(actor.mode(rows))) > 1


@pytest.mark.parametrize("hidden", [(64, 64), (50,)], ids=str)
def test_a_rows_bits_do_not_depend_on_the_other_rows(hidden: tuple[int, ...]) -> None:
    policy, theta = make_policy(BOX, hidden)
    actor = policy.actor(theta)
    rows = observations(40)
    expected = actor.mode(rows)
    for n in range(1, 41):
        assert np.array_equal(actor.mode(rows[:n]), expected[:n])
        assert np.array_equal(actor.mode(rows[-n:]), expected[-n:])
    order = np.random.default_rng(3).permutation(40)
    assert np.array_equal(actor.mode(rows[order]), expected[order])


def test_single_rows_where_a_block_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a product's bits do depend on the other rows, as they may on an unknown BLAS."""
    policy, theta = make_policy(BOX)
    assert safe_block(policy.network, theta) == BLOCK
    exact = NumpyMlp._forward
    monkeypatch.setattr(
        NumpyMlp, "_forward", lambda self, x: exact(self, x) + x.sum(dtype=np.float32)
    )
    block = safe_block(policy.network, theta)
    assert block == 1
    actor, rows = policy.actor(theta, block), observations(5)
    assert np.array_equal(actor.mode(rows)[2:], actor.mode(rows[2:]))


def test_orthogonal_initialisation() -> None:
    """Hidden layers have gain sqrt 2, the policy's last 0.01, the critic's 1; biases are 0."""
    policy = MlpPolicy(SIZE, BOX, (64, 32), -0.5)
    critic = critic_network(SIZE, (64, 32))
    theta = policy.initialise(np.random.default_rng(0))
    for network, flat, last in (
        (policy.network, theta, 0.01),
        (critic, critic.initialise(np.random.default_rng(0)), 1.0),
    ):
        matrices = network.split(flat)
        for layer, gain in enumerate((np.sqrt(2), np.sqrt(2), last)):
            w, bias = matrices[2 * layer : 2 * layer + 2]
            small = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
            np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=1e-6)
            assert np.array_equal(bias, np.zeros_like(bias))
    assert theta[-3:].tolist() == [-0.5] * 3
    assert theta.dtype == np.float32


def test_initialisation_favours_no_direction() -> None:
    """QR alone gives a fixed sign on the diagonal; uniform ones are as often negative."""
    mlp = Mlp([4, 4], last_gain=1.0)
    stream = np.random.default_rng(0)
    signs = [np.sign(np.diag(mlp.split(mlp.initialise(stream))[0])) for _ in range(500)]
    assert np.abs(np.mean(signs, axis=0)).max() < 0.2


def test_layout_of_the_parameters() -> None:
    """One vector and its matrices are the same numbers, in NumPy and in TensorFlow."""
    mlp = Mlp([3, 4, 2], last_gain=1.0, extra=5)
    assert mlp.num_parameters == 3 * 4 + 4 + 4 * 2 + 2 + 5
    flat = np.arange(mlp.num_parameters, dtype=np.float32)
    parts = mlp.split(flat)
    assert [part.shape for part in parts] == [(3, 4), (1, 4), (4, 2), (1, 2), (1, 5)]
    assert np.array_equal(np.concatenate([part.ravel() for part in parts]), flat)
    copies = mlp.weights(tf.constant(np.stack([flat, flat + 1])))
    for part, copy in zip(parts, copies, strict=True):
        assert np.array_equal(copy, np.stack([part, part + 1]))


def test_network_is_the_formula() -> None:
    """Worked in NumPy, for columns with parameters of their own."""
    mlp = Mlp([3, 4, 2], last_gain=1.0)
    flat = np.random.default_rng(0).standard_normal((2, mlp.num_parameters)).astype(np.float32)
    inputs = np.random.default_rng(1).standard_normal((2, 6, 3)).astype(np.float32)
    output = mlp(mlp.weights(tf.constant(flat)), tf.constant(inputs))
    for column in range(2):
        w0, b0, w1, b1 = mlp.split(flat[column])
        expected = np.tanh(inputs[column] @ w0 + b0) @ w1 + b1
        np.testing.assert_allclose(output[column], expected, atol=1e-5)
