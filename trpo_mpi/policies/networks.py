"""Networks as pure functions of one flat parameter vector.

A network's parameters are one float32 vector of length P, the form in which MPI sums gradients,
CG solves and files store them. `Network.weights` splits it into arrays; given one copy of the
vector per column, (E, P), it returns each column's arrays, and the layers multiply column by
column: the gradient of that copy is then the column's own, which the exact sum over columns needs.
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
"""Activations in NumPy, some in place; TensorFlow has them under the same names in `tf.nn`."""


def activate(name: str, x: tf.Tensor) -> tf.Tensor:
    """Apply the activation `name` to `x`."""
    return getattr(tf.nn, name)(x)


def orthogonal(stream: np.random.Generator, inputs: int, outputs: int, gain: float) -> np.ndarray:
    """An (inputs, outputs) matrix with orthogonal rows or columns (Saxe et al. 2014)."""
    tall = stream.standard_normal((max(inputs, outputs), min(inputs, outputs)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    matrix: np.ndarray = gain * (q if inputs >= outputs else q.T)
    return matrix


class Encoder:
    """The part of a network from observations to features, and its part in Fisher-vector products.

    Conjugate gradient needs many products at the same parameters: what does not change between
    them is computed once, by `known`.
    """

    activations: int = 0
    """Numbers per observation that its layers hold, if these are many."""

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
        """Output of `__call__`, and its forward-mode product with tangents of the weights."""
        return pushforward(lambda *arrays: self(arrays, known[0]), weights, tangents)


def pushforward(
    function: Callable[..., Any], primals: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tuple[Any, Any]:
    """Output of `function` at `primals`, and its forward-mode product with `tangents`."""
    zero = tf.UnconnectedGradients.ZERO
    with tf.autodiff.ForwardAccumulator(primals, tangents) as forward:
        outputs = function(*primals)
    return outputs, tf.nest.map_structure(lambda x: forward.jvp(x, zero), outputs)


class GraphPart(Encoder):
    """A part of a network that acts in TensorFlow, on one column at a time."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, ...], Callable[..., Any]] = {}

    def held(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """One set of parameter arrays as `rows` takes it."""
        return [tf.constant(array[None]) for array in arrays]

    def acting(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """The part of `rows` that TensorFlow computes, for one column."""
        return self(weights, inputs)

    def rows(self, weights: Sequence[Any], x: np.ndarray) -> np.ndarray:
        """`acting` on (n, D) rows; traced once for each n."""
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
        extra: further parameters after the last layer's, for the caller's use.
        activation: applied after every layer but the last.
        activate_last: whether it is applied after the last one too.
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
        """One set of parameter arrays as `rows` takes it."""
        return arrays

    def rows(self, weights: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
        """Outputs of (n, inputs) rows, in NumPy: 9 us for 16, for which a tf.function takes 120."""
        for layer in range(len(self.sizes) - 1):
            x = x @ weights[2 * layer]
            x += weights[2 * layer + 1]
            if layer < self._activated:
                x = ACTIVATIONS[self._activation](x)
        return x


def every_step(row: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
    """Repeat a column's row at each time step: (E, 1, n) -> (E, T, n), T as in `inputs`.

    By a product with ones, not a broadcast: the gradient is then a product too. A broadcast's
    gradient is a sum over T whose bits depend on E unless n is a multiple of the SIMD width (seen
    with 17 actions).
    """
    return tf.matmul(tf.ones_like(inputs[:, :, :1]), row)


class Network:
    """Parts whose parameters are concatenated in one flat vector."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self._shapes = [shape for part in parts for shape in part.shapes]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.num_parameters = sum(self._sizes)

    def initialise(self, stream: np.random.Generator) -> np.ndarray:
        """Initial parameters: (P,) float32."""
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
        """The result of `split` or `weights`, as one list per part."""
        ends = np.cumsum([0, *(len(part.shapes) for part in self.parts)])
        return [arrays[first:last] for first, last in pairwise(ends)]
