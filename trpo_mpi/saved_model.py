"""A policy as a TensorFlow SavedModel: from raw observations to actions, without this package.

The signature `serving_default` takes a batch of N observations as the environment returns them,
`observation`, (N, *shape), after training with `--time-feature` followed by the elapsed fraction
of the time limit, and returns `action`, (N, *shape) as the environment takes it: the most
probable one. Each part of a Dict or Tuple is an input of its own, `observation_<key>` and so on.
`parameters`, (N, K), are the distribution's: logits, or means and logarithms of standard
deviations. A recurrent policy takes `state`, (N, S), and returns the next one under the same name;
episodes begin with zeros.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from trpo_mpi.errors import UsageError
from trpo_mpi.model import Model
from trpo_mpi.normalization import CLIP, FLOOR, Moments

Signature = dict[str, tf.TensorSpec]
"""Shapes and types by name; None in a shape is the batch, N."""


def save(path: Path, model: Model) -> tuple[Signature, Signature]:
    """Write a model into the directory `path`, which must not exist; whole or not at all.

    Returns its inputs and outputs. Raises `UsageError` for observations that can't be inputs, and
    `OSError` or `tf.errors.OpError` if it can't be written.
    """
    act = _concrete(model)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    temporary.mkdir()
    try:
        module = tf.Module()
        module.act = act
        tf.saved_model.save(module, str(temporary), signatures=act)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    inputs, outputs = act.structured_input_signature[1], act.structured_outputs
    return inputs, {name: tf.TensorSpec(x.shape, x.dtype) for name, x in outputs.items()}


def _concrete(model: Model) -> Any:
    """Trace the function that is saved."""
    policy, moments = model.make_policy(), model.normalizer.moments
    parts = dict(_parts(model.spaces.observation, "observation"))
    specs = {name: _spec(space.shape, space.dtype, name) for name, space in parts.items()}
    if policy.state_size:
        specs["state"] = _spec((policy.state_size,), np.float32, "state")
    kind = tf.as_dtype(np.float64 if moments else policy.observation_type)

    def act(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        flat = tf.concat([_flat(space, given[name], kind) for name, space in parts.items()], 1)
        rows = _normalised(flat, moments) if moments else flat
        weights = policy.weights(tf.constant(model.theta[None]))
        before = given.get("state", tf.zeros((tf.shape(rows)[0], 0)))
        parameters, state = policy.step(weights, rows, before)
        action = _most_probable(model.spaces.action, parameters)
        memory = {"state": state} if policy.state_size else {}
        return {"action": action, "parameters": parameters} | memory

    return tf.function(act, autograph=False).get_concrete_function(**specs)


def _spec(shape: Sequence[int] | None, kind: Any, name: str) -> tf.TensorSpec:
    return tf.TensorSpec((None, *(shape or ())), kind, name)


def _parts(space: gym.Space[Any], name: str) -> list[tuple[str, gym.Space[Any]]]:
    """The parts of a Dict or Tuple by the names of their inputs, in the order of flat vectors."""
    if isinstance(space, gym.spaces.Dict):
        inner = [(str(key), part) for key, part in space.spaces.items()]
    elif isinstance(space, gym.spaces.Tuple):
        inner = [(str(i), part) for i, part in enumerate(space.spaces)]
    else:
        return [(name, space)]
    given = [leaf for key, part in inner for leaf in _parts(part, f"{name}_{_word(key)}")]
    names = [leaf for leaf, _ in given]
    for leaf in names:
        if names.count(leaf) > 1:
            raise UsageError(f"two parts of the observation would be the input {leaf}")
    return given


def _word(key: str) -> str:
    """A key as a part of a TensorFlow name."""
    return re.sub(r"[^A-Za-z0-9_]", "_", key)


def _flat(space: gym.Space[Any], x: tf.Tensor, kind: tf.DType) -> tf.Tensor:
    """Does in TensorFlow what `flattener` does: (N, *shape) -> (N, D)."""
    if isinstance(space, gym.spaces.Discrete):
        return tf.one_hot(x - int(space.start), int(space.n), dtype=kind)
    if isinstance(space, gym.spaces.MultiDiscrete):
        choices = tf.reshape(x - space.start, (-1, space.nvec.size))
        sizes = [int(n) for n in space.nvec.ravel()]
        return tf.concat([tf.one_hot(choices[:, i], n, dtype=kind) for i, n in enumerate(sizes)], 1)
    return tf.reshape(tf.cast(x, kind), (-1, gym.spaces.flatdim(space)))


def _normalised(flat: tf.Tensor, moments: Moments) -> tf.Tensor:
    """Does in TensorFlow what `ObservationNormalizer` does."""
    scaled = (flat - moments.mean) / np.maximum(moments.deviation, FLOOR)
    return tf.cast(tf.clip_by_value(scaled, -CLIP, CLIP), tf.float32)


def _most_probable(space: gym.Space[Any], parameters: tf.Tensor) -> tf.Tensor:
    """Does what `choose`, without noise, and `to_environment` of the space's distribution do."""
    if isinstance(space, gym.spaces.Box):
        means = tf.split(parameters, 2, axis=1)[0]
        kind = np.result_type(np.float32, space.low)
        low, high = (limit.ravel().astype(kind) for limit in (space.low, space.high))
        actions = tf.clip_by_value(tf.cast(means, kind), low, high)
    elif isinstance(space, gym.spaces.Discrete):
        actions = tf.argmax(parameters, 1) + int(space.start)
    elif isinstance(space, gym.spaces.MultiDiscrete):
        logits = tf.split(parameters, [int(n) for n in space.nvec.ravel()], axis=1)
        choices = tf.stack([tf.argmax(part, 1) for part in logits], axis=1)
        actions = choices + space.start.ravel()
    else:
        actions = parameters > 0
    return tf.cast(tf.reshape(actions, (-1, *(space.shape or ()))), space.dtype)
