"""What a probe's probability is worth: temperature, calibration error, and when to refuse.

All of it from out-of-fold scores of spatial folds, so that a probability means how often the
probe is right in a region it has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.crossfit import losses_of
from embeddings.analysis.logistic import sigmoid, softmax

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]

COLDEST, HOTTEST = 0.05, 20.0
BINS = 15
"""Bins of equal width of ``calibration_error``, as Guo et al. have."""

CONFIDENCE = 0.9
"""With which the error among the accepted is at most what was asked."""

STEPS = 50
"""Shares of the samples at which a threshold is tried."""

REFUSE_ALL = 1.01

LESS_STRICT = (0.2, 0.3, 0.4, 0.5)
"""Errors that are promised in turn where the one asked for cannot be."""

LEAST_ACCEPTED = 0.05
"""Share of the samples that a promise must leave accepted."""

NO_GUARANTEE = (
    "The error rate holds for places like those of the labels. In a region that differs from all "
    "labelled regions it does not hold, whatever the probability says; label some places there."
)


@dataclass(frozen=True, eq=False)
class Selection:
    """When to accept a prediction, and what came of it out of fold.

    ``thresholds (c,) float64``: accepted if the best class's probability is at least its own;
    above 1 refuses all. ``asked`` is the error that may remain among the accepted, ``promised``
    the one that is kept, which is larger where almost nothing could be accepted else; ``error``
    what was found, ``error_bound`` its upper bound at CONFIDENCE, ``accepted`` the share accepted.
    """

    thresholds: Floats
    asked: float
    promised: float
    error: float
    error_bound: float
    accepted: float


def temperature_of(
    task: str, scores: Scores, target: NDArray[Any], weight: Floats | None = None
) -> float:
    """Return what to divide scores ``(n, c)`` by, so that their loss, ``weight (n,)``, is least.

    Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks"): it leaves
    the order of the classes alone. Golden section over the logarithm; the loss has one minimum
    in 1 / temperature.
    """
    low, high = float(np.log(COLDEST)), float(np.log(HOTTEST))
    golden = (np.sqrt(5) - 1) / 2

    def loss(log_t: float) -> float:
        losses = losses_of(task, scores / np.float32(np.exp(log_t)), target)
        return float(np.average(losses, weights=weight))

    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-3:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))


def probabilities(task: str, scores: Scores, temperature: float) -> Scores:
    """Return probabilities ``(n, c)`` of scores at a temperature."""
    calm = scores / np.float32(temperature)
    return softmax(calm) if task == "classes" else sigmoid(calm)


def calibration_error(likely: NDArray[Any], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error (Naeini et al. 2015) of stated probabilities.

    ``likely (n,)`` in 0 to 1, ``right (n,)``: over bins of equal width the mean distance between
    mean probability and share right, weighted by count.
    """
    if not len(likely):
        return float("nan")
    number = np.minimum((likely * bins).astype(np.int64), bins - 1)
    gap = np.bincount(number, likely.astype(np.float64) - right, bins)
    return float(np.abs(gap).sum() / len(likely))


def reliability(
    likely: NDArray[Any], right: NDArray[np.bool_], bins: int = 10
) -> list[dict[str, float]]:
    """Return bins that hold samples: mean probability, share right, count; for a diagram."""
    number = np.minimum((likely * bins).astype(np.int64), bins - 1)
    table = []
    for each in np.unique(number):
        inside = number == each
        table.append(
            {
                "probability": float(likely[inside].mean()),
                "right": float(right[inside].mean()),
                "count": int(inside.sum()),
            }
        )
    return table


def select(
    likely: Scores,
    target: NDArray[np.int64],
    unit: NDArray[np.int64],
    *,
    asked: float = 0.1,
    per_class: bool = False,
) -> Selection:
    """Choose thresholds so that at most ``asked`` of the accepted are wrong.

    ``likely (n, c)`` calibrated out-of-fold probabilities, ``target (n,)`` codes, ``unit (n,)``
    the block of each sample. One threshold for all classes, or one for each from the samples so
    called. From strict to lax, the last threshold is taken before the upper bound of the error
    exceeds ``asked`` again (in sequence as Angelopoulos et al. 2021, "Learn then test", in place
    of the binary search of Geifman and El-Yaniv 2017; the strictest, which accept too few for
    any bound, are passed over), the bound being that of Clopper and
    Pearson (1934) with the number of samples that blocks leave effective (``effective``).
    """
    found = _select(likely, target, unit, asked, asked, per_class)
    for promised in LESS_STRICT:
        if found.accepted < LEAST_ACCEPTED and promised > asked:
            found = _select(likely, target, unit, asked, promised, per_class)
    return found


def _select(
    likely: Scores,
    target: NDArray[np.int64],
    unit: NDArray[np.int64],
    asked: float,
    promised: float,
    per_class: bool,
) -> Selection:
    best = likely.argmax(axis=1)
    sure = likely[np.arange(len(best)), best].astype(np.float64)
    wrong = best != target
    thresholds = np.full(likely.shape[1], REFUSE_ALL)
    if per_class:
        for code in np.unique(best):
            mine = best == code
            thresholds[code] = _threshold(sure[mine], wrong[mine], unit[mine], promised)
    else:
        thresholds[:] = _threshold(sure, wrong, unit, promised)
    accepted = sure >= thresholds[best]
    if not accepted.any():
        nan = float("nan")
        return Selection(thresholds, asked, promised, nan, nan, 0.0)
    error = float(wrong[accepted].mean())
    bound = upper_bound(error, effective(wrong[accepted], unit[accepted]))
    return Selection(thresholds, asked, promised, error, bound, float(accepted.mean()))


def _threshold(
    sure: Floats, wrong: NDArray[np.bool_], unit: NDArray[np.int64], asked: float
) -> float:
    order = np.argsort(-sure, kind="stable")
    found, passed = REFUSE_ALL, False
    for count in np.unique(np.linspace(0, len(sure), STEPS + 1).astype(np.int64)[1:]):
        # Equal probabilities are accepted together or not at all.
        count = int(np.searchsorted(-sure[order], -sure[order[count - 1]], side="right"))
        rows = order[:count]
        error = float(wrong[rows].mean())
        if upper_bound(error, effective(wrong[rows], unit[rows])) <= asked:
            found, passed = float(sure[rows[-1]]), True
        elif passed:
            break
    return found


def effective(wrong: NDArray[np.bool_], unit: NDArray[np.int64]) -> float:
    """Return how many independent samples the errors ``(n,)`` of spatial units are worth.

    n over Kish's design effect, which is the variance of the share of errors between units over
    that of a binomial. Where none or all are wrong nothing varies: then one a unit, for errors
    may come by whole units all the same.
    """
    count, share = len(wrong), float(wrong.mean())
    _, member = np.unique(unit, return_inverse=True)
    units = int(member.max()) + 1
    if units < 2 or share in (0.0, 1.0):
        return float(units)
    spread = np.bincount(member, wrong - share)
    variance = units / (units - 1) * float((spread**2).sum()) / count**2
    return float(np.clip(share * (1 - share) / max(variance, 1e-12), 1.0, count))


def upper_bound(share: float, size: float, confidence: float = CONFIDENCE) -> float:
    """Return the upper bound of a share found among ``size`` (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    hits = share * size
    return 1.0 if hits >= size else float(betaincinv(hits + 1, size - hits, confidence))
