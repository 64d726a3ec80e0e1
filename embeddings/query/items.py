"""Centres and times of all rows, in memory or mapped into it: a filter takes milliseconds."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import CollectionChangedError, CollectionNotFoundError
from embeddings.index.columns import Column
from embeddings.index.rows import (
    BLOCK_ROWS,
    NO_TIME,
    IndexedReader,
    RowFiles,
    block_unions,
    rows_of_blocks,
)
from embeddings.query import expression
from embeddings.sources.areas import Area
from embeddings.spacing import EARTH_RADIUS_M, distance_m
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader
from embeddings.types import Bounds, LonLat, TimeRange

BLOCKS_AT_ONCE = 256
KEPT = 4
"""Expressions whose rows are remembered: the next page and the next click ask the same."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class ItemTable:
    """One state of a collection: ``lon`` and ``lat (count,) float64`` degrees of the centres.

    ``time (count,) int64`` is in microseconds since 1970 in UTC, ``NO_TIME`` where there is none.
    Rows lie along a Hilbert curve, so ``boxes``, the least and largest longitude and latitude of
    each block of rows ``(blocks, 4)``, tell most blocks apart from a small area at once.
    """

    reader: Reader
    lon: NDArray[np.float64] | Column
    lat: NDArray[np.float64] | Column
    time: NDArray[np.int64] | Column
    boxes: NDArray[np.float64]
    _asked: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(cls, reader: Reader) -> ItemTable:
        """Read the columns of a collection: 24 bytes a row, 16 where all have one time."""
        lons, lats, times = [], [], []
        for table in reader.columns(("lon", "lat", "datetime")):
            lons.append(table["lon"].to_numpy())
            lats.append(table["lat"].to_numpy())
            times.append(table["datetime"].cast("int64").fill_null(NO_TIME).to_numpy())
        lon, lat = (np.concatenate([np.empty(0), *axis]) for axis in (lons, lats))
        time = np.concatenate([np.empty(0, np.int64), *times])
        if len(time) and (time == time[0]).all():
            time = np.broadcast_to(time[0], time.shape)
        return cls(reader, lon, lat, time, _boxes(lon, lat))

    @classmethod
    def of_index(cls, reader: Reader, files: RowFiles) -> ItemTable:
        """Take the columns as they lie in the files of an index; nothing is read."""
        return cls(reader, files.lon, files.lat, files.time, files.blocks)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.lon)

    def within(self, bounds: Bounds) -> NDArray[np.int64]:
        """Return the sorted rows whose centre lies in a box, its edges included.

        Only the centres of blocks that lie neither inside nor outside are looked at.
        """
        west, south, east, north = bounds.west_south_east_north()
        low_lon, low_lat, high_lon, high_lat = self.boxes.T
        meets = (high_lat >= south) & (low_lat <= north)
        whole = (low_lat >= south) & (high_lat <= north)
        if bounds.crosses_antimeridian:
            meets &= (high_lon >= west) | (low_lon <= east)
            whole &= (low_lon >= west) | (high_lon <= east)
        else:
            meets &= (high_lon >= west) & (low_lon <= east)
            whole &= (low_lon >= west) & (high_lon <= east)
        blocks = np.flatnonzero(meets)
        rows = rows_of_blocks(blocks, self.count)
        inside = np.repeat(whole[blocks], BLOCK_ROWS)[: len(rows)]
        inside[~inside] = self._are_within(bounds, rows[~inside])
        kept: NDArray[np.int64] = rows[inside]
        return kept

    def _are_within(self, bounds: Bounds, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        west, south, east, north = bounds.west_south_east_north()
        lon, lat = self.lon[rows], self.lat[rows]
        inside = (lat >= south) & (lat <= north)
        if bounds.crosses_antimeridian:
            return np.asarray(inside & ((lon >= west) | (lon <= east)))
        return np.asarray(inside & (lon >= west) & (lon <= east))

    def inside(self, area: Area) -> NDArray[np.int64]:
        """Return the sorted rows whose centre lies in an area."""
        near = self.within(area.bounds)
        return near[area.contains(self.lon[near], self.lat[near])]

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the sorted rows of the items of these ids; those not there are left out.

        Raises CollectionChangedError if the rows are no longer there.
        """
        found = self.reader.find(ids)
        if not isinstance(self.reader, IndexedReader):
            check_unchanged(self.reader.collection)
        return found

    def meeting(self, where: str) -> NDArray[np.int64]:
        """Return the sorted rows that meet an expression. The last answers are kept, read-only.

        Raises InputError if it cannot be read, CollectionChangedError if the rows are no longer
        there.
        """
        known = self._asked.get(where)
        if known is None:
            condition = expression.parse(where, self.reader.collection.spec)
            known = self.reader.matching(condition.sql, condition.values)
            check_unchanged(self.reader.collection)
            known.flags.writeable = False
            with self._lock:
                while len(self._asked) >= KEPT:
                    del self._asked[next(iter(self._asked))]
                self._asked[where] = known
        return known

    def near(self, place: LonLat, metres: float) -> NDArray[np.int64]:
        """Return the sorted rows whose centre lies at most ``metres`` from a place."""
        rows = self.within(_around(place, metres))
        return rows[distance_m(place, self.lon[rows], self.lat[rows]) <= metres]

    def nearest(self, place: LonLat) -> tuple[int, float]:
        """Return the row whose centre is nearest to a place, the first of equals, and its metres.

        Only blocks that may hold it are looked at: no centre lies farther from the middle of its
        block's box than half the box's height and width together.
        """
        west, south, east, north = self.boxes.T
        widest = np.cos(np.radians(np.clip(0.0, south, north)))
        reach = EARTH_RADIUS_M * np.radians(north - south + (east - west) * widest) / 2 + 1e-3
        away = distance_m(place, (west + east) / 2, (south + north) / 2)
        blocks = np.flatnonzero(away - reach <= (away + reach).min())
        best = -1, math.inf
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            rows = rows_of_blocks(blocks[start : start + BLOCKS_AT_ONCE], self.count)
            metres = distance_m(place, self.lon[rows], self.lat[rows])
            least = int(np.argmin(metres))
            if metres[least] < best[1]:
                best = int(rows[least]), float(metres[least])
        return best

    def at_time(self, time: TimeRange, rows: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """Whether these rows (None: all) have a time in a closed range; no time is in none."""
        times = self.time[:] if rows is None else self.time[rows]
        inside = times != NO_TIME
        if time.start is not None:
            inside &= times >= _microseconds(time.start)
        if time.end is not None:
            inside &= times <= _microseconds(time.end)
        return np.asarray(inside)


def check_unchanged(collection: Collection) -> None:
    """Raise CollectionChangedError unless the Parquet files just read are still a collection's.

    Another state may have files of the same names.
    """
    try:
        parts = set(Collection.load(collection.path).parts)
    except CollectionNotFoundError:
        parts = set()
    if not parts.issuperset(collection.parts):
        raise CollectionChangedError(
            f"Collection '{collection.id}' was changed or removed while it was read. Try again."
        )


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def _boxes(lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[np.float64]:
    return block_unions(np.stack([lon, lat, lon, lat], axis=1))


def _around(place: LonLat, metres: float) -> Bounds:
    """Return a box that holds all within a distance: all longitudes where it holds a pole."""
    angle = metres / EARTH_RADIUS_M * (1 + 1e-9) + 1e-12
    degrees = math.degrees(angle)
    south, north = place.lat - degrees, place.lat + degrees
    if south <= -90 or north >= 90:
        return Bounds(-180.0, max(south, -90.0), 180.0, min(north, 90.0))
    wide = math.degrees(math.asin(min(1.0, math.sin(angle) / math.cos(math.radians(place.lat)))))
    wide += 1e-9
    if wide >= 180:
        return Bounds(-180.0, south, 180.0, north)
    west, east = place.lon - wide, place.lon + wide
    return Bounds(west + 360 * (west < -180), south, east - 360 * (east > 180), north)
