"""Feed-forward networks as pure functions of one flat parameter vector.

A network's parameters are one float32 vector of length P, the form in which MPI sums gradients,
CG solves and files keep them. `Mlp.weights` views it as matrices; given one copy of the vector for
each column, (E, P), it gives each column's matrices, and `Mlp.__call__` multiplies column by
column: the gradient by that copy is then the column's own, which the exact sum over columns needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class Mlp:
    """Fully connected layers with tanh between them.

    Args:
        sizes: units of input, hidden layers and output.
        last_gain: scale of the last layer's orthogonal matrix; the others have sqrt(2).
        extra: further parameters behind the last layer's, for the caller's use.
    """

    def __init__(self, sizes: Sequence[int], last_gain: float, extra: int = 0) -> None:
        self.sizes = tuple(sizes)
        self.extra = extra
        self._last_gain = last_gain
        self._shapes: list[tuple[int, int]] = []
        for inputs, outputs in pairwise(sizes):
            self._shapes += [(inputs, outputs), (1, outputs)]
        self._shapes += [(1, extra)] if extra else []
        self.num_parameters = sum(rows * columns for rows, columns in self._shapes)

    def initialise(self, stream: np.random.Generator) -> np.ndarray:
        """Orthogonal matrices (Saxe et al. 2014) and zero biases: (P,) float32."""
        parts = []
        layers = len(self.sizes) - 1
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            gain = self._last_gain if layer == layers - 1 else np.sqrt(2)
            tall = stream.standard_normal((max(inputs, outputs), min(inputs, outputs)))
            q, r = np.linalg.qr(tall)
            q = q * np.sign(np.diag(r))  # makes the distribution uniform
            parts += [gain * (q if inputs >= outputs else q.T), np.zeros(outputs)]
        parts.append(np.zeros(self.extra))
        return np.concatenate([part.ravel() for part in parts]).astype(np.float32)

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """The matrices in a flat NumPy vector: weight, bias, weight, bias, ..., extra."""
        ends = np.cumsum([rows * columns for rows, columns in self._shapes])
        parts = np.split(flat, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def weights(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """The matrices in flat vectors: (E, P) -> [(E, inputs, outputs), (E, 1, outputs), ...]."""
        import tensorflow as tf

        parts = tf.split(flat, [rows * columns for rows, columns in self._shapes], axis=1)
        shapes = [(-1, *shape) for shape in self._shapes]
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

    def __call__(self, weights: list[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Column by column: (E, T, inputs) -> (E, T, outputs)."""
        import tensorflow as tf

        layers = len(self.sizes) - 1
        x = inputs
        for layer in range(layers):
            x = tf.matmul(x, weights[2 * layer]) + every_step(weights[2 * layer + 1], inputs)
            if layer < layers - 1:
                x = tf.tanh(x)
        return x


def every_step(row: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
    """A column's row for each of its time steps: (E, 1, n) -> (E, T, n), T as in `inputs`.

    By a product with ones and not by broadcasting: the gradient is then a product too. A
    broadcast's gradient is a sum over T whose bits depend on E wherever n is no multiple of
    the SIMD width (seen with 17 actions).
    """
    import tensorflow as tf

    return tf.matmul(tf.ones_like(inputs[:, :, :1]), row)


BLOCK = 16
"""Rows that `NumpyMlp` takes at a time."""


class NumpyMlp:
    """The same network in NumPy, for acting: 9 us for 16 rows where a tf.function takes 120.

    Rows are worked through in blocks of one size, the last padded: a matrix product's bits
    depend on how many rows it has, and may not depend on how many environments this rank
    happens to own.
    """

    def __init__(self, mlp: Mlp, flat: np.ndarray, block: int = BLOCK) -> None:
        self._layers = mlp.split(flat)
        self._matrices = len(mlp.sizes) - 1
        self._inputs = mlp.sizes[0]
        self._block = block

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n, inputs) float32 -> (n, outputs)."""
        n = len(rows)
        if n % self._block:
            padded = np.zeros((-(-n // self._block) * self._block, self._inputs), np.float32)
            padded[:n] = rows
            return self(padded)[:n]
        if n == self._block:
            return self._forward(rows)
        blocks = range(0, n, self._block)
        return np.concatenate([self._forward(rows[i : i + self._block]) for i in blocks])

    def _forward(self, x: np.ndarray) -> np.ndarray:
        for layer in range(self._matrices):
            x = x @ self._layers[2 * layer]
            x += self._layers[2 * layer + 1]
            if layer < self._matrices - 1:
                np.tanh(x, out=x)
        return x


def safe_block(mlp: Mlp, flat: np.ndarray) -> int:
    """`BLOCK` if this machine's BLAS gives a row the same bits alone and among others, else 1."""
    network = NumpyMlp(mlp, flat)
    rows = np.random.default_rng(0).standard_normal((BLOCK, mlp.sizes[0])).astype(np.float32)
    together = network(rows)
    for place in range(BLOCK):
        alone = np.zeros_like(rows)
        alone[place] = rows[0]
        if not np.array_equal(network(alone)[place], together[0]):
            return 1
    return BLOCK
