"""What all policy steps share: the batch, the surrogate objective on it, and what they report.

The objective is mean(ratio * advantage) + entcoeff * entropy. Sums over time steps are taken column
by column, in TensorFlow; sums over columns by `comm.sum_columns`, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.kernel import Graph, column_chunks, numpy_view
from trpo_mpi.policies.policy import Policy


class CriticBatch(NamedTuple):
    """What the critic learns from a batch, padded as its `PolicyBatch`."""

    memory: np.ndarray
    """(E, T, M) float32, of a recurrent policy."""
    targets: np.ndarray
    """(E, T) float32, the returns to fit."""
    before: np.ndarray
    """(E, T) float32, the values with which the batch was collected."""


@dataclass(frozen=True)
class PolicyBatch:
    """A batch for a policy step: this rank's E columns by T time steps, padded with mask 0.

    `states` and `counted` are not padded.
    """

    observations: np.ndarray
    """(E, T, D), normalised float32, or raw images."""
    starts: np.ndarray
    """(E, T) float32, 1 where a step is the first of its episode."""
    states: np.ndarray
    """(E, T, S) float32, the recurrent state before each step."""
    actions: np.ndarray
    """(E, T, ...)."""
    advantages: np.ndarray
    """(E, T) float32, normalised over all ranks."""
    mask: np.ndarray
    """(E, T) float32, 1 where a step counts."""
    counted: np.ndarray
    """(C, T) bool, which steps count, for the columns of all ranks."""
    critics: CriticBatch | None = None
    """For updates that train the critic with the policy."""

    def timesteps(self, rows: np.ndarray | None = None) -> int:
        """Counted steps over all ranks, at all time indices or only at `rows`; at least 1."""
        counted = self.counted
        if rows is not None:
            counted = counted[:, rows[rows < counted.shape[1]]]
        return max(1, int(counted.sum()))


class BatchTensors(NamedTuple):
    """The graphs' inputs from a `PolicyBatch`, for E columns that are processed together."""

    observations: tf.Tensor
    """(E, T, D)."""
    starts: tf.Tensor
    """(E, T)."""
    state: tf.Tensor
    """(E, S), the recurrent state before the first step."""
    actions: tf.Tensor
    """(E, T, ...)."""
    advantages: tf.Tensor
    """(E, T)."""
    mask: tf.Tensor
    """(E, T)."""


class PolicyStep(NamedTuple):
    """Statistics of one step."""

    kl: float
    """Mean KL(old || new) of the new policy, in nats."""
    entropy: float
    """Mean entropy of the old policy, in nats."""
    improvement: float
    """Gain of the objective; 0 if the line search gave up."""
    fraction: float
    """Fraction of the full step that was taken; 0 if the line search gave up."""
    more: dict[str, float] | None = None
    """Columns of progress.csv specific to this kind of step."""


@dataclass
class Stage:
    """The progress of the run when a step is taken, and the limits then in force."""

    max_kl: float
    """Radius of the trust region, in nats; for an adaptive penalty, the target KL."""
    done: float
    """Elapsed fraction of the schedules, from 0 to 1."""
    stream: np.random.Generator = field(repr=False)
    """Generator shared by all ranks; draws time indices."""

    def decayed(self, first: float, final: float) -> float:
        """Current value of a setting that decays linearly from `first` to `final * first`."""
        return first * (1 - self.done * (1 - final))


class PolicyUpdate:
    """A way to improve a policy on a batch; its subclasses are the choices of `--algo`."""

    adam: Adam | None = None
    """The policy's own optimiser, if the update uses one."""

    def step(
        self, theta: np.ndarray, batch: PolicyBatch, comm: Communicator, stage: Stage
    ) -> tuple[np.ndarray, PolicyStep]:
        """Take one step from `theta` (P,) float32; return the new parameters and statistics."""
        raise NotImplementedError

    def tree(self) -> dict[str, Any]:
        """The state carried from step to step, as plain data."""
        return {"adam": self.adam.tree()} if self.adam else {}

    def resume(self, tree: dict[str, Any]) -> None:
        """Restore the state that `tree` returned, unless other parameters were stepped then."""
        if self.adam and len(tree["adam"]["m"]) == len(self.adam.m):
            self.adam.resume(tree["adam"])


class PolicyKernels:
    """The objective and its derivatives as TensorFlow graphs of fixed shapes.

    Each returns one row per column, in arrays of as many columns as one call processes. Every
    column has its own copy of the parameters, so the derivative with respect to that copy is the
    column's own, and one batched product computes all of them. Policies with convolutions or a
    custom network process one column per call.

    Args:
        policy: the policy.
        columns: number of this rank's columns, E.
        steps: time steps of a batch, T, a multiple of 8; None if it varies.
        entcoeff: weight of the entropy in the objective.
    """

    def __init__(self, policy: Policy, columns: int, steps: int | None, entcoeff: float) -> None:
        self.policy = policy
        self.columns = 1 if policy.one_column else columns
        self.entcoeff = entcoeff
        self.flat = tf.TensorSpec([policy.num_parameters], tf.float32)
        distribution = policy.distribution
        shape = [self.columns, steps, *distribution.action_shape]
        actions = tf.TensorSpec(shape, distribution.action_type)
        self.signature = [*self.seen(steps), actions, self.numbers(steps), self.numbers(steps)]
        """Signature of each call's `BatchTensors`."""
        self.old_signature = self.numbers(steps, distribution.num_parameters)
        self._all_losses = Graph(self._losses, self.flat, *self.signature, self.old_signature)

    def numbers(self, *shape: int | None) -> tf.TensorSpec:
        """Signature of a float32 tensor with columns as its first axis."""
        return tf.TensorSpec([self.columns, *shape], tf.float32)

    def seen(self, steps: int | None) -> list[tf.TensorSpec]:
        """Signatures of the policy's inputs: observations, starts and first state."""
        shape = [self.columns, steps, self.policy.observation_size]
        images_or_numbers = tf.TensorSpec(shape, self.policy.observation_type)
        return [images_or_numbers, self.numbers(steps), self.numbers(self.policy.state_size)]

    def data(self, batch: PolicyBatch) -> list[BatchTensors]:
        """The graphs' inputs from a batch, one entry per call."""
        arrays = (batch.actions, batch.advantages, batch.mask)
        seen = (batch.observations, batch.starts, batch.states[:, 0])
        return [BatchTensors(*chunk) for chunk in column_chunks(self.columns, *seen, *arrays)]

    def losses(
        self, theta: np.ndarray, data: list[BatchTensors], old: list[tf.Tensor]
    ) -> list[np.ndarray]:
        """Gain of the objective over the distributions `old`, and KL, summed over time: (E, 2)."""
        pairs = zip(data, old, strict=True)
        return [numpy_view(self._all_losses(theta, *part, before)) for part, before in pairs]

    def copies(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """The arrays in the parameters `flat` (P,), one copy per column."""
        return self.policy.weights(tf.tile(flat[None], [self.columns, 1]))

    def flatten(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """The inverse for gradients with respect to `copies`: (E, P)."""
        return tf.concat([tf.reshape(g, (self.columns, -1)) for g in gradients], 1)

    def parameters(self, weights: list[tf.Tensor], x: BatchTensors) -> tf.Tensor:
        """The distributions' parameters at every step: (E, T, K)."""
        return self.policy(weights, x.observations, x.starts, x.state)

    def _losses(self, theta: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
        *batch, old = tensors
        x = BatchTensors(*batch)
        distribution = self.policy.distribution
        new = self.parameters(self.copies(theta), x)
        log_ratio = distribution.log_prob(new, x.actions) - distribution.log_prob(old, x.actions)
        gain = tf.math.expm1(log_ratio) * x.advantages
        entropy = distribution.entropy(new) - distribution.entropy(old)
        kl = distribution.kl(old, new)
        return tf.stack(
            [
                tf.reduce_sum((gain + self.entcoeff * entropy) * x.mask, 1),
                tf.reduce_sum(kl * x.mask, 1),
            ],
            1,
        )


class GradientKernels(PolicyKernels):
    """Kernels of gradient steps, with the `old` distributions for the ratio and the KL."""

    def __init__(self, policy: Policy, columns: int, steps: int | None, entcoeff: float) -> None:
        super().__init__(policy, columns, steps, entcoeff)
        self._old_parameters = Graph(self._old, self.flat, *self.signature)

    def old(
        self, theta: np.ndarray, data: list[BatchTensors]
    ) -> tuple[list[np.ndarray], list[tf.Tensor]]:
        """Entropy summed over time, (E, 1), and the distributions' parameters, (E, T, K)."""
        results = [self._old_parameters(theta, *part) for part in data]
        return [numpy_view(rows) for rows, _ in results], [old for _, old in results]

    def _old(self, theta: tf.Tensor, *tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = BatchTensors(*tensors)
        parameters = self.parameters(self.copies(theta), x)
        entropy = tf.reduce_sum(self.policy.distribution.entropy(parameters) * x.mask, 1)
        return entropy[:, None], parameters


OUT_OF_BOUNDS = (-np.inf, np.inf)
"""Result of `mean_losses` if the losses are not finite."""


def mean_losses(
    theta: np.ndarray,
    kernels: PolicyKernels,
    data: list[BatchTensors],
    old: list[tf.Tensor],
    batch: PolicyBatch,
    comm: Communicator,
) -> tuple[float, float]:
    """Gain of the objective and KL(old || new), means over the steps of all ranks.

    Returns `OUT_OF_BOUNDS`, on all ranks, if they are not finite.
    """
    try:
        gain, kl = comm.sum_columns("losses", *kernels.losses(theta, data, old))
    except FloatingPointError:
        return OUT_OF_BOUNDS
    n = batch.timesteps()
    return float(gain / n), float(kl / n)


def prepare(
    theta: np.ndarray, kernels: GradientKernels, batch: PolicyBatch, comm: Communicator
) -> tuple[list[BatchTensors], list[tf.Tensor], float]:
    """Inputs of gradient steps: the graphs' data, the old distributions and their mean entropy."""
    data = kernels.data(batch)
    entropies, old = kernels.old(theta, data)
    return data, old, float(comm.sum_columns("entropy", *entropies)[0] / batch.timesteps())


def accept_if_finite(
    theta: np.ndarray,
    new: np.ndarray,
    losses: tuple[float, float],
    entropy: float,
    more: dict[str, float] | None = None,
) -> tuple[np.ndarray, PolicyStep]:
    """Result of a step without a line search: the parameters `new`, and statistics.

    If `losses`, from `mean_losses` at `new`, are not finite, the parameters are the array `theta`
    itself.
    """
    gain, kl = losses
    if np.isfinite(kl):
        return new, PolicyStep(kl, entropy, gain, 1.0, more)
    return theta, PolicyStep(0.0, entropy, 0.0, 0.0, more)
