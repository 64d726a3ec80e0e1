"""Which places are land: a mask of 0.05 degrees that ships with the package.

``land.png`` is Natural Earth's land at 1:50 million (public domain), one bit per square of 0.05
degrees: set where the middle of the square lies on land. Lakes count as land, the Caspian Sea
does not, Antarctica does, with its ice shelves. ``embeddings/world/make_land.py`` derives it.
Islands and inlets narrower than about 5 km may be missing.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from embeddings.errors import PlaceError
from embeddings.grid import MajorTomGrid
from embeddings.places import checked_places

MASK_FILE = Path(__file__).with_name("land.png")
LEAST = 1e-3
"""Degrees. In smaller boxes the differences of large sums would be rounding errors."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@cache
def mask() -> Bools:
    """Return the mask ``(rows, cols) bool``: north first, from -180 eastward, plate carree."""
    with Image.open(MASK_FILE) as image:
        values = np.array(image, dtype=bool)
    values.flags.writeable = False
    return values


def is_land(lon: npt.ArrayLike, lat: npt.ArrayLike) -> Bools:
    """Say of points in degrees (OGC:CRS84) whether they lie on land.

    Arguments broadcast. Longitudes are wrapped; both poles are valid places. Raises PlaceError
    for values that are not finite or lie beyond latitude ±90 or longitude ±540.
    """
    lon, lat = checked_places(lon, lat)
    land = mask()
    rows, cols = land.shape
    row = np.minimum(((90.0 - lat) * (rows / 180.0)).astype(np.intp), rows - 1)
    col = ((lon + 180.0) * (cols / 360.0)).astype(np.intp) % cols
    return np.asarray(land[row, col])


def land_share(
    west: npt.ArrayLike, south: npt.ArrayLike, east: npt.ArrayLike, north: npt.ArrayLike
) -> Floats:
    """Return the share, 0 to 1, of boxes in degrees that is land, in plate carree.

    Arguments broadcast. ``west > east`` means that the box crosses the antimeridian. A box
    narrower or lower than a thousandth of a degree is taken as that large. Shares are rounded to
    1e-5. Raises PlaceError for values that are not finite, beyond ±180 or ±90, or with south above
    north.
    """
    sides = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (west, south, east, north)))
    west, south, east, north = sides
    bad = ~np.isfinite(sides).all(axis=0) | (south > north)
    bad |= (np.abs(west) > 180) | (np.abs(east) > 180) | (np.abs(south) > 90) | (np.abs(north) > 90)
    if bad.any():
        first = [float(side[bad][0]) for side in sides]
        raise PlaceError(
            f"{int(bad.sum())} of {bad.size} boxes are none, first {first}. The order is west, "
            "south, east, north, within ±180 and ±90 degrees, south below north."
        )
    rows, cols = mask().shape
    width = np.maximum(np.where(east < west, east - west + 360.0, east - west), LEAST)
    height = np.maximum(north - south, LEAST)
    top = np.clip(90.0 - south - height, 0.0, 180.0 - height) * (rows / 180.0)
    left = (west + 180.0) * (cols / 360.0)
    y = (top, top + height * (rows / 180.0))
    x = (left, left + width * (cols / 360.0))
    total = _area(y[1], x[1]) - _area(y[0], x[1]) - _area(y[1], x[0]) + _area(y[0], x[0])
    share = total / ((y[1] - y[0]) * (x[1] - x[0]))
    return np.asarray(np.clip(np.round(share, 5), 0.0, 1.0))


def cells_with_land(grid: MajorTomGrid, rows: npt.ArrayLike, cols: npt.ArrayLike) -> Bools:
    """Say of cells whether they are land: whether their centre lies on it.

    At 25 km these are 233,863 of 815,638 cells.
    """
    return is_land(*grid.centre(rows, cols))


@cache
def _sums() -> npt.NDArray[np.int64]:
    land = mask()
    sums = np.zeros((land.shape[0] + 1, land.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(land, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    return sums


def _area(y: Floats, x: Floats) -> Floats:
    """Return the land, in squares, north of ``y`` and between -180 and ``x`` (may exceed 360)."""
    sums = _sums()
    rows, cols = sums.shape[0] - 1, sums.shape[1] - 1
    turns, x = np.divmod(x, cols)
    row = np.clip(y.astype(np.intp), 0, rows - 1)
    col = np.minimum(x.astype(np.intp), cols - 1)
    down, right = np.minimum(y - row, 1.0), x - col

    def line(at: npt.NDArray[np.intp]) -> Floats:
        part = sums[at, col] * (1 - right) + sums[at, col + 1] * right
        return np.asarray(part + turns * sums[at, cols])

    return np.asarray(line(row) * (1 - down) + line(row + 1) * down)
