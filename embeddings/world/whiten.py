"""Features to embeddings: quieten what differs between neighbours, keep the main axes, mix in kin.

All steps are fitted on the features themselves; no label is used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embeddings.places import Floats

DIM = 48
EARTH_RADIUS_KM = 6371.0088

PAIRS = 30_000
NEIGHBOUR_KM = 100.0
RIDGE = 0.02
"""This share of the mean noise variance is added to every direction."""

ANCHORS = 20_000
KIN = 10
KIN_KM = 1000.0
KIN_WEIGHT = 0.8
KIN_ROUNDS = 3
SEED = 1
BLOCK = 1000

Matrix = npt.NDArray[np.float32]


def embed(features: Matrix, lon: Floats, lat: Floats) -> Matrix:
    """Return ``(n, DIM) float32`` from standardised features ``(n, f)`` of places in degrees."""
    rng = np.random.default_rng(SEED)
    points = unit_vectors(lon, lat)
    axes = principal_axes(features @ _half_whitener(features, _neighbours(points, rng)), DIM)
    vectors = _unit(axes)
    anchors = np.sort(rng.permutation(len(points))[:ANCHORS])
    for _ in range(KIN_ROUNDS):
        vectors = _with_kin(vectors, points, anchors)
    return vectors


def unit_vectors(lon: Floats, lat: Floats) -> Matrix:
    """Return points ``(n, 3) float32`` on the unit sphere."""
    a, b = np.radians(lon), np.radians(lat)
    points = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1)
    return np.asarray(points, np.float32)


def principal_axes(features: Matrix, dim: int) -> Matrix:
    """Return the coordinates ``(n, dim)`` along the axes of the greatest variance."""
    centred = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return np.asarray(centred @ axes[:, ::-1][:, :dim].astype(np.float32))


def _neighbours(points: Matrix, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return pairs ``(m, 2)`` of places about NEIGHBOUR_KM apart: the nearest to that of a few."""
    first = rng.permutation(len(points))[:PAIRS]
    second = np.empty_like(first)
    wanted = np.float32(np.cos(NEIGHBOUR_KM / EARTH_RADIUS_KM))
    candidates = np.sort(rng.permutation(len(points))[:ANCHORS])
    for start in range(0, len(first), BLOCK):
        block = slice(start, start + BLOCK)
        cosine = points[first[block]] @ points[candidates].T
        cosine[first[block][:, None] == candidates] = -2.0  # a place is no neighbour of its own
        second[block] = candidates[np.abs(cosine - wanted).argmin(axis=1)]
    return np.stack([first, second], axis=1)


def _half_whitener(features: Matrix, pairs: npt.NDArray[np.intp]) -> Matrix:
    """Return the matrix ``(f, f)`` that shrinks directions in which neighbours differ.

    The inverse square root of a standard deviation, so half of the noise whitening of the minimum
    noise fraction transform (Green et al. 1988, doi:10.1109/36.3001).
    """
    difference = (features[pairs[:, 0]] - features[pairs[:, 1]]).astype(np.float64)
    noise = difference.T @ difference / len(pairs)
    noise += RIDGE * np.trace(noise) / len(noise) * np.eye(len(noise))
    variance, axes = np.linalg.eigh(noise)
    return np.asarray((axes * variance**-0.25) @ axes.T, np.float32)


def _with_kin(vectors: Matrix, points: Matrix, anchors: npt.NDArray[np.intp]) -> Matrix:
    """Add to each unit vector the mean of its KIN most similar ones more than KIN_KM away.

    Database-side augmentation (Arandjelović and Zisserman 2012, doi:10.1109/CVPR.2012.6248018),
    with a sample of the vectors for a database. It draws like places of different continents
    together, and so apart from their neighbours on the map.
    """
    near = np.float32(np.cos(KIN_KM / EARTH_RADIUS_KM))
    mixed = np.empty_like(vectors)
    database, places = vectors[anchors], points[anchors]
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        cosine = vectors[block] @ database.T
        cosine[points[block] @ places.T > near] = -2.0
        best = np.argpartition(-cosine, KIN, axis=1)[:, :KIN]
        # In the order of the anchors, so that the sum has one order too.
        kin = database[np.sort(best, axis=1)].mean(axis=1)
        mixed[block] = vectors[block] + np.float32(KIN_WEIGHT) * _unit(kin)
    return _unit(mixed)


def _unit(vectors: Matrix) -> Matrix:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)
