"""The critic: a value network fitted to TD(lambda) returns by Adam.

A minibatch is a set of time indices, the same in every column, drawn from a stream that all ranks
share; its gradient is one exact sum over columns, so every rank takes the same Adam step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.minibatches import expected_steps, minibatches, rows_per_minibatch
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.acting import padded_rows
from trpo_mpi.policies.kernel import Graph, column_chunks, numpy_view, round_up_to_8
from trpo_mpi.policies.policy import ValueNetwork

VALUES = 1024
"""Rows per call when values are computed, a multiple of 16; it bounds the memory."""


def squared_error(
    values: tf.Tensor, targets: tf.Tensor, before: tf.Tensor | None, clip: float | None
) -> tf.Tensor:
    """Squared errors, (E, T); with `clip` at least those of values that move so far from `before`.

    The value clipping of Baselines' PPO.
    """
    error = (values - targets) ** 2
    if clip is None:
        return error
    moved = before + tf.clip_by_value(values - before, -clip, clip)
    return tf.maximum(error, (moved - targets) ** 2)


class Critic:
    """A value function of observations (D) and memory (M), with parameters `phi` (P,)."""

    def __init__(
        self,
        network: ValueNetwork,
        phi: np.ndarray,
        columns: int,
        steps: int | None,
        rows: int,
        clip: float | None = None,
        two_batches: bool = False,
    ) -> None:
        """For `steps` time steps by `columns` of this rank, in minibatches of `rows` time indices.

        `steps` is a multiple of 8, or None if it varies; minibatches then have as many rows as
        `rows_per_minibatch` returns. For `clip` see `squared_error`. With `two_batches` the critic
        is also fitted to the previous batch, with that batch's targets (Coady's TRPO).
        """
        self._clip = clip
        self._two_batches = two_batches
        self._last: tuple[list[np.ndarray], np.ndarray] | None = None
        steps = None if two_batches else steps
        self.phi = phi
        self.adam = Adam(len(phi))
        self.network = network
        self._columns = columns = 1 if network.one_column else columns
        self._minibatch_rows = rows
        self._padded_rows = None if steps is None else round_up_to_8(min(rows, steps))
        flat = tf.TensorSpec([network.num_parameters], tf.float32)

        def seen(*shape: int | None) -> list[tf.TensorSpec]:
            observations = [*shape, network.observation_size]
            return [
                tf.TensorSpec(observations, network.observation_type),
                tf.TensorSpec([*shape, network.carried_size], tf.float32),
            ]

        targets = [tf.TensorSpec([columns, steps], tf.float32)] * (1 if clip is None else 2)
        chosen = tf.TensorSpec([self._padded_rows], tf.int32)
        weight = tf.TensorSpec([columns, self._padded_rows], tf.float32)
        self._gradient_kernel = Graph(
            self._gradient, flat, chosen, weight, *seen(columns, steps), *targets
        )
        self._values_kernel = Graph(self._values, flat, *seen(None))

    def _values(self, phi: tf.Tensor, observations: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        return self.network(self.network.weights(phi[None]), observations[None], memory[None])[0]

    def _gradient(
        self,
        phi: tf.Tensor,
        chosen: tf.Tensor,
        weight: tf.Tensor,
        observations: tf.Tensor,
        memory: tf.Tensor,
        targets: tf.Tensor,
        *before: tf.Tensor,
    ) -> tf.Tensor:
        """Gradient of half the squared error, summed over the chosen time steps: (E, P)."""
        weights = self.network.weights(tf.tile(phi[None], [self._columns, 1]))
        inputs, remembered = (tf.gather(x, chosen, axis=1) for x in (observations, memory))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            values = self.network(weights, inputs, remembered)
            wanted, *was = (tf.gather(x, chosen, axis=1) for x in (targets, *before))
            error = squared_error(values, wanted, was[0] if was else None, self._clip)
            loss = 0.5 * tf.reduce_sum(error * weight)
        gradients = tape.gradient(loss, weights)
        return tf.concat([tf.reshape(g, (self._columns, -1)) for g in gradients], 1)

    def values(self, observations: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Values of (n, D) normalised observations and (n, M) memory: (n,) float64."""
        n = len(observations)
        # TensorFlow may choose a convolution's algorithm by the number of images.
        block, together = (64, 64) if self.network.one_column else (16, VALUES)
        padded = [padded_rows(x, block) for x in (observations, memory)]
        values = [
            self._values_kernel(self.phi, *(x[first : first + together] for x in padded))
            for first in range(0, len(padded[0]), together)
        ]
        return np.concatenate(values)[:n].astype(np.float64)

    def fit(
        self,
        observations: np.ndarray,
        memory: np.ndarray,
        targets: np.ndarray,
        counted: np.ndarray,
        stepsize: float,
        epochs: int,
        stream: np.random.Generator,
        comm: Communicator,
        before: np.ndarray | None = None,
    ) -> None:
        """Minimise the squared error over the batch.

        Args:
            observations, memory, targets: (E, T, D), (E, T, M), (E, T), T padded.
            counted: (C, steps) bool, which of the first `steps` of T count, for the columns of all
                ranks.
            stepsize: Adam's step size.
            epochs: passes over the batch.
            stream: generator shared by all ranks; draws the order of the time steps.
            before: (E, T), the values before the fit, if values are clipped.
        """
        arrays = [observations, memory, targets]
        if self._clip is not None:
            assert before is not None
            arrays.append(before)
        if self._two_batches:
            arrays, counted = self._with_last([x[:, : counted.shape[1]] for x in arrays], counted)
        data = column_chunks(self._columns, *arrays)
        steps = counted.shape[1]
        own = counted[comm.columns.start : comm.columns.stop]
        size = self._minibatch_rows
        if not self._padded_rows:
            size = rows_per_minibatch(size, counted)
        for _ in range(epochs):
            for rows in minibatches(steps, size, stream):
                padded = self._padded_rows or round_up_to_8(len(rows))
                chosen = np.zeros(padded, np.int32)
                weight = np.zeros((len(own), padded), np.float32)
                chosen[: len(rows)], weight[:, : len(rows)] = rows, own[:, rows]
                total = comm.sum_columns("critic gradient", *self._gradients(data, chosen, weight))
                mean = (total / expected_steps(counted, rows)).astype(np.float32)
                self.phi = self.adam.update(self.phi, mean, stepsize)

    def _with_last(
        self, arrays: list[np.ndarray], counted: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Join the previous batch, if any, and this one, which is stored for the next fit."""
        last, self._last = self._last, (arrays, counted)
        if last is None:
            return self._last
        pairs = zip(last[0], arrays, strict=True)
        joined = [np.concatenate(pair, axis=1) for pair in pairs]
        return joined, np.concatenate((last[1], counted), axis=1)

    def column_state(self, place: int, column: int) -> list[np.ndarray] | None:
        """The last batch's data of column `column`, this rank's number `place`; or None."""
        if self._last is None:
            return None
        arrays, counted = self._last
        return [*(x[place] for x in arrays), counted[column]]

    def restore_columns(self, columns: Sequence[list[np.ndarray] | None], own: range) -> None:
        """Restore what `column_state` gave for all columns, C."""
        # Observations, memory, targets, perhaps the values before, and which steps count: those of
        # a run with other settings may be fewer or more.
        number = 4 if self._clip is None else 5
        given = [column for column in columns if column is not None and len(column) == number]
        if self._two_batches and len(given) == len(columns):
            *arrays, _ = zip(*(given[column] for column in own), strict=True)
            self._last = [np.stack(x) for x in arrays], np.stack([x[-1] for x in given])

    def _gradients(
        self, data: list[list[tf.Tensor]], chosen: np.ndarray, weight: np.ndarray
    ) -> list[np.ndarray]:
        n = self._columns
        return [
            numpy_view(self._gradient_kernel(self.phi, chosen, weight[i * n : (i + 1) * n], *part))
            for i, part in enumerate(data)
        ]
