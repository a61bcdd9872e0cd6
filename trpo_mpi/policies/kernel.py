"""TensorFlow functions of fixed shapes, called as cheaply as TensorFlow can be called."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def _options() -> bytes:
    """How TensorFlow may rewrite a graph: not its arithmetic.

    It adds up three terms in an order that depends on their shapes: behind a loop, a column had
    other bits alone than among others.
    """
    config = tf.compat.v1.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.arithmetic_optimization = type(rewrite).OFF
    serialized: bytes = config.SerializeToString()
    return serialized


def compiled(function: Callable[..., Any], *signature: tf.TensorSpec) -> Callable[..., Any]:
    """`function` as a graph: traced here, for arguments of these shapes, and never again.

    It must give one tensor, or a tuple of them, and hold no variables. What it is called with may
    be NumPy arrays; an array that comes back more than once is better made a tensor first.
    """
    # Without autograph, which would leave a temporary file for each.
    graph = tf.function(
        function, input_signature=signature, autograph=False
    ).get_concrete_function()
    options = _options()
    types = [tensor.dtype for tensor in graph.outputs]
    one = isinstance(graph.structured_outputs, tf.Tensor)

    def call(*arguments: Any) -> Any:
        # The graph as an op: graph(...) takes 0.2 ms more, a third of a critic step.
        outputs = tf.raw_ops.PartitionedCall(
            args=arguments, Tout=types, f=graph, config_proto=options
        )
        return outputs[0] if one else outputs

    return call


def parts_of(columns: int, *arrays: np.ndarray) -> list[list[tf.Tensor]]:
    """The arrays cut into so many columns at a time, as tensors, a list for each call."""
    return [
        [tf.constant(array[first : first + columns]) for array in arrays]
        for first in range(0, len(arrays[0]), columns)
    ]


def stacked(rows: list[tf.Tensor]) -> np.ndarray:
    """What the calls on `parts_of` gave, one behind the other."""
    return np.concatenate(rows) if len(rows) > 1 else np.asarray(rows[0])
