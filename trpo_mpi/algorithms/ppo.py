"""Proximal policy optimisation (Schulman et al. 2017): the clipped surrogate, by Adam.

    maximise  mean(min(ratio * advantage, clip(ratio, 1 - c, 1 + c) * advantage))
              + entcoeff * entropy

A minibatch is a set of time indices, the same in every column; its gradient is one exact sum over
columns, so every rank takes the same Adam steps. As the critic is a network of its own, it is
fitted as for any other policy step.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.policy_update import (
    OUT_OF_BOUNDS,
    GradientKernels,
    PolicyBatch,
    PolicyStep,
    PolicyUpdate,
    Stage,
    begun,
    concluded,
    enough,
    mean_losses,
    minibatches,
    share,
)
from trpo_mpi.config import Config, Grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.kernel import Graph, eights
from trpo_mpi.policies.policy import Policy

ITERS = 10
"""Passes over the batch, where --policy-iters does not say."""
STEPSIZE = 3e-4
"""Adam's first step size, where --policy-stepsize does not say."""


class Ppo(PolicyUpdate):
    """Minibatch steps on the clipped surrogate."""

    def __init__(
        self, policy: Policy, config: Config, columns: int, steps: int | None, grid: Grid
    ) -> None:
        """Batches of `columns` own environments by `steps`, see `PolicyKernels`; `grid` of all."""
        self.adam: Adam = Adam(policy.num_parameters)
        self._config = config
        self._recurrent = policy.state_size > 0
        self._rows = grid.rows(config.policy_batch)
        self._varies = steps is None
        self._kernels = PpoKernels(policy, columns, steps, self._rows, config.entcoeff)

    def step(
        self, theta: np.ndarray, batch: PolicyBatch, comm: Communicator, stage: Stage
    ) -> tuple[np.ndarray, PolicyStep]:
        """One step from `theta` (P,) float32: the new parameters and statistics."""
        config, kernels = self._config, self._kernels
        clip = stage.decayed(config.clip_range, config.final_clip_range)
        stepsize = stage.decayed(config.policy_stepsize or STEPSIZE, config.policy_final_stepsize)
        data, old, entropy = begun(theta, kernels, batch, comm)
        horizon = batch.counted.shape[1]
        most = enough(self._rows, batch.counted) if self._varies else self._rows
        more = {"policy_stepsize": stepsize, "clip_range": clip}
        first = theta
        passes = config.policy_iters or ITERS
        for done in range(1, passes + 1):
            for rows in minibatches(horizon, most, stage.stream, self._recurrent):
                gradients = kernels.clipped_gradient(theta, clip, rows, batch, data, old)
                try:
                    total = comm.sum_columns("clipped gradient", *gradients)
                except FloatingPointError:  # on all ranks alike: too long a step
                    return concluded(first, theta, OUT_OF_BOUNDS, entropy, more)
                gradient = total / share(batch.counted, rows)
                norm = float(np.sqrt(np.sum(gradient**2)))
                if config.max_grad_norm is not None and norm > config.max_grad_norm:
                    gradient *= config.max_grad_norm / norm
                theta = self.adam.update(theta, -gradient.astype(np.float32), stepsize)
            if config.stop_kl is not None or done == passes:
                losses = mean_losses(theta, kernels, data, old, batch, comm)
                if config.stop_kl is not None and losses[1] > config.stop_kl:
                    break
        return concluded(first, theta, losses, entropy, more)


class PpoKernels(GradientKernels):
    """The clipped surrogate's gradient; minibatches have `rows` time indices, or `enough`."""

    def __init__(
        self, policy: Policy, columns: int, steps: int | None, rows: int, entcoeff: float
    ) -> None:
        """Batches of `columns` by `steps`."""
        super().__init__(policy, columns, steps, entcoeff)
        self._padded_rows = None if steps is None else eights(rows)
        indices, valid = (tf.TensorSpec([self._padded_rows], t) for t in (tf.int32, tf.float32))
        own = [self.numbers(policy.state_size), indices, valid, tf.TensorSpec([], tf.float32)]
        self._gradients = Graph(
            self._gradient, self.flat, *own, self.old_signature, *self.signature
        )

    def clipped_gradient(
        self,
        theta: np.ndarray,
        clip: float,
        rows: np.ndarray,
        batch: PolicyBatch,
        data: list[list[tf.Tensor]],
        old: list[tf.Tensor],
    ) -> list[np.ndarray]:
        """Gradient of the clipped objective, summed over the time indices `rows`: (E, P)."""
        padded = self._padded_rows or eights(len(rows))
        chosen, valid = np.zeros(padded, np.int32), np.zeros(padded, np.float32)
        chosen[: len(rows)], valid[: len(rows)] = rows, 1
        limit, n, state = np.array(clip, np.float32), self.columns, batch.states[:, rows[0]]
        return [
            self._gradients(
                theta, state[i * n : (i + 1) * n], chosen, valid, limit, parameters, *part
            ).numpy()
            for i, (part, parameters) in enumerate(zip(data, old, strict=True))
        ]

    def _gradient(self, theta, state, chosen, valid, clip, old, *data):  # type: ignore[no-untyped-def]
        distribution = self.policy.distribution
        observations, starts, _, actions, advantages, mask, old = (
            x if i == 2 else tf.gather(x, chosen, axis=1) for i, x in enumerate((*data, old))
        )
        weights = self.copies(theta)
        old_log_prob = distribution.log_prob(old, actions)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self.policy(weights, observations, starts, state)
            ratio = tf.exp(distribution.log_prob(parameters, actions) - old_log_prob)
            clipped = tf.clip_by_value(ratio, 1 - clip, 1 + clip)
            gain = tf.minimum(ratio * advantages, clipped * advantages)
            entropy = distribution.entropy(parameters)
            objective = tf.reduce_sum((gain + self.entcoeff * entropy) * mask * valid)
        return self.flatten(tape.gradient(objective, weights))
