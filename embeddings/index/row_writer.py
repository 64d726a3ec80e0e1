"""Writes the rows of a collection beside its vectors, batch by batch; ``rows`` says into what."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings.atomic import write_text, writing_to
from embeddings.errors import StoreFormatError
from embeddings.index.ids import hashes_of, ids_bytes
from embeddings.index.rows import (
    BATCH_ROWS,
    BLOCK_ROWS,
    END_OF_STREAM,
    NO_TIME,
    PLACES_FILE,
    ROWS_FILE,
    TIMES_FILE,
    block_unions,
    blocks_of,
    stored_schema,
)
from embeddings.store.collection import Collection, Part
from embeddings.store.schema import SIDES, item_columns

HASHES_FILE = "hashes.u64"
"""The hashes of the ids in the order of the rows; only while an index is built."""
KEPT_FILE = "rows.json"
KEEP_SECONDS = 5.0
PIECE_ROWS = 8 * BATCH_ROWS
"""So many rows are taken at a time: several batches of ``rows.arrow``, several blocks."""
_SAMPLE_ROWS = 1024


class RowWriter:
    """Writes the files from the first row to the last, and remembers how far it came."""

    def __init__(self, collection: Collection, folder: Path) -> None:
        self._collection = collection
        self._folder = folder
        self._count = collection.count
        self._schema = stored_schema(collection.spec)
        self._offsets: list[int] = []
        """Where each batch of ``rows.arrow`` begins, and where the next will."""
        self._files: dict[str, Any] = {}

    def write(self, check: Callable[[int], None]) -> None:
        """Write what is missing. ``check(rows done)`` may raise to stop; what is whole is kept.

        Raises StoreFormatError, StorageFullError or StoreNotWritableError.
        """
        with writing_to(self._folder), ExitStack() as stack:
            if self._begin(stack):
                return
            kept = time.monotonic()
            try:
                for piece in self._pieces((len(self._offsets) - 1) * BATCH_ROWS):
                    self._write_piece(piece)
                    if time.monotonic() - kept > KEEP_SECONDS:
                        self._keep()
                        kept = time.monotonic()
                    check(min((len(self._offsets) - 1) * BATCH_ROWS, self._count))
                file = self._files[ROWS_FILE]
                file.write(END_OF_STREAM + np.array(self._offsets, "<u8").tobytes())
            finally:
                self._keep()

    def _begin(self, stack: ExitStack) -> bool:
        """Open the files, those of an earlier run where it ended. Return whether all is written."""
        sizes = {
            PLACES_FILE: 8 * (6 * self._count + 8 * blocks_of(self._count)),
            TIMES_FILE: 8 * (self._count + 2 * blocks_of(self._count)),
            HASHES_FILE: 8 * self._count,
        }
        self._offsets = self._known(sizes)
        mode = "rb+" if self._offsets else "wb+"
        for name in (ROWS_FILE, *sizes):
            self._files[name] = stack.enter_context((self._folder / name).open(mode))
        rows = self._files[ROWS_FILE]
        if not self._offsets:
            for name, size in sizes.items():
                self._files[name].truncate(size)
            self._offsets = [rows.write(self._schema.serialize())]
        batches = -(-self._count // BATCH_ROWS)
        tail = len(END_OF_STREAM) + 8 * len(self._offsets)
        whole = len(self._offsets) == batches + 1
        if whole and rows.seek(0, os.SEEK_END) == self._offsets[-1] + tail:
            return True
        rows.truncate(self._offsets[-1])
        rows.seek(0, os.SEEK_END)
        return False

    def _known(self, sizes: dict[str, int]) -> list[int]:
        """Return the offsets that an earlier run noted; none if the files are not those."""
        try:
            known = json.loads((self._folder / KEPT_FILE).read_text(encoding="utf-8"))
            offsets = [int(each) for each in known["offsets"]]
            there = {name: (self._folder / name).stat().st_size for name in (ROWS_FILE, *sizes)}
            if there.pop(ROWS_FILE) >= offsets[-1] and there == sizes:
                return offsets
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            pass  # There is none, or it was not written to its end.
        (self._folder / KEPT_FILE).unlink(missing_ok=True)
        return []

    def _keep(self) -> None:
        """Note how far it came, once that is safely on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_text(self._folder / KEPT_FILE, json.dumps({"offsets": self._offsets}) + "\n")

    def _pieces(self, first: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows from number ``first`` on, PIECE_ROWS at a time."""
        held: list[pa.RecordBatch] = []
        many = 0
        for batch in self._batches(first):
            held.append(batch)
            many += len(batch)
            while many >= PIECE_ROWS:
                table = pa.Table.from_batches(held)
                yield _one(table.slice(0, PIECE_ROWS))
                held = table.slice(PIECE_ROWS).to_batches()
                many -= PIECE_ROWS
        if many:
            yield _one(pa.Table.from_batches(held))

    def _batches(self, first: int) -> Iterator[pa.RecordBatch]:
        start = 0
        for part in self._collection.parts:
            if part.rows and start + part.rows > first:
                yield from item_batches(self._collection, part, max(first - start, 0))
            start += part.rows

    def _write_piece(self, piece: pa.RecordBatch) -> None:
        """Write the rows that follow those written, into all files."""
        first = (len(self._offsets) - 1) * BATCH_ROWS
        block, count, blocks = first // BLOCK_ROWS, self._count, blocks_of(self._count)
        lon, lat = (piece.column(name).to_numpy() for name in ("lon", "lat"))
        sides = piece.column("bbox")
        boxes = np.stack([sides.field(side).to_numpy() for side in SIDES], axis=1)
        centres = np.stack([lon, lat, lon, lat], axis=1)
        unions = np.concatenate([block_unions(centres), block_unions(boxes)], axis=1)
        self._put(PLACES_FILE, first, lon)
        self._put(PLACES_FILE, count + first, lat)
        self._put(PLACES_FILE, 2 * count + 4 * first, boxes)
        self._put(PLACES_FILE, 6 * count + 8 * block, unions)
        times = piece.column("datetime").view(pa.int64()).fill_null(NO_TIME).to_numpy()
        firsts = np.arange(0, len(times), BLOCK_ROWS)
        self._put(TIMES_FILE, first, times)
        self._put(TIMES_FILE, count + block, np.minimum.reduceat(times, firsts))
        self._put(TIMES_FILE, count + blocks + block, np.maximum.reduceat(times, firsts))
        self._put(HASHES_FILE, first, hashes_of(piece.column("id")))
        stored = piece.select(self._schema.names).cast(self._schema)
        for start in range(0, len(stored), BATCH_ROWS):
            batch = stored.slice(start, BATCH_ROWS).serialize()
            self._offsets.append(self._offsets[-1] + self._files[ROWS_FILE].write(batch))

    def _put(self, name: str, place: int, values: NDArray[Any]) -> None:
        """Write 8-byte values from the ``place``-th of a file on."""
        file = self._files[name]
        file.seek(8 * place)
        file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def rows_bytes(collection: Collection) -> int:
    """Estimate what the files take while they are written, from the first rows."""
    count = collection.count
    part = next(part for part in collection.parts if part.rows)
    sample = next(item_batches(collection, part, 0)).slice(0, _SAMPLE_ROWS)
    stored = _one(pa.Table.from_batches([sample.select(stored_schema(collection.spec).names)]))
    return count * int(stored.nbytes) // len(sample) + 65 * count + ids_bytes(count)


def item_batches(collection: Collection, part: Part, first: int) -> Iterator[pa.RecordBatch]:
    """Yield all columns but the embedding of the rows of a part, from its row ``first`` on.

    Raises StoreFormatError if it cannot be read, or has other rows than recorded.
    """
    names = item_columns(collection.spec)
    rows = 0
    try:
        with pq.ParquetFile(collection.path / part.file) as file:
            for batch in file.iter_batches(PIECE_ROWS, columns=list(names)):
                skipped = min(max(first - rows, 0), len(batch))
                rows += len(batch)
                if skipped < len(batch) and rows <= part.rows:
                    yield batch.select(names).slice(skipped).replace_schema_metadata(None)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreFormatError(
            f"{part.file} of collection '{collection.id}' could not be read ({error}). It may "
            "have been changed while it was read: try again; then run 'terrakin verify'."
        ) from error
    if rows != part.rows:
        raise StoreFormatError(
            f"{part.file} of collection '{collection.id}' has {rows:,} rows instead of "
            f"{part.rows:,}. Run 'terrakin verify'."
        )


def _one(table: pa.Table) -> pa.RecordBatch:
    """Return a table as one batch that shares no buffer with what it was cut from."""
    (batch,) = table.combine_chunks().to_batches()
    return batch
