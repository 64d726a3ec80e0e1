"""The exact scan with every vector, unit length, float32, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from embeddings.index.base import Found, Mask, Rows, Vectors
from embeddings.index.scan import allowed_rows, check_k, scan, unit, unit_query


class ExactIndex:
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

    def vectors(self, positions: Rows) -> Vectors:
        """Return the unit vectors ``(m, dim)`` at row numbers ``(m,)``."""
        return self.take(positions)

    def search(
        self, query: Vectors, k: int, mask: Mask | None = None, rows: Rows | None = None
    ) -> Found:
        """Return the best rows; see Index.search."""
        check_k(k)
        direction = unit_query(query, self.dim)
        return scan(self, direction, k, allowed_rows(self.count, mask, rows))
