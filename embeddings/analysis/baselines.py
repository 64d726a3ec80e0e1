"""What a probe has to beat: the commonest answer, the place alone, and simpler rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.autocorrelation import unit_points
from embeddings.analysis.clusters import squared
from embeddings.analysis.folds import Split
from embeddings.analysis.samples import Samples
from embeddings.analysis.solving import solve, standardisation, wanted_shares

Floats = NDArray[np.float32]

NEAREST = 5
"""Neighbours that vote."""

DESCRIPTIONS = {
    "dummy": "always the commonest class of all labels (of a number, their mean)",
    "place": f"the {NEAREST} nearest labels on the Earth, by longitude and latitude alone",
    "neighbours": f"the {NEAREST} nearest labelled vectors",
    "centroid": "the nearest mean vector of a class",
}


def predict_baselines(samples: Samples, splits: list[Split]) -> dict[str, NDArray[Any]]:
    """Return what each baseline says of every sample when its fold is left out.

    Shares ``(n, c)`` of the classes, or numbers ``(n, 1)``; by the names of DESCRIPTIONS. The
    dummy is one answer everywhere, of all labels: taken anew without each region it would name
    what that region lacks, and its kappa, R squared and AUC would say less than "no skill".
    """
    wanted = _wanted(samples)
    names = [n for n in DESCRIPTIONS if n != "centroid" or samples.task == "classes"]
    found = {name: np.zeros(wanted.shape, np.float32) for name in names}
    found["dummy"][:] = wanted.mean(axis=0)
    for train, test in splits:
        known = wanted[train]
        found["place"][test] = _by_place(samples, train, test, known)
        found["neighbours"][test] = _by_vector(samples, train, test, known)
        if samples.task == "classes":
            model = next(solve(samples.take(train), (1.0,), kind="centroid"))
            best = model.scores(samples.vectors[test]).argmax(axis=1)
            found["centroid"][test] = np.eye(wanted.shape[1], dtype=np.float32)[best]
    return found


def _wanted(samples: Samples) -> Floats:
    if samples.task == "number":
        return np.asarray(samples.target[:, None], np.float32)
    return wanted_shares(samples.task, samples.target, len(samples.classes))


def _by_place(
    samples: Samples, train: NDArray[np.int64], test: NDArray[np.int64], known: Floats
) -> Floats:
    from scipy.spatial import cKDTree

    points = unit_points(samples.lon, samples.lat)
    count = min(NEAREST, len(train))
    _, near = cKDTree(points[train]).query(points[test], k=count)
    return np.asarray(known[near.reshape(len(test), count)].mean(axis=1))


def _by_vector(
    samples: Samples, train: NDArray[np.int64], test: NDArray[np.int64], known: Floats
) -> Floats:
    mean, scale = standardisation(samples.take(train))
    values = (samples.vectors[train] - mean) / scale
    count = min(NEAREST, len(train))
    found = np.empty((len(test), known.shape[1]), np.float32)
    for rows in np.array_split(np.arange(len(test)), max(1, len(test) // 512)):
        asked = (samples.vectors[test[rows]] - mean) / scale
        near = np.argpartition(squared(asked, values), count - 1, axis=1)[:, :count]
        found[rows] = known[near].mean(axis=1)
    return found
