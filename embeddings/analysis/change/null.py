"""What scores are where nothing changed: a curve fitted beside the changes that are among them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BINS = 160
LOWER = 0.16
"""The share of a normal below one standard deviation under the median. Change lies above it."""
APART = 3.5
"""Change begins so many of these deviations above the median: nearer to it, noise has a tail."""
WIDEST = 0.5
"""Change is spread by this share of its distance from the median at most."""
FARTHEST = 12.0
"""What lies beyond is change, however far; the curve would else be drawn with too few steps."""
HEAVIEST = 1.5
"""The tail of a null is no heavier than this: a lower one would reach over change."""
STRICTNESS = 0.05
LARGEST = 30.0
"""Of what is sought, logarithms among it."""
STARTS = (-4.0, -1.0)
"""Shares of change from which the search begins, as logits of half of it."""
FEWEST = 50
_ROOT = np.sqrt(2 * np.pi)


@dataclass(frozen=True)
class Null:
    """A Johnson SU distribution (Johnson 1949): skewed, and with tails as heavy as noise has them.

    A value x that no change made becomes a standard normal,
    ``shape + tail * asinh((x - middle) / width)``. ``changed`` is the share of what does not
    belong to it.
    """

    shape: float
    tail: float
    middle: float
    width: float
    changed: float

    @classmethod
    def fit(cls, values: NDArray[np.floating[Any]]) -> Null:
        """Fit to values ``(n,)`` of which a part, less than half, is change.

        The likelihood of a mixture: the null, and a normal curve of change that lies APART above
        the median. What noise alone does is so left to the null, tail and all, and what only
        change can be is not. With fewer than FEWEST values it is a normal of their median and
        lower half.
        """
        there = np.asarray(values[np.isfinite(values)], np.float64)
        if not len(there):
            return cls(0.0, 1.0, 0.0, 1.0, 0.0)
        middle = float(np.median(there))
        below = max(middle - float(np.quantile(there, LOWER)), 1e-6)
        if len(there) < FEWEST:
            return cls(0.0, 20.0, middle, 20.0 * below, 0.0)
        return cls._fitted((there - middle) / below, middle, below)

    @classmethod
    def _fitted(cls, values: Doubles, middle: float, below: float) -> Null:
        low, high = np.quantile(values, (0.0005, 0.9995))
        high = min(high, FARTHEST)
        counts, edges = np.histogram(np.clip(values, low, high), BINS)
        shares, at = counts / len(values), (edges[1:] + edges[:-1]) / 2

        def loss(p: Doubles) -> float:
            p = np.clip(p, -LARGEST, LARGEST)
            null = cls(p[0], HEAVIEST + np.exp(p[3]), p[1], np.exp(p[2]), 0.0)
            share, spread = 0.5 * expit(p[4]), np.exp(p[6])
            change = np.exp(-0.5 * ((at - p[5]) / spread) ** 2) / (spread * _ROOT)
            likely = np.log((1 - share) * null.density(at) + share * change + 1e-12)
            near, wide = APART - p[5], spread - max(WIDEST * p[5], 0.5)
            unfit = STRICTNESS * (max(0.0, near) ** 2 + max(0.0, wide) ** 2)
            return float(-(shares @ likely) + 1e-3 * p[0] ** 2 + unfit)

        options = {"maxiter": 1500, "maxfev": 2000}
        start = [-0.5, -0.3, np.log(2), 0.7, 0.0, APART + 1, np.log(1.2)]
        found = min(
            (
                minimize(loss, [*start[:4], share, *start[5:]], method="Nelder-Mead",
                         options=options)
                for share in STARTS
            ),
            key=lambda each: float(each.fun),
        ).x.clip(-LARGEST, LARGEST)  # fmt: skip
        return cls(
            float(found[0]),
            float(HEAVIEST + np.exp(found[3])),
            float(middle + below * found[1]),
            float(below * np.exp(found[2])),
            float(0.5 * expit(found[4])),
        )

    def density(self, values: Doubles) -> Doubles:
        """Return the density at values ``(n,)``."""
        y = (values - self.middle) / self.width
        z = self.shape + self.tail * np.arcsinh(y)
        slope = self.tail / (self.width * np.sqrt(1 + y * y))
        return np.asarray(slope * np.exp(-0.5 * z * z) / _ROOT)

    def scores(self, values: NDArray[np.floating[Any]]) -> Floats:
        """Return what values ``(n,)`` are on the scale of a standard normal."""
        y = (np.asarray(values, np.float64) - self.middle) / self.width
        return np.asarray(self.shape + self.tail * np.arcsinh(y), np.float32)

    def to_json(self) -> dict[str, float]:
        """Return it as a JSON object."""
        return asdict(self)
