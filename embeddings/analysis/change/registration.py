"""How far the second date lies beside the first: phase correlation of windows, sub-pixel.

The normalised cross-power spectrum of two windows (Kuglin and Hines, 1975), averaged over bands
and weighted towards low frequencies, has a peak at the shift between them. The weight makes the
peak a Gaussian, so a parabola through the logarithm of its neighbours finds it between pixels.
The shift of the scenes is the median of the windows' shifts; windows that disagree count against
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MOST_BANDS = 4
"""The sharpest bands of a window; more take longer and tell little more."""
LOW_PASS = 0.18
"""Standard deviation of the weight of frequencies, cycles a pixel."""
MOST_SHIFT = 0.2
"""Of a window's side: no larger shift is looked for."""
MIN_PEAK = 7.0
"""A peak stands so many standard deviations above the rest of the correlation, or is none."""
MIN_VALID = 0.7
"""Share of a window's pixels that both dates must have."""
MIN_WINDOWS = 3
MIN_AGREEING = 0.5
"""Of the windows with a peak: so many must tell the same shift."""
SMALLEST = 0.1
"""Pixels: a smaller shift is not worth resampling a scene for."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Where things stand at the second date beside where they stood at the first, in pixels.

    A thing at (r, c) of date 1 is found at (r + row, c + col) of date 2.
    """

    row: float
    col: float
    error: float
    """Standard error of either number."""
    spread: float
    """Median distance of a window's shift from this one."""
    agreeing: int
    """Windows that tell this shift, to half a pixel or what the spread allows."""
    found: int
    """Windows with a clear peak."""
    tried: int

    @property
    def length(self) -> float:
        """How far, in pixels."""
        return float(np.hypot(self.row, self.col))

    @property
    def significant(self) -> bool:
        """Whether it is known well enough, and large enough, to be undone."""
        sure = self.agreeing >= max(MIN_WINDOWS, MIN_AGREEING * self.found)
        return sure and self.length >= max(SMALLEST, 3 * self.error)


NOT_FOUND = Shift(0.0, 0.0, float("nan"), float("nan"), 0, 0, 0)


def find_shift(windows: Sequence[tuple[Floats, Floats]]) -> Shift:
    """Return the shift that most windows tell.

    ``windows`` are pairs ``(bands, h, w)`` of one place at both dates, NaN for no data; sides of
    64 pixels or more.
    """
    found = [shift for before, after in windows if (shift := window_shift(before, after))]
    if not found:
        return Shift(0.0, 0.0, float("nan"), float("nan"), 0, 0, len(windows))
    shifts = np.array(found)
    middle = np.median(shifts, axis=0)
    away = np.hypot(*(shifts - middle).T)
    agree = away <= max(0.5, 3 * float(np.median(away)))
    middle = np.median(shifts[agree], axis=0)
    away = np.hypot(*(shifts[agree] - middle).T)
    spread, many = float(np.median(away)), int(agree.sum())
    # The median of n normal values has 1.25 times the error of their mean; the median distance in
    # two dimensions is 1.18 standard deviations of one.
    error = 1.25 * spread / 1.18 / np.sqrt(many) if many > 1 else float("inf")
    row, col = middle.tolist()
    return Shift(row, col, float(error), spread, many, len(found), len(windows))


def window_shift(before: Floats, after: Floats) -> tuple[float, float] | None:
    """Return rows and columns that one window tells, or None where it has no clear peak."""
    valid = np.asarray(np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0))
    if valid.mean() < MIN_VALID:
        return None
    height, width = valid.shape
    taper = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    bands = _sharpest(before, valid)
    total = np.zeros((height, width // 2 + 1), np.complex128)
    for band in bands:
        one, two = (fft.rfft2(_levelled(scene[band], valid) * taper) for scene in (before, after))
        cross = two * np.conj(one)
        size = np.abs(cross)
        total += np.divide(cross, size, out=np.zeros_like(cross), where=size > 0)
    across, down = fft.rfftfreq(width)[None], fft.fftfreq(height)[:, None]
    total *= np.exp(-(across**2 + down**2) / (2 * LOW_PASS**2))
    return _peak(fft.irfft2(total, s=(height, width)))


def _peak(surface: Doubles) -> tuple[float, float] | None:
    """Return where a correlation is largest, between pixels, or None where it hardly is."""
    height, width = surface.shape
    reach = int(MOST_SHIFT * min(height, width))
    rows, cols = (np.arange(-reach, reach + 1) % side for side in (height, width))
    near = surface[np.ix_(rows, cols)]
    row, col = np.unravel_index(int(near.argmax()), near.shape)
    spread = float(surface.std())
    at_edge = not (0 < row < 2 * reach and 0 < col < 2 * reach)
    if at_edge or not spread or near[row, col] < MIN_PEAK * spread:
        return None
    return (
        float(row - reach + _between(near[row - 1 : row + 2, col])),
        float(col - reach + _between(near[row, col - 1 : col + 2])),
    )


def _between(three: Any) -> float:
    """Return where between -0.5 and 0.5 a Gaussian through three values has its top."""
    low, middle, high = np.log(np.maximum(three, 1e-12 * max(three.max(), 1e-300)))
    curve = low - 2 * middle + high
    return float(np.clip(0.5 * (low - high) / curve, -0.5, 0.5)) if curve < 0 else 0.0


def _levelled(band: Floats, valid: NDArray[np.bool_]) -> Doubles:
    """Return a band without its mean, and zero where there is no data."""
    values = band[valid].astype(np.float64)
    out = np.zeros(band.shape)
    out[valid] = values - values.mean()
    return out


def _sharpest(scene: Floats, valid: NDArray[np.bool_]) -> list[int]:
    """Return the bands with most detail for their contrast: coarse bands, resampled, have none."""
    inner = valid[:, 1:] & valid[:, :-1]
    detail = []
    for band in scene:
        steps = np.diff(band.astype(np.float64), axis=1)[inner]
        contrast = float(band[valid].astype(np.float64).std())
        detail.append(float(steps.std()) / contrast if contrast and steps.size else 0.0)
    order = np.argsort(detail, kind="stable")[::-1]
    return [int(i) for i in order[:MOST_BANDS] if detail[i] > 0]
