"""The exact scan: block by block over all rows, or over the allowed ones alone.

Cosines are first taken in float32, then those that may be among the best once more in float64.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.index.base import Found, Mask, Rows, Vectors

SLACK = 1e-5
"""More than float32 can be wrong in a cosine of unit vectors; no row of the best is lost."""

BLOCK_ROWS = 65_536
FEW_ROWS = 8192
GATHER_SHARE = 4
"""Of a block with fewer than one allowed row in four, only those are read."""


class Source(Protocol):
    """Unit vectors in the order of the rows."""

    @property
    def count(self) -> int:
        """How many vectors there are."""

    @property
    def dim(self) -> int:
        """How many values a vector has."""

    def block(self, start: int, stop: int) -> Vectors:
        """Return the vectors of neighbouring rows ``(stop - start, dim)``."""

    def take(self, rows: Rows) -> Vectors:
        """Return the vectors ``(m, dim)`` at row numbers ``(m,)``."""


def unit(vectors: Vectors) -> Vectors:
    """Return vectors ``(n, dim)`` at length 1; zero, and what is not finite, becomes zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = np.isfinite(norms) & (norms > 0)
    units = vectors / np.where(whole, norms, 1)
    return np.asarray(units if whole.all() else np.where(whole, units, 0), dtype=np.float32)


def unit_query(query: Vectors, dim: int) -> Vectors:
    """Return the query ``(dim,)`` at length 1. Raises InputError."""
    if query.shape != (dim,):
        raise InputError(
            f"The query vector has shape {query.shape}; this collection needs {(dim,)}."
        )
    if not np.isfinite(query).all() or not query.any():
        raise InputError("The query vector is zero or holds NaN; it has no direction.")
    # Neither very long nor very short vectors may overflow or vanish when they are squared.
    direction: Vectors = unit((query / np.abs(query).max())[None])[0]
    return direction


def check_k(k: int) -> None:
    """Raise InputError unless at least one row is asked for."""
    if k < 1:
        raise InputError(f"k is {k}; ask for 1 row or more.")


def check_allowed(count: int, mask: Mask | None, rows: Rows | None) -> None:
    """Raise InputError if a filter does not fit a collection of ``count`` rows."""
    if mask is not None and mask.shape != (count,):
        raise InputError(f"The mask has shape {mask.shape}; this collection needs {(count,)}.")
    if rows is None or not len(rows):
        return
    if not 0 <= rows[0] <= rows[-1] < count or (rows[1:] <= rows[:-1]).any():
        raise InputError(
            f"Allowed rows must be sorted, each once, and lie between 0 and {count - 1}."
        )


def allowed_rows(count: int, mask: Mask | None, rows: Rows | None) -> Rows | None:
    """Return the allowed rows, sorted, or None if that is all. Raises InputError."""
    check_allowed(count, mask, rows)
    if rows is None:
        return None if mask is None else np.flatnonzero(mask).astype(np.int64)
    return rows if mask is None else rows[mask[rows]]


class ScanIndex(Source):
    """An index that compares a query with every allowed row."""

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


def scan(source: Source, query: Vectors, k: int, rows: Rows | None) -> Found:
    """Compare the unit ``query`` with all rows, or with ``rows`` (sorted)."""
    considered = source.count if rows is None else len(rows)
    best = _Best(k)
    for start in range(0, source.count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, source.count)
        if rows is None:
            best.offer(np.arange(start, stop), source.block(start, stop) @ query)
            continue
        low, high = np.searchsorted(rows, (start, stop))
        here = rows[low:high]
        if len(here) * GATHER_SHARE > stop - start:
            best.offer(here, (source.block(start, stop) @ query)[here - start])
        elif len(here):
            best.offer(here, source.take(here) @ query)
    found, cosines = rank(source, query, best.rows(), k)
    return Found(found, cosines, considered, 1.0)


class _Best:
    """Rows whose true cosine may be among the ``k`` best of those offered."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._rows: list[Rows] = []
        self._scores: list[NDArray[np.float32]] = []
        self._floor = -np.inf
        self._held = 0

    def offer(self, rows: Rows, scores: NDArray[np.float32]) -> None:
        near = scores >= self._floor
        self._rows.append(rows[near])
        self._scores.append(scores[near])
        self._held += int(near.sum())
        if self._held > 2 * self._k + BLOCK_ROWS:
            self._settle()

    def rows(self) -> Rows:
        self._settle()
        return self._rows[0]

    def _settle(self) -> None:
        rows = np.concatenate([np.empty(0, np.int64), *self._rows])
        scores = np.concatenate([np.empty(0, np.float32), *self._scores])
        if self._k < len(scores):
            # Both the k-th score and that of a better row may be wrong.
            limit = np.partition(scores, len(scores) - self._k)[len(scores) - self._k]
            self._floor = limit - 2 * SLACK
            near = scores >= self._floor
            rows, scores = rows[near], scores[near]
        self._rows, self._scores, self._held = [rows], [scores], len(rows)


def rank(source: Source, query: Vectors, rows: Rows, k: int) -> tuple[Rows, NDArray[np.float32]]:
    """Return the best ``k`` of ``rows`` and their cosines, equal ones by row number."""
    scores = cosines(source, query, rows)
    order = np.lexsort((rows, -scores))[:k]
    return rows[order].astype(np.int64), np.clip(scores[order], -1.0, 1.0)


def cosines(source: Source, query: Vectors, rows: Rows) -> NDArray[np.float32]:
    """Return the cosines of ``rows`` with the unit ``query``, each summed alike in float64.

    A matrix product sums the rows at its edges in another order, so that equal vectors would
    get unequal cosines there, depending on the machine.
    """
    wide = query.astype(np.float64)
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), FEW_ROWS):
        block = slice(start, start + FEW_ROWS)
        scores[block] = (source.take(rows[block]) * wide).sum(axis=1)
    return scores
