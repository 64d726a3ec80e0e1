"""What the scores of all windows say together: where change begins, how much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from embeddings.analysis.change.coverage import Coverage
from embeddings.change.raster_job import Threshold
from embeddings.probe.map_areas import BLOCK, M2_A_HECTARE, PixelAreas
from embeddings.sources.grids import TargetGrid

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MOST_SAMPLED = 2_000_000
"""Scores that thresholds and probabilities are fitted to."""
BINS = 160

UNCHANGED, CHANGED = 1, 2
"""The codes of classes; 0 is what could not be compared. Kinds of change go on from CHANGED."""


@dataclass(frozen=True)
class ScoreRaster:
    """All scores ``(rows, cols) float32`` and coverage ``uint8`` of a pair, on its grid."""

    score: Floats
    coverage: NDArray[np.uint8]
    grid: TargetGrid
    kinds: NDArray[np.uint8] | None = None
    """Codes of kinds of change ``(rows, cols)``, where these were asked for."""

    def changed(self, rows: slice, threshold: float) -> NDArray[np.bool_]:
        """Return what changed in a strip: it reaches the threshold, and no click says otherwise."""
        over = np.asarray(self.score[rows]) >= threshold
        return over if self.kinds is None else over & (self.kinds[rows] != UNCHANGED)

    def strips(self) -> Iterator[slice]:
        """Yield rows that are worked on at once."""
        for top in range(0, self.grid.height, BLOCK):
            yield slice(top, min(top + BLOCK, self.grid.height))

    def sample(self) -> Floats:
        """Return up to MOST_SAMPLED scores, evenly from all over, NaN left out."""
        flat = self.score.reshape(-1)
        step = max(1, -(-flat.size // MOST_SAMPLED))
        if step > 1 and self.grid.width % step == 0:
            step += 1  # not the same columns of every row
        taken = np.asarray(flat[::step])
        return taken[np.isfinite(taken)]


@dataclass(frozen=True)
class Totals:
    """Pixels and square metres, of all kinds of coverage and of change."""

    pixels: tuple[int, ...]
    """For each kind of `Coverage`."""
    m2: tuple[float, ...]
    changed_pixels: int
    changed_m2: float
    edges: tuple[float, ...]
    """Of the histogram; the first and last bin hold what lies beyond."""
    counts: tuple[int, ...]


def threshold_of(asked: Threshold, sample: Floats) -> float:
    """Return the score from which on a pixel is change."""
    from embeddings.analysis.change import thresholds

    if asked.kind == "otsu":
        return float(thresholds.otsu(sample))
    if asked.kind == "fdr":
        return float(thresholds.false_discovery(sample, asked.number))
    return asked.number


def pixel_m2(areas: PixelAreas, rows: slice, width: int) -> Doubles:
    """Return areas that broadcast over a strip of BLOCK rows: square metres a pixel.

    A geographic grid has one for each row, others one for each BLOCK columns.
    """
    height = rows.stop - rows.start
    if areas.block_rows == 1:
        each = [areas.pixel(0, row, width, 1) for row in range(rows.start, rows.stop)]
        return np.array(each)[:, None] * M2_A_HECTARE
    lefts = range(0, width, BLOCK)
    sizes = [min(BLOCK, width - left) for left in lefts]
    each = [
        areas.pixel(left, rows.start, size, height) for left, size in zip(lefts, sizes, strict=True)
    ]
    return np.repeat(np.array(each), sizes)[None] * M2_A_HECTARE


def areas_of(grid: TargetGrid) -> PixelAreas:
    """Return how large the pixels of a grid are."""
    return PixelAreas(pyproj.CRS.from_wkt(grid.crs_wkt), Affine(*tuple(grid.transform)[:6]))


def count(raster: ScoreRaster, threshold: float, sample: Floats) -> Totals:
    """Count pixels and areas by coverage and change, and scores by their size."""
    edges = _edges(sample, threshold)
    counts = np.zeros(BINS, np.int64)
    kinds = len(Coverage)
    pixels, m2 = np.zeros(kinds, np.int64), np.zeros(kinds)
    changed, changed_m2 = 0, 0.0
    areas = areas_of(raster.grid)
    for rows in raster.strips():
        score, codes = np.asarray(raster.score[rows]), np.asarray(raster.coverage[rows])
        size = np.broadcast_to(pixel_m2(areas, rows, raster.grid.width), score.shape)
        pixels += np.bincount(codes.ravel(), minlength=kinds)
        m2 += np.bincount(codes.ravel(), weights=size.ravel(), minlength=kinds)
        where = raster.changed(rows, threshold)
        changed += int(where.sum())
        changed_m2 += float(size[where].sum())
        there = score[np.isfinite(score)]
        counts += np.histogram(np.clip(there, edges[0], edges[-1]), edges)[0]
    return Totals(
        tuple(pixels.tolist()),
        tuple(m2.tolist()),
        changed,
        changed_m2,
        tuple(edges.tolist()),
        tuple(counts.tolist()),
    )


def probability_bands(raster: ScoreRaster, sample: Floats) -> Callable[[slice], Floats]:
    """Return what gives the probability of change of a strip of rows."""
    from embeddings.analysis.change import thresholds

    known = thresholds.ChangeProbability.fit(sample)

    def of(rows: slice) -> Floats:
        found: Any = known.of(np.asarray(raster.score[rows]))
        return np.asarray(found, np.float32)

    return of


def _edges(sample: Floats, threshold: float) -> Doubles:
    low, high = np.quantile(sample, (0.0005, 0.9995)) if sample.size else (0.0, 1.0)
    if np.isfinite(threshold):
        high = max(float(high), threshold * 1.1)
    return np.linspace(float(low), max(float(high), float(low) + 1e-6), BINS + 1)
