"""Cut a scene into chips: sizes in pixels, the regular grid, reading batches, footprints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.sources.raster import RasterScene
from embeddings.spec import ChipLayout, parse_size

BATCH_CHIPS = 1024
BATCH_BYTES = 64 * 2**20
LARGEST_SIZE = 1e8


@dataclass(frozen=True, slots=True)
class Batch:
    """A rectangle of chips that is read, encoded and staged as one; rows and columns of chips."""

    number: int
    row: int
    rows: int
    col: int
    cols: int

    @property
    def chips(self) -> int:
        """How many chips the batch plans."""
        return self.rows * self.cols


def chip_layout(scene: RasterScene, chip: str, stride: str | None) -> ChipLayout:
    """Turn "32" (pixels) or "320m" into whole pixels at the scene's centre.

    Raises InputError if a size cannot be read, or the chip is larger than the scene.
    """
    chip_px = _pixels(chip, scene.pixel_m)
    stride_px = chip_px if stride is None else _pixels(stride, scene.pixel_m)
    if chip_px[0] > scene.height or chip_px[1] > scene.width:
        raise InputError(
            f"A chip of {chip} is {chip_px[1]} x {chip_px[0]} pixels, but the scene has only "
            f"{scene.width} x {scene.height}. Choose a smaller --chip."
        )
    return ChipLayout(chip, chip if stride is None else stride, chip_px, stride_px)


def _pixels(size: str, pixel_m: tuple[float, float]) -> tuple[int, int]:
    value, unit = parse_size(size)
    if value > LARGEST_SIZE:
        raise InputError(f"The size {size[:20]}... is larger than the Earth. Choose a smaller one.")
    if unit == "px":
        rows, cols = value, value
        if value != int(value):
            raise InputError(f"'{size}' is not a whole number of pixels. For metres write {size}m.")
    else:
        rows, cols = (round(value / side) for side in pixel_m)
    if rows < 1 or cols < 1:
        raise InputError(
            f"{size} is less than one pixel; a pixel is {pixel_m[1]:.4g} x {pixel_m[0]:.4g} m. "
            "Choose a larger size."
        )
    return int(rows), int(cols)


class ChipGrid:
    """The regular grid of chips over a scene; chips that would leave the scene are not made."""

    def __init__(self, scene: RasterScene, layout: ChipLayout) -> None:
        self.scene = scene
        self.layout = layout
        (height, width), (down, right) = layout.chip_px, layout.stride_px
        self.rows = (scene.height - height) // down + 1
        self.cols = (scene.width - width) // right + 1

    def to_json(self) -> dict[str, Any]:
        """Return where the chips lie: what search needs to tell a gap from a mask."""
        return {
            "crs": self.scene.crs.to_wkt(),
            "transform": list(self.scene.transform)[:6],
            "rows": self.rows,
            "cols": self.cols,
            "chip_px": list(self.layout.chip_px),
            "stride_px": list(self.layout.stride_px),
        }

    @property
    def chips(self) -> int:
        """How many chips the scene has, with or without data."""
        return self.rows * self.cols

    def batches(self) -> list[Batch]:
        """Divide the grid into batches of bounded memory that read along the files' rows."""
        (height, width), (down, right) = self.layout.chip_px, self.layout.stride_px
        pixel_bytes = 4 * len(self.scene.bands)
        row_bytes = height * pixel_bytes
        # Overlapping chips take more memory than the window they are cut from.
        most = max(1, min(BATCH_CHIPS, BATCH_BYTES // (row_bytes * width)))
        cols = max(1, min(self.cols, most, (BATCH_BYTES // row_bytes - width) // right + 1))
        across = -(-self.cols // cols)
        cols = -(-self.cols // across)
        rows = max(
            1,
            min(most // cols, BATCH_BYTES // (down * pixel_bytes * (cols * right + width))),
        )
        found: list[Batch] = []
        for row in range(0, self.rows, rows):
            for col in range(0, self.cols, cols):
                found.append(
                    Batch(
                        len(found), row, min(rows, self.rows - row), col, min(cols, self.cols - col)
                    )
                )
        return found

    def read(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Read the whole chips of a batch.

        Returns pixels ``(n, bands, height, width) float32`` and their (row, column) in the grid
        ``(n, 2)``. A chip with any pixel without data is left out.
        """
        (height, width), (down, right) = self.layout.chip_px, self.layout.stride_px
        values, valid = self.scene.read(
            batch.row * down,
            batch.col * right,
            (batch.rows - 1) * down + height,
            (batch.cols - 1) * right + width,
        )
        windows = np.lib.stride_tricks.sliding_window_view
        usable = windows(valid, (height, width))[::down, ::right].all(axis=(2, 3))
        row, col = np.nonzero(usable)
        chips = windows(values, (height, width), axis=(1, 2))[:, ::down, ::right]
        pixels = chips[:, row, col].swapaxes(0, 1)
        return np.ascontiguousarray(pixels), np.stack([row + batch.row, col + batch.col], axis=1)

    def sample_rows(self, most: int) -> Iterator[Batch]:
        """Yield single rows of chips, ``most`` at most, evenly spread over the scene."""
        chosen = np.unique(np.linspace(0, self.rows - 1, min(most, self.rows)).round().astype(int))
        whole = self.batches()[0].cols
        for row in chosen:
            for col in range(0, self.cols, whole):
                yield Batch(-1, int(row), 1, col, min(whole, self.cols - col))

    def centres(self, place: NDArray[np.int64]) -> tuple[Any, Any]:
        """Return lon, lat ``(n,)`` degrees of the centres of chips at (row, column) ``(n, 2)``."""
        (height, width), (down, right) = self.layout.chip_px, self.layout.stride_px
        row, col = place.astype(np.float64).T
        return self.scene.xy(col * right + width / 2, row * down + height / 2)

    def footprints(self, place: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return footprints (shapely, OGC:CRS84) and boxes ``(n, 4)`` xmin ymin xmax ymax."""
        (height, width), (down, right) = self.layout.chip_px, self.layout.stride_px
        col = place[:, 1:] * right + np.array([0.0, 0.0, width, width])
        row = place[:, :1] * down + np.array([0.0, height, height, 0.0])
        lon, lat = self.scene.xy(col.ravel(), row.ravel())
        return polygons(lon.reshape(-1, 4), lat.reshape(-1, 4))


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
