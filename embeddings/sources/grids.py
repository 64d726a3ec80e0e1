"""Grids of pixels: where they lie on Earth, made coarser, cut to a box, joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyproj
import rasterio
from affine import Affine
from numpy.typing import NDArray

from embeddings.errors import InputError, SourceError
from embeddings.sources.footprints import polygons
from embeddings.types import Bounds

SAME_SIZE = 0.01
"""Pixels that differ in size by less than this share are taken to be of one size."""
EDGE_POINTS = 33
"""How many points of each side of a box are brought into another CRS."""


@dataclass(frozen=True)
class TargetGrid:
    """Pixels in rows and columns: ``transform`` takes (column, row) to x and y of the CRS."""

    crs_wkt: str
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, dataset: Any) -> TargetGrid:
        """Return the grid of an open file."""
        return cls(dataset.crs.to_wkt(), dataset.transform, dataset.width, dataset.height)

    @cached_property
    def gdal_crs(self) -> Any:
        """The CRS as rasterio has it."""
        return rasterio.crs.CRS.from_wkt(self.crs_wkt)

    @cached_property
    def crs(self) -> pyproj.CRS:
        """The CRS as pyproj has it."""
        return pyproj.CRS.from_wkt(self.crs_wkt)

    @cached_property
    def to_lonlat(self) -> pyproj.Transformer:
        """From the CRS to OGC:CRS84."""
        return pyproj.Transformer.from_crs(self.crs, "OGC:CRS84", always_xy=True)

    @property
    def res(self) -> tuple[float, float]:
        """Size of a pixel along columns and rows, units of the CRS."""
        t = self.transform
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e)

    @cached_property
    def pixel_m(self) -> tuple[float, float]:
        """Size (row, column) of a pixel on the ground at the centre, metres."""
        col = np.array([0.0, 0.5, 0.0]) + self.width / 2
        row = np.array([0.0, 0.0, 0.5]) + self.height / 2
        lon, lat = self.xy(col, row)
        geod = pyproj.Geod(ellps="WGS84")
        _, _, metres = geod.inv(lon[[0, 0]], lat[[0, 0]], lon[[2, 1]], lat[[2, 1]])
        return float(metres[0] * 2), float(metres[1] * 2)

    def xy(self, col: NDArray[np.float64], row: NDArray[np.float64]) -> tuple[Any, Any]:
        """Turn pixel coordinates (column, row; 0, 0 is the first corner) into lon, lat degrees.

        Raises SourceError where a point has no longitude and latitude.
        """
        lon, lat = self.to_lonlat.transform(*applied(self.transform, col, row))
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise SourceError(
                f"Parts of the scene have no longitude and latitude in {self.crs.name}: its "
                "georeference is wrong. Check it with 'gdalinfo'."
            )
        return (np.asarray(lon) + 180.0) % 360.0 - 180.0, np.asarray(lat)

    def pixels(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn x and y of the CRS into column and row; degrees may lie whole turns away."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self.crs.is_geographic:
            full = 2 * math.pi / self.crs.axis_info[0].unit_conversion_factor
            middle, _ = applied(self.transform, self.width / 2, self.height / 2)
            x = x + full * np.round((middle - x) / full)
        col, row = applied(~self.transform, x, y)
        return col, row

    def edge(self, points: int = 16) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return column and row ``(4 * points,)`` of the grid's edge, going round once."""
        side = np.arange(points) / points
        zero, one = np.zeros(points), np.ones(points)
        col = np.concatenate([side, one, 1 - side, zero]) * self.width
        row = np.concatenate([zero, side, one, 1 - side]) * self.height
        return col, row

    def part(self, row: int, col: int, height: int, width: int) -> TargetGrid:
        """Return the grid of a window of this one."""
        moved = self.transform @ Affine.translation(col, row)
        return TargetGrid(self.crs_wkt, moved, width, height)

    def with_pixels(self, gsd_m: float) -> TargetGrid:
        """Return the grid over the same place with pixels of ``gsd_m`` metres.

        It begins at the same corner; pixels that the scene fills in part only are left out. In
        a CRS of metres that are nearly those of the ground, its own metres count. Raises
        InputError.
        """
        if not (math.isfinite(gsd_m) and gsd_m > 0):
            raise InputError(f"A pixel size of {gsd_m:g} m cannot be used. Give metres above 0.")
        sides = self.pixel_m
        own = self.res[1], self.res[0]
        if self._in_metres and np.allclose(own, sides, rtol=SAME_SIZE, atol=0):
            sides = own
        down, right = (gsd_m / side for side in sides)
        if max(abs(down - 1), abs(right - 1)) < SAME_SIZE:
            return self
        height, width = int(self.height / down + 1e-6), int(self.width / right + 1e-6)
        if height < 1 or width < 1:
            raise InputError(
                f"A pixel of {gsd_m:g} m is larger than the scene, which has {self.width} x "
                f"{self.height} pixels of {sides[1]:.4g} x {sides[0]:.4g} m. Choose a smaller size."
            )
        return TargetGrid(self.crs_wkt, self.transform @ Affine.scale(right, down), width, height)

    @property
    def _in_metres(self) -> bool:
        unit = self.crs.axis_info[0].unit_conversion_factor if self.crs.axis_info else 0
        return self.crs.is_projected and unit == 1

    def window(self, box: Sequence[float]) -> tuple[int, int, int, int]:
        """Return the window (row, column, height, width) whose pixels meet a box in degrees.

        ``box`` is west, south, east, north; it crosses the antimeridian where west > east.
        Raises InputError if the box does not meet the grid.
        """
        bounds = Bounds(*box)
        col, row = self._pixels_of(bounds)
        inside = np.isfinite(col) & np.isfinite(row)
        if inside.any():
            left, right = _whole(col[inside], self.width)
            top, bottom = _whole(row[inside], self.height)
            if left < right and top < bottom:
                return top, left, bottom - top, right - left
        west, south, east, north = self.bounds
        raise InputError(
            f"The box {', '.join(f'{side:g}' for side in box)} does not meet the scene, which "
            f"covers {west:.5g}, {south:.5g}, {east:.5g}, {north:.5g} (west, south, east, north). "
            "Give another --bbox."
        )

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees; west > east across the antimeridian."""
        lon, lat = self.xy(*self.edge())
        west, south, east, north = polygons(lon[None], lat[None])[1][0].tolist()
        return west, south, east, north

    def _pixels_of(self, box: Bounds) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return column and row of points round the part of a box that lies near the grid."""
        west, south, east, north = self.bounds
        east += 360.0 if east < west else 0.0
        margin = 0.01 + 0.02 * max(east - west, north - south)
        south, north = max(south - margin, box.south), min(north + margin, box.north)
        box_east = box.east + (360.0 if box.west > box.east else 0.0)
        parts = [
            (max(west - margin, box.west + turn), min(east + margin, box_east + turn))
            for turn in (-360.0, 0.0, 360.0)
        ]
        found = [_ring(a, south, b, north) for a, b in parts if a <= b and south <= north]
        if not found:
            return np.empty(0), np.empty(0)
        lon, lat = np.concatenate(found, axis=1)
        return self.pixels(*self.to_lonlat.transform(lon, lat, direction="INVERSE"))


def applied(t: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """Return what a transform makes of numbers or arrays x and y."""
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


def _ring(west: float, south: float, east: float, north: float) -> NDArray[np.float64]:
    """Return lon, lat ``(2, points)`` round a box."""
    step = np.linspace(0.0, 1.0, EDGE_POINTS)
    lon, lat = west + step * (east - west), south + step * (north - south)
    sides = [np.full_like(step, side) for side in (west, south, east, north)]
    return np.stack(
        [
            np.concatenate([lon, sides[2], lon, sides[0]]),
            np.concatenate([sides[1], lat, sides[3], lat]),
        ]
    )


def _whole(values: NDArray[np.float64], size: int) -> tuple[int, int]:
    """Return the first whole pixel and the one after the last, within a grid of ``size``."""
    first, last = math.floor(values.min() + 1e-6), math.ceil(values.max() - 1e-6)
    return max(0, first), min(size, max(last, first + 1))


def joined(first: TargetGrid, others: Sequence[TargetGrid]) -> TargetGrid:
    """Return the grid of ``first`` extended by whole pixels so that it holds all the others."""
    corners = [np.array([[0.0, first.width], [0.0, first.height]])]
    for other in others:
        x, y = applied(other.transform, *other.edge(EDGE_POINTS))
        if other.crs != first.crs:
            change = pyproj.Transformer.from_crs(other.crs, first.crs, always_xy=True)
            x, y = change.transform(x, y)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise SourceError(
                f"A member of the mosaic lies where {first.crs.name}, the CRS of the first one, "
                "has no place. Give scenes that lie together."
            )
        corners.append(np.stack(first.pixels(x, y)))
    points = np.concatenate(corners, axis=1)
    low = np.floor(points.min(axis=1) + 1e-3).astype(int)
    high = np.ceil(points.max(axis=1) - 1e-3).astype(int)
    return first.part(int(low[1]), int(low[0]), int(high[1] - low[1]), int(high[0] - low[0]))


def place_in(grid: TargetGrid, other: TargetGrid) -> tuple[int, int, int, int]:
    """Return rows and columns (top, bottom, left, right) of ``grid`` that hold all of ``other``.

    Where they do not meet, nothing lies between top and bottom, or left and right.
    """
    x, y = applied(other.transform, *other.edge(EDGE_POINTS))
    change = pyproj.Transformer.from_crs(other.crs, grid.crs, always_xy=True)
    col, row = grid.pixels(*change.transform(x, y))
    if not (np.isfinite(col).all() and np.isfinite(row).all()):
        return 0, grid.height, 0, grid.width
    left, right = math.floor(col.min()) - 1, math.ceil(col.max()) + 1
    top, bottom = math.floor(row.min()) - 1, math.ceil(row.max()) + 1
    return max(0, top), min(grid.height, bottom), max(0, left), min(grid.width, right)
