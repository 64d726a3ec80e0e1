"""How far from all labels a pixel may be before nothing is said of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.applicability import INSIDE, deviations
from embeddings.analysis.clusters import kmeans, squared
from embeddings.analysis.folds import Split

CENTRES = 128
"""Stand for the labels where there are more, so that the cost of a pixel does not grow."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelReach:
    """The labels, and how far such labels lie from each other.

    The distance to the nearest label, each feature in its own deviations: pixels have few
    features, whose size counts. (`Applicability`, for embeddings, compares directions.)
    """

    mean: Floats
    scale: Floats
    centres: Floats
    """``(k, d)``, standardised"""
    far: float

    @classmethod
    def fit(cls, vectors: Floats, splits: list[Split]) -> tuple[Self, NDArray[np.bool_]]:
        """Measure labels ``(n, d)``: INSIDE of those left out by ``splits`` lie within reach.

        Returns the reach, and which labels ``(n,)`` lie within it when they are left out.
        """
        mean, scale = deviations(vectors)
        points = np.asarray((vectors - mean) / scale, np.float32)
        apart = np.full(len(points), np.inf, np.float32)
        for train, test in splits:
            apart[test] = _distance(points[test], _centres(points[train]))
        far = float(np.quantile(apart[np.isfinite(apart)], INSIDE))
        return cls(mean, scale, _centres(points), far), apart <= far

    def inside(self, vectors: Floats) -> NDArray[np.bool_]:
        """Return ``(n,) bool``: which vectors ``(n, d)`` are like the labels."""
        points = np.asarray((vectors - self.mean) / self.scale, np.float32)
        return np.asarray(_distance(points, self.centres) <= self.far)


def _centres(points: Floats) -> Floats:
    return points if len(points) <= CENTRES else kmeans(points, CENTRES, seed=0)[0]


def _distance(points: Floats, centres: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(squared(points, centres).min(axis=1), 0)), np.float32)
