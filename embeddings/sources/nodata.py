"""Find the nodata value of a scene whose files declare none.

Rotated scenes are delivered with cut-off corners filled with one value. A value found here counts
as nodata only where every band holds it, so a saturated band alone is still data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_SHARE = 0.001
"""A known fill in a corner must fill at least this share of the scene."""
SMALLEST_SHARE_UNKNOWN = 0.01
"""Any other value must fill this share,"""
SMALLEST_GAP = 0.1
"""and lie this far beyond all other values of each band, as a share of their range."""

_FILLS = (0.0, -9999.0, -32768.0, float(np.finfo(np.float32).min), 1e20)


def detect_corner_value(layers: NDArray[np.generic], dtype: str) -> float | None:
    """Return the value that fills a corner in every band, or None.

    ``layers`` is ``(bands, rows, cols)``, decimated without interpolation. The limits of the type
    and the usual fills need little room. Another value must stand apart from all data, and types
    of 8 bits have no other fills: each of their values is one that water or cloud may have.
    """
    known = _known_fills(dtype)
    for row, col in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        corner = layers[:, row, col].astype(np.float64)
        value = float(corner[0])
        if not (np.isfinite(value) and (corner == value).all()):
            continue
        share = float((layers == value).all(axis=0).mean())
        if value in known and share >= SMALLEST_SHARE:
            return value
        wide = np.dtype(dtype).itemsize > 1
        if wide and share >= SMALLEST_SHARE_UNKNOWN and _stands_apart(layers, value):
            return value
    return None


def corner_fill(corner: NDArray[np.generic], dtype: str, scene_px: int) -> float | None:
    """Return the known fill that stands in a corner in every band, or None.

    ``corner`` is ``(bands, rows, cols)``, the scene's own corner first; it must hold as many pixels
    of the value as ``detect_corner_value`` asks for in the whole scene, or nothing else.
    """
    first = corner[:, 0, 0].astype(np.float64)
    value = float(first[0])
    if not (first == value).all() or value not in _known_fills(dtype):
        return None
    held = (corner == value).all(axis=0)
    return value if held.all() or held.sum() >= SMALLEST_SHARE * scene_px else None


def can_hold(dtype: str, value: float | None) -> bool:
    """Whether a type can hold the value; GDAL refuses others as nodata."""
    if value is None or np.dtype(dtype).kind == "f":
        return value is not None
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max and value == int(value))


def _known_fills(dtype: str) -> set[float]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        limits = np.finfo(kind)
        # As the type holds them: 1e20 is no float32.
        return {float(kind.type(fill)) for fill in (*_FILLS, limits.min, limits.max)}
    whole = np.iinfo(kind)
    return {*_FILLS, float(whole.min), float(whole.max)}


def _stands_apart(layers: NDArray[np.generic], value: float) -> bool:
    """Whether in every band all other values lie on one side of ``value``, far from it."""
    for layer in layers.astype(np.float64):
        others = layer[np.isfinite(layer) & (layer != value)]
        if not others.size:
            return False
        low, high = float(others.min()), float(others.max())
        if not max(low - value, value - high) > SMALLEST_GAP * (high - low):
            return False
    return True
