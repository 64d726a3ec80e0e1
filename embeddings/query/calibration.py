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
    """Return what ``Precision`` estimates at each labelled score that a result reaches."""
    return Precision(results, labelled, confirmed).curve()


class Precision:
    """Precision of all results from any score up, from what was confirmed or rejected.

    An isotonic fit gives each answer's chance of being right, which never falls as likeness grows,
    and needs no bins, which few answers would leave empty. Each result takes the chance of the
    answer nearest in score, so that answers given mostly at the top do not flatter what lies
    below. The interval is Wilson's, which is not empty even where all answers agree, with Kish's
    effective number of answers, since some stand for more results than others.
    """

    def __init__(
        self,
        results: NDArray[np.floating[Any]],
        labelled: NDArray[np.floating[Any]],
        confirmed: NDArray[np.bool_],
    ) -> None:
        """Take the cosines ``(r,)`` of all results, those of answers ``(l,)`` and the answers.

        Raises InputError if shapes differ or a score is not finite.
        """
        self._labelled: Floats = np.asarray(labelled, np.float64)
        self._scores: Floats = np.sort(np.asarray(results, np.float64))[::-1]
        confirmed = np.asarray(confirmed, bool)
        if self._labelled.shape != confirmed.shape or self._labelled.ndim != 1:
            raise InputError(
                f"There are {self._labelled.size} scores and {confirmed.size} answers; each needs "
                "the other."
            )
        if not (np.isfinite(self._labelled).all() and np.isfinite(self._scores).all()):
            raise InputError("A score is not a number.")
        self._known, first = np.unique(self._labelled, return_inverse=True)
        self._ends = [np.empty(0)] * 3
        if len(self._known) and len(self._scores):
            answers = np.bincount(first).astype(np.float64)
            chance = _isotonic(np.bincount(first, confirmed) / answers, answers)
            nearest = _nearest(self._known, self._scores)
            share = np.cumsum(chance[nearest]) / np.arange(1, len(nearest) + 1)
            self._ends = [share, *_wilson(share, _effective(nearest, answers))]

    def at(self, thresholds: NDArray[np.floating[Any]]) -> tuple[Floats, Floats, Floats]:
        """Return precision and the ends of its 90 % interval at scores that a result reaches.

        At the score of a result this is the share of right ones if the answer ended with it.
        """
        above = self._above(thresholds)
        precision, low, high = (values[above - 1] for values in self._ends)
        return precision, low, high

    def curve(self) -> PrecisionCurve:
        """Return the estimate at each labelled score that a result reaches; none without any."""
        thresholds = self._known[::-1]
        thresholds = thresholds[self._above(thresholds) > 0]
        labels = [int((self._labelled >= each).sum()) for each in thresholds]
        return PrecisionCurve(thresholds, *self.at(thresholds), np.array(labels, np.int64))

    def _above(self, thresholds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Count the results that reach each threshold."""
        return np.searchsorted(-self._scores, -np.asarray(thresholds, np.float64), side="right")


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


def _effective(nearest: NDArray[np.int64], answers: Floats) -> Floats:
    """Return Kish's effective number of answers behind the first 1, 2, ... results ``(r,)``.

    Results that take their chance from one answer follow each other, so that each adds
    (2 n + 1) / answers to the sum of squares when n are there.
    """
    rank = np.arange(len(nearest))
    first = np.flatnonzero(np.append(True, nearest[1:] != nearest[:-1]))
    sizes = np.diff(np.append(first, len(nearest)))
    before = rank - np.repeat(first, sizes)
    return np.asarray((rank + 1) ** 2 / np.cumsum((2 * before + 1) / answers[nearest]))


def _wilson(share: Floats, size: Floats) -> tuple[Floats, Floats]:
    """Return the ends of Wilson's interval (1927) of shares found among ``size``."""
    scale = 1 + Z**2 / size
    middle = (share + Z**2 / (2 * size)) / scale
    half = Z * np.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2)) / scale
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
