"""What the images show around places: textures and colours by season, night lights, relief."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from embeddings.world.images import WorldImages
from embeddings.world.windows import Floats, LandWindows, Sums

SEASON_RADII = (0.5, 1.5, 4.0)
RADII = (1 / 6, 0.5, 1.5, 4.0)
"""Degrees to each side: windows of a third of a degree to 8 degrees."""

KERNEL = 3
FILTERS = 48
PATCHES = 40_000
ZCA_BIAS = 0.1
THRESHOLD = 0.5
"""A response must exceed this, in units of a whitened patch, to count."""
AT_ONCE = 12
"""Filters convolved together; it bounds the memory (14 MB each)."""
BAND_ROWS = 45
SEED = 0

TEXTURE_SPREAD = 0.2
INDEX_SPREAD = 0.5
"""The deviations of features where elevation and night have 1: there are so many more of them."""

Matrix = npt.NDArray[np.float32]


def features(images: WorldImages, lon: Floats, lat: Floats) -> Matrix:
    """Return standardised features ``(n, features) float32`` of places in degrees."""
    wide = LandWindows(images.land, lon, lat, SEASON_RADII)
    windows = LandWindows(images.land, lon, lat, RADII)
    # Differences of sums may fall a hair below zero.
    textures = [np.sqrt(np.maximum(wide.means(r), 0.0)) for r in _responses(images)]
    indices = [windows.means(index) for index in _indices(images.seasons)]
    blocks = (
        (TEXTURE_SPREAD, np.concatenate(textures)),
        (INDEX_SPREAD, np.concatenate(indices)),
        (1.0, windows.means(images.night)),
        *_relief(images.elevation, lon, lat),
    )
    scaled = [_standardised(block.T) * np.float32(spread) for spread, block in blocks]
    return np.concatenate(scaled, axis=1)


def _indices(seasons: Matrix) -> Iterator[Matrix]:
    """Yield green against red, green against blue, and snow, for summer and winter."""
    for red, green, blue in (seasons[:3], seasons[3:]):
        yield (green - red) / (green + red + 16.0)
        yield (green - blue) / (green + blue + 16.0)
        darkest = np.minimum(np.minimum(red, green), blue)
        brightest = np.maximum(np.maximum(red, green), blue)
        # Snow is bright and grey; the brightest sands are yellow.
        yield np.clip((darkest - 150.0) / 60.0, 0.0, 1.0) * (brightest - darkest < 50.0)


def _relief(elevation: Matrix, lon: Floats, lat: Floats) -> Iterator[tuple[float, Matrix]]:
    """Yield spreads with the means, and the deviations, of the square root of the elevation."""
    root = np.sqrt(elevation)
    sums, squares, pixels = Sums(root), Sums(root**2), Sums(np.ones_like(root))
    areas = [pixels.around(lon, lat, radius) for radius in RADII]
    means = np.stack([sums.around(lon, lat, r) / a for r, a in zip(RADII, areas, strict=True)])
    second = np.stack([squares.around(lon, lat, r) / a for r, a in zip(RADII, areas, strict=True)])
    yield 1.0, np.asarray(means, np.float32)
    # A third of a degree is one pixel of the relief: it has no deviation.
    deviation = np.sqrt(np.maximum(second - means**2, 0.0))[1:]
    yield INDEX_SPREAD, np.asarray(deviation, np.float32)


def _standardised(block: Matrix) -> Matrix:
    mean = block.mean(axis=0, dtype=np.float64)
    spread = np.maximum(block.std(axis=0, dtype=np.float64), 1e-6)
    return np.asarray((block - mean) / spread, np.float32)


def _responses(images: WorldImages) -> Iterator[Matrix]:
    """Yield maps ``(rows, cols)``: how far each filter, and its negative, exceeds the threshold.

    Random convolutional features: the filters are whitened patches of the land itself (Rolf et
    al. 2021, doi:10.1038/s41467-021-24638-z).
    """
    on_land = images.land > 0.5
    pixels = images.seasons[:, on_land]
    middle, spread = pixels.mean(axis=1), np.maximum(pixels.std(axis=1), 1e-6)
    stack = (images.seasons - middle[:, None, None]) / spread[:, None, None]
    filters, offset = _filters(stack, on_land)
    padded = np.pad(stack, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for start in range(0, len(filters), AT_ONCE):
        chosen = slice(start, start + AT_ONCE)
        for response in _convolved(padded, filters[chosen], offset[chosen]):
            yield np.maximum(response - THRESHOLD, 0.0)
            yield np.maximum(-response - THRESHOLD, 0.0)


def _filters(stack: Matrix, on_land: npt.NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """Return filters ``(FILTERS, bands * KERNEL * KERNEL)`` and what the mean patch gives."""
    rng = np.random.default_rng(SEED)
    rows, cols = np.nonzero(on_land[1:-1, 1:-1])
    ground = np.cos(np.radians(90.0 - (rows + 1.5) * (180.0 / len(on_land))))
    drawn = rng.choice(len(rows), PATCHES, p=ground / ground.sum())
    windows = np.lib.stride_tricks.sliding_window_view(stack, (KERNEL, KERNEL), axis=(1, 2))
    patches = windows[:, rows[drawn], cols[drawn]].transpose(1, 0, 2, 3)
    patches = patches.reshape(PATCHES, -1).astype(np.float64)
    mean = patches.mean(axis=0)
    patches -= mean
    variance, axes = np.linalg.eigh(patches.T @ patches / PATCHES)
    whiten = (axes / np.sqrt(variance + ZCA_BIAS)) @ axes.T
    chosen = patches[rng.choice(PATCHES, FILTERS, replace=False)] @ whiten
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    filters = chosen @ whiten
    return filters.astype(np.float32), (filters @ mean).astype(np.float32)


def _convolved(padded: Matrix, filters: Matrix, offset: Matrix) -> Matrix:
    """Return ``(filters, rows, cols)``, some rows at a time."""
    rows, cols = padded.shape[1] - 2, padded.shape[2] - 2
    responses = np.empty((len(filters), rows, cols), np.float32)
    for top in range(0, rows, BAND_ROWS):
        band = padded[:, top : top + BAND_ROWS + 2]
        windows = np.lib.stride_tricks.sliding_window_view(band, (KERNEL, KERNEL), axis=(1, 2))
        patches = windows.transpose(0, 3, 4, 1, 2).reshape(filters.shape[1], -1)
        values = filters @ patches - offset[:, None]
        responses[:, top : top + BAND_ROWS] = values.reshape(len(filters), -1, cols)
    return responses
