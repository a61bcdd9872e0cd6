"""Networks as pure functions of one flat parameter vector.

A network's parameters are one float32 vector of length P, the form in which MPI sums gradients,
CG solves and files keep them. `Network.weights` views it as arrays; given one copy of the vector
for each column, (E, P), it gives each column's arrays, and the layers multiply column by column:
the gradient by that copy is then the column's own, which the exact sum over columns needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from trpo_mpi.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0, out=x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}
"""Between the layers, in NumPy; TensorFlow has them under the same names in `tf.nn`."""


def activate(name: str, x: tf.Tensor) -> tf.Tensor:
    """The activation of that name."""
    import tensorflow as tf

    return getattr(tf.nn, name)(x)


def orthogonal(stream: np.random.Generator, inputs: int, outputs: int, gain: float) -> np.ndarray:
    """An (inputs, outputs) matrix with orthogonal rows or columns (Saxe et al. 2014)."""
    tall = stream.standard_normal((max(inputs, outputs), min(inputs, outputs)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    matrix: np.ndarray = gain * (q if inputs >= outputs else q.T)
    return matrix


class Mlp:
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
        import tensorflow as tf

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
    import tensorflow as tf

    return tf.matmul(tf.ones_like(inputs[:, :, :1]), row)


KERNELS = {
    "small": (((16, 8, 4), (32, 4, 2)), 256),
    "nature": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
}
"""Convolutional networks, as (filters, size, stride) of each convolution and the units of the
fully connected layer behind them: `small` of Mnih et al. 2013, `nature` of Mnih et al. 2015."""


class GraphPart:
    """A part of a network that acts by TensorFlow, on one column at a time."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, ...], Callable[..., Any]] = {}

    def __call__(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Flat observations of one column, (1, T, D), to features, (1, T, outputs)."""
        raise NotImplementedError

    def held(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """One set of arrays as `rows` takes it."""
        import tensorflow as tf

        return [tf.constant(array[None]) for array in arrays]

    def rows(self, weights: Sequence[tf.Tensor], x: np.ndarray) -> np.ndarray:
        """The same for (n, D) rows; traced anew for another n."""
        import tensorflow as tf

        from trpo_mpi.policies.kernel import compiled

        if x.shape not in self._graphs:
            specs = [tf.TensorSpec(array.shape, array.dtype) for array in (x, *weights)]
            self._graphs[x.shape] = compiled(lambda x, *w: self(w, x[None])[0], *specs)
        return np.asarray(self._graphs[x.shape](x, *weights))


class Cnn(GraphPart):
    """Convolutions over an image, then one fully connected layer; ReLU behind each.

    Works on one column at a time.

    Args:
        shape: of the image: (height, width), (height, width, channels) or (channels, height,
            width); the channels are the smallest number.
        kind: key of `KERNELS`.
        scale: what the pixels are multiplied by.
    """

    def __init__(self, shape: Sequence[int], kind: str, scale: float) -> None:
        super().__init__()
        self._given = tuple(shape)
        if len(shape) == 2:
            self._given = (*self._given, 1)
        self._channels_first = len(shape) == 3 and shape[0] < shape[2]
        height, width, channels = (
            (*self._given[1:], self._given[0]) if self._channels_first else self._given
        )
        self._scale = scale
        self._convolutions, self.outputs = KERNELS[kind]
        self.shapes: list[tuple[int, ...]] = []
        sides = [height, width]
        for filters, size, stride in self._convolutions:
            if min(sides) < size:
                raise UsageError(
                    f"an image of shape {tuple(shape)} is too small for the {kind} network; it "
                    f"needs {smallest(kind)} x {smallest(kind)} pixels"
                )
            sides = [(side - size) // stride + 1 for side in sides]
            self.shapes += [(size, size, channels, filters), (1, filters)]
            channels = filters
        self._flat = sides[0] * sides[1] * channels
        self.shapes += [(self._flat, self.outputs), (1, self.outputs)]

    def initialise(self, stream: np.random.Generator) -> list[np.ndarray]:
        """Orthogonal filters and matrix, zero biases."""
        arrays: list[np.ndarray] = []
        for *inputs, outputs in self.shapes[::2]:
            matrix = orthogonal(stream, int(np.prod(inputs)), outputs, np.sqrt(2))
            arrays += [matrix, np.zeros(outputs)]
        return arrays

    def __call__(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Flat images of one column, (1, T, D), to features, (1, T, outputs)."""
        import tensorflow as tf

        x = tf.reshape(tf.cast(inputs, weights[0].dtype), (-1, *self._given)) * self._scale
        if self._channels_first:
            x = tf.transpose(x, (0, 2, 3, 1))
        for i, (_, _, stride) in enumerate(self._convolutions):
            filters, bias = weights[2 * i][0], weights[2 * i + 1][0, 0]
            x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, filters, stride, "VALID"), bias))
        x = tf.matmul(tf.reshape(x, (1, -1, self._flat)), weights[-2])
        return tf.nn.relu(x + every_step(weights[-1], x))


def smallest(kind: str) -> int:
    """The side of the smallest image that a network of `KERNELS` takes."""
    side = 1
    for _, size, stride in reversed(KERNELS[kind][0]):
        side = (side - 1) * stride + size
    return side


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
        import tensorflow as tf

        parts = tf.split(flat, self._sizes, axis=1)
        shapes = [(-1, *shape) for shape in self._shapes]
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

    def of_parts(self, arrays: Sequence[Any]) -> list[Sequence[Any]]:
        """What `split` or `weights` gave, a list for each part."""
        ends = np.cumsum([0, *(len(part.shapes) for part in self.parts)])
        return [arrays[first:last] for first, last in pairwise(ends)]


BLOCK = 16
"""Rows that `Rows` takes at a time."""


class Rows:
    """A network with fixed parameters, for acting.

    Rows are worked through in blocks of one size, the last padded: a matrix product's bits
    depend on how many rows it has, and may not depend on how many environments this rank
    happens to own.

    Args:
        network: its `rows` takes parameters, rows and what they carry, and gives outputs and
            what they carry then.
        flat: the parameters.
        block: rows at a time.
    """

    def __init__(self, network: Any, flat: np.ndarray, block: int = BLOCK) -> None:
        self._network = network
        arrays = network.of_parts(network.split(flat))
        self._held = [part.held(own) for part, own in zip(network.parts, arrays, strict=True)]
        self._block = block

    def __call__(self, rows: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) observations and (n, S) carried numbers -> (n, outputs) and (n, S)."""
        n, block = len(rows), self._block
        if n == block:
            return self._forward(rows, carried)
        if n % block:
            outputs, after = self(padded_rows(rows, block), padded_rows(carried, block))
            return outputs[:n], after[:n]
        parts = [
            self._forward(rows[i : i + block], carried[i : i + block]) for i in range(0, n, block)
        ]
        outputs, after = (np.concatenate(both) for both in zip(*parts, strict=True))
        return outputs, after

    def _forward(self, rows: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both: tuple[np.ndarray, np.ndarray] = self._network.rows(self._held, rows, carried)
        return both


def padded_rows(rows: np.ndarray, block: int) -> np.ndarray:
    """With zeros behind, to a multiple of `block` rows."""
    if len(rows) % block == 0:
        return rows
    padded = np.zeros((-(-len(rows) // block) * block, rows.shape[1]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def safe_block(network: Any, flat: np.ndarray) -> int:
    """`BLOCK` if this machine gives a row the same bits alone and among others, else 1."""
    act = Rows(network, flat)
    stream = np.random.default_rng(0)
    rows, carried = (
        stream.standard_normal((BLOCK, size)).astype(np.float32)
        for size in (network.observation_size, network.carried_size)
    )
    if network.observation_type == np.uint8:
        rows = stream.integers(0, 256, rows.shape, np.uint8)
    together = act(rows, carried)
    for place in range(BLOCK):
        alone = [np.zeros_like(rows), np.zeros_like(carried)]
        alone[0][place], alone[1][place] = rows[0], carried[0]
        for some, whole in zip(act(*alone), together, strict=True):
            if not np.array_equal(some[place], whole[0]):
                return 1
    return BLOCK
