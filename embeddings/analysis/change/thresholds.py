"""Where change begins: thresholds on scores, and the probability of change.

Scores are about standard normal where nothing changed (`PixelChange.score`); what changed makes
their upper tail heavier. NaN is left out everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.stats import norm

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BINS = 512
HALF = 0.0
"""Half of what did not change has a score above this."""
CERTAIN = 12.0
"""Higher scores count as this where probabilities are fitted, so that few do not make bins wide."""


def otsu(scores: Floats) -> float:
    """Return the threshold of which both sides vary least within (Otsu, 1979).

    It parts the squares of the scores above 0: the scores themselves are normal where nothing
    changed, and he would part these in the middle. Infinite where there is nothing to part.
    """
    there = _finite(scores)
    far = np.square(np.maximum(there, 0), dtype=np.float64)
    if not far.size or far.min() == far.max():
        return float("inf")
    counts, edges = np.histogram(far, BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = sums / below - (sums[-1] - sums) / above
        between = np.where(above > 0, below * above * apart**2, -1.0)
    return float(np.sqrt(edges[int(between.argmax()) + 1]))


def false_discovery(scores: Floats, rate: float) -> float:
    """Return the least score from which on a share ``rate`` is false alarm at most.

    The step-up procedure of Benjamini and Hochberg (1995) on one-sided p-values. Infinite where
    no score stands out so far.
    """
    falling = np.sort(_finite(scores))[::-1]
    allowed = rate * np.arange(1, falling.size + 1) / max(falling.size, 1)
    meets = np.flatnonzero(norm.sf(falling) <= allowed)
    return float(falling[meets[-1]]) if meets.size else float("inf")


def from_clicks(changed: Floats, unchanged: Floats) -> float:
    """Return the threshold with the least mean of both kinds of error on places that were named.

    Of several the middle one; infinite without a place of either kind.
    """
    yes, no = np.sort(_finite(changed)), np.sort(_finite(unchanged))
    if not yes.size or not no.size:
        return float("inf")
    known = np.unique(np.concatenate([yes, no]).astype(np.float64))
    between = np.concatenate([known[:1], (known[1:] + known[:-1]) / 2, known[-1:] + 1e-6])
    missed = np.searchsorted(yes, between) / yes.size
    false = 1 - np.searchsorted(no, between) / no.size
    error = missed + false
    best = np.flatnonzero(error <= error.min() + 1e-12)
    return float(between[best[len(best) // 2]])


@dataclass(frozen=True, eq=False)
class ChangeProbability:
    """How likely change is at a score: the share of the mixture that the noise does not explain.

    One minus the local false discovery rate (Efron, 2004): the density of scores is compared with
    that of the standard normal, in the share of it that the lower half of the scores tells.
    """

    scores: Doubles
    """``(k,)``, rising"""
    probability: Doubles
    """``(k,)``, at those scores; never falling"""

    @classmethod
    def fit(cls, scores: Floats) -> ChangeProbability:
        """Fit to a sample of scores of a pair."""
        there = _finite(scores).astype(np.float64)
        top = float(np.clip(there.max(initial=0.0), 4.0, CERTAIN))
        edges = np.linspace(-4.0, top, BINS + 1)
        middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
        counts = np.histogram(np.clip(there, edges[0], edges[-1]), edges)[0].astype(np.float64)
        density = gaussian_filter1d(counts, 0.15 / width, mode="nearest") / max(there.size, 1)
        quiet = min(1.0, 2 * float((there <= HALF).mean())) if there.size else 1.0
        noise = quiet * norm.pdf(middles) * width
        explained = np.divide(noise, density, out=np.ones_like(noise), where=density > 0)
        chance = np.clip(1 - explained, 0.0, 1.0)
        chance[middles <= HALF] = 0.0
        # Where there is no score the noise explains all; beyond, the chance is what it was before.
        return cls(middles, np.maximum.accumulate(chance))

    def of(self, scores: Floats) -> Floats:
        """Return probabilities of the shape of the scores, float32, NaN where these are."""
        found = np.interp(scores, self.scores, self.probability)
        return np.where(np.isfinite(scores), found, np.nan).astype(np.float32)


def _finite(scores: Floats) -> Floats:
    return np.asarray(scores[np.isfinite(scores)])
