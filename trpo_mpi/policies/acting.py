"""Policies and critics with fixed parameters, for acting: forward passes in blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trpo_mpi.policies.distributions import DiagonalGaussian
from trpo_mpi.policies.lazy_tensorflow import tf
from trpo_mpi.policies.policy import Policy

BLOCK = 16
"""Rows that `BlockwiseForward` processes at a time."""
IMAGES = 4
"""Rows at a time for networks that process one column at a time, if there are fewer than `BLOCK`:
an image costs more than a call."""
GPU_IMAGES = 64
"""Rows at a time for such networks on a GPU, where a call costs more than an image."""


class BlockwiseForward:
    """A network with fixed parameters, for acting.

    Rows are processed in blocks of fixed sizes, the last padded: the bits of a matrix product
    depend on its number of rows, and must not depend on how many environments this rank happens
    to own.

    Args:
        network: its `rows` takes parameters, rows and their carried numbers, and returns outputs
            and new carried numbers.
        flat: the parameters, (P,).
        blocks: block sizes, largest first; a row must have the same bits in each.
        alone: whether a single image may be processed unpadded, in half the time; its bits may
            then differ from those in a block.
    """

    def __init__(
        self, network: Any, flat: np.ndarray, blocks: Sequence[int] = (BLOCK,), alone: bool = False
    ) -> None:
        self._network = network
        arrays = network.of_parts(network.split(flat))
        self._held = [part.held(own) for part, own in zip(network.parts, arrays, strict=True)]
        self._blocks = blocks
        self._alone = alone and network.one_column

    def __call__(self, rows: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) observations and (n, S) carried numbers -> (n, outputs) and (n, S)."""
        n, smallest = len(rows), self._blocks[-1]
        if n in self._blocks or (n == 1 and self._alone):
            return self._forward(rows, carried)
        if n % smallest:
            outputs, after = self(padded_rows(rows, smallest), padded_rows(carried, smallest))
            return outputs[:n], after[:n]
        parts, first = [], 0
        for block in self._blocks:
            while n - first >= block:
                last = first + block
                parts.append(self._forward(rows[first:last], carried[first:last]))
                first = last
        outputs, after = (np.concatenate(both) for both in zip(*parts, strict=True))
        return outputs, after

    def _forward(self, rows: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both: tuple[np.ndarray, np.ndarray] = self._network.rows(self._held, rows, carried)
        return both


def padded_rows(rows: np.ndarray, block: int) -> np.ndarray:
    """`rows` padded with zeros to a multiple of `block` rows."""
    if len(rows) % block == 0:
        return rows
    padded = np.zeros((-(-len(rows) // block) * block, rows.shape[1]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def _on_gpu() -> bool:
    return bool(tf.config.get_visible_devices("GPU"))


def safe_blocks(network: Any, flat: np.ndarray) -> tuple[int, ...]:
    """Block sizes for `BlockwiseForward` in all of which a row has the same bits.

    The last, which decides the bits, is `IMAGES` or `BLOCK`; or 1, if a row has other bits on this
    machine alone than among others. A network that runs on a GPU is not checked.
    """
    if network.one_column and _on_gpu():
        return (GPU_IMAGES,)
    small = IMAGES if network.one_column else BLOCK
    stream = np.random.default_rng(0)
    rows, carried = (
        stream.standard_normal((BLOCK, size)).astype(np.float32)
        for size in (network.observation_size, network.carried_size)
    )
    if network.observation_type == np.uint8:
        rows = stream.integers(0, 256, rows.shape, np.uint8)
    act = BlockwiseForward(network, flat, (small,))
    together = act(rows, carried)
    for place in range(small):
        alone = [np.zeros_like(x[:small]) for x in (rows, carried)]
        alone[0][place], alone[1][place] = rows[0], carried[0]
        for some, whole in zip(act(*alone), together, strict=True):
            if not np.array_equal(some[place], whole[0]):
                return (1,)
    if small == BLOCK:
        return (BLOCK,)
    at_once = BlockwiseForward(network, flat, (BLOCK,))(rows, carried)
    return (BLOCK, small) if all(map(np.array_equal, at_once, together)) else (small,)


class Actor:
    """A policy with fixed parameters, from normalised observations to actions.

    It runs in NumPy except for convolutions and custom networks. Its outputs equal those of the
    policy's graphs up to rounding (a test compares them); the update takes all its
    log-probabilities from the latter.

    Args:
        policy: the policy.
        theta: its parameters, (P,).
        blocks: block sizes, from `safe_blocks`.
        alone: as in `BlockwiseForward`.
    """

    def __init__(
        self,
        policy: Policy,
        theta: np.ndarray,
        blocks: Sequence[int] = (BLOCK,),
        alone: bool = False,
    ) -> None:
        self.distribution = policy.distribution
        self.state_size = policy.state_size
        self.memory_size = policy.memory_size
        self._outputs = BlockwiseForward(policy, theta, blocks, alone)
        self._choose = policy.distribution.choose
        self._log_std: np.ndarray | None = None
        self._std: np.ndarray | None = None
        if isinstance(policy.distribution, DiagonalGaussian):
            self._log_std = theta[-policy.distribution.size :]
            self._std = np.exp(self._log_std)

    def begin(self, rows: int) -> np.ndarray:
        """The initial state of `rows` episodes: (rows, S) float32."""
        return np.zeros((rows, self.state_size), np.float32)

    def sample(
        self, observations: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions for (n, D) observations, and states after them.

        Args:
            observations: normalised.
            noise: (n, size), from `draw_noise`.
            state: (n, S), before the observations.
        """
        output, state = self._outputs(observations, state)
        return self._choose(output + (noise if self._std is None else self._std * noise)), state

    def mode(self, observations: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The most probable actions for (n, D) observations, and states after them."""
        output, state = self._outputs(observations, state)
        return self._choose(output), state

    def parameters(
        self, observations: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distribution parameters for (n, D) observations, (n, K), and states after them."""
        output, state = self._outputs(observations, state)
        if self._log_std is not None:
            log_std = np.broadcast_to(self._log_std, output.shape)
            output = np.concatenate([output, log_std], axis=1)
        return output, state

    def memory(self, observations: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The critic's memory input, (n, M), once the policy has seen these observations."""
        return self.remembered(self._outputs(observations, state)[1] if self.state_size else state)

    def remembered(self, state: np.ndarray) -> np.ndarray:
        """The part of states that the critic reads: (n, S) -> (n, M)."""
        return state[:, : self.memory_size]
