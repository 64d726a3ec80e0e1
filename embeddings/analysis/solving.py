"""Linear models of labelled vectors for a path of strengths, whatever the task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis import logistic
from embeddings.analysis.samples import Samples

Floats = NDArray[np.float32]
Kind = Literal["logistic", "ridge", "centroid"]
ClassWeight = Literal["balanced"] | None

STRENGTHS = (1e4, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.1)
"""Penalties to choose from, strong to weak: alpha of a ridge, 1 / C of scikit-learn's logistic."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Standardisation ``mean (d,)``, ``scale (d,)``; then ``weights (d, c)``, ``bias (c,)``."""

    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats

    def folded(self) -> tuple[Floats, Floats]:
        """Return weights and bias for vectors that are not standardised."""
        weights = self.weights / self.scale[:, None]
        bias = self.bias - self.mean.astype(np.float64) @ weights
        return weights, bias.astype(np.float32)

    def scores(self, vectors: Floats) -> Floats:
        """Return scores ``(n, c) float32`` of vectors ``(n, d)``."""
        weights, bias = self.folded()
        return np.asarray(vectors @ weights + bias, np.float32)


def solve(
    samples: Samples,
    strengths: tuple[float, ...],
    *,
    kind: Kind = "logistic",
    class_weight: ClassWeight = None,
    tolerance: float = logistic.TOLERANCE,
) -> Iterator[Linear]:
    """Yield the model of each strength, from strong to weak as they are given.

    "number" takes a ridge whatever the kind. Positives and background always weigh the same, so
    that the score is the logarithm of a ratio of densities.
    """
    weight = sample_weights(samples, class_weight)
    mean, scale = standardisation(samples, weight)
    values = (samples.vectors - mean) / scale
    models = {"ridge": _ridge, "centroid": _centroid, "logistic": _logistic}
    chosen = "ridge" if samples.task == "number" else kind
    for weights, bias in models[chosen](samples, values, weight, strengths, tolerance):
        yield Linear(mean, scale, weights, bias)


def standardisation(
    samples: Samples, weight: NDArray[np.float64] | None = None
) -> tuple[Floats, Floats]:
    """Return mean and scale ``(d,) float32``, each sample counting ``weight (n,)``.

    The scale is one for all dimensions of a vector, the root of their mean variance; of vectors
    side by side each has its own, so that all weigh alike. To each dimension its own deviation
    would raise what hardly varies, which is mostly noise, to the rank of what tells places apart;
    with few labels the penalty cannot undo that (tests/bench/probe_scales.py: at 100 labels it
    costs a sixth to a half of the accuracy).
    """
    return standard_of(samples.vectors, samples.blocks, weight)


def standard_of(
    vectors: Floats, blocks: tuple[int, ...] = (), weight: NDArray[np.float64] | None = None
) -> tuple[Floats, Floats]:
    """Return mean and scale ``(d,)`` of vectors ``(n, d)`` that are ``blocks`` side by side."""
    weight = np.ones(len(vectors)) if weight is None else weight
    light = (weight / weight.sum()).astype(np.float32)
    mean = light @ vectors
    centred = vectors - mean
    centred *= centred
    variance = light @ centred
    scale = np.ones(vectors.shape[1], np.float32)
    ends = np.cumsum(blocks or (vectors.shape[1],))
    for block in map(slice, [0, *ends[:-1]], ends):
        spread = np.sqrt(variance[block].mean(dtype=np.float64))
        # Where nothing varies nothing is told, and it must not be divided by almost nothing.
        if spread > 1e-5 * np.abs(mean[block]).mean() + 1e-12:
            scale[block] = spread
    return mean, scale


def sample_weights(samples: Samples, class_weight: ClassWeight) -> NDArray[np.float64]:
    """Return what each sample counts, ``(n,)``, on average 1."""
    weight = np.ones(len(samples)) if samples.weight is None else samples.weight.copy()
    if samples.task == "positive" or (class_weight == "balanced" and samples.task == "classes"):
        codes = samples.target.astype(np.int64)
        mass = np.bincount(codes, weight)
        weight /= np.where(mass > 0, mass, 1.0)[codes]
    return weight / max(float(weight.mean()), 1e-300)


def wanted_shares(task: str, target: NDArray[Any], count: int) -> Floats:
    """Return the target as what a model should answer, ``(n, c) float32``."""
    if task == "classes":
        return np.asarray(target[:, None] == np.arange(count), np.float32)
    return np.asarray(target, np.float32).reshape(len(target), -1)


def _logistic(
    samples: Samples,
    values: Floats,
    weight: NDArray[np.float64],
    strengths: tuple[float, ...],
    tolerance: float,
) -> Iterator[tuple[Floats, Floats]]:
    basis = logistic.Basis.of(values)
    wanted = wanted_shares(samples.task, samples.target, len(samples.classes))
    link: logistic.Link = "softmax" if samples.task == "classes" else "sigmoid"
    light = weight.astype(np.float32)
    for found in logistic.path(basis, wanted.T.copy(), light, list(strengths), link, tolerance):
        yield basis.back(found)


def _ridge(
    samples: Samples,
    values: Floats,
    weight: NDArray[np.float64],
    strengths: tuple[float, ...],
    _tolerance: float,
) -> Iterator[tuple[Floats, Floats]]:
    """All strengths from one eigendecomposition (Hoerl and Kennard 1970)."""
    wanted = wanted_shares(samples.task, samples.target, len(samples.classes)).astype(np.float64)
    if samples.task == "number":
        wanted = samples.target[:, None].astype(np.float64)
    middle = np.average(wanted, axis=0, weights=weight)
    heavy = values * weight[:, None].astype(np.float32)
    spread, turn = np.linalg.eigh((values.T @ heavy).astype(np.float64))
    reached = turn.T @ (heavy.T @ (wanted - middle))
    for strength in strengths:
        shrunk = reached / (np.maximum(spread, 0)[:, None] + max(strength, 1e-9))
        yield (turn @ shrunk).astype(np.float32), middle.astype(np.float32)


def _centroid(
    samples: Samples,
    values: Floats,
    weight: NDArray[np.float64],
    strengths: tuple[float, ...],
    _tolerance: float,
) -> Iterator[tuple[Floats, Floats]]:
    """The nearest mean of a class: as a linear score, for the vector's own square is common."""
    member = wanted_shares("classes", samples.target, len(samples.classes))
    member *= weight[:, None].astype(np.float32)
    mass = member.sum(axis=0)
    means = (values.T @ member) / np.maximum(mass, 1e-12)
    bias = np.where(mass > 0, -0.5 * (means**2).sum(axis=0), -np.inf)
    for _ in strengths:
        yield means.astype(np.float32), bias.astype(np.float32)
