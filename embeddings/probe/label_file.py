"""A vector file or a table of points as GDAL and pyarrow read it: geometries, fields, CRS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

from embeddings.errors import InputError, SourceError, SourceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEGREES = "OGC:CRS84"
LONGITUDES = ("lon", "longitude", "long", "lng")
LATITUDES = ("lat", "latitude")
PARQUET = (".parquet", ".geoparquet")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


class NotVectorError(SourceError):
    """GDAL knows no vector format of this kind; it may be a raster."""


@dataclass(frozen=True, eq=False)
class LabelFile:
    """What a file holds, as it stands there. ``geometry (n,)`` shapely, None where there is none.

    ``ids (n,) int64`` are those of the file's features, or the row's number from 1 in tables.
    """

    path: Path
    layer: str
    crs: pyproj.CRS
    geometry: NDArray[Any]
    ids: NDArray[np.int64]
    columns: dict[str, pa.Array]
    unreadable: NDArray[np.bool_]
    """``(n,)``: there is a geometry, but it cannot be read."""


def read_file(path: Path, layer: str | None, fields: Sequence[str], crs: str | None) -> LabelFile:
    """Read the geometries and some fields of a layer.

    ``crs`` is for layers that have none. Raises SourceNotFoundError, SourceError, InputError, or
    NotVectorError for what GDAL knows no vector format of.
    """
    if not path.exists():
        raise SourceNotFoundError(f"There is no file '{path}'. Check the path and its spelling.")
    name = path.name.lower()
    with _reading(path):
        if name.endswith(PARQUET):
            return _parquet(path, fields, crs)
        if name.endswith(CSV):
            table = _csv(path)
            if _lonlat_of(table.column_names) is not None:
                return _points(path, table, fields, crs)
    return _vector(path, layer, fields, crs)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, KeyError) as error:
        raise SourceError(
            f"'{path}' cannot be read ({str(error).partition(chr(10))[0]}). Give a vector file "
            "that GDAL reads, GeoParquet, CSV with a header line, lon and lat, or a raster "
            "of classes."
        ) from error


def _vector(path: Path, layer: str | None, fields: Sequence[str], crs: str | None) -> LabelFile:
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = pyogrio.list_layers(path)
    except DataSourceError as error:
        raise NotVectorError(f"'{path}' is not a file that GDAL reads: {error}.") from error
    more = {"AUTODETECT_TYPE": "YES"} if path.name.lower().endswith(CSV) else {}
    try:
        chosen = _layer(path, layers, layer)
        known = list(pyogrio.read_info(path, layer=chosen, **more)["fields"])
        check_fields(path, fields, known)
        meta, table = pyogrio.raw.read_arrow(
            path, layer=chosen, columns=list(fields), return_fids=True, **more
        )
    except (DataSourceError, DataLayerError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"Layer '{layer or ''}' of '{path}' cannot be read: {error}.") from error
    geometry, unreadable = _shapes(table[meta["geometry_name"] or "wkb_geometry"])
    return LabelFile(
        path,
        chosen,
        _crs(path, meta["crs"], crs),
        geometry,
        table[meta["fid_column"] or "OGC_FID"].to_numpy().astype(np.int64),
        {name: _whole(table[name]) for name in fields},
        unreadable,
    )


def _layer(path: Path, layers: NDArray[Any], wanted: str | None) -> str:
    """Choose a layer: the one named, or the only one that has geometries."""
    names = [str(name) for name, _ in layers]
    located = [str(name) for name, kind in layers if kind is not None]
    if wanted is not None:
        if wanted not in names:
            raise InputError(
                f"'{path}' has no layer '{wanted}'. Its layers are {_listed(names)}. Give one of "
                "them with --layer."
            )
        if wanted not in located:
            raise InputError(f"Layer '{wanted}' of '{path}' is a table without geometries.")
        return wanted
    if len(located) != 1:
        raise InputError(
            f"'{path}' has {len(located)} layers with geometries ({_listed(located)}). Say which "
            "holds the labels with --layer."
            if located
            else f"'{path}' has no layer with geometries. Give points, lines or polygons, or a "
            "table with columns lon and lat in degrees."
        )
    return located[0]


def check_fields(path: Path, fields: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError, which lists the fields there are, if one of ``fields`` is not known."""
    for name in fields:
        if name not in known:
            near = [each for each in known if each.casefold() == name.casefold()]
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise InputError(
                f"'{path}' has no field '{name}'.{hint} Its fields are {_listed(known)}."
            )


def _parquet(path: Path, fields: Sequence[str], crs: str | None) -> LabelFile:
    schema = pq.read_schema(path)
    geo = json.loads((schema.metadata or {}).get(b"geo", b"null"))
    name = geo and geo["primary_column"]
    if not name:
        lonlat = _lonlat_of(schema.names)
        if lonlat is None:
            raise SourceError(
                f"'{path}' has neither geometries (GeoParquet) nor columns lon and lat; its "
                f"columns are {_listed(schema.names)}."
            )
        check_fields(path, fields, schema.names)
        wanted = list(dict.fromkeys([*lonlat, *fields]))
        return _points(path, pq.read_table(path, columns=wanted, partitioning=None), fields, crs)
    if geo["columns"][name].get("encoding") != "WKB":
        raise SourceError(f"The geometries of '{path}' are not WKB. Write it again with WKB.")
    check_fields(path, fields, [each for each in schema.names if each != name])
    table = pq.read_table(path, columns=list(dict.fromkeys([name, *fields])), partitioning=None)
    geometry, unreadable = _shapes(table[name])
    own = geo["columns"][name].get("crs", DEGREES)
    return LabelFile(
        path,
        path.stem,
        _crs(path, own, crs),
        geometry,
        np.arange(1, len(geometry) + 1),
        {each: _whole(table[each]) for each in fields},
        unreadable,
    )


def _csv(path: Path) -> pa.Table:
    """Read a CSV, divided by what divides its header: a comma, a semicolon or a tab."""
    with pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(65_536).decode("utf-8-sig", errors="replace").partition("\n")[0]
    table = pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(delimiter=max(",;\t", key=head.count)),
        # Types are found in the first block; a text further down must not be an error.
        read_options=pyarrow.csv.ReadOptions(block_size=2**28),
    )
    return table.rename_columns([name.strip() for name in table.column_names])


def _lonlat_of(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the columns of longitude and latitude, whatever their case; None if not both."""
    folded = {name.casefold(): name for name in names}
    lon = next((folded[name] for name in LONGITUDES if name in folded), None)
    lat = next((folded[name] for name in LATITUDES if name in folded), None)
    return (lon, lat) if lon is not None and lat is not None else None


def _points(path: Path, table: pa.Table, fields: Sequence[str], crs: str | None) -> LabelFile:
    check_fields(path, fields, table.column_names)
    lonlat = _lonlat_of(table.column_names)
    assert lonlat is not None
    lon, lat = (_numbers(path, table[name], name) for name in lonlat)
    there = ~(np.isnan(lon) | np.isnan(lat))
    geometry = np.full(len(lon), None, dtype=object)
    geometry[there] = shapely.points(lon[there], lat[there])
    return LabelFile(
        path,
        path.name.partition(".")[0],
        pyproj.CRS(DEGREES) if crs is None else named_crs(crs),
        geometry,
        np.arange(1, len(lon) + 1),
        {name: _whole(table[name]) for name in fields},
        np.zeros(len(lon), bool),
    )


def _numbers(path: Path, column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException as error:
        raise SourceError(
            f"Column '{name}' of '{path}' does not hold degrees ({error})."
        ) from error


def _shapes(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return 2D geometries, None where there is none, and which cannot be read."""
    wkb = column.to_numpy() if isinstance(column, pa.ChunkedArray) else np.asarray(column)
    shapes = shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore"))
    return shapes, shapely.is_missing(shapes) & ~np.asarray(pc.is_null(column))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _crs(path: Path, own: Any, given: str | None) -> pyproj.CRS:
    """Return the CRS of a file, or the one given for a file that has none."""
    if own is None:
        if given is None:
            raise SourceError(
                f"'{path}' has no CRS, so that nobody knows where its labels lie. Set it in the "
                "file, for example with ogr2ogr -a_srs EPSG:32618, or for probe fit with "
                "--labels-crs EPSG:32618."
            )
        return named_crs(given)
    try:
        known = pyproj.CRS.from_user_input(own)
    except CRSError as error:
        raise SourceError(f"The CRS of '{path}' is not one that PROJ knows ({error}).") from error
    if given is not None and not known.equals(named_crs(given), ignore_axis_order=True):
        raise InputError(
            f"'{path}' has the CRS {known.name}, but --labels-crs says {given}. Leave the option "
            "out, or correct the file's CRS, for example with ogr2ogr -a_srs."
        )
    return known


def named_crs(name: str) -> pyproj.CRS:
    """Return the CRS of a name. Raises InputError."""
    try:
        return pyproj.CRS.from_user_input(name)
    except CRSError as error:
        raise InputError(
            f"'{name}' is no CRS that PROJ knows ({error}). Give for example EPSG:32618."
        ) from None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
