"""Custom networks: any function of Keras tensors, or a Keras model, as the encoder.

    def network(observations):
        x = keras.layers.Dense(32, activation="relu")(observations)
        return keras.layers.Dense(32, activation="relu")(x)

    TRPO("MlpPolicy", "CartPole-v1", network=network)
    python -m trpo_mpi.run_mujoco --network my_module:network

The function maps a batch of observations to features, (n, F), the input of the last linear layer or
of a recurrent policy's memory. Policy and critic get a network each, with separate parameters. Make
layers and initialisers inside the function, where their seeds come from the run's. Files store the
network's name and parameters; its code only on request.
"""

from __future__ import annotations

import importlib
import inspect
import random
import sys
from collections.abc import Sequence
from typing import Any

import cloudpickle
import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.lazy_tensorflow import tf
from trpo_mpi.policies.networks import GraphPart

_registered: dict[str, Any] = {}


def register_network(name: str, network: Any) -> str:
    """Register a function or Keras model under a name, for `network=` and `--network`.

    Returns the name, with a number appended if another network has it. Raises `UsageError` if the
    network can't be called.
    """
    if not callable(network):
        raise UsageError(f"the network {network!r} is neither a function nor a Keras model")
    free, number = name, 2
    while _registered.get(free, network) is not network:
        free, number = f"{name}-{number}", number + 1
    _registered[free] = network
    return free


def name_of(network: Any) -> str:
    """The name in files of a network that was given without one."""
    return str(getattr(network, "name", None) or getattr(network, "__name__", "network"))


def find_network(name: str) -> Any:
    """The network of that name: a registered one, or `module:function`.

    Raises `UsageError` if there is none.
    """
    if name in _registered:
        return _registered[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(_registered) or "none"
        raise UsageError(
            f"there is no network {name!r}; registered: {known}; or name it as module:function"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise UsageError(f"the network {name} can't be imported: {_first_line(error)}") from None
    if not callable(found):
        raise UsageError(f"the network {name} is neither a function nor a Keras model")
    return found


def is_registered(name: str) -> bool:
    """Whether a network is registered under that name in this process."""
    return name in _registered


def code_of(name: str) -> bytes:
    """Serialise the network of that name with its code, for `from_code` on any machine."""
    network = find_network(name)
    module = sys.modules.get(getattr(network, "__module__", ""))
    # Of a function in an importable module cloudpickle would store only the name.
    if not inspect.isfunction(network) or module is None or module.__name__ == "__main__":
        return bytes(cloudpickle.dumps(network))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(network))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def from_code(code: bytes, source: str) -> Any:
    """The network that `code_of` serialised. Runs code: only for files that the user trusts."""
    try:
        return cloudpickle.loads(code)
    except Exception as error:
        raise UsageError(
            f"the network in {source} can't be loaded here: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


class OwnEncoder(GraphPart):
    """A custom network as a part of a `Network`. Processes one column at a time.

    Args:
        name: for `find_network`.
        shape: of an observation as the network takes it.
        scale: factor applied to observations.
    """

    def __init__(self, name: str, shape: Sequence[int], scale: float) -> None:
        super().__init__()
        self._name, self._shape, self._scale = name, tuple(shape), scale
        self._network = find_network(name)
        self._model = self._build(0)
        (self.outputs,) = self._model.outputs[0].shape[1:]
        self.shapes = [tuple(v.shape) for v in self._model.trainable_variables]
        self._seeds = [np.asarray(v) for v in self._model.non_trainable_variables]

    def _build(self, seed: int) -> Any:
        """A Keras model with its own parameters, initialised from `seed`."""
        import keras

        kept = random.getstate()
        random.seed(seed)  # from which Keras's initialisers take their seeds
        try:
            inputs = keras.Input(self._shape)
            network = self._network
            if isinstance(network, keras.Layer):  # a model is one too: make a copy
                network = type(network).from_config(network.get_config())
            model = keras.Model(inputs, network(inputs))
        except Exception as error:
            raise UsageError(
                f"the network {self._name} does not take observations of shape {self._shape}: "
                f"{_first_line(error)}"
            ) from error
        finally:
            random.setstate(kept)
        if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
            raise UsageError(
                f"the network {self._name} gives {[x.shape for x in model.outputs]}; it must give "
                "one row of features for each observation, (None, F)"
            )
        # Recurrent layers have a seed for dropout, which is not used here.
        unset = [v for v in model.non_trainable_variables if "seed_generator" not in v.path]
        if unset:
            names = ", ".join(v.path for v in unset)
            raise UsageError(
                f"the network {self._name} has variables that training does not set: {names}"
            )
        return model

    def initialise(self, stream: np.random.Generator) -> list[np.ndarray]:
        """Parameters from the network's own initialisers."""
        model = self._build(int(stream.integers(2**31)))
        return [np.asarray(v) for v in model.trainable_variables]

    def __call__(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Features (1, T, outputs) of flat observations of one column, (1, T, D)."""
        arrays = [array[0] for array in weights]
        kind = arrays[0].dtype if arrays else tf.float32
        x = tf.reshape(tf.cast(inputs, kind), (-1, *self._shape)) * self._scale
        features, _ = self._model.stateless_call(arrays, self._seeds, x)
        return features[None]

    def with_tangent(
        self,
        weights: Sequence[tf.Tensor],
        tangents: Sequence[tf.Tensor],
        known: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The features, and their forward-mode product with tangents of the weights.

        By reverse mode twice, as the gradient is linear in `upstream`: forward mode fails around a
        loop, which a custom network may contain.
        """
        with tf.GradientTape() as outer:
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(weights)
                features = self(weights, known[0])
            upstream = tf.zeros_like(features)
            outer.watch(upstream)
            pulled = inner.gradient(
                features, weights, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        return features, outer.gradient(pulled, upstream, list(tangents))
