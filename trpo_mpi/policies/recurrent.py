"""Long short-term memory (Hochreiter and Schmidhuber 1997), unrolled through a batch's time steps.

It provides three things that TensorFlow does not. The gradient of each column alone, which the
exact sum over columns needs: a copy of the recurrent matrix for every column would make each step
a product of single rows, 3.6 times the time; so the loop shares one matrix, and the columns'
gradients are computed from the gradients of its products (`Lstm._unroll`). The forward-mode
product, which fails around any TensorFlow loop: its accumulator is inside the loop
(`Lstm.tangent`). And bits that do not depend on the number of columns: the loop pads it to a
multiple of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trpo_mpi.policies.lazy_tensorflow import tf
from trpo_mpi.policies.networks import every_step, orthogonal, pushforward

ROWS = 16
"""The loop's columns are padded to a multiple of this."""


class Lstm:
    """A layer of U LSTM cells; its state is (hidden, cell), 2 U numbers.

    Args:
        inputs: size of its input.
        units: U.
        layer_norm: normalise both products and the cells (Ba, Kiros and Hinton 2016).
    """

    def __init__(self, inputs: int, units: int, layer_norm: bool) -> None:
        self.outputs = self.units = units
        self.state_size = 2 * units
        self._layer_norm = layer_norm
        gates = 4 * units
        self.shapes: list[tuple[int, ...]] = [(inputs, gates), (1, gates), (units, gates)]
        if layer_norm:
            # Gains of the input's and the state's product, then gain and bias of the cells.
            self.shapes += [(1, gates), (1, gates), (1, units), (1, units)]

    def initialise(self, stream: np.random.Generator) -> list[np.ndarray]:
        """Orthogonal matrices of gain 1, gate by gate; zero biases, but 1 for the forget gates.

        A forget gate that starts open remembers (Jozefowicz et al. 2015).
        """
        (inputs, gates), units = self.shapes[0], self.units
        from_input, from_state = (
            np.concatenate([orthogonal(stream, rows, units, 1.0) for _ in range(4)], axis=1)
            for rows in (inputs, units)
        )
        bias = np.zeros(gates)
        bias[units : 2 * units] = 1
        ones = [np.ones(gates), np.ones(gates), np.ones(units), np.zeros(units)]
        return [from_input, bias, from_state, *(ones if self._layer_norm else [])]

    def _enter(self, weights: Sequence[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
        """The input's part of the gates, column by column: (E, T, F) -> (E, T, 4 U)."""
        product = tf.matmul(features, weights[0])
        if self._layer_norm:
            product = _normalised(product) * every_step(weights[3], features)
        return product + every_step(weights[1], features)

    def _cell(
        self,
        entered: tf.Tensor,
        pushed: tf.Tensor | float,
        h: tf.Tensor,
        c: tf.Tensor,
        matrix: tf.Tensor,
        *gains: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One time step; `pushed` is added to the state's product."""
        product = tf.matmul(h, matrix) + pushed
        if self._layer_norm:
            product = _normalised(product) * gains[0]
        i, f, o, g = tf.split(entered + product, 4, axis=-1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        shown = _normalised(c) * gains[1] + gains[2] if self._layer_norm else c
        return tf.sigmoid(o) * tf.tanh(shown), c

    def __call__(
        self,
        weights: Sequence[tf.Tensor],
        features: tf.Tensor,
        starts: tf.Tensor,
        state: tf.Tensor,
    ) -> tf.Tensor:
        """Column by column: (E, T, F) -> (E, T, U).

        Args:
            weights: one copy per column, all equal.
            features: the layer's input.
            starts: (E, T), 1 where a step is the first of its episode: the state is 0 before it.
            state: (E, 2 U), before the first step.
        """
        unroll = tf.custom_gradient(
            lambda entered, recurrent, *gains: self._unroll(
                entered, starts, state, recurrent, gains
            )
        )
        hidden: tf.Tensor = unroll(self._enter(weights, features), weights[2], *weights[4:])
        return hidden

    def _unroll(
        self,
        entered: tf.Tensor,
        starts: tf.Tensor,
        state: tf.Tensor,
        recurrent: tf.Tensor,
        gains: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        """The loop, and its gradient for each column's own copy of the matrix and gains."""
        columns = entered.shape[0]
        matrix, rows = recurrent[0], [_padded(gain, 0) for gain in gains]
        elements = [_by_time(entered), 1 - _by_time(starts[:, :, None])]
        first = _padded(state, 0)
        with tf.GradientTape() as tape:
            pushed = tf.zeros_like(elements[0])
            tape.watch([elements[0], pushed, *rows])

            def step(carry, element):  # type: ignore[no-untyped-def]
                entered_now, goes_on, pushed_now = element
                h, c = (goes_on * part for part in carry)
                return self._cell(entered_now, pushed_now, h, c, matrix, *(r[:, 0] for r in rows))

            hidden, _ = tf.scan(step, (*elements, pushed), tuple(tf.split(first, 2, axis=1)))

        def gradient(upstream):  # type: ignore[no-untyped-def]
            by = tape.gradient(hidden, [elements[0], pushed, *rows], _by_time(upstream))
            own = [tensor[:columns] for tensor in (_by_column(by[0], columns), *by[2:])]
            before = tf.concat([first[None, :, : self.units], hidden[:-1]], 0) * elements[1]
            # d/d(matrix) of a column: its states before each step, times the product's gradient.
            product = tf.matmul(
                _by_column(before, columns), _by_column(by[1], columns), transpose_a=True
            )
            return own[0], product, *own[1:]

        return _by_column(hidden, columns), gradient

    def tangent(
        self,
        weights: Sequence[tf.Tensor],
        tangents: Sequence[tf.Tensor],
        features: tuple[tf.Tensor, tf.Tensor],
        starts: tf.Tensor,
        state: tf.Tensor,
    ) -> tf.Tensor:
        """Forward-mode product of `__call__`: the tangent of its output, (E, T, U).

        Args:
            weights, tangents: one copy per column, all equal.
            features: the layer's input and its tangent.
            starts, state: as in `__call__`.
        """
        entered, d_entered = pushforward(
            lambda x, *w: self._enter([*w[:2], None, *w[2:]], x),
            [features[0], *weights[:2], *weights[3:4]],
            [features[1], *tangents[:2], *tangents[3:4]],
        )
        shared = [w[0] for w in (weights[2], *weights[4:])]
        d_shared = [w[0] for w in (tangents[2], *tangents[4:])]

        def step(carry, element):  # type: ignore[no-untyped-def]
            entered_now, d_entered_now, goes_on = element
            h, c, dh, dc = (goes_on * part for part in carry)
            (h, c), (dh, dc) = pushforward(
                lambda x, h, c, *w: self._cell(x, 0.0, h, c, *w),
                [entered_now, h, c, *shared],
                [d_entered_now, dh, dc, *d_shared],
            )
            return h, c, dh, dc

        first = tf.split(_padded(state, 0), 2, axis=1)
        carry = (*first, *(tf.zeros_like(part) for part in first))
        elements = (_by_time(entered), _by_time(d_entered), 1 - _by_time(starts[:, :, None]))
        return _by_column(tf.scan(step, elements, carry)[2], entered.shape[0])

    def step(
        self, weights: Sequence[tf.Tensor], features: tf.Tensor, state: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`rows` in TensorFlow: (1, n, F) and states (n, 2 U) to outputs (1, n, U) and states."""
        entered = self._enter(weights, features)[0]
        shared = [w[0] for w in (weights[2], *weights[4:])]
        h, c = self._cell(entered, 0.0, *tf.split(state, 2, axis=1), *shared)
        return h[None], tf.concat([h, c], axis=1)

    def held(self, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """One set of parameter arrays as `rows` takes it."""
        return arrays

    def rows(
        self, weights: Sequence[np.ndarray], x: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step in NumPy, for (n, F) rows and states (n, 2 U): outputs and states after it."""
        entered, product = x @ weights[0], state[:, : self.units] @ weights[2]
        if self._layer_norm:
            entered = _numpy_normalised(entered) * weights[3]
            product = _numpy_normalised(product) * weights[4]
        gates = entered + weights[1] + product
        # The sigmoid, written with tanh, which can't overflow.
        opened = 0.5 + 0.5 * np.tanh(0.5 * gates[:, : 3 * self.units])
        i, f, o = np.split(opened, 3, axis=1)
        c = f * state[:, self.units :] + i * np.tanh(gates[:, 3 * self.units :])
        shown = _numpy_normalised(c) * weights[5] + weights[6] if self._layer_norm else c
        h = o * np.tanh(shown)
        return h, np.concatenate([h, c], axis=1)


EPSILON = 1e-5
"""Added to the variance in layer normalisation."""


def _normalised(x: tf.Tensor) -> tf.Tensor:
    """Each row with mean 0 and variance 1."""
    x -= tf.reduce_mean(x, axis=-1, keepdims=True)
    return x / tf.sqrt(tf.reduce_mean(x**2, axis=-1, keepdims=True) + EPSILON)


def _numpy_normalised(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    scaled: np.ndarray = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
    return scaled


def _padded(x: tf.Tensor, axis: int) -> tf.Tensor:
    """`x` padded with zeros to a multiple of `ROWS` along `axis`, the columns."""
    paddings = [[0, 0] for _ in x.shape]
    paddings[axis][1] = -x.shape[axis] % ROWS
    return tf.pad(x, paddings)


def _by_time(x: tf.Tensor) -> tf.Tensor:
    """(E, T, n) -> (T, E padded, n)."""
    return tf.transpose(_padded(x, 0), (1, 0, 2))


def _by_column(x: tf.Tensor, columns: int) -> tf.Tensor:
    """(T, E padded, n) -> (E, T, n)."""
    return tf.transpose(x[:, :columns], (1, 0, 2))
