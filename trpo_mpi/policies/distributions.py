"""Hand-written distributions over actions: log-probability, entropy, KL and Fisher matrix.

A distribution is described by the K numbers that the policy network outputs for a time step,
its *parameters*; the TensorFlow functions take them as (..., K) tensors and return (...)
tensors. The Fisher matrix is that of the distribution in its own parameters: between the
network's forward-mode and reverse-mode derivatives it yields the Gauss-Newton product.

Acting is done in NumPy, with noise drawn from each environment's own stream.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.lazy_tensorflow import tf


class DiagonalGaussian:
    """Independent normal distributions, for a Box of A numbers; parameters (mean, log std)."""

    def __init__(self, space: gym.spaces.Box) -> None:
        self.space = space
        self.size = int(np.prod(space.shape))
        self.num_parameters = 2 * self.size
        self.action_shape: tuple[int, ...] = (self.size,)
        self.action_type = np.float32
        # In the space's own type: a float64 rounded to float32 may lie outside.
        self._low, self._high = space.low.reshape(-1), space.high.reshape(-1)

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """log p(action), for the action before it is clipped to the Box."""
        mean, log_std = tf.split(parameters, 2, axis=-1)
        scaled = (actions - mean) * tf.exp(-log_std)
        terms = -0.5 * scaled**2 - log_std - 0.5 * math.log(2 * math.pi)
        return tf.reduce_sum(terms, axis=-1)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Differential entropy in nats."""
        _, log_std = tf.split(parameters, 2, axis=-1)
        return tf.reduce_sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old || new) in nats."""
        old_mean, old_log_std = tf.split(old, 2, axis=-1)
        mean, log_std = tf.split(new, 2, axis=-1)
        # expm1 keeps the digits when the two are nearly equal, as they are in a trust region.
        spread = 0.5 * tf.math.expm1(2 * (old_log_std - log_std)) - (old_log_std - log_std)
        shift = 0.5 * ((old_mean - mean) * tf.exp(-log_std)) ** 2
        return tf.reduce_sum(spread + shift, axis=-1)

    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Fisher matrix times a tangent: 1 / std**2 on the means, 2 on the log std."""
        _, log_std = tf.split(parameters, 2, axis=-1)
        d_mean, d_log_std = tf.split(tangent, 2, axis=-1)
        return tf.concat([d_mean * tf.exp(-2 * log_std), 2 * d_log_std], axis=-1)

    def draw_noise(self, stream: np.random.Generator, steps: int) -> np.ndarray:
        """Noise of one environment for `steps` actions: (steps, A) float32."""
        return stream.standard_normal((steps, self.size), np.float32)

    def choose(self, noisy: np.ndarray) -> np.ndarray:
        """Actions from the network's output plus noise."""
        return noisy

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: clipped to the Box and in its shape."""
        clipped = np.minimum(np.maximum(actions, self._low), self._high)
        shaped: np.ndarray = clipped.reshape(-1, *self.space.shape)
        return shaped.astype(self.space.dtype, copy=False)

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """(n, ...) actions of the space as `log_prob` takes them."""
        return np.asarray(actions, np.float32).reshape(-1, self.size)

    def has(self, _actions: np.ndarray) -> bool:
        """Whether these actions of `log_prob` are possible; a Gaussian's are before clipping."""
        return True

    def describe(self, parameters: np.ndarray) -> Any:
        """What (n, K) parameters mean: means and standard deviations, each in the space's shape."""
        shape = (-1, *self.space.shape)
        mean, log_std = np.split(parameters, 2, axis=1)
        return mean.reshape(shape), np.exp(log_std).reshape(shape)


class Categorical:
    """One of N choices, for a Discrete space; parameters are N logits.

    Actions are indices from 0; `to_environment` adds the space's start.
    """

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self.space = space
        self.size = int(space.n)
        self.num_parameters = self.size
        self.action_shape: tuple[int, ...] = ()
        self.action_type = np.int32

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """log p(action) of integer actions."""
        log_p = tf.nn.log_softmax(parameters)
        return tf.reduce_sum(log_p * tf.one_hot(actions, self.size, dtype=log_p.dtype), axis=-1)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Entropy in nats."""
        log_p = tf.nn.log_softmax(parameters)
        return -tf.reduce_sum(tf.exp(log_p) * log_p, axis=-1)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old || new) in nats."""
        old_log_p, log_p = tf.nn.log_softmax(old), tf.nn.log_softmax(new)
        return tf.reduce_sum(tf.exp(old_log_p) * (old_log_p - log_p), axis=-1)

    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Fisher matrix times a tangent: (diag(p) - p p') u."""
        p = tf.exp(tf.nn.log_softmax(parameters))
        return p * (tangent - tf.reduce_sum(p * tangent, axis=-1, keepdims=True))

    def draw_noise(self, stream: np.random.Generator, steps: int) -> np.ndarray:
        """Gumbel noise of one environment: the largest logit plus noise is a sample."""
        return stream.gumbel(size=(steps, self.size)).astype(np.float32)

    def choose(self, noisy: np.ndarray) -> np.ndarray:
        """Actions from the network's output plus noise."""
        return np.argmax(noisy, axis=1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: integers from the space's start."""
        shifted = actions.astype(np.int64) + int(self.space.start)
        return shifted.astype(self.space.dtype, copy=False)

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """(n,) actions of the space as `log_prob` takes them."""
        return np.asarray(actions).reshape(-1).astype(np.int32) - int(self.space.start)

    def has(self, actions: np.ndarray) -> bool:
        """Whether these actions of `log_prob` are possible."""
        return bool(((actions >= 0) & (actions < self.size)).all())

    def describe(self, parameters: np.ndarray) -> Any:
        """What (n, K) parameters mean: the probability of each choice."""
        e = np.exp(parameters - parameters.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


class MultiCategorical:
    """Independent choices, for a MultiDiscrete space; parameters are the logits of each in turn.

    Actions are indices from 0; `to_environment` adds the space's starts.
    """

    def __init__(self, space: gym.spaces.MultiDiscrete) -> None:
        self.space = space
        self._sizes = [int(n) for n in space.nvec.ravel()]
        self._parts = [Categorical(gym.spaces.Discrete(n)) for n in self._sizes]
        self._edges = np.cumsum(self._sizes)[:-1]
        self.size = self.num_parameters = sum(self._sizes)
        self.action_shape: tuple[int, ...] = (len(self._sizes),)
        self.action_type = np.int32

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """log p(action) of integer actions."""
        logits = self._split(parameters)
        return sum(p.log_prob(logits[i], actions[..., i]) for i, p in enumerate(self._parts))

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Entropy in nats."""
        pairs = zip(self._parts, self._split(parameters), strict=True)
        return sum(part.entropy(logits) for part, logits in pairs)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old || new) in nats."""
        triples = zip(self._parts, self._split(old), self._split(new), strict=True)
        return sum(part.kl(before, after) for part, before, after in triples)

    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Fisher matrix times a tangent: that of each choice in its own block."""
        triples = zip(self._parts, self._split(parameters), self._split(tangent), strict=True)
        return tf.concat([part.fisher_product(*both) for part, *both in triples], axis=-1)

    def _split(self, parameters: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(parameters, self._sizes, axis=-1)

    def draw_noise(self, stream: np.random.Generator, steps: int) -> np.ndarray:
        """Gumbel noise of one environment, as for `Categorical`."""
        return stream.gumbel(size=(steps, self.size)).astype(np.float32)

    def choose(self, noisy: np.ndarray) -> np.ndarray:
        """Actions from the network's output plus noise."""
        logits = np.split(noisy, self._edges, axis=1)
        return np.stack([np.argmax(part, axis=1) for part in logits], axis=1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: from the space's starts, in its shape."""
        shaped: np.ndarray = actions.reshape(-1, *self.space.shape) + self.space.start
        return shaped.astype(self.space.dtype)

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """(n, ...) actions of the space as `log_prob` takes them."""
        shifted = np.asarray(actions).reshape(-1, *self.space.shape) - self.space.start
        return shifted.reshape(len(shifted), -1).astype(np.int32)

    def has(self, actions: np.ndarray) -> bool:
        """Whether these actions of `log_prob` are possible."""
        return bool(((actions >= 0) & (actions < self._sizes)).all())

    def describe(self, parameters: np.ndarray) -> Any:
        """What (n, K) parameters mean: for each choice, the probabilities in it."""
        logits = np.split(parameters, self._edges, axis=1)
        return [part.describe(own) for part, own in zip(self._parts, logits, strict=True)]


class Bernoulli:
    """Independent bits, for a MultiBinary space; parameters are the logits of their being 1."""

    def __init__(self, space: gym.spaces.MultiBinary) -> None:
        self.space = space
        self.size = self.num_parameters = int(np.prod(space.shape))
        self.action_shape: tuple[int, ...] = (self.size,)
        self.action_type = np.int32

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """log p(action) of actions 0 and 1."""
        signs = tf.cast(2 * actions - 1, parameters.dtype)
        return tf.reduce_sum(tf.math.log_sigmoid(signs * parameters), axis=-1)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Entropy in nats."""
        one, zero = tf.math.log_sigmoid(parameters), tf.math.log_sigmoid(-parameters)
        return -tf.reduce_sum(tf.exp(one) * one + tf.exp(zero) * zero, axis=-1)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old || new) in nats."""
        one, zero = tf.math.log_sigmoid(old), tf.math.log_sigmoid(-old)
        new_one, new_zero = tf.math.log_sigmoid(new), tf.math.log_sigmoid(-new)
        terms = tf.exp(one) * (one - new_one) + tf.exp(zero) * (zero - new_zero)
        return tf.reduce_sum(terms, axis=-1)

    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Fisher matrix times a tangent: p (1 - p) on each logit."""
        return tf.sigmoid(parameters) * tf.sigmoid(-parameters) * tangent

    def draw_noise(self, stream: np.random.Generator, steps: int) -> np.ndarray:
        """Logistic noise of one environment: a bit is 1 where logit plus noise is above 0."""
        return stream.logistic(size=(steps, self.size)).astype(np.float32)

    def choose(self, noisy: np.ndarray) -> np.ndarray:
        """Actions from the network's output plus noise."""
        return (noisy > 0).astype(np.int32)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: in the space's shape."""
        shaped: np.ndarray = actions.reshape(-1, *self.space.shape).astype(self.space.dtype)
        return shaped

    def from_environment(self, actions: np.ndarray) -> np.ndarray:
        """(n, ...) actions of the space as `log_prob` takes them."""
        return np.asarray(actions).reshape(-1, self.size).astype(np.int32)

    def has(self, actions: np.ndarray) -> bool:
        """Whether these actions of `log_prob` are possible."""
        return bool(((actions == 0) | (actions == 1)).all())

    def describe(self, parameters: np.ndarray) -> Any:
        """What (n, K) parameters mean: the probability of each bit's being 1."""
        return (1 / (1 + np.exp(-parameters))).reshape(-1, *self.space.shape)


Distribution = DiagonalGaussian | Categorical | MultiCategorical | Bernoulli


def distribution_for(space: gym.Space[Any]) -> Distribution:
    """The distribution for an action space; raises `UsageError` if there is none."""
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space)
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(space)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return MultiCategorical(space)
    if isinstance(space, gym.spaces.MultiBinary):
        return Bernoulli(space)
    raise UsageError(
        f"the action space {space} is not supported; it must be a Box of floats, Discrete, "
        "MultiDiscrete or MultiBinary"
    )
