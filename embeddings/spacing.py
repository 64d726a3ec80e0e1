"""Keep results apart, so that an answer is not a crowd of neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings.search import distance_m
from embeddings.types import LonLat


def spread(
    lon: NDArray[np.float64], lat: NDArray[np.float64], apart_m: float, most: int
) -> list[int]:
    """Return the first places, in their order, that lie ``apart_m`` from all chosen before.

    ``lon`` and ``lat`` are ``(n,)`` degrees, best first; at most ``most`` positions come back.
    """
    free = np.ones(len(lon), bool)
    kept: list[int] = []
    while free.any() and len(kept) < most:
        best = int(np.argmax(free))
        kept.append(best)
        free &= distance_m(LonLat(float(lon[best]), float(lat[best])), lon, lat) >= apart_m
        free[best] = False
    return kept
