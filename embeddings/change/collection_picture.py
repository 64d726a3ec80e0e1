"""A small map of the change of a collection, for its report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from embeddings.change.collection_layers import STAYED_COLOUR, date_colours
from embeddings.change.collection_run import CollectionChange
from embeddings.change.thumbnails import NOTHING
from embeddings.spacing import EARTH_RADIUS_M

Bytes = NDArray[np.uint8]

SIDE = 640
"""Pixels of the longer side at most."""
WEAKEST = 1.645
"""What the strongest colour stands for is no lower than twice this."""
_WEAK, _STRONG = np.array([247.0, 244.0, 238.0]), np.array([165.0, 0.0, 38.0])


def map_uri(made: CollectionChange) -> str:
    """Return a PNG image as a data URI: each pixel has the colour of the place it lies in.

    Places that could not be compared are grey, what lies in none is white.
    """
    lon, lat = made.dates.lonlat
    if np.ptp(lon) > 180:  # over the antimeridian
        lon = np.where(lon < 0, lon + 360, lon)
    metres = np.pi / 180 * EARTH_RADIUS_M
    x, y = lon * np.cos(np.radians(lat.mean())) * metres, lat * metres
    half = made.dates.side / 2
    wide, tall = np.ptp(x) + 2 * half, np.ptp(y) + 2 * half
    pixel = max(float(max(wide, tall) / SIDE), half / 4)
    across = x.min() - half + pixel * (np.arange(max(1, int(wide / pixel))) + 0.5)
    down = y.max() + half - pixel * (np.arange(max(1, int(tall / pixel))) + 0.5)
    grid = np.stack(np.meshgrid(across, down), axis=-1)
    away, place = cKDTree(np.stack([x, y], axis=1)).query(
        grid, distance_upper_bound=max(1.5 * half, pixel)
    )
    colours = np.concatenate([_colours(made), np.full((1, 3), 255, np.uint8)])
    return picture_uri(colours[np.where(np.isfinite(away), place, -1)])


def picture_uri(colours: Bytes, tall: float = 1.0) -> str:
    """Return colours ``(h, w, 3)`` as a PNG data URI; a pixel is ``tall`` times as high as wide."""
    image = Image.fromarray(colours)
    height, width = colours.shape[:2]
    if tall > 1:
        image = image.resize((width, max(1, round(height * tall))))
    elif tall < 1:
        image = image.resize((max(1, round(width / tall)), height))
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def score_colours(score: NDArray[np.float32], threshold: float) -> Bytes:
    """Return a colour ``(..., 3)`` for each score: the strongest from twice the threshold on."""
    top = 2 * max(threshold, WEAKEST) if np.isfinite(threshold) else 2 * WEAKEST
    share = np.clip(np.nan_to_num(score) / top, 0, 1)[..., None]
    found = np.asarray(_WEAK * (1 - share) + _STRONG * share, np.uint8)
    found[~np.isfinite(score)] = NOTHING
    return found


def since_colours(
    since: NDArray[np.integer[Any]], score: NDArray[np.float32], labels: Sequence[str]
) -> Bytes:
    """Return a colour ``(..., 3)`` for each date of a departure, 0 or less being none."""
    palette = np.array([*date_colours(labels)[: len(labels) - 1], STAYED_COLOUR], np.uint8)
    there = np.isfinite(score)
    found = palette[np.where(there & (since > 0), since.astype(np.int64) - 1, -1)]
    found[~there] = NOTHING
    return found


def _colours(made: CollectionChange) -> Bytes:
    """Return the colour ``(n, 3)`` of each place."""
    if made.since is not None:
        return since_colours(made.since.date, made.score, made.dates.labels)
    return score_colours(made.score, made.threshold)
