"""A table of chips cut elsewhere: where each lies, when it was taken, and what else is known.

CSV or Parquet with columns path, lon, lat, and maybe id and datetime; every other column of plain
values is kept as an attribute. All rows are checked before anything is done with them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.places import wrap_lons
from embeddings.sources.chip_images import ImageKind, Stamp, image_kind, sha256_of, stamp_of
from embeddings.store.schema import ATTRIBUTE_TYPES, RESERVED_COLUMNS
from embeddings.types import parse_datetime

SHOWN = 5
MOST_CSV_BYTES = 2**31 - 1
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""Of the years 1 and 9999, since 1970."""

_ROLES = ("path", "lon", "lat", "id", "datetime")
_AS_TEXT = ("path", "lon", "lat", "id", "datetime")
"""Columns of a CSV that are read as they stand, so that a bad row can be named."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChipTable:
    """The rows of a table, checked; everything is in table order."""

    path: Path
    files: tuple[Path, ...]
    ids: tuple[str, ...]
    lon: Floats
    lat: Floats
    times: tuple[datetime | None, ...]
    attributes: pa.Table
    """Columns of the types in ``ATTRIBUTE_TYPES``; the first is ``path``, as the table has it."""
    kinds: tuple[tuple[str, str], ...]
    """Name and type of each attribute."""
    sha256: str
    """Of the table's content."""
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many chips the table lists."""
        return len(self.files)


@dataclass(frozen=True)
class Images:
    """What the images of a table are, and a hash of the content of them all."""

    kind: ImageKind
    sha256: str
    stamps: tuple[Stamp, ...]
    """Of each file, as it was when it was hashed."""


class _Problems:
    """What is wrong with which row; the first reason of each."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._rows = rows
        self._found: dict[int, str] = {}

    def add(self, row: int, text: str) -> None:
        self._found.setdefault(row, text)

    def stop(self) -> None:
        """Raise InputError if there are any."""
        if not self._found:
            return
        shown = "; ".join(f"row {row + 1}: {self._found[row]}" for row in sorted(self._found)[:5])
        raise InputError(
            f"'{self._path}': {len(self._found):,} of {self._rows:,} rows cannot be used; nothing "
            f"was written. {shown}. Rows count from 1 after the header. Correct or remove them."
        )


def read_chip_table(path: Path) -> ChipTable:
    """Read and check a table; the images are not looked at.

    Raises SourceNotFoundError or SourceError for the table, InputError for rows, naming the first
    five and how many there are.
    """
    table, sha256 = _table(path)
    problems = _Problems(path, table.num_rows)
    texts = _texts(table, "path")
    for row, text in enumerate(texts):
        if not text.strip():
            problems.add(row, "it has no path")
    lon, lat = (_numbers(table[name]) for name in ("lon", "lat"))
    _check_places(table, lon, lat, problems)
    ids = _ids(table, texts, problems)
    times = _times(table, problems)
    problems.stop()
    attributes, notes = _attributes(table)
    folder = path.absolute().parent
    return ChipTable(
        path=path,
        files=tuple(folder / text.strip() for text in texts),
        ids=ids,
        lon=wrap_lons(lon),
        lat=lat,
        times=times,
        attributes=attributes,
        kinds=tuple((f.name, _KIND_OF[f.type]) for f in attributes.schema),
        sha256=sha256,
        notes=notes,
    )


def check_images(table: ChipTable, tick: Callable[[int], None] = lambda _: None) -> Images:
    """Open and hash every image; ``tick`` hears how many are done.

    Raises InputError, naming the first five, for images that are not there, cannot be opened, or
    are unlike the first one in size, number of bands or type of number.
    """
    problems = _Problems(table.path, table.rows)
    first: ImageKind | None = None
    digest = hashlib.sha256()
    stamps: list[Stamp] = []
    for row, file in enumerate(table.files):
        if not file.is_file():
            problems.add(row, f"there is no file '{file}'")
            continue
        try:
            stamps.append(stamp_of(file))
            kind = image_kind(file)
            digest.update(f"{file.stat().st_size}:{sha256_of(file)};".encode())
        except SourceError as error:
            problems.add(row, f"'{file}' {error}")
            continue
        if first is None:
            first = kind
        elif unlike := kind.unlike(first):
            problems.add(row, f"'{file}' {unlike}")
        tick(row + 1)
    problems.stop()
    assert first is not None
    return Images(first, digest.hexdigest(), tuple(stamps))


def adapted(table: ChipTable, kinds: Sequence[tuple[str, str]]) -> ChipTable:
    """Give the attributes the order of ``kinds``, and their types where no value changes by it.

    A table whose attributes are others is returned as it is.
    """
    if {name for name, _ in table.kinds} != {name for name, _ in kinds}:
        return table
    columns = {name: table.attributes[name] for name, _ in kinds}
    for name, kind in kinds:
        column, wanted = columns[name], ATTRIBUTE_TYPES[kind]
        if column.null_count == len(column) or (column.type, kind) == (pa.int64(), "float64"):
            columns[name] = column.cast(wanted)
    attributes = pa.table(columns)
    found = tuple((f.name, _KIND_OF[f.type]) for f in attributes.schema)
    return replace(table, attributes=attributes, kinds=found)


def _table(path: Path) -> tuple[pa.Table, str]:
    if not path.is_file():
        raise SourceNotFoundError(f"There is no file '{path}'. Check the path and its spelling.")
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        table = _located(pq.read_table(path, partitioning=None)) if parquet else _read_csv(path)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise SourceError(
            f"'{path}' cannot be read ({str(error).partition(chr(10))[0]}). Give CSV with a header "
            "line, UTF-8, or Parquet."
        ) from error
    twice = [f"'{name}'" for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise SourceError(
            f"'{path}' has more than one column {', '.join(twice)}. Give every column its own name."
        )
    missing = [name for name in ("path", "lon", "lat") if name not in table.column_names]
    if missing:
        raise SourceError(
            f"'{path}' has no column {' and '.join(missing)}; it has "
            f"{', '.join(table.column_names)}. Name the images' column path and their centres' "
            "lon and lat (degrees)."
        )
    if not table.num_rows:
        raise InputError(f"'{path}' lists no chips.")
    return table, sha256


def _read_csv(path: Path) -> pa.Table:
    """Read a CSV, divided by what divides its header: a comma, a semicolon or a tab.

    Types are found over all of it, not only over its beginning. Raises UnicodeError.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        header = next(csv.reader(file, delimiter=delimiter), [])
    text = {name: pa.string() for name in header if name.strip() in _AS_TEXT}
    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(
            block_size=min(path.stat().st_size + 1, MOST_CSV_BYTES)
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(column_types=text),
    )
    for field in table.schema:
        if pa.types.is_binary(field.type):
            raise UnicodeError(f"column '{field.name}' is not UTF-8")
    return table.rename_columns([name.strip() for name in table.column_names])


def _located(table: pa.Table) -> pa.Table:
    """Take lon and lat of a GeoParquet table from its geometries where it has no such columns."""
    geo = json.loads((table.schema.metadata or {}).get(b"geo", b"null"))
    table = table.replace_schema_metadata(None)
    name = geo and geo["primary_column"]
    if not name or name not in table.column_names:
        return table
    if not {"lon", "lat"} & set(table.column_names):
        crs = geo["columns"][name].get("crs", "OGC:CRS84") or "OGC:CRS84"
        points = shapely.centroid(shapely.from_wkb(table[name].to_pylist()))
        to_lonlat = pyproj.Transformer.from_crs(
            pyproj.CRS.from_user_input(crs), "OGC:CRS84", always_xy=True
        )
        lon, lat = to_lonlat.transform(shapely.get_x(points), shapely.get_y(points))
        table = table.append_column("lon", pa.array(lon)).append_column("lat", pa.array(lat))
    covering = geo["columns"][name].get("covering", {}).get("bbox", {}).get("xmin", [""])[0]
    return table.drop_columns([c for c in (name, covering) if c in table.column_names])


def _texts(table: pa.Table, name: str) -> list[str]:
    column = table[name]
    try:
        return ["" if text is None else text for text in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException as error:
        raise SourceError(f"Column {name} holds {column.type}; give text.") from error


def _numbers(column: pa.ChunkedArray) -> Floats:
    """Return a column as numbers; NaN where there is none."""
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException:
        return np.array([_number(value) for value in column.to_pylist()])


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return np.nan


def _check_places(table: pa.Table, lon: Floats, lat: Floats, problems: _Problems) -> None:
    with np.errstate(invalid="ignore"):
        good = np.isfinite(lon) & (np.abs(lat) <= 90) & (np.abs(lon) <= 540)
    for row in np.flatnonzero(~good).tolist():
        values = [table[name][row].as_py() for name in ("lon", "lat")]
        shown = ["" if value is None else str(value) for value in values]
        problems.add(row, f"lon '{shown[0]}' and lat '{shown[1]}' are no place in degrees")


def _ids(table: pa.Table, paths: Sequence[str], problems: _Problems) -> tuple[str, ...]:
    if "id" not in table.column_names:
        return _ids_of_stems(paths)
    ids = [text.strip() for text in _texts(table, "id")]
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name:
            problems.add(row, "it has no id")
        elif name in (".", "..") or re.search(r"[/\\\x00-\x1f]", name):
            problems.add(row, f"its id '{name}' cannot be part of an address; use no slashes")
        elif first.setdefault(name, row) != row:
            problems.add(row, f"row {first[name] + 1} has the id '{name}' too")
    return tuple(ids)


def _ids_of_stems(paths: Sequence[str]) -> tuple[str, ...]:
    """Name chips by their files; with the row's number where several files are named alike."""
    stems = [re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).stem).strip("-.") for path in paths]
    counts = Counter(stems)
    found: dict[str, None] = {}
    for row, stem in enumerate(stems, start=1):
        name = stem if stem and counts[stem] == 1 else f"{stem or 'row'}_{row}"
        while name in found or (name != stem and counts[name]):
            name += "_"
        found[name] = None
    return tuple(found)


def _times(table: pa.Table, problems: _Problems) -> tuple[datetime | None, ...]:
    if "datetime" not in table.column_names:
        return (None,) * int(table.num_rows)
    times: list[datetime | None] = []
    column = table["datetime"]
    if pa.types.is_temporal(column.type):
        return tuple(_timestamps(column, "datetime").to_pylist())
    for row, text in enumerate(_texts(table, "datetime")):
        try:
            times.append(parse_datetime(text.strip()) if text.strip() else None)
        except InputError as error:
            problems.add(row, str(error))
            times.append(None)
    return tuple(times)


def _attributes(table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the columns to keep, under names and of types that a collection may have."""
    columns, notes = {"path": table["path"].cast(pa.string())}, []
    taken = {name.casefold() for name in (*RESERVED_COLUMNS, "path")}
    for number, name in enumerate(table.column_names, start=1):
        if name in _ROLES:
            continue
        column = _plain(table[name], name)
        if column is None:
            notes.append(f"Column '{name}' holds {table[name].type} and was left out.")
            continue
        kept = name.strip() or f"column_{number}"
        while kept.casefold() in taken:
            kept += "_"
        if kept != name:
            notes.append(f"Column '{name}' is kept as '{kept}', since the name is not free.")
        taken.add(kept.casefold())
        columns[kept] = column
    return pa.table(columns), tuple(notes)


def _plain(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray | None:
    """Return a column in one of the types that attributes have; None if it is of no such kind."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type), name)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _timestamps(column, name)
    tests = (
        (pa.types.is_boolean, "bool"),
        (lambda t: pa.types.is_integer(t) and t != pa.uint64(), "int64"),
        (lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t), "float64"),
        (lambda t: t == pa.uint64(), "float64"),
        (_is_text, "string"),
    )
    for test, wanted in tests:
        if test(kind):
            return column.cast(ATTRIBUTE_TYPES[wanted], safe=False)
    return None


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    strings = (types.is_string, types.is_large_string, types.is_string_view)
    return any(test(kind) for test in (*strings, types.is_null, types.is_time))


def _timestamps(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return times in microseconds UTC; those without a zone are taken as UTC.

    Raises SourceError for years that no date of ISO 8601, or of Python, has.
    """
    zone = getattr(column.type, "tz", None)
    seconds = column.cast(pa.timestamp("s", tz=zone), safe=False).cast(pa.int64())
    ends = pc.min_max(seconds).as_py()
    if ends["min"] is not None and not FIRST_SECOND <= ends["min"] <= ends["max"] <= LAST_SECOND:
        raise SourceError(f"Column '{name}' holds times beyond the years 1 to 9999. Correct them.")
    column = column.cast(pa.timestamp("us", tz=zone), safe=False)
    return column.cast(pa.int64()).cast(ATTRIBUTE_TYPES["timestamp"])


_KIND_OF: dict[Any, str] = {kind: name for name, kind in ATTRIBUTE_TYPES.items()}
