"""The TRPO policy step (Schulman et al. 2015, appendix C).

    maximise    mean(ratio * advantage) + entcoeff * entropy
    subject to  mean KL(old || new) <= max_kl

Sums over time steps are taken column by column, sums over columns by `comm.sum_columns`: one
Allreduce for the gradient, one for each Fisher-vector product inside conjugate gradient, one for
each trial of the line search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.conjugate_gradient import conjugate_gradient
from trpo_mpi.algorithms.kernel import compiled
from trpo_mpi.algorithms.line_search import Trial, line_search
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.mlp import MlpPolicy


@dataclass(frozen=True)
class TrustRegion:
    """Settings of the step; see `Config` for their meaning."""

    max_kl: float
    cg_iters: int
    cg_damping: float
    line_search_steps: int
    line_search_shrink: float


@dataclass(frozen=True)
class PolicyBatch:
    """What the step needs of a batch; E own columns of T time steps, padded with mask 0."""

    observations: np.ndarray
    """(E, T, D) float32, normalised."""
    actions: np.ndarray
    """(E, T, ...)."""
    advantages: np.ndarray
    """(E, T) float32, normalised over all ranks."""
    mask: np.ndarray
    """(E, T) float32, 1 where a step counts."""
    timesteps: int
    """Steps that count, over all ranks."""
    fisher_rows: np.ndarray
    """Time indices that Fisher-vector products use."""
    fisher_timesteps: int
    """Steps among them that count, over all ranks."""


@dataclass(frozen=True)
class PolicyStep:
    """Statistics of one step."""

    kl: float
    """Mean KL(old || new) of the new policy, in nats."""
    entropy: float
    """Mean entropy of the old policy, in nats."""
    improvement: float
    """Gain of the objective; 0 where the line search gave up."""
    fraction: float
    """Share of the full step that was taken; 0 where the line search gave up."""


class PolicyKernels:
    """The step's derivatives as `tf.function`s of fixed shapes.

    Each gives a row a column. The parameters are copied for every column, so that a column's
    derivative is taken by its own copy, in one batched product with those of the others.
    """

    def __init__(
        self,
        policy: MlpPolicy,
        columns: int,
        steps: int,
        fisher_steps: int,
        size: int,
        entcoeff: float,
    ) -> None:
        """Batches of `columns` by `steps` by `size`; Fisher products use `fisher_steps`."""
        self._policy = policy
        self._columns = columns
        self._entcoeff = entcoeff
        flat = tf.TensorSpec([policy.num_parameters], tf.float32)
        observations = tf.TensorSpec([columns, steps, size], tf.float32)
        distribution = policy.distribution
        shape = [columns, steps, *distribution.action_shape]
        actions = tf.TensorSpec(shape, distribution.action_type)
        numbers = tf.TensorSpec([columns, steps], tf.float32)
        parameters = tf.TensorSpec([columns, steps, distribution.num_parameters], tf.float32)
        fisher_observations = tf.TensorSpec([columns, fisher_steps, size], tf.float32)
        fisher_mask = tf.TensorSpec([columns, fisher_steps], tf.float32)

        self.gradient = compiled(self._gradient, flat, observations, actions, numbers, numbers)
        self.fisher_product = compiled(
            self._fisher_product, flat, flat, fisher_observations, fisher_mask
        )
        self.losses = compiled(
            self._losses, flat, observations, actions, numbers, numbers, parameters
        )

    def _copies(self, flat: tf.Tensor) -> tf.Tensor:
        return tf.tile(flat[None], [self._columns, 1])

    def _gradient(self, theta, observations, actions, advantages, mask):  # type: ignore[no-untyped-def]
        """Objective's gradient and entropy, summed over time: (E, P + 1), and parameters."""
        distribution = self._policy.distribution
        weights = self._policy.network.weights(self._copies(theta))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self._policy(weights, observations)
            # At the old parameters the ratio's gradient is that of the log-probability.
            log_prob = distribution.log_prob(parameters, actions)
            entropy = distribution.entropy(parameters) * mask
            objective = tf.reduce_sum(log_prob * advantages * mask + self._entcoeff * entropy)
        gradient = self._flatten(tape.gradient(objective, weights))
        return tf.concat([gradient, tf.reduce_sum(entropy, 1)[:, None]], 1), parameters

    def _fisher_product(self, theta, vector, observations, mask):  # type: ignore[no-untyped-def]
        """Gauss-Newton: J' F J v summed over time, F the distribution's: (E, P)."""
        weights = self._policy.network.weights(self._copies(theta))
        tangents = self._policy.network.weights(self._copies(vector))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            with tf.autodiff.ForwardAccumulator(weights, tangents) as forward:
                parameters = self._policy(weights, observations)
            tangent = forward.jvp(parameters)
        cotangent = self._policy.distribution.fisher_product(parameters, tangent)
        return self._flatten(
            tape.gradient(parameters, weights, output_gradients=cotangent * mask[:, :, None])
        )

    def _losses(self, theta, observations, actions, advantages, mask, old):  # type: ignore[no-untyped-def]
        """Gain of the objective, and KL(old || new), summed over time: (E, 2)."""
        distribution = self._policy.distribution
        new = self._policy(self._policy.network.weights(self._copies(theta)), observations)
        log_ratio = distribution.log_prob(new, actions) - distribution.log_prob(old, actions)
        gain = tf.math.expm1(log_ratio) * advantages
        entropy = distribution.entropy(new) - distribution.entropy(old)
        kl = distribution.kl(old, new)
        return tf.stack(
            [
                tf.reduce_sum((gain + self._entcoeff * entropy) * mask, 1),
                tf.reduce_sum(kl * mask, 1),
            ],
            1,
        )

    def _flatten(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        return tf.concat([tf.reshape(g, (self._columns, -1)) for g in gradients], 1)


def trpo_step(
    theta: np.ndarray,
    batch: PolicyBatch,
    kernels: PolicyKernels,
    comm: Communicator,
    settings: TrustRegion,
) -> tuple[np.ndarray, PolicyStep]:
    """One TRPO step from `theta` (P,) float32; gives the new parameters and its statistics.

    Every rank walks the same iterates: all that it decides by comes out of a reduction.
    Where the line search gives up, the very array `theta` comes back.
    """
    n = batch.timesteps
    data = [
        tf.constant(x) for x in (batch.observations, batch.actions, batch.advantages, batch.mask)
    ]
    rows, old = kernels.gradient(theta, *data)
    total = comm.sum_columns("policy gradient", np.asarray(rows)) / n
    g, entropy = total[:-1], float(total[-1])

    chosen = batch.fisher_rows
    fisher_data = [tf.constant(x[:, chosen]) for x in (batch.observations, batch.mask)]

    def fisher_product(v: np.ndarray) -> np.ndarray:
        rows = kernels.fisher_product(theta, v.astype(np.float32), *fisher_data)
        total = comm.sum_columns("Fisher-vector product", np.asarray(rows))
        return total / batch.fisher_timesteps + settings.cg_damping * v

    solution = conjugate_gradient(fisher_product, g, settings.cg_iters)
    # x'Fx without another product: F x is g less the residual.
    curvature = float(solution.x @ (g - solution.residual))
    if not curvature > 0:  # no gradient: nothing to improve
        return theta, PolicyStep(0.0, entropy, 0.0, 0.0)
    full_step = np.sqrt(2 * settings.max_kl / curvature) * solution.x

    def evaluate(candidate: np.ndarray) -> Trial:
        rows = kernels.losses(candidate, *data, old)
        try:
            gain, kl = comm.sum_columns("line search", np.asarray(rows)) / n
        except FloatingPointError:  # on all ranks alike: too long a step
            return Trial(-np.inf, np.inf)
        return Trial(float(gain), float(kl))

    theta, fraction, trial = line_search(
        evaluate,
        theta,
        full_step,
        settings.max_kl,
        settings.line_search_shrink,
        settings.line_search_steps,
    )
    return theta, PolicyStep(trial.kl, entropy, trial.improvement, fraction)
