"""A place or examples, and the places that are like them: locate, filter, scan, fetch."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.errors import (
    InputError,
    NoDataAtPlaceError,
    OutsideCoverageError,
)
from embeddings.index.base import Found
from embeddings.loaded import Loaded, load, state_of
from embeddings.query import filters
from embeddings.query.calibration import Scale
from embeddings.query.examples import Examples, Resolved, direction, resolve
from embeddings.query.filters import Filter
from embeddings.spacing import EARTH_RADIUS_M, distance_m, spread
from embeddings.store import Collection, Scene, Store
from embeddings.types import LonLat

__all__ = [
    "EARTH_RADIUS_M",
    "MAX_K",
    "SearchQuery",
    "SearchResult",
    "Searcher",
    "distance_m",
]

MAX_K = 50_000
CROWD = 8
"""With a spacing, first so many times k are looked for, then as many times more."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Find the ``k`` chips most like the one at ``at``, or most like examples.

    ``at`` is a positive example like those of ``positive``. Chips whose centre lies within
    ``exclude_m`` metres of a positive example's centre are left out, and always the examples
    themselves. Results meet ``filter``, and lie ``apart_m`` metres from each other. Raises
    InputError.
    """

    at: LonLat | None = None
    k: int = 10
    exclude_m: float = 0.0
    positive: Examples = field(default_factory=Examples)
    negative: Examples = field(default_factory=Examples)
    filter: Filter = field(default_factory=Filter)
    apart_m: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise InputError(f"k is {self.k}; it may be 1 to {MAX_K:,}.")
        for name, metres in (("exclusion radius", self.exclude_m), ("spacing", self.apart_m)):
            if not 0 <= metres < float("inf"):
                raise InputError(f"The {name} is {metres}; give 0 metres or more.")
        if self.at is None and not self.positive.count:
            raise InputError("Nothing to search for: give a place or another positive example.")


@dataclass(frozen=True)
class SearchResult:
    """The kin of a place or of examples.

    ``matches`` has the item columns in the order of rank; ``similarity (m,) float32`` are cosines
    and ``percentile (m,)`` the shares, 0 to 1, of random pairs of the collection that are at most
    so alike. ``query_item`` is the row at the query's place, None without one; ``matched`` counts
    the rows that could have been returned, ``considered`` those compared, ``expected_recall`` is
    the share of the true best that an answer like this holds; ``seconds`` the time by stage.
    """

    collection: Collection
    query: SearchQuery
    query_item: pa.Table | None
    matches: pa.Table
    similarity: NDArray[np.float32]
    percentile: NDArray[np.float64]
    matched: int
    considered: int
    expected_recall: float
    seconds: dict[str, float]


class Searcher:
    """Searches the collections of a store; keeps their indexes. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._loaded: dict[str, Loaded] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def search(self, name: str, query: SearchQuery) -> SearchResult:
        """Return the places most like those asked for.

        Raises CollectionNotFoundError, ItemNotFoundError, OutsideCoverageError,
        NoDataAtPlaceError, InputError or StoreError.
        """
        clock = [time.perf_counter()]
        self._forget_lost()
        collection = self.store.collection(name)
        if not collection.count:
            raise OutsideCoverageError(
                f"Collection '{name}' is still empty. Run its embed command (again)."
            )
        loaded = self._load(collection)
        clock.append(time.perf_counter())
        locate = cache(partial(_position, collection, loaded))
        positive, negative = (
            resolve(examples, loaded.items, loaded.index.vectors, locate)
            for examples in (_with_place(query), query.negative)
        )
        single = len(positive.vectors) == 1 and not len(negative.vectors)
        # Alone, a positive is its own direction, and the background need not be known.
        vector = (
            positive.vectors[0]
            if single
            else direction(positive.vectors, negative.vectors, loaded.background)
        )
        clock.append(time.perf_counter())
        allowed = _allowed(loaded, query, positive, negative)
        clock.append(time.perf_counter())
        found = _search(loaded, vector, query, allowed)
        clock.append(time.perf_counter())
        scale = loaded.pairs if single else Scale.of_query(vector, loaded.sample)
        matches = loaded.rows(found.rows)
        clock.append(time.perf_counter())
        stages = ("open", "locate", "filter", "scan", "fetch")
        return SearchResult(
            collection,
            query,
            None if query.at is None else loaded.rows(np.array([locate(query.at)])),
            matches,
            found.cosines,
            scale.percentile(found.cosines),
            allowed.count,
            found.considered,
            found.expected_recall,
            {stage: clock[i + 1] - clock[i] for i, stage in enumerate(stages)},
        )

    def _load(self, collection: Collection) -> Loaded:
        with self._guard:
            lock = self._locks[collection.id]
        # Others wait only for the collection that they search themselves.
        with lock:
            known = self._loaded.get(collection.id)
            state = state_of(collection)
            if known is None or known.state != state:
                known = load(collection, state)
                self._loaded[collection.id] = known
            return known

    def _forget_lost(self) -> None:
        """Let go of the collections that are no longer in the store."""
        there = {*self.store.names(), *self.store.shipped()}
        with self._guard:
            for name in set(self._loaded) - there:
                del self._loaded[name]


def _with_place(query: SearchQuery) -> Examples:
    """Return the positive examples with the query's place among them."""
    if query.at is None:
        return query.positive
    return replace(query.positive, places=(query.at, *query.positive.places))


@dataclass(frozen=True)
class _Allowed:
    """Which rows may be returned: a mask where almost all may, else their sorted numbers."""

    mask: NDArray[np.bool_] | None
    rows: NDArray[np.int64] | None
    count: int


def _allowed(
    loaded: Loaded, query: SearchQuery, positive: Resolved, negative: Resolved
) -> _Allowed:
    items = loaded.items
    near = [
        (LonLat(float(items.lon[row]), float(items.lat[row])), query.exclude_m)
        for row in positive.rows.tolist()
    ]
    wanted = replace(query.filter, exclude=(*query.filter.exclude, *near))
    own = np.concatenate([positive.rows, negative.rows])
    if wanted.only_excludes:
        mask = filters.mask(items, wanted)
        mask = np.ones(items.count, bool) if mask is None else mask
        mask[own] = False
        return _Allowed(mask, None, int(mask.sum()))
    rows = filters.rows(items, wanted)
    assert rows is not None
    rows = rows[~np.isin(rows, own)]
    return _Allowed(None, rows, len(rows))


def _search(
    loaded: Loaded, vector: NDArray[np.float32], query: SearchQuery, allowed: _Allowed
) -> Found:
    """Return the best rows; with a spacing, the first that lie so far from all before them."""
    look = partial(loaded.index.search, vector, mask=allowed.mask, rows=allowed.rows)
    if not query.apart_m:
        return look(query.k)
    items, many = loaded.items, query.k * CROWD
    while True:
        found = look(min(many, MAX_K))
        kept = spread(items.lon[found.rows], items.lat[found.rows], query.apart_m, query.k)
        if len(kept) == query.k or many >= min(MAX_K, allowed.count):
            return replace(found, rows=found.rows[kept], cosines=found.cosines[kept])
        many *= CROWD


def _position(collection: Collection, loaded: Loaded, at: LonLat) -> int:
    return int(_locate(collection, loaded, at)["position"][0].as_py())


def _locate(collection: Collection, loaded: Loaded, at: LonLat) -> pa.Table:
    """Return the row (with ``position``) whose footprint contains the place, nearest centre first.

    Raises NoDataAtPlaceError inside a scene, OutsideCoverageError elsewhere; both name the
    nearest chip.
    """
    candidates = loaded.around(at)
    if candidates.num_rows:
        point = shapely.Point(*at.lonlat())
        inside = shapely.intersects(shapely.from_wkb(candidates["geometry"].to_pylist()), point)
        candidates = candidates.filter(pa.array(inside))
    if candidates.num_rows:
        away = distance_m(at, candidates["lon"].to_numpy(), candidates["lat"].to_numpy())
        order = np.lexsort((candidates["position"].to_numpy(), away))
        return candidates.take([order[0]])
    raise _nothing_there(collection, loaded, at)


def _nothing_there(
    collection: Collection, loaded: Loaded, at: LonLat
) -> NoDataAtPlaceError | OutsideCoverageError:
    away = distance_m(at, loaded.items.lon, loaded.items.lat)
    nearest = int(np.argmin(away))
    item = loaded.rows(np.array([nearest]))
    where = f"{at.lon:.5f}, {at.lat:.5f}"
    near = (
        f"The nearest chip is '{item['id'][0].as_py()}', {away[nearest] / 1000:,.2f} km away at "
        f"{loaded.items.lon[nearest]:.5f}, {loaded.items.lat[nearest]:.5f}."
    )
    point = shapely.Point(*at.lonlat())
    if collection.spec.layout is None:
        return OutsideCoverageError(
            f"{where} lies in no cell of collection '{collection.id}'; a collection of land has no "
            f"cells at sea. {near}"
        )
    scenes = [s for s in collection.scenes if shapely.geometry.shape(s.footprint).intersects(point)]
    if scenes:
        reason = min((_why_no_chip(scene, at) for scene in scenes), key=list(_Reason).index)
        what = "data" if reason is _Reason.MASKED else "chip"
        return NoDataAtPlaceError(f"There is no {what} at {where}: {reason.value} {near}")
    return OutsideCoverageError(f"{where} lies outside collection '{collection.id}'. {near}")


class _Reason(Enum):
    """Why a scene has no chip at a place, the most telling first."""

    UNFINISHED = "the scene is not embedded to its end. Run its embed command again."
    MASKED = "the scene is masked there, so no chip was embedded."
    GAP = "it lies between two chips, since the stride is larger than the chip."
    MARGIN = "it lies in the margin of the scene, where no whole chip fits."


def _why_no_chip(scene: Scene, at: LonLat) -> _Reason:
    if scene.grid is None or "transform" not in scene.grid:
        return _Reason.MASKED if scene.complete else _Reason.UNFINISHED
    a, b, c, d, e, f = scene.grid["transform"]
    to_scene = pyproj.Transformer.from_crs("OGC:CRS84", scene.grid["crs"], always_xy=True)
    x, y = to_scene.transform(*at.lonlat())
    col, row = np.linalg.solve([[a, b], [d, e]], [x - c, y - f])
    between = False
    for pixel, chips, side, step in zip(
        (row, col),
        (scene.grid["rows"], scene.grid["cols"]),
        scene.grid["chip_px"],
        scene.grid["stride_px"],
        strict=True,
    ):
        if not 0 <= pixel <= (chips - 1) * step + side:
            return _Reason.MARGIN
        between |= bool(pixel % step > side)
    if between:
        return _Reason.GAP
    return _Reason.MASKED if scene.complete else _Reason.UNFINISHED
