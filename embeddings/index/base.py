"""What every nearest-neighbour engine offers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Index(Protocol):
    """Finds the rows of a collection most similar to a query by cosine."""

    @property
    def count(self) -> int:
        """How many vectors the index holds."""

    def vector(self, position: int) -> NDArray[np.float32]:
        """Return the unit vector ``(dim,)`` at a row number."""

    def search(
        self, query: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return row numbers and cosines ``(m,)``, best first, m = min(k, allowed rows).

        ``query`` is ``(dim,)``; rows where ``mask`` ``(count,)`` is False are not considered.
        Equal cosines are ordered by row number.
        """
