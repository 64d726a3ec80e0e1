"""What a cosine means: how unusual it is here, and how often such results are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError

PAIR_ROWS = 2_000
RAREST = 1e-5
"""A sample of PAIR_ROWS rows says nothing of pairs rarer than this, though it has more pairs."""
TAIL = 4
"""Steps per factor of ten in which the rare end of the scale is stored."""
Z = 1.645
"""Of an interval that holds the truth in 90 of 100 cases."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """Quantiles of cosines: at ``levels (q,)``, shares of pairs, the cosines ``values (q,)``."""

    levels: Floats
    values: Floats

    @classmethod
    def of_pairs(cls, sample: NDArray[np.float32]) -> Self:
        """Make the scale of all pairs of a sample of a collection's rows, unit ``(n, dim)``.

        For a cosine between two places. All pairs of 2,000 rows cost one product of matrices and
        2,000 reads, where as many pairs drawn apart would cost millions of reads.
        """
        if len(sample) < 2:
            return cls(np.array([0.0, 1.0]), np.array([-1.0, 1.0]))
        cosines = (sample @ sample.T)[np.triu_indices(len(sample), k=1)]
        return cls._of(cosines, max(RAREST, 1 / len(cosines)))

    @classmethod
    def of_query(cls, query: NDArray[np.float32], sample: NDArray[np.float32]) -> Self:
        """Make the scale of one query vector ``(dim,)`` against a sample of rows.

        For a vector combined of many examples, whose cosines are not those of pairs of places.
        """
        if not len(sample):
            return cls(np.array([0.0, 1.0]), np.array([-1.0, 1.0]))
        return cls._of(sample @ query, 1 / len(sample))

    @classmethod
    def _of(cls, cosines: NDArray[np.float32], rarest: float) -> Self:
        tail = np.logspace(-2, np.log10(min(rarest, 1e-2)), 1 + TAIL * 3)
        levels = np.union1d(np.linspace(0, 0.99, 100), 1 - tail)
        values = np.quantile(cosines.astype(np.float64), levels)
        # Of levels with one value the last says how many are at most so alike.
        last = np.append(values[1:] > values[:-1], True)
        return cls(levels[last], values[last])

    def percentile(self, cosines: NDArray[np.floating[Any]]) -> Floats:
        """Return which share of pairs, 0 to 1, is at most so alike; never more than is known."""
        shares = np.interp(np.asarray(cosines, np.float64), self.values, self.levels, left=0.0)
        return np.asarray(shares)

    def to_json(self) -> dict[str, list[float]]:
        """Return the scale as a JSON object."""
        return {"levels": self.levels.tolist(), "values": self.values.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a scale."""
        return cls(np.asarray(data["levels"], float), np.asarray(data["values"], float))


@dataclass(frozen=True)
class PrecisionCurve:
    """Estimated precision of all results from each ``threshold (m,)`` up, best first.

    ``low`` and ``high`` are the ends of a 90 % interval; ``labels`` counts the results that were
    confirmed or rejected from there up.
    """

    threshold: Floats
    precision: Floats
    low: Floats
    high: Floats
    labels: NDArray[np.int64]


def precision_curve(
    results: NDArray[np.floating[Any]],
    labelled: NDArray[np.floating[Any]],
    confirmed: NDArray[np.bool_],
) -> PrecisionCurve:
    """Estimate precision at each labelled score from what was confirmed or rejected.

    ``results (r,)`` are the cosines of all results, ``labelled (l,)`` those of the results with an
    answer, ``confirmed (l,)`` the answers. An isotonic fit gives each answer's chance of being
    right, which never falls as likeness grows, and needs no bins, which few answers would leave
    empty. Each result takes the chance of the answer nearest in score, so that answers given
    mostly at the top do not flatter what lies below. The interval is Wilson's, which is not empty
    even where all answers agree, with Kish's effective number of answers, since some stand for
    more results than others. Raises InputError if shapes differ or a score is not finite.
    """
    labelled, confirmed = np.asarray(labelled, np.float64), np.asarray(confirmed, bool)
    scores = np.sort(np.asarray(results, np.float64))[::-1]
    if labelled.shape != confirmed.shape or labelled.ndim != 1:
        raise InputError(
            f"There are {labelled.size} scores and {confirmed.size} answers; each needs the other."
        )
    if not (np.isfinite(labelled).all() and np.isfinite(scores).all()):
        raise InputError("A score is not a number.")
    if not len(labelled) or not len(scores):
        none = np.empty(0)
        return PrecisionCurve(none, none, none, none, np.empty(0, np.int64))
    known, first = np.unique(labelled, return_inverse=True)
    answers = np.bincount(first).astype(np.float64)
    chance = _isotonic(np.bincount(first, confirmed) / answers, answers)
    nearest = _nearest(known, scores)
    found = np.cumsum(chance[nearest])
    thresholds = known[::-1]
    above = np.searchsorted(-scores, -thresholds, side="right")
    there = above > 0
    thresholds, above = thresholds[there], above[there]
    precision = found[above - 1] / above
    size = np.array([_effective(nearest[:count], answers) for count in above])
    low, high = _wilson(precision, size)
    labels = np.array([int((labelled >= each).sum()) for each in thresholds], np.int64)
    return PrecisionCurve(thresholds, precision, low, high, labels)


def _isotonic(values: Floats, weights: Floats) -> Floats:
    """Return the nearest values that never fall (pool adjacent violators; Ayer et al. 1955)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            before, other, count = blocks.pop()
            total = other + block[1]
            mean = (before * other + block[0] * block[1]) / total
            block = (mean, total, count + block[2])
        blocks.append(block)
    return np.concatenate([np.full(count, mean) for mean, _, count in blocks])


def _nearest(known: Floats, scores: Floats) -> NDArray[np.int64]:
    """Return for each score the position of the nearest of ``known``, which rise."""
    middles = (known[1:] + known[:-1]) / 2
    return np.searchsorted(middles, scores)


def _effective(nearest: NDArray[np.int64], answers: Floats) -> float:
    """Return Kish's effective number of answers behind some results."""
    stands_for = np.bincount(nearest, minlength=len(answers))
    used = stands_for > 0
    return float(stands_for.sum() ** 2 / (stands_for[used] ** 2 / answers[used]).sum())


def _wilson(share: Floats, size: Floats) -> tuple[Floats, Floats]:
    """Return the ends of Wilson's interval (1927) of shares found among ``size``."""
    scale = 1 + Z**2 / size
    middle = (share + Z**2 / (2 * size)) / scale
    half = Z * np.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2)) / scale
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
