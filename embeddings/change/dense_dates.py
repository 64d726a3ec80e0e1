"""Dense vectors of several dates on one grid of cells, read window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from embeddings.change.places import points
from embeddings.dense import Tile
from embeddings.dense_files import StoredDense
from embeddings.errors import InputError
from embeddings.probe.predict_grids import MOST_PIXELS
from embeddings.sources.grids import TargetGrid, applied
from embeddings.store.collection import Collection
from embeddings.types import Bounds

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

ASIDE = 0.1
"""Cells of two dates that lie beside each other by less than this share of a cell are one place."""
HALF = 0.51
"""Of two chip sizes: chips with an odd and an even side are centred half a pixel apart."""
WINDOW_BYTES = 256 * 2**20
"""Vectors of all dates and scales that are in memory at once, if a window of 16 cells fits."""
SIDES = (256, 192, 128, 64, 32, 16)


@dataclass(frozen=True, eq=False)
class Layer:
    """The vectors of a scene, from cell (``row``, ``col``) of the common grid on."""

    stored: StoredDense
    row: int
    col: int

    @property
    def tile(self) -> Tile:
        """Its cells on the common grid."""
        return replace(self.stored.dense.grid.whole, row=self.row, col=self.col)


@dataclass(frozen=True, eq=False)
class Scale:
    """Dense vectors of one collection: for each date its scenes, the first to be asked first."""

    collections: tuple[Collection, ...]
    """Of each date."""
    dates: tuple[tuple[Layer, ...], ...]
    chip_m: float
    """The smaller side of a chip on the ground."""

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.collections[0].spec.dim

    def read(self, date: int, tile: Tile) -> Floats:
        """Return vectors ``(rows, cols, dim)`` of a window of the common grid, NaN without.

        Where scenes of a date lie over each other, the first that has a vector is taken.
        """
        out = np.full((tile.height, tile.width, self.dim), np.nan, np.float32)
        for layer in self.dates[date]:
            common = layer.tile.common(tile)
            if common is None:
                continue
            row, col = common.row - tile.row, common.col - tile.col
            here = out[row : row + common.height, col : col + common.width]
            missing = ~np.isfinite(here[:, :, 0])
            if missing.any():
                own = replace(common, row=common.row - layer.row, col=common.col - layer.col)
                here[missing] = layer.stored.read(own).vectors[missing]
        return out


@dataclass(frozen=True, eq=False)
class DenseDates:
    """Cells at several dates, of one chip size or of several (``scales``, those of places first).

    A cell is a place where the first scale has a vector at all dates.
    """

    grid: TargetGrid
    labels: tuple[str, ...]
    scales: tuple[Scale, ...]

    @property
    def count(self) -> int:
        """How many cells the grid has."""
        return self.grid.height * self.grid.width

    @cached_property
    def tiles(self) -> list[Tile]:
        """The windows that are read at once, row by row."""
        cell = 4 * len(self.labels) * sum(scale.dim for scale in self.scales)
        side = next((s for s in SIDES if cell * s * s <= WINDOW_BYTES), SIDES[-1])
        return list(Tile(0, 0, self.grid.height, self.grid.width).split((side, side)))

    def xyz(self, tile: Tile, cells: Ints) -> Doubles:
        """Return where cells of a window (row times width plus column) lie, ``(n, 3)`` metres."""
        row, col = np.divmod(cells, tile.width)
        return points(*self.grid.xy(col + tile.col + 0.5, row + tile.row + 0.5))


def on_one_grid(
    labels: Sequence[str],
    collections: Sequence[Sequence[Collection]],
    found: Sequence[Sequence[Sequence[StoredDense]]],
    bounds: Bounds | None = None,
) -> DenseDates:
    """Lay scenes on the grid of the first; ``found``: by scale, by date, its scenes in order.

    The grid holds all scenes of the first scale, or the part of it that meets ``bounds``. Raises
    InputError if their cells do not lie on one grid.
    """
    anchor = found[0][0][0]
    scales = [
        _scale(anchor, owners, dates) for owners, dates in zip(collections, found, strict=True)
    ]
    tiles = [[layer.tile for layer in date] for date in scales[0].dates]
    box = _around([tile for date in tiles for tile in date])
    if box.cells > MOST_PIXELS:
        raise InputError(
            f"The scenes of {', '.join(labels)} span {box.height:,} x {box.width:,} cells, and "
            f"{MOST_PIXELS:,} are the most. Choose a part with --bbox."
        )
    whole = _grid(anchor).part(box.row, box.col, box.height, box.width)
    part = Tile(0, 0, box.height, box.width)
    if bounds is not None:
        part = Tile(*whole.window(bounds.west_south_east_north()))
    top, left = box.row + part.row, box.col + part.col
    moved = tuple(_moved(scale, top, left) for scale in scales)
    grid = whole.part(part.row, part.col, part.height, part.width)
    return DenseDates(grid, tuple(labels), moved)


def _scale(
    anchor: StoredDense, owners: Sequence[Collection], dates: Sequence[Sequence[StoredDense]]
) -> Scale:
    first = dates[0][0]
    base = _offset(anchor, first, HALF)
    layers = []
    for date in dates:
        offsets = [_offset(first, stored, ASIDE) for stored in date]
        layers.append(
            tuple(
                Layer(stored, base[0] + row, base[1] + col)
                for stored, (row, col) in zip(date, offsets, strict=True)
            )
        )
    dense, metres = first.dense, _grid(first).pixel_m
    sides = (
        chip / stride * cell
        for chip, stride, cell in zip(dense.chip_px, dense.stride_px, metres, strict=True)
    )
    return Scale(tuple(owners), tuple(layers), min(sides))


def _grid(stored: StoredDense) -> TargetGrid:
    dense = stored.dense
    return TargetGrid(dense.crs, Affine(*dense.transform), dense.grid.cols, dense.grid.rows)


def _offset(first: StoredDense, other: StoredDense, slack: float) -> tuple[int, int]:
    """Return the row and column of ``first``'s grid at which that of ``other`` begins.

    Raises InputError, with the reason, if the two are no parts of one grid.
    """
    one, two = _grid(first), _grid(other)
    names = (
        f"scene '{other.dense.scene}' of '{other.collection.id}' and scene "
        f"'{first.dense.scene}' of '{first.collection.id}'"
    )
    if one.crs_wkt != two.crs_wkt and not pyproj.CRS.equals(one.crs, two.crs):
        raise InputError(
            f"The cells of {names} lie in two CRS, {two.crs.name} and {one.crs.name}, so they are "
            f"not the same places. {_ADVICE}"
        )
    corners = np.array([[0, 0], [two.width, 0], [0, two.height], [two.width, two.height]], float)
    col, row = one.pixels(*applied(two.transform, *corners.T))
    away = np.stack([row, col], axis=1) - corners[:, ::-1]
    # Half a cell is rounded the same way everywhere, whatever the last digits are.
    whole = np.floor(away[0] + 0.49)
    off = np.abs(away - whole).max(axis=1)
    if off[0] > slack:
        down, right = np.abs(away[0] - np.round(away[0]))
        raise InputError(
            f"The cells of {names} lie beside each other by {down:.2f} of a "
            f"cell down and {right:.2f} across: a vector describes its own chip, and none can be "
            f"made for a place between two. {_ADVICE}"
        )
    if off.max() > max(slack, off[0] + ASIDE):
        sizes = (" x ".join(f"{side:.6g}" for side in grid.res) for grid in (two, one))
        raise InputError(
            f"The cells of {names} differ in size or direction: "
            f"{' and '.join(sizes)} in units of the CRS. {_ADVICE}"
        )
    return int(whole[0]), int(whole[1])


_ADVICE = (
    "Embed both dates with one --dense stride from images on one grid, or compare the images with "
    "'terrakin change raster', which resamples them."
)


def _around(tiles: Sequence[Tile]) -> Tile:
    top, left = min(tile.row for tile in tiles), min(tile.col for tile in tiles)
    bottom = max(tile.row + tile.height for tile in tiles)
    right = max(tile.col + tile.width for tile in tiles)
    return Tile(top, left, bottom - top, right - left)


def _moved(scale: Scale, top: int, left: int) -> Scale:
    """Count the cells of a scale from another first cell."""
    dates = [
        tuple(replace(layer, row=layer.row - top, col=layer.col - left) for layer in date)
        for date in scale.dates
    ]
    return replace(scale, dates=tuple(dates))
