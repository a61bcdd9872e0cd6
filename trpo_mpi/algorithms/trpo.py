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
from trpo_mpi.algorithms.line_search import Trial, line_search
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.kernel import Graph, parts_of
from trpo_mpi.policies.policy import Policy


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
    """What the step needs of a batch; E own columns of T time steps, padded with mask 0.

    `states` alone is not padded.
    """

    observations: np.ndarray
    """(E, T, D), normalised float32, or images as they are."""
    starts: np.ndarray
    """(E, T) float32, 1 where a step is the first of its episode."""
    states: np.ndarray
    """(E, T, S) float32: what the policy carried before each step."""
    actions: np.ndarray
    """(E, T, ...)."""
    advantages: np.ndarray
    """(E, T) float32, normalised over all ranks."""
    mask: np.ndarray
    """(E, T) float32, 1 where a step counts."""
    timesteps: int
    """Steps that count, over all ranks."""
    fisher_rows: np.ndarray
    """Time indices that Fisher-vector products use; of a recurrent policy one behind the other."""
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

    Each gives a row a column, in arrays of as many columns as are worked on at a time. The
    parameters are copied for every column, so that a column's derivative is taken by its own copy,
    in one batched product with those of the others. Policies with convolutions or a network of
    one's own are worked through a column at a time.
    """

    def __init__(
        self, policy: Policy, columns: int, steps: int, fisher_steps: int, entcoeff: float
    ) -> None:
        """Batches of `columns` by `steps`; Fisher products use `fisher_steps`."""
        self._policy = policy
        self._columns = columns = 1 if policy.one_column else columns
        self._entcoeff = entcoeff
        flat = tf.TensorSpec([policy.num_parameters], tf.float32)
        distribution = policy.distribution
        state = tf.TensorSpec([columns, policy.state_size], tf.float32)

        def numbers(*shape: int) -> tf.TensorSpec:
            return tf.TensorSpec([columns, *shape], tf.float32)

        def seen(steps: int) -> list[tf.TensorSpec]:
            shape = [columns, steps, policy.observation_size]
            return [tf.TensorSpec(shape, policy.observation_type), numbers(steps), state]

        shape = [columns, steps, *distribution.action_shape]
        actions = tf.TensorSpec(shape, distribution.action_type)
        data = [*seen(steps), actions, numbers(steps), numbers(steps)]
        old = numbers(steps, distribution.num_parameters)
        self._gradients = Graph(self._gradient, flat, *data)
        observations, *rest = [*seen(fisher_steps), numbers(fisher_steps)]
        self._known = Graph(self._linearised, flat, observations)
        known = self._known.outputs
        self._products = Graph(self._fisher_product, flat, flat, *rest, *known)
        self._all_losses = Graph(self._losses, flat, *data, old)

    def data(self, batch: PolicyBatch) -> list[list[tf.Tensor]]:
        """What `gradient` and `losses` take of a batch."""
        arrays = (batch.actions, batch.advantages, batch.mask)
        seen = (batch.observations, batch.starts, batch.states[:, 0])
        return parts_of(self._columns, *seen, *arrays)

    def fisher_data(self, theta: np.ndarray, batch: PolicyBatch) -> list[list[tf.Tensor]]:
        """What `fisher_product` takes of a batch, at these parameters."""
        rows = batch.fisher_rows
        others = (batch.starts[:, rows], batch.states[:, rows[0]], batch.mask[:, rows])
        parts = parts_of(self._columns, batch.observations[:, rows], *others)
        return [[*rest, *self._known(theta, observations)] for observations, *rest in parts]

    def gradient(
        self, theta: np.ndarray, data: list[list[tf.Tensor]]
    ) -> tuple[list[np.ndarray], list[tf.Tensor]]:
        """Objective's gradient and entropy, summed over time: (E, P + 1), and parameters."""
        results = [self._gradients(theta, *part) for part in data]
        return [rows.numpy() for rows, _ in results], [old for _, old in results]

    def fisher_product(
        self, theta: np.ndarray, vector: np.ndarray, data: list[list[tf.Tensor]]
    ) -> list[np.ndarray]:
        """Fisher-vector product, summed over time: (E, P)."""
        return [self._products(theta, vector, *part).numpy() for part in data]

    def losses(
        self, theta: np.ndarray, data: list[list[tf.Tensor]], old: list[tf.Tensor]
    ) -> list[np.ndarray]:
        """Gain of the objective over the parameters `old`, and KL, summed over time: (E, 2)."""
        pairs = zip(data, old, strict=True)
        return [self._all_losses(theta, *part, before).numpy() for part, before in pairs]

    def _copies(self, flat: tf.Tensor) -> tf.Tensor:
        return tf.tile(flat[None], [self._columns, 1])

    def _gradient(self, theta, observations, starts, state, actions, advantages, mask):  # type: ignore[no-untyped-def]
        distribution = self._policy.distribution
        weights = self._policy.weights(self._copies(theta))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self._policy(weights, observations, starts, state)
            # At the old parameters the ratio's gradient is that of the log-probability.
            log_prob = distribution.log_prob(parameters, actions)
            entropy = distribution.entropy(parameters) * mask
            objective = tf.reduce_sum(log_prob * advantages * mask + self._entcoeff * entropy)
        gradient = self._flatten(tape.gradient(objective, weights))
        return tf.concat([gradient, tf.reduce_sum(entropy, 1)[:, None]], 1), parameters

    def _linearised(self, theta, observations):  # type: ignore[no-untyped-def]
        return tuple(self._policy.known(self._policy.weights(self._copies(theta)), observations))

    def _fisher_product(self, theta, vector, starts, state, mask, *known):  # type: ignore[no-untyped-def]
        """Gauss-Newton: J' F J v, F the distribution's."""
        policy = self._policy
        weights, tangents = (policy.weights(self._copies(flat)) for flat in (theta, vector))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters, tangent = policy.with_tangent(weights, tangents, known, starts, state)
        cotangent = policy.distribution.fisher_product(parameters, tangent)
        return self._flatten(
            tape.gradient(parameters, weights, output_gradients=cotangent * mask[:, :, None])
        )

    def _losses(self, theta, observations, starts, state, actions, advantages, mask, old):  # type: ignore[no-untyped-def]
        distribution = self._policy.distribution
        weights = self._policy.weights(self._copies(theta))
        new = self._policy(weights, observations, starts, state)
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
    data = kernels.data(batch)
    rows, old = kernels.gradient(theta, data)
    total = comm.sum_columns("policy gradient", *rows) / n
    g, entropy = total[:-1], float(total[-1])

    fisher_data = kernels.fisher_data(theta, batch)

    def fisher_product(v: np.ndarray) -> np.ndarray:
        rows = kernels.fisher_product(theta, v.astype(np.float32), fisher_data)
        total = comm.sum_columns("Fisher-vector product", *rows)
        return total / batch.fisher_timesteps + settings.cg_damping * v

    solution = conjugate_gradient(fisher_product, g, settings.cg_iters)
    # x'Fx without another product: F x is g less the residual.
    curvature = float(solution.x @ (g - solution.residual))
    if not curvature > 0:  # no gradient: nothing to improve
        return theta, PolicyStep(0.0, entropy, 0.0, 0.0)
    full_step = np.sqrt(2 * settings.max_kl / curvature) * solution.x

    def evaluate(candidate: np.ndarray) -> Trial:
        rows = kernels.losses(candidate, data, old)
        try:
            gain, kl = comm.sum_columns("line search", *rows) / n
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
