"""The nearest joined rows of several collections, by their own indexes or by a scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.index.base import Found, Mask, Vectors
from embeddings.index.ivf import IvfIndex
from embeddings.index.scan import allowed_rows, check_k, unit_query
from embeddings.search.joined import Join
from embeddings.search.searchable import Rows, cosines

SCAN_VALUES = 20_000_000
"""So few values of allowed rows are scanned; lists would be searched for as long."""
SCAN_BLOCK_VALUES = 16_000_000
LEAST_LISTED = 1_000
MOST_LISTED = 50_000
"""No recall is measured for longer lists."""
LISTED_SHARE = 8
"""Beyond one row in so many, a scan of all is as fast as longer lists."""
SLACK = 1e-5
"""More than float32 can be wrong in a cosine."""


class FusedIndex:
    """Finds the joined rows whose vectors, put end to end, are most like a query of that form."""

    def __init__(self, joined: Join, weights: Sequence[float]) -> None:
        self._joined = joined
        self._indexes = [part.index for part in joined.parts]
        self.shares = np.asarray(weights) / np.sum(weights)
        self._roots = np.sqrt(self.shares).astype(np.float32)
        self._ends = np.cumsum([index.dim for index in self._indexes])

    @property
    def count(self) -> int:
        """How many rows are joined."""
        return self._joined.count

    @property
    def dim(self) -> int:
        """How many values the vectors of all collections have."""
        return int(self._ends[-1])

    def vector(self, position: int) -> Vectors:
        """Return the unit vector ``(dim,)`` at a joined row."""
        vector: Vectors = self.vectors(np.array([position]))[0]
        return vector

    def vectors(self, positions: Rows) -> Vectors:
        """Return the unit vectors ``(m, dim)`` at joined rows ``(m,)``."""
        return self.combined(
            [
                index.vectors(self._joined.rows(part, positions))
                for part, index in enumerate(self._indexes)
            ]
        )

    def combined(self, vectors: Sequence[Vectors]) -> Vectors:
        """Put unit vectors of each collection end to end: those of the joined space."""
        weighed = [root * each for root, each in zip(self._roots, vectors, strict=True)]
        return np.concatenate(weighed, axis=-1)

    def cosines(self, query: Vectors, rows: Rows) -> list[NDArray[np.float64]]:
        """Return the cosines ``(m,)`` of joined rows in each collection."""
        return [
            cosines(self._indexes[part], direction, self._joined.rows(part, rows))
            for part, direction in enumerate(self._parts(query))
        ]

    def fused(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        """Return the weighted means of the cosines ``(m,)`` of joined rows."""
        mean = self.shares @ np.stack(self.cosines(query, rows))
        return np.asarray(mean, np.float32)

    def search(
        self, query: Vectors, k: int, mask: Mask | None = None, rows: Rows | None = None
    ) -> Found:
        """Return the best rows; see Index.search.

        With an approximate index of every collection, by the threshold algorithm; else, for few
        rows, and where that would need very long lists, by a scan of all joined rows.
        """
        check_k(k)
        directions = self._parts(query)
        allowed = allowed_rows(self.count, mask, rows)
        possible = self.count if allowed is None else len(allowed)
        listed = all(isinstance(index, IvfIndex) for index in self._indexes)
        if listed and possible * self.dim > SCAN_VALUES:
            found = self.by_lists(query, k, allowed, min(MOST_LISTED, possible // LISTED_SHARE))
            if found is not None:
                return found
        return self._scan(query, directions, k, allowed)

    def by_lists(self, query: Vectors, k: int, allowed: Rows | None, most: int) -> Found | None:
        """Search by Fagin's threshold algorithm (Fagin, Lotem and Naor 2003).

        The best n rows of each collection are scored in all of them. A row that is in no list has
        at most the last cosine of each; once the k-th best known is better than the mean of those,
        nothing better is left. Else n is doubled; None if more than ``most`` would be needed.

        A row that belongs into the answer is missed only if a list that should hold it does not,
        so that the recall expected is at least that of the list for which it is the lowest.
        """
        directions = self._parts(query)
        many = min(max(LEAST_LISTED, 2 * k), most)
        while True:
            lists = self._lists(directions, many, allowed)
            numbers = [self._joined.joined(part, each.rows) for part, each in enumerate(lists)]
            known = np.unique(np.concatenate(numbers))
            best, scores = self._ranked(query, known, k)
            bound = float(self.shares @ [found.cosines[-1] for found in lists])
            if len(best) == k and scores[-1] > bound + SLACK:
                considered = max(len(known), *(found.considered for found in lists))
                recall = min(found.expected_recall for found in lists)
                return Found(best, scores, considered, recall)
            if many >= most:
                return None
            many = min(2 * many, most)

    def _lists(self, directions: list[Vectors], many: int, allowed: Rows | None) -> list[Found]:
        """Return the best rows of each collection among those joined and allowed."""
        joined = self._joined
        return [
            index.search(
                directions[part],
                many,
                mask=joined.masks[part] if allowed is None else None,
                rows=None if allowed is None else np.sort(joined.rows(part, allowed)),
            )
            for part, index in enumerate(self._indexes)
        ]

    def _scan(
        self, query: Vectors, directions: list[Vectors], k: int, allowed: Rows | None
    ) -> Found:
        """Compare the query with all joined rows, or the allowed ones, block by block."""
        possible = self.count if allowed is None else len(allowed)
        step = max(1, SCAN_BLOCK_VALUES // self.dim)
        best = np.empty(0, np.int64)
        scores = np.empty(0, np.float32)
        for start in range(0, possible, step):
            stop = min(start + step, possible)
            here = np.arange(start, stop) if allowed is None else allowed[start:stop]
            best = np.concatenate([best, here])
            scores = np.concatenate([scores, self._rough(directions, here)])
            if len(best) > k:
                # Both the k-th score and that of a better row may be wrong.
                floor = np.partition(scores, len(scores) - k)[len(scores) - k] - 2 * SLACK
                near = scores >= floor
                best, scores = best[near], scores[near]
        return Found(*self._ranked(query, best, k), possible, 1.0)

    def _rough(self, directions: list[Vectors], rows: Rows) -> NDArray[np.float32]:
        """Return the fused cosines in float32."""
        total = np.zeros(len(rows), np.float32)
        for part, index in enumerate(self._indexes):
            vectors = index.vectors(self._joined.rows(part, rows))
            total += np.float32(self.shares[part]) * (vectors @ directions[part])
        return total

    def _ranked(self, query: Vectors, rows: Rows, k: int) -> tuple[Rows, NDArray[np.float32]]:
        scores = self.fused(query, rows)
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def _parts(self, query: Vectors) -> list[Vectors]:
        """Return the query's direction in each collection. Raises InputError."""
        if query.shape != (self.dim,):
            raise InputError(f"The query has shape {query.shape}; these need {(self.dim,)}.")
        parts = np.split(query, self._ends[:-1])
        return [
            unit_query(part, index.dim) for part, index in zip(parts, self._indexes, strict=True)
        ]
