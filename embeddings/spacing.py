"""Distances on the Earth; keeps results apart, so that an answer is not a crowd of neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings.types import LonLat

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (IUGG); distances are great circles on this sphere."""

MAX_CELLS = 1_000_000
"""Cells of the hash along one axis; three such numbers fit into one int64."""


def spread(
    lon: NDArray[np.float64], lat: NDArray[np.float64], apart_m: float, most: int
) -> list[int]:
    """Return the first places, in their order, that lie ``apart_m`` from all chosen before.

    ``lon`` and ``lat`` are ``(n,)`` degrees, best first; at most ``most`` positions come back.
    A place chosen is compared only with those in the cells around its own, so that the time
    grows with the places, not with their square.
    """
    if apart_m <= 0:
        return list(range(min(most, len(lon))))
    cells = _Cells(lon, lat, apart_m)
    free = np.ones(len(lon), bool)
    kept: list[int] = []
    start = 0
    while len(kept) < most and start < len(lon):
        start += int(np.argmax(free[start:]))
        if not free[start]:
            break
        kept.append(start)
        near = cells.around(start)
        place = LonLat(float(lon[start]), float(lat[start]))
        free[near] &= distance_m(place, lon[near], lat[near]) >= apart_m
        free[start] = False
    return kept


def distance_m(
    place: LonLat, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return great-circle distances in metres to points ``(n,)`` in degrees."""
    return distances_m(np.float64(place.lon), np.float64(place.lat), lon, lat)


def distances_m(
    lon1: NDArray[np.float64] | np.float64,
    lat1: NDArray[np.float64] | np.float64,
    lon2: NDArray[np.float64],
    lat2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return great-circle distances in metres between points ``(n,)`` in degrees (haversine)."""
    a1, a2 = np.radians(lat1), np.radians(lat2)
    half_lon = np.radians(lon2 - lon1) / 2
    a = np.sin((a2 - a1) / 2) ** 2 + np.cos(a1) * np.cos(a2) * np.sin(half_lon) ** 2
    return np.asarray(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(a, 1.0))))


class _Cells:
    """Places on the unit sphere hashed into cubes as wide as the distance asked for.

    Cubes in space know no poles and no antimeridian.
    """

    def __init__(self, lon: NDArray[np.float64], lat: NDArray[np.float64], apart_m: float) -> None:
        # The straight line between two places that lie apart_m from each other on the sphere.
        chord = 2 * np.sin(min(apart_m / (2 * EARTH_RADIUS_M), np.pi / 2))
        side = max(float(chord) * 1.001, 2 / MAX_CELLS)
        a, b = np.radians(lon), np.radians(lat)
        points = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1)
        # From 1, so that the cell before the first has a number too.
        self._cell = np.floor((points + 1) / side).astype(np.int64) + 1
        self._span = int(2 / side) + 4
        keys = self._key(self._cell)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        step = np.arange(-1, 2)
        self._columns = np.stack(np.meshgrid(step, step, [0], indexing="ij"), -1).reshape(-1, 3)

    def around(self, position: int) -> NDArray[np.int64]:
        """Return the positions of all places in the cell of this one and in those beside it."""
        # Three cells above each other follow each other in the order of their keys.
        middle = self._key(self._cell[position] + self._columns)
        first = np.searchsorted(self._keys, middle - 1, side="left")
        last = np.searchsorted(self._keys, middle + 1, side="right")
        return np.concatenate([self._order[a:b] for a, b in zip(first, last, strict=True) if a < b])

    def _key(self, cell: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray((cell[..., 0] * self._span + cell[..., 1]) * self._span + cell[..., 2])
