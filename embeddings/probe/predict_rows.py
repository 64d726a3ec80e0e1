"""The rows of a collection that are asked for, scored row group by row group in bounded memory."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.errors import CancelledError, InputError, StoreFormatError
from embeddings.probe.predict_scores import BLOCK_ROWS, Scored, Scorer
from embeddings.sources.areas import Area
from embeddings.store.collection import Collection, Scene
from embeddings.store.schema import embedding_matrix
from embeddings.types import Bounds, TimeRange, parse_datetime

MOST_THREADS = 4
READ_BYTES = 2**20

Tell = Callable[[int], None]
"""Called with the rows that are done, whether they were asked for or not."""


@dataclass(frozen=True)
class Wanted:
    """Which rows: those whose centre lies in the area and whose time in the range, of scenes."""

    within: Area | None = None
    time: TimeRange | None = None
    scenes: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether rows without a time are left out."""
        return self.time is not None and bool(self.time.start or self.time.end)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Neighbouring rows of one scene: the columns asked for, and what is said of them."""

    scene: Scene
    rows: pa.Table
    scored: Scored
    left_out: int
    """Rows asked for whose vector holds a value that is not a number; they are not among these."""


@dataclass(frozen=True)
class _Group:
    scene: Scene
    path: Path
    number: int
    rows: int


class Rows:
    """The row groups of a collection that may hold rows asked for. Making it reads no vector."""

    def __init__(
        self, collection: Collection, wanted: Wanted, *, oldest_first: bool = False
    ) -> None:
        """Find them. Raises InputError for a scene that is not there, or StoreFormatError."""
        self._collection = collection
        self._wanted = wanted
        scenes = _scenes(collection, wanted.scenes)
        if oldest_first:
            scenes = sorted(scenes, key=_time_key)
        self._groups = [
            group
            for scene in scenes
            for part in scene.parts
            if part.rows
            for group in self._groups_of(scene, collection.path / part.file, part.rows)
        ]

    @property
    def count(self) -> int:
        """How many rows will be looked at."""
        return sum(group.rows for group in self._groups)

    @property
    def scenes(self) -> list[Scene]:
        """The scenes that may hold rows asked for, in the order in which they come."""
        return list({group.scene.id: group.scene for group in self._groups}.values())

    @property
    def geometry_types(self) -> set[str]:
        """The types of the footprints in the files of these row groups."""
        found: set[str] = set()
        for path in dict.fromkeys(group.path for group in self._groups):
            with reading(path):
                found |= set(geo_of(path)["columns"]["geometry"]["geometry_types"])
        return found

    def scored(
        self,
        scorer: Scorer,
        columns: Sequence[str],
        tell: Tell = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Chunk]:
        """Yield the rows with what is said of them, always in the same order and pieces.

        Raises CancelledError or StoreFormatError.
        """
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        todo, done = iter(self._groups), 0
        waiting: deque[tuple[_Group, Future[Chunk | None]]] = deque()
        with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
            try:
                while True:
                    # One more than there are threads is kept ready, so memory stays bounded.
                    while len(waiting) <= threads and (group := next(todo, None)) is not None:
                        made = pool.submit(self._score, group, scorer, columns)
                        waiting.append((group, made))
                    if not waiting:
                        return
                    if cancelled():
                        raise CancelledError("Stopped as asked. Nothing was written.")
                    group, made = waiting.popleft()
                    chunk = made.result()
                    if chunk is not None:
                        yield chunk
                    done += group.rows
                    tell(done)
            finally:
                for _, made in waiting:
                    made.cancel()

    def _groups_of(self, scene: Scene, path: Path, rows: int) -> Iterator[_Group]:
        with reading(path):
            meta = pq.read_metadata(path)
        if meta.num_rows != rows:
            raise StoreFormatError(
                f"{path.name} of collection '{self._collection.id}' has {meta.num_rows:,} rows "
                f"instead of {rows:,}. Run 'terrakin verify'."
            )
        for number in range(meta.num_row_groups):
            group = meta.row_group(number)
            if self._may_hold(group):
                yield _Group(scene, path, number, group.num_rows)

    def _may_hold(self, group: Any) -> bool:
        """Whether the statistics of a row group leave room for a row asked for."""
        wanted = self._wanted
        if wanted.within is None and not wanted.timed:
            return True
        limits = {
            column.path_in_schema: column.statistics
            for column in map(group.column, range(group.num_columns))
            if column.is_stats_set
        }
        return _meets_area(limits, wanted.within) and _meets_time(
            limits.get("datetime"), wanted.time, group.num_rows
        )

    def _score(self, group: _Group, scorer: Scorer, columns: Sequence[str]) -> Chunk | None:
        with reading(group.path), pq.ParquetFile(group.path, buffer_size=READ_BYTES) as file:
            keep = self._keep(file, group)
            if keep is not None and not keep.any():
                return None
            # Apart from the vectors, which would take more time beside other columns.
            table = file.read_row_group(group.number, columns=list(columns), use_threads=False)
            scored = self._score_vectors(file, group, scorer, keep)
        asked = group.rows if keep is None else int(keep.sum())
        good = scored.there if keep is None else scored.there & keep
        table = table.select(list(columns)).replace_schema_metadata(None)
        if not good.all():
            table, scored = table.filter(pa.array(good)), scored.take(good)
        return Chunk(group.scene, table, scored, asked - table.num_rows)

    def _score_vectors(
        self, file: Any, group: _Group, scorer: Scorer, keep: NDArray[np.bool_] | None
    ) -> Scored:
        """Score the vectors of a row group in small batches, so that they stay in the cache."""
        pieces, start, dim = [], 0, self._collection.spec.dim
        for batch in file.iter_batches(
            BLOCK_ROWS, row_groups=[group.number], columns=["embedding"], use_threads=False
        ):
            stored = embedding_matrix(batch.column("embedding"))
            if stored.shape[1] != dim:
                raise KeyError(f"vectors of {stored.shape[1]} instead of {dim} dimensions")
            here = None if keep is None else keep[start : start + len(stored)]
            start += len(stored)
            pieces.append(scorer.score(stored, here))
        return Scored.joined(pieces)

    def _keep(self, file: Any, group: _Group) -> NDArray[np.bool_] | None:
        """Return which rows of a row group are asked for, None for all."""
        wanted = self._wanted
        if wanted.within is None and not wanted.timed:
            return None
        table = file.read_row_group(
            group.number, columns=["lon", "lat", "datetime"], use_threads=False
        )
        keep = np.ones(group.rows, bool)
        if wanted.within is not None:
            keep &= inside(wanted.within, table["lon"].to_numpy(), table["lat"].to_numpy())
        if wanted.time is not None and wanted.timed:
            times = table["datetime"]
            if wanted.time.start is not None:
                keep &= _true(pc.greater_equal(times, pa.scalar(wanted.time.start, times.type)))
            if wanted.time.end is not None:
                keep &= _true(pc.less_equal(times, pa.scalar(wanted.time.end, times.type)))
        return keep


def inside(area: Area, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether places ``(n,)`` in degrees lie in an area."""
    west, south, east, north = area.bounds.west_south_east_north()
    if area.bounds.crosses_antimeridian:
        keep = (lon >= west) | (lon <= east)
    else:
        keep = (lon >= west) & (lon <= east)
    keep &= (lat >= south) & (lat <= north)
    keep[keep] = area.contains(lon[keep], lat[keep])
    return np.asarray(keep)


def _true(column: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column, False).to_numpy(), bool)


def _scenes(collection: Collection, names: tuple[str, ...]) -> list[Scene]:
    unknown = [name for name in names if collection.scene(name) is None]
    if unknown:
        there = ", ".join(scene.id for scene in collection.scenes[:10])
        raise InputError(
            f"Collection '{collection.id}' has no scene '{unknown[0]}'. Its scenes are {there}"
            f"{' ...' if len(collection.scenes) > 10 else '.'}"
        )
    return [scene for scene in collection.scenes if not names or scene.id in names]


def _time_key(scene: Scene) -> tuple[bool, float]:
    """Scenes without a time come first, then from the oldest on."""
    if scene.datetime is None:
        return False, 0.0
    return True, parse_datetime(scene.datetime).timestamp()


def _meets_area(limits: dict[str, Any], area: Area | None) -> bool:
    lon, lat = (limits.get(name) for name in ("lon", "lat"))
    if area is None or lon is None or lat is None or not (lon.has_min_max and lat.has_min_max):
        return True
    box: Bounds = area.bounds
    if lat.max < box.south or lat.min > box.north:
        return False
    if box.crosses_antimeridian:
        return bool(lon.max >= box.west or lon.min <= box.east)
    return bool(lon.max >= box.west and lon.min <= box.east)


def _meets_time(times: Any, time: TimeRange | None, rows: int) -> bool:
    if time is None or times is None:
        return True
    if not times.has_min_max:
        # A row without a time lies in no range.
        return not (times.has_null_count and times.null_count == rows)
    return not (
        (time.start is not None and times.max < time.start)
        or (time.end is not None and times.min > time.end)
    )


def geo_of(path: Path) -> dict[str, Any]:
    """Return the GeoParquet metadata of a part."""
    return dict(json.loads(pq.read_metadata(path).metadata[b"geo"]))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of reading a part into StoreFormatError."""
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreFormatError(
            f"'{path}' could not be read ({error}). It may have been changed while it was read: "
            "try again; then run 'terrakin verify'."
        ) from error
