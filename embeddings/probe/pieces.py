"""Large polygons and lines cut into pieces of few corners, so that a chip is cut with few."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

MOST_CORNERS = 256


def in_pieces(
    shapes: NDArray[Any], most: int = MOST_CORNERS
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return pieces ``(p,)`` that together are the shapes ``(n,)``, and whose each is.

    Shapes of at most ``most`` corners stay whole; others are halved along their longer side until
    their pieces are as small, or cannot be made smaller.
    """
    many = shapely.get_num_coordinates(shapes) > most
    pieces: list[Any] = list(shapes[~many])
    owners: list[int] = np.flatnonzero(~many).tolist()
    for owner in np.flatnonzero(many).tolist():
        todo = [shapes[owner]]
        while todo:
            shape = todo.pop()
            before = shapely.get_num_coordinates(shape)
            halves = _halves(shape) if before > most else []
            # Cuts through a very jagged shape may add as many corners as they take away.
            if halves and max(map(shapely.get_num_coordinates, halves)) < before:
                todo.extend(halves)
            else:
                pieces.append(shape)
                owners.append(owner)
    return np.array(pieces, dtype=object), np.array(owners, np.int64)


def _halves(shape: Any) -> list[Any]:
    """Return what lies on either side of the middle of a shape, of its own dimension only."""
    west, south, east, north = shape.bounds
    if east - west > north - south:
        middle = (west + east) / 2
        boxes = [(west, south, middle, north), (middle, south, east, north)]
    else:
        middle = (south + north) / 2
        boxes = [(west, south, east, middle), (west, middle, east, north)]
    found = []
    for box in boxes:
        half = shapely.clip_by_rect(shape, *box)
        if not half.is_valid:
            half = shapely.intersection(shape, shapely.box(*box))
        dimension = shapely.get_dimensions(shape)
        parts = shapely.get_parts(half)
        kept = parts[shapely.get_dimensions(parts) == dimension]
        if len(kept):
            maker = shapely.multipolygons if dimension == 2 else shapely.multilinestrings
            found.append(kept[0] if len(kept) == 1 else maker(kept))
    return found
