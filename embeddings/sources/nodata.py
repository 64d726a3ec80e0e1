"""Find the nodata value of a scene whose files declare none.

Rotated scenes are delivered with cut-off corners filled with an extreme of the type. The value
counts as nodata only where every band holds it, so a saturated band alone is still data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_SHARE = 0.001
"""A corner's value must fill at least this share of the scene."""


def detect_corner_value(layers: NDArray[np.generic], dtype: str) -> float | None:
    """Return the value that fills a corner in every band, or None.

    ``layers`` is ``(bands, rows, cols)``, decimated without interpolation. Only the smallest and
    largest value of the integer type, and zero, are considered.
    """
    if np.issubdtype(np.dtype(dtype), np.integer):
        limits = np.iinfo(dtype)
        candidates = {float(limits.min), float(limits.max), 0.0}
    else:
        candidates = {0.0}
    for row, col in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        corner = layers[:, row, col].astype(np.float64)
        value = float(corner[0])
        if value in candidates and (corner == value).all():
            share = float((layers == value).all(axis=0).mean())
            if share >= SMALLEST_SHARE:
                return value
    return None
