"""Rings of corners in degrees become polygons, cut at the antimeridian and closed over a pole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray


def polygons(
    lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Make polygons of rings ``(n, corners)`` in degrees, cut at ±180 where they cross it.

    Neighbouring corners are less than 180 degrees of longitude apart. Returns shapely geometries
    and boxes ``(n, 4)``; a box that crosses has xmin > xmax. A ring around a pole includes it.
    """
    unrolled = np.unwrap(lon, period=360.0, axis=1)
    unrolled -= 360.0 * np.floor((unrolled.min(axis=1, keepdims=True) + 180.0) / 360.0)
    shapes = shapely.polygons(np.stack([unrolled, lat], axis=2))
    shapes = shapely.orient_polygons(shapes)
    boxes = np.stack([unrolled.min(1), lat.min(1), unrolled.max(1), lat.max(1)], axis=1)
    closing = (lon[:, 0] - lon[:, -1] + 180.0) % 360.0 - 180.0
    turns = unrolled[:, -1] + closing - unrolled[:, 0]
    for i in np.flatnonzero(np.abs(turns) > 180.0):
        shapes[i] = _around_pole(unrolled[i], lat[i], turns[i])
        boxes[i] = shapely.bounds(shapes[i])
    everywhere = boxes[:, 2] - boxes[:, 0] >= 360.0 - 1e-9
    for i in np.flatnonzero(boxes[:, 2] > 180.0):
        shapes[i] = _cut(shapes[i])
        boxes[i, 2] -= 360.0
    boxes[everywhere, 0], boxes[everywhere, 2] = -180.0, 180.0
    return shapes, boxes


def _around_pole(lon: NDArray[np.float64], lat: NDArray[np.float64], turn: float) -> Any:
    """Make a polygon of an unrolled ring that goes round the Earth, with the pole it encloses."""
    pole = math.copysign(90.0, float(lat.mean()))
    west = min(float(lon.min()), float(lon[0] + turn))
    lon = lon - 360.0 * math.floor((west + 180.0) / 360.0)
    ring = [*zip(lon, lat, strict=True), (lon[0] + turn, lat[0])]
    return shapely.orient_polygons(shapely.Polygon([*ring, (lon[0] + turn, pole), (lon[0], pole)]))


def _cut(shape: Any) -> Any:
    west = shapely.intersection(shape, shapely.box(-180, -90, 180, 90))
    east = shapely.transform(
        shapely.intersection(shape, shapely.box(180, -90, 540, 90)), lambda xy: xy - [360.0, 0.0]
    )
    parts = [p for side in (west, east) for p in shapely.get_parts(side) if p.area > 0]
    # What goes round the Earth meets itself again at its first corner: there is no seam there.
    return shapely.orient_polygons(shapely.union_all(parts))
