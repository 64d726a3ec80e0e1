"""Chips as Major TOM's embeddings have them: equal fragments of the image of each 10 km cell.

The image of a cell is 1,068 x 1,068 pixels of 10 m in the UTM zone of the cell's south-west
corner, which lies 340 m inside its lower left corner. How many fragments fit and how far they
overlap follows ESA-PhiLab/Major-TOM (embedder/grid_cell_fragment.py at f7078cd). Its published
polygons are transposed inside the cell: there the fragment of row 0, column 1 is drawn south of
the first one, though its pixels lie east of it. Here a fragment lies where its pixels are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.grid import MajorTomGrid
from embeddings.sources.chips import Batch, ChipsRead, cut
from embeddings.sources.footprints import polygons
from embeddings.sources.grids import TargetGrid
from embeddings.sources.placed import PlacedScene
from embeddings.spec import ChipLayout
from embeddings.store.order import hilbert_index
from embeddings.types import Bounds

CELL_KM = 10.0
IMAGE_PX = 1068
PIXEL_M = 10.0
MARGIN_M = (IMAGE_PX * PIXEL_M - 1000 * CELL_KM) / 2
"""How far the image reaches beyond the cell's corner to the south and west."""
TARGET_OVERLAP = 0.1
LEAST_PX = 16
OVERHANG_DEGREES = 0.02
"""More than an image reaches beyond its cell: northward; divided by the cosine, eastward."""


def parse_fragment(chip: str) -> int | None:
    """Read "majortom:224", the side of the fragments in pixels; None for any other size.

    Raises InputError.
    """
    kind, separator, size = chip.strip().lower().partition(":")
    if kind != "majortom":
        return None
    if not separator or not re.fullmatch(r"\d{1,4}", size):
        raise InputError(f"'{chip}' is not a fragment. Give its pixels, for example majortom:224.")
    if not LEAST_PX <= int(size) <= IMAGE_PX:
        raise InputError(
            f"A fragment of {size} pixels cannot be cut from Major TOM's images: give "
            f"{LEAST_PX} to {IMAGE_PX}, for example majortom:224."
        )
    return int(size)


def fragment_offsets(fragment_px: int, image_px: int = IMAGE_PX) -> tuple[NDArray[np.int64], int]:
    """Return the first pixels of the fragments along one side of an image, and their stride.

    Neighbours overlap by about a tenth; of some sizes (333, 500) so few are cut that gaps stay
    between them, as in the published data. Where the stride does not end at the border, the last
    fragment is moved there.
    """
    free = image_px - fragment_px
    if free == 0:
        return np.zeros(1, np.int64), fragment_px
    steps = max(1, round(free / (fragment_px - TARGET_OVERLAP * fragment_px)))
    stride = fragment_px - math.ceil(fragment_px - free / steps)
    offsets = np.arange(steps + 1, dtype=np.int64) * stride
    offsets[-1] = free
    return offsets, stride


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells ``(n,)`` and the upper left corners of their images, in their UTM zones."""

    row: NDArray[np.int32]
    col: NDArray[np.int32]
    epsg: NDArray[np.int32]
    left: NDArray[np.float64]
    top: NDArray[np.float64]

    def part(self, chosen: NDArray[Any]) -> _Cells:
        return _Cells(*(a[chosen] for a in (self.row, self.col, self.epsg, self.left, self.top)))


class FragmentPlan:
    """The fragments of all cells whose images meet a scene; one batch is one cell.

    A place ``(n, 3)`` is the cell's number (cells from the south-west on, row by row), and row
    and column of the fragment in the cell's image, from the north-west. Images are warped from
    the scene (bilinear), unless the scene is such an image itself.
    """

    def __init__(self, scene: PlacedScene, fragment_px: int) -> None:
        self.scene = scene
        self.offsets, stride = fragment_offsets(fragment_px)
        asked = f"majortom:{fragment_px}"
        self.layout = ChipLayout(asked, asked, (fragment_px,) * 2, (stride,) * 2)
        self._grid = MajorTomGrid(CELL_KM)
        cells = self._cells_near()
        own = self._own_image(cells)
        self._is_image = own is not None
        self._cells = self._meeting(cells) if own is None else own
        if not len(self._cells.row):
            raise InputError(
                "No cell of the Major TOM grid meets the scene: the grid ends at 85 degrees north "
                "and south. Choose a --chip in pixels or metres."
            )
        self.cells: tuple[str, ...] = tuple(
            self._grid.names(self._cells.row, self._cells.col).tolist()
        )

    @property
    def chips(self) -> int:
        """How many fragments are planned, with or without data."""
        return len(self.cells) * len(self.offsets) ** 2

    def to_json(self) -> dict[str, Any]:
        """Return where the fragments lie."""
        return {
            "kind": "majortom-fragments",
            "cells": list(self.cells),
            "fragment_px": self.layout.chip_px[0],
            "stride": self.layout.stride_px[0],
            "offsets": self.offsets.tolist(),
        }

    def batches(self) -> list[Batch]:
        """Return one batch for each cell."""
        side = len(self.offsets)
        return [Batch(number, 0, side, 0, side) for number in range(len(self.cells))]

    def read(self, batch: Batch, min_valid: float = 1.0) -> ChipsRead:
        """Read the fragments of a cell; one with a smaller share of data is absent.

        Raises SourceError if the files cannot be read there.
        """
        if self._is_image:
            values, valid = self.scene.read(0, 0, IMAGE_PX, IMAGE_PX)
        else:
            with self.scene.onto(self.image_grid(batch.number)) as image:
                values, valid = image.read(0, 0, IMAGE_PX, IMAGE_PX)
        found = cut(values, valid, self.layout.chip_px, self.offsets, self.offsets, min_valid)
        return found.within(batch.number)

    def image_grid(self, cell: int) -> TargetGrid:
        """Return the pixels of a cell's image."""
        left, top = float(self._cells.left[cell]), float(self._cells.top[cell])
        transform = Affine(PIXEL_M, 0.0, left, 0.0, -PIXEL_M, top)
        return TargetGrid(_utm_wkt(int(self._cells.epsg[cell])), transform, IMAGE_PX, IMAGE_PX)

    def sample_rows(self, most: int) -> Iterator[Batch]:
        """Yield the batches of up to ``most`` cells, evenly spread over the list of cells."""
        batches = self.batches()
        chosen = np.linspace(0, len(batches) - 1, min(most, len(batches))).round().astype(int)
        for number in np.unique(chosen):
            yield batches[number]

    def centres(self, place: NDArray[np.int64]) -> tuple[Any, Any]:
        """Return lon, lat ``(n,)`` degrees of the centres of fragments ``(n, 3)``."""
        half = self.layout.chip_px[0] / 2
        top, left = self.offsets[place[:, 1]], self.offsets[place[:, 2]]
        return self._lonlat(place[:, 0], left + half, top + half)

    def footprints(self, place: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return footprints (shapely, OGC:CRS84) and boxes ``(n, 4)`` xmin ymin xmax ymax."""
        side = float(self.layout.chip_px[0])
        col = self.offsets[place[:, 2], None] + np.array([0.0, 0.0, side, side])
        row = self.offsets[place[:, 1], None] + np.array([0.0, side, side, 0.0])
        lon, lat = self._lonlat(place[:, 0].repeat(4), col.ravel(), row.ravel())
        return polygons(lon.reshape(-1, 4), lat.reshape(-1, 4))

    def names(self, scene_id: str, place: NDArray[np.int64]) -> list[str]:
        """Return the ids: scene, cell, row and column of the fragment."""
        return [f"{scene_id}_{self.cells[cell]}_{row}_{col}" for cell, row, col in place.tolist()]

    def order(self, place: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return where fragments ``(n, 3)`` stand on a Hilbert curve through all of the cells."""
        side = len(self.offsets)
        cell_row = (self._cells.row.max() - self._cells.row).astype(np.int64)
        cell_col = (self._cells.col - self._cells.col.min()).astype(np.int64)
        row = cell_row[place[:, 0]] * side + place[:, 1]
        col = cell_col[place[:, 0]] * side + place[:, 2]
        largest = (int(max(cell_row.max(), cell_col.max())) + 1) * side - 1
        return hilbert_index(row, col, max(1, largest.bit_length()))

    def _lonlat(
        self, cell: NDArray[np.int64], col: NDArray[Any], row: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn columns and rows in the images of cells into degrees, all ``(n,)``."""
        lon, lat = np.empty(len(cell)), np.empty(len(cell))
        x = self._cells.left[cell] + col * PIXEL_M
        y = self._cells.top[cell] - row * PIXEL_M
        zones = self._cells.epsg[cell]
        for epsg in np.unique(zones):
            here = zones == epsg
            lon[here], lat[here] = _to_utm(int(epsg)).transform(
                x[here], y[here], direction="INVERSE"
            )
        return (lon + 180.0) % 360.0 - 180.0, lat

    def _cells_near(self) -> _Cells:
        """Return the cells in and around the scene's box, from the south-west on."""
        west, south, east, north = self.scene.grid.bounds
        south, north = max(-90.0, south - OVERHANG_DEGREES), min(90.0, north + OVERHANG_DEGREES)
        shrunk = math.cos(math.radians(min(85.0, max(abs(south), abs(north)))))
        wider = OVERHANG_DEGREES / shrunk
        width = (east - west) % 360.0 or (360.0 if east != west else 0.0)
        if width + 2 * wider >= 360.0:
            west, east = -180.0, 180.0
        else:
            west, east = ((side + 180.0) % 360.0 - 180.0 for side in (west - wider, east + wider))
        row, col = self._grid.cells_in(Bounds(west, south, east, north))
        ordered = np.lexsort((col, row))
        row, col = row[ordered], col[ordered]
        lon, lat = self._grid.corner(row, col)
        epsg = self._grid.utm_epsg(row, col)
        x, y = np.empty(len(row)), np.empty(len(row))
        for zone in np.unique(epsg):
            here = epsg == zone
            x[here], y[here] = _to_utm(int(zone)).transform(lon[here], lat[here])
        return _Cells(row, col, epsg, x - MARGIN_M, y - MARGIN_M + IMAGE_PX * PIXEL_M)

    def _own_image(self, cells: _Cells) -> _Cells | None:
        """Return the one cell whose image the scene is, at the image's own corner, if it is one."""
        grid = self.scene.grid
        t = grid.transform
        steps = (t.a, t.b, t.d, t.e)
        if (grid.width, grid.height) != (IMAGE_PX, IMAGE_PX) or not np.allclose(
            steps, (PIXEL_M, 0.0, 0.0, -PIXEL_M), rtol=1e-9, atol=1e-9
        ):
            return None
        near = (np.abs(cells.left - t.c) < PIXEL_M) & (np.abs(cells.top - t.f) < PIXEL_M)
        for i in np.flatnonzero(near):
            if grid.crs == pyproj.CRS.from_epsg(int(cells.epsg[i])):
                own = cells.part(np.array([i]))
                return _Cells(own.row, own.col, own.epsg, np.array([t.c]), np.array([t.f]))
        return None

    def _meeting(self, cells: _Cells) -> _Cells:
        """Keep the cells whose images meet the outline of the scene."""
        lon, lat = self.scene.outline(points=64)
        meets = np.ones(len(cells.row), dtype=bool)
        side = IMAGE_PX * PIXEL_M
        for zone in np.unique(cells.epsg):
            x, y = _to_utm(int(zone)).transform(lon, lat)
            outline = shapely.Polygon(np.stack([x, y], axis=1))
            # Far outside its zone UTM may turn an outline over; then all of the cells are tried.
            if not (np.isfinite(x).all() and np.isfinite(y).all() and outline.is_valid):
                continue
            here = np.flatnonzero(cells.epsg == zone)
            left, top = cells.left[here], cells.top[here]
            images = shapely.box(left, top - side, left + side, top)
            meets[here] = shapely.area(shapely.intersection(images, outline)) > 0
        return cells.part(meets)


@lru_cache(maxsize=128)
def _to_utm(epsg: int) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs("OGC:CRS84", f"EPSG:{epsg}", always_xy=True)


@lru_cache(maxsize=128)
def _utm_wkt(epsg: int) -> str:
    return pyproj.CRS.from_epsg(epsg).to_wkt()
