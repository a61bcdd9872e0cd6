"""The TRPO policy step (Schulman et al. 2015, appendix C), and the natural gradient alone.

    maximise    mean(ratio * advantage) + entcoeff * entropy
    subject to  mean KL(old || new) <= max_kl

Sums over time steps are taken column by column, sums over columns by `comm.sum_columns`: one
Allreduce for the gradient, one for each Fisher-vector product inside conjugate gradient, one for
each trial of the line search.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.conjugate_gradient import conjugate_gradient
from trpo_mpi.algorithms.line_search import Trial, line_search
from trpo_mpi.algorithms.policy_update import (
    BatchTensors,
    PolicyBatch,
    PolicyKernels,
    PolicyStep,
    PolicyUpdate,
    Stage,
    accept_if_finite,
    mean_losses,
)
from trpo_mpi.config import Config
from trpo_mpi.grid import Grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.kernel import Graph, column_chunks, numpy_view, round_up_to_8
from trpo_mpi.policies.policy import Policy


class Trpo(PolicyUpdate):
    """Trust-region policy optimisation."""

    def __init__(
        self, policy: Policy, config: Config, grid: Grid, columns: int, steps: int | None
    ) -> None:
        """For batches of `steps` time steps by `columns` of this rank; see `PolicyKernels`."""
        self._recurrent = policy.state_size > 0
        self._config = config
        fisher_steps = None if steps is None else round_up_to_8(config.fisher_fraction * steps)
        self._kernels = TrpoKernels(policy, columns, steps, fisher_steps, config.entcoeff)

    def step(
        self, theta: np.ndarray, batch: PolicyBatch, comm: Communicator, stage: Stage
    ) -> tuple[np.ndarray, PolicyStep]:
        """Take one step from `theta` (P,) float32; return the new parameters and statistics."""
        padded, horizon = batch.mask.shape[1], batch.counted.shape[1]
        rows = self._fisher_rows(padded, horizon, stage.stream)
        settings = replace(self._config, max_kl=stage.max_kl)
        return trpo_step(theta, batch, rows, self._kernels, comm, settings)

    def _fisher_rows(self, padded: int, horizon: int, stream: np.random.Generator) -> np.ndarray:
        """Time indices for Fisher-vector products, for `horizon` steps padded to `padded`."""
        steps = round_up_to_8(self._config.fisher_fraction * padded)
        if steps >= padded:
            return np.arange(padded)
        if self._recurrent:  # a window: the state at its start is known
            return np.arange(steps) + stream.integers(max(0, horizon - steps) + 1)
        chosen = np.arange(padded)
        chosen[:horizon] = stream.permutation(horizon)
        return np.sort(chosen[:steps])


class Npg(Trpo):
    """The natural policy gradient: the same step, without a line search."""

    def __init__(
        self, policy: Policy, config: Config, grid: Grid, columns: int, steps: int | None
    ) -> None:
        """See `Trpo`."""
        super().__init__(policy, replace(config, line_search_steps=0), grid, columns, steps)


class TrpoKernels(PolicyKernels):
    """The step's derivatives; Fisher-vector products use `fisher_steps` time steps."""

    def __init__(
        self,
        policy: Policy,
        columns: int,
        steps: int | None,
        fisher_steps: int | None,
        entcoeff: float,
    ) -> None:
        """For batches of `steps` time steps by `columns`; see `PolicyKernels`."""
        super().__init__(policy, columns, steps, entcoeff)
        self._gradients = Graph(self._gradient, self.flat, *self.signature)
        observations, *rest = [*self.seen(fisher_steps), self.numbers(fisher_steps)]
        self._known = Graph(self._linearised, self.flat, observations)
        known = self._known.outputs
        self._products = Graph(self._fisher_product, self.flat, self.flat, *rest, *known)

    def fisher_data(
        self, theta: np.ndarray, batch: PolicyBatch, rows: np.ndarray
    ) -> list[list[tf.Tensor]]:
        """Inputs of `fisher_product` from a batch, at the parameters `theta`.

        `rows` are the time indices to use; consecutive for a recurrent policy.
        """
        others = (batch.starts[:, rows], batch.states[:, rows[0]], batch.mask[:, rows])
        parts = column_chunks(self.columns, batch.observations[:, rows], *others)
        return [[*rest, *self._known(theta, observations)] for observations, *rest in parts]

    def gradient(
        self, theta: np.ndarray, data: list[BatchTensors]
    ) -> tuple[list[np.ndarray], list[tf.Tensor]]:
        """Gradient of the objective and entropy, summed over time, (E, P + 1); distributions."""
        results = [self._gradients(theta, *part) for part in data]
        return [numpy_view(rows) for rows, _ in results], [old for _, old in results]

    def fisher_product(
        self, theta: np.ndarray, vector: np.ndarray, data: list[list[tf.Tensor]]
    ) -> list[np.ndarray]:
        """Fisher-vector product, summed over time: (E, P)."""
        return [numpy_view(self._products(theta, vector, *part)) for part in data]

    def _gradient(self, theta: tf.Tensor, *tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = BatchTensors(*tensors)
        distribution = self.policy.distribution
        weights = self.copies(theta)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self.parameters(weights, x)
            # At the old parameters the ratio's gradient is that of the log-probability.
            log_prob = distribution.log_prob(parameters, x.actions)
            entropy = distribution.entropy(parameters) * x.mask
            objective = tf.reduce_sum(log_prob * x.advantages * x.mask + self.entcoeff * entropy)
        gradient = self.flatten(tape.gradient(objective, weights))
        return tf.concat([gradient, tf.reduce_sum(entropy, 1)[:, None]], 1), parameters

    def _linearised(self, theta: tf.Tensor, observations: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(self.policy.known(self.copies(theta), observations))

    def _fisher_product(
        self,
        theta: tf.Tensor,
        vector: tf.Tensor,
        starts: tf.Tensor,
        state: tf.Tensor,
        mask: tf.Tensor,
        *known: tf.Tensor,
    ) -> tf.Tensor:
        """Gauss-Newton product J' F J v, with the distribution's Fisher matrix F."""
        policy = self.policy
        weights, tangents = (self.copies(flat) for flat in (theta, vector))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters, tangent = policy.with_tangent(weights, tangents, known, starts, state)
        cotangent = policy.distribution.fisher_product(parameters, tangent)
        return self.flatten(
            tape.gradient(parameters, weights, output_gradients=cotangent * mask[:, :, None])
        )


def trpo_step(
    theta: np.ndarray,
    batch: PolicyBatch,
    fisher_rows: np.ndarray,
    kernels: TrpoKernels,
    comm: Communicator,
    settings: Config,
) -> tuple[np.ndarray, PolicyStep]:
    """Take one TRPO step from `theta` (P,) float32; return the new parameters and statistics.

    `fisher_rows` are the time indices for Fisher-vector products; see `TrpoKernels.fisher_data`.
    Every rank computes the same iterates, since every decision rests on reduced values.
    If the line search gives up, the parameters returned are the array `theta` itself. With
    `settings.line_search_steps` 0 the full step is taken unchanged: the natural gradient of Kakade
    2001.
    """
    n, fisher_n = batch.timesteps(), batch.timesteps(fisher_rows)
    data = kernels.data(batch)
    gradients, old = kernels.gradient(theta, data)
    total = comm.sum_columns("policy gradient", *gradients) / n
    g, entropy = total[:-1], float(total[-1])

    fisher_data = kernels.fisher_data(theta, batch, fisher_rows)

    def fisher_product(v: np.ndarray) -> np.ndarray:
        products = kernels.fisher_product(theta, v.astype(np.float32), fisher_data)
        total = comm.sum_columns("Fisher-vector product", *products)
        return total / fisher_n + settings.cg_damping * v

    solution = conjugate_gradient(fisher_product, g, settings.cg_iters)
    # x'Fx without another product: F x is g minus the residual.
    curvature = float(solution.x @ (g - solution.residual))
    if not curvature > 0:  # no gradient: nothing to improve
        return theta, PolicyStep(0.0, entropy, 0.0, 0.0)
    full_step = np.sqrt(2 * settings.max_kl / curvature) * solution.x

    if not settings.line_search_steps:
        candidate = (theta + full_step).astype(np.float32)
        losses = mean_losses(candidate, kernels, data, old, batch, comm)
        return accept_if_finite(theta, candidate, losses, entropy)

    def evaluate(candidate: np.ndarray) -> Trial:
        return Trial(*mean_losses(candidate, kernels, data, old, batch, comm))

    theta, fraction, trial = line_search(
        evaluate,
        theta,
        full_step,
        settings.max_kl,
        settings.line_search_shrink,
        settings.line_search_steps,
    )
    return theta, PolicyStep(trial.kl, entropy, trial.improvement, fraction)
