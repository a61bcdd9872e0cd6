"""Six policies: an observation encoder, optionally a memory, and a distribution over actions.

The critic is a separate network: no parameter is shared that its fit could move outside the trust
region; PPO has none, and may have them share the encoder. A recurrent policy's critic reads the
policy's memory, but does not train it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.convolutions import Cnn
from trpo_mpi.policies.distributions import DiagonalGaussian, distribution_for
from trpo_mpi.policies.lazy_tensorflow import tf
from trpo_mpi.policies.networks import Mlp, Network, every_step, pushforward
from trpo_mpi.policies.own import OwnEncoder
from trpo_mpi.policies.recurrent import Lstm


@dataclass(frozen=True)
class Architecture:
    """What shapes the networks, besides the spaces; the fields of these names in `Config`."""

    policy: str = "MlpPolicy"
    net_arch: tuple[int, ...] = (64, 64)
    size_multiple: int | None = None
    activation: str = "tanh"
    cnn: str = "small"
    lstm_units: int = 64
    network: str | None = None

    @classmethod
    def of(cls, settings: Any) -> Architecture:
        """Take the fields of these names from any object that has them."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    @property
    def needs_tensorflow(self) -> bool:
        """Whether acting uses TensorFlow, which must then be set up first."""
        return self.network is not None or POLICIES[self.policy].images

    def make_policy(
        self, observation: gym.Space[Any], action: gym.Space[Any], init_logstd: float = 0.0
    ) -> Policy:
        """The policy for these spaces; `init_logstd` as in `Config`."""
        return POLICIES[self.policy](observation, action, self, init_logstd)

    def hidden(self, inputs: int, outputs: int) -> tuple[int, ...]:
        """Units of an MLP's hidden layers.

        With `size_multiple` they follow from the environment, as in Coady's TRPO: that multiple of
        the inputs, the geometric mean of its neighbours, and `outputs`, which is ten units per
        action, or five for the critic.
        """
        if self.size_multiple is None:
            return self.net_arch
        first = self.size_multiple * inputs
        return first, max(1, int(math.sqrt(first * outputs))), outputs


def _encoder(
    space: gym.Space[Any], images: bool, architecture: Architecture, last: int, more: int = 0
) -> Mlp | Cnn | OwnEncoder:
    """The encoder from flat observations, followed by `more` numbers, to features.

    `last` is the size of an MLP's last layer if it follows from the environment.
    """
    scale = 1 / 255 if images and space.dtype == np.uint8 else 1.0
    if images:
        check_image(space, architecture.policy)
    size = gym.spaces.flatdim(space)
    if architecture.network is not None:
        box = isinstance(space, gym.spaces.Box)
        return OwnEncoder(architecture.network, (space.shape if box else None) or (size,), scale)
    if images:
        return Cnn(space.shape or (), architecture.cnn, scale)
    sizes = [size + more, *architecture.hidden(size, last)]
    return Mlp(sizes, activation=architecture.activation, activate_last=True)


def observation_type(space: gym.Space[Any], images: bool) -> type[np.generic]:
    """Type of observations in a batch: float32, but uint8 for images of bytes."""
    return np.uint8 if images and space.dtype == np.uint8 else np.float32


def check_image(space: gym.Space[Any], policy: str) -> None:
    """Raise `UsageError` unless observations of `space` are images."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (2, 3):
        raise UsageError(
            f"the observation space {space} is no image: {policy} needs a Box of height, width and "
            "channels, in this order or with the channels first"
        )


class Policy(Network):
    """A policy network of flat observations of size D; its subclasses are the choices.

    For a Box of A actions the network outputs the means, and A further parameters are the log
    standard deviations, the same in every state.
    """

    images = False
    """Whether observations are images."""
    memory: str | None = None
    """Kind of the recurrent layer: `lstm`, `lnlstm` with layer normalisation, or none."""

    def __init__(
        self,
        observation: gym.Space[Any],
        action: gym.Space[Any],
        architecture: Architecture,
        init_logstd: float = 0.0,
    ) -> None:
        self.distribution = distribution_for(action)
        self.observation_size = gym.spaces.flatdim(observation)
        self.observation_type = observation_type(observation, self.images)
        last = 10 * self.distribution.size
        self.encoder = _encoder(observation, self.images, architecture, last)
        self.one_column = not isinstance(self.encoder, Mlp)
        """Whether it works on one column at a time, which also bounds its layers' memory."""
        features = self.encoder.outputs
        self.lstm: Lstm | None = None
        if self.memory:
            self.lstm = Lstm(features, architecture.lstm_units, self.memory == "lnlstm")
            features = self.lstm.outputs
        self.state_size = self.carried_size = self.lstm.state_size if self.lstm else 0
        """Numbers that the policy carries from step to step, S; 0 unless it is recurrent."""
        self.memory_size = self.lstm.units if self.lstm else 0
        """How many of them, from the first, its critic reads, M."""
        self._gaussian = isinstance(self.distribution, DiagonalGaussian)
        outputs = self.distribution.size
        # A small last layer: the initial policy hardly depends on the state, and explores evenly.
        extra = outputs if self._gaussian else 0
        self._head = Mlp([features, outputs], last_gain=0.01, extra=extra)
        super().__init__(*(part for part in (self.encoder, self.lstm, self._head) if part))
        self.encoder_size = Network(self.encoder).num_parameters
        """How many parameters, the first of theta, are the encoder's."""
        self._init_logstd = init_logstd

    def initialise(self, stream: np.random.Generator) -> np.ndarray:
        """Initial parameters, theta: (P,) float32."""
        theta = super().initialise(stream)
        if self._gaussian:
            theta[-self.distribution.size :] = self._init_logstd
        return theta

    def _parameters(self, weights: Sequence[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
        output = self._head(weights, features)
        if not self._gaussian:
            return output
        return tf.concat([output, every_step(weights[-1], output)], axis=-1)

    def __call__(
        self,
        weights: Sequence[tf.Tensor],
        observations: tf.Tensor,
        starts: tf.Tensor,
        state: tf.Tensor,
    ) -> tf.Tensor:
        """Distribution parameters, column by column: (E, T, D) -> (E, T, K).

        The arguments are those of `with_features`.
        """
        return self.with_features(weights, observations, starts, state)[0]

    def with_features(
        self,
        weights: Sequence[tf.Tensor],
        observations: tf.Tensor,
        starts: tf.Tensor,
        state: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Distribution parameters (E, T, K), and the encoder's features.

        Args:
            weights: one copy per column, all equal.
            observations: normalised, or raw images.
            starts: (E, T), 1 where a step is the first of its episode.
            state: (E, S), the recurrent state before the first step.
        """
        encoder, *lstm, head = self.of_parts(weights)
        encoded = features = self.encoder(encoder, observations)
        if self.lstm:
            features = self.lstm(lstm[0], features, starts, state)
        return self._parameters(head, features), encoded

    def known(self, weights: Sequence[tf.Tensor], observations: tf.Tensor) -> list[tf.Tensor]:
        """What `with_tangent` takes in place of the observations, computed once for many calls."""
        return self.encoder.known(self.of_parts(weights)[0], observations)

    def with_tangent(
        self,
        weights: Sequence[tf.Tensor],
        tangents: Sequence[tf.Tensor],
        known: Sequence[tf.Tensor],
        starts: tf.Tensor,
        state: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Output of `__call__`, and its forward-mode product with tangents of the weights."""
        encoder, *lstm, head = self.of_parts(weights)
        d_encoder, *d_lstm, d_head = self.of_parts(tangents)
        features, d_features = self.encoder.with_tangent(encoder, d_encoder, known)
        if self.lstm:
            d_features = self.lstm.tangent(
                lstm[0], d_lstm[0], (features, d_features), starts, state
            )
            features = self.lstm(lstm[0], features, starts, state)
        return pushforward(
            lambda x, *arrays: self._parameters(arrays, x), [features, *head], [d_features, *d_head]
        )

    def rows(
        self, weights: Sequence[Any], x: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step for (n, D) rows and states (n, S): the head's outputs, and states after it."""
        encoder, *lstm, head = weights
        features = self.encoder.rows(encoder, x)
        if self.lstm:
            features, state = self.lstm.rows(lstm[0], features, state)
        return self._head.rows(head, features), state

    def step(
        self, weights: Sequence[tf.Tensor], observations: tf.Tensor, state: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step in TensorFlow, for any number of rows, as in an exported policy.

        Args:
            weights: one copy.
            observations: (n, D), as in `__call__`.
            state: (n, S), before the step.

        Returns distribution parameters, (n, K), and states after the step.
        """
        encoder, *lstm, head = self.of_parts(weights)
        features = self.encoder(encoder, observations[None])
        if self.lstm:
            features, state = self.lstm.step(lstm[0], features, state)
        return self._parameters(head, features)[0], state


class MlpPolicy(Policy):
    """Fully connected layers (`net_arch`, `activation`) on flat observations."""


class CnnPolicy(Policy):
    """Convolutions (`cnn`) on images."""

    images = True


class MlpLstmPolicy(Policy):
    """As `MlpPolicy`, followed by a layer of `lstm_units` LSTM cells."""

    memory = "lstm"


class MlpLnLstmPolicy(Policy):
    """As `MlpLstmPolicy`, with layer normalisation."""

    memory = "lnlstm"


class CnnLstmPolicy(Policy):
    """As `CnnPolicy`, followed by a layer of `lstm_units` LSTM cells."""

    images = True
    memory = "lstm"


class CnnLnLstmPolicy(Policy):
    """As `CnnLstmPolicy`, with layer normalisation."""

    images = True
    memory = "lnlstm"


POLICIES = {
    kind.__name__: kind
    for kind in (
        *(MlpPolicy, MlpLstmPolicy, MlpLnLstmPolicy),
        *(CnnPolicy, CnnLstmPolicy, CnnLnLstmPolicy),
    )
}
"""The policies by name."""


class ValueNetwork(Network):
    """A value network for the observations and the memory of a policy."""

    def __init__(
        self, policy: Policy, observation: gym.Space[Any], architecture: Architecture
    ) -> None:
        self.images = policy.images
        self.observation_size = policy.observation_size
        self.observation_type = policy.observation_type
        self.one_column = policy.one_column
        self.carried_size = memory = policy.memory_size
        # The memory enters after convolutions or a custom network, but before an MLP.
        behind = memory if self.one_column else 0
        self.encoder = _encoder(observation, self.images, architecture, 5, memory - behind)
        self.head = Mlp([self.encoder.outputs + behind, 1], last_gain=1.0)
        super().__init__(self.encoder, self.head)

    def __call__(
        self, weights: Sequence[tf.Tensor], observations: tf.Tensor, memory: tf.Tensor
    ) -> tf.Tensor:
        """Values, column by column: (E, T, D) observations and (E, T, M) memory -> (E, T)."""
        encoder, head = self.of_parts(weights)
        if self.carried_size and not self.one_column:
            observations = tf.concat([observations, memory], -1)
        return self.of_features(head, self.encoder(encoder, observations), memory)

    def of_features(
        self, head: Sequence[tf.Tensor], features: tf.Tensor, memory: tf.Tensor
    ) -> tf.Tensor:
        """Values (E, T), by the last layer's weights `head`, of the encoder's features."""
        if self.carried_size and self.one_column:
            features = tf.concat([features, memory], -1)
        return self.head(head, features)[:, :, 0]

    def rows(
        self, weights: Sequence[Any], x: np.ndarray, memory: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (n, 1) of (n, D) rows and memory (n, M), and the memory unchanged."""
        encoder, head = weights
        if self.one_column:
            features = np.concatenate([self.encoder.rows(encoder, x), memory], 1)
        else:
            features = self.encoder.rows(encoder, np.concatenate([x, memory], 1))
        return self.head.rows(head, features), memory
