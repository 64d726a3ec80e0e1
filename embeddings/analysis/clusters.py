"""k-means for places and vectors: a few hundred centres of some thousand points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ROUNDS = 25
TRIALS = 4


def kmeans(
    points: Floats, count: int, *, seed: int = 0, weight: NDArray[np.float64] | None = None
) -> tuple[Floats, NDArray[np.int64]]:
    """Return centres ``(k, m) float32`` and the centre of each of ``points (n, m)``.

    Starts as k-means++ does (Arthur and Vassilvitskii 2007), then Lloyd's rounds. ``weight (n,)``
    says how much a point counts. k is ``count``, or fewer where there are fewer different points.
    """
    rng = np.random.default_rng(seed)
    points = np.ascontiguousarray(points, np.float32)
    weight = np.ones(len(points)) if weight is None else weight
    centres = points[_first(points, count, weight, rng)].copy()
    nearest = np.full(len(points), -1, np.int64)
    for _ in range(ROUNDS):
        moved = squared(points, centres).argmin(axis=1)
        if (moved == nearest).all():
            break
        nearest = moved
        mass = np.bincount(nearest, weight, len(centres))
        some = mass > 0
        member = np.zeros((len(centres), len(points)), np.float32)
        member[nearest, np.arange(len(points))] = weight
        sums = member @ points
        centres[some] = (sums[some] / mass[some, None]).astype(np.float32)
    used, codes = np.unique(nearest, return_inverse=True)
    return centres[used], codes.astype(np.int64)


def squared(points: Floats, centres: Floats) -> Floats:
    """Return squared distances ``(n, k) float32`` of ``points (n, m)`` to ``centres (k, m)``."""
    found = points @ (-2 * centres.T)
    found += np.einsum("ij,ij->i", points, points)[:, None]
    found += np.einsum("ij,ij->i", centres, centres)
    return np.asarray(np.maximum(found, 0, out=found))


def _first(
    points: Floats, count: int, weight: NDArray[np.float64], rng: np.random.Generator
) -> list[int]:
    """Return rows to start from, each drawn by its squared distance to those before.

    Of TRIALS rows drawn the one that brings all points nearest is taken.
    """
    chosen = [int(rng.choice(len(points), p=weight / weight.sum()))]
    far = squared(points, points[chosen])[:, 0].astype(np.float64)
    while len(chosen) < count:
        mass = far * weight
        mass[chosen] = 0.0
        if mass.sum() <= 0:
            break
        drawn = rng.choice(len(points), TRIALS, p=mass / mass.sum())
        nearer = np.minimum(far, squared(points[drawn], points))
        best = int((nearer @ weight).argmin())
        chosen.append(int(drawn[best]))
        far = nearer[best]
    return chosen
