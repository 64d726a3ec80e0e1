"""Areas on the ellipsoid, of shapes in degrees and of pixels in any CRS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.sources.areas import DEGREES

Floats = NDArray[np.float64]

RADIUS_M = 6_378_137.0
ECCENTRICITY = 0.081819190842622
"""Of WGS 84."""
M2_A_HECTARE = 10_000.0

BLOCK = 256
"""Pixels that are taken to be of one size lie in a square of so many a side, or in one row of a
geographic grid, where size depends on latitude alone."""

STEPS = 8
"""Pieces into which a side of a block is cut before it is turned into degrees."""


def equal_area(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Return x and y in metres of an equal-area cylinder round the Earth, of degrees.

    Snyder (1987), Map Projections: A Working Manual, equations 10-16, 10-15 and 3-12, with the
    standard parallel at the equator.
    """
    e, sine = ECCENTRICITY, np.sin(np.radians(lat))
    q = (1 - e**2) * (
        sine / (1 - (e * sine) ** 2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e)
    )
    return RADIUS_M * np.radians(lon), RADIUS_M * q / 2


def hectares(shapes: NDArray[Any]) -> Floats:
    """Return the areas ``(n,)`` of shapes in degrees; edges are straight on that cylinder."""

    def flat(xy: Floats) -> Floats:
        return np.stack(equal_area(xy[:, 0], xy[:, 1]), axis=1)

    return np.asarray(shapely.area(shapely.transform(shapes, flat))) / M2_A_HECTARE


class PixelAreas:
    """How large the pixels of a raster are, a block at a time."""

    def __init__(self, crs: pyproj.CRS, transform: Affine) -> None:
        self._transform = transform
        self._to_degrees = pyproj.Transformer.from_crs(crs, DEGREES, always_xy=True)
        straight = transform.b == 0 and transform.d == 0
        self.block_rows = 1 if crs.is_geographic and straight else BLOCK
        """Rows of a block; a geographic one is as wide as the raster."""

    def degrees(self, col: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Return longitude and latitude of places in pixels, fractions allowed."""
        a, b, c, d, e, f = tuple(self._transform)[:6]
        x, y = a * col + b * row + c, d * col + e * row + f
        lon, lat = self._to_degrees.transform(x, y)
        return np.asarray(lon), np.asarray(lat)

    def pixel(self, left: int, top: int, width: int, height: int) -> float:
        """Return the mean area in hectares of a pixel of a block. Raises InputError."""
        if self.block_rows == 1:
            width = 1
        edge = np.linspace(0, 1, STEPS, endpoint=False)
        x = np.concatenate([edge, np.ones(STEPS), 1 - edge, np.zeros(STEPS)]) * width + left
        y = np.concatenate([np.zeros(STEPS), edge, np.ones(STEPS), 1 - edge]) * height + top
        lon, lat = self.degrees(x, y)
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise InputError(
                "The map has pixels beyond the edge of its CRS, whose area nobody knows. Warp it "
                "to another CRS first, or write it as .gpkg."
            )
        shape = shapely.polygons(np.stack(equal_area(np.unwrap(lon, period=360.0), lat), axis=1))
        return float(shapely.area(shape)) / M2_A_HECTARE / (width * height)
