"""How a figure falls with the width of the regions that are left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.autocorrelation import unit_points
from embeddings.analysis.folds import Blocks
from embeddings.analysis.samples import Samples
from embeddings.spacing import EARTH_RADIUS_M

FOLDS = (20, 10, 5)
"""Numbers of folds at which the figure is measured: narrow, middling and wide regions."""


@dataclass(frozen=True)
class WidthScore:
    """The task's main figure when regions ``region_m`` metres wide are left out.

    The right one to read is that of regions as wide as the area to be mapped lies away.
    """

    folds: int
    region_m: float
    value: float


def region_width(samples: Samples, region: NDArray[np.int64]) -> float:
    """Return the median over regions of twice the median distance to their middle, in metres."""
    points = unit_points(samples.lon, samples.lat)
    widths = []
    for number in np.unique(region):
        mine = points[region == number]
        away = np.linalg.norm(mine - mine.mean(axis=0), axis=1)
        widths.append(2 * EARTH_RADIUS_M * float(np.median(away)))
    return float(np.median(widths))


def other_folds(plan: Blocks) -> list[int]:
    """Return the numbers of folds to measure beside the plan's, as far as its blocks allow."""
    used, blocks = len(np.unique(plan.fold)), len(np.unique(plan.block))
    return [count for count in FOLDS if count != used and count <= blocks]
