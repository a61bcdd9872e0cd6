"""Networks of the user's own as policy and critic."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import Run, environment
from memory_envs import Picture
from test_ranks import exact_parts
from toy_policies import flat_box

from trpo_mpi import TRPO, register_network
from trpo_mpi.errors import UsageError
from trpo_mpi.policies.own import OwnEncoder
from trpo_mpi.policies.policy import Architecture, ValueNetwork

SMALL = {"timesteps_per_batch": 64, "num_envs": 4, "vf_batch": 64}


def two_layers(observations: Any) -> Any:
    x = keras.layers.Dense(6, activation="gelu")(observations)
    return keras.layers.Dense(5, activation="tanh")(x)


def loop(observations: Any) -> Any:
    x = keras.layers.Reshape((4, 1))(observations)
    return keras.layers.LSTM(3)(x)


def scaled(observations: Any) -> Any:
    """By constants, which are made outside of any graph."""
    constants = keras.layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 1, 4, 4])
    return keras.layers.Dense(3, activation="tanh")(constants(observations))


def eyes(pictures: Any) -> Any:
    x = keras.layers.Conv2D(3, 6, 6, activation="relu")(pictures)
    return keras.layers.Flatten()(x)


def model(size: int = 4) -> Any:
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(7, "relu")], name="given")


def bits(trained: TRPO) -> bytes:
    assert trained._model is not None
    return trained._model.theta.tobytes() + trained._model.phi.tobytes()


@pytest.mark.parametrize(
    ("policy", "network"),
    [
        ("MlpPolicy", two_layers),
        ("MlpPolicy", model()),
        ("MlpPolicy", keras.layers.Dense(3)),
        ("MlpLstmPolicy", two_layers),
        ("MlpPolicy", loop),
        ("MlpPolicy", scaled),
    ],
    ids=["function", "model", "layer", "lstm", "loop", "constants"],
)
def test_a_network_is_trained(policy: str, network: Any, tmp_path: Path) -> None:
    settings = SMALL | {"lstm_units": 3, "network": network}
    trained = [TRPO(policy, "CartPole-v1", **settings).learn(256) for _ in range(2)]
    begun = TRPO(policy, "CartPole-v1", **settings)
    assert bits(trained[0]) == bits(trained[1]) != bits(begun)
    trained[0].save(tmp_path / "mine")
    loaded = TRPO.load(tmp_path / "mine")
    observation = np.array([0.1, -0.2, 0.3, 0.4], np.float32)
    for method in ("action_probability", "predict_values"):
        one, other = (getattr(m, method)(observation) for m in (trained[0], loaded))
        assert np.array_equal(one, other)


def test_its_forward_product_is_a_difference() -> None:
    """Through a Keras loop, which TensorFlow's forward mode can't take."""
    name = register_network("loop", loop)
    encoder = OwnEncoder(name, (4,), 1.0)
    stream = np.random.default_rng(0)
    weights, tangents = (
        [tf.constant(stream.standard_normal((1, *shape)) * 0.5, tf.float32) for shape in shapes]
        for shapes in [encoder.shapes] * 2
    )
    inputs = tf.constant(stream.standard_normal((1, 6, 4)), tf.float32)
    features, tangent = tf.function(encoder.with_tangent)(weights, tangents, [inputs])
    np.testing.assert_array_equal(features, tf.function(encoder.__call__)(weights, inputs))
    ahead, behind = (
        encoder([w + step * t for w, t in zip(weights, tangents, strict=True)], inputs)
        for step in (3e-3, -3e-3)
    )
    assert np.abs(tangent).max() > 0.05
    np.testing.assert_allclose(tangent, (ahead - behind) / 6e-3, atol=1e-4)


def test_images_reach_it_in_their_shape() -> None:
    trained = TRPO("CnnPolicy", Picture, network=eyes, **SMALL).learn(128)
    picture = Picture().reset(seed=0)[0]
    assert trained.action_probability(picture).shape == (4,)


def test_policy_and_critic_have_parameters_of_their_own() -> None:
    name = register_network("two", two_layers)
    space, architecture = flat_box(4), Architecture(network=name)
    policy = architecture.make_policy(space, gym.spaces.Discrete(2))
    critic = ValueNetwork(policy, space, architecture)
    stream = np.random.default_rng(0)
    theta, phi = policy.initialise(stream), critic.initialise(stream)
    assert policy.num_parameters == 4 * 6 + 6 + 6 * 5 + 5 + 5 * 2 + 2
    assert not np.array_equal(theta[:24], phi[:24])
    # The function itself, in Keras, with these parameters.
    rows = stream.standard_normal((8, 4)).astype(np.float32)
    w1, b1, w2, b2, w3, b3 = policy.split(theta)
    features = tf.tanh(tf.nn.gelu(rows @ w1 + b1, approximate=False) @ w2 + b2)
    nothing = tf.zeros((1, 0))
    given = policy(policy.weights(theta[None]), tf.constant(rows[None]), nothing, nothing)
    np.testing.assert_allclose(given[0], features @ w3 + b3, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (keras.layers.Reshape((2, 2)), "must give one row of features"),
        (keras.layers.BatchNormalization(), "that training does not set"),
        (keras.layers.Conv2D(2, 2), "does not take observations of shape"),
        (lambda _: 1 / 0, "division by zero"),
        (model(5), "does not take observations of shape"),
        (3, "neither a function nor a Keras model"),
        ("nowhere", "there is no network 'nowhere'; registered:"),
        ("nowhere:at_all", "can't be imported: ModuleNotFoundError"),
        (".own:network", "can't be imported: TypeError"),
        ("test_own_network:SMALL", "neither a function nor a Keras model"),
    ],
    ids=["rows", "state", "shape", "error", "size", "number", "name", "module", "relative", "dict"],
)
def test_what_is_no_network_is_refused(network: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TRPO("MlpPolicy", "CartPole-v1", network=network)


LOAD = """
import sys
from trpo_mpi import TRPO
try:
    print(TRPO.load(sys.argv[1], allow_code=bool(int(sys.argv[2]))).predict([0.1] * 4)[0])
except ValueError as error:
    print(error)
"""


def in_another_process(path: Path, allow: int) -> str:
    command = [sys.executable, "-c", LOAD, str(path), str(allow)]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment(), check=True, cwd=path.parent
    )
    return result.stdout.strip()


def test_code_is_in_a_file_and_runs_only_where_both_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_module.py").write_text(
        "import keras\ndef inner(x):\n    return keras.layers.Dense(4)(x)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    inner = importlib.import_module("own_module").inner
    (tmp_path / "own_module.py").unlink()  # elsewhere there is no such module
    trained = TRPO("MlpPolicy", "CartPole-v1", network=inner, **SMALL).learn(128)
    without, with_code = tmp_path / "without.zip", tmp_path / "with.zip"
    trained.save(without)
    trained.save(with_code, include_code=True)
    refused = "has a network of its own, 'inner': give it as network=, or"
    assert "there is no network 'inner'" in in_another_process(without, 1)
    assert refused in in_another_process(with_code, 0)
    assert in_another_process(with_code, 1) in ("0", "1")
    other = TRPO.load(without, network=inner)
    assert np.array_equal(
        other.action_probability(np.zeros(4)), trained.action_probability(np.zeros(4))
    )
    with pytest.raises(ValueError, match="was made with another network"):
        TRPO.load(without, network=two_layers)


def test_from_the_command_line_on_any_number_of_ranks(
    tmp_path: Path, python: Run, mpirun: Run
) -> None:
    command = (
        "-m trpo_mpi.run_mujoco --env CartPole-v1 --num-envs 5 --timesteps-per-batch 125 "
        "--num-timesteps 600 --vf-iters 1 --network test_own_network:two_layers --outdir"
    ).split()
    assert python(*command, "one").returncode == 0
    result = mpirun(2, *command, "two")
    assert result.returncode == 0, result.stderr
    assert exact_parts(tmp_path / "one") == exact_parts(tmp_path / "two")
    evaluate = ("-m", "trpo_mpi.evaluate", "one", "--episodes", "2")
    result = python(*evaluate, "--network", "test_own_network:two_layers")
    assert result.returncode == 0, result.stderr
    result = python(*evaluate)
    assert result.returncode == 2
    assert "has a network of its own: name it, --network test_own_network:two" in result.stderr
    result = mpirun(2, *command[:-2], "nothing:here")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "the network nothing:here can't be imported" in result.stderr


def test_layers_sized_by_the_environment() -> None:
    """Coady's: ten times the observation, ten times the action, the geometric mean between."""
    observation, action = flat_box(11), gym.spaces.Box(-1, 1, (3,))
    architecture = Architecture(size_multiple=10)
    policy = architecture.make_policy(observation, action)
    critic = ValueNetwork(policy, observation, architecture)
    assert policy.encoder.sizes == (11, 110, 57, 30)
    assert critic.encoder.sizes == (11, 110, 23, 5)


def test_a_file_does_not_name_code_that_is_run(tmp_path: Path) -> None:
    """A file from someone else may name any function of any module as its network."""
    trained = TRPO("MlpPolicy", "CartPole-v1", network="toy_own:network", **SMALL).learn(128)
    trained.save(tmp_path / "model")
    assert "has a network of its own, 'toy_own:network'" in in_another_process(
        tmp_path / "model.zip", 0
    )
    assert in_another_process(tmp_path / "model.zip", 1) in ("0", "1")
