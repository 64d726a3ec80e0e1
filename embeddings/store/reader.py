"""Reads collections: DuckDB views with bbox and time push-down. The only importer of duckdb.

One in-memory database a reader, one cursor a thread's call; values are bound, never pasted into
SQL. Core DuckDB is enough: nothing is installed or loaded at run time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import codec
from embeddings.errors import InputError, ItemNotFoundError, StoreFormatError
from embeddings.store.collection import Collection
from embeddings.store.schema import embedding_matrix, item_columns
from embeddings.types import Bounds, LonLat, TimeRange

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}

_FILE = "terrakin_file"
_PLACED = "id, lon, lat, geometry"
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
        self._items = ", ".join(map(quoted, self._columns))
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
        """Return the rows whose box contains the place, with some columns.

        These are ``position``, the row number, ``id``, ``lon``, ``lat`` and ``geometry``.
        """
        lon, lat = place.lonlat()
        where, values = _conditions(Bounds(lon, lat, lon, lat), None)
        source = f"read_parquet($files, filename = '{_FILE}', file_row_number = true)"
        query = f"SELECT {_PLACED}, {_FILE}, file_row_number FROM {source} WHERE {where}"
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
        return table.drop_columns([_FILE, "file_row_number"]).add_column(
            0, "position", pa.array(position, pa.int64())
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

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows, a part at a time, in the order of the rows."""
        for file in self._files:
            with _reading(file):
                yield pq.read_table(file, columns=list(names), partitioning=None)

    def vectors(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors ``(m, dim) float32`` at these row numbers, in that order.

        Only the row groups that hold one are read.
        """
        wanted = np.asarray(positions, dtype=np.int64)
        spec, starts = self.collection.spec, self._starts()
        out = np.empty((len(wanted), spec.dim), np.float32)
        for path, first, last in zip(self._files, starts[:-1], starts[1:], strict=True):
            here = np.flatnonzero((wanted >= first) & (wanted < last))
            if len(here):
                with _reading(path):
                    stored = _embeddings(path, wanted[here] - first)
                out[here] = codec.decode(stored, spec.dtype, spec.scale)
        return out

    def matching(self, condition: str, values: dict[str, Any]) -> NDArray[np.int64]:
        """Return the sorted row numbers that meet a condition on the columns.

        ``condition`` is SQL made by ``embeddings.query.expression``, its ``values`` by name.
        """
        source = f"read_parquet($files, filename = '{_FILE}', file_row_number = true)"
        query = (
            f"SELECT {_FILE}, list(file_row_number) AS numbers FROM {source} WHERE {condition} "
            f"GROUP BY {_FILE}"
        )
        table = self._table(query, values)
        if not table.num_rows:
            return np.empty(0, np.int64)
        first = dict(zip(self._files, self._starts(), strict=False))
        numbers = table["numbers"].combine_chunks()
        starts = np.repeat([first[f] for f in table[_FILE].to_pylist()], numbers.value_lengths())
        return np.sort(numbers.flatten().to_numpy(zero_copy_only=False) + starts).astype(np.int64)

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the sorted row numbers of the items of these ids; those not there are left out."""
        if not ids:
            return np.empty(0, np.int64)
        return self.matching("id IN (SELECT unnest($ids))", {"ids": list(ids)})

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


class Sandbox:
    """A database that sees some files, through views, and nothing else of the machine.

    It opens no other file, no network address and no extension, writes nothing, and its settings
    are locked. Views over files that cannot be read are left out.
    """

    def __init__(self, views: dict[str, str], files: Sequence[str], memory_mb: int) -> None:
        """Make the views, SQL by name; their ``files`` are absolute paths."""
        self._database = duckdb.connect(":memory:", config=_CONFIG)
        allowed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        for setting in (
            f"allowed_paths = [{allowed}]",
            f"memory_limit = '{memory_mb}MB'",
            "temp_directory = ''",
            "TimeZone = 'UTC'",
            "enable_geoparquet_conversion = false",
            "enable_external_access = false",
        ):
            self._database.execute(f"SET GLOBAL {setting}")
        # Else a name that is no table could be an object of this process.
        self._database.execute("SET python_enable_replacements = false")
        self._views: list[str] = []
        for name, statement in views.items():
            with suppress(*_UNREADABLE):
                self._database.execute(statement)
                self._views.append(name)
        self._database.execute("SET lock_configuration = true")
        self._stopped = False

    def select(self, text: str, rows: int) -> pa.RecordBatchReader:
        """Begin one SELECT. Raises InputError for anything else, and for what DuckDB refuses."""
        with self._refusing():
            statements = self._database.extract_statements(text)
            if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
                raise InputError(
                    "A query is one SELECT, WITH ... SELECT, DESCRIBE or SHOW TABLES; nothing "
                    "that writes, sets or loads, and no second statement."
                )
            return self._database.sql(statements[0]).to_arrow_reader(rows)

    def batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query. Raises TimeoutError if it was interrupted, or InputError."""
        with self._refusing():
            yield from reader

    def interrupt(self) -> None:
        """Stop the query, from another thread."""
        self._stopped = True
        self._database.interrupt()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if self._stopped:
                raise TimeoutError from error
            text = str(error).strip().split("\n\n", maxsplit=1)[0]
            there = ", ".join(self._views) or "none"
            raise InputError(
                f"The query was refused: {text} Tables are the collections: {there}."
            ) from error


def _embeddings(file: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the stored vectors at some rows of one file, in that order."""
    with pq.ParquetFile(file) as parquet:
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        needed = np.unique(groups)
        # The rows of the groups left out come before some of those read.
        skipped = np.cumsum(np.where(np.isin(np.arange(len(sizes)), needed), 0, sizes))
        table = parquet.read_row_groups(needed.tolist(), columns=["embedding"])
        stored: NDArray[Any] = embedding_matrix(table["embedding"])
        return np.asarray(stored[rows - skipped[groups]])


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


def quoted(column: str) -> str:
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
