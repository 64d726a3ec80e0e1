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
"""Change makes the upper tail heavier, so the scale is read off below it (84 % of the pixels).

No score is below the first knot.
"""


@dataclass(frozen=True, eq=False)
class NoiseScale:
    """Raw scores ``raw (k,)``, positive and rising, that stand for normal values ``KNOTS``."""

    raw: Floats

    @classmethod
    def fit(cls, raw: Floats) -> NoiseScale:
        """Fit to raw scores ``(n,)`` of all pixels, of which most have not changed."""
        found = np.quantile(np.log(np.maximum(raw, 1e-12)), norm.cdf(KNOTS))
        return cls(np.exp(found + 1e-9 * np.arange(len(KNOTS))).astype(np.float32))

    @classmethod
    def standard(cls) -> NoiseScale:
        """Return the scale of raw scores that are log-normal already."""
        return cls(np.exp(KNOTS).astype(np.float32))

    def normal(self, raw: Floats) -> Floats:
        """Return ``(n,) float32``: standard normal where nothing changed, by the fit."""
        logs, own = np.log(np.maximum(raw, 1e-12)), np.log(self.raw.astype(np.float64))
        inside = np.interp(logs, own, KNOTS)
        # Above, it goes on as it rises from the median to the last knot.
        slope = KNOTS[-1] / max(float(own[-1] - np.interp(0, KNOTS, own)), 1e-9)
        above = np.maximum(logs - own[-1], 0) * slope
        return np.asarray(inside + above, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"raw": plain(self.raw)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> NoiseScale:
        """Return what `to_json` wrote down."""
        return cls(np.asarray(found["raw"], np.float32))
