"""The policy step of Coady's TRPO (2017): Adam on a surrogate with an adaptive KL penalty.

    maximise  mean(ratio * advantage) + entcoeff * entropy
              - beta * KL - 50 * max(0, KL - 2 * target)^2        KL: mean KL(old || new)

After each batch `adapted` adjusts beta and the step size to the resulting KL. The target KL is
--max-kl.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.policy_update import (
    BatchTensors,
    GradientKernels,
    PolicyBatch,
    PolicyStep,
    PolicyUpdate,
    Stage,
    accept_if_finite,
    mean_losses,
    prepare,
)
from trpo_mpi.config import Config
from trpo_mpi.grid import Grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.kernel import Graph, numpy_view
from trpo_mpi.policies.networks import Mlp
from trpo_mpi.policies.policy import Policy

ITERS = 20
"""Passes over the batch, unless --policy-iters is given."""
HINGE = 50.0
"""Weight of the squared excess of the KL over twice its target."""
STOP = 4.0
"""Multiple of the target KL beyond which the passes over a batch stop."""
STEPSIZE = 9e-4
"""Adam's default step size, times the square root of the number of units in the middle layer."""


class KlPenalty(PolicyUpdate):
    """Full-batch steps on the penalised surrogate."""

    def __init__(
        self, policy: Policy, config: Config, grid: Grid, columns: int, steps: int | None
    ) -> None:
        """For batches of `steps` time steps by `columns` of this rank; see `PolicyKernels`."""
        self.adam: Adam = Adam(policy.num_parameters)
        self._beta = self._multiplier = 1.0
        self._iters = config.policy_iters or ITERS
        hidden = policy.encoder.sizes[1:] if isinstance(policy.encoder, Mlp) else ()
        units = hidden[len(hidden) // 2] if hidden else policy.encoder.outputs
        self._stepsize = config.policy_stepsize or STEPSIZE / np.sqrt(units)
        self._kernels = PenaltyKernels(policy, columns, steps, config.entcoeff)

    def step(
        self, theta: np.ndarray, batch: PolicyBatch, comm: Communicator, stage: Stage
    ) -> tuple[np.ndarray, PolicyStep]:
        """Take one step from `theta` (P,) float32; return the new parameters and statistics."""
        kernels, target, n = self._kernels, stage.max_kl, batch.timesteps()
        stepsize = self._multiplier * self._stepsize
        more = {"policy_stepsize": stepsize, "beta": self._beta}
        data, old, entropy = prepare(theta, kernels, batch, comm)
        p, first = len(theta), theta
        for _ in range(self._iters):
            rows = kernels.gradients(theta, data, old)
            try:
                total = comm.sum_columns("penalised gradient", *rows) / n
            except FloatingPointError:  # raised on all ranks
                if theta is first:
                    raise
                break  # the steps were too long
            gain, by_kl, kl = total[:p], total[p : 2 * p], total[2 * p]
            if kl > STOP * target:
                break
            weight = self._beta + 2 * HINGE * max(0.0, kl - 2 * target)
            theta = self.adam.update(theta, (weight * by_kl - gain).astype(np.float32), stepsize)
        losses = mean_losses(theta, kernels, data, old, batch, comm)
        self._beta, self._multiplier = adapted(self._beta, self._multiplier, losses[1] / target)
        return accept_if_finite(first, theta, losses, entropy, more)

    def tree(self) -> dict[str, Any]:
        """The state carried from step to step, as plain data."""
        return super().tree() | {"beta": self._beta, "multiplier": self._multiplier}

    def resume(self, tree: dict[str, Any]) -> None:
        """Restore the state that `tree` returned."""
        super().resume(tree)
        self._beta, self._multiplier = tree["beta"], tree["multiplier"]


def adapted(beta: float, multiplier: float, ratio: float) -> tuple[float, float]:
    """Penalty weight and step size multiplier for the next batch; `ratio` is KL over target.

    The weight stays between 1/35 and 35. Near these limits the step size changes too; its
    multiplier stays between 1/15 and 15.
    """
    if ratio > 2:
        beta = min(35.0, 1.5 * beta)
        if beta > 30 and multiplier > 0.1:
            multiplier /= 1.5
    elif ratio < 0.5:
        beta = max(1 / 35, beta / 1.5)
        if beta < 1 / 30 and multiplier < 10:
            multiplier *= 1.5
    return beta, multiplier


class PenaltyKernels(GradientKernels):
    """Gradients of the objective and of the KL."""

    def __init__(self, policy: Policy, columns: int, steps: int | None, entcoeff: float) -> None:
        """For batches of `steps` time steps by `columns`; see `PolicyKernels`."""
        super().__init__(policy, columns, steps, entcoeff)
        self._gradients = Graph(self._both, self.flat, self.old_signature, *self.signature)

    def gradients(
        self, theta: np.ndarray, data: list[BatchTensors], old: list[tf.Tensor]
    ) -> list[np.ndarray]:
        """Gradients of the objective and of the KL, and the KL, summed over time: (E, 2 P + 1)."""
        pairs = zip(data, old, strict=True)
        return [numpy_view(self._gradients(theta, before, *part)) for part, before in pairs]

    def _both(self, theta: tf.Tensor, old: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
        x = BatchTensors(*tensors)
        distribution = self.policy.distribution
        weights = self.copies(theta)
        old_log_prob = distribution.log_prob(old, x.actions)
        # A forward pass for each: gradients through time can be taken only once.
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self.parameters(weights, x)
            ratio = tf.exp(distribution.log_prob(parameters, x.actions) - old_log_prob)
            gain = ratio * x.advantages + self.entcoeff * distribution.entropy(parameters)
            objective = tf.reduce_sum(gain * x.mask)
        by_objective = self.flatten(tape.gradient(objective, weights))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            kl = tf.reduce_sum(distribution.kl(old, self.parameters(weights, x)) * x.mask, 1)
        by_kl = self.flatten(tape.gradient(kl, weights))
        return tf.concat([by_objective, by_kl, kl[:, None]], 1)
