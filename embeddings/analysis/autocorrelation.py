"""How far labels resemble each other: the correlogram of a target, and block sizes from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.spacing import EARTH_RADIUS_M

Floats = NDArray[np.float64]

MOST_PLACES = 1500
"""Places whose pairs are measured: a million pairs settle a correlogram."""

BINS = 24
FADED = 0.1
"""Labels correlated less than this count as independent."""


@dataclass(frozen=True, eq=False)
class Correlogram:
    """Correlation of labels ``(b,)`` at mean distances ``(b,)`` in metres, rising."""

    distance_m: Floats
    correlation: Floats

    @property
    def range_m(self) -> float:
        """The first distance in metres at which the labels count as independent.

        The longest distance measured where they never do: the labels follow a trend.
        """
        if not len(self.distance_m):
            return 0.0
        faded = np.flatnonzero(self.correlation <= FADED)
        if not len(faded):
            return float(self.distance_m[-1])
        after = int(faded[0])
        if after == 0:
            return float(self.distance_m[0])
        ends = self.correlation[[after, after - 1]]
        return float(np.interp(FADED, ends, self.distance_m[[after, after - 1]]))


def unit_points(lon: Floats, lat: Floats) -> Floats:
    """Return places in degrees as points ``(n, 3) float64`` on the unit sphere.

    Distances in space know no antimeridian and no poles.
    """
    a, b = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1)


def chord(distance_m: float) -> float:
    """Return the straight line on the unit sphere between places ``distance_m`` apart."""
    return float(2 * np.sin(min(distance_m / (2 * EARTH_RADIUS_M), np.pi / 2)))


def correlogram(lon: Floats, lat: Floats, target: NDArray[Any], *, seed: int = 0) -> Correlogram:
    """Measure how alike labels are by distance.

    ``target`` is ``(n,)`` codes or bool, ``(n, c)`` bool or ``(n,) float`` numbers; places are
    degrees. 1 - variogram / sill with Matheron's empirical variogram (1963), for classes
    that of their indicators summed (Goovaerts 1997, chapter 7), which is the share of pairs that
    differ, as join counts have it. Distances are binned by their logarithm, since clustered
    labels have pairs at every scale.
    """
    from scipy.spatial.distance import pdist

    rows = np.random.default_rng(seed).permutation(len(lon))[:MOST_PLACES]
    values = _columns(target[rows])
    sill = float(values.var(axis=0).sum())
    if len(rows) < 2 or sill <= 0:
        return Correlogram(np.empty(0), np.empty(0))
    far = pdist(unit_points(lon[rows], lat[rows]))
    apart = far > 0
    unlike = 0.5 * pdist(values, "sqeuclidean")[apart]
    if not apart.any():
        return Correlogram(np.empty(0), np.empty(0))
    metres = 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(far[apart] / 2, 1.0))
    return _binned(metres, 1 - unlike / sill)


def _binned(metres: Floats, likeness: Floats) -> Correlogram:
    # A bin needs enough pairs to be more than chance.
    nearest = float(np.quantile(metres, min(1.0, 200 / len(metres))))
    edges = np.geomspace(nearest, float(metres.max()) * (1 + 1e-9), BINS + 1)[1:]
    bins = np.searchsorted(edges, metres, side="right")
    pairs = np.bincount(bins, minlength=BINS + 2)[: BINS + 1]
    enough = pairs >= min(100, len(metres))
    sums = [np.bincount(bins, column, BINS + 2)[: BINS + 1] for column in (metres, likeness)]
    return Correlogram(sums[0][enough] / pairs[enough], sums[1][enough] / pairs[enough])


def _columns(target: NDArray[Any]) -> Floats:
    """Return columns ``(n, c)`` whose squared differences say how unlike two labels are."""
    if target.ndim == 2 or np.issubdtype(target.dtype, np.floating):
        return np.asarray(target, np.float64).reshape(len(target), -1)
    return np.asarray(target[:, None] == np.unique(target), np.float64)
