"""Scores of every sample from a model that did not see it, and the strength they speak for."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.analysis import logistic
from embeddings.analysis.folds import Split
from embeddings.analysis.samples import Samples
from embeddings.analysis.solving import STRENGTHS, ClassWeight, Kind, sample_weights, solve

Floats = NDArray[np.float32]
Stop = Callable[[], None]

RISE = 1.02
"""Weaker penalties are not tried once the loss has risen by this factor above the best."""

CLIP = 1e-6


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Out-of-fold scores.

    ``scores (n, c) float32`` are of the model of ``strength``, which is best over all folds.
    ``honest (n, c)`` are those to report: each fold's strength was chosen by the losses of the
    others alone. ``tested (n,) bool``: which samples were left out once. ``losses``: mean loss of
    each strength tried.
    """

    scores: Floats
    honest: Floats
    tested: NDArray[np.bool_]
    strength: float
    losses: dict[float, float]


def crossfit(
    samples: Samples,
    splits: list[Split],
    *,
    kind: Kind = "logistic",
    strengths: tuple[float, ...] = STRENGTHS,
    class_weight: ClassWeight = None,
    check: Stop = lambda: None,
) -> CrossFit:
    """Fit all strengths on every split and choose among them by the loss of what was left out.

    The choice for one fold from the losses of the others costs no further fit, unlike folds
    within folds. ``check`` is called between fits and may raise to stop.
    """
    weight = sample_weights(samples, class_weight)
    paths = [
        solve(
            samples.take(train),
            strengths,
            kind=kind,
            class_weight=class_weight,
            tolerance=logistic.ROUGH,
        )
        for train, _ in splits
    ]
    tested = np.zeros(len(samples), bool)
    for _, test in splits:
        tested[test] = True
    found: list[Floats] = []
    losses: list[NDArray[np.float64]] = []
    # A fold a thread: the products are too small to be worth dividing.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in strengths:
            check()
            scores = np.zeros((len(samples), max(1, len(samples.classes))), np.float32)
            models = pool.map(next, paths)
            for model, (_, test) in zip(models, splits, strict=True):
                scores[test] = model.scores(samples.vectors[test])
            each = losses_of(samples.task, scores, samples.target) * weight
            found.append(scores)
            losses.append(np.array([float(each[test].sum()) for _, test in splits]))
            if _risen([float(loss.sum()) for loss in losses]):
                break
    return _chosen(found, np.array(losses), splits, strengths, tested)


def _risen(totals: list[float]) -> bool:
    return len(totals) > 1 and totals[-1] > min(totals) * RISE and totals[-1] > totals[-2]


def _chosen(
    found: list[Floats],
    losses: NDArray[np.float64],
    splits: list[Split],
    strengths: tuple[float, ...],
    tested: NDArray[np.bool_],
) -> CrossFit:
    totals = losses.sum(axis=1)
    best = int(totals.argmin())
    honest = found[best].copy()
    for fold, (_, test) in enumerate(splits):
        if len(splits) > 1:
            honest[test] = found[int((totals - losses[:, fold]).argmin())][test]
    means = totals / max(1, int(tested.sum()))
    table = dict(zip(strengths[: len(means)], means.tolist(), strict=True))
    return CrossFit(found[best], honest, tested, strengths[best], table)


def losses_of(task: str, scores: Floats, target: NDArray[Any]) -> NDArray[np.float64]:
    """Return the loss of each score ``(n,)``: nats, or squared units for "number"."""
    if task == "number":
        return np.asarray((scores[:, 0] - target) ** 2, np.float64)
    if task == "classes":
        shares = logistic.softmax(scores)[np.arange(len(target)), target]
        return np.asarray(-np.log(np.maximum(shares, CLIP)), np.float64)
    wanted = target.reshape(len(target), -1)
    losses = np.logaddexp(0, scores.astype(np.float64)) - scores * wanted
    return np.asarray(losses.sum(axis=1))
