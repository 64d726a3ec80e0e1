"""How complete the answers of an index are: what searches promised, and what was measured."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

SHORT = 0.01
"""A search that is expected to miss its target by so little says so; further off is a scan."""

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class RecallCurve:
    """Mean share of the true k best that held queries found, and how sure that is.

    A search stops once the lists that it has not read promise (``shapes``) a recall of
    ``levels[j]``. ``promised[i][j]`` is what it promised then for ``ks[i]`` on average,
    ``recall[i][j]`` what was found, and ``error[i][j]`` the standard error of that.
    """

    ks: tuple[int, ...]
    levels: tuple[float, ...]
    promised: Table
    recall: Table
    error: Table

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a curve from its JSON object. Raises KeyError, TypeError or ValueError."""
        tables = [
            tuple(tuple(map(float, row)) for row in data[name])
            for name in ("promised", "recall", "error")
        ]
        curve = cls(tuple(map(int, data["ks"])), tuple(map(float, data["levels"])), *tables)
        if not curve.ks or not curve.levels or any(len(t) != len(curve.ks) for t in tables):
            raise ValueError("a recall curve without values")
        if any(len(row) != len(curve.levels) for table in tables for row in table):
            raise ValueError("a recall curve with gaps")
        return curve

    def choose(self, k: int, target: float) -> float | None:
        """Return the least promise with which the target is reached, by the standard error.

        Of the two measured neighbours of ``k`` both must reach it. If none does, the strictest,
        as long as it misses the target by no more than ``SHORT``; else None.
        """
        if k > self.ks[-1]:
            return None
        rows = self._beside(k)
        for column, level in enumerate(self.levels):
            least = min(self.recall[row][column] - self.error[row][column] for row in rows)
            if least >= target:
                return level
        short = min(self.recall[row][-1] for row in rows) < target - SHORT
        return None if short else self.levels[-1]

    def expected(self, k: int, promise: float) -> float:
        """Return the recall to expect of a search that ended with a promise.

        Of the measured neighbours of ``k`` the lower one; beyond the largest ``k`` 0.
        """
        if k > self.ks[-1]:
            return 0.0
        return float(
            min(
                np.interp(promise, (0.0, *self.promised[row]), (0.0, *self.recall[row]))
                for row in self._beside(k)
            )
        )

    def _beside(self, k: int) -> tuple[int, ...]:
        """Return the places of ``k``, or of the two measured beside it."""
        after = bisect.bisect_left(self.ks, k)
        if self.ks[after] == k or after == 0:
            return (after,)
        return (after - 1, after)
