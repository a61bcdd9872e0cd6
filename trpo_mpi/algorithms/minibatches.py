"""Splits a batch into minibatches: sets of time indices, the same in every column."""

import numpy as np


def minibatches(
    horizon: int, rows: int, stream: np.random.Generator, windows: bool = False
) -> list[np.ndarray]:
    """The time indices 0 to `horizon` - 1 in random order, `rows` at a time.

    With `windows` each minibatch consists of consecutive indices, as recurrent policies need, and
    only the order of the minibatches is random.
    """
    if windows:
        firsts = rows * stream.permutation(-(-horizon // rows))
        return [np.arange(first, min(first + rows, horizon)) for first in firsts]
    order = stream.permutation(horizon)
    return [order[first : first + rows] for first in range(0, horizon, rows)]


def rows_per_minibatch(rows: int, counted: np.ndarray) -> int:
    """Number of time indices that hold, on average, as many counted steps as `rows` full ones.

    `counted` is (C, T) bool: in batches of whole episodes most columns end before the longest.
    """
    return rows * counted.size // max(1, int(counted.sum()))


def expected_steps(counted: np.ndarray, rows: np.ndarray) -> float:
    """Average number of counted steps in a minibatch of `len(rows)` time indices.

    A minibatch's gradient is divided by this, not by its own count, so that every step of the
    batch has the same weight.
    """
    return max(1.0, float(counted.sum() * len(rows) / counted.shape[1]))
