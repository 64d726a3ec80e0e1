"""What a pixel of one date is expected to be at the other, and how far it is from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.plain import plain

Floats = NDArray[np.float32]

RIDGE = 1e-4
"""Penalty of the prediction, in mean variances of what it predicts from."""
FLOOR = 1e-2
"""Of the largest variance: smaller ones count as this, so that no noise is blown up."""
FLAT = 1e-3
"""Of the largest variance: along directions that vary less no cosine is laid."""
MIN_PIXELS = 30
"""With data at both dates; with fewer nothing can be said. A good fit needs thousands."""
CHUNK = 4096
"""Pixels that are looked at together: their cosines stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """One date from the other: linear, and cosines of random directions for what is not.

    ``weights (p, k + waves)`` and ``constant (p,)`` predict p bands from k features and from the
    cosines of ``frequencies (waves, p) @ base + phases (waves,)`` (random Fourier features,
    Rahimi and Recht 2007); ``whiten (p, p)`` makes what is left of equal variance; ``middle`` is
    the median of its square. All float32.
    """

    weights: Floats
    constant: Floats
    frequencies: Floats
    phases: Floats
    whiten: Floats
    middle: float

    @classmethod
    def fit(
        cls,
        features: Floats,
        base: Floats,
        target: Floats,
        *,
        waves: int,
        width: float,
        kept: float,
        rounds: int,
        rng: np.random.Generator,
    ) -> Prediction:
        """Fit to features ``(k, n)``, base ``(p, n)`` and the other date's values ``(p, n)``.

        ``rounds`` times the pixels that fit worst, all but a share ``kept``, are left out and the
        rest fitted again: what has changed must not teach what is expected.
        """
        frequencies, phases = _directions(base, waves, width, rng)
        inputs = _inputs(features, base, frequencies, phases)
        rows = np.arange(target.shape[1])
        for left_out in range(rounds + 1):
            weights, constant = _ridge(inputs[:, rows], target[:, rows])
            left = target - weights @ inputs - constant[:, None]
            whiten = _whiten(left[:, rows])
            far = np.square(whiten @ left).sum(axis=0)
            if left_out < rounds:
                rows = np.flatnonzero(far <= np.quantile(far, kept))
        middle = max(float(np.median(far)), 1e-12)
        return cls(weights, constant, frequencies, phases, whiten, middle)

    def distance(self, features: Floats, base: Floats, target: Floats) -> Floats:
        """Return ``(n,) float32``: squared distances to what is expected; their median is 1."""
        parts = [np.s_[:, at : at + CHUNK] for at in range(0, target.shape[1], CHUNK)]
        found = [self._distance(features[at], base[at], target[at]) for at in parts]
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def _distance(self, features: Floats, base: Floats, target: Floats) -> Floats:
        inputs = _inputs(features, base, self.frequencies, self.phases)
        left = self.whiten @ (target - self.weights @ inputs - self.constant[:, None])
        return np.asarray(np.einsum("ij,ij->j", left, left) / np.float32(self.middle), np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {name: plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Prediction:
        """Return what `to_json` wrote down."""
        arrays = {
            name: np.asarray(value, np.float32) for name, value in found.items() if name != "middle"
        }
        size = len(arrays["constant"])
        arrays["frequencies"] = arrays["frequencies"].reshape(-1, size)
        return cls(middle=float(found["middle"]), **arrays)


def _directions(
    base: Floats, waves: int, width: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return random directions and phases, in units of the spread of the data."""
    values, vectors = np.linalg.eigh(np.cov(base.astype(np.float64)).reshape(len(base), -1))
    keep = values > values.max() * FLAT
    unit = max(float(np.sqrt(values.mean())), 1e-9)
    turned = rng.normal(size=(waves, int(keep.sum()))) * width / unit
    frequencies = turned @ vectors[:, keep].T
    phases = rng.uniform(0, 2 * np.pi, waves) - frequencies @ base.mean(axis=1)
    return frequencies.astype(np.float32), np.asarray(phases % (2 * np.pi), np.float32)


def _inputs(features: Floats, base: Floats, frequencies: Floats, phases: Floats) -> Floats:
    if not len(phases):
        return features
    angles = frequencies @ base
    angles += phases[:, None]
    np.cos(angles, out=angles)
    angles *= np.float32(np.sqrt(2 / len(phases)))
    return np.concatenate([features, angles])


def _ridge(inputs: Floats, target: Floats) -> tuple[Floats, Floats]:
    mean, middle = inputs.mean(axis=1, dtype=np.float64), target.mean(axis=1, dtype=np.float64)
    centred = inputs - mean[:, None]
    products = centred @ centred.T
    products[np.diag_indices_from(products)] += RIDGE * max(np.trace(products), 1e-9) / len(mean)
    weights = np.linalg.solve(products, centred @ (target - middle[:, None]).T).T
    return weights.astype(np.float32), (middle - weights @ mean).astype(np.float32)


def _whiten(left: Floats) -> Floats:
    """Return the matrix that gives what is left unit variance in all directions."""
    spread = np.cov(left.astype(np.float64)).reshape(len(left), -1)
    values, vectors = np.linalg.eigh(spread)
    floor = max(float(values.max()) * FLOOR, 1e-12)
    return np.asarray(vectors.T / np.sqrt(np.maximum(values, floor))[:, None], np.float32)
