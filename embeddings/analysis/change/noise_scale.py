"""Raw scores on the scale of what they are where nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from embeddings.analysis.plain import plain

Floats = NDArray[np.float32]

KNOTS = np.linspace(-3, 1, 81)
"""Change makes the upper tail heavier, so the scale is read off below it (84 % of what did not).

No score is below the first knot.
"""
FAR = 3.5
"""What is told from noise by a score above this counts as changed when the scale is sought."""
LITTLE, MUCH = 0.08, 0.13
"""A smaller share of change moves the scale little and is not told from a heavy tail; a larger one
is left out; between them a part of it."""
LEAST_QUIET = 0.5
"""At least so large a share of the pixels did not change."""
LEAST_SPREAD = 0.05
"""Of the logarithms, a standard deviation: pixels that are all alike do not make others endless."""


@dataclass(frozen=True, eq=False)
class NoiseScale:
    """Raw scores ``raw (k,)``, positive and rising, that stand for normal values ``KNOTS``."""

    raw: Floats

    @classmethod
    def fit(cls, raw: Floats) -> NoiseScale:
        """Fit to raw scores ``(n,)`` of all pixels, of which most have not changed."""
        logs = np.sort(np.log(np.maximum(raw, 1e-12)).astype(np.float64))
        found = np.quantile(logs, quiet_share(logs) * norm.cdf(KNOTS))
        # Pixels that are all alike lie in the middle of the scale.
        return cls(np.exp(found + 1e-3 * KNOTS).astype(np.float32))

    @classmethod
    def standard(cls) -> NoiseScale:
        """Return the scale of raw scores that are log-normal already."""
        return cls(np.exp(KNOTS).astype(np.float32))

    def normal(self, raw: Floats) -> Floats:
        """Return ``(n,) float32``: standard normal where nothing changed, by the fit."""
        logs, own = np.log(np.maximum(raw, 1e-12)), np.log(self.raw.astype(np.float64))
        inside = np.interp(logs, own, KNOTS)
        # Above, it goes on as it rises from the median to the last knot.
        slope = KNOTS[-1] / max(float(own[-1] - np.interp(0, KNOTS, own)), LEAST_SPREAD)
        above = np.maximum(logs - own[-1], 0) * slope
        return np.asarray(inside + above, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"raw": plain(self.raw)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> NoiseScale:
        """Return what `to_json` wrote down."""
        return cls(np.asarray(found["raw"], np.float32))


def quiet_share(logs: NDArray[np.float64]) -> float:
    """Return the share of pixels that did not change, of the rising logarithms of raw scores.

    An empirical null as of Efron (2004), found from below: the scale is read off the lower half of
    the pixels as if no others were quiet, what it calls no change is added, and so on, until it
    stays. 1 where little changed.
    """
    quiet = LEAST_QUIET
    for _ in range(60):
        middle, last = np.quantile(logs, [quiet / 2, quiet * norm.cdf(KNOTS[-1])])
        limit = middle + FAR * (last - middle) / KNOTS[-1]
        above = 1 - np.searchsorted(logs, limit, side="right") / logs.size
        changed = max(above - quiet * norm.sf(FAR), 0.0)
        weight = float(np.clip((changed - LITTLE) / (MUCH - LITTLE), 0, 1))
        before, quiet = quiet, max(LEAST_QUIET, 1 - weight * changed)
        if abs(quiet - before) < 1e-4:
            break
    return float(quiet)
