"""Location embeddings of a table of points, in input order, with the input's other columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings.atomic import atomic_path, check_space
from embeddings.encoders.location import LocationEncoder
from embeddings.encoders.location_file import SHIPPED, load_location, load_shipped
from embeddings.encoders.satclip import load_satclip
from embeddings.errors import CancelledError, InputError, SourceError, SourceNotFoundError
from embeddings.grid import MajorTomGrid
from embeddings.report import Progress

ROWS_AT_ONCE = 16_384
SHOWN = 5

Floats = NDArray[np.float64]


def location_encoder(name: str) -> LocationEncoder:
    """Return the encoder called "terrakin", "satclip:CKPT" or MODEL.safetensors.

    Raises InputError for another name, or the errors of reading the file.
    """
    kind, _, path = name.partition(":")
    if name == SHIPPED:
        return load_shipped()
    if kind == "satclip" and path:
        return load_satclip(Path(path).expanduser())
    if name.endswith(".safetensors"):
        return load_location(Path(name).expanduser())
    raise InputError(
        f"'{name}' is no location encoder. Use 'terrakin' (shipped), 'satclip:FILE.ckpt', or the "
        "MODEL.safetensors of 'terrakin train location'."
    )


def embed_points(
    points: Path,
    out: Path,
    encoder: LocationEncoder,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> int:
    """Write ``points``' columns and ``embedding`` (fixed-size list of float32) to Parquet.

    ``points`` is CSV or Parquet with columns lon and lat in degrees. Longitudes beyond ±180 are
    wrapped. Returns the number of rows. Raises InputError, naming the first five, if any row is
    no place; nothing is written then.
    """
    if out.suffix.lower() != ".parquet":
        raise InputError(f"'{out.name}' must end in .parquet, the format of the vectors.")
    table = read_points(points)
    if "embedding" in table.column_names:
        raise InputError(f"'{points}' has a column 'embedding' already. Rename or drop it.")
    lon, lat = places(table, points)
    check_space(out, table.num_rows * (4 * encoder.dim + 16))
    kind = pa.list_(pa.float32(), encoder.dim)
    schema = table.schema.append(pa.field("embedding", kind, nullable=False))
    provenance = {"encoder": encoder.name, "weights_sha256": encoder.sha256}
    schema = schema.with_metadata({b"terrakin": json.dumps(provenance).encode()})
    with (
        atomic_path(out) as path,
        pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            if cancelled():
                raise CancelledError("Stopped as asked; no file was written.")
            rows = table.slice(start, ROWS_AT_ONCE)
            here = slice(start, start + ROWS_AT_ONCE)
            vectors = encoder.encode(lon[here], lat[here]).astype(np.float32)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=kind)
            writer.write_table(rows.append_column(schema.field("embedding"), column))
            done = start + rows.num_rows
            progress(Progress(done, table.num_rows, f"{done:,} of {table.num_rows:,} points"))
    return int(table.num_rows)


def name_cells(points: Path, out: Path, km: float, *, official: bool = False) -> int:
    """Write the Major TOM cell of each point as CSV, in input order; return their number.

    Columns: lon, lat, cell, grid_row_u, grid_col_r, sw_lat, sw_lon, utm_epsg. ``official``
    answers south of the first row as ESA's code does. Raises InputError or PlaceError.
    """
    grid = MajorTomGrid(km)
    table = read_points(points)
    lon, lat = places(table, points)
    rows, cols = grid.cells(lon, lat, official_wrap=official)
    west, south = grid.corner(rows, cols)
    cells = pa.table(
        {
            "lon": lon,
            "lat": lat,
            "cell": grid.names(rows, cols).tolist(),
            "grid_row_u": rows,
            "grid_col_r": cols,
            "sw_lat": south,
            "sw_lon": west,
            "utm_epsg": grid.utm_epsg(rows, cols),
        }
    )
    options = pyarrow.csv.WriteOptions(quoting_style="none")
    with atomic_path(out) as path:
        pyarrow.csv.write_csv(cells, path, options)
    return len(lon)


def read_points(path: Path) -> pa.Table:
    """Read a CSV or Parquet table that has columns lon and lat.

    Raises SourceNotFoundError or SourceError.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"There is no file '{path}'. Check the path and its spelling.")
    try:
        table = _read(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"'{path}' cannot be read ({str(error).partition(chr(10))[0]}). Give CSV with a header "
            "line, UTF-8, or Parquet."
        ) from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise SourceError(
            f"'{path}' has more than one column {', '.join(twice)}. Give every column its own name."
        )
    missing = {"lon", "lat"} - set(table.column_names)
    if missing:
        raise SourceError(
            f"'{path}' has no column {' and '.join(sorted(missing))}; it has "
            f"{', '.join(table.column_names)}. Name the columns lon and lat (degrees)."
        )
    return table.replace_schema_metadata(None)


def _read(path: Path) -> pa.Table:
    """Read a table; of CSV, lon and lat are numbers and all else stays the text it is."""
    if path.suffix.lower() == ".parquet":
        return pq.read_table(path, partitioning=None)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    text = {name: pa.string() for name in header if name not in ("lon", "lat")}
    options = pyarrow.csv.ConvertOptions(
        column_types={**text, "lon": pa.float64(), "lat": pa.float64()}
    )
    return pyarrow.csv.read_csv(path, convert_options=options)


def places(table: pa.Table, path: Path) -> tuple[Floats, Floats]:
    """Return lon, lat ``(n,)`` degrees. Raises InputError, naming the first five bad rows."""
    try:
        lon, lat = (
            table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in ("lon", "lat")
        )
    except pa.ArrowException as error:
        raise InputError(
            f"'{path}': lon or lat is not a column of numbers ({str(error).splitlines()[0]})."
        ) from error
    finite = np.isfinite(lon) & np.isfinite(lat)
    bad = ~finite | (np.abs(lat) > 90) | (np.abs(lon) > 540)
    if bad.any():
        raise InputError(_bad_rows(path, lon, lat, bad, finite))
    return lon, lat


def _bad_rows(path: Path, lon: Floats, lat: Floats, bad: Any, finite: Any) -> str:
    rows = np.flatnonzero(bad)
    shown = ", ".join(f"row {row + 1} ({lon[row]:g}, {lat[row]:g})" for row in rows[:SHOWN])
    text = (
        f"'{path}': {len(rows):,} of {len(lon):,} rows are no places: {shown}. Longitude and "
        "latitude are degrees; latitude lies within ±90."
    )
    beyond = finite & (np.abs(lat) > 90)
    if beyond.any() and (np.abs(lon[beyond]) <= 90).all():
        text += " All these latitudes lie beyond 90 and their longitudes within: are the columns "
        text += "swapped?"
    return text
