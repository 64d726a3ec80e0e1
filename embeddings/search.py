"""A place, and the places that are like it: locate, scan, fetch."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

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
from embeddings.index.base import Index
from embeddings.index.exact import ExactIndex
from embeddings.store import Collection, Scene, Store
from embeddings.store.reader import Reader
from embeddings.types import LonLat

MAX_K = 10_000
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (IUGG); distances are great circles on this sphere."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Find the ``k`` chips most like the one at ``at``.

    Chips whose centre lies within ``exclude_m`` metres of the query chip's centre are left out,
    and always the query chip itself. Raises InputError.
    """

    at: LonLat
    k: int = 10
    exclude_m: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise InputError(f"k is {self.k}; it may be 1 to {MAX_K:,}.")
        if not 0 <= self.exclude_m < float("inf"):
            raise InputError(f"The exclusion radius is {self.exclude_m}; give 0 metres or more.")


@dataclass(frozen=True)
class SearchResult:
    """The kin of a place.

    ``matches`` has the item columns in the order of rank, ``similarity`` the cosines ``(m,)
    float32``; ``query_item`` is the query's own row; ``matched`` counts the rows that could have
    been returned, ``considered`` those compared; ``seconds`` the time by stage.
    """

    collection: Collection
    query: SearchQuery
    query_item: pa.Table
    matches: pa.Table
    similarity: NDArray[np.float32]
    matched: int
    considered: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Loaded:
    """One state of a collection, ready to be searched."""

    state: str
    reader: Reader
    index: Index
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]


class Searcher:
    """Searches the collections of a store; keeps their indexes. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._loaded: dict[str, _Loaded] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def search(self, name: str, query: SearchQuery) -> SearchResult:
        """Return the places most like the one asked for.

        Raises CollectionNotFoundError, OutsideCoverageError, NoDataAtPlaceError or StoreError.
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
        item = _locate(collection, loaded, query.at)
        position = int(item["position"][0].as_py())
        clock.append(time.perf_counter())
        place = LonLat(loaded.lon[position], loaded.lat[position])
        # Without a radius, another date at the same centre is a match.
        away = distance_m(place, loaded.lon, loaded.lat)
        mask = (away > query.exclude_m) | (query.exclude_m == 0)
        mask[position] = False
        rows, similarity = loaded.index.search(loaded.index.vector(position), query.k, mask)
        clock.append(time.perf_counter())
        matches = loaded.reader.rows(rows)
        clock.append(time.perf_counter())
        stages = ("open", "locate", "scan", "fetch")
        seconds = {stage: clock[i + 1] - clock[i] for i, stage in enumerate(stages)}
        return SearchResult(
            collection,
            query,
            item.drop_columns("position"),
            matches,
            similarity,
            int(mask.sum()),
            loaded.index.count,
            seconds,
        )

    def _load(self, collection: Collection) -> _Loaded:
        with self._guard:
            lock = self._locks[collection.id]
        # Others wait only for the collection that they search themselves.
        with lock:
            known = self._loaded.get(collection.id)
            if known is None or known.state != collection.state:
                known = _load(collection)
                self._loaded[collection.id] = known
            return known

    def _forget_lost(self) -> None:
        """Let go of the collections that are no longer in the store."""
        there = {*self.store.names(), *self.store.shipped()}
        with self._guard:
            for name in set(self._loaded) - there:
                del self._loaded[name]


def _load(collection: Collection) -> _Loaded:
    reader = Reader(collection)
    spec = collection.spec
    offset = np.asarray(spec.centre, dtype=np.float32) if spec.centre is not None else None
    centres: list[Any] = []

    def vectors() -> Iterator[NDArray[np.float32]]:
        for batch, values in reader.batches():
            centres.append((batch.column("lon").to_numpy(), batch.column("lat").to_numpy()))
            yield values if offset is None else values - offset

    index = ExactIndex(vectors(), collection.count, spec.dim)
    lon, lat = (np.concatenate(axis) for axis in zip(*centres, strict=True))
    return _Loaded(collection.state, reader, index, lon, lat)


def _locate(collection: Collection, loaded: _Loaded, at: LonLat) -> pa.Table:
    """Return the row (with ``position``) whose footprint contains the place, nearest centre first.

    Raises NoDataAtPlaceError inside a scene, OutsideCoverageError elsewhere; both name the
    nearest chip.
    """
    candidates = loaded.reader.around(at)
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
    collection: Collection, loaded: _Loaded, at: LonLat
) -> NoDataAtPlaceError | OutsideCoverageError:
    away = distance_m(at, loaded.lon, loaded.lat)
    nearest = int(np.argmin(away))
    item = loaded.reader.rows([nearest])
    where = f"{at.lon:.5f}, {at.lat:.5f}"
    near = (
        f"The nearest chip is '{item['id'][0].as_py()}', {away[nearest] / 1000:,.2f} km away at "
        f"{loaded.lon[nearest]:.5f}, {loaded.lat[nearest]:.5f}."
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


def distance_m(
    place: LonLat, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return great-circle distances in metres to points ``(n,)`` in degrees (haversine)."""
    lat1, lat2 = np.radians(place.lat), np.radians(lat)
    half_lon = np.radians(lon - place.lon) / 2
    a = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin(half_lon) ** 2
    return np.asarray(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(a, 1.0))))
