"""The pixels of a label raster under chips: shares of classes, or means, at points spread evenly.

A chip is looked at in 64 to 1,024 points, about two a pixel along each side, so that a share is
measured alike for rotated, overlapping and tiny chips and in any CRS. Pixels are read by windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from embeddings.errors import InputError
from embeddings.probe.chip_blocks import ChipBlock
from embeddings.probe.label_classes import MOST_CLASSES
from embeddings.probe.label_places import from_degrees, moved
from embeddings.probe.label_raster import LabelRaster
from embeddings.sources.grids import TargetGrid, applied

BATCH = 2048
LEAST_POINTS, MOST_POINTS = 8, 32
"""Points along one side of a chip."""
POINTS_A_PIXEL = 2
SMALL = 0.1
"""Degrees. The sides of smaller chips are straight in any CRS."""
MOST_PIXELS = 2**24
"""Read at once; chips that lie far apart are read one after the other."""
MOST_RANGE = 2**20

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of some chips: pairs of a chip and a value.

    ``row (m,)`` of the collection, ``value (m,) float64`` a class's number, or a mean,
    ``share (m,) float64`` of the chip's area. ``empty`` rows hold no pixel with a label.
    """

    row: NDArray[np.int64]
    value: Floats
    share: Floats
    empty: NDArray[np.int64]


def look(raster: LabelRaster, blocks: Iterator[ChipBlock], *, centre: bool) -> Iterator[Seen]:
    """Yield what lies under chips, all shares of a class above 0; at their centre only if so asked.

    Raises InputError for more classes than can be told apart.
    """
    with rasterio.open(raster.path) as file:
        for block in blocks:
            for start in range(0, len(block.rows), BATCH):
                batch = block.take(np.arange(start, min(start + BATCH, len(block.rows))))
                for part, col, row in _points(batch, raster.grid, centre):
                    yield _seen(raster, file, part.rows, col, row)


def _points(
    batch: ChipBlock, grid: TargetGrid, centre: bool
) -> Iterator[tuple[ChipBlock, Floats, Floats]]:
    """Yield chips and the pixel coordinates ``(n, points)`` of points in them, NaN beyond them."""
    if centre:
        yield batch, *_pixels(grid, batch.lon[:, None], batch.lat[:, None])
        return
    shapes = batch.footprints()
    quads = (shapely.get_type_id(shapes) == 3) & (shapely.get_num_coordinates(shapes) == 5)
    if quads.any():
        part = batch.take(quads)
        corners = shapely.get_coordinates(shapes[quads]).reshape(-1, 5, 2)[:, :4]
        yield part, *_in_quads(corners, grid)
    for i in np.flatnonzero(~quads):
        yield batch.take(np.array([i])), *_in_shape(shapes[i], batch.box[i], grid)


def _in_quads(corners: Floats, grid: TargetGrid) -> tuple[Floats, Floats]:
    """Return points in quadrilaterals ``(n, 4, 2)`` in degrees."""
    col, row = _pixels(grid, corners[..., 0], corners[..., 1])
    sides = np.hypot(col - np.roll(col, 1, axis=1), row - np.roll(row, 1, axis=1))
    longest = float(np.nanmedian(sides.max(axis=1)))
    longest = longest if math.isfinite(longest) else 0.0
    count = int(np.clip(math.ceil(POINTS_A_PIXEL * longest), LEAST_POINTS, MOST_POINTS))
    step = (np.arange(count) + 0.5) / count
    u, v = (axis.ravel() for axis in np.meshgrid(step, step))
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v])
    large = (np.ptp(corners, axis=1) > SMALL).any()
    if large and not grid.crs.is_geographic:
        return _pixels(grid, corners[..., 0] @ weights, corners[..., 1] @ weights)
    return col @ weights, row @ weights


def _in_shape(shape: Any, box: Floats, grid: TargetGrid) -> tuple[Floats, Floats]:
    """Return points in a footprint of any shape; a box that crosses ±180 has west > east."""
    west, south, east, north = box
    east += 360.0 * (east < west)
    step = (np.arange(MOST_POINTS) + 0.5) / MOST_POINTS
    lon, lat = np.meshgrid(west + step * (east - west), south + step * (north - south))
    lon, lat = lon.ravel(), lat.ravel()
    inside = shapely.contains_xy(shape, lon, lat) | shapely.contains_xy(shape, lon - 360.0, lat)
    return _pixels(grid, lon[inside][None], lat[inside][None])


def _pixels(grid: TargetGrid, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Return column and row of places ``(n, points)``; each chip is kept in one piece."""
    x, y = moved(from_degrees(grid.crs), lon.ravel(), lat.ravel())
    x, y = x.reshape(lon.shape), y.reshape(lat.shape)
    if grid.crs.is_geographic:
        full = 2 * math.pi / grid.crs.axis_info[0].unit_conversion_factor
        middle, _ = applied(grid.transform, grid.width / 2, grid.height / 2)
        x = x + full * np.round((middle - x.mean(axis=1, keepdims=True)) / full)
    col, row = applied(~grid.transform, x, y)
    return np.asarray(col), np.asarray(row)


def _seen(
    raster: LabelRaster, file: Any, rows: NDArray[np.int64], col: Floats, row: Floats
) -> Seen:
    """Look the points of chips up, in halves where their window would be too large."""
    with np.errstate(invalid="ignore"):
        col, row = np.floor(col), np.floor(row)
        inside = (col >= 0) & (col < raster.grid.width) & (row >= 0) & (row < raster.grid.height)
    if not inside.any():
        return Seen(np.empty(0, np.int64), np.empty(0), np.empty(0), rows)
    left, right = int(col[inside].min()), int(col[inside].max()) + 1
    top, bottom = int(row[inside].min()), int(row[inside].max()) + 1
    if (right - left) * (bottom - top) > MOST_PIXELS and len(rows) > 1:
        half = len(rows) // 2
        parts = [_seen(raster, file, rows[s], col[s], row[s]) for s in (np.s_[:half], np.s_[half:])]
        return Seen(*(np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS))
    values, valid = _read(raster, file, (left, top, right, bottom), col[inside], row[inside])
    there = np.flatnonzero(inside.ravel())[valid]
    chip = there // col.shape[1]
    total = np.full(len(rows), col.shape[1], np.float64)
    return _shares(raster, rows, chip, values[valid], total)


_FIELDS = ("row", "value", "share", "empty")


def _read(
    raster: LabelRaster, file: Any, window: tuple[int, int, int, int], col: Floats, row: Floats
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the values at pixels, and which of them are labels."""
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    # One chip of very many pixels is read at fewer of them.
    every = max(1, math.ceil(math.sqrt(width * height / MOST_PIXELS)))
    shape = (math.ceil(height / every), math.ceil(width / every))
    pixels = file.read(
        raster.band, window=Window(left, top, width, height), out_shape=shape, masked=True
    )
    at = (
        np.minimum((row.astype(np.int64) - top) // every, shape[0] - 1),
        np.minimum((col.astype(np.int64) - left) // every, shape[1] - 1),
    )
    values = pixels.data[at]
    valid = ~np.ma.getmaskarray(pixels)[at]
    if raster.nodata is not None:
        valid &= values != raster.nodata
    if np.issubdtype(values.dtype, np.floating):
        valid &= np.isfinite(values)
    return values, valid


def _shares(
    raster: LabelRaster,
    rows: NDArray[np.int64],
    chip: NDArray[np.int64],
    values: NDArray[Any],
    total: Floats,
) -> Seen:
    """Return means, or the share of each class, of values that lie in chips ``chip``."""
    found = np.bincount(chip, minlength=len(rows))
    empty = rows[found == 0]
    if raster.task == "number":
        here = np.flatnonzero(found)
        sums = np.bincount(chip, values.astype(np.float64), minlength=len(rows))
        return Seen(rows[here], sums[here] / found[here], found[here] / total[here], empty)
    classes, code = _codes(values)
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"'{raster.path}' holds more than {MOST_CLASSES} different values under a few chips: "
            "it is no raster of classes. Use --task number."
        )
    counts = np.bincount(chip * max(len(classes), 1) + code, minlength=len(rows) * len(classes))
    at = np.flatnonzero(counts)
    which, kind = np.divmod(at, max(len(classes), 1))
    return Seen(rows[which], classes[kind].astype(np.float64), counts[at] / total[which], empty)


def _codes(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the different values, and the position of each value among them."""
    if not len(values):
        return values, np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > MOST_RANGE:
        classes, code = np.unique(values, return_inverse=True)
        return classes, code
    offset = values.astype(np.int64) - low
    there = np.flatnonzero(np.bincount(offset))
    place = np.zeros(high - low + 1, np.int64)
    place[there] = np.arange(len(there))
    return there + low, place[offset]
