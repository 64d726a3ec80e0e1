"""What every nearest-neighbour engine offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and how far it looked.

    ``rows`` and ``cosines`` ``(m,)`` come best first, equal cosines by row number; ``considered``
    counts the rows that were compared; ``expected_recall`` is the share of the true best rows that
    an answer like this holds on average: 1 for a scan, else as measured when the index was built.
    """

    rows: Rows
    cosines: NDArray[np.float32]
    considered: int
    expected_recall: float


class Index(Protocol):
    """Finds the rows of a collection most similar to a query by cosine. Thread-safe."""

    @property
    def count(self) -> int:
        """How many vectors the index holds."""

    @property
    def dim(self) -> int:
        """How many values a vector has."""

    def vector(self, position: int) -> Vectors:
        """Return the unit vector ``(dim,)`` at a row number."""

    def vectors(self, positions: Rows) -> Vectors:
        """Return the unit vectors ``(m, dim)`` at row numbers ``(m,)``."""

    def search(
        self, query: Vectors, k: int, mask: Mask | None = None, rows: Rows | None = None
    ) -> Found:
        """Return the best min(k, allowed rows) rows for ``query`` ``(dim,)``.

        Allowed are rows where ``mask`` ``(count,)`` is True and that stand in ``rows``, sorted
        row numbers; None allows all. Raises InputError if ``k`` is below 1 or the query has
        another dimension, is zero or not finite.
        """
