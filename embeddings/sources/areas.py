"""Areas of interest: a box, or the polygons of a vector file.

Polygons stay in the CRS of their file, where their edges are what was drawn, and places are
brought there: so an area may cross the antimeridian or hold a pole.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from embeddings.errors import SourceError, SourceNotFoundError
from embeddings.places import wrap_lons
from embeddings.types import Bounds

DEGREES = "OGC:CRS84"
STEPS = 1000
"""Edges are cut to this share of the extent before their vertices are turned into degrees."""
POLAR_LATITUDE = 89.0
"""An outline that comes this close to a pole is taken to lie at all longitudes."""
LEAST_GAP = 20.0
"""Degrees. An outline that leaves no wider gap of longitudes is taken to lie at all of them."""


@dataclass(frozen=True)
class Polygons:
    """Polygons in the CRS of their file, x before y."""

    shape: Any
    crs: pyproj.CRS
    to_file: pyproj.Transformer
    """From OGC:CRS84; like the prepared shape, it may be used by several threads."""

    def contain(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether places ``(n,)`` in degrees lie inside; not so where the CRS has no place."""
        x, y = (np.asarray(values, np.float64) for values in self.to_file.transform(lon, lat))
        there = np.isfinite(x) & np.isfinite(y)
        x, y = x[there], y[there]
        inside = np.zeros(len(x), dtype=bool)
        west, _, east, _ = self.shape.bounds
        for turn in self._turns():
            near = np.flatnonzero((x + turn >= west) & (x + turn <= east))
            inside[near] |= shapely.contains_xy(self.shape, x[near] + turn, y[near])
        there[there] = inside
        return there

    def _turns(self) -> tuple[float, ...]:
        """Return what to add to x: geographic files may go on beyond ±180 degrees."""
        if not self.crs.is_geographic:
            return (0.0,)
        full = round(2 * math.pi / self.crs.axis_info[0].unit_conversion_factor, 6)
        return (0.0, full, -full)


@dataclass(frozen=True)
class Area:
    """A box that may cross the antimeridian and, where it does not say all, polygons in it."""

    bounds: Bounds
    polygons: Polygons | None = None

    @classmethod
    def of_box(cls, bounds: Bounds) -> Area:
        """Make an area of a box."""
        return cls(bounds)

    @classmethod
    def of_file(cls, path: Path) -> Area:
        """Make an area of all polygons in a file that GDAL reads, in any CRS.

        Raises SourceNotFoundError or SourceError.
        """
        shapes, name = _read(path)
        shape = shapely.union_all(shapes)
        try:
            crs = pyproj.CRS(name)
            to_file = pyproj.Transformer.from_crs(DEGREES, crs, always_xy=True)
            to_degrees = pyproj.Transformer.from_crs(crs, DEGREES, always_xy=True)
        except ProjError as error:
            raise SourceError(
                f"The CRS of '{path}' cannot be turned into degrees ({error}). Save the file in "
                "another one, for example EPSG:4326 with ogr2ogr -t_srs."
            ) from error
        polygons = Polygons(shape, crs, to_file)
        _check_reach(path, polygons, to_degrees)
        shapely.prepare(shape)
        # The index of a prepared shape is made at its first use, which must not be in threads.
        inner = shapely.point_on_surface(shape)
        shapely.contains_xy(shape, inner.x, inner.y)
        return cls(_bounds(path, polygons, to_degrees), polygons)

    @property
    def outline(self) -> Any:
        """The box as a shape in degrees (OGC:CRS84), cut in two at the antimeridian."""
        west, south, east, north = self.bounds.west_south_east_north()
        crosses = self.bounds.crosses_antimeridian
        parts = [(west, 180.0), (-180.0, east)] if crosses else [(west, east)]
        return shapely.union_all([shapely.box(a, south, b, north) for a, b in parts])

    @property
    def fingerprint(self) -> str:
        """A hash of the shape."""
        if self.polygons is None:
            return hashlib.sha256(shapely.to_wkb(self.outline, byte_order=1)).hexdigest()
        shape = shapely.to_wkb(self.polygons.shape, byte_order=1)
        return hashlib.sha256(shape + self.polygons.crs.to_wkt().encode()).hexdigest()

    def contains(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether places ``(n,)`` in degrees within the box lie inside; True in a mere box."""
        if self.polygons is None:
            return np.ones(len(lon), dtype=bool)
        return self.polygons.contain(lon, lat)


def _read(path: Path) -> tuple[Any, str]:
    """Return the polygons of a file and the name of their CRS."""
    if not path.exists():
        raise SourceNotFoundError(f"There is no file '{path}'. Check the path.")
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        meta, _, wkb, _ = pyogrio.raw.read(path, columns=[])
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise SourceError(f"'{path}' is not a vector file that GDAL reads: {error}.") from error
    if meta["crs"] is None:
        raise SourceError(f"'{path}' has no CRS. Assign one first, for example with ogr2ogr.")
    # The default method takes what overlaps twice away, and minutes for some hundred crossings.
    shapes = shapely.force_2d(shapely.from_wkb(wkb))
    shapes = shapely.make_valid(shapes, method="structure", keep_collapsed=False)
    shapes = shapes[shapely.area(shapes) > 0]
    if not len(shapes):
        raise SourceError(f"'{path}' holds no polygon. Give the polygons of the area.")
    return shapes, meta["crs"]


def _extent(shape: Any) -> float:
    west, south, east, north = shape.bounds
    return float(max(east - west, north - south))


def _check_reach(path: Path, polygons: Polygons, to_degrees: pyproj.Transformer) -> None:
    """Refuse polygons that go on beyond the edge of a projected map, where no place lies."""
    if polygons.crs.is_geographic:
        return
    extent = _extent(polygons.shape)
    xy = shapely.get_coordinates(polygons.shape)
    # What ends exactly at the edge of the map is moved off it, since 180 degrees are -180 too.
    xy += (shapely.get_coordinates(shapely.envelope(polygons.shape).centroid) - xy) * 1e-6
    back = np.stack(polygons.to_file.transform(*to_degrees.transform(*xy.T)), axis=1)
    off = np.isfinite(back).all(axis=1) & (np.abs(back - xy).max(axis=1) > extent / 100)
    if off.any():
        x, y = xy[off][0]
        raise SourceError(
            f"'{path}' goes beyond the edge of the map of its CRS ({polygons.crs.name}), for "
            f"example at {x:g}, {y:g}. Cut the polygons there, or save the area in EPSG:4326, "
            "where longitudes may go on beyond 180."
        )


def _bounds(path: Path, polygons: Polygons, to_degrees: pyproj.Transformer) -> Bounds:
    """Return a box in degrees that holds the polygons, the whole Earth if that is not sure.

    Raises SourceError if no place can lie in them.
    """
    cut = shapely.segmentize(polygons.shape, _extent(polygons.shape) / STEPS)
    lon, lat = to_degrees.transform(*shapely.get_coordinates(cut).T)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return Bounds(-180.0, -90.0, 180.0, 90.0)
    if lat.min() > 90.0 or lat.max() < -90.0:
        raise SourceError(
            f"'{path}' has its polygons at latitude {lat.min():g} to {lat.max():g}, where no place "
            "is. Are x and y swapped, or are the coordinates not in degrees but in another CRS?"
        )
    # Between two vertices an edge may bulge a little.
    margin = 0.01 + 0.01 * float(np.ptp(lat))
    south, north = max(-90.0, lat.min() - margin), min(90.0, lat.max() + margin)
    poles = polygons.contain(np.zeros(2), np.array([-90.0, 90.0]))
    south_pole = bool(poles[0]) or south < -POLAR_LATITUDE
    north_pole = bool(poles[1]) or north > POLAR_LATITUDE
    west, east = (-180.0, 180.0) if south_pole or north_pole else _span(lon)
    return Bounds(
        west, -90.0 if south_pole else float(south), east, 90.0 if north_pole else float(north)
    )


def _span(lon: NDArray[np.float64]) -> tuple[float, float]:
    """Return west and east of longitudes: all but the widest gap between them."""
    sorted_lon = np.unique(np.mod(lon, 360.0))
    gaps = np.diff(sorted_lon, append=sorted_lon[0] + 360.0)
    widest = int(gaps.argmax())
    gap = float(gaps[widest])
    if gap < LEAST_GAP:
        return -180.0, 180.0
    margin = min(gap / 4, 0.01 + 0.01 * (360.0 - gap))
    west = sorted_lon[(widest + 1) % len(sorted_lon)] - margin
    ends = wrap_lons(np.array([west, sorted_lon[widest] + margin]))
    return float(ends[0]), float(ends[1])
