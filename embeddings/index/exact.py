"""The exact scan: every vector, unit length, float32, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError

SLACK = 1e-5
"""More than float32 can be wrong in a cosine of unit vectors; no row of the best is lost."""

BLOCK_ROWS = 8192


class ExactIndex:
    """Compares a query with all vectors. Memory: 4 * dim bytes a row."""

    def __init__(self, batches: Iterable[NDArray[np.float32]], count: int, dim: int) -> None:
        """Take vectors ``(n, dim) float32`` batch by batch; a zero vector matches nothing."""
        self._units = np.zeros((count, dim), dtype=np.float32)
        start = 0
        for batch in batches:
            self._units[start : start + len(batch)] = _unit(batch)
            start += len(batch)

    @property
    def count(self) -> int:
        """How many vectors the index holds."""
        return len(self._units)

    def vector(self, position: int) -> NDArray[np.float32]:
        """Return the unit vector ``(dim,)`` at a row number."""
        vector: NDArray[np.float32] = self._units[position]
        return vector

    def search(
        self, query: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return row numbers and cosines, best first; see Index.search.

        Raises InputError if the query has another dimension, is zero or not finite.
        """
        if query.shape != self._units.shape[1:]:
            raise InputError(
                f"The query vector has shape {query.shape}; this collection needs "
                f"{self._units.shape[1:]}."
            )
        if not np.isfinite(query).all() or not query.any():
            raise InputError("The query vector is zero or holds NaN; it has no direction.")
        unit = _unit(query[None])[0]
        scores = self._units @ unit
        rows = np.arange(len(scores)) if mask is None else np.flatnonzero(mask)
        scores = scores[rows]
        if k < len(rows):
            limit = np.partition(scores, len(scores) - k)[len(scores) - k]
            rows = rows[scores >= limit - SLACK]
        scores = self._scores(rows, unit)
        order = np.lexsort((rows, -scores))[:k]
        return rows[order].astype(np.int64), np.clip(scores[order], -1.0, 1.0)

    def _scores(self, rows: NDArray[np.int64], unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines of a few rows, each summed in the same order in float64.

        A matrix product sums the rows at its edges in another order, so that equal vectors would
        get unequal cosines there, depending on the machine.
        """
        wide = unit.astype(np.float64)
        scores = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            scores[block] = (self._units[rows[block]] * wide).sum(axis=1)
        return scores


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)
