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
        """Whether almost all rows are allowed, so that those barred say it shorter.

        Then ``barred`` is what to ask for, else ``rows``.
        """
        asked = (self.bounds, (self.where or "").strip() or None, self.ids)
        timeless = self.time is None or (self.time.start is None and self.time.end is None)
        return timeless and not self.polygons and all(each is None for each in asked)


def rows(items: ItemTable, wanted: Filter) -> NDArray[np.int64] | None:
    """Return the sorted numbers of the rows allowed, or None where all are.

    No row at all is an answer, not an error. Raises InputError if ``where`` cannot be read.
    """
    found = [None if wanted.bounds is None else items.within(wanted.bounds)]
    if wanted.where is not None and wanted.where.strip():
        found.append(items.meeting(wanted.where))
    if wanted.ids is not None:
        found.append(items.find(wanted.ids))
    sets = [each for each in found if each is not None]
    allowed = reduce(_both, sets) if sets else None
    if wanted.polygons:
        allowed = _in_polygons(items, wanted, allowed)
    else:
        allowed = _at_time(items, wanted.time, allowed)
    return _without(items, wanted, allowed)


def _in_polygons(
    items: ItemTable, wanted: Filter, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return the rows in any of the polygons, which take longest and so are asked last."""
    inside = []
    for area in wanted.polygons:
        near = items.within(area.bounds)
        near = near if allowed is None else _both(near, allowed)
        left = _at_time(items, wanted.time, near)
        assert left is not None
        inside.append(left[area.contains(items.lon[left], items.lat[left])])
    return inside[0] if len(inside) == 1 else np.unique(np.concatenate(inside))


def _at_time(
    items: ItemTable, time: TimeRange | None, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    if time is None or (time.start is None and time.end is None):
        return allowed
    if allowed is None:
        return np.flatnonzero(items.at_time(time, None))
    return allowed[items.at_time(time, allowed)]


def _without(
    items: ItemTable, wanted: Filter, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    near = barred(items, wanted)
    if near is None:
        return allowed
    if allowed is None:
        return np.delete(np.arange(items.count), near)
    return allowed[~np.isin(allowed, near)]


def barred(items: ItemTable, wanted: Filter) -> NDArray[np.int64] | None:
    """Return the sorted rows that lie too near to an excluded place; None without such places."""
    places = [(place, metres) for place, metres in wanted.exclude if metres > 0]
    if not places:
        return None
    near = np.zeros(items.count, bool)
    for place, metres in places:
        near[items.near(place, metres)] = True
        if near.all():
            break
    return np.flatnonzero(near)


def _both(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.intersect1d(first, second, assume_unique=True)
