"""A label layer: where each label lies, what it says, when, and why some cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.probe.chip_blocks import NO_TIME
from embeddings.probe.label_classes import FieldOptions, Targets, positives, targets_of
from embeddings.probe.label_file import LabelFile, NotVectorError, read_file
from embeddings.probe.label_places import degree_boxes, to_degrees
from embeddings.probe.label_raster import LabelRaster, read_raster
from embeddings.types import parse_datetime

MICROSECONDS = 1_000_000
SHOWN = 5
POLAR = 89.0
"""Degrees. Edges beyond this latitude run along the pole."""
EPOCH = parse_datetime("1970-01-01")


class Kind(Enum):
    """What a label's geometry is."""

    NONE = "none"
    POINT = "point"
    LINE = "line"
    POLYGON = "polygon"


class Drop(Enum):
    """Why a label is not used."""

    NULL = "its field is null or empty"
    NOT_FINITE = "its number is not finite"
    NO_GEOMETRY = "it has no geometry, or an empty one"
    UNREADABLE = "its geometry cannot be read"
    INVALID = "its geometry is invalid, and nothing is left of it when made valid"
    NOWHERE = "its coordinates are no place on Earth: are the axes swapped, or the CRS wrong?"
    OUTSIDE = "no chip lies there"
    NO_DATE = "no chip there is of its time"
    NO_CENTRE = "no centre of a chip lies in it: it is smaller than a chip, or lies between centres"
    LITTLE = "its class covers too little of any chip"
    CONFLICT = "all its chips have another class too, or a class of more weight"


@dataclass(frozen=True, eq=False)
class LabelLayer:
    """The ``n`` labels of a vector layer, in the order of the file.

    ``geometry (n,)``: valid shapely geometries in ``crs``, x before y. ``kind (n,)`` positions in
    ``Kind``. ``boxes (n, 4)`` degrees, NaN where there is no place. ``drop (n,) int8``: positions
    in ``Drop`` of labels that cannot be used, -1 for the others. ``time (n,) int64`` microseconds
    since 1970 or ``NO_TIME``; None where no field of dates was named.
    """

    path: Path
    layer: str
    field: str | None
    crs: pyproj.CRS
    ids: NDArray[np.int64]
    geometry: NDArray[Any]
    kind: NDArray[np.int8]
    boxes: NDArray[np.float64]
    drop: NDArray[np.int8]
    targets: Targets
    time: NDArray[np.int64] | None
    made_valid: NDArray[np.int64]
    """Labels whose geometry was invalid and was mended."""
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def place(self, label: int) -> tuple[float, float] | None:
        """Return longitude and latitude of some place in a label; None if it has none."""
        shape = self.geometry[label]
        if shape is None or shape.is_empty:
            return None
        point = shapely.point_on_surface(shape)
        way = to_degrees(self.crs)
        lon, lat = (point.x, point.y) if way is None else way.transform(point.x, point.y)
        return (float(lon), float(lat)) if np.isfinite([lon, lat]).all() else None


Labels = LabelLayer | LabelRaster


@dataclass(frozen=True)
class LabelOptions:
    """How labels are read. ``field`` of a raster: the number or name of its band."""

    layer: str | None = None
    field: str | None = None
    date_field: str | None = None
    crs: str | None = None
    """Of a layer that says none."""
    nodata: float | None = None
    """Of a raster that says none."""
    values: FieldOptions | None = None


def read_labels(path: Path, options: LabelOptions | None = None) -> Labels:
    """Read labels of a vector file, a table of points, or a raster of classes or numbers.

    Raises SourceNotFoundError, SourceError or InputError.
    """
    options = options or LabelOptions()
    values = options.values or FieldOptions()
    fields = list(dict.fromkeys(f for f in (options.field, options.date_field) if f is not None))
    try:
        found = read_file(path, options.layer, fields, options.crs)
    except NotVectorError as error:
        if options.date_field is not None or options.layer is not None:
            raise InputError(
                f"'{path}' is no vector file, so it has no layers and no field of dates. Leave "
                "--layer and --date-field out, or give a vector file."
            ) from error
        return read_raster(path, options.field, options.crs, options.nodata, values.task)
    if options.nodata is not None:
        raise InputError(
            f"'{path}' is no raster, so no number of it stands for no data. Leave --labels-nodata "
            "out, and make such values of the field null."
        )
    return _layer(found, options, values)


def _layer(found: LabelFile, options: LabelOptions, values: FieldOptions) -> LabelLayer:
    count = len(found.geometry)
    if not count:
        raise InputError(f"Layer '{found.layer}' of '{found.path}' holds no features.")
    if options.field is None:
        if values.task not in (None, "positive"):
            raise InputError(
                f"Say which field holds the labels with --field; the task {values.task} needs one."
            )
        targets = positives(count, found.layer)
    else:
        targets = targets_of(options.field, found.columns[options.field], values)
    time = None
    if options.date_field is not None:
        time = times_of(options.date_field, found.columns[options.date_field])
    drop = np.full(count, -1, np.int8)
    _mark(drop, targets.null, Drop.NULL)
    _mark(drop, targets.not_finite, Drop.NOT_FINITE)
    _mark(drop, found.unreadable, Drop.UNREADABLE)
    geometry, kind, made_valid = _usable(found.geometry, drop)
    boxes = np.full((count, 4), np.nan)
    kept = np.flatnonzero(drop < 0)
    if len(kept):
        boxes[kept] = degree_boxes(geometry[kept], found.crs)
    _mark(drop, np.isnan(boxes).any(axis=1), Drop.NOWHERE)
    notes = _notes(geometry[kept], found.crs)
    return LabelLayer(
        found.path,
        found.layer,
        options.field,
        found.crs,
        found.ids,
        geometry,
        kind,
        boxes,
        drop,
        targets,
        time,
        made_valid,
        notes,
    )


def _mark(drop: NDArray[np.int8], where: NDArray[np.bool_], reason: Drop) -> None:
    """Give labels a reason, unless they have one already."""
    drop[where & (drop < 0)] = list(Drop).index(reason)


def _usable(
    shapes: NDArray[Any], drop: NDArray[np.int8]
) -> tuple[NDArray[Any], NDArray[np.int8], NDArray[np.int64]]:
    """Return valid geometries of one kind each, their kinds, and which were mended."""
    shapes = shapes.copy()
    empty = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    _mark(drop, empty, Drop.NO_GEOMETRY)
    shapes[empty] = None
    xy, index = shapely.get_coordinates(shapes, return_index=True)
    broken = np.zeros(len(shapes), bool)
    broken[index[~np.isfinite(xy).all(axis=1)]] = True
    _mark(drop, broken, Drop.NOWHERE)
    shapes[broken] = None
    for i in np.flatnonzero(shapely.get_type_id(shapes) == 7):
        shapes[i] = _of_one_kind(shapes[i])
    dimension = shapely.get_dimensions(shapes)
    bad = np.flatnonzero((dimension == 2) & ~shapely.is_valid(shapes))
    shapes[bad] = shapely.make_valid(shapes[bad], method="structure", keep_collapsed=False)
    gone = shapely.is_empty(shapes) | ((dimension == 2) & (shapely.area(shapes) == 0))
    _mark(drop, gone, Drop.INVALID)
    kind = np.where(shapely.is_missing(shapes), 0, dimension + 1).astype(np.int8)
    return shapes, kind, bad[~gone[bad]]


def _of_one_kind(collection: Any) -> Any:
    """Return what has the most dimensions in a collection of geometries."""
    parts = shapely.get_parts(collection)
    while (shapely.get_type_id(parts) == 7).any():
        parts = shapely.get_parts(parts)
    dimension = shapely.get_dimensions(parts)
    parts = shapely.get_parts(parts[dimension == dimension.max(initial=0)])
    makers = (shapely.multipoints, shapely.multilinestrings, shapely.multipolygons)
    return makers[int(dimension.max(initial=0))](parts)


def _notes(shapes: NDArray[Any], crs: pyproj.CRS) -> tuple[str, ...]:
    """Say what may be meant otherwise than it is read."""
    if not crs.is_geographic or not len(shapes):
        return ()
    west, _, east, _ = shapely.bounds(shapes).T
    wide = sum(map(_long_edge, shapes[east - west > 180.0]))
    if not wide:
        return ()
    return (
        f"{wide:,} labels have an edge over more than 180 degrees of longitude and were read as "
        "drawn. Where it is meant to cross the antimeridian, let longitudes go on beyond 180, or "
        "cut the label there.",
    )


def _long_edge(shape: Any) -> bool:
    """Whether an edge runs over more than half a turn of longitude, but not along a pole."""
    xy, part = shapely.get_coordinates(
        shapely.get_parts(shapely.get_rings(shapely.get_parts(shape)))
        if shapely.get_dimensions(shape) == 2
        else shapely.get_parts(shape),
        return_index=True,
    )
    along = (np.diff(part) == 0) & (np.abs(xy[1:, 1]) < POLAR)
    return bool((along & (np.abs(np.diff(xy[:, 0])) > 180.0)).any())


def times_of(field: str, column: pa.Array) -> NDArray[np.int64]:
    """Return microseconds since 1970 ``(n,)``, ``NO_TIME`` where there is no date.

    Raises InputError for what is no date; times without a zone are taken as UTC.
    """
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        stamps = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
        return np.asarray(stamps.cast(pa.int64()).fill_null(NO_TIME).to_numpy())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"Field '{field}' holds {kind}, not dates. Give dates, or text such as 2018-10-13."
        )
    encoded = column.dictionary_encode()
    times, bad = [], []
    for text in encoded.dictionary.to_pylist():
        try:
            delta = parse_datetime(text) - EPOCH if text.strip() else None
        except InputError:
            bad.append(text)
            continue
        times.append(NO_TIME if delta is None else _microseconds(delta))
    if bad:
        shown = ", ".join(f"'{text}'" for text in bad[:SHOWN])
        raise InputError(
            f"Field '{field}' holds {len(bad):,} texts that are no dates, for example {shown}. "
            "Give ISO 8601, for example 2018-10-13."
        )
    at = encoded.indices.fill_null(len(times)).to_numpy()
    return np.asarray(np.array([*times, NO_TIME], np.int64)[at])


def _microseconds(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS + int(delta.microseconds)
