"""Reads collections: DuckDB views with bbox and time push-down. The only importer of duckdb.

One in-memory database a reader, one cursor a thread's call; values are bound, never pasted into
SQL. Core DuckDB is enough: nothing is installed or loaded at run time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import codec
from embeddings.errors import ItemNotFoundError, StoreFormatError
from embeddings.store.collection import Collection
from embeddings.store.schema import embedding_matrix, item_columns
from embeddings.types import Bounds, LonLat, TimeRange

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}

_FILE = "terrakin_file"
"""What DuckDB calls the file of a row; no attribute is called so."""

# A Parquet file of another kind lacks the columns, which DuckDB finds when it binds them.
_UNREADABLE = (duckdb.IOException, duckdb.InvalidInputException, duckdb.BinderException)

# A box of the data that crosses the antimeridian has xmin > xmax.
_WEST_EAST = """(CASE WHEN bbox.xmin <= bbox.xmax
                 THEN bbox.xmax >= $west{i} AND bbox.xmin <= $east{i}
                 ELSE bbox.xmax >= $west{i} OR bbox.xmin <= $east{i} END)"""


class Reader:
    """Reads the rows of one collection as it stood when the reader was made. Thread-safe."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._files = [path.as_posix() for path in collection.part_paths]
        self._columns = item_columns(collection.spec)
        self._items = ", ".join(map(_quoted, self._columns))
        self._database = duckdb.connect(":memory:", config=_CONFIG)
        self._database.execute("SET GLOBAL TimeZone = 'UTC'")
        # Geometry stays WKB.
        self._database.execute("SET GLOBAL enable_geoparquet_conversion = false")

    def items(
        self,
        bounds: Bounds | None = None,
        time: TimeRange | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> pa.Table:
        """Return the rows (all columns but the embedding) whose box meets ``bounds``.

        Rows come in file order, so that pages are stable.
        """
        where, values = _conditions(bounds, time)
        query = (
            f"SELECT {self._items} FROM read_parquet($files) WHERE {where} "
            "LIMIT $limit OFFSET $offset"
        )
        return self._table(query, {**values, "limit": limit, "offset": offset})

    def count(self, bounds: Bounds | None = None, time: TimeRange | None = None) -> int:
        """Return how many rows ``items`` would give without a limit."""
        if bounds is None and time is None:
            return self.collection.count
        where, values = _conditions(bounds, time)
        query = f"SELECT count(*) AS n FROM read_parquet($files) WHERE {where}"
        return int(self._table(query, values)["n"][0].as_py()) if self._files else 0

    def item(self, item_id: str) -> pa.Table:
        """Return one row. Raises ItemNotFoundError."""
        query = f"SELECT {self._items} FROM read_parquet($files) WHERE id = $id LIMIT 1"
        table = self._table(query, {"id": item_id})
        if not table.num_rows:
            raise ItemNotFoundError(
                f"Collection '{self.collection.id}' has no item '{item_id}'. "
                "GET its items, or search, to learn the ids."
            )
        return table

    def around(self, place: LonLat) -> pa.Table:
        """Return the rows whose box contains the place, with their row number ``position``."""
        lon, lat = place.lonlat()
        where, values = _conditions(Bounds(lon, lat, lon, lat), None)
        source = f"read_parquet($files, filename = '{_FILE}', file_row_number = true)"
        query = f"SELECT {self._items}, {_FILE}, file_row_number FROM {source} WHERE {where}"
        table = self._table(query, values)
        if not table.num_rows:
            return table
        first = dict(zip(self._files, self._starts(), strict=False))
        position = [
            first[file] + row
            for file, row in zip(
                table[_FILE].to_pylist(), table["file_row_number"].to_pylist(), strict=True
            )
        ]
        return table.drop_columns([_FILE, "file_row_number"]).append_column(
            "position", pa.array(position, pa.int64())
        )

    def rows(self, positions: Sequence[int] | NDArray[np.int64]) -> pa.Table:
        """Return the rows (all columns but the embedding) at these row numbers, in that order."""
        wanted = np.asarray(positions, dtype=np.int64)
        if not len(wanted):
            return self._empty()
        starts = self._starts()
        pieces, found = [], []
        for file, first, last in zip(self._files, starts[:-1], starts[1:], strict=True):
            here = np.flatnonzero((wanted >= first) & (wanted < last))
            if len(here):
                with _reading(file):
                    table = pq.read_table(file, columns=list(self._columns), partitioning=None)
                pieces.append(table.take(wanted[here] - first))
                found.append(here)
        order = np.argsort(np.concatenate(found), kind="stable")
        return pa.concat_tables(pieces).replace_schema_metadata(None).take(order)

    def batches(self, rows: int = 65_536) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
        """Yield (lon and lat columns, vectors ``(n, dim) float32``) over the whole collection."""
        spec = self.collection.spec
        for path in self.collection.part_paths:
            with _reading(path.as_posix()), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=["lon", "lat", "embedding"]):
                    stored = embedding_matrix(batch.column("embedding"))
                    yield batch, codec.decode(stored, spec.dtype, spec.scale)

    def _starts(self) -> list[int]:
        """Return the row number of each file's first row, and the count of all rows."""
        rows = [part.rows for part in self.collection.parts if part.rows]
        return [0, *itertools.accumulate(rows)]

    def _table(self, query: str, values: dict[str, Any]) -> pa.Table:
        if not self._files:
            return self._empty()
        with _reading(self.collection.id):
            cursor = self._database.cursor()
            relation = cursor.sql(query, params={**values, "files": self._files})
            return relation.to_arrow_table()

    def _empty(self) -> pa.Table:
        return pa.table({name: pa.array([], pa.string()) for name in (*self._columns, "position")})


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn the errors of reading Parquet into StoreFormatError."""
    try:
        yield
    except (*_UNREADABLE, OSError, KeyError, pa.ArrowException) as error:
        raise StoreFormatError(
            f"'{what}' could not be read ({_first_line(error)}). It may have been changed while "
            "it was read: try again; then run 'terrakin verify'."
        ) from error


def _quoted(column: str) -> str:
    """Return the name of a column as SQL writes it."""
    return '"' + column.replace('"', '""') + '"'


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


def _conditions(bounds: Bounds | None, time: TimeRange | None) -> tuple[str, dict[str, Any]]:
    conditions = ["true"]
    values: dict[str, Any] = {}
    if bounds is not None:
        west, south, east, north = bounds.west_south_east_north()
        spans = [(west, 180.0), (-180.0, east)] if bounds.crosses_antimeridian else [(west, east)]
        conditions.append("bbox.ymax >= $south AND bbox.ymin <= $north")
        conditions.append(
            "(" + " OR ".join(_WEST_EAST.format(i=i) for i in range(len(spans))) + ")"
        )
        values |= {"south": south, "north": north}
        for i, (low, high) in enumerate(spans):
            values |= {f"west{i}": low, f"east{i}": high}
    if time is not None and time.start is not None:
        conditions.append("datetime >= $start")
        values["start"] = time.start
    if time is not None and time.end is not None:
        conditions.append("datetime <= $end")
        values["end"] = time.end
    return " AND ".join(conditions), values
