"""From pooled features to vectors: scaled blocks, centred, projected onto principal axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import NoDataError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SMALLEST_SPREAD = 1e-6
"""A block whose features vary less holds rounding errors only."""

SMALLEST_VARIANCE = 1e-9
"""Principal axes with less than this share of the first one's variance are left out."""


def fit_projection(
    joined: Floats, blocks: list[tuple[slice, float]], dim: int, whiten: float
) -> dict[str, Floats]:
    """Return ``block_scale``, ``centre`` and ``projection`` for ``project``.

    ``joined`` is ``(n, features)``; each of ``blocks`` is given the total variance of its weight
    squared, spread evenly over its features. Raises NoDataError if all rows are alike.
    """
    values = joined.astype(np.float64)
    spread = values.std(axis=0)
    scale = np.zeros(values.shape[1])
    for block, weight in blocks:
        usual = float(np.sqrt((spread[block] ** 2).mean()))
        if usual > SMALLEST_SPREAD:
            # A feature that hardly varies is not blown up to the rank of the others.
            one = np.maximum(spread[block], usual / 100)
            scale[block] = weight / (one * np.sqrt(len(one)))
    if not scale.any():
        raise NoDataError("All chips of the scene look alike; there is nothing to compare.")
    values *= scale
    centre = values.mean(axis=0)
    values -= centre
    axes, variance = _principal(values, dim)
    return {
        "block_scale": scale.astype(np.float32),
        "centre": centre.astype(np.float32),
        "projection": np.ascontiguousarray(axes * variance ** (-whiten / 2), dtype=np.float32),
    }


def project(features: Floats, tensors: dict[str, Floats]) -> Floats:
    """Return the vector ``(dim,)`` of the features of one chip.

    A product of many chips at once may round one by its place among the others.
    """
    scaled = features * tensors["block_scale"] - tensors["centre"]
    return np.asarray(scaled @ tensors["projection"])


def _principal(values: Doubles, dim: int) -> tuple[Doubles, Doubles]:
    """Return principal axes ``(features, at most dim)`` and their variances, largest first."""
    count, features = values.shape
    wide = features > count
    square = (values @ values.T if wide else values.T @ values) / (count - 1)
    variance, axes = np.linalg.eigh(square)
    order = np.argsort(-variance)[: min(dim, count - 1)]
    order = order[variance[order] > variance[order[0]] * SMALLEST_VARIANCE]
    found, kept = axes[:, order], variance[order]
    if wide:
        found = values.T @ found / np.sqrt(kept * (count - 1))
    return found, kept
