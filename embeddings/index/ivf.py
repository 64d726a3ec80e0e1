"""The approximate index: inverted lists of compressed vectors, re-ranked on the exact ones."""

from __future__ import annotations

import math

from embeddings.index.base import Found, Mask, Rows, Vectors
from embeddings.index.curve import RecallCurve
from embeddings.index.hunt import Allowed, Hunt
from embeddings.index.lists import Lists
from embeddings.index.scan import check_allowed, check_k, scan, unit_query
from embeddings.index.vectors import VectorFile

SCAN_VALUES = 5_000_000
"""So few values of allowed rows (20,000 of 256) are scanned exactly, in a few milliseconds."""


class IvfIndex:
    """Looks into the lists that may hold rows near the query, as many as the recall needs."""

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
        allowed = None if free else Allowed(self.count, mask, rows)
        possible = self.count if allowed is None else allowed.count
        wanted = min(k, possible)
        if possible * self.dim > SCAN_VALUES:
            found = self._through_lists(direction, wanted, possible, allowed)
            if found is not None:
                return found
        return scan(self._vectors, direction, k, None if allowed is None else allowed.rows)

    def _through_lists(
        self, direction: Vectors, k: int, possible: int, allowed: Allowed | None
    ) -> Found | None:
        """Search the lists; None if no recall can be stated, or they hold too few rows.

        Among rows of which a share s is allowed the k best lie about as far away as the k / s
        best of all, so what was measured for both must do.
        """
        reach = min(math.ceil(k * self.count / possible), max(self.curve.ks[-1], k))
        promises = [self.curve.choose(each, self.target_recall) for each in (k, reach)]
        if None in promises:
            return None
        hunt = self.hunt(direction, k, allowed)
        best, scores = hunt.run(max(promise for promise in promises if promise is not None))
        if len(best) < k:
            return None
        recall = min(self.curve.expected(each, hunt.promise) for each in (k, reach))
        return Found(best, scores, self._considered(hunt, allowed), recall)

    def hunt(self, direction: Vectors, k: int, allowed: Allowed | None = None) -> Hunt:
        """Begin a search for a unit vector through the lists."""
        return Hunt(self._vectors, self._lists, direction, k, allowed)

    def _considered(self, hunt: Hunt, allowed: Allowed | None) -> int:
        if allowed is None:
            return self._lists.sizes(hunt.read)
        return self._lists.allowed(hunt.read, allowed.mask)
