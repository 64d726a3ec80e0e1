"""Filters of random convolutional features: ZCA-whitened patches of the imagery (MOSAIKS).

Rolf et al. 2021, doi:10.1038/s41467-021-24638-z, and the authors' code
(Global-Policy-Lab/mosaiks-paper, ``featurization.py``): patches are made zero-mean and unit-norm,
multiplied twice with the whitening matrix of 100,000 patches, and some are drawn as filters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PATCHES = 100_000
ZCA_BIAS = 1e-3
SMALLEST_NORM = 1e-8
"""Constants of the paper's code; it draws its patches from 10 images, we from all of the sample."""


def whitened(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return patches ``(n, bands * kernel * kernel)`` normalised and times ZCA twice."""
    patches = patches - patches.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(patches, axis=1, keepdims=True)
    patches /= np.where(norms < SMALLEST_NORM, 1.0, norms)
    variance, axes = np.linalg.eigh(patches.T @ patches / len(patches))
    zca = (axes / np.sqrt(variance + ZCA_BIAS)) @ axes.T
    return np.asarray(patches @ zca @ zca.T)


def draw_filters(
    chips: NDArray[np.float32], kernel: int, count: int, seed: tuple[int, ...]
) -> NDArray[np.float32]:
    """Draw filters ``(count, bands * kernel * kernel)`` from ``(n, bands, height, width)``."""
    rng = np.random.default_rng(seed)
    number, _, height, width = chips.shape
    chip = rng.integers(0, number, PATCHES)
    row = rng.integers(0, height - kernel + 1, PATCHES)
    col = rng.integers(0, width - kernel + 1, PATCHES)
    windows = np.lib.stride_tricks.sliding_window_view(chips, (kernel, kernel), axis=(2, 3))
    drawn = whitened(windows[chip, :, row, col].reshape(PATCHES, -1).astype(np.float64))
    chosen = drawn[rng.choice(PATCHES, count, replace=False)]
    return np.ascontiguousarray(chosen, dtype=np.float32)


def turned(filters: NDArray[np.float32], kernel: int, turns: int) -> NDArray[np.float32]:
    """Return all filters at each rotation (and mirror image): ``(turns * count, ...)``, by turn."""
    if turns == 1:
        return filters
    square = filters.reshape(len(filters), -1, kernel, kernel)
    images = (square,) if turns == 4 else (square, square[..., ::-1])
    spun = [np.rot90(image, quarter, (2, 3)) for image in images for quarter in range(4)]
    return np.ascontiguousarray(np.concatenate(spun).reshape(turns * len(filters), -1))
