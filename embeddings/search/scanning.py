"""One search from its examples to its results: locate, filter, scan."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embeddings.index.base import Found
from embeddings.query.calibration import Scale
from embeddings.query.filters import Filter
from embeddings.search.pages import Answer
from embeddings.search.query import MAX_K, SearchQuery
from embeddings.search.searchable import Directed, Searchable
from embeddings.spacing import spread
from embeddings.types import LonLat

CROWD = 8
"""With a spacing, first so many times k are looked for, then as many times more."""
FEW_BARRED = 100
"""So few rows are dropped from a longer answer; a mask of all rows would cost more."""
STAGES = ("open", "locate", "filter", "scan", "calibrate", "fetch")


class Clock:
    """The time by stage; of a stage that was not needed, none."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def done(self, stage: str) -> dict[str, float]:
        """Count what has passed to a stage; return the times of all."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._since
        self._since = now
        return self._seconds


def look(ground: Searchable, query: SearchQuery, clock: Clock) -> Answer:
    """Search: all k results, whatever page is asked for."""
    directed = ground.direct(query.at, query.positive, query.negative)
    clock.done("locate")
    allowed = _allowed(ground, query, directed)
    clock.done("filter")
    found = _search(ground, directed, query, allowed)
    clock.done("scan")
    scale = ground.pairs if directed.single else Scale.of_query(directed.vector, ground.sample)
    return Answer(directed, found, allowed.count, scale)


@dataclass(frozen=True)
class _Allowed:
    """Which rows may be returned: ``rows``, or all but those in ``barred``."""

    rows: NDArray[np.int64] | None
    barred: NDArray[np.int64]
    count: int


def _allowed(ground: Searchable, query: SearchQuery, directed: Directed) -> _Allowed:
    near = [
        (LonLat(lon, lat), query.exclude_m)
        for lon, lat in zip(directed.lon.tolist(), directed.lat.tolist(), strict=True)
        if query.exclude_m
    ]
    wanted = replace(query.filter, exclude=(*query.filter.exclude, *near))
    if wanted.only_excludes:
        barred = np.union1d(directed.own, ground.barred(wanted))
        return _Allowed(None, barred, ground.index.count - len(barred))
    rows = ground.meeting(wanted)
    rows = rows[~np.isin(rows, directed.own)]
    return _Allowed(rows, directed.own[:0], len(rows))


def _search(ground: Searchable, directed: Directed, query: SearchQuery, allowed: _Allowed) -> Found:
    """Return the best rows; with a spacing, the first that lie so far from all before them."""
    if not query.apart_m:
        return _best(ground, directed, query.k, allowed)
    found = _spread(ground, directed, query.k, query.apart_m, allowed)
    while len(found.rows) < query.k:
        # Whatever was looked at lies too near to what is kept, and so may much that follows.
        away = _away(ground, found.rows, query.apart_m, allowed)
        if not away.count:
            break
        more = _spread(ground, directed, query.k - len(found.rows), query.apart_m, away)
        found = Found(
            np.concatenate([found.rows, more.rows]),
            np.concatenate([found.cosines, more.cosines]),
            min(found.considered + more.considered, allowed.count),
            min(found.expected_recall, more.expected_recall),
        )
    return found


def _spread(
    ground: Searchable, directed: Directed, k: int, apart_m: float, allowed: _Allowed
) -> Found:
    """Return the first rows that lie so far apart, of the MAX_K best at most."""
    many = k * CROWD
    while True:
        found = _best(ground, directed, min(many, MAX_K), allowed)
        kept = spread(*ground.centres(found.rows), apart_m, k)
        if len(kept) == k or many >= min(MAX_K, allowed.count):
            return replace(found, rows=found.rows[kept], cosines=found.cosines[kept])
        many *= CROWD


def _away(
    ground: Searchable, kept: NDArray[np.int64], apart_m: float, allowed: _Allowed
) -> _Allowed:
    """Leave out the rows that lie too near to those kept, and these themselves."""
    lon, lat = ground.centres(kept)
    nearer = float(np.nextafter(apart_m, 0.0))
    around = [(LonLat(*place), nearer) for place in zip(lon.tolist(), lat.tolist(), strict=True)]
    near = np.union1d(kept, ground.barred(Filter(exclude=tuple(around))))
    if allowed.rows is not None:
        rows = allowed.rows[~np.isin(allowed.rows, near)]
        return _Allowed(rows, near[:0], len(rows))
    barred = np.union1d(allowed.barred, near)
    return _Allowed(None, barred, ground.index.count - len(barred))


def _best(ground: Searchable, directed: Directed, k: int, allowed: _Allowed) -> Found:
    """Return the best allowed rows."""
    index, vector, barred = ground.index, directed.vector, allowed.barred
    if allowed.rows is not None or not len(barred):
        return index.search(vector, k, rows=allowed.rows)
    if len(barred) <= FEW_BARRED and k + len(barred) <= MAX_K:
        found = index.search(vector, k + len(barred))
        kept = np.flatnonzero(~np.isin(found.rows, barred))[:k]
        return replace(
            found,
            rows=found.rows[kept],
            cosines=found.cosines[kept],
            considered=min(found.considered, allowed.count),
        )
    mask = np.ones(index.count, bool)
    mask[barred] = False
    return index.search(vector, k, mask=mask)
