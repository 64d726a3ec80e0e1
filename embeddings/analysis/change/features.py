"""Pixels of two dates as change detection looks at them: stretched, smoothed, grouped by band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

TRUNCATE = 3.0
"""Standard deviations at which Gaussian kernels end."""

ABSORBED_UM = ((0.93, 0.965), (1.34, 1.46))
"""Wavelengths that water vapour absorbs: such a band (Sentinel-2's 9 and 10) shows the air."""

VISIBLE_UM = (0.45, 0.69)
BEYOND = 0.2
"""Beyond the ends of the stretch values go on as their logarithm, at first as steeply, so that what
changes among the brightest hundredth shows, and a glint does not outweigh all else. On the cities
of docs/change.md a softer bend finds less, a hard end hardly more."""
SAME_RESOLUTION = 1.5
"""Bands up to so many times as coarse as the finest are fine."""


@dataclass(frozen=True)
class BandFacts:
    """What is known of a band; NaN for unknown."""

    wavelength_um: float = float("nan")
    resolution_m: float = float("nan")


def band_groups(bands: Sequence[BandFacts]) -> tuple[tuple[int, ...], ...]:
    """Return the groups of bands that change is looked for in, as indices.

    All bands that see the ground; the finest of them, where small things show; the visible ones
    of these, which the seasons of plants disturb least. Of bands that nothing is known of, there
    is one group, of all.
    """
    ground = tuple(i for i, band in enumerate(bands) if not _absorbed(band.wavelength_um))
    ground = ground or tuple(range(len(bands)))
    known = [bands[i].resolution_m for i in ground if np.isfinite(bands[i].resolution_m)]
    finest = min(known, default=np.nan)
    fine = tuple(i for i in ground if not bands[i].resolution_m > SAME_RESOLUTION * finest)
    low, high = VISIBLE_UM
    visible = tuple(i for i in fine if low <= bands[i].wavelength_um <= high)
    groups = [ground]
    if 2 <= len(fine) < len(ground):
        groups.append(fine)
    if 2 <= len(visible) < len(fine):
        groups.append(visible)
    return tuple(groups)


def _absorbed(wavelength: float) -> bool:
    return any(low <= wavelength <= high for low, high in ABSORBED_UM)


def compared(before: Floats, after: Floats) -> Bools:
    """Return ``(h, w) bool``: where all bands of both dates ``(bands, h, w)`` have data."""
    return np.asarray(np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0))


def stretch_ends(scenes: Sequence[Floats], low: float, high: float) -> Floats:
    """Return the values ``(2, bands) float32`` that become 0 and 1, from percentiles."""
    values = np.concatenate([scene.reshape(len(scene), -1) for scene in scenes], axis=1)
    return np.asarray(np.nanpercentile(values, (low, high), axis=1), np.float32)


def smoothed(image: Floats, valid: Bools, sigma: float, weight: Floats | None = None) -> Floats:
    """Return the Gaussian mean of an image ``(h, w)`` of its valid pixels, at those: ``(n,)``."""
    if weight is None:
        weight = weight_of(valid, sigma)
    total = gaussian_filter(np.where(valid, image, np.float32(0)), sigma, **_EDGE)
    return np.asarray(total[valid] / weight, np.float32)


def weight_of(valid: Bools, sigma: float) -> Floats:
    """Return the share of the kernel that lies on valid pixels, at those: ``(n,) float32``."""
    share = gaussian_filter(valid.astype(np.float32), sigma, **_EDGE)
    return np.asarray(np.maximum(share[valid], 1e-6), np.float32)


_EDGE = {"mode": "constant", "truncate": TRUNCATE}
"""Nothing lies outside a window: what is seen of a pixel must not depend on the tiling."""


def stretched(scene: Floats, ends: Floats) -> Floats:
    """Return bands ``(bands, h, w) float32``, 0 and 1 at their ends, bent beyond these."""
    low, high = ends[:, :, None, None]
    values = (scene - low) / np.maximum(high - low, np.float32(1e-9))
    inside = np.clip(values, 0, 1)
    outside = values - inside
    bent = np.float32(BEYOND) * np.log1p(np.abs(outside) / np.float32(BEYOND))
    return np.asarray(inside + np.sign(outside) * bent, np.float32)


def multi_scale(
    scene: Floats, valid: Bools, ends: Floats, sigmas: Sequence[float]
) -> dict[float, Floats]:
    """Return stretched bands ``(bands, n) float32`` at the valid pixels, by their smoothing."""
    values = np.where(valid, stretched(scene, ends), np.float32(0))
    found = {}
    for sigma in sigmas:
        weight = weight_of(valid, sigma)
        found[sigma] = np.stack([smoothed(band, valid, sigma, weight) for band in values])
    return found


def radius(sigma: float) -> int:
    """Return how many pixels a Gaussian of this width reaches."""
    return int(TRUNCATE * sigma + 0.5)
