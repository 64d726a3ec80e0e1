"""Where labels lie, in degrees: boxes of geometries of any CRS, and which chips may meet them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.sources.areas import DEGREES

CELLS = 2048
"""Cells of the occupancy along one axis."""
WIDE = 180.0
"""Degrees. What is wider is taken to lie at all longitudes: it may cross the antimeridian."""

Floats = NDArray[np.float64]


@lru_cache(maxsize=16)
def to_degrees(crs: pyproj.CRS) -> pyproj.Transformer | None:
    """Return the way from a CRS to OGC:CRS84; None where x and y are those degrees already."""
    if crs.equals(pyproj.CRS(DEGREES), ignore_axis_order=True) or crs.equals(
        pyproj.CRS("EPSG:4326"), ignore_axis_order=True
    ):
        return None
    return pyproj.Transformer.from_crs(crs, DEGREES, always_xy=True)


@lru_cache(maxsize=16)
def from_degrees(crs: pyproj.CRS) -> pyproj.Transformer | None:
    """Return the way from OGC:CRS84 to a CRS; None where nothing is to be done."""
    if to_degrees(crs) is None:
        return None
    return pyproj.Transformer.from_crs(DEGREES, crs, always_xy=True)


def moved(way: pyproj.Transformer | None, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return places ``(n,)`` by a way between two CRS; not finite where there is none."""
    if way is None:
        return x, y
    x, y = way.transform(x, y)
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def turns(crs: pyproj.CRS, low: float, high: float) -> tuple[float, ...]:
    """Return what to add to x of a place to meet geometries between two x.

    Geographic files may go on beyond ±180 degrees.
    """
    if not crs.is_geographic:
        return (0.0,)
    full = round(2 * math.pi / crs.axis_info[0].unit_conversion_factor, 6)
    found = [0.0]
    if high > full / 2:
        found.append(full)
    if low < -full / 2:
        found.append(-full)
    return tuple(found)


def degree_boxes(geometry: NDArray[Any], crs: pyproj.CRS) -> Floats:
    """Return boxes ``(n, 4)`` in degrees (west, south, east, north) that hold geometries.

    None is missing or empty. What has no place on Earth gets NaN; what has one in part, or is
    wider than half the Earth, all longitudes. East may be beyond 180.
    """
    xy, index = shapely.get_coordinates(geometry, return_index=True)
    lon, lat = moved(to_degrees(crs), xy[:, 0], xy[:, 1])
    there = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.5) & (np.abs(lon) <= 540)
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    low = [np.minimum.reduceat(np.where(there, axis, np.inf), starts) for axis in (lon, lat)]
    high = [np.maximum.reduceat(np.where(there, axis, -np.inf), starts) for axis in (lon, lat)]
    boxes = np.stack([*low, *high], axis=1)
    some = np.logical_or.reduceat(there, starts)
    _widen(boxes, crs, some & ~np.logical_and.reduceat(there, starts))
    boxes[~some] = np.nan
    # A place is wrapped; what is wide keeps its west within ±180.
    shift = 360.0 * np.floor((boxes[:, 0] + 180.0) / 360.0)
    shift[(boxes[:, 0] == 180.0) & (boxes[:, 2] == 180.0)] = 0.0
    boxes[:, [0, 2]] -= shift[:, None]
    return boxes


def _widen(boxes: Floats, crs: pyproj.CRS, cut: NDArray[np.bool_]) -> None:
    """Leave room for edges that bulge between their ends, and for what lies beyond a map."""
    span = boxes[:, 2:] - boxes[:, :2]
    wide = cut | (span[:, 0] > WIDE)
    if not crs.is_geographic:
        # The edges of points do not bulge.
        margin = np.where(span.max(axis=1) > 0, 0.01 + 0.05 * span.max(axis=1), 0.0)
        boxes[:, :2] -= margin[:, None]
        boxes[:, 2:] += margin[:, None]
        boxes[wide] = (-180.0, -90.0, 180.0, 90.0)
    boxes[wide, 0], boxes[wide, 2] = -180.0, 180.0
    np.clip(boxes[:, 1::2], -90.0, 90.0, out=boxes[:, 1::2])


def extent(boxes: Floats) -> tuple[float, float, float, float]:
    """Return one box around boxes in degrees; over the antimeridian its east is beyond 180."""
    west, south, east, north = boxes.T
    order = np.argsort(west)
    reach = np.maximum.accumulate(east[order])
    gaps = np.append(west[order][1:], west[order][0] + 360.0) - reach
    widest = int(gaps.argmax())
    if gaps[widest] <= 0:
        return -180.0, float(south.min()), 180.0, float(north.max())
    first = float(west[order][(widest + 1) % len(order)])
    last = float(reach[widest])
    return first, float(south.min()), last + 360.0 * (last < first), float(north.max())


@dataclass(frozen=True)
class Occupancy:
    """A coarse map of where labels lie. What it says no to holds none; a yes may be wrong."""

    west: float
    south: float
    cell: tuple[float, float]
    table: NDArray[np.int32]
    """``(rows + 1, columns + 1)``: how many occupied cells lie south and west of a corner."""

    @classmethod
    def of(cls, boxes: Floats) -> Self:
        """Make the map of boxes ``(n, 4)`` in degrees, n > 0, as ``degree_boxes`` gives them."""
        over = boxes[:, 2] > 180.0
        rest = boxes[over] - [360.0, 0.0, 360.0, 0.0]
        boxes = np.concatenate([boxes, rest])
        boxes[:, 0] = np.maximum(boxes[:, 0], -180.0)
        boxes[:, 2] = np.minimum(boxes[:, 2], 180.0)
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        cell = np.maximum((high - low) / CELLS, 1e-9)
        first = np.floor((boxes[:, :2] - low) / cell).clip(0, CELLS - 1).astype(np.int64)
        last = np.floor((boxes[:, 2:] - low) / cell).clip(0, CELLS - 1).astype(np.int64) + 1
        marks = np.zeros((CELLS + 1, CELLS + 1), np.int32)
        for x in (first, last):
            for y in (first, last):
                np.add.at(marks, (y[:, 1], x[:, 0]), 1 if x is y else -1)
        occupied = marks.cumsum(axis=0).cumsum(axis=1)[:CELLS, :CELLS] > 0
        table = np.zeros((CELLS + 1, CELLS + 1), np.int32)
        table[1:, 1:] = occupied.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
        return cls(float(low[0]), float(low[1]), (float(cell[0]), float(cell[1])), table)

    def meets(self, west: Floats, south: Floats, east: Floats, north: Floats) -> NDArray[np.bool_]:
        """Whether boxes ``(n,)`` in degrees may meet a label; west > east crosses ±180."""
        crosses = west > east
        found = self._any(west, south, np.where(crosses, 180.0, east), north)
        return found | (crosses & self._any(np.full_like(west, -180.0), south, east, north))

    def _any(self, west: Floats, south: Floats, east: Floats, north: Floats) -> NDArray[np.bool_]:
        columns = [self._cell(west, self.west, 0), self._cell(east, self.west, 0) + 1]
        rows = [self._cell(south, self.south, 1), self._cell(north, self.south, 1) + 1]
        (left, right), (bottom, top) = (np.clip(ends, 0, CELLS) for ends in (columns, rows))
        table = self.table
        inside = table[top, right] - table[bottom, right] - table[top, left] + table[bottom, left]
        return np.asarray(inside > 0)

    def _cell(self, values: Floats, origin: float, axis: int) -> NDArray[np.int64]:
        step = (values - origin) / self.cell[axis]
        at = np.floor(np.clip(step, -2.0, CELLS + 2.0)).astype(np.int64)
        # The last cell holds what lies at the end of the map, too.
        return np.where(at == CELLS, CELLS - 1, at)
