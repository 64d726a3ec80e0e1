"""Small pictures of a pair and of its change, for the report."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embeddings.change.raster_files import kinds_sheet
from embeddings.change.raster_scores import ScoreRaster
from embeddings.change.raster_staging import Staging
from embeddings.dense import Tile
from embeddings.encoders.base import BandWant
from embeddings.errors import BandError
from embeddings.probe.predict_style import Colour
from embeddings.sources.band_names import find
from embeddings.sources.grids import TargetGrid

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

STRONG = 6.0
"""The score that is drawn darkest where no threshold says it."""
SIDE = 640
"""Pixels of the longer side at most."""
NOTHING = np.array([226, 228, 230], np.uint8)
"""The colour of what could not be compared."""
UNKNOWN_SHOWN: Colour = (25, 25, 25)
"""The colour of change of no known kind over a grey picture, where grey would not show."""
_CHANGED = (215.0, 30.0, 39.0)
_WEAK, _STRONG = np.array([247.0, 244.0, 238.0]), np.array([165.0, 0.0, 38.0])


class Thumbnails:
    """Every so many pixels of both dates, taken as windows go by; and the change between them."""

    def __init__(self, grid: TargetGrid, bands: tuple[str, ...]) -> None:
        self._tall = grid.pixel_m[0] / grid.pixel_m[1]
        self.step = max(1, -(-max(grid.height, grid.width) // SIDE))
        self.rgb = _rgb(bands)
        middle = self.step // 2
        self.shape = tuple(
            len(range(middle, side, self.step)) for side in (grid.height, grid.width)
        )
        self._before = np.full((len(self.rgb), *self.shape), np.nan, np.float32)
        self._after = self._before.copy()
        self._score = np.full(self.shape, np.nan, np.float32)
        self._changed = np.zeros(self.shape, np.float32)
        self._colour = np.full((*self.shape, 3), _CHANGED, np.float32)

    def of(self, tile: Tile, before: Floats, after: Floats) -> dict[str, Floats]:
        """Return what is kept of a window ``(bands, h, w)`` of each date."""
        at = (self.rgb, *self._within(tile))
        return {"before": before[np.ix_(*at)], "after": after[np.ix_(*at)]}

    def gather(
        self,
        staging: Staging,
        tiles: list[Tile],
        raster: ScoreRaster,
        threshold: float,
        legend: Mapping[str, int] | None = None,
    ) -> None:
        """Put the pictures together from finished windows."""
        for tile in tiles:
            rows, cols = (
                (first + at) // self.step
                for first, at in zip((tile.row, tile.col), self._within(tile), strict=True)
            )
            kept = staging.load(tile)
            for whole, name in ((self._before, "before"), (self._after, "after")):
                whole[:, rows[:, None], cols] = kept[name]
        for row in range(self.shape[0]):
            rows = slice(row * self.step, (row + 1) * self.step)
            cells = self._cells(np.asarray(raster.score[rows]), np.float32(np.nan))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a block without data has no mean
                self._score[row] = np.nanmean(cells, axis=(0, 2))
            changed = raster.changed(rows, threshold)
            self._changed[row] = self._cells(changed, False).mean(axis=(0, 2))
            if raster.kinds is not None and legend is not None:
                codes = self._cells(np.where(changed, raster.kinds[rows], 0), np.uint8(0))
                self._keep_kinds(row, codes, legend)

    def _cells(self, strip: NDArray[Any], empty: Any) -> NDArray[Any]:
        """Return rows ``(r, w)`` as ``(r, cells, step)``; what lies beyond the edge is empty."""
        blocks = np.full((len(strip), self.shape[1] * self.step), empty)
        blocks[:, : strip.shape[1]] = strip[:, : blocks.shape[1]]
        return blocks.reshape(len(strip), self.shape[1], self.step)

    def _keep_kinds(self, row: int, codes: Bytes, legend: Mapping[str, int]) -> None:
        """Keep the colour of the commonest kind of each cell of a row."""
        sheet = kinds_sheet(legend)
        counts = np.stack([(codes == code).sum(axis=(0, 2)) for code in sheet.codes[1:]])
        palette = np.array([*sheet.palette[1:-1], UNKNOWN_SHOWN], np.float32)
        self._colour[row] = palette[counts.argmax(axis=0)]

    def pictures(self, threshold: float) -> dict[str, str]:
        """Return PNG images as data URIs, by what they show."""
        before, after = _stretched(self._before), _stretched(self._after)
        return {
            "date 1": self._uri(before),
            "date 2": self._uri(after),
            "score": self._uri(_coloured(self._score, threshold)),
            "change": self._uri(self._over(after)),
        }

    def _uri(self, picture: Bytes) -> str:
        """Return a picture whose pixels are as wide as high on the ground."""
        image = Image.fromarray(picture)
        height, width = self.shape
        if self._tall > 1:
            image = image.resize((width, round(height * self._tall)))
        elif self._tall < 1:
            image = image.resize((round(width / self._tall), height))
        content = io.BytesIO()
        image.save(content, format="PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()

    def _within(self, tile: Tile) -> tuple[Any, Any]:
        """Return which rows and columns of a window are shown."""
        middle = self.step // 2
        return (
            np.arange((middle - tile.row) % self.step, tile.height, self.step),
            np.arange((middle - tile.col) % self.step, tile.width, self.step),
        )

    def _over(self, scene: Bytes) -> Bytes:
        """Draw what changed over a pale grey picture of the second date."""
        grey = 120 + scene.mean(axis=2, keepdims=True) * 0.5
        share = np.clip(self._changed * 3, 0, 1)[..., None]
        made = grey * (1 - share) + self._colour * share
        made[np.isnan(self._score)] = NOTHING
        return np.asarray(made, np.uint8)


def _rgb(bands: tuple[str, ...]) -> list[int]:
    """Return the bands for red, green and blue; without such names the first three, or one."""
    with suppress(BandError):
        found = find([BandWant("red"), BandWant("green"), BandWant("blue")], bands)
        named = [index for index in found if index is not None]
        if len(named) == 3:
            return named
    return [0, 1, 2] if len(bands) >= 3 else [0]


def _stretched(bands: Floats) -> Bytes:
    """Return ``(h, w, 3)``, each band between its 2nd and 98th percentile."""
    made = np.empty((*bands.shape[1:], len(bands)), np.uint8)
    for i, band in enumerate(bands):
        there = np.isfinite(band)
        low, high = np.percentile(band[there], [2, 98]) if there.any() else (0.0, 1.0)
        share = np.clip((np.nan_to_num(band) - low) / max(high - low, 1e-9), 0, 1)
        made[..., i] = np.rint(255 * share**0.8)
    made = np.repeat(made, 3, axis=2) if len(bands) == 1 else made
    made[~np.isfinite(bands).all(axis=0)] = NOTHING
    return made


def _coloured(score: Floats, threshold: float) -> Bytes:
    """Return a ramp from no change to twice the threshold."""
    top = 2 * threshold if np.isfinite(threshold) and threshold > 0 else STRONG
    share = np.clip(np.nan_to_num(score) / top, 0, 1)[..., None]
    made = _WEAK * (1 - share) + _STRONG * share
    made[np.isnan(score)] = NOTHING
    return np.asarray(made, np.uint8)
