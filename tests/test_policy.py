"""The policy as a tf.function and as the NumPy actor; its parameters and how they begin."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from toy_policies import flat_box, mlp_critic, mlp_policy, mode, sample

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.acting import BLOCK, Actor, safe_blocks
from trpo_mpi.policies.convolutions import Cnn, smallest
from trpo_mpi.policies.distributions import DiagonalGaussian
from trpo_mpi.policies.networks import Mlp, Network
from trpo_mpi.policies.policy import POLICIES, Architecture, Policy
from trpo_mpi.policies.recurrent import Lstm

SIZE = 11
BOX = gym.spaces.Box(-1, 1, (3,))
SPACES = pytest.mark.parametrize("space", [BOX, gym.spaces.Discrete(5)], ids=["box", "discrete"])


def make_policy(
    space: gym.Space[Any], hidden: tuple[int, ...] = (64, 64)
) -> tuple[Policy, np.ndarray]:
    """A policy with parameters far from their small initial values."""
    policy = mlp_policy(SIZE, space, hidden, -0.5)
    theta = np.random.default_rng(0).standard_normal(policy.num_parameters) * 0.3
    return policy, theta.astype(np.float32)


def observations(rows: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, SIZE)).astype(np.float32)


def parameters(policy: Policy, theta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The distribution's parameters for each row, by the `tf.function` that the update uses."""
    nothing = tf.zeros((1, 0))
    function = tf.function(lambda x: policy(policy.weights(theta[None]), x[None], nothing, nothing))
    return function(tf.constant(rows))[0].numpy()


@SPACES
@pytest.mark.parametrize("hidden", [(), (7,), (64, 64), (10, 20, 30)], ids=str)
def test_actor_equals_the_tf_function(space: gym.Space[Any], hidden: tuple[int, ...]) -> None:
    policy, theta = make_policy(space, hidden)
    rows = observations(50)
    given = parameters(policy, theta, rows)
    size = policy.distribution.size
    noise = policy.distribution.draw_noise(np.random.default_rng(2), 50)
    actor = Actor(policy, theta)
    if isinstance(policy.distribution, DiagonalGaussian):
        mean, std = given[:, :size], np.exp(given[:, size:])
        np.testing.assert_allclose(mode(actor, rows), mean, atol=1e-5)
        np.testing.assert_allclose(sample(actor, rows, noise), mean + std * noise, atol=1e-5)
    else:
        assert np.array_equal(mode(actor, rows), given.argmax(1))
        assert np.array_equal(sample(actor, rows, noise), (given + noise).argmax(1))
        assert len(set(mode(actor, rows))) > 1


@pytest.mark.parametrize("hidden", [(64, 64), (50,)], ids=str)
def test_a_rows_bits_do_not_depend_on_the_other_rows(hidden: tuple[int, ...]) -> None:
    policy, theta = make_policy(BOX, hidden)
    actor = Actor(policy, theta, safe_blocks(policy, theta))
    rows = observations(40)
    expected = mode(actor, rows)
    for n in range(1, 41):
        assert np.array_equal(mode(actor, rows[:n]), expected[:n])
        assert np.array_equal(mode(actor, rows[-n:]), expected[-n:])
    order = np.random.default_rng(3).permutation(40)
    assert np.array_equal(mode(actor, rows[order]), expected[order])


def test_single_rows_where_a_block_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a product's bits do depend on the other rows, as they may on an unknown BLAS."""
    policy, theta = make_policy(BOX)
    assert safe_blocks(policy, theta) in [(BLOCK,), (1,)]  # it may be such a machine
    exact = Mlp.rows
    monkeypatch.setattr(Mlp, "rows", lambda self, w, x: exact(self, w, x) + x.sum(dtype=np.float32))
    blocks = safe_blocks(policy, theta)
    assert blocks == (1,)
    actor, rows = Actor(policy, theta, blocks), observations(5)
    assert np.array_equal(mode(actor, rows)[2:], mode(actor, rows[2:]))


def test_orthogonal_initialisation() -> None:
    """Hidden layers have gain sqrt 2, the policy's last 0.01, the critic's 1; biases are 0."""
    policy = mlp_policy(SIZE, BOX, (64, 32), -0.5)
    critic = mlp_critic(SIZE, (64, 32))
    theta = policy.initialise(np.random.default_rng(0))
    for network, flat, last in (
        (policy, theta, 0.01),
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
    mlp = Network(Mlp([4, 4], last_gain=1.0))
    stream = np.random.default_rng(0)
    signs = [np.sign(np.diag(mlp.split(mlp.initialise(stream))[0])) for _ in range(500)]
    assert np.abs(np.mean(signs, axis=0)).max() < 0.2


def test_layout_of_the_parameters() -> None:
    """One vector and its matrices are the same numbers, in NumPy and in TensorFlow."""
    mlp = Network(Mlp([3, 4, 2], last_gain=1.0, extra=5))
    assert mlp.num_parameters == 3 * 4 + 4 + 4 * 2 + 2 + 5
    flat = np.arange(mlp.num_parameters, dtype=np.float32)
    parts = mlp.split(flat)
    assert [part.shape for part in parts] == [(3, 4), (1, 4), (4, 2), (1, 2), (1, 5)]
    assert np.array_equal(np.concatenate([part.ravel() for part in parts]), flat)
    copies = mlp.weights(tf.constant(np.stack([flat, flat + 1])))
    for part, copy in zip(parts, copies, strict=True):
        assert np.array_equal(copy, np.stack([part, part + 1]))


ACTIVATIONS: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda x: x * (x > 0),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_is_the_formula(activation: str) -> None:
    """Worked in NumPy, for columns with parameters of their own."""
    mlp = Mlp([3, 4, 2], last_gain=1.0, activation=activation)
    network, act = Network(mlp), ACTIVATIONS[activation]
    flat = np.random.default_rng(0).standard_normal((2, network.num_parameters)).astype(np.float32)
    inputs = np.random.default_rng(1).standard_normal((2, 6, 3)).astype(np.float32)
    output = mlp(network.weights(tf.constant(flat)), tf.constant(inputs))
    for column in range(2):
        w0, b0, w1, b1 = arrays = network.split(flat[column])
        expected = act(inputs[column] @ w0 + b0) @ w1 + b1
        np.testing.assert_allclose(output[column], expected, atol=1e-5)
        np.testing.assert_allclose(mlp.rows(arrays, inputs[column]), expected, atol=1e-5)


IMAGES = [gym.spaces.Box(0, 255, shape, np.uint8) for shape in ((24, 21, 3), (3, 24, 21), (24, 21))]


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("MlpLstmPolicy", flat_box(SIZE)),
        ("MlpLnLstmPolicy", flat_box(SIZE)),
        *(("CnnPolicy", space) for space in IMAGES),
        ("CnnLnLstmPolicy", IMAGES[0]),
    ],
    ids=str,
)
def test_unrolled_is_step_by_step(kind: str, space: gym.spaces.Box) -> None:
    """The update computes for a whole batch what acting computed, episode by episode."""
    images = POLICIES[kind].images
    policy = Architecture(kind, (7,), lstm_units=5).make_policy(space, BOX)
    stream = np.random.default_rng(0)
    columns, steps = (1 if images else 3), 16
    theta = policy.initialise(stream)
    theta += (0.05 * stream.standard_normal(len(theta))).astype(np.float32)
    rows = stream.standard_normal((columns, steps, policy.observation_size)).astype(np.float32)
    if images:
        rows = stream.integers(0, 256, rows.shape, np.uint8)
    starts = (stream.random((columns, steps)) < 0.2).astype(np.float32)
    first = stream.standard_normal((columns, policy.state_size)).astype(np.float32)
    weights = policy.weights(tf.tile(theta[None], (columns, 1)))
    unrolled = policy(weights, *(tf.constant(x) for x in (rows, starts, first)))
    actor, state = Actor(policy, theta), first.copy()
    for t in range(steps):
        state[starts[:, t] > 0] = 0
        stepped, state = actor.parameters(rows[:, t], state)
        np.testing.assert_allclose(stepped, unrolled[:, t], atol=1e-6)
    assert np.ptp(unrolled[:, :, 0]) > 1e-3


def test_lstm_is_keras() -> None:
    """Gate by gate, with an implementation that shares nothing with this one."""
    import keras

    units, stream = 5, np.random.default_rng(0)
    lstm = Lstm(3, units, layer_norm=False)
    arrays = [stream.standard_normal(shape).astype(np.float32) for shape in lstm.shapes]
    inputs = stream.standard_normal((2, 9, 3)).astype(np.float32)
    other = keras.layers.LSTM(units, return_sequences=True)
    other.build(inputs.shape)
    # Its gates stand in the order input, forget, cell, output.
    order = np.concatenate([np.arange(units) + i * units for i in (0, 1, 3, 2)])
    kernel, bias, recurrent = (array[:, order] for array in arrays)
    other.set_weights([kernel, recurrent, bias[0]])
    copies = [tf.tile(tf.constant(array)[None], (2, 1, 1)) for array in arrays]
    mine = lstm(copies, tf.constant(inputs), tf.zeros((2, 9)), tf.zeros((2, 2 * units)))
    np.testing.assert_allclose(mine, other(inputs), atol=1e-6)


def test_layer_norm_is_bas() -> None:
    """Ba, Kiros and Hinton 2016, equations 20 to 22, one step worked in NumPy."""
    units, stream = 4, np.random.default_rng(0)
    lstm = Lstm(3, units, layer_norm=True)
    arrays = [stream.standard_normal(shape) for shape in lstm.shapes]
    from_input, bias, from_state, *gains, last_bias = arrays
    x, h, c = (stream.standard_normal((1, n)) for n in (3, units, units))

    def normed(z: np.ndarray) -> np.ndarray:
        return (z - z.mean()) / np.sqrt(z.var() + 1e-5)

    gates = normed(x @ from_input) * gains[0] + normed(h @ from_state) * gains[1] + bias
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in np.split(gates[:, : 3 * units], 3, axis=1))
    cell = f * c + i * np.tanh(gates[:, 3 * units :])
    hidden = o * np.tanh(normed(cell) * gains[2] + last_bias)
    given, state = lstm.rows(arrays, x, np.concatenate([h, c], axis=1))
    np.testing.assert_allclose(given, hidden, atol=1e-6)
    np.testing.assert_allclose(state, np.concatenate([hidden, cell], axis=1), atol=1e-6)


@pytest.mark.parametrize(("kind", "parameters"), [("small", 675_000), ("nature", 1_680_000)])
def test_convolutions_have_the_published_sizes(kind: str, parameters: int) -> None:
    """On four frames of 84 x 84: 9 x 9 x 32 and 7 x 7 x 64 numbers before the last layer."""
    cnn = Cnn((84, 84, 4), kind, 1 / 255)
    flat = {"small": 9 * 9 * 32, "nature": 7 * 7 * 64}[kind]
    assert cnn.shapes[-2] == (flat, {"small": 256, "nature": 512}[kind])
    assert Network(cnn).num_parameters == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("kind", ["small", "nature"])
def test_an_image_too_small_is_refused_with_the_size_it_needs(kind: str) -> None:
    side = smallest(kind)
    Cnn((side, side, 1), kind, 1.0)
    with pytest.raises(UsageError, match=f"needs {side} x {side} pixels"):
        Cnn((side, side - 1, 1), kind, 1.0)


@pytest.mark.parametrize("space", [flat_box(4), gym.spaces.Discrete(3)], ids=str)
def test_what_is_no_image_is_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(UsageError, match="is no image: CnnPolicy needs a Box of height"):
        Architecture("CnnPolicy").make_policy(space, BOX)


def test_the_order_of_channels_is_seen() -> None:
    """An image and its transpose, in the two orders, give the same features."""
    image = np.random.default_rng(0).integers(0, 256, (24, 21, 3), np.uint8)
    last, first = (Cnn(shape, "small", 1 / 255) for shape in ((24, 21, 3), (3, 24, 21)))
    arrays = Network(last).split(Network(last).initialise(np.random.default_rng(1)))
    features = [
        cnn.rows(cnn.held(arrays), pixels.reshape(1, -1))
        for cnn, pixels in ((last, image), (first, image.transpose(2, 0, 1)))
    ]
    np.testing.assert_array_equal(*features)
    assert features[0].any()
    many = Cnn((24, 24, 30), "small", 1 / 255)  # more channels than rows are still channels
    assert many.shapes[0] == (8, 8, 30, 16)
