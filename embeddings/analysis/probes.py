"""Linear probes: fitted to labelled vectors, and all that is needed to predict with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.analysis.applicability import Applicability
from embeddings.analysis.crossfit import crossfit
from embeddings.analysis.folds import Split, random_folds, spatial_plan
from embeddings.analysis.logistic import sigmoid, softmax
from embeddings.analysis.samples import Samples, Task
from embeddings.analysis.solving import STRENGTHS, ClassWeight, Kind, Linear, solve
from embeddings.errors import InputError

__all__ = ["UNKNOWN", "ClassWeight", "Kind", "LinearProbe", "choose_strength", "fit"]

Scores = NDArray[np.float32]

UNKNOWN = -1
"""The code of a place whose class the probe will not name."""

QUICK_FOLDS = 4
"""Spatial folds on which ``fit`` chooses a strength by itself."""

ENOUGH = 20_000
"""Samples from which a strength is chosen; with more it hardly matters."""

FEW = 12
"""Of fewer samples no strength is chosen: the default serves."""

DEFAULT_STRENGTH = 10.0


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Everything that is needed to predict; what the model file stores.

    ``mean (d,)`` and ``scale (d,)`` standardise a vector; ``weights (d, c)`` and ``bias (c,)``
    are of the standardised space; all float32. c is the number of classes, and 1 for "number"
    and "positive". ``strength`` is the penalty that was used. ``temperature`` divides the scores.
    ``thresholds (c,) float64`` or None: the least calibrated probability with which a class is
    named ("classes"), said to be there ("multilabel"), or the place is taken ("positive": the
    relative probability, whatever the prevalence).
    ``prevalence``: of "positive", the share of all places that are of the class, where known.
    """

    task: Task
    kind: Kind
    classes: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    strength: float
    temperature: float = 1.0
    thresholds: NDArray[np.float64] | None = None
    applicability: Applicability | None = None
    prevalence: float | None = None

    @cached_property
    def folded(self) -> tuple[Scores, Scores]:
        """Weights ``(d, c)`` and bias ``(c,)`` for vectors that are not standardised."""
        return Linear(self.mean, self.scale, self.weights, self.bias).folded()

    def scores(self, vectors: Scores) -> Scores:
        """Return the linear scores ``(n, c)`` of vectors ``(n, d)``, not yet calibrated.

        The predicted number for "number"; the logarithm of how many times more likely the vector
        is among the positives than in the background for "positive".
        """
        weights, bias = self.folded
        return np.asarray(vectors @ weights + bias, np.float32)

    def probabilities(self, vectors: Scores) -> Scores:
        """Return calibrated probabilities ``(n, c)``; InputError for "number".

        Of "positive" they are relative (ratio / (1 + ratio)) unless the prevalence is known;
        then they are prevalence times ratio (Ward et al. 2009, presence-only data).
        """
        return self.probabilities_of(self.scores(vectors))

    def probabilities_of(self, scores: Scores) -> Scores:
        """Return the probabilities ``(n, c)`` of scores that ``scores`` gave."""
        if self.task == "number":
            raise InputError("A probe of a number has no probabilities; ask for its scores.")
        calm = scores / np.float32(self.temperature)
        if self.task == "classes":
            return softmax(calm)
        if self.task == "positive" and self.prevalence is not None:
            ratio = np.exp(np.minimum(calm, np.float32(50)))
            return np.asarray(np.minimum(np.float32(self.prevalence) * ratio, 1), np.float32)
        return sigmoid(calm)

    def predict(self, vectors: Scores) -> NDArray[Any]:
        """Return what the probe says of vectors ``(n, d)``.

        Codes ``(n,) int64`` for "classes", UNKNOWN where the probability is too low or the vector
        lies outside the area of applicability; ``(n,) float32`` for "number", ``(n, c) bool`` for
        "multilabel", ``(n,) bool`` for "positive".
        """
        found = self.decide(self.scores(vectors))
        if self.task == "classes" and self.applicability is not None:
            found[~self.applicability.inside(vectors)] = UNKNOWN
        return found

    def decide(self, scores: Scores) -> NDArray[Any]:
        """Return what scores alone say, applicability left aside; else as ``predict``."""
        if self.task == "number":
            return scores[:, 0]
        likely = self.probabilities_of(scores)
        if self.task == "classes":
            best = np.asarray(likely.argmax(axis=1), np.int64)
            if self.thresholds is None:
                return best
            sure = likely[np.arange(len(best)), best] >= self.thresholds[best]
            return np.where(sure, best, UNKNOWN)
        least = np.full(likely.shape[1], 0.5) if self.thresholds is None else self.thresholds
        if self.task == "positive" and self.thresholds is not None:
            # The threshold was found on this scale, where nobody knew the prevalence.
            likely = sigmoid(scores / np.float32(self.temperature))
        taken = likely >= least
        return np.asarray(taken if self.task == "multilabel" else taken[:, 0])


def fit(
    samples: Samples,
    *,
    kind: Kind = "logistic",
    strength: float | None = None,
    class_weight: ClassWeight = None,
) -> LinearProbe:
    """Fit a probe; without a strength it is chosen on spatial folds.

    "number" always takes a ridge. Raises InputError for labels that nothing can be learned from.
    """
    check_learnable(samples, kind)
    if samples.task == "number":
        kind = "ridge"
    if strength is None:
        strength = choose_strength(samples, kind=kind, class_weight=class_weight)
    if not (np.isfinite(strength) and strength >= 0):
        raise InputError(f"The strength {strength} is not allowed. Give a number of 0 or more.")
    path = tuple(s for s in STRENGTHS[:6:2] if s > strength) if kind == "logistic" else ()
    with threadpool_limits(1):  # so that a probe does not depend on the number of processors
        *_, found = solve(samples, (*path, strength), kind=kind, class_weight=class_weight)
    return LinearProbe(
        samples.task,
        kind,
        samples.classes,
        found.mean,
        found.scale,
        found.weights,
        found.bias,
        strength,
    )


def choose_strength(
    samples: Samples, *, kind: Kind = "logistic", class_weight: ClassWeight = None
) -> float:
    """Return the strength with the least loss on spatial folds, random ones where none exist."""
    if len(samples) < FEW or kind == "centroid":
        return DEFAULT_STRENGTH
    samples = samples.thinned(ENOUGH)
    return crossfit(samples, _quick(samples), kind=kind, class_weight=class_weight).strength


def _quick(samples: Samples) -> list[Split]:
    try:
        plan = spatial_plan(
            samples.lon, samples.lat, samples.group, samples.target, folds=QUICK_FOLDS
        )
    except InputError:  # all in one block: a probe of one town's labels is still a probe
        return random_folds(samples.target, QUICK_FOLDS, seed=0)
    return plan.splits(samples.lon, samples.lat)


def check_learnable(samples: Samples, kind: Kind = "logistic") -> None:
    """Raise InputError where no probe can be fitted, and say what is missing."""
    if len(samples) < 2:
        raise InputError(f"There are {len(samples)} labels; a probe needs at least two.")
    if samples.weight is not None and not samples.weight.any():
        raise InputError("All weights are 0: nothing counts. Give some samples more than 0.")
    checks = {
        "classes": _check_classes,
        "number": _check_number,
        "multilabel": _check_multilabel,
        "positive": _check_positive,
    }
    checks[samples.task](samples)
    if kind != "logistic" and samples.task not in ("number", "classes"):
        raise InputError(f"A '{kind}' probe does not fit '{samples.task}'; take 'logistic'.")
    if kind == "ridge" and samples.task == "classes":
        raise InputError("A 'ridge' probe predicts numbers; take 'logistic' for classes.")


def _check_classes(samples: Samples) -> None:
    there = np.unique(samples.target)
    if len(there) < 2:
        name = samples.classes[int(there[0])]
        raise InputError(
            f"All {len(samples)} labels are of one class, '{name}'. Add labels of another class, "
            "or fit the task 'positive', which compares them with the collection."
        )


def _check_number(samples: Samples) -> None:
    if float(samples.target.std()) == 0:
        raise InputError(
            f"All {len(samples)} labels have the value {samples.target[0]:g}; there is nothing "
            "to learn. Choose another field."
        )


def _check_multilabel(samples: Samples) -> None:
    shares = samples.target.mean(axis=0)
    idle = [n for n, s in zip(samples.classes, shares, strict=True) if s in (0.0, 1.0)]
    if idle:
        raise InputError(
            f"The class '{idle[0]}' is at all or none of the {len(samples)} places. Leave it out."
        )


def _check_positive(samples: Samples) -> None:
    found = int(samples.target.sum())
    if not found or found == len(samples):
        raise InputError(
            f"{found} of {len(samples)} places are positives. The task 'positive' needs some, and "
            "background of the collection beside them (Samples.with_background)."
        )
