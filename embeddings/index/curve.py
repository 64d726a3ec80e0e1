"""How complete the answers of an index are: measured for k and the number of lists probed."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class RecallCurve:
    """Mean share of the true k best that were found, and how sure that is.

    ``recall[i][j]`` belongs to ``ks[i]`` and ``probes[j]``, ``error[i][j]`` is its standard error
    over the held queries.
    """

    ks: tuple[int, ...]
    probes: tuple[int, ...]
    recall: tuple[tuple[float, ...], ...]
    error: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a curve from its JSON object. Raises KeyError, TypeError or ValueError."""
        curve = cls(
            tuple(map(int, data["ks"])),
            tuple(map(int, data["probes"])),
            tuple(tuple(map(float, row)) for row in data["recall"]),
            tuple(tuple(map(float, row)) for row in data["error"]),
        )
        rows = (*curve.recall, *curve.error)
        if not curve.ks or not curve.probes or len(rows) != 2 * len(curve.ks):
            raise ValueError("a recall curve without values")
        if any(len(row) != len(curve.probes) for row in rows):
            raise ValueError("a recall curve with gaps")
        return curve

    def expected(self, k: int, probes: int) -> float:
        """Return the recall to expect: of the measured neighbours of ``k``, the lower one.

        Beyond the largest ``k`` measured nothing is promised: 0.
        """
        column = max(bisect.bisect_right(self.probes, probes) - 1, 0)
        if k > self.ks[-1] or probes < self.probes[0]:
            return 0.0
        return min(self.recall[row][column] for row in self._beside(k))

    def choose(self, k: int, target: float) -> int | None:
        """Return the fewest lists that reach the target by twice the error, or None."""
        if k > self.ks[-1]:
            return None
        rows = self._beside(k)
        for column, probes in enumerate(self.probes):
            if all(self.recall[r][column] - 2 * self.error[r][column] >= target for r in rows):
                return probes
        return None

    def _beside(self, k: int) -> tuple[int, ...]:
        """Return the places of ``k``, or of the two measured beside it."""
        after = bisect.bisect_left(self.ks, k)
        if self.ks[after] == k or after == 0:
            return (after,)
        return (after - 1, after)
