"""Which rows of a collection a search may return."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.query.items import ItemTable
from embeddings.sources.areas import Area
from embeddings.types import Bounds, LonLat, TimeRange

MAX_IDS = 50_000


@dataclass(frozen=True)
class Filter:
    """What all results must meet; what is None or empty asks for nothing.

    A chip lies in a box or a polygon if its centre does; several polygons count as one area. It
    lies in a time range if its time does, ends included. ``where`` is an expression over the
    columns (see ``embeddings.query.expression``). ``ids`` are the only items allowed; those that
    a collection lacks are passed over. ``exclude`` leaves out centres that lie at most so many
    metres from a place. Raises InputError.
    """

    bounds: Bounds | None = None
    polygons: tuple[Area, ...] = ()
    time: TimeRange | None = None
    where: str | None = None
    ids: tuple[str, ...] | None = None
    exclude: tuple[tuple[LonLat, float], ...] = ()

    def __post_init__(self) -> None:
        if self.ids is not None and len(self.ids) > MAX_IDS:
            raise InputError(f"The filter names {len(self.ids):,} ids; it may name {MAX_IDS:,}.")
        for _, metres in self.exclude:
            if not 0 <= metres < float("inf"):
                raise InputError(f"The exclusion radius is {metres}; give 0 metres or more.")

    @property
    def only_excludes(self) -> bool:
        """Whether almost all rows are allowed, so that a mask says it shorter than their numbers.

        Then ``mask`` is what to give to an index, else ``rows``.
        """
        asked = (self.bounds, (self.where or "").strip() or None, self.ids)
        timeless = self.time is None or (self.time.start is None and self.time.end is None)
        return timeless and not self.polygons and all(each is None for each in asked)


def mask(items: ItemTable, wanted: Filter) -> NDArray[np.bool_] | None:
    """Return whether each row ``(count,)`` is allowed, or None where all are; as of ``rows``."""
    if not wanted.only_excludes:
        allowed = np.zeros(items.count, bool)
        allowed[rows(items, wanted)] = True
        return allowed
    near = _barred(items, wanted)
    if near is None:
        return None
    allowed = np.ones(items.count, bool)
    allowed[near] = False
    return allowed


def rows(items: ItemTable, wanted: Filter) -> NDArray[np.int64] | None:
    """Return the sorted numbers of the rows allowed, or None where all are.

    No row at all is an answer, not an error. Raises InputError if ``where`` cannot be read.
    """
    found = [_in_place(items, wanted)]
    if wanted.where is not None and wanted.where.strip():
        found.append(items.meeting(wanted.where))
    if wanted.ids is not None:
        found.append(items.reader.find(wanted.ids))
    sets = [each for each in found if each is not None]
    allowed = reduce(_both, sets) if sets else None
    if wanted.time is not None and (wanted.time.start or wanted.time.end):
        allowed = _at_time(items, wanted.time, allowed)
    return _without(items, wanted, allowed)


def _in_place(items: ItemTable, wanted: Filter) -> NDArray[np.int64] | None:
    """Return the rows in the box and in any of the polygons."""
    boxed = None if wanted.bounds is None else items.within(wanted.bounds)
    if not wanted.polygons:
        return boxed
    inside = [items.inside(area) for area in wanted.polygons]
    either = inside[0] if len(inside) == 1 else np.unique(np.concatenate(inside))
    return either if boxed is None else _both(boxed, either)


def _at_time(
    items: ItemTable, time: TimeRange, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    if allowed is None:
        return np.flatnonzero(items.at_time(time, None))
    return allowed[items.at_time(time, allowed)]


def _without(
    items: ItemTable, wanted: Filter, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    barred = _barred(items, wanted)
    if barred is None:
        return allowed
    if allowed is None:
        return np.delete(np.arange(items.count), barred)
    return allowed[~np.isin(allowed, barred)]


def _barred(items: ItemTable, wanted: Filter) -> NDArray[np.int64] | None:
    near = [items.near(place, metres) for place, metres in wanted.exclude if metres > 0]
    return np.unique(np.concatenate(near)) if near else None


def _both(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.intersect1d(first, second, assume_unique=True)
