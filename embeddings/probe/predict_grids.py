"""Where the chips of a collection lie in one raster: a pixel a chip, without seams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
from affine import Affine
from numpy.typing import NDArray

from embeddings.errors import InputError, StoreFormatError
from embeddings.grid import MajorTomGrid
from embeddings.probe.predict_scoring import Chunk
from embeddings.store.collection import Collection, Scene

ALIGNED = 0.01
"""Chips whose grids are apart by less than this share of the stride lie on one grid."""
MOST_PIXELS = 4_000_000_000
ON_THE_EDGE = 1e-6
"""Of a pixel: a centre so near to the edge of a cell lies on it, whichever cell is asked."""
SAMPLED = 64
"""Of so many rows of each chunk it is checked that they are cells of the grid."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """The pixels of a raster: ``transform`` takes (column, row) to x and y of the CRS."""

    crs: str
    transform: Affine
    height: int
    width: int

    def part(self, top: int, bottom: int, left: int, right: int) -> Frame:
        """Return the frame of some rows and columns."""
        moved = self.transform @ Affine.translation(left, top)
        return Frame(self.crs, moved, bottom - top, right - left)


class Pixels(Protocol):
    """Says which pixels the rows of a collection are."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it needs of each row."""

    @property
    def whole(self) -> bool:
        """Whether the frame says where chips could be; else it is only where any could be."""

    @property
    def frame(self) -> Frame:
        """The pixels of the raster."""

    def of(self, chunk: Chunk) -> tuple[Ints, Ints]:
        """Return numbers of rows of the chunk ``(m,)``, and the pixels ``(m,)`` they fill.

        A pixel is row times the frame's width, plus column. A row may fill several.
        """


def pixels_of(collection: Collection, scenes: Sequence[Scene]) -> Pixels:
    """Find the raster for scenes of a collection. Raises InputError if no one raster fits all."""
    if collection.spec.layout is None and all(scene.grid is None for scene in scenes):
        return CellPixels(collection)
    return ChipPixels(collection, scenes)


class ChipPixels:
    """Scenes cut into regular grids of chips: a pixel of the size of the stride round each centre.

    Scenes share one raster if their CRS and stride are the same and their chips lie on one grid.
    """

    columns = ("id",)
    whole = True

    def __init__(self, collection: Collection, scenes: Sequence[Scene]) -> None:
        first, *others = [_scene_frame(collection, scene) for scene in scenes]
        places = [(0, 0)]
        for scene, frame in zip(scenes[1:], others, strict=True):
            places.append(_offset(first, frame, scenes[0], scene))
        rows, cols = np.array(places).T
        top, left = int(rows.min()), int(cols.min())
        frames = [first, *others]
        height = max(row + f.height for f, row in zip(frames, rows, strict=True)) - top
        width = max(col + f.width for f, col in zip(frames, cols, strict=True)) - left
        _check_size(int(height), int(width))
        self.frame = Frame(
            first.crs,
            first.transform @ Affine.translation(left, top),
            int(height),
            int(width),
        )
        self._places = {
            scene.id: (row - top, col - left)
            for scene, (row, col) in zip(scenes, places, strict=True)
        }
        self._sizes = {s.id: (f.height, f.width) for s, f in zip(scenes, frames, strict=True)}

    def of(self, chunk: Chunk) -> tuple[Ints, Ints]:
        """Return all rows, and the pixels of their chips. Raises StoreFormatError."""
        scene = chunk.scene.id
        found = pc.extract_regex(chunk.rows["id"], r"_(?P<row>[0-9]+)_(?P<col>[0-9]+)$")
        if found.null_count:
            raise StoreFormatError(
                f"The ids of scene '{scene}' are not those of chips (SCENE_ROW_COLUMN), although "
                "its grid is known. Write .gpkg or .parquet instead."
            )
        row, col = (
            pc.struct_field(found, name).cast(pa.int64()).to_numpy() for name in ("row", "col")
        )
        (top, left), (height, width) = self._places[scene], self._sizes[scene]
        if len(row) and (row.max() >= height or col.max() >= width):
            raise StoreFormatError(
                f"A chip of scene '{scene}' lies outside its grid of {height} x {width} chips. "
                "Run 'terrakin verify'."
            )
        return np.arange(len(row)), (row + top) * self.frame.width + (col + left)


class CellPixels:
    """Cells of a Major TOM grid, in degrees: a row of pixels for each row of cells.

    Rows of cells hold fewer cells towards the poles. A pixel is as wide as the narrowest cell at
    most, and gets the cell that its centre lies in; so no cell is lost, and some fill several.
    """

    columns = ("id", "lon", "lat")
    whole = False

    def __init__(self, collection: Collection) -> None:
        self._collection = collection.id
        self._grid = MajorTomGrid(collection.spec.grid_km)
        rows = np.arange(self._grid.first_row, self._grid.last_row + 1, dtype=np.int32)
        width = int(self._grid.columns(rows)[1].max())
        _check_size(len(rows), width)
        south, north = self._grid.south_limit, self._grid.north_limit
        self._pixel = 360.0 / width
        self.frame = Frame(
            pyproj.CRS.from_epsg(4326).to_wkt(),
            Affine(self._pixel, 0.0, -180.0, 0.0, -(north - south) / len(rows), north),
            len(rows),
            width,
        )

    def of(self, chunk: Chunk) -> tuple[Ints, Ints]:
        """Return each row as often as its cell has pixels, and these. Raises InputError."""
        lon, lat = (chunk.rows[name].to_numpy() for name in ("lon", "lat"))
        row, col = self._grid.cells(lon, lat)
        some = slice(None, None, max(1, len(row) // SAMPLED))
        names = self._grid.names(row[some], col[some]).tolist()
        if names != chunk.rows["id"].take(np.arange(len(row))[some]).to_pylist():
            raise InputError(
                f"The rows of collection '{self._collection}' are not the cells of a grid, so they "
                "have no raster. Write .gpkg or .parquet instead: they hold the footprints."
            )
        west, _, east, _ = self._grid.footprint(row, col)
        # The last cell of a row may cross the antimeridian.
        east = np.where(east <= west, east + 360.0, east)
        first = self._first_centre(west)
        count = self._first_centre(east) - first
        rows = np.repeat(np.arange(len(row)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        column = (first[rows] + within) % self.frame.width
        line = self._grid.last_row - row.astype(np.int64)
        return rows, line[rows] * self.frame.width + column

    def _first_centre(self, edge: NDArray[np.float64]) -> Ints:
        """Return the first column whose centre lies east of an edge; on it is not east of it."""
        return np.floor((edge + 180.0) / self._pixel - 0.5 + ON_THE_EDGE).astype(np.int64) + 1


def _scene_frame(collection: Collection, scene: Scene) -> Frame:
    grid = scene.grid
    if grid is None or "transform" not in grid:
        raise InputError(
            f"Scene '{scene.id}' of collection '{collection.id}' is no regular grid of chips, so "
            "it has no raster. Write .gpkg or .parquet instead: they hold the footprints."
        )
    (height, width), (down, right) = grid["chip_px"], grid["stride_px"]
    corner = Affine.translation((width - right) / 2, (height - down) / 2)
    transform = Affine(*grid["transform"]) @ corner @ Affine.scale(right, down)
    return Frame(grid["crs"], transform, int(grid["rows"]), int(grid["cols"]))


def _offset(first: Frame, other: Frame, one: Scene, two: Scene) -> tuple[int, int]:
    """Return rows and columns from one frame to another. Raises InputError."""
    a, b = first.transform, other.transform
    steps = np.array([[a.a, a.b], [a.d, a.e]])
    way = "Choose scenes that lie on one grid, or write .gpkg or .parquet instead."
    if first.crs != other.crs and _crs(first) != _crs(other):
        raise InputError(
            f"Scenes '{one.id}' and '{two.id}' have different CRS ({_crs(first).name} and "
            f"{_crs(other).name}), so no raster holds both without resampling. {way}"
        )
    # Over the width of a scene, the difference may not grow to a share of a pixel that counts.
    reach = max(other.height, other.width, 1)
    drift = np.linalg.solve(steps, np.array([[b.a, b.b], [b.d, b.e]])) - np.eye(2)
    if np.abs(drift).max() * reach > ALIGNED:
        raise InputError(
            f"The chips of scenes '{one.id}' and '{two.id}' have different strides "
            f"({_step(first)} and {_step(other)}), so no raster holds both without resampling. "
            f"{way}"
        )
    col, row = np.linalg.solve(steps, [b.c - a.c, b.f - a.f])
    if max(abs(col - round(col)), abs(row - round(row))) > ALIGNED:
        raise InputError(
            f"The chips of scene '{two.id}' lie between those of '{one.id}' ({col:.2f} columns and "
            f"{row:.2f} rows away), so no raster holds both without resampling. {way}"
        )
    return round(row), round(col)


def _crs(frame: Frame) -> pyproj.CRS:
    return pyproj.CRS(frame.crs)


def _step(frame: Frame) -> str:
    t = frame.transform
    return f"{float(np.hypot(t.a, t.d)):.8g} x {float(np.hypot(t.b, t.e)):.8g}"


def _check_size(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise InputError(
            f"The raster would have {width:,} x {height:,} pixels; {MOST_PIXELS:,} are allowed. "
            "Choose scenes that lie together, or write .gpkg or .parquet instead."
        )
