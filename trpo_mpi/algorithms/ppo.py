"""Proximal policy optimisation (Schulman et al. 2017): the clipped surrogate, by Adam.

    maximise  mean(min(ratio * advantage, clip(ratio, 1 - c, 1 + c) * advantage))
              + entcoeff * entropy

A minibatch is a set of time indices, the same in every column; its gradient is one exact sum over
columns, so every rank takes the same Adam steps. The critic is a network of its own, fitted as for
any other policy step, or, with `--vf-coef`, it has the policy's encoder. Then the objective also
has -coef * (V - target)^2 / 2, and one Adam steps the policy and the critic's last layer.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.critic import Critic, squared_error
from trpo_mpi.algorithms.minibatches import expected_steps, minibatches, rows_per_minibatch
from trpo_mpi.algorithms.policy_update import (
    OUT_OF_BOUNDS,
    BatchTensors,
    CriticBatch,
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
from trpo_mpi.policies.kernel import Graph, column_chunks, numpy_view, round_up_to_8
from trpo_mpi.policies.networks import Network
from trpo_mpi.policies.policy import Policy

ITERS = 10
"""Passes over the batch, unless --policy-iters is given."""
STEPSIZE = 3e-4
"""Adam's initial step size, unless --policy-stepsize is given."""
EPSILON = 1e-5
"""Adam's epsilon for a shared encoder, as in Baselines: gradients that are nearly zero must not
become steps of full size, which leave ReLUs inactive."""
SHORTEST_WINDOW = 8
"""Time indices that a recurrent policy's minibatch has at least, however many the environments:
its gradients reach no further back. It is padded to as many anyway."""


class Ppo(PolicyUpdate):
    """Minibatch steps on the clipped surrogate."""

    def __init__(
        self,
        policy: Policy,
        config: Config,
        grid: Grid,
        columns: int,
        steps: int | None,
        critic: Critic | None = None,
    ) -> None:
        """For batches of `steps` time steps by `columns` of this rank; see `PolicyKernels`.

        A `critic` that is given shares the policy's encoder, and is trained here.
        """
        self._policy, self._critic = policy, critic
        self._config = config
        self._recurrent = policy.state_size > 0
        rows = grid.rows(config.policy_batch)
        if self._recurrent:
            rows = max(rows, SHORTEST_WINDOW)
        self._minibatch_rows = rows
        self._varies = steps is None
        self._kernels = PpoKernels(policy, columns, steps, rows, config, critic)
        size = self._kernels.network.num_parameters
        self.adam: Adam = Adam(size) if critic is None else Adam(size, EPSILON)

    def step(
        self, theta: np.ndarray, batch: PolicyBatch, comm: Communicator, stage: Stage
    ) -> tuple[np.ndarray, PolicyStep]:
        """Take one step from `theta` (P,) float32; return the new parameters and statistics."""
        config, kernels = self._config, self._kernels
        clip = stage.decayed(config.clip_range, config.final_clip_range)
        stepsize = stage.decayed(config.policy_stepsize or STEPSIZE, config.policy_final_stepsize)
        data, old, entropy = prepare(theta, kernels, batch, comm)
        extra = kernels.extra_inputs(data, old, batch)
        limit = tf.constant(clip, tf.float32)
        horizon = batch.counted.shape[1]
        size = self._minibatch_rows
        if self._varies:
            size = rows_per_minibatch(size, batch.counted)
        more = {"policy_stepsize": stepsize, "clip_range": clip}
        encoder, end = self._policy.encoder_size, self._policy.num_parameters
        x = theta
        if self._critic is not None:
            x = np.concatenate([theta, self._critic.phi[encoder:]])
        first = x
        losses = OUT_OF_BOUNDS
        passes = config.policy_iters or ITERS
        for done in range(1, passes + 1):
            for rows in minibatches(horizon, size, stage.stream, self._recurrent):
                gradients = kernels.clipped_gradient(x, limit, rows, batch, data, extra)
                try:
                    total = comm.sum_columns("clipped gradient", *gradients)
                except FloatingPointError:  # raised on all ranks
                    if x is first:
                        raise
                    # The steps were too long.
                    return accept_if_finite(theta, theta, OUT_OF_BOUNDS, entropy, more)
                gradient = total / expected_steps(batch.counted, rows)
                norm = float(np.sqrt(np.sum(gradient**2)))
                if config.max_grad_norm is not None and norm > config.max_grad_norm:
                    gradient *= config.max_grad_norm / norm
                x = self.adam.update(x, -gradient.astype(np.float32), stepsize)
            if config.stop_kl is not None or done == passes:
                losses = mean_losses(x[:end], kernels, data, old, batch, comm)
                if config.stop_kl is not None and losses[1] > config.stop_kl:
                    break
        if self._critic is not None and np.isfinite(losses[1]):
            self._critic.phi = np.concatenate([x[:encoder], x[end:]])
        return accept_if_finite(theta, x[:end], losses, entropy, more)


class PpoKernels(GradientKernels):
    """The clipped surrogate's gradient, on minibatches of `rows` time indices if T is fixed."""

    def __init__(
        self,
        policy: Policy,
        columns: int,
        steps: int | None,
        rows: int,
        config: Config,
        critic: Critic | None = None,
    ) -> None:
        """For batches of `steps` time steps by `columns`; see `PolicyKernels`."""
        super().__init__(policy, columns, steps, config.entcoeff)
        self._config = config
        self._value_network = critic.network if critic else None
        heads = [self._value_network.head] if self._value_network else []
        self.network = Network(*policy.parts, *heads)
        """Whose parameters are stepped together."""
        flat = tf.TensorSpec([self.network.num_parameters], tf.float32)
        self._padded_rows = None if steps is None else round_up_to_8(min(rows, steps))
        indices = tf.TensorSpec([self._padded_rows], tf.int32)
        own = [self.numbers(policy.state_size), indices, tf.TensorSpec([], tf.float32)]
        extra = [self.numbers(steps)]
        if self._value_network:
            sizes = [(steps, self._value_network.carried_size), (steps,), (steps,)]
            extra += [self.numbers(*shape) for shape in sizes]
        self._extra_inputs = len(extra)
        self._gradients = Graph(self._gradient, flat, *own, *extra, *self.signature)
        actions = BatchTensors(*self.signature).actions
        self._log_probs = Graph(policy.distribution.log_prob, self.old_signature, actions)

    def extra_inputs(
        self, data: list[BatchTensors], old: list[tf.Tensor], batch: PolicyBatch
    ) -> list[list[tf.Tensor]]:
        """Further inputs of each call, for all minibatches.

        These are log p(action) under the distributions `old`, (E, T), and what the critic learns.
        """
        log_probs = [self._log_probs(x, part.actions) for x, part in zip(old, data, strict=True)]
        if not self._value_network:
            return [[x] for x in log_probs]
        assert batch.critics is not None
        chunks = column_chunks(self.columns, *batch.critics)
        return [[x, *chunk] for x, chunk in zip(log_probs, chunks, strict=True)]

    def clipped_gradient(
        self,
        flat: np.ndarray,
        clip: tf.Tensor,
        rows: np.ndarray,
        batch: PolicyBatch,
        data: list[BatchTensors],
        extra: list[list[tf.Tensor]],
    ) -> list[np.ndarray]:
        """Gradient of the clipped objective, summed over the time indices `rows`: (E, P).

        The parameters `flat` (P,) are those of `network`; `extra` are the `extra_inputs` for the
        policy that collected the batch.
        """
        padded = self._padded_rows or round_up_to_8(len(rows))
        chosen = np.full(padded, -1, np.int32)
        chosen[: len(rows)] = rows
        states = [part.state for part in data]  # empty, unless the policy is recurrent
        if batch.states.size:
            states = np.split(batch.states[:, rows[0]], len(data))
        return [
            numpy_view(self._gradients(flat, state, chosen, clip, *more, *part))
            for state, more, part in zip(states, extra, data, strict=True)
        ]

    def _gradient(
        self,
        flat: tf.Tensor,
        state: tf.Tensor,
        chosen: tf.Tensor,
        clip: tf.Tensor,
        *tensors: tf.Tensor,
    ) -> tf.Tensor:
        distribution = self.policy.distribution
        rows, valid = tf.maximum(chosen, 0), tf.cast(chosen >= 0, tf.float32)
        whole = BatchTensors(*tensors[self._extra_inputs :])
        x = BatchTensors(*(t if t is whole.state else tf.gather(t, rows, axis=1) for t in whole))
        x = x._replace(state=state)
        before, *critics = (tf.gather(t, rows, axis=1) for t in tensors[: self._extra_inputs])
        weights = self.network.weights(tf.tile(flat[None], [self.columns, 1]))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parts = self.network.of_parts(weights)
            own = [array for part in parts[: len(self.policy.parts)] for array in part]
            parameters, features = self.policy.with_features(own, x.observations, x.starts, x.state)
            ratio = tf.exp(distribution.log_prob(parameters, x.actions) - before)
            clipped = tf.clip_by_value(ratio, 1 - clip, 1 + clip)
            gain = tf.minimum(ratio * x.advantages, clipped * x.advantages)
            if self.entcoeff:
                gain += self.entcoeff * distribution.entropy(parameters)
            if self._value_network:
                learnt = CriticBatch(*critics)
                values = self._value_network.of_features(parts[-1], features, learnt.memory)
                error = squared_error(values, learnt.targets, learnt.before, self._config.vf_clip)
                gain -= 0.5 * self._config.shared_vf_coef * error
            objective = tf.reduce_sum(gain * x.mask * valid)
        return self.flatten(tape.gradient(objective, weights))
