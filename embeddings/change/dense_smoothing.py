"""Scores of cells drawn to those of their neighbours, and brought back to a standard normal.

Chips of neighbouring cells overlap, so what is said of one is said of the others in part; the mean
of their scores errs less than each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.features import radius, smoothed
from embeddings.analysis.change.null import Null
from embeddings.change.dense_dates import DenseDates

Floats = NDArray[np.float32]

REACH = 0.5
"""Standard deviation of the Gaussian, in sides of a chip."""
ROWS = 512
"""Rows that are smoothed at once."""
SAMPLED = 262_144
"""Cells from which it is learned what scores are where nothing changed."""


def reach_of(dates: DenseDates) -> float:
    """Return the Gaussian's standard deviation in cells; 0 where chips do not overlap."""
    dense = dates.scales[0].dates[0][0].stored.dense
    chips = min(chip / step for chip, step in zip(dense.chip_px, dense.stride_px, strict=True))
    return REACH * chips if chips > 1 else 0.0


def smooth_scores(raw: Floats, out: Floats, sigma: float) -> None:
    """Fill ``out (rows, cols)`` with smoothed scores on the scale of a standard normal.

    Cells without a score keep none, and count for nothing.
    """
    halo = radius(sigma)
    for top, bottom in _strips(len(raw)):
        first = max(0, top - halo)
        part = np.asarray(raw[first : bottom + halo])
        valid = np.isfinite(part)
        found = np.full(part.shape, np.nan, np.float32)
        if valid.any():
            found[valid] = smoothed(part, valid, sigma)
        out[top:bottom] = found[top - first : bottom - first]
    flat = out.reshape(-1)
    some = np.arange(min(flat.size, SAMPLED))
    if flat.size > SAMPLED:
        some = np.sort(np.random.default_rng(0).integers(0, flat.size, SAMPLED))
    null = Null.fit(np.asarray(flat[some]))
    for top, bottom in _strips(len(raw)):
        out[top:bottom] = null.scores(np.asarray(out[top:bottom]))


def _strips(rows: int) -> Iterator[tuple[int, int]]:
    for top in range(0, rows, ROWS):
        yield top, min(top + ROWS, rows)
