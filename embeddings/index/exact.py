"""The exact scan: every vector, unit length, float32, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError


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
        scores = self._units @ _unit(query[None])[0]
        rows = np.arange(len(scores)) if mask is None else np.flatnonzero(mask)
        scores = scores[rows]
        if k < len(rows):
            # All rows that reach the k-th score, so that ties are broken by row number below.
            limit = np.partition(scores, len(scores) - k)[len(scores) - k]
            keep = scores >= limit
            rows, scores = rows[keep], scores[keep]
        order = np.lexsort((rows, -scores))[:k]
        return rows[order].astype(np.int64), np.clip(scores[order], -1.0, 1.0)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)
