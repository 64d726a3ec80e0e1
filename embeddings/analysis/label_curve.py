"""How errors fall as labels grow, and what more labels would probably bring."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.analysis import logistic
from embeddings.analysis.folds import Split
from embeddings.analysis.samples import Samples
from embeddings.analysis.scores import few_units
from embeddings.analysis.solving import ClassWeight, Kind, sample_weights, solve

Floats = NDArray[np.float64]

MORE = 50
"""Labels whose gain is foretold."""

SIZES = 6
LEAST = 20
"""Labels at the curve's beginning."""

REPEATS = 2
"""Draws of the labels at sizes of less than half of all."""

DRAWS = 300
COVERED = 0.9
"""Of the gain's interval."""

EXPONENTS = np.linspace(0.1, 1.5, 15)


@dataclass(frozen=True)
class LabelCurve:
    """Errors over numbers of labels, on spatial folds.

    ``labels`` counts label features, not samples; of "positive" those of positives, while the
    background is always there whole. ``error`` is the share wrong; of a number the
    squared error over the target's variance; of "positive" the mean of the shares wrong among
    positives and in the background. ``gain`` is by how much MORE labels like these would lower
    it, ``gain_low`` and ``gain_high`` a 90 % interval; None with too few labels to say.
    """

    labels: list[int]
    error: list[float]
    deviation: list[float]
    gain: float | None
    gain_low: float | None
    gain_high: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self) | {"more": MORE}


def label_curve(
    samples: Samples,
    splits: list[Split],
    strength: float,
    *,
    kind: Kind = "logistic",
    class_weight: ClassWeight = None,
    seed: int = 0,
) -> LabelCurve | None:
    """Fit on growing parts of each fold's training labels; None with fewer than 2 * LEAST."""
    groups = min(len(samples.labels(train)) for train, _ in splits)
    if groups < 2 * LEAST:
        return None
    sizes = np.unique(np.geomspace(LEAST, groups, SIZES).astype(int))
    weight = sample_weights(samples, class_weight)
    variance = max(float(samples.target.var()), 1e-300) if samples.task == "number" else 1.0

    def one(job: tuple[int, int, int]) -> tuple[float, float]:
        size, fold, repeat = job
        train, test = splits[fold]
        part = samples.take(_drawn(samples, train, size, seed + 1000 * repeat + fold))
        model = next(
            solve(
                part,
                (strength,),
                kind=kind,
                class_weight=class_weight,
                tolerance=logistic.ROUGH,
            )
        )
        wrong = _mistakes(samples.task, model.scores(samples.vectors[test]), samples.target[test])
        mass = weight[test] if samples.task == "positive" else np.ones(len(test))
        return float(wrong @ mass) / variance, float(mass.sum())

    jobs = [
        (int(size), fold, repeat)
        for size in sizes
        for fold in range(len(splits))
        for repeat in range(REPEATS if size < groups / 2 else 1)
    ]
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(one, jobs))
    table = np.zeros((2, len(sizes), len(splits)))
    for (size, fold, _), values in zip(jobs, found, strict=True):
        table[:, int(np.searchsorted(sizes, size)), fold] += values
    return _curve(sizes, table[0], table[1], len(samples.labels()), seed)


def _drawn(samples: Samples, train: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Return the training rows of ``size`` label features, and of the background."""
    kept = np.random.default_rng(seed).permutation(samples.labels(train))[:size]
    rows = np.isin(samples.group[train], kept)
    return train[rows | ~samples.target[train] if samples.task == "positive" else rows]


def _mistakes(task: str, scores: NDArray[np.float32], target: NDArray[Any]) -> Floats:
    if task == "classes":
        return np.asarray(scores.argmax(axis=1) != target, np.float64)
    if task == "number":
        return np.asarray((scores[:, 0] - target) ** 2, np.float64)
    return np.asarray(((scores > 0) != target.reshape(scores.shape)).mean(axis=1), np.float64)


def _curve(sizes: NDArray[Any], wrong: Floats, mass: Floats, count: int, seed: int) -> LabelCurve:
    """Fit and foretell; ``wrong`` and ``mass (s, f)`` are summed errors and weights of folds."""
    error = wrong.sum(axis=1) / mass.sum(axis=1)
    folds = wrong.shape[1]
    drawn = np.random.default_rng(seed).multinomial(folds, np.full(folds, 1 / folds), DRAWS)
    each = (drawn @ wrong.T) / np.maximum(drawn @ mass.T, 1e-12)
    gains = np.array([_gain(sizes, errors, count) for errors in each])
    spread, wide = few_units(folds, COVERED)
    known = len(sizes) >= 4
    gain = _gain(sizes, error, count)
    ends = np.quantile(gains, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    low, high = np.maximum(gain + (ends - gain) * wide, 0).tolist()
    return LabelCurve(
        [int(size) for size in sizes],
        error.tolist(),
        (each.std(axis=0) * spread).tolist(),
        gain if known else None,
        low if known else None,
        high if known else None,
    )


def _gain(sizes: NDArray[Any], error: Floats, count: int) -> float:
    """Return the fall of the error from ``count`` labels to MORE beyond.

    The inverse power law a + b n^-c of learning curves (Figueroa et al. 2012, "Predicting sample
    size required for classification performance"), by least squares for each c, with a and b not
    negative; larger sizes count more, since what follows them is asked for.
    """
    weight = np.sqrt(sizes / sizes.sum())
    best, gain = np.inf, 0.0
    for exponent in EXPONENTS:
        falling = sizes.astype(float) ** -exponent
        table = np.stack([np.ones_like(falling), falling], axis=1)
        fitted = np.linalg.lstsq(table * weight[:, None], error * weight, rcond=None)[0]
        if fitted[0] < 0:
            down = falling * weight
            fitted = np.array([0.0, float(down @ (error * weight)) / float(down @ down)])
        if fitted[1] < 0:
            fitted = np.array([float(np.average(error, weights=weight**2)), 0.0])
        loss = float((((table @ fitted - error) * weight) ** 2).sum())
        if loss < best:
            best = loss
            gain = float(fitted[1] * (count**-exponent - (count + MORE) ** -exponent))
    return gain
