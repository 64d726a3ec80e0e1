"""Dense vectors: one for every cell of a scene, computed window by window where they are used.

The scene is divided into cells of ``stride_px`` pixels from its first corner (row 0, column 0), or
that of the scene it was cut from; cells at the edge may reach over it. A cell's vector is that of
the chip of ``chip_px`` pixels centred on the cell. Where stride and chip are not both even or both
odd, no chip of whole pixels is centred there: the chip lies half a pixel towards the first corner,
and so does the grid of the vectors. With a stride of the chip's size the cells are the chips of
the regular grid. In pixels, along each axis, for cell i of stride s and chip size h (of a scene
that was not cut):

    first pixel of the chip   i * s + floor((s - h) / 2)
    centre of the chip        i * s + floor((s - h) / 2) + h / 2   = centre of cell i of the grid

A cell whose chip leaves the scene or has too little data is not valid: its vector is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from embeddings.encoders import Encoder
from embeddings.encoding import normalise
from embeddings.errors import InputError
from embeddings.sources.chips import BATCH_CHIPS, cut
from embeddings.sources.placed import PlacedScene
from embeddings.spec import Preprocessing

TILE_SIDE = 256
TILE_BYTES = 64 * 2**20
"""A tile has at most that many cells a side, and vectors of that many bytes as float32."""
SIDE_STEP = 16
"""Sides of tiles are multiples of this, as the blocks of a TIFF are."""
AREA_BYTES = 64 * 2**20
"""Pixels that are read at once."""
BLOCK_BYTES = 32 * 2**20
"""Chips that are cut at once; where they overlap they take more than the pixels they are of."""

Pair = tuple[int, int]
"""Rows and columns, in this order."""


@runtime_checkable
class DenseEncoder(Protocol):
    """An encoder that knows a faster way to vectors of overlapping chips than one by one."""

    def dense(
        self, pixels: NDArray[np.float32], chip_px: Pair, stride_px: Pair
    ) -> NDArray[np.float32]:
        """Encode all whole chips of a window at once.

        ``pixels`` are ``(bands, height, width)``, as ``encode`` wants them and without gaps.
        Returns ``(rows, cols, dim) float32``, where row i is of the chips from pixel row
        ``i * stride_px[0]``: what ``encode`` gives for each, to 1e-5 of the vector's length.
        """


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of cells."""

    row: int
    col: int
    height: int
    width: int

    @property
    def cells(self) -> int:
        """How many cells it has."""
        return self.height * self.width

    def common(self, other: Tile) -> Tile | None:
        """Return the cells that both have, or None."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row + self.height, other.row + other.height) - row
        width = min(self.col + self.width, other.col + other.width) - col
        return Tile(row, col, height, width) if height > 0 and width > 0 else None

    def split(self, most: Pair) -> Iterator[Tile]:
        """Divide it into rectangles of ``most`` (rows, columns), the last ones smaller."""
        for row in range(self.row, self.row + self.height, most[0]):
            for col in range(self.col, self.col + self.width, most[1]):
                height = min(most[0], self.row + self.height - row)
                yield Tile(row, col, height, min(most[1], self.col + self.width - col))


@dataclass(frozen=True, slots=True)
class DenseGrid:
    """Where the cells of a scene and their chips lie; pure arithmetic on pixels."""

    scene_px: Pair
    chip_px: Pair
    stride_px: Pair
    start_px: Pair = (0, 0)
    """Where the first cell begins: at the scene's first pixel or up to a stride before it."""

    @classmethod
    def of(cls, scene: PlacedScene, chip_px: Pair, stride_px: Pair) -> Self:
        """Return the grid of a scene; one that was cut out of another has cells of that one's."""
        top, left = (first % step for first, step in zip(scene.first_px, stride_px, strict=True))
        return cls((scene.height, scene.width), chip_px, stride_px, (-top, -left))

    @property
    def rows(self) -> int:
        """Rows of cells; they cover the scene."""
        return -((self.start_px[0] - self.scene_px[0]) // self.stride_px[0])

    @property
    def cols(self) -> int:
        """Columns of cells."""
        return -((self.start_px[1] - self.scene_px[1]) // self.stride_px[1])

    @property
    def whole(self) -> Tile:
        """All cells."""
        return Tile(0, 0, self.rows, self.cols)

    def chip_corner(self, row: int, col: int) -> Pair:
        """Return the first pixel row and column of a cell's chip; it may lie outside."""
        (down, right), (height, width) = self.stride_px, self.chip_px
        top, left = self.start_px
        return top + row * down + (down - height) // 2, left + col * right + (right - width) // 2

    def edges(self, tile: Tile) -> tuple[float, float, float, float]:
        """Return top, left, bottom and right of the cells, in pixels of the scene."""
        top, left = self.chip_corner(tile.row, tile.col)
        (down, right), (height, width) = self.stride_px, self.chip_px
        top_edge, left_edge = top + (height - down) / 2, left + (width - right) / 2
        return top_edge, left_edge, top_edge + tile.height * down, left_edge + tile.width * right

    def transform(self, scene: Affine, tile: Tile) -> Affine:
        """Return the affine transform of a tile's cells, given that of the scene's pixels."""
        top, left, _, _ = self.edges(tile)
        down, right = self.stride_px
        return scene @ Affine.translation(left, top) @ Affine.scale(right, down)

    def check(self, tile: Tile) -> None:
        """Raise InputError if cells are asked for that the grid does not have."""
        down = 0 <= tile.row < tile.row + tile.height <= self.rows
        if not (down and 0 <= tile.col < tile.col + tile.width <= self.cols):
            raise InputError(
                f"The window of {tile.height} x {tile.width} cells from row {tile.row}, column "
                f"{tile.col} leaves the scene's grid of {self.rows} x {self.cols} cells. Choose "
                "one inside."
            )

    def inside(self, tile: Tile) -> Tile | None:
        """Return the cells of a tile whose chips lie inside the scene, or None."""
        low, count = [], []
        for axis, first in enumerate(self.chip_corner(0, 0)):
            step = self.stride_px[axis]
            low.append(-(first // step))
            last = (self.scene_px[axis] - self.chip_px[axis] - first) // step
            count.append(last - low[axis] + 1)
        return tile.common(Tile(low[0], low[1], count[0], count[1]))

    def pixels(self, tile: Tile) -> tuple[int, int, int, int]:
        """Return row, column, height and width of the window of all the tile's chips."""
        row, col = self.chip_corner(tile.row, tile.col)
        (down, right), (height, width) = self.stride_px, self.chip_px
        return row, col, (tile.height - 1) * down + height, (tile.width - 1) * right + width

    def most_read(self, bands: int) -> Pair:
        """Return rows and columns of cells whose window takes AREA_BYTES at most, if one does."""
        (down, right), (height, width) = self.stride_px, self.chip_px
        values = max(1, AREA_BYTES // (4 * bands))
        cols = max(1, min(self.cols, (values // height - width) // right + 1))
        across = (cols - 1) * right + width
        return max(1, min(self.rows, (values // across - height) // down + 1)), cols

    def most_cut(self, bands: int, cols: int) -> Pair:
        """Return rows and columns of cells whose chips take BLOCK_BYTES at most, if one does."""
        size = 4 * bands * self.chip_px[0] * self.chip_px[1]
        most = max(1, min(BATCH_CHIPS, BLOCK_BYTES // size))
        cols = min(cols, most)
        return most // cols, cols


@dataclass(frozen=True, slots=True)
class DenseWindow:
    """The vectors of a rectangle of cells."""

    vectors: NDArray[np.float32]
    """``(rows, cols, dim)``; NaN where not valid."""
    valid: NDArray[np.bool_]
    """``(rows, cols)``"""
    transform: Affine
    """Column and row of this window (0, 0 is its first corner) to x and y of the scene's CRS."""
    row: int
    """The window's first row of cells in the scene."""
    col: int


def tile_side(dim: int) -> int:
    """Return how many cells a side a tile of vectors of this length has."""
    side = min(TILE_SIDE, math.isqrt(TILE_BYTES // (4 * dim)))
    return max(SIDE_STEP, side // SIDE_STEP * SIDE_STEP)


def dense_window(
    scene: PlacedScene,
    encoder: Encoder,
    pre: Preprocessing,
    chip_px: Pair,
    stride: Pair,
    row: int,
    col: int,
    height: int,
    width: int,
    encoded: Callable[[int], None] = lambda _cells: None,
) -> DenseWindow:
    """Compute the vectors of ``height`` x ``width`` cells from cell (``row``, ``col``) on.

    ``encoded(cells)`` is called after every block of chips, and may raise to stop.

    Besides the result, memory holds AREA_BYTES of pixels and BLOCK_BYTES of chips, and what the
    encoder makes of them. Raises InputError if the window leaves the grid, SourceError if the
    scene cannot be read there.
    """
    grid = DenseGrid.of(scene, chip_px, stride)
    tile = Tile(row, col, height, width)
    grid.check(tile)
    vectors = np.full((height, width, encoder.dim), np.nan, dtype=np.float32)
    valid = np.zeros((height, width), dtype=bool)
    inside = grid.inside(tile)
    for area in inside.split(grid.most_read(len(scene.bands))) if inside else ():
        here = np.s_[area.row - row :, area.col - col :]
        _encode_area(scene, encoder, pre, grid, area, vectors[here], valid[here], encoded)
    return DenseWindow(vectors, valid, grid.transform(scene.transform, tile), row, col)


def dense_windows(
    scene: PlacedScene,
    encoder: Encoder,
    pre: Preprocessing,
    chip_px: Pair,
    stride: Pair,
    side: int | None = None,
) -> Iterator[DenseWindow]:
    """Yield all cells of a scene in tiles of ``side`` cells, row by row; see ``tile_side``."""
    grid = DenseGrid.of(scene, chip_px, stride)
    side = side or tile_side(encoder.dim)
    for tile in grid.whole.split((side, side)):
        yield dense_window(
            scene, encoder, pre, chip_px, stride, tile.row, tile.col, tile.height, tile.width
        )


def _encode_area(
    scene: PlacedScene,
    encoder: Encoder,
    pre: Preprocessing,
    grid: DenseGrid,
    area: Tile,
    vectors: NDArray[np.float32],
    valid: NDArray[np.bool_],
    encoded: Callable[[int], None],
) -> None:
    """Encode cells whose pixels are read at once, into arrays that begin at the area's corner."""
    (down, right), (top, left, height, width) = grid.stride_px, grid.pixels(area)
    values, there = scene.read(top, left, height, width)
    at_once = isinstance(encoder, DenseEncoder) and bool(there.any())
    if isinstance(encoder, DenseEncoder) and at_once:
        whole = np.where(there, values, values[:, there].mean(axis=1)[:, None, None])
        found = encoder.dense(normalise(whole, pre), grid.chip_px, grid.stride_px)
    for block in area.split(grid.most_cut(len(scene.bands), area.width)):
        row, col, rows, cols = grid.pixels(block)
        part = np.s_[row - top : row - top + rows, col - left : col - left + cols]
        r, c = block.row - area.row, block.col - area.col
        if at_once and there[part].all():
            cells = np.s_[r : r + block.height, c : c + block.width]
            vectors[cells], valid[cells] = found[cells], True
        else:
            # A chip's gaps are filled with the mean of its own pixels: it is encoded by itself.
            tops, lefts = np.arange(block.height) * down, np.arange(block.width) * right
            chips = cut(values[:, *part], there[part], grid.chip_px, tops, lefts, pre.min_valid)
            if len(chips.place):
                at = r + chips.place[:, 0], c + chips.place[:, 1]
                vectors[at] = encoder.encode(normalise(chips.pixels, pre))
                valid[at] = True
        encoded(block.cells)
