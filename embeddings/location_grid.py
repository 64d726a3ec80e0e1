"""Location embeddings of every cell of a Major TOM grid: streamed into a collection, row by row.

A part holds whole rows, south to north and west to east. Parts are made in parallel and recorded
in order; a finished part is not made again, so that a run can be killed and run again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings import codec
from embeddings.atomic import check_space
from embeddings.encoders.location import LocationEncoder
from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    InputError,
    NoDataError,
    SpecMismatchError,
    StorageFullError,
    TerrakinError,
)
from embeddings.grid import MajorTomGrid
from embeddings.land import cells_with_land
from embeddings.report import EmbedReport, Progress, SceneReport
from embeddings.sources.areas import Area
from embeddings.sources.footprints import polygons
from embeddings.spec import Dtype, EmbeddingSpec
from embeddings.store import Collection, Scene, Store
from embeddings.store.layout import COLLECTION_FILE, check_name
from embeddings.store.schema import arrow_schema, embedding_array, row_bytes, rows_per_part
from embeddings.store.writer import CollectionWriter
from embeddings.types import Bounds

CELLS_AT_ONCE = 2048
PART_SHARE = 4
"""Parts are this much smaller than usual, since several are made at once."""
MOST_THREADS = 8
BYTES_ON_DISK = 0.95
"""Bytes on disk for each byte before compression; float16 vectors hardly shrink."""
MEMORY = 1_000_000_000
"""Bytes that the parts being made may take together, beyond the first."""
COPIES = 3
"""How often a part stands in memory while it is made: vectors, table and file."""
MOST_COUNTED = 20_000_000
"""Up to so many cells, those that lie inside are counted before anything is written."""
NO_CELL = (
    "No cell of the grid lies there; nothing was written. Widen the area, or leave out --land."
)


@dataclass(frozen=True, slots=True)
class GridJob:
    """Which cells of which grid to embed, and where to."""

    store: Path
    collection: str
    grid_km: float
    area: Area | None = None
    land: bool = False
    dtype: Dtype = "float16"
    licence: str = "proprietary"
    replace: bool = False


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole rows that become one part."""

    number: int
    rows: NDArray[np.int32]
    cells: int


def embed_grid(
    job: GridJob,
    encoder: LocationEncoder,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> EmbedReport:
    """Embed the cells' centres into a collection, resuming what an earlier run left.

    Raises TerrakinError; StorageFullError before anything is written if the disk is too small.
    """
    check_name(job.collection)
    if job.dtype == "int8":
        raise InputError("Location embeddings are stored as float16 or float32, not int8.")
    run = _GridRun(job, encoder, MajorTomGrid(job.grid_km), progress, cancelled)
    with Store.opened_or_made(job.store) as store:
        return run.into(store)


class _GridRun:
    def __init__(
        self,
        job: GridJob,
        encoder: LocationEncoder,
        grid: MajorTomGrid,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.job = job
        self.encoder = encoder
        self.grid = grid
        self.progress = progress
        self.cancelled = cancelled
        self.spec = _spec(job, encoder)
        self._bounds = job.area.bounds if job.area is not None else None
        self.blocks = list(_blocks(grid, self._bounds, rows_per_part(self.spec) // PART_SHARE))
        self.planned = sum(block.cells for block in self.blocks)
        if not self.planned:
            raise NoDataError(NO_CELL)

    def into(self, store: Store) -> EmbedReport:
        embed = partial(self._embed, store)
        if self.job.replace:
            return store.made_anew(self.job.collection, self._goes_on, embed)
        return embed(store.path / self.job.collection)

    def _goes_on(self, folder: Path) -> bool:
        try:
            self._check(Collection.load(folder), self._scene())
        except TerrakinError:
            return False
        return True

    def _embed(self, store: Store, folder: Path) -> EmbedReport:
        scene = self._scene()
        if (folder / COLLECTION_FILE).exists():
            self._check(Collection.load(folder), scene)
            writer = CollectionWriter.resume(folder)
            self._check_space(folder, writer)
        else:
            self._check_space(folder, None)
            writer = CollectionWriter.begin(folder, self.spec, self.job.licence, lambda _: None)
        writer.begin_scene(scene)
        resumed = writer.scene(scene.id).embedded
        if not writer.scene(scene.id).complete:
            self._write(writer, scene.id)
            writer.finish_scene(scene.id)
        done = writer.scene(scene.id)
        if not done.embedded:
            store.discard(folder)
            raise NoDataError(NO_CELL)
        return EmbedReport(self.job.collection, (SceneReport.of(done, resumed),))

    def _check(self, collection: Collection, scene: Scene) -> None:
        differences = collection.spec.differences(self.spec)
        if differences:
            raise SpecMismatchError(
                f"Collection '{collection.id}' has another spec: {'; '.join(differences)}. Use "
                "another --collection, or make it anew with --replace."
            )
        known = collection.scene(scene.id)
        if known is None or known.fingerprint != scene.fingerprint:
            raise CollectionExistsError(
                f"Collection '{collection.id}' holds other cells of this grid. Use another "
                "--collection, or make it anew with --replace."
            )

    def _check_space(self, folder: Path, writer: CollectionWriter | None) -> None:
        """Raise StorageFullError if what is still to be written does not fit."""
        parts = writer.scene(self._scene().id).parts if writer is not None else ()
        # Parts are recorded in order.
        todo = self.blocks[len(parts) :]
        cells = sum(block.cells for block in todo)
        some = self.job.land or (self.job.area is not None and self.job.area.polygons is not None)
        counted = not some or cells <= MOST_COUNTED
        if some and counted:
            cells = sum(self._count(block) for block in todo)
        try:
            check_space(folder, int(cells * row_bytes(self.spec) * BYTES_ON_DISK))
        except StorageFullError as error:
            if counted:
                raise
            raise StorageFullError(
                f"{error} This is at most what it takes: the {cells:,} cells are too many to "
                "count first which of them lie inside the area or on land."
            ) from None

    def _count(self, block: _Block) -> int:
        self._stop_if_asked()
        return len(self._cells(block)[0])

    def _threads(self) -> int:
        part = COPIES * max(block.cells for block in self.blocks) * row_bytes(self.spec)
        return min(os.cpu_count() or 1, MOST_THREADS, max(1, MEMORY // part))

    def _write(self, writer: CollectionWriter, scene_id: str) -> None:
        done = 0
        waiting: deque[tuple[_Block, Future[Any]]] = deque()
        todo = iter(self.blocks)
        threads = self._threads()
        with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
            while True:
                # One part more than there are threads is kept ready, so memory stays bounded.
                while len(waiting) <= threads and (block := next(todo, None)) is not None:
                    if writer.is_published(scene_id, block.number):
                        done += block.cells
                    else:
                        make = pool.submit(self._make, writer, scene_id, block)
                        waiting.append((block, make))
                if not waiting:
                    return
                block, made = waiting.popleft()
                writer.record_part(scene_id, made.result(), block.cells)
                done += block.cells
                self.progress(Progress(done, self.planned, f"{done:,} of {self.planned:,} cells"))

    def _make(self, writer: CollectionWriter, scene_id: str, block: _Block) -> Any:
        self._stop_if_asked()
        return writer.write_part(scene_id, block.number, self._table(block))

    def _stop_if_asked(self) -> None:
        if self.cancelled():
            raise CancelledError(
                "Stopped as asked. What was finished is kept; the same command goes on from there."
            )

    def _table(self, block: _Block) -> pa.Table:
        rows, cols = self._cells(block)
        lon, lat = self.grid.centre(rows, cols)
        names = pa.array(self.grid.names(rows, cols).tolist() if len(rows) else [], pa.string())
        west, south, east, north = self.grid.footprint(rows, cols)
        boxes = pa.StructArray.from_arrays(
            [west, south, east, north], names=["xmin", "ymin", "xmax", "ymax"]
        )
        columns = {
            "id": names,
            "grid_cell": names,
            "datetime": pa.nulls(len(rows), pa.timestamp("us", tz="UTC")),
            "lon": lon,
            "lat": lat,
            "bbox": boxes,
            "geometry": pa.array(_footprints(west, south, east, north), pa.binary()),
            "embedding": embedding_array(self._vectors(rows, lon, lat)),
        }
        return pa.table(columns).cast(arrow_schema(self.spec))

    def _cells(self, block: _Block) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        found = [_row_cells(self.grid, int(row), self._bounds) for row in block.rows]
        rows = np.concatenate(
            [np.full(len(c), r, np.int32) for r, c in zip(block.rows, found, strict=True)]
        )
        cols = np.concatenate(found)
        keep = np.ones(len(rows), dtype=bool)
        if self.job.area is not None and len(rows):
            keep &= self.job.area.contains(*self.grid.centre(rows, cols))
        if self.job.land and len(rows):
            keep &= cells_with_land(self.grid, rows, cols)
        return rows[keep], cols[keep]

    def _vectors(
        self, rows: NDArray[np.int32], lon: NDArray[np.float64], lat: NDArray[np.float64]
    ) -> NDArray[Any]:
        dtype: Any = np.float16 if self.job.dtype == "float16" else np.float32
        out = np.empty((len(rows), self.encoder.dim), dtype=dtype)
        if not len(rows):
            return out
        firsts = np.flatnonzero(np.r_[True, np.diff(rows) != 0])
        folded = self.encoder.fold(lat[firsts])
        for row, start, end in zip(folded, firsts, [*firsts[1:], len(rows)], strict=True):
            for at in range(int(start), int(end), CELLS_AT_ONCE):
                here = slice(at, min(at + CELLS_AT_ONCE, int(end)))
                vectors = self.encoder.encode_row(row, lon[here])
                out[here] = codec.encode(vectors, self.job.dtype)
        return out

    def _scene(self) -> Scene:
        area = self.job.area
        identity = [self.encoder.sha256, self.job.grid_km, area and area.fingerprint, self.job.land]
        bounds = area.bounds if area else Bounds(-180.0, -90.0, 180.0, 90.0)
        south = max(bounds.south, self.grid.south_limit)
        north = min(bounds.north, self.grid.north_limit)
        box = Area.of_box(Bounds(bounds.west, south, bounds.east, north))
        return Scene(
            id=f"grid-{self.job.grid_km:g}km",
            fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
            files=(),
            datetime=None,
            footprint=json.loads(shapely.to_geojson(box.outline)),
            bbox=box.bounds.west_south_east_north(),
            planned=self.planned,
            absent=0,
            complete=False,
            parts=(),
            notes=("land cells only",) if self.job.land else (),
        )


def _spec(job: GridJob, encoder: LocationEncoder) -> EmbeddingSpec:
    return EmbeddingSpec(
        product=f"{encoder.name} locations",
        model=encoder.name,
        model_version="1",
        weights_sha256=encoder.sha256,
        dim=encoder.dim,
        dtype=job.dtype,
        scale=None,
        norm="none",
        bands=(),
        gsd_m=job.grid_km * 1000,
        layout=None,
        grid_km=job.grid_km,
        preprocessing=None,
        source="longitude and latitude",
        licence=job.licence,
    )


def _blocks(grid: MajorTomGrid, bounds: Bounds | None, most: int) -> Iterator[_Block]:
    """Group consecutive rows so that a block plans at most ``most`` cells (or is one row)."""
    rows: list[int] = []
    cells = number = 0
    every = _rows(grid, bounds)
    for row, count in zip(every.tolist(), _planned(grid, every, bounds), strict=True):
        if not count:
            continue
        if rows and cells + count > most:
            yield _Block(number, np.array(rows, np.int32), cells)
            rows, cells, number = [], 0, number + 1
        rows.append(row)
        cells += count
    if rows:
        yield _Block(number, np.array(rows, np.int32), cells)


def _rows(grid: MajorTomGrid, bounds: Bounds | None) -> NDArray[np.int32]:
    """Return the rows that may have centres between the latitudes of the bounds."""
    first, last = grid.first_row, grid.last_row
    if bounds is not None:
        lowest = np.nextafter(grid.south_limit, 90.0)
        if bounds.north < lowest:
            return np.empty(0, np.int32)
        ends, _ = grid.cells(np.zeros(2), np.array([max(bounds.south, lowest), bounds.north]))
        first, last = int(ends[0]), int(ends[1])
    return np.arange(first, last + 1, dtype=np.int32)


def _planned(grid: MajorTomGrid, rows: NDArray[np.int32], bounds: Bounds | None) -> list[int]:
    if bounds is None:
        return [int(count) for count in grid.columns(rows)[1]]
    return [len(_row_cells(grid, row, bounds)) for row in rows.tolist()]


def _row_cells(grid: MajorTomGrid, row: int, bounds: Bounds | None) -> NDArray[np.int32]:
    """Return the columns of a row whose centres lie within the bounds."""
    first, count = (int(value) for value in grid.columns(row))
    cols = np.arange(first, first + count, dtype=np.int32)
    if bounds is None:
        return cols
    _, lat = grid.centre(row, first)
    west, south, east, north = bounds.west_south_east_north()
    if not south <= lat <= north:
        return cols[:0]
    _, ends = grid.cells(np.array([west, east]), np.full(2, lat))
    if not west > east and ends[0] < ends[1]:
        # The centres of a fine grid's whole row would take long; these columns may lie inside.
        cols = cols[int(ends[0]) - first : int(ends[1]) - first + 1]
    lon, _ = grid.centre(np.full(len(cols), row, np.int32), cols)
    inside = (lon >= west) | (lon <= east) if west > east else (lon >= west) & (lon <= east)
    return cols[inside]


def _footprints(west: Any, south: Any, east: Any, north: Any) -> Any:
    crossing = east < west
    shapes = shapely.box(west, south, np.where(crossing, east + 360.0, east), north)
    for i in np.flatnonzero(crossing):
        lon = np.array([[west[i], east[i], east[i], west[i]]])
        lat = np.array([[south[i], south[i], north[i], north[i]]])
        shapes[i] = polygons(lon, lat)[0][0]
    return shapely.to_wkb(shapes, byte_order=1)
