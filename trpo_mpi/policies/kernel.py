"""TensorFlow functions of fixed shapes, called with the least overhead."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def _options() -> bytes:
    """How TensorFlow may rewrite a graph: without its arithmetic optimisation.

    That adds three terms in an order that depends on their shapes: after a loop, a single column
    had other bits than among others.
    """
    config = tf.compat.v1.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.arithmetic_optimization = type(rewrite).OFF
    serialized: bytes = config.SerializeToString()
    return serialized


class Graph:
    """A function as a graph, traced once, at construction, for arguments of these shapes.

    The function must return one tensor, or a tuple of them, and hold no variables. Arguments may be
    NumPy arrays; one that is passed more than once is better converted to a tensor first.
    """

    def __init__(self, function: Callable[..., Any], *signature: tf.TensorSpec) -> None:
        # Without autograph, which would leave a temporary file per function.
        traced = tf.function(function, input_signature=signature, autograph=False)
        self._graph = traced.get_concrete_function()
        self._captured = self._graph.captured_inputs  # constants that were made outside of it
        self._options = _options()
        self._types = [tensor.dtype for tensor in self._graph.outputs]
        self._one = isinstance(self._graph.structured_outputs, tf.Tensor)

    @property
    def outputs(self) -> list[tf.TensorSpec]:
        """Shapes and types of the outputs."""
        return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self._graph.outputs]

    def __call__(self, *arguments: Any) -> Any:
        """Call the graph and return the function's result."""
        # Call it as an op: graph(...) takes 0.2 ms more, a third of a critic step.
        outputs = tf.raw_ops.PartitionedCall(
            args=[*arguments, *self._captured],
            Tout=self._types,
            f=self._graph,
            config_proto=self._options,
        )
        return outputs[0] if self._one else outputs


def numpy_view(tensor: tf.Tensor) -> np.ndarray:
    """A read-only view of a tensor's memory.

    Allocating a copy would take a fifth of the time of a small network's gradient.
    """
    return np.asarray(memoryview(tensor))


def round_up_to_8(steps: float) -> int:
    """`steps` rounded up to a multiple of 8: a SIMD tail would run other code, with other bits."""
    return -(-int(np.ceil(steps)) // 8) * 8


def column_chunks(columns: int, *arrays: np.ndarray) -> list[list[tf.Tensor]]:
    """The arrays cut into chunks of `columns` columns, as tensors: one list per chunk."""
    return [
        [tf.constant(array[first : first + columns]) for array in arrays]
        for first in range(0, len(arrays[0]), columns)
    ]
