"""Which rank holds which columns, and every collective operation of the program.

The rest of the program asks this class and runs unchanged on one rank or on many. Columns
(environments) are dealt out in contiguous blocks, evenly or not; a value that all ranks need is a
sum over columns (`sum_columns`), or all columns' rows in global order (`gather_columns`). Both have
the same bits on any number of ranks.
"""

import bisect
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.parallel.exact_sum import ExactSum

T = TypeVar("T")

PAUSE = 1e-4
"""Seconds between polls of a collective, if ranks share cores."""


class Communicator:
    """The ranks of one job and the columns they own.

    Args:
        mpi: an mpi4py communicator, or None for a single process without any MPI library.
        columns: environments over all ranks, C; every rank must own at least one.
        patient: sleep while waiting for other ranks. MPI's own waiting keeps a core busy, which
            the rank that it waits for may need.
    """

    def __init__(self, mpi: Any, columns: int = 0, patient: bool = False) -> None:
        self._mpi = mpi
        self.patient = patient
        self.rank: int = mpi.Get_rank() if mpi else 0
        self.size: int = mpi.Get_size() if mpi else 1
        self.num_columns = columns or self.size
        self._edges = [r * self.num_columns // self.size for r in range(self.size + 1)]
        self.columns = range(self._edges[self.rank], self._edges[self.rank + 1])
        self.collectives = 0
        """Collective operations so far."""
        self.seconds = 0.0
        """Seconds spent in them, including waiting for the other ranks."""
        self.sum_columns = ExactSum(self.num_columns, self._allreduce)
        """Exact sum of (own columns, N) rows over all columns; see `ExactSum`."""

    def with_columns(self, columns: int) -> "Communicator":
        """The same ranks, owning `columns` columns between them."""
        return Communicator(self._mpi, columns, self.patient)

    def first_column(self, rank: int) -> int:
        """The first column that a rank owns."""
        return self._edges[rank]

    def owner(self, column: int) -> int:
        """The rank that owns a column."""
        return bisect.bisect_right(self._edges, column) - 1

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, the one that prints and writes."""
        return self.rank == 0

    def _collective(self, name: str, *args: Any) -> None:
        """Call one of MPI's collectives on buffers, by its name."""
        start = time.perf_counter()
        self._wait_for(name, *args)
        self.seconds += time.perf_counter() - start
        self.collectives += 1

    def _wait_for(self, name: str, *args: Any) -> None:
        if not self.patient:
            getattr(self._mpi, name)(*args)
            return
        request = getattr(self._mpi, f"I{name.lower()}")(*args)
        while not request.Test():
            time.sleep(PAUSE)

    def _objects(self, name: str, value: Any) -> Any:
        """Call a collective of pickled objects, by its name."""
        if self.patient:  # these have no variant that can be polled
            self.barrier()
        start = time.perf_counter()
        result = getattr(self._mpi, name)(value)
        self.seconds += time.perf_counter() - start
        self.collectives += 1
        return result

    @contextlib.contextmanager
    def _node(self) -> Iterator[Any]:
        """An mpi4py communicator of the ranks on this node."""
        from mpi4py import MPI

        node = self._mpi.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            yield node
        finally:
            node.Free()

    def _allreduce(self, buffer: np.ndarray) -> None:
        if self._mpi is None or self.size == 1:
            return
        from mpi4py import MPI

        self._collective("Allreduce", MPI.IN_PLACE, buffer)

    def gather_columns(self, rows: np.ndarray) -> np.ndarray:
        """All columns' rows on every rank: (own columns, K) -> (C, K), in global order."""
        return self.gather_rows(rows, np.diff(self._edges))

    def gather_number(self, number: int) -> np.ndarray:
        """All ranks' numbers on every rank, (ranks,), in the order of the ranks."""
        return self.gather_rows(np.array([[number]]), np.ones(self.size, int))[:, 0]

    def gather_rows(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """All ranks' rows on every rank, in the order of the ranks.

        Args:
            rows: (counts[rank], K), of one dtype on all ranks.
            counts: (ranks,) rows of each rank, known to all of them.
        """
        if self.size == 1:
            return rows
        rows = np.ascontiguousarray(rows)
        result = np.empty((int(np.sum(counts)), *rows.shape[1:]), rows.dtype)
        item = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
        bytes_of_rank = [int(n) * item for n in counts]  # as bytes: any dtype, no conversion
        self._collective(
            "Allgatherv",
            rows.view(np.uint8).reshape(-1),
            [result.view(np.uint8).reshape(-1), bytes_of_rank],
        )
        return result

    def collect_on_root(self, contents: Sequence[bytes]) -> list[bytes]:
        """All columns' bytes on rank 0, in global order; an empty list on the others.

        Args:
            contents: the bytes of each of this rank's columns.
        """
        if self.size == 1:
            return list(contents)
        sizes = np.array([[len(content)] for content in contents], np.int64)
        everyones = self.gather_columns(sizes)[:, 0]
        counts = [int(everyones[a:b].sum()) for a, b in itertools.pairwise(self._edges)]
        own = np.frombuffer(b"".join(contents), np.uint8)
        result = np.empty(sum(counts) if self.is_root else 0, np.uint8)
        self._collective("Gatherv", own, [result, counts] if self.is_root else None)
        if not self.is_root:
            return []
        ends = np.cumsum(everyones)
        return [result[e - n : e].tobytes() for e, n in zip(ends, everyones, strict=True)]

    def broadcast(self, array: np.ndarray) -> None:
        """Overwrite a contiguous array with rank 0's."""
        if self.size > 1:
            self._collective("Bcast", array)

    def on_root(self, function: Callable[[], T]) -> T:
        """Run a function on rank 0 alone and return its (picklable) result on every rank.

        A `UsageError` that it raises is raised on every rank. For start-up and shut-down: the
        training loop itself pickles nothing.
        """
        outcome: tuple[Any, str | None] = (None, None)
        if self.is_root:
            try:
                outcome = (function(), None)
            except UsageError as error:
                outcome = (None, str(error))
        if self.size > 1:
            outcome = self._objects("bcast", outcome)
        result, refusal = outcome
        if refusal is not None:
            raise UsageError(refusal)
        return result

    def everywhere(self, function: Callable[[], T]) -> T:
        """Run a function on every rank; a `UsageError` on any of them is raised on all."""
        result, refusal = None, None
        try:
            result = function()
        except UsageError as error:
            refusal = str(error)
        refusals = self._objects("allgather", refusal) if self.size > 1 else [refusal]
        for text in refusals:
            if text is not None:
                raise UsageError(text)
        return cast(T, result)

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            self._collective("Barrier")

    def hosts(self) -> list[str]:
        """Host name of every rank."""
        name = socket.gethostname()
        return self._objects("allgather", name) if self.size > 1 else [name]

    def local_rank(self) -> int:
        """This rank's number among those on its own node."""
        if self.size == 1:
            return 0
        with self._node() as node:
            local: int = node.Get_rank()
        return local

    def node_sum(self, number: int) -> int:
        """The sum of a number over the ranks of this node."""
        if self.size == 1:
            return number
        with self._node() as node:
            total: int = node.allreduce(number)
        return total

    def oversubscribed(self) -> bool:
        """Whether this node has more ranks than cores for them to use."""
        if self.size == 1 or not hasattr(os, "sched_getaffinity"):
            return False
        with self._node() as node:
            cores = set().union(*node.allgather(os.sched_getaffinity(0)))
            shared: bool = len(cores) < node.Get_size()
        return shared

    def library(self) -> str:
        """Name and version of the MPI library, for example `MPICH 5.0.2`."""
        if self._mpi is None:
            return "no MPI library"
        from mpi4py import MPI

        words = MPI.Get_library_version().split("\n")[0].replace("\x00", " ").split()
        if words[:2] == ["Open", "MPI"]:
            return " ".join(words[:3]).rstrip(",").replace(" v", " ")
        if words[:2] == ["MPICH", "Version:"]:
            return f"MPICH {words[2]}"
        return " ".join(words[:5]).rstrip(",")
