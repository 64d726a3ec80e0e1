"""One state of a collection: what a search needs of it, kept from click to click."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.index.base import Index
from embeddings.index.exact import ExactIndex
from embeddings.index.files import finished_folders
from embeddings.index.open import NONE_REFUSED, examine_index
from embeddings.index.rows import IndexedReader
from embeddings.index.sums import IndexDamagedError, Sums
from embeddings.query.calibration import Scale
from embeddings.query.examples import Background, background
from embeddings.query.items import ItemTable, check_unchanged
from embeddings.store import Collection
from embeddings.store.reader import Reader
from embeddings.store.schema import item_columns
from embeddings.types import LonLat

IN_MEMORY_BYTES = 8 * 2**30
"""Larger collections are not read into memory; they need an index."""
MOST_ROWS_HELD = 2_000_000
"""Of larger collections without an index, rows are read from Parquet when they are needed."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """One state of a collection, ready to be searched.

    ``sums`` checks the files of its index, None without one; ``notes`` say why there is none.
    """

    state: str
    reader: Reader
    index: Index
    items: ItemTable
    sums: Sums | None = None
    notes: tuple[str, ...] = ()

    @property
    def damage(self) -> IndexDamagedError | None:
        """The damage that a search has found in the index, which is not to be used any more."""
        return None if self.sums is None else self.sums.damage

    @cached_property
    def table(self) -> pa.Table | None:
        """All columns but the embedding, of collections without an index that fit into memory."""
        if isinstance(self.reader, IndexedReader) or self.items.count > MOST_ROWS_HELD:
            return None
        columns = item_columns(self.reader.collection.spec)
        parts = [part.replace_schema_metadata(None) for part in self.reader.columns(columns)]
        return pa.concat_tables(parts).combine_chunks() if parts else None

    def rows(self, positions: NDArray[np.int64]) -> pa.Table:
        """Return rows by their numbers, in that order."""
        if self.table is None or not len(positions):
            return self._read(self.reader.rows(positions))
        return self.table.take(positions)

    @cached_property
    def boxes(self) -> tuple[NDArray[np.float64], ...]:
        """West, south, east and north ``(count,)`` of the footprints; west > east over ±180."""
        assert self.table is not None
        box = self.table["bbox"].combine_chunks()
        box = box.chunk(0) if isinstance(box, pa.ChunkedArray) else box
        return tuple(box.field(side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax"))

    def around(self, at: LonLat) -> pa.Table:
        """Return the rows whose box contains a place, with some columns.

        These are ``position``, the row number, ``id``, ``lon``, ``lat`` and ``geometry``.
        """
        if self.table is None:
            return self._read(self.reader.around(at))
        west, south, east, north = self.boxes
        lon, lat = at.lonlat()
        after, before = west <= lon, lon <= east
        inside = np.where(west <= east, after & before, after | before)
        positions = np.flatnonzero(inside & (south <= lat) & (lat <= north))
        placed = self.table.select(["id", "lon", "lat", "geometry"]).take(positions)
        return placed.add_column(0, "position", pa.array(positions))

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the sorted row numbers of the items of these ids; those not there are left out."""
        return self.items.find(ids)

    def _read(self, rows: pa.Table) -> pa.Table:
        """Return rows just read. Raises CollectionChangedError if they may be of another state."""
        if not isinstance(self.reader, IndexedReader):
            check_unchanged(self.reader.collection)
        return rows

    @cached_property
    def sample(self) -> NDArray[np.float32]:
        """Unit vectors of a seeded sample of the rows."""
        return background(self.index.count, self.index.vectors)

    @cached_property
    def pairs(self) -> Scale:
        """How alike random pairs of places are."""
        return Scale.of_pairs(self.sample)

    @cached_property
    def background(self) -> Background:
        """What the collection's vectors are like as a whole."""
        return Background.of(self.sample)


def state_of(collection: Collection, refused: Mapping[Path, str] = NONE_REFUSED) -> str:
    """Return what changes with the rows, and with a new index of them or one no longer used."""
    folders = finished_folders(collection)
    return f"{collection.state} {[each.name for each in folders if each not in refused]}"


def load(collection: Collection, state: str, refused: Mapping[Path, str] = NONE_REFUSED) -> Loaded:
    """Open a collection's index, or make one in memory; ``refused`` are those not to be opened.

    Raises InputError if it is too large for that, CollectionChangedError if it is replaced
    meanwhile.
    """
    opened = examine_index(collection, refused)
    if opened.index is not None and opened.rows is not None:
        reader = IndexedReader(collection, opened.rows)
        items = ItemTable.of_index(reader, opened.rows)
        return Loaded(state, reader, opened.index, items, opened.sums)
    notes: tuple[str, ...] = ()
    if finished_folders(collection):
        notes = (
            f"The index of '{collection.id}' cannot be used: {opened.reason} Until then its rows "
            f"are compared one by one. Run: terrakin index --collection {collection.id}",
        )
    plain = Reader(collection)
    index = _in_memory(collection, plain, opened.reason)
    loaded = Loaded(state, plain, index, ItemTable.load(plain), notes=notes)
    _ = loaded.table
    check_unchanged(collection)
    return loaded


def _in_memory(collection: Collection, reader: Reader, reason: str) -> ExactIndex:
    spec = collection.spec
    if 4 * spec.dim * collection.count > IN_MEMORY_BYTES:
        raise InputError(
            f"Collection '{collection.id}' is too large to be compared in memory and has no index "
            f"of its present rows that can be used. {reason} Run 'terrakin index --collection "
            f"{collection.id}' first."
        )
    offset = np.asarray(spec.centre, dtype=np.float32) if spec.centre is not None else None

    def vectors() -> Iterator[NDArray[np.float32]]:
        for _, values in reader.batches():
            yield values if offset is None else values - offset

    return ExactIndex(vectors(), collection.count, spec.dim)
