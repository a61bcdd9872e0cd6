"""Proximal policy optimisation (Schulman et al. 2017): the clipped surrogate, by Adam.

    maximise  mean(min(ratio * advantage, clip(ratio, 1 - c, 1 + c) * advantage))
              + entcoeff * entropy

A minibatch is a set of time indices, the same in every column; its gradient is one exact sum over
columns, so every rank takes the same Adam steps. The critic is a separate network, fitted as for
any other policy step.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.minibatches import expected_steps, minibatches, rows_per_minibatch
from trpo_mpi.algorithms.policy_update import (
    OUT_OF_BOUNDS,
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
from trpo_mpi.policies.kernel import Graph, numpy_view, round_up_to_8
from trpo_mpi.policies.policy import Policy

ITERS = 10
"""Passes over the batch, unless --policy-iters is given."""
STEPSIZE = 3e-4
"""Adam's initial step size, unless --policy-stepsize is given."""


class Ppo(PolicyUpdate):
    """Minibatch steps on the clipped surrogate."""

    def __init__(
        self, policy: Policy, config: Config, grid: Grid, columns: int, steps: int | None
    ) -> None:
        """For batches of `steps` time steps by `columns` of this rank; see `PolicyKernels`."""
        self.adam: Adam = Adam(policy.num_parameters)
        self._config = config
        self._recurrent = policy.state_size > 0
        self._minibatch_rows = grid.rows(config.policy_batch)
        self._varies = steps is None
        self._kernels = PpoKernels(policy, columns, steps, self._minibatch_rows, config.entcoeff)

    def step(
        self, theta: np.ndarray, batch: PolicyBatch, comm: Communicator, stage: Stage
    ) -> tuple[np.ndarray, PolicyStep]:
        """Take one step from `theta` (P,) float32; return the new parameters and statistics."""
        config, kernels = self._config, self._kernels
        clip = stage.decayed(config.clip_range, config.final_clip_range)
        stepsize = stage.decayed(config.policy_stepsize or STEPSIZE, config.policy_final_stepsize)
        data, old, entropy = prepare(theta, kernels, batch, comm)
        log_probs, limit = kernels.log_probs(data, old), tf.constant(clip, tf.float32)
        horizon = batch.counted.shape[1]
        size = self._minibatch_rows
        if self._varies:
            size = rows_per_minibatch(size, batch.counted)
        more = {"policy_stepsize": stepsize, "clip_range": clip}
        first = theta
        passes = config.policy_iters or ITERS
        for done in range(1, passes + 1):
            for rows in minibatches(horizon, size, stage.stream, self._recurrent):
                gradients = kernels.clipped_gradient(theta, limit, rows, batch, data, log_probs)
                try:
                    total = comm.sum_columns("clipped gradient", *gradients)
                except FloatingPointError:  # raised on all ranks: the step was too long
                    return accept_if_finite(first, theta, OUT_OF_BOUNDS, entropy, more)
                gradient = total / expected_steps(batch.counted, rows)
                norm = float(np.sqrt(np.sum(gradient**2)))
                if config.max_grad_norm is not None and norm > config.max_grad_norm:
                    gradient *= config.max_grad_norm / norm
                theta = self.adam.update(theta, -gradient.astype(np.float32), stepsize)
            if config.stop_kl is not None or done == passes:
                losses = mean_losses(theta, kernels, data, old, batch, comm)
                if config.stop_kl is not None and losses[1] > config.stop_kl:
                    break
        return accept_if_finite(first, theta, losses, entropy, more)


class PpoKernels(GradientKernels):
    """The clipped surrogate's gradient, on minibatches of `rows` time indices if T is fixed."""

    def __init__(
        self, policy: Policy, columns: int, steps: int | None, rows: int, entcoeff: float
    ) -> None:
        """For batches of `steps` time steps by `columns`; see `PolicyKernels`."""
        super().__init__(policy, columns, steps, entcoeff)
        self._padded_rows = None if steps is None else round_up_to_8(min(rows, steps))
        indices = tf.TensorSpec([self._padded_rows], tf.int32)
        own = [self.numbers(policy.state_size), indices, tf.TensorSpec([], tf.float32)]
        self._gradients = Graph(
            self._gradient, self.flat, *own, self.numbers(steps), *self.signature
        )
        actions = BatchTensors(*self.signature).actions
        self._log_probs = Graph(policy.distribution.log_prob, self.old_signature, actions)

    def log_probs(self, data: list[BatchTensors], old: list[tf.Tensor]) -> list[tf.Tensor]:
        """log p(action) under the distributions `old`, for all minibatches: (E, T)."""
        return [self._log_probs(x, part.actions) for x, part in zip(old, data, strict=True)]

    def clipped_gradient(
        self,
        theta: np.ndarray,
        clip: tf.Tensor,
        rows: np.ndarray,
        batch: PolicyBatch,
        data: list[BatchTensors],
        log_probs: list[tf.Tensor],
    ) -> list[np.ndarray]:
        """Gradient of the clipped objective, summed over the time indices `rows`: (E, P).

        The argument `log_probs` is the method's result for the policy that collected the batch.
        """
        padded = self._padded_rows or round_up_to_8(len(rows))
        chosen = np.full(padded, -1, np.int32)
        chosen[: len(rows)] = rows
        states = [part.state for part in data]  # empty, unless the policy is recurrent
        if batch.states.size:
            states = np.split(batch.states[:, rows[0]], len(data))
        return [
            numpy_view(self._gradients(theta, state, chosen, clip, before, *part))
            for state, before, part in zip(states, log_probs, data, strict=True)
        ]

    def _gradient(
        self,
        theta: tf.Tensor,
        state: tf.Tensor,
        chosen: tf.Tensor,
        clip: tf.Tensor,
        log_probs: tf.Tensor,
        *tensors: tf.Tensor,
    ) -> tf.Tensor:
        distribution = self.policy.distribution
        rows, valid = tf.maximum(chosen, 0), tf.cast(chosen >= 0, tf.float32)
        whole = BatchTensors(*tensors)
        x = BatchTensors(*(t if t is whole.state else tf.gather(t, rows, axis=1) for t in whole))
        x, before = x._replace(state=state), tf.gather(log_probs, rows, axis=1)
        weights = self.copies(theta)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parameters = self.parameters(weights, x)
            ratio = tf.exp(distribution.log_prob(parameters, x.actions) - before)
            clipped = tf.clip_by_value(ratio, 1 - clip, 1 + clip)
            gain = tf.minimum(ratio * x.advantages, clipped * x.advantages)
            if self.entcoeff:
                gain += self.entcoeff * distribution.entropy(parameters)
            objective = tf.reduce_sum(gain * x.mask * valid)
        return self.flatten(tape.gradient(objective, weights))
