"""A column of one value a row, mapped into memory and checked where it is first looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.index.base import Rows
from embeddings.index.sums import Guard

WHOLE_SHARE = 8
"""Where more than one row in so many is asked for, the whole column is checked, once."""


class Column:
    """Values ``(count,)`` of a mapped file. Thread-safe."""

    def __init__(self, values: NDArray[Any], guard: Guard, start: int) -> None:
        """Take values that begin at byte ``start`` of the guarded file."""
        self.values = values
        """As they lie in the file, not checked."""
        self._guard = guard
        self._start = start

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: int | slice | Rows) -> Any:
        """Return values at row numbers, or all of them as ``[:]``. Raises IndexDamagedError."""
        if isinstance(rows, slice) or np.size(rows) * WHOLE_SHARE > len(self.values):
            self._guard.span(self._start, self._start + self.values.nbytes)
        else:
            wide = self.values.itemsize
            self._guard.spans(np.atleast_1d(rows) * wide + self._start, wide)
        return self.values[rows]
