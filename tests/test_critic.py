"""The critic's optimiser and fit against textbook formulas."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from toy_policies import mlp_critic

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.critic import Critic
from trpo_mpi.parallel.communicator import Communicator


def nothing(rows: np.ndarray) -> np.ndarray:
    """The memory, of size 0, that goes with observations of a policy that has none."""
    return rows[..., :0]


def make_critic(columns: int = 2, steps: int = 16, rows: int = 8) -> Critic:
    network = mlp_critic(3, (8,))
    return Critic(network, network.initialise(np.random.default_rng(0)), columns, steps, rows)


def test_adam_is_kingma_and_bas() -> None:
    """Algorithm 1, bias corrections written out, in float64."""
    stream = np.random.default_rng(0)
    adam = Adam(4)
    x = expected = stream.standard_normal(4).astype(np.float32)
    m = v = np.zeros(4)
    for t in range(1, 6):
        g = stream.standard_normal(4).astype(np.float32)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        expected = expected - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = adam.update(x, g, 0.01)
        assert x.dtype == np.float32
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_values_of_a_row_do_not_depend_on_the_other_rows() -> None:
    critic = make_critic()
    rows = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    expected = critic.values(rows, nothing(rows))
    for n in range(1, 40):
        assert np.array_equal(critic.values(rows[:n], nothing(rows[:n])), expected[:n])
        assert np.array_equal(critic.values(rows[-n:], nothing(rows[-n:])), expected[-n:])


def test_gradient_is_that_of_half_the_squared_error_of_the_chosen_steps() -> None:
    critic = make_critic(columns=2, steps=8, rows=3)
    stream = np.random.default_rng(2)
    observations = stream.standard_normal((2, 8, 3)).astype(np.float32)
    targets = stream.standard_normal((2, 8)).astype(np.float32)
    chosen = np.array([5, 1, 6, 0, 0, 0, 0, 0], np.int32)
    weight = np.tile(np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32), (2, 1))
    given = critic._gradient_kernel(
        critic.phi, chosen, weight, observations, nothing(observations), targets
    )
    phi = tf.Variable(critic.phi[None])
    for column in range(2):
        with tf.GradientTape() as tape:
            network = critic.network
            seen = observations[column, [5, 1, 6]][None]
            values = network(network.weights(phi), seen, nothing(seen))[0]
            loss = 0.5 * tf.reduce_sum((values - targets[column, [5, 1, 6]]) ** 2)
        np.testing.assert_allclose(given[column], tape.gradient(loss, phi)[0], atol=1e-5)


@pytest.mark.parametrize("steps", [16, 11])
def test_an_epoch_uses_every_step_once(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In minibatches whose mean gradient Adam gets; the padding at the end is never used."""
    critic = make_critic()
    seen, means = [], []
    kernel = critic._gradient_kernel

    def recording(*args: Any) -> Any:
        chosen, weight = args[1:3]
        seen.append(chosen[weight[0] > 0].tolist())
        rows = kernel(*args)
        means.append(rows.numpy().sum(0) / (2 * len(seen[-1])))
        return rows

    given: list[np.ndarray] = []
    update = critic.adam.update
    critic._gradient_kernel = recording
    monkeypatch.setattr(
        critic.adam, "update", lambda x, g, s: (given.append(g), update(x, g, s))[1]
    )
    stream = np.random.default_rng(3)
    data = stream.standard_normal((2, 16, 3)).astype(np.float32)
    targets = stream.standard_normal((2, 16)).astype(np.float32)
    counted = np.ones((2, steps), bool)
    critic.fit(data, nothing(data), targets, counted, 1e-3, 3, stream, Communicator(None, 2))
    epochs = [seen[i : i + 2] for i in range(0, 6, 2)]
    for first, second in epochs:
        assert sorted(first + second) == list(range(steps))
        assert len(first) == 8
    assert epochs[0] != epochs[1]
    np.testing.assert_allclose(given, means, atol=1e-6)


def test_steps_that_do_not_count_change_nothing() -> None:
    """Whatever they hold; and a minibatch's mean is over the steps that count."""
    stream = np.random.default_rng(5)
    data = stream.standard_normal((2, 16, 3)).astype(np.float32)
    targets = stream.standard_normal((2, 16)).astype(np.float32)
    counted = stream.random((2, 11)) < 0.6
    results = []
    for junk in (0.0, 1e3):
        data[:, :11][~counted], targets[:, :11][~counted] = junk, junk
        critic = make_critic()
        order = np.random.default_rng(6)
        critic.fit(data, nothing(data), targets, counted, 1e-3, 3, order, Communicator(None, 2))
        results.append(critic.phi)
    assert np.array_equal(*results)
    # A whole batch as one minibatch: the first moment is a tenth of the mean gradient.
    critic = make_critic(rows=11)
    phi = critic.phi
    critic.fit(data, nothing(data), targets, counted, 1e-3, 1, stream, Communicator(None, 2))
    network = critic.network
    weights = tf.Variable(phi[None])
    with tf.GradientTape() as tape:
        seen = data[:, :11][counted][None]
        values = network(network.weights(weights), seen, nothing(seen))[0]
        loss = 0.5 * tf.reduce_mean((values - targets[:, :11][counted]) ** 2)
    expected = 0.1 * tape.gradient(loss, weights)[0]
    np.testing.assert_allclose(critic.adam.m, expected, rtol=1e-3, atol=1e-5)


def test_learns_a_function() -> None:
    critic = make_critic(columns=4, steps=128, rows=32)
    stream = np.random.default_rng(4)
    data = stream.standard_normal((4, 128, 3)).astype(np.float32)
    targets = np.sin(data[:, :, 0]) + 0.5 * data[:, :, 1]

    def error() -> float:
        rows = data.reshape(-1, 3)
        return float(np.mean((critic.values(rows, nothing(rows)) - targets.ravel()) ** 2))

    before = error()
    counted = np.ones((4, 128), bool)
    critic.fit(data, nothing(data), targets, counted, 1e-2, 40, stream, Communicator(None, 4))
    assert error() < 0.02 * before


def test_a_clipped_error_counts_no_less_than_that_of_a_value_that_moved_so_far() -> None:
    """Of 8 values, all 0 before and targets 1: within 0.1 the gradient is the plain one; further
    towards the target there is none; further away it is the plain one again."""
    phi = np.zeros(mlp_critic(3, ()).num_parameters, np.float32)
    network = mlp_critic(3, ())
    data, targets = np.zeros((1, 8, 3), np.float32), np.ones((1, 8), np.float32)
    chosen, weight = np.arange(8, dtype=np.int32), np.ones((1, 8), np.float32)
    before = np.zeros((1, 8), np.float32)
    clipped = Critic(network, phi, 1, 8, 8, clip=0.1)
    for bias, by_bias in ((0.05, 8 * -0.95), (0.2, 0.0), (-0.2, 8 * -1.2)):
        phi[-1] = bias
        rows = clipped._gradient_kernel(phi, chosen, weight, data, nothing(data), targets, before)
        np.testing.assert_allclose(rows[0, -1], by_bias, rtol=1e-6)


def test_two_batches_are_the_batch_before_beside_this_one() -> None:
    """The second fit is that of both batches' steps in one; also after a restore."""
    stream = np.random.default_rng(3)
    shape = (2, 16)
    first, second = (
        (stream.standard_normal((*shape, 3)).astype(np.float32), np.full(shape, x, np.float32))
        for x in (1, 3)
    )
    # Of the first batch 13 steps count, of one column 9: the others have targets far off.
    counted = np.arange(13) < np.array([[13], [9]])
    first[1][:, 13:] = first[1][1, 9:] = 1000.0
    whole = np.ones(shape, bool)

    def fit(critic: Critic, batch: tuple[np.ndarray, ...], counted: np.ndarray, n: int) -> None:
        seen, targets = batch
        rows = np.random.default_rng(n)
        comm = Communicator(None, 2)
        critic.fit(seen, nothing(seen), targets, counted, 0.01, 5, rows, comm)

    def critic(two: bool) -> Critic:
        network = mlp_critic(3, (8,))
        phi = network.initialise(np.random.default_rng(0))
        return Critic(network, phi, 2, None, 8, None, two)

    subject, expected = critic(True), critic(False)
    for one in (subject, expected):
        fit(one, first, counted, 1)
    other = critic(True)
    other.phi = subject.phi
    other.adam.resume(subject.adam.tree())
    kept = [subject.column_state(i, i) for i in range(2)]
    other.restore_columns([None if x is None else [*x, x[-1]] for x in kept], range(2))
    assert other._last is None  # those are of a run that clips values
    other.restore_columns(kept, range(2))
    fit(subject, second, whole, 2)
    fit(other, second, whole, 2)
    both = tuple(np.concatenate((a[:, :13], b), axis=1) for a, b in zip(first, second, strict=True))
    fit(expected, both, np.concatenate((counted, whole), axis=1), 2)
    assert np.array_equal(subject.phi, expected.phi)
    assert np.array_equal(other.phi, expected.phi)
