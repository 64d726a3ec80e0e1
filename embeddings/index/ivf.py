"""The approximate index: inverted lists of compressed vectors, re-ranked on the exact ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import StoreFormatError
from embeddings.index.base import Found, Mask, Rows, Vectors
from embeddings.index.curve import RecallCurve
from embeddings.index.lists import Lists
from embeddings.index.scan import allowed_rows, check_allowed, check_k, rank, scan, unit_query
from embeddings.index.vectors import VectorFile

SCAN_VALUES = 5_000_000
"""So few values of allowed rows (20,000 of 256) are scanned exactly, in a few milliseconds."""

LEAST_CANDIDATES = 200
MORE_CANDIDATES = 1000


class _Allowed:
    """The rows that a filter lets through, in the forms that are needed, each made once."""

    def __init__(self, count: int, mask: Mask | None, rows: Rows | None) -> None:
        self._rows = None if rows is None else allowed_rows(count, mask, rows)
        if mask is None or self._rows is not None:
            self.mask = np.zeros(count, np.bool_)
            self.mask[self._rows] = True
        else:
            self.mask = mask
        self.count = int(np.count_nonzero(self.mask))

    @property
    def rows(self) -> Rows:
        """Their row numbers, sorted."""
        if self._rows is None:
            self._rows = np.flatnonzero(self.mask).astype(np.int64)
        return self._rows

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """One bit a row, little-endian."""
        return np.packbits(self.mask, bitorder="little")


@dataclass(frozen=True, slots=True)
class _Probed:
    """The lists to look into, how near they are, and what is to be expected of them."""

    lists: Rows
    near: NDArray[np.float32]
    considered: int
    """Allowed rows in the lists."""
    reach: int
    """``k`` among all rows that stands for the k asked for among the allowed ones."""


class IvfIndex:
    """Looks into the lists nearest to the query, as many as the recall asked for needs."""

    def __init__(
        self, vectors: VectorFile, lists: Lists, curve: RecallCurve, target_recall: float
    ) -> None:
        self.curve = curve
        self.target_recall = target_recall
        self._vectors = vectors
        self._lists = lists

    @property
    def count(self) -> int:
        """How many vectors the index holds."""
        return self._vectors.count

    @property
    def dim(self) -> int:
        """How many values a vector has."""
        return self._vectors.dim

    def vector(self, position: int) -> Vectors:
        """Return the unit vector ``(dim,)`` at a row number."""
        return self._vectors.vector(position)

    def vectors(self, positions: Rows) -> Vectors:
        """Return the unit vectors ``(m, dim)`` at row numbers ``(m,)``."""
        return self._vectors.vectors(positions)

    def search(
        self, query: Vectors, k: int, mask: Mask | None = None, rows: Rows | None = None
    ) -> Found:
        """Return the best rows; see Index.search.

        Few allowed rows, and a ``k`` for which no recall was measured, are scanned exactly.
        """
        check_k(k)
        direction = unit_query(query, self.dim)
        check_allowed(self.count, mask, rows)
        free = mask is None and rows is None
        allowed = None if free else _Allowed(self.count, mask, rows)
        possible = self.count if allowed is None else allowed.count
        wanted = min(k, possible)
        if possible * self.dim <= SCAN_VALUES:
            return self._scan(direction, k, allowed)
        probed = self._probe(direction, wanted, allowed)
        while probed is not None:
            found = self._look(direction, wanted, probed, allowed)
            if len(found.rows) == wanted:
                return found
            # The lists hold fewer allowed rows than were asked for.
            more = 2 * probed.lists.shape[1]
            if more > self._lists.lists:
                break
            probed = self._into(direction, wanted, more, allowed)
        return self._scan(direction, k, allowed)

    def _scan(self, direction: Vectors, k: int, allowed: _Allowed | None) -> Found:
        return scan(self._vectors, direction, k, None if allowed is None else allowed.rows)

    def candidates(
        self, direction: Vectors, k: int, probes: int
    ) -> tuple[Rows, NDArray[np.float32]]:
        """Return what a search for ``k`` re-ranks, seemingly best first, with float32 cosines."""
        lists, near = self._lists.nearest(direction, probes)
        rows = self._lists.search(direction, candidates_for(k), lists, near, None)
        order = np.argsort(rows)
        scores = np.empty(len(rows), np.float32)
        # Reading in the order of the file takes half the time.
        scores[order] = self._vectors.take(rows[order]) @ direction
        return rows, scores

    def _probe(self, direction: Vectors, k: int, allowed: _Allowed | None) -> _Probed | None:
        """Return the lists that reach the recall asked for, or None if a scan is needed.

        Among rows of which a share s is allowed, the k best allowed ones reach about as far as the
        k / s best of all. The share is counted in the lists at hand: near the query it may be
        quite another than in the whole collection.
        """
        share = 1.0 if allowed is None else allowed.count / self.count
        probes = self.curve.choose(math.ceil(k / share), self.target_recall)
        while probes is not None:
            probed = self._into(direction, k, probes, allowed)
            enough = self.curve.choose(probed.reach, self.target_recall)
            if enough is None or enough <= probes:
                return None if enough is None else probed
            probes = enough
        return None

    def _into(self, direction: Vectors, k: int, probes: int, allowed: _Allowed | None) -> _Probed:
        lists, near = self._lists.nearest(direction, probes)
        rows = self._lists.sizes(lists)
        if allowed is None:
            return _Probed(lists, near, rows, k)
        considered = self._lists.allowed(lists, allowed.mask)
        return _Probed(lists, near, considered, math.ceil(k * rows / max(considered, 1)))

    def _look(self, direction: Vectors, k: int, probed: _Probed, allowed: _Allowed | None) -> Found:
        bits = None if allowed is None else allowed.bits
        many = min(candidates_for(k), self.count)
        rows = self._lists.search(direction, many, probed.lists, probed.near, bits)
        if len(rows) and rows.max() >= self.count:
            raise StoreFormatError("The index names rows that are not there. Build it again.")
        best, scores = rank(self._vectors, direction, np.sort(rows), k)
        recall = self.curve.expected(probed.reach, probed.lists.shape[1])
        return Found(best, scores, probed.considered, recall)


def candidates_for(k: int) -> int:
    """Return how many candidates are re-ranked for ``k`` results: twice as many as a rule."""
    return max(k + max(min(k, MORE_CANDIDATES), k // 4), LEAST_CANDIDATES)
