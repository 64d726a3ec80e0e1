"""The exact scan with every vector, unit length, float32, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from embeddings.index.base import Rows, Vectors
from embeddings.index.scan import ScanIndex, unit


class ExactIndex(ScanIndex):
    """Compares a query with all vectors. Memory: 4 * dim bytes a row."""

    def __init__(self, batches: Iterable[Vectors], count: int, dim: int) -> None:
        """Take vectors ``(n, dim) float32`` batch by batch; a zero vector matches nothing."""
        self._units = np.zeros((count, dim), dtype=np.float32)
        start = 0
        for batch in batches:
            self._units[start : start + len(batch)] = unit(batch)
            start += len(batch)

    @property
    def count(self) -> int:
        """How many vectors the index holds."""
        return len(self._units)

    @property
    def dim(self) -> int:
        """How many values a vector has."""
        return int(self._units.shape[1])

    def block(self, start: int, stop: int) -> Vectors:
        """Return the vectors of neighbouring rows."""
        block: Vectors = self._units[start:stop]
        return block

    def take(self, rows: Rows) -> Vectors:
        """Return the vectors ``(m, dim)`` at row numbers ``(m,)``."""
        taken: Vectors = self._units[rows]
        return taken

    def vector(self, position: int) -> Vectors:
        """Return the unit vector ``(dim,)`` at a row number."""
        vector: Vectors = self._units[position]
        return vector
