"""Sums of floating-point columns whose bits do not depend on the order of addition.

Every contribution is rounded to a whole multiple of one power of two and added as an int64.
Integer addition is associative, so the order of columns and ranks, the MPI library and its
reduction algorithm all drop out, and one `Allreduce` is enough.

The power of two must be known before the sum is. It comes from the *previous* sum of the same
quantity, with `HEADROOM` bits to spare; a histogram of the columns' largest exponents travels in
the same buffer, so that afterwards every rank knows the true one, and all repeat the sum in the
rare case that the guess was too small, or so large that accuracy was lost.

Accuracy: with C columns the error of an entry is at most C * 2**-(61 - log2(C) - HEADROOM) of the
largest magnitude, in any column, that the guess was made for: 2**-47 for 16 columns, against 2**-24
in a float32. Up to `SLACK` bits of it may be lost before a sum is repeated.
"""

from collections.abc import Callable, Sequence

import numpy as np

from trpo_mpi.errors import DivergedError

HEADROOM = 6
"""Bits by which a quantity may grow from one sum to the next without a repetition."""
SLACK = 18
"""Bits by which it may fall below the exponent guessed for it, without a repetition."""
LOWEST, HIGHEST = -60, 128
"""Exponents between which the largest magnitude of a sum is resolved: below, numbers count as
2**-60, and above, beyond any float32, as infinite."""

CHUNK = 16384
"""Numbers per column that are converted at a time."""

_BUCKETS = HIGHEST - LOWEST + 2
_BAD = _BUCKETS - 1  # the histogram's last place counts rows with a NaN or an infinity


class ExactSum:
    """Adds up rows over all columns of all ranks.

    Args:
        columns: number of columns over all ranks, C.
        allreduce: sums an int64 buffer over the ranks, in place.

    `exponents` maps a quantity's name to the exponent its next sum will be scaled for. It is
    part of a run's state: two runs continue with equal bits only if it is equal.
    """

    def __init__(self, columns: int, allreduce: Callable[[np.ndarray], None]) -> None:
        self.exponents: dict[str, int] = {}
        self._bits = 61 - int(np.ceil(np.log2(max(columns, 2))))
        self._allreduce = allreduce
        self._buffers: dict[int, np.ndarray] = {}  # reused: allocating one costs as much as the sum

    def __call__(self, name: str, *parts: np.ndarray) -> np.ndarray:
        """Sum over the columns of all ranks: (N,) float64.

        Args:
            name: the quantity's name.
            parts: this rank's columns, in arrays of (columns, N).

        Raises `DivergedError` on all ranks if any column holds a NaN or an infinity.
        """
        size = parts[0].shape[1]
        # A NaN propagates.
        peaks = np.concatenate([np.maximum(p.max(axis=1), -p.min(axis=1)) for p in parts])
        buckets = np.full(len(peaks), _BAD)
        finite = peaks.astype(np.float64) < 2.0**HIGHEST
        exponents = np.where(peaks[finite] > 0, np.frexp(peaks[finite])[1], LOWEST)
        buckets[finite] = np.maximum(exponents, LOWEST) - LOWEST
        histogram = np.bincount(buckets, minlength=_BUCKETS)
        guess = self.exponents.get(name, 0)
        if size not in self._buffers:
            self._buffers[size] = np.empty(size + _BUCKETS, np.int64)
        buffer = self._buffers[size]
        while True:
            if finite.all() and buckets.max() + LOWEST <= guess:
                _sum_fixed_point(parts, self._bits - guess, buffer[:size])
            else:
                buffer[:size] = 0
            buffer[size:] = histogram
            self._allreduce(buffer)
            counts = buffer[size:]
            if counts[_BAD]:
                raise DivergedError(
                    f"training has diverged: the {name} is not finite; smaller step sizes, "
                    "--max-kl or --reward-scale may help"
                )
            largest = int(np.flatnonzero(counts)[-1]) + LOWEST
            self.exponents[name] = min(largest + HEADROOM, HIGHEST)
            if largest <= guess and (largest >= guess - SLACK or largest == LOWEST):
                total: np.ndarray = buffer[:size] * 2.0 ** (guess - self._bits)
                return total
            guess = self.exponents[name]


def _sum_fixed_point(parts: Sequence[np.ndarray], shift: int, total: np.ndarray) -> None:
    """Put the sum of round(rows * 2**shift), over all rows of all parts, into `total` (N,).

    The product with a power of two is exact in the rows' own precision, so float32 rows are
    not widened first: that halves the time of this, the most frequent conversion. `CHUNK` numbers
    are converted at a time, which stay in the processor's cache.
    """
    kind = parts[0].dtype.type
    factor = kind(2.0**shift)
    shape = (max(map(len, parts)), min(CHUNK, len(total)))
    rounded, whole = np.empty(shape, kind), np.empty(shape, np.int64)
    total[...] = 0
    for first in range(0, len(total), CHUNK):
        place = slice(first, first + CHUNK)
        for part in parts:
            chunk = part[:, place]
            rows, columns = chunk.shape
            scaled, integers = rounded[:rows, :columns], whole[:rows, :columns]
            np.rint(np.multiply(chunk, factor, out=scaled), out=scaled)
            np.copyto(integers, scaled, casting="unsafe")
            total[place] += integers[0] if rows == 1 else integers.sum(axis=0)
