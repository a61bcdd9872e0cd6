"""Convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.lazy_tensorflow import tf
from trpo_mpi.policies.networks import GraphPart, every_step, orthogonal

KERNELS = {
    "small": (((16, 8, 4), (32, 4, 2)), 256),
    "nature": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
}
"""Convolutional networks, as (filters, size, stride) of each convolution and the units of the
fully connected layer after them: `small` of Mnih et al. 2013, `nature` of Mnih et al. 2015."""


class Cnn(GraphPart):
    """Convolutions over an image, then one fully connected layer; ReLU after each.

    Processes one column at a time.

    Args:
        shape: of the image: (height, width), (height, width, channels), or (channels, height,
            width) if its first number is the smallest.
        kind: key of `KERNELS`.
        scale: factor applied to the pixels.
    """

    def __init__(self, shape: Sequence[int], kind: str, scale: float) -> None:
        super().__init__()
        self._given = tuple(shape)
        if len(shape) == 2:
            self._given = (*self._given, 1)
        self._channels_first = len(shape) == 3 and shape[0] < min(shape[1:])
        height, width, channels = (
            (*self._given[1:], self._given[0]) if self._channels_first else self._given
        )
        self._scale = scale
        self._convolutions, self.outputs = KERNELS[kind]
        self.shapes: list[tuple[int, ...]] = []
        sides = [height, width]
        self.activations = self.outputs
        for filters, size, stride in self._convolutions:
            if min(sides) < size:
                raise UsageError(
                    f"an image of shape {tuple(shape)} is too small for the {kind} network; it "
                    f"needs {smallest(kind)} x {smallest(kind)} pixels"
                )
            sides = [(side - size) // stride + 1 for side in sides]
            self.shapes += [(size, size, channels, filters), (1, filters)]
            channels = filters
            self.activations += sides[0] * sides[1] * channels
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
        """Features (1, T, outputs) of flat images of one column, (1, T, D)."""
        return self.known(weights, inputs)[-1]

    def _images(self, inputs: tf.Tensor, kind: tf.DType) -> tf.Tensor:
        """Images as convolutions take them, not scaled: (T, height, width, channels)."""
        images = tf.reshape(inputs, (-1, *self._given))
        if self._channels_first:
            images = tf.transpose(images, (0, 2, 3, 1))
        return tf.cast(images, kind)

    def _filters(self, weights: Sequence[tf.Tensor], layer: int) -> tf.Tensor:
        """A convolution's filters; the first are scaled in place of the pixels, which are more."""
        filters = weights[2 * layer][0]
        return filters if layer else filters * self._scale

    def _convolved(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> list[tf.Tensor]:
        """Output of each convolution, after ReLU: (T, height, width, filters)."""
        given, x = [], self._images(inputs, weights[0].dtype)
        for i, (_, _, stride) in enumerate(self._convolutions):
            x = tf.nn.conv2d(x, self._filters(weights, i), stride, "VALID")
            x = tf.nn.relu(tf.nn.bias_add(x, weights[2 * i + 1][0, 0]))
            given.append(x)
        return given

    def known(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> list[tf.Tensor]:
        """The inputs, unconverted, and the output of each layer; the features last."""
        given = self._convolved(weights, inputs)
        x = tf.matmul(tf.reshape(given[-1], (-1, self._flat)), weights[-2][0])[None]
        return [inputs, *given, tf.nn.relu(x + every_step(weights[-1], x))]

    def held(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """One set of parameter arrays as `rows` takes it."""
        return [*super().held(arrays[:-2]), *arrays[-2:]]

    def acting(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Flat output of the last convolution."""
        return tf.reshape(self._convolved(weights, inputs)[-1], (1, -1, self._flat))

    def rows(self, weights: Sequence[Any], x: np.ndarray) -> np.ndarray:
        """Features (n, outputs) of (n, D) rows.

        The last layer runs in NumPy: TensorFlow rearranges its matrix at every call, ten times the
        work for one image.
        """
        features = super().rows(weights[:-2], x) @ weights[-2] + weights[-1]
        return np.maximum(features, 0, out=features)

    def with_tangent(
        self,
        weights: Sequence[tf.Tensor],
        tangents: Sequence[tf.Tensor],
        known: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The features, and their forward-mode product with tangents of the weights.

        Forward and backward, layer by layer from `known`: 0.7 times the time of a product that
        TensorFlow derives from the forward pass.
        """
        images = self._images(known[0], weights[0].dtype)
        inputs = [images, *known[1:-2]]
        d: tf.Tensor | None = None  # tangent of the layer's input; the images have none
        for i, (x, y) in enumerate(zip(inputs, known[1:-1], strict=True)):
            stride = self._convolutions[i][2]
            entering = tf.nn.conv2d(x, self._filters(tangents, i), stride, "VALID")
            if d is not None:
                entering += tf.nn.conv2d(d, self._filters(weights, i), stride, "VALID")
            d = _where_active(y, tf.nn.bias_add(entering, tangents[2 * i + 1][0, 0]))
        flat, d = (tf.reshape(x, (-1, self._flat)) for x in (known[-2], d))
        entering = (tf.matmul(d, weights[-2][0]) + tf.matmul(flat, tangents[-2][0]))[None]
        d = _where_active(known[-1], entering + every_step(tangents[-1], entering))

        def features(*weights: tf.Tensor) -> tuple[tf.Tensor, Callable[..., list[tf.Tensor]]]:
            return tf.identity(known[-1]), lambda u: self._pullback(weights, inputs, known, u)

        return tf.custom_gradient(features)(*weights), d

    def _pullback(
        self,
        weights: Sequence[tf.Tensor],
        inputs: Sequence[tf.Tensor],
        known: Sequence[tf.Tensor],
        u: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Weights' gradients, given the features' gradient `u` and the convolutions' `inputs`."""
        flat = tf.reshape(known[-2], (-1, self._flat))
        u = _where_active(known[-1], u)
        gradients = [tf.matmul(flat, u[0], transpose_a=True)[None], _over_steps(u)]
        u = tf.reshape(tf.matmul(u[0], weights[-2][0], transpose_b=True), tf.shape(known[-2]))
        for i in reversed(range(len(inputs))):
            x, filters, stride = inputs[i], self._filters(weights, i), self._convolutions[i][2]
            u = _where_active(known[i + 1], u)
            way = {"strides": [1, stride, stride, 1], "padding": "VALID"}
            by_filters = tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=tf.shape(filters), out_backprop=u, **way
            )
            by_bias = tf.raw_ops.BiasAddGrad(out_backprop=u)
            if not i:  # as `_filters` scales them
                by_filters *= self._scale
            gradients = [by_filters[None], by_bias[None, None], *gradients]
            if i:
                u = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(x), filter=filters, out_backprop=u, **way
                )
        return gradients


def _where_active(outputs: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """`x` where the layer's ReLU is active, else 0."""
    return tf.raw_ops.ReluGrad(gradients=x, features=outputs)  # in one pass


def _over_steps(x: tf.Tensor) -> tf.Tensor:
    """A column's sum over time, (1, T, n) -> (1, 1, n), as a product; see `every_step`."""
    return tf.matmul(tf.ones_like(x[:, :, :1]), x, transpose_a=True)


def smallest(kind: str) -> int:
    """Side of the smallest image that a network of `KERNELS` accepts."""
    side = 1
    for _, size, stride in reversed(KERNELS[kind][0]):
        side = (side - 1) * stride + size
    return side
