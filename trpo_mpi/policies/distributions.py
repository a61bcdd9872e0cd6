"""Distributions over actions, by hand: log-probability, entropy, KL and Fisher matrix.

A distribution is described by the K numbers that the policy network gives for a time step,
its *parameters*; the TensorFlow functions take them as (..., K) tensors and return (...)
tensors. The Fisher matrix is that of the distribution in its own parameters: between the
network's forward-mode and reverse-mode derivatives it makes the Gauss-Newton product.

Acting is done in NumPy, from noise that each environment's own stream has drawn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from trpo_mpi.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf


class DiagonalGaussian:
    """Independent normal distributions, for a Box of A numbers; parameters (mean, log std)."""

    def __init__(self, space: gym.spaces.Box) -> None:
        self.space = space
        self.size = int(np.prod(space.shape))
        self.num_parameters = 2 * self.size
        self.action_shape: tuple[int, ...] = (self.size,)
        self._low = space.low.reshape(-1).astype(np.float32)
        self._high = space.high.reshape(-1).astype(np.float32)

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """log p(action), of the action before it is clipped to the Box."""
        import tensorflow as tf

        mean, log_std = tf.split(parameters, 2, axis=-1)
        scaled = (actions - mean) * tf.exp(-log_std)
        terms = -0.5 * scaled**2 - log_std - 0.5 * math.log(2 * math.pi)
        return tf.reduce_sum(terms, axis=-1)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Differential entropy in nats."""
        import tensorflow as tf

        _, log_std = tf.split(parameters, 2, axis=-1)
        return tf.reduce_sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old || new) in nats."""
        import tensorflow as tf

        old_mean, old_log_std = tf.split(old, 2, axis=-1)
        mean, log_std = tf.split(new, 2, axis=-1)
        # expm1 keeps the digits where the two are nearly equal, as they are in a trust region.
        spread = 0.5 * tf.math.expm1(2 * (old_log_std - log_std)) - (old_log_std - log_std)
        shift = 0.5 * ((old_mean - mean) * tf.exp(-log_std)) ** 2
        return tf.reduce_sum(spread + shift, axis=-1)

    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Fisher matrix times a tangent: 1 / std**2 on the means, 2 on the log std."""
        import tensorflow as tf

        _, log_std = tf.split(parameters, 2, axis=-1)
        d_mean, d_log_std = tf.split(tangent, 2, axis=-1)
        return tf.concat([d_mean * tf.exp(-2 * log_std), 2 * d_log_std], axis=-1)

    def draw_noise(self, stream: np.random.Generator, steps: int) -> np.ndarray:
        """Noise of one environment for `steps` actions: (steps, A) float32."""
        return stream.standard_normal((steps, self.size), np.float32)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: clipped to the Box and in its shape."""
        clipped = np.minimum(np.maximum(actions, self._low), self._high)
        shaped: np.ndarray = clipped.reshape(-1, *self.space.shape)
        return shaped.astype(self.space.dtype, copy=False)


class Categorical:
    """One of N choices, for a Discrete space; parameters are N logits.

    Actions are indices from 0; `to_environment` adds the space's start.
    """

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self.space = space
        self.size = int(space.n)
        self.num_parameters = self.size
        self.action_shape: tuple[int, ...] = ()

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """log p(action) of integer actions."""
        import tensorflow as tf

        log_p = tf.nn.log_softmax(parameters)
        return tf.reduce_sum(log_p * tf.one_hot(actions, self.size), axis=-1)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Entropy in nats."""
        import tensorflow as tf

        log_p = tf.nn.log_softmax(parameters)
        return -tf.reduce_sum(tf.exp(log_p) * log_p, axis=-1)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old || new) in nats."""
        import tensorflow as tf

        old_log_p, log_p = tf.nn.log_softmax(old), tf.nn.log_softmax(new)
        return tf.reduce_sum(tf.exp(old_log_p) * (old_log_p - log_p), axis=-1)

    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Fisher matrix times a tangent: (diag(p) - p p') u."""
        import tensorflow as tf

        p = tf.exp(tf.nn.log_softmax(parameters))
        return p * (tangent - tf.reduce_sum(p * tangent, axis=-1, keepdims=True))

    def draw_noise(self, stream: np.random.Generator, steps: int) -> np.ndarray:
        """Gumbel noise of one environment: the largest logit plus noise is a sample."""
        return stream.gumbel(size=(steps, self.size)).astype(np.float32)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: integers from the space's start."""
        shifted: np.ndarray = actions.astype(np.int64) + int(self.space.start)
        return shifted


Distribution = DiagonalGaussian | Categorical


def distribution_for(space: gym.Space[Any]) -> Distribution:
    """The distribution for an action space; `UsageError` where there is none."""
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space)
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(space)
    raise UsageError(
        f"the action space {space} is not supported; it must be a Box of floats or Discrete"
    )
