"""The chips of a collection by their dates: where each lies, and which had no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from embeddings.spacing import EARTH_RADIUS_M
from embeddings.store.collection import Collection, Scene
from embeddings.store.layout import COVERAGE_FOLDER
from embeddings.store.reader import Reader
from embeddings.types import parse_datetime

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_TIME = np.iinfo(np.int64).min
SAME_PLACE = 0.1
"""Chips of two dates whose centres are apart by less than this share of a step are one place."""
SAMPLED = 2000


@dataclass(frozen=True, eq=False)
class Chips:
    """Chips of a collection, in the order of its rows, absent ones after them.

    ``row (n,)``: row numbers; of chips known to have no data, -1 for the first of them, -2 for the
    second ...; ``scene (n,)`` positions in the collection's scenes;
    ``time (n,)`` microseconds since 1970, or NO_TIME; ``lon``, ``lat`` ``(n,)`` degrees. ``side``
    is the usual smaller side of a chip in metres.
    """

    collection: Collection
    row: Ints
    scene: Ints
    time: Ints
    lon: Doubles
    lat: Doubles
    side: float

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """Read where and when all chips are, without their vectors. Raises StoreFormatError."""
        rows, absent = list(_rows(collection)), list(_absent(collection))
        count, gaps = (sum(table.num_rows for _, table in each) for each in (rows, absent))
        both = [*rows, *absent]
        lon, lat = (
            np.concatenate([np.empty(0), *(table[name].to_numpy() for _, table in both)])
            for name in ("lon", "lat")
        )
        return cls(
            collection,
            np.concatenate([np.arange(count), -1 - np.arange(gaps)]),
            np.concatenate(
                [np.empty(0, np.int64), *(np.full(table.num_rows, n) for n, table in both)]
            ),
            np.concatenate([np.empty(0, np.int64), *(_times(table) for _, table in both)]),
            lon,
            lat,
            min((_side(table) for _, table in both if table.num_rows), default=np.inf),
        )

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: NDArray[Any]) -> Chips:
        """Return some of the chips: positions or a mask."""
        names = ("row", "scene", "time", "lon", "lat")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which of them have a vector."""
        return np.asarray(self.row >= 0)

    @property
    def xyz(self) -> Doubles:
        """Where they lie in space, ``(n, 3)`` metres."""
        return points(self.lon, self.lat)

    @property
    def days(self) -> list[datetime]:
        """The days of chips that have a vector, from the first on."""
        times = self.time[self.present & (self.time != NO_TIME)]
        return [EPOCH + timedelta(days=int(day)) for day in np.unique(times // DAY_US)]

    def on(self, day: datetime) -> Chips:
        """Return the chips of one day, one a place."""
        here = np.flatnonzero(self.time // DAY_US == (day - EPOCH).days)
        return self._first_of_each(here, np.zeros(len(here), np.int64))

    def near(self, when: datetime, days: float, other: datetime | None = None) -> Chips:
        """Return the chips nearest to a time: one a place, none farther than so many days.

        Those that are nearer to the ``other`` time belong to that one.
        """
        known = np.flatnonzero(self.time != NO_TIME)
        away = np.abs(self.time[known] - _us(when))
        own = away <= days * DAY_US
        if other is not None:
            own &= away <= np.abs(self.time[known] - _us(other))
        return self._first_of_each(known[own], away[own])

    def _first_of_each(self, known: Ints, away: Ints) -> Chips:
        # A vector of the same day stands before the gap of another scene.
        chosen = known[np.lexsort((known, ~self.present[known], away // DAY_US))]
        xyz = points(self.lon[chosen], self.lat[chosen])
        return self.take(np.sort(chosen[first_of_each(xyz, self.reach(xyz))]))

    def reach(self, xyz: Doubles) -> float:
        """Return how far apart two centres of one place may lie, in metres."""
        return SAME_PLACE * min(self.side, _spacing(xyz))


def points(lon: Doubles, lat: Doubles) -> Doubles:
    """Return places in degrees as ``(n, 3)`` metres in space."""
    a, b = np.radians(lon), np.radians(lat)
    return EARTH_RADIUS_M * np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], 1)


def first_of_each(xyz: Doubles, reach: float) -> Ints:
    """Return the positions of the first chip of each place."""
    if len(xyz) < 2:
        return np.arange(len(xyz))
    pairs = cKDTree(xyz).query_pairs(reach, output_type="ndarray")
    first = np.ones(len(xyz), bool)
    first[pairs.max(axis=1)] = False
    return np.flatnonzero(first)


def _spacing(xyz: Doubles) -> float:
    """Return the usual distance to the next centre that is no copy of this one."""
    if len(xyz) < 2:
        return np.inf
    some = xyz[:: max(1, len(xyz) // SAMPLED)]
    away, _ = cKDTree(xyz).query(some, k=min(len(xyz), 16))
    away = np.where(away > 0.5, away, np.inf).min(axis=1)
    away = away[np.isfinite(away)]
    return float(np.median(away)) if len(away) else np.inf


def _rows(collection: Collection) -> Iterator[tuple[int, pa.Table]]:
    """Yield the rows part by part, with the number of their scene."""
    read = Reader(collection).columns(["datetime", "lon", "lat", "bbox"])
    for number, scene in enumerate(collection.scenes):
        for part in scene.parts:
            if part.rows:
                yield number, next(read)


def _absent(collection: Collection) -> Iterator[tuple[int, pa.Table]]:
    """Yield the absent chips part by part, with the number and the time of their scene."""
    for number, scene in enumerate(collection.scenes):
        for part in scene.parts:
            file = collection.path / COVERAGE_FOLDER / Path(part.file).name
            if file.is_file():
                table = pq.read_table(file).replace_schema_metadata(None)
                yield number, table.append_column(*_scene_time(scene, table))


def items(chips: Chips) -> pa.Table:
    """Return ``id``, ``lon``, ``lat``, ``bbox`` and ``geometry`` of chips, absent ones too."""
    names = ["id", "lon", "lat", "bbox", "geometry"]
    there = chips.present
    pieces = [Reader(chips.collection).rows(chips.row[there]).select(names)]
    if not there.all():
        absent = pa.concat_tables([table.select(names) for _, table in _absent(chips.collection)])
        pieces.append(absent.take(-1 - chips.row[~there]))
    order = np.argsort(np.concatenate([np.flatnonzero(there), np.flatnonzero(~there)]))
    return pa.concat_tables([each for each in pieces if each.num_rows]).take(order)


def _scene_time(scene: Scene, table: pa.Table) -> tuple[str, pa.Array]:
    kind = pa.timestamp("us", tz="UTC")
    when = None if scene.datetime is None else parse_datetime(scene.datetime)
    return "datetime", pa.array([when] * table.num_rows, kind)


def _times(table: pa.Table) -> Ints:
    stamps = table["datetime"].cast(pa.int64())
    return np.asarray(pc.fill_null(stamps, NO_TIME).to_numpy())


def _side(table: pa.Table) -> float:
    """Return the usual smaller side of chips in metres, of a sample."""
    some = table.slice(0, SAMPLED)
    box = some["bbox"].combine_chunks()
    west, south, east, north = (
        box.field(side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")
    )
    wide = np.where(east < west, east - west + 360, east - west)
    wide = wide * np.cos(np.radians((south + north) / 2))
    return float(np.median(np.minimum(wide, north - south))) * np.pi / 180 * EARTH_RADIUS_M


def _us(when: datetime) -> int:
    return (when - EPOCH) // timedelta(microseconds=1)
