"""The rows of a collection beside its vectors, mapped into memory: all columns but the embedding.

rows.arrow   an Arrow stream of batches of BATCH_ROWS rows: id, grid_cell, geometry, attributes;
             behind its end the offset of each batch, and that of the end, uint64
places.f64   longitudes, latitudes, boxes of the footprints (west, south, east, north), and for each
             block of BLOCK_ROWS rows the union of its centres and that of its boxes
times.i64    microseconds since 1970, NO_TIME for none, and the least and largest of each block
ids.u64      sorted hashes of the ids, and the row of each

All values are little-endian. Whatever is looked up, only the pages that hold it are read, and
checked when they are read first.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embeddings.errors import StoreFormatError
from embeddings.index.base import Rows
from embeddings.index.columns import Column
from embeddings.index.ids import IdFile, ids_bytes
from embeddings.index.sums import Guard, Sums
from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader
from embeddings.store.schema import BBOX, arrow_schema, item_columns
from embeddings.types import LonLat

ROWS_FILE = "rows.arrow"
PLACES_FILE = "places.f64"
TIMES_FILE = "times.i64"
IDS_FILE = "ids.u64"
ROW_FILES = (ROWS_FILE, PLACES_FILE, TIMES_FILE, IDS_FILE)

BATCH_ROWS = 2048
"""So few that the first look at a row, which checks its batch, reads 0.25 MB as a rule."""
BLOCK_ROWS = 1024
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
NO_TIME = int(np.iinfo(np.int64).min)

_PLACED = ("datetime", "lon", "lat", "bbox")
"""Columns that stand in the other files."""
_PLACES = ((0, 1), (1, 1), (2, 4))
"""Longitudes, latitudes, boxes: how many values a row come before, and how many these are."""
_RESIDENT_BYTES = 2**30
_FAULT_BYTES = 2**16
"""What a single read of a mapped file makes resident at most: Linux maps 16 pages around it."""
_BLOCKS_AT_ONCE = 256
_BATCHES_OPEN = 16_384
"""Those of 33 million rows; each takes some 2 kB."""
_FEW_ROWS = 8
"""So few of a batch are cut out one by one, which costs less than a call of Arrow's ``take``."""
_FEW_IN_ALL = 256
"""So few rows are cut out as they come, not sorted and put in order again."""

Boxes = NDArray[np.float64]


def stored_schema(spec: EmbeddingSpec) -> pa.Schema:
    """Return the columns of ``rows.arrow``."""
    names = [name for name in item_columns(spec) if name not in _PLACED]
    return pa.schema([arrow_schema(spec).field(name) for name in names])


def blocks_of(count: int) -> int:
    """Return how many blocks there are."""
    return -(-count // BLOCK_ROWS)


def block_unions(boxes: Boxes) -> Boxes:
    """Return the union ``(blocks, 4)`` of the boxes ``(n, 4)`` west, south, east, north of a block.

    A block with a box across the antimeridian reaches all around the Earth.
    """
    firsts = np.arange(0, len(boxes), BLOCK_ROWS)
    if not len(boxes):
        return np.empty((0, 4))
    across = boxes[:, 0] > boxes[:, 2]
    west = np.where(across, -180.0, boxes[:, 0])
    east = np.where(across, 180.0, boxes[:, 2])
    low = [np.fmin.reduceat(side, firsts) for side in (west, boxes[:, 1])]
    high = [np.fmax.reduceat(side, firsts) for side in (east, boxes[:, 3])]
    return np.stack([*low, *high], axis=1)


class RowFiles:
    """The files of one index, opened. Opening reads no row. Thread-safe.

    About 1 GiB of them are mapped at most, where the system has ``madvise``. What is opened
    stays what it was when the files are removed or replaced. All that looks something up raises
    IndexDamagedError if what it needs is not as it was written.
    """

    def __init__(
        self, folder: Path, spec: EmbeddingSpec, count: int, sums: Sums | None = None
    ) -> None:
        """Map the files of ``folder``. Raises StoreFormatError if they are not of such rows."""
        self._folder, self._count = folder, count
        self._guards = {
            name: sums.guard(name) if sums else Guard.trusting(folder / name) for name in ROW_FILES
        }
        self._schema = stored_schema(spec)
        self._whole = pa.schema([arrow_schema(spec).field(name) for name in item_columns(spec)])
        self._maps: list[mmap.mmap] = []
        self._touched = 0
        self._lock = threading.Lock()
        blocks = blocks_of(count)
        places = np.frombuffer(self._map(PLACES_FILE, 8 * (6 * count + 8 * blocks)), "<f8")
        guard = self._guards[PLACES_FILE]
        guard.span(48 * count, places.nbytes)
        self.lon = Column(places[:count], guard, 0)
        self.lat = Column(places[count : 2 * count], guard, 8 * count)
        """Degrees ``(count,)`` of the centres."""
        self._boxes = places[2 * count : 6 * count].reshape(count, 4)
        self._sound = np.full(blocks, sums is None)
        """Blocks of which centres, boxes and times were checked."""
        unions = np.array(places[6 * count :].reshape(blocks, 8))
        self.blocks = np.ascontiguousarray(unions[:, :4])
        """West, south, east and north ``(blocks, 4)`` of the centres of each block."""
        self._around = np.ascontiguousarray(unions[:, 4:])
        self._times = self._read_times(blocks)
        one = not self._times.strides[0]
        self.time = self._times if one else Column(self._times, self._guards[TIMES_FILE], 0)
        """Microseconds since 1970 ``(count,)``; of no length in memory if all are the same."""
        self._of_rows = [(PLACES_FILE, 8 * first * count, 8 * wide) for first, wide in _PLACES]
        """File, first byte, and bytes a row of what stands there for each row."""
        if not one:
            self._of_rows.append((TIMES_FILE, 0, 8))
        ids = self._map(IDS_FILE, ids_bytes(count))
        self._ids = IdFile(ids, count, self._guards[IDS_FILE])
        self._batches = pa.py_buffer(self._map(ROWS_FILE, None))
        self._offsets = self._ends()
        self._opened: dict[int, pa.RecordBatch] = {}
        """Batches that were checked: nothing but pointers into the mapped file."""

    def rows(self, positions: Sequence[int] | Rows) -> pa.Table:
        """Return the rows at these row numbers, in that order."""
        wanted = np.asarray(positions, np.int64)
        stored = self._gather_in_order(wanted)
        self._check_blocks(wanted // BLOCK_ROWS)
        times, boxes = self._times[wanted], self._boxes[wanted]
        sides = [_column(side, pa.float64()) for side in boxes.T]
        placed = {
            "datetime": _column(times, pa.timestamp("us", "UTC"), times != NO_TIME),
            "lon": _column(self.lon.values[wanted], pa.float64()),
            "lat": _column(self.lat.values[wanted], pa.float64()),
            "bbox": pa.StructArray.from_arrays(sides, fields=list(BBOX)),
        }
        self._release(len(wanted) * _FAULT_BYTES * (len(placed) + 2 * len(self._schema)))
        columns = [
            placed[name] if name in placed else stored[name].combine_chunks()
            for name in self._whole.names
        ]
        return pa.Table.from_arrays(columns, schema=self._whole)

    def around(self, place: LonLat) -> pa.Table:
        """Return the rows whose box contains the place, with some columns.

        These are ``position``, the row number, ``id``, ``lon``, ``lat`` and ``geometry``.
        """
        lon, lat = place.lonlat()
        west, south, east, north = self._around.T
        meets = (west <= lon) & (lon <= east) & (south <= lat) & (lat <= north)
        blocks = np.flatnonzero(meets)
        found = [np.empty(0, np.int64)]
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
            here = blocks[start : start + _BLOCKS_AT_ONCE]
            self._check_blocks(here)
            rows = rows_of_blocks(here, self._count)
            # In slices: to pick rows one by one takes three times as long.
            firsts = (here * BLOCK_ROWS).tolist()
            boxes = [self._boxes[first : first + BLOCK_ROWS] for first in firsts]
            west, south, east, north = np.concatenate(boxes).T
            after, before = west <= lon, lon <= east
            inside = np.where(west <= east, after & before, after | before)
            found.append(rows[inside & (south <= lat) & (lat <= north)])
        self._release(len(blocks) * BLOCK_ROWS * 32)
        positions = np.concatenate(found)
        stored = self._gather(positions, ["id", "geometry"])
        return pa.table(
            {
                "position": _column(positions, pa.int64()),
                "id": stored["id"],
                "lon": _column(self.lon.values[positions], pa.float64()),
                "lat": _column(self.lat.values[positions], pa.float64()),
                "geometry": stored["geometry"],
            }
        )

    def find(self, ids: Sequence[str]) -> Rows:
        """Return the sorted row numbers of the items of these ids; those not there are left out."""
        asked = pa.array(sorted(set(ids)), pa.string())
        numbers, rows = self._ids.candidates(asked)
        order = np.argsort(rows, kind="stable")
        numbers, rows = numbers[order], rows[order]
        there = self._gather(rows, ["id"])["id"].combine_chunks()
        self._release((len(asked) + len(rows)) * 2 * _FAULT_BYTES)
        same = pc.equal(there, asked.take(_column(numbers, pa.int64())))
        return np.unique(_column(rows, pa.int64()).filter(same).to_numpy())

    def _gather_in_order(self, rows: Rows) -> pa.Table:
        """Return all columns of ``rows.arrow`` at row numbers."""
        if len(rows) <= _FEW_IN_ALL:
            with self._reading():
                pieces = [
                    self._batch(row // BATCH_ROWS).slice(row % BATCH_ROWS, 1)
                    for row in rows.tolist()
                ]
                return pa.Table.from_batches(pieces, self._schema).combine_chunks()
        order = np.argsort(rows, kind="stable")
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return self._gather(rows[order], self._schema.names).take(_column(back, pa.int64()))

    def _gather(self, rows: Rows, names: list[str]) -> pa.Table:
        """Return columns of ``rows.arrow`` at sorted row numbers."""
        batches, firsts = np.unique(rows // BATCH_ROWS, return_index=True)
        schema = pa.schema([self._schema.field(name) for name in names])
        ends = [*firsts.tolist(), len(rows)][1:]
        pieces = []
        with self._reading():
            for number, first, end in zip(batches.tolist(), firsts.tolist(), ends, strict=True):
                here = rows[first:end] - number * BATCH_ROWS
                batch = self._batch(number)
                if len(names) < len(self._schema):
                    batch = batch.select(names)
                if len(here) <= _FEW_ROWS:
                    pieces += [batch.slice(row, 1) for row in here.tolist()]
                else:
                    pieces.append(batch.take(_column(here, pa.int64())))
            return pa.Table.from_batches(pieces, schema).combine_chunks()

    def _batch(self, number: int) -> pa.RecordBatch:
        batch = self._opened.get(number)
        if batch is None:
            low, high = self._offsets[number : number + 2].tolist()
            self._guards[ROWS_FILE].span(low, high)
            batch = pa.ipc.read_record_batch(self._batches.slice(low, high - low), self._schema)
            _check(batch, min(BATCH_ROWS, self._count - number * BATCH_ROWS))
            if len(self._opened) >= _BATCHES_OPEN:
                self._opened.clear()
            self._opened[number] = batch
        return batch

    def _check_blocks(self, blocks: Rows) -> None:
        """Raise IndexDamagedError unless centres, boxes and times of blocks are as written."""
        known = self._sound.take(blocks)
        if np.count_nonzero(known) == len(known):
            return
        fresh = np.unique(blocks[~known])
        for name, start, wide in self._of_rows:
            self._guards[name].spans(start + wide * BLOCK_ROWS * fresh, wide * BLOCK_ROWS)
        self._sound[fresh] = True

    def _read_times(self, blocks: int) -> NDArray[np.int64]:
        count = self._count
        stored = np.frombuffer(self._map(TIMES_FILE, 8 * (count + 2 * blocks)), "<i8")
        self._guards[TIMES_FILE].span(8 * count, stored.nbytes)
        least, largest = stored[count : count + blocks].min(), stored[count + blocks :].max()
        if least == largest:
            return np.broadcast_to(np.int64(least), (count,))
        return stored[:count]

    def _ends(self) -> NDArray[np.uint64]:
        """Return where each batch begins, and the last ends."""
        size, table = self._batches.size, 8 * (-(-self._count // BATCH_ROWS) + 1)
        with self._reading():
            if size < table + len(END_OF_STREAM):
                raise ValueError("it is too short")
            guard = self._guards[ROWS_FILE]
            guard.span(size - table - len(END_OF_STREAM), size)
            ends = np.array(np.frombuffer(self._batches, "<u8", table // 8, size - table))
            if ends[-1] + len(END_OF_STREAM) + table != size or (ends[1:] <= ends[:-1]).any():
                raise ValueError("its offsets are wrong")
            guard.span(0, int(ends[0]))
            schema = pa.ipc.read_schema(self._batches.slice(0, int(ends[0])))
            if not schema.equals(self._schema):
                raise ValueError("it has other columns")
        return ends

    def _map(self, name: str, size: int | None) -> mmap.mmap:
        path = self._folder / name
        with path.open("rb") as file:
            there = path.stat().st_size
            if not there or (size is not None and there != size):
                raise StoreFormatError(
                    f"{path} has {there:,} bytes, which is not what {self._count:,} rows take. "
                    "Build the index again."
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        return mapped

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
            raise StoreFormatError(
                f"{self._folder / ROWS_FILE} cannot be read ({error}). Build the index again."
            ) from error

    def _release(self, touched: int) -> None:
        """Let go of the mapped pages from time to time; they stay in the system's cache."""
        with self._lock:
            self._touched += touched
            if self._touched < _RESIDENT_BYTES:
                return
            self._touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)


def _check(batch: pa.RecordBatch, rows: int) -> None:
    """Raise ValueError or ArrowInvalid unless a batch from a file may be read without a crash."""
    batch.validate()
    if len(batch) != rows:
        raise ValueError(f"a batch has {len(batch)} rows")
    for column in batch.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            _, offsets, content = column.buffers()
            ends = np.frombuffer(offsets, "<i4")[: rows + 1]
            if (
                ends[0] < 0
                or (ends[1:] < ends[:-1]).any()
                or ends[-1] > (content.size if content else 0)
            ):
                raise ValueError("texts end where there are none")


def _column(
    values: NDArray[Any], kind: pa.DataType, valid: NDArray[np.bool_] | None = None
) -> pa.Array:
    """Return values of 8 bytes as an Arrow array; ``pa.array`` would import pandas."""
    content = pa.py_buffer(np.ascontiguousarray(values))
    there = None
    if valid is not None and not valid.all():
        there = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [there, content])


def rows_of_blocks(blocks: Rows, count: int) -> Rows:
    """Return all rows of sorted block numbers, of a collection of ``count`` rows."""
    rows: Rows = (blocks[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
    return rows[: np.searchsorted(rows, count)]


class IndexedReader(Reader):
    """A reader that looks rows up in the files of an index instead of Parquet."""

    def __init__(self, collection: Collection, files: RowFiles) -> None:
        super().__init__(collection)
        self._row_files = files

    def around(self, place: LonLat) -> pa.Table:
        """Return the rows whose box contains the place, as ``RowFiles.around`` does."""
        return self._row_files.around(place)

    def rows(self, positions: Sequence[int] | Rows) -> pa.Table:
        """Return the rows (all columns but the embedding) at these row numbers, in that order."""
        return self._row_files.rows(positions) if len(positions) else super().rows(positions)

    def find(self, ids: Sequence[str]) -> Rows:
        """Return the sorted row numbers of the items of these ids; those not there are left out."""
        return self._row_files.find(ids)
