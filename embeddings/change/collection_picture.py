"""A small map of the change of a collection, for its report."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from embeddings.change.collection_layers import STAYED_COLOUR, date_colours
from embeddings.change.collection_run import CollectionChange
from embeddings.change.thumbnails import NOTHING
from embeddings.spacing import EARTH_RADIUS_M

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
    image = Image.fromarray(colours[np.where(np.isfinite(away), place, -1)])
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _colours(made: CollectionChange) -> NDArray[np.uint8]:
    """Return the colour ``(n, 3)`` of each place."""
    if made.since is not None:
        palette = np.array([*date_colours(made), STAYED_COLOUR], np.uint8)
        found = palette[np.where(made.since.date > 0, made.since.date - 1, -1)]
    else:
        top = 2 * max(made.threshold, WEAKEST) if np.isfinite(made.threshold) else 2 * WEAKEST
        share = np.clip(np.nan_to_num(made.score) / top, 0, 1)[:, None]
        found = np.asarray(_WEAK * (1 - share) + _STRONG * share, np.uint8)
    found[~np.isfinite(made.score)] = NOTHING
    return found
