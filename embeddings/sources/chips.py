"""Cut a scene into chips: sizes in pixels, the regular grid, reading batches, footprints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.sources.footprints import polygons
from embeddings.sources.placed import PlacedScene
from embeddings.spec import ChipLayout, parse_size
from embeddings.store.order import hilbert_index

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


@dataclass(frozen=True, slots=True)
class ChipsRead:
    """The chips of a batch that have enough data, and which have not."""

    pixels: NDArray[np.float32]
    """``(n, bands, height, width)``; pixels without data hold the mean of the chip's others."""
    place: NDArray[np.int64]
    """``(n, 2)`` row and column in the grid; for other plans see there."""
    share: NDArray[np.float32]
    """``(n,)`` share of pixels with data."""
    absent_place: NDArray[np.int64]
    """``(m, 2)`` of the chips that have too little data."""
    absent_share: NDArray[np.float32]
    """``(m,)``"""

    def moved(self, rows: int, cols: int) -> ChipsRead:
        """Return the same chips at places so many rows and columns further."""
        step = np.array([rows, cols], np.int64)
        return replace(self, place=self.place + step, absent_place=self.absent_place + step)

    def within(self, part: int) -> ChipsRead:
        """Return the same chips at places ``(n, 3)``: the part's number, row and column."""
        places = (np.insert(place, 0, part, axis=1) for place in (self.place, self.absent_place))
        return replace(self, place=next(places), absent_place=next(places))


def cut(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    chip_px: tuple[int, int],
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
    min_valid: float = 1.0,
) -> ChipsRead:
    """Cut a window ``(bands, rows, cols)`` with its validity into rows and columns of chips.

    Chips begin at the pixel rows ``tops`` and columns ``lefts``; places count those. A chip is
    kept where the share of its valid pixels is at least ``min_valid`` (above 0, up to 1). Raises
    InputError.
    """
    if not 0 < min_valid <= 1:
        raise InputError(
            f"The least share of valid pixels is {min_valid:g}. Give more than 0 and at most 1."
        )
    height, width = chip_px
    count = _counts(valid, chip_px)[np.ix_(tops, lefts)]
    enough = count >= max(1, min_valid * height * width - 1e-6)
    row, col = np.nonzero(enough)
    windows = np.lib.stride_tricks.sliding_window_view
    chips = windows(values, chip_px, axis=(1, 2))[:, tops[row], lefts[col]]
    pixels = np.ascontiguousarray(chips.swapaxes(0, 1))
    share = (count / (height * width)).astype(np.float32)
    partly = np.flatnonzero(share[row, col] < 1)
    if len(partly):
        there = windows(valid, chip_px)[tops[row[partly]], lefts[col[partly]]]
        pixels[partly] = _filled(pixels[partly], there)
    return ChipsRead(
        pixels,
        np.stack([row, col], axis=1),
        share[row, col],
        np.argwhere(~enough),
        share[~enough],
    )


def _counts(valid: NDArray[np.bool_], chip_px: tuple[int, int]) -> NDArray[np.int64]:
    """Return how many pixels are valid in the chip at each position: an integral image."""
    height, width = chip_px
    total = np.pad(valid.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    lower, upper = total[height:], total[:-height]
    return np.asarray(lower[:, width:] - lower[:, :-width] - upper[:, width:] + upper[:, :-width])


def _filled(pixels: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give pixels ``(n, bands, h, w)`` that are not there the mean of the chip's others."""
    known = there[:, None]
    sums = np.where(known, pixels, 0).sum(axis=(2, 3), dtype=np.float64)
    means = sums / there.sum(axis=(1, 2))[:, None]
    return np.where(known, pixels, means[:, :, None, None].astype(np.float32))


def chip_layout(scene: PlacedScene, chip: str, stride: str | None) -> ChipLayout:
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


class ChipPlan(Protocol):
    """Where the chips of a scene lie, and their pixels.

    A place ``(n, k) int64`` is what ``read`` gives and the other methods take; only the plan
    knows what its columns say.
    """

    @property
    def layout(self) -> ChipLayout:
        """Sizes of the chips, pixels."""

    @property
    def chips(self) -> int:
        """How many chips are planned, with or without data."""

    def batches(self) -> list[Batch]:
        """Divide the chips into batches of bounded memory, numbered from 0."""

    def read(self, batch: Batch, min_valid: float = 1.0) -> ChipsRead:
        """Read the chips of a batch; a chip with a smaller share of data is absent.

        Raises SourceError if the files cannot be read there.
        """

    def sample_rows(self, most: int) -> Iterator[Batch]:
        """Yield up to ``most`` small batches, evenly spread over the scene."""

    def centres(self, place: NDArray[np.int64]) -> tuple[Any, Any]:
        """Return lon, lat ``(n,)`` degrees of the centres."""

    def footprints(self, place: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return footprints (shapely, OGC:CRS84) and boxes ``(n, 4)`` xmin ymin xmax ymax."""

    def names(self, scene_id: str, place: NDArray[np.int64]) -> list[str]:
        """Return the ids of the chips."""

    def order(self, place: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return numbers ``(n,)`` that are close where chips are close on the ground."""

    def to_json(self) -> dict[str, Any]:
        """Return where the chips lie: what search needs to tell a gap from a mask."""


class ChipGrid:
    """The regular grid of chips over a scene; chips that would leave the scene are not made."""

    def __init__(self, scene: PlacedScene, layout: ChipLayout) -> None:
        self.scene = scene
        self.layout = layout
        (height, width), (down, right) = layout.chip_px, layout.stride_px
        top, left = (
            -first % step for first, step in zip(scene.first_px, layout.stride_px, strict=True)
        )
        # A scene that was cut out of another is cut into chips where the whole one would be.
        self.start_px = (
            top if top + height <= scene.height else 0,
            left if left + width <= scene.width else 0,
        )
        self.rows = (scene.height - self.start_px[0] - height) // down + 1
        self.cols = (scene.width - self.start_px[1] - width) // right + 1

    def to_json(self) -> dict[str, Any]:
        """Return where the chips lie: what search needs to tell a gap from a mask."""
        return {
            "crs": self.scene.crs.to_wkt(),
            "transform": list(self._transform)[:6],
            "rows": self.rows,
            "cols": self.cols,
            "chip_px": list(self.layout.chip_px),
            "stride_px": list(self.layout.stride_px),
        }

    @property
    def _transform(self) -> Affine:
        """Of the first chip's first pixel."""
        top, left = self.start_px
        return self.scene.transform @ Affine.translation(left, top)

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

    def read(self, batch: Batch, min_valid: float = 1.0) -> ChipsRead:
        """Read the chips of a batch; a chip with a smaller share of data is absent."""
        (height, width), (down, right) = self.layout.chip_px, self.layout.stride_px
        values, valid = self.scene.read(
            self.start_px[0] + batch.row * down,
            self.start_px[1] + batch.col * right,
            (batch.rows - 1) * down + height,
            (batch.cols - 1) * right + width,
        )
        tops, lefts = np.arange(batch.rows) * down, np.arange(batch.cols) * right
        found = cut(values, valid, self.layout.chip_px, tops, lefts, min_valid)
        return found.moved(batch.row, batch.col)

    def names(self, scene_id: str, place: NDArray[np.int64]) -> list[str]:
        """Return the ids of the chips at (row, column) ``(n, 2)``."""
        return [f"{scene_id}_{row}_{col}" for row, col in place.tolist()]

    def order(self, place: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return where the chips at (row, column) ``(n, 2)`` stand on a Hilbert curve."""
        bits = max(1, int(max(self.rows, self.cols) - 1).bit_length())
        return hilbert_index(place[:, 0], place[:, 1], bits)

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
        top, left = self.start_px
        return self.scene.xy(left + col * right + width / 2, top + row * down + height / 2)

    def footprints(self, place: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return footprints (shapely, OGC:CRS84) and boxes ``(n, 4)`` xmin ymin xmax ymax."""
        (height, width), (down, right) = self.layout.chip_px, self.layout.stride_px
        top, left = self.start_px
        col = left + place[:, 1:] * right + np.array([0.0, 0.0, width, width])
        row = top + place[:, :1] * down + np.array([0.0, height, height, 0.0])
        lon, lat = self.scene.xy(col.ravel(), row.ravel())
        return polygons(lon.reshape(-1, 4), lat.reshape(-1, 4))
