"""`MlpPolicy`: a distribution over actions, and a critic, from two separate MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from trpo_mpi.policies.distributions import DiagonalGaussian, distribution_for
from trpo_mpi.policies.networks import BLOCK, Mlp, NumpyMlp, every_step

if TYPE_CHECKING:
    import tensorflow as tf


class MlpPolicy:
    """Policy network of flat observations of size D.

    For a Box of A actions the network gives the means, and A further parameters are the log
    standard deviations, the same in every state.
    """

    def __init__(
        self, observations: int, actions: gym.Space[Any], hidden: Sequence[int], init_logstd: float
    ) -> None:
        self.distribution = distribution_for(actions)
        self._gaussian = isinstance(self.distribution, DiagonalGaussian)
        outputs = self.distribution.size
        # A small last layer: the first policy hardly depends on the state, and explores evenly.
        extra = outputs if self._gaussian else 0
        self.network = Mlp([observations, *hidden, outputs], last_gain=0.01, extra=extra)
        self.num_parameters = self.network.num_parameters
        self._init_logstd = init_logstd

    def initialise(self, stream: np.random.Generator) -> np.ndarray:
        """First parameters, theta: (P,) float32."""
        theta = self.network.initialise(stream)
        if self._gaussian:
            theta[-self.distribution.size :] = self._init_logstd
        return theta

    def __call__(self, weights: list[tf.Tensor], observations: tf.Tensor) -> tf.Tensor:
        """Distribution parameters, column by column: (E, T, D) -> (E, T, K)."""
        import tensorflow as tf

        output = self.network(weights, observations)
        if not self._gaussian:
            return output
        return tf.concat([output, every_step(weights[-1], output)], axis=-1)

    def actor(self, theta: np.ndarray, block: int = BLOCK) -> Actor:
        """This policy with parameters `theta`, to act with; `block` is from `safe_block`."""
        return Actor(self, theta, block)


class Actor:
    """A policy with fixed parameters, in NumPy: from normalised observations to actions.

    Its outputs equal the `tf.function` policy's but for rounding (a test holds them together);
    the update takes all its log-probabilities from the latter.
    """

    def __init__(self, policy: MlpPolicy, theta: np.ndarray, block: int) -> None:
        self.distribution = policy.distribution
        self._network = NumpyMlp(policy.network, theta, block)
        self._choose = policy.distribution.choose
        self._log_std: np.ndarray | None = None
        self._std: np.ndarray | None = None
        if isinstance(policy.distribution, DiagonalGaussian):
            self._log_std = theta[-policy.distribution.size :]
            self._std = np.exp(self._log_std)

    def sample(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions for (n, D) observations, from (n, size) noise of `draw_noise`."""
        output = self._network(observations)
        return self._choose(output + (noise if self._std is None else self._std * noise))

    def mode(self, observations: np.ndarray) -> np.ndarray:
        """The most probable actions for (n, D) observations."""
        return self._choose(self._network(observations))

    def parameters(self, observations: np.ndarray) -> np.ndarray:
        """Distribution parameters for (n, D) observations: (n, K)."""
        output = self._network(observations)
        if self._log_std is None:
            return output
        return np.concatenate([output, np.broadcast_to(self._log_std, output.shape)], axis=1)


def critic_network(observations: int, hidden: Sequence[int]) -> Mlp:
    """The value function's network: flat observations to one number."""
    return Mlp([observations, *hidden, 1], last_gain=1.0)
