"""Networks as pure functions of one flat parameter vector.

A network's parameters are one float32 vector of length P, the form in which MPI sums gradients,
CG solves and files keep them. `Network.weights` views it as arrays; given one copy of the vector
for each column, (E, P), it gives each column's arrays, and the layers multiply column by column:
the gradient by that copy is then the column's own, which the exact sum over columns needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from trpo_mpi.policies.lazy_tensorflow import tf

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0, out=x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}
"""Between the layers, in NumPy; TensorFlow has them under the same names in `tf.nn`."""


def activate(name: str, x: tf.Tensor) -> tf.Tensor:
    """The activation of that name."""
    return getattr(tf.nn, name)(x)


def orthogonal(stream: np.random.Generator, inputs: int, outputs: int, gain: float) -> np.ndarray:
    """An (inputs, outputs) matrix with orthogonal rows or columns (Saxe et al. 2014)."""
    tall = stream.standard_normal((max(inputs, outputs), min(inputs, outputs)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    matrix: np.ndarray = gain * (q if inputs >= outputs else q.T)
    return matrix


class Encoder:
    """A part of a network from observations to features, and what a Fisher-vector product takes.

    Conjugate gradient asks for many products at the same parameters: what does not change between
    them can be had once, by `known`.
    """

    def __call__(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Column by column: (E, T, inputs) -> (E, T, outputs)."""
        raise NotImplementedError

    def known(self, _weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> list[tf.Tensor]:
        """What `with_tangent` takes in place of the inputs."""
        return [inputs]

    def with_tangent(
        self,
        weights: Sequence[tf.Tensor],
        tangents: Sequence[tf.Tensor],
        known: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What `__call__` gives, and its forward-mode product with tangents of the weights."""
        return pushforward(lambda *arrays: self(arrays, known[0]), weights, tangents)


def pushforward(
    function: Callable[..., Any], primals: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tuple[Any, Any]:
    """What `function` gives for `primals`, and its forward-mode product with `tangents`."""
    zero = tf.UnconnectedGradients.ZERO
    with tf.autodiff.ForwardAccumulator(primals, tangents) as forward:
        outputs = function(*primals)
    return outputs, tf.nest.map_structure(lambda x: forward.jvp(x, zero), outputs)


class GraphPart(Encoder):
    """A part of a network that acts by TensorFlow, on one column at a time."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, ...], Callable[..., Any]] = {}

    def held(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """One set of arrays as `rows` takes it."""
        return [tf.constant(array[None]) for array in arrays]

    def acting(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """The part of `rows` that is TensorFlow's, for one column."""
        return self(weights, inputs)

    def rows(self, weights: Sequence[Any], x: np.ndarray) -> np.ndarray:
        """The same for (n, D) rows; traced anew for another n."""
        from trpo_mpi.policies.kernel import Graph

        if x.shape not in self._graphs:
            specs = [tf.TensorSpec(array.shape, array.dtype) for array in (x, *weights)]
            self._graphs[x.shape] = Graph(lambda x, *w: self.acting(w, x[None])[0], *specs)
        return np.asarray(self._graphs[x.shape](x, *weights))


class Mlp(Encoder):
    """Fully connected layers.

    Args:
        sizes: units of input, hidden layers and output.
        last_gain: scale of the last layer's orthogonal matrix; the others have sqrt(2).
        extra: further parameters behind the last layer's, for the caller's use.
        activation: behind every layer but the last.
        activate_last: whether it stands behind the last one too.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        last_gain: float = np.sqrt(2),
        extra: int = 0,
        activation: str = "tanh",
        activate_last: bool = False,
    ) -> None:
        self.sizes = tuple(sizes)
        self.outputs = self.sizes[-1]
        self._extra = extra
        self._last_gain = last_gain
        self._activation = activation
        self._activated = len(self.sizes) - 1 if activate_last else len(self.sizes) - 2
        self.shapes: list[tuple[int, ...]] = []
        for inputs, outputs in pairwise(self.sizes):
            self.shapes += [(inputs, outputs), (1, outputs)]
        self.shapes += [(1, extra)] if extra else []

    def initialise(self, stream: np.random.Generator) -> list[np.ndarray]:
        """Orthogonal matrices, zero biases and extras."""
        arrays: list[np.ndarray] = []
        layers = len(self.sizes) - 1
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            gain = self._last_gain if layer == layers - 1 else np.sqrt(2)
            arrays += [orthogonal(stream, inputs, outputs, gain), np.zeros(outputs)]
        return [*arrays, np.zeros(self._extra)]

    def __call__(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Column by column: (E, T, inputs) -> (E, T, outputs)."""
        x = inputs
        for layer in range(len(self.sizes) - 1):
            x = tf.matmul(x, weights[2 * layer]) + every_step(weights[2 * layer + 1], inputs)
            if layer < self._activated:
                x = activate(self._activation, x)
        return x

    def held(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """One set of arrays as `rows` takes it."""
        return arrays

    def rows(self, weights: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
        """The same for (n, inputs) rows, in NumPy: 9 us for 16 where a tf.function takes 120."""
        for layer in range(len(self.sizes) - 1):
            x = x @ weights[2 * layer]
            x += weights[2 * layer + 1]
            if layer < self._activated:
                x = ACTIVATIONS[self._activation](x)
        return x


def every_step(row: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
    """A column's row for each of its time steps: (E, 1, n) -> (E, T, n), T as in `inputs`.

    By a product with ones and not by broadcasting: the gradient is then a product too. A
    broadcast's gradient is a sum over T whose bits depend on E wherever n is no multiple of
    the SIMD width (seen with 17 actions).
    """
    return tf.matmul(tf.ones_like(inputs[:, :, :1]), row)


class Network:
    """Parts whose parameters stand one behind the other in one flat vector."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self._shapes = [shape for part in parts for shape in part.shapes]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.num_parameters = sum(self._sizes)

    def initialise(self, stream: np.random.Generator) -> np.ndarray:
        """First parameters: (P,) float32."""
        arrays = [array.ravel() for part in self.parts for array in part.initialise(stream)]
        return np.concatenate(arrays).astype(np.float32)

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """The arrays in a flat NumPy vector."""
        parts = np.split(flat, np.cumsum(self._sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def weights(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """The arrays in flat vectors: (E, P) -> [(E, *shape), ...]."""
        parts = tf.split(flat, self._sizes, axis=1)
        shapes = [(-1, *shape) for shape in self._shapes]
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

    def of_parts(self, arrays: Sequence[Any]) -> list[Sequence[Any]]:
        """What `split` or `weights` gave, a list for each part."""
        ends = np.cumsum([0, *(len(part.shapes) for part in self.parts)])
        return [arrays[first:last] for first, last in pairwise(ends)]
