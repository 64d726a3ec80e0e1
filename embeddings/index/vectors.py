"""The unit vectors of a collection in one file, float16 in the order of the rows, memory-mapped."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

import numpy as np

from embeddings.errors import StoreFormatError
from embeddings.index.base import Rows, Vectors
from embeddings.index.scan import ScanIndex
from embeddings.index.sums import Guard

VALUE_BYTES = 2
CACHED_ROWS = 1024
"""So many rows are widened and measured at a time, while they are in the processor's cache."""

_RESIDENT_BYTES = 2**30
_FAULT_BYTES = 2**16
"""What a single read of a mapped file makes resident at most: Linux maps 16 pages around it."""


class VectorFile(ScanIndex):
    """An exact index over the file. Opening it reads nothing.

    Rounding to float16 changes the length of a vector, by more than neighbours differ in smooth
    collections, so it is made 1 again when a vector is read. Its direction moves a cosine by less
    than 0.0005, and by 0.00001 as a rule. About 1 GiB of the file is mapped at most (where
    the system has ``madvise``); what the system keeps of it in its cache costs no other program.
    """

    def __init__(self, path: Path, count: int, dim: int, guard: Guard | None = None) -> None:
        """Map ``path``. Raises StoreFormatError if its size is not that of the vectors.

        With a guard, what is read raises IndexDamagedError unless it is as it was written.
        """
        there = path.stat().st_size
        if there != count * dim * VALUE_BYTES:
            raise StoreFormatError(
                f"{path} has {there:,} bytes; {count:,} vectors of {dim} values take "
                f"{count * dim * VALUE_BYTES:,}. Build the index again."
            )
        self._values = np.memmap(path, np.float16, mode="r", shape=(count, dim))
        self._guard = guard or Guard.trusting(path)
        self._row_bytes = dim * VALUE_BYTES
        self._touched = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many vectors the file holds."""
        return int(self._values.shape[0])

    @property
    def dim(self) -> int:
        """How many values a vector has."""
        return int(self._values.shape[1])

    def block(self, start: int, stop: int) -> Vectors:
        """Return the vectors of neighbouring rows ``(stop - start, dim)``."""
        self._guard.span(start * self._row_bytes, stop * self._row_bytes)
        block = np.empty((stop - start, self.dim), np.float32)
        for first in range(0, len(block), CACHED_ROWS):
            rows = slice(first, first + CACHED_ROWS)
            block[rows] = self._values[start:stop][rows]
            _lengthen(block[rows])
        self._release((stop - start) * self._row_bytes)
        return block

    def take(self, rows: Rows) -> Vectors:
        """Return the vectors ``(m, dim)`` at row numbers ``(m,)``."""
        self._guard.spans(rows * self._row_bytes, self._row_bytes)
        taken = self._values[rows].astype(np.float32)
        _lengthen(taken)
        self._release(len(rows) * (_FAULT_BYTES + self._row_bytes))
        return taken

    def vector(self, position: int) -> Vectors:
        """Return the unit vector ``(dim,)`` at a row number."""
        vector: Vectors = self.block(position, position + 1)[0]
        return vector

    def _release(self, touched: int) -> None:
        """Let go of the mapped pages from time to time; they stay in the system's cache."""
        if self._values.nbytes <= _RESIDENT_BYTES:
            return
        with self._lock:
            self._touched += touched
            if self._touched < _RESIDENT_BYTES:
                return
            self._touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped = self._values._mmap  # type: ignore[attr-defined]  # NumPy keeps it there
            mapped.madvise(mmap.MADV_DONTNEED)


def _lengthen(vectors: Vectors) -> None:
    """Bring vectors ``(n, dim)`` to length 1 where they stand; a zero vector stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors *= (1 / np.where(length > 0, length, 1))[:, None]
