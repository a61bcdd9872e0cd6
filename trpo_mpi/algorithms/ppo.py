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
from trpo_mpi.policies.kernel import Graph, array_of, eights
from trpo_mpi.policies.policy import Policy

ITERS = 10
"""Passes over the batch, where --policy-iters does not say."""
STATES, ACTIONS = 2, 3
"""Where these stand in what `PolicyKernels.data` gives."""
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
        log_probs, limit = kernels.log_probs(data, old), tf.constant(clip, tf.float32)
        horizon = batch.counted.shape[1]
        most = enough(self._rows, batch.counted) if self._varies else self._rows
        more = {"policy_stepsize": stepsize, "clip_range": clip}
        first = theta
        passes = config.policy_iters or ITERS
        for done in range(1, passes + 1):
            for rows in minibatches(horizon, most, stage.stream, self._recurrent):
                gradients = kernels.clipped_gradient(theta, limit, rows, batch, data, log_probs)
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
        indices = tf.TensorSpec([self._padded_rows], tf.int32)
        own = [self.numbers(policy.state_size), indices, tf.TensorSpec([], tf.float32)]
        self._gradients = Graph(
            self._gradient, self.flat, *own, self.numbers(steps), *self.signature
        )
        actions = self.signature[ACTIONS]
        self._log_probs = Graph(policy.distribution.log_prob, self.old_signature, actions)

    def log_probs(self, data: list[list[tf.Tensor]], old: list[tf.Tensor]) -> list[tf.Tensor]:
        """log p(action) under the parameters `old`: (E, T), for all minibatches."""
        return [self._log_probs(x, part[ACTIONS]) for x, part in zip(old, data, strict=True)]

    def clipped_gradient(
        self,
        theta: np.ndarray,
        clip: tf.Tensor,
        rows: np.ndarray,
        batch: PolicyBatch,
        data: list[list[tf.Tensor]],
        log_probs: list[tf.Tensor],
    ) -> list[np.ndarray]:
        """Gradient of the clipped objective, summed over the time indices `rows`: (E, P).

        `log_probs` is what `log_probs` gives of the policy that collected the batch.
        """
        padded = self._padded_rows or eights(len(rows))
        chosen = np.full(padded, -1, np.int32)
        chosen[: len(rows)] = rows
        states = [part[STATES] for part in data]  # of the first time step; or of nothing
        if batch.states.size:
            states = np.split(batch.states[:, rows[0]], len(data))
        return [
            array_of(self._gradients(theta, state, chosen, clip, before, *part))
            for state, before, part in zip(states, log_probs, data, strict=True)
        ]

    def _gradient(self, theta, state, chosen, clip, before, *data):  # type: ignore[no-untyped-def]
        distribution = self.policy.distribution
        rows, valid = tf.maximum(chosen, 0), tf.cast(chosen >= 0, tf.float32)
        observations, starts, _, actions, advantages, mask, before = (
            x if i == STATES else tf.gather(x, rows, axis=1) for i, x in enumerate((*data, before))
        )
        weights = self.copies(theta)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self.policy(weights, observations, starts, state)
            ratio = tf.exp(distribution.log_prob(parameters, actions) - before)
            clipped = tf.clip_by_value(ratio, 1 - clip, 1 + clip)
            gain = tf.minimum(ratio * advantages, clipped * advantages)
            if self.entcoeff:
                gain += self.entcoeff * distribution.entropy(parameters)
            objective = tf.reduce_sum(gain * mask * valid)
        return self.flatten(tape.gradient(objective, weights))
