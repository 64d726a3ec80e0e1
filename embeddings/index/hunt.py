"""One search through the lists: which to look into, when to stop, which rows are the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import StoreFormatError
from embeddings.index.base import Mask, Rows, Vectors
from embeddings.index.lists import Lists
from embeddings.index.scan import allowed_rows, cosines
from embeddings.index.shapes import Floats, upper_tail
from embeddings.index.vectors import VectorFile

LEAST_CANDIDATES = 200
MORE_CANDIDATES = 1000
UNSEEN = 0.002
"""Of the k best so many may be lost because their codes let them seem worse than they are."""
MOST_MORE = 64
"""Then so many times as many are looked at as usually, but no more."""
NEAR_END = 0.25
"""The last quarter of the candidates tells how densely those that follow lie."""


class Allowed:
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

    @property
    def few(self) -> tuple[Rows | None, Rows | None]:
        """The allowed rows and None, or None and the others: whichever are fewer."""
        if self._rows is None and 2 * self.count > len(self.mask):
            return None, np.flatnonzero(~self.mask).astype(np.int64)
        return self.rows, None

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """One bit a row, little-endian."""
        return np.packbits(self.mask, bitorder="little")


def candidates_for(k: int) -> int:
    """Return how many candidates are re-ranked for ``k`` results: twice as many as a rule."""
    return max(k + max(min(k, MORE_CANDIDATES), k // 4), LEAST_CANDIDATES)


@dataclass(frozen=True, slots=True)
class _Pool:
    """Rows that seem best by their codes: how near they seem, and are (NaN: not yet known).

    No row that was left out seems nearer than ``cut``.
    """

    rows: Rows
    seem: Vectors
    true: Vectors
    cut: float

    def joined(self, rows: Rows, seem: Vectors, cut: float, many: int) -> _Pool:
        """Add rows that are not among these; keep the best ``many``."""
        true = np.full(len(rows), np.nan, np.float32)
        both = _Pool(
            np.concatenate([self.rows, rows]),
            np.concatenate([self.seem, seem]),
            np.concatenate([self.true, true]),
            max(self.cut, cut),
        )
        if len(both.rows) <= many:
            return both
        kept = np.argpartition(-both.seem, many - 1)[:many]
        least = float(both.seem[kept].min())
        return _Pool(both.rows[kept], both.seem[kept], both.true[kept], max(both.cut, least))


_NONE = np.empty(0, np.float32)
_EMPTY = _Pool(np.empty(0, np.int64), _NONE, _NONE, -np.inf)


class Hunt:
    """Looks into list after list until those not read promise to hold few of the best rows."""

    def __init__(
        self,
        vectors: VectorFile,
        lists: Lists,
        direction: Vectors,
        k: int,
        allowed: Allowed | None,
    ) -> None:
        self._vectors = vectors
        self._lists = lists
        self._direction = direction
        self._k = k
        self._allowed = allowed
        self.outlook = lists.outlook(direction, *((None, None) if allowed is None else allowed.few))
        self._unread = np.ones(lists.lists, np.bool_)
        self._many = min(candidates_for(k), vectors.count)
        self._pool = _EMPTY
        self._reach = float(k)
        self._cosine = self.outlook.cosine_of(k)
        self._unseen = 0.0
        self.promise = 0.0

    @property
    def read(self) -> Rows:
        """The numbers of the lists that were looked into."""
        return np.flatnonzero(~self._unread).astype(np.int64)

    def run(self, promise: float) -> tuple[Rows, Vectors]:
        """Go on until so much recall is promised; return the best rows and their cosines.

        They are fewer than ``k`` only if the lists hold no more. ``promise`` then is what is
        promised: 1 less the share of the k best that the model expects elsewhere.
        """
        while True:
            left = np.where(self._unread, self.outlook.above(self._cosine), 0.0)
            chosen = _fewest(left, (1 - promise) * self._k)
            full = len(self._pool.rows) >= self._k
            if not len(chosen) and not full:
                chosen = np.flatnonzero(self._unread)
            if len(chosen):
                self._into(chosen)
            elif full and self._blurred():
                self._again()
            else:
                break
            self._look()
        self.promise = max(0.0, 1 - (float(left.sum()) + self._unseen) / self._k)
        return self._best()

    def _into(self, lists: Rows) -> None:
        """Look into more lists."""
        bits = None if self._allowed is None else self._allowed.bits
        rows, seem = self._lists.search(self._direction, self._many, lists, bits)
        if len(rows) and rows.max() >= self._vectors.count:
            raise StoreFormatError("The index names rows that are not there. Build it again.")
        cut = float(seem.min()) if len(rows) == self._many else -np.inf
        self._pool = self._pool.joined(rows, seem, cut, self._many)
        self._unread[lists] = False

    def _again(self) -> None:
        """Look once more, for twice as many candidates."""
        self._many = min(2 * self._many, self._vectors.count)
        known = self._pool
        self._pool = _EMPTY
        self._into(self.read)
        # What was compared already is not read again.
        order = np.argsort(known.rows)
        place = np.minimum(
            np.searchsorted(known.rows, self._pool.rows, sorter=order), len(order) - 1
        )
        same = known.rows[order[place]] == self._pool.rows
        self._pool.true[same] = known.true[order[place]][same]

    def _look(self) -> None:
        """Compare the candidates themselves, and set how near a row must be to matter."""
        pool = self._pool
        fresh = np.flatnonzero(np.isnan(pool.true))
        # Reading in the order of the file takes half the time.
        fresh = fresh[np.argsort(pool.rows[fresh])]
        pool.true[fresh] = cosines(self._vectors, self._direction, pool.rows[fresh])
        if len(pool.rows) >= self._k:
            self._cosine = float(np.partition(pool.true, -self._k)[-self._k])
        else:
            self._reach *= 2
            self._cosine = self.outlook.cosine_of(self._reach)

    def _blurred(self) -> bool:
        """Whether rows that are no candidates may be among the best: codes are not exact."""
        pool = self._pool
        self._unseen = 0.0
        if pool.cut == -np.inf:
            return False
        blur = max(float(np.std(pool.seem - pool.true)), 1e-7)
        end = max(int(NEAR_END * len(pool.rows)), 1)
        spread = float(np.partition(pool.seem, end)[end]) - pool.cut
        dense = end / max(spread, 1e-7)
        z = np.array([(self._cosine - pool.cut) / blur])
        tail = float(upper_tail(z)[0])
        bell = math.exp(-0.5 * float(z[0]) ** 2) / math.sqrt(2 * math.pi)
        self._unseen = dense * blur * max(bell - float(z[0]) * tail, 0.0)
        most = min(MOST_MORE * candidates_for(self._k), self._vectors.count)
        return self._unseen > UNSEEN * self._k and self._many < most

    def _best(self) -> tuple[Rows, Vectors]:
        order = np.lexsort((self._pool.rows, -self._pool.true))[: self._k]
        return self._pool.rows[order], np.clip(self._pool.true[order], -1.0, 1.0)


def _fewest(left: Floats, lost: float) -> Rows:
    """Return the fewest lists after which at most ``lost`` of the expected rows are left."""
    order = np.argsort(-left)
    held = np.cumsum(left[order])
    if not len(held) or held[-1] <= lost:
        return order[:0]
    return order[: int(np.searchsorted(held, held[-1] - lost)) + 1]
