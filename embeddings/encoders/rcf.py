"""Random convolutional features as in MOSAIKS, centred and half-whitened for cosine search.

Rolf et al. 2021, "A generalizable and accessible approach to machine learning with global
satellite imagery", doi:10.1038/s41467-021-24638-z: the filters are patches drawn from the imagery
itself, made zero-mean and unit-norm and ZCA-whitened; a chip's features are the means of
relu(conv) and relu(-conv) over the chip.

Patches have their mean taken away, so these features do not see a band's plain level. The chip's
band means are put beside them, both blocks scaled to equal total variance. Raw non-negative
features bunch near cosine 1, so the sum is centred and projected onto its principal axes, each
divided by the fourth root of its variance (half of a full whitening, which would raise noise axes
to the rank of the first; docs/decisions/0002-rcf-projection.md has the measurement).
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from threadpoolctl import threadpool_limits

from embeddings.atomic import atomic_path, write_text
from embeddings.errors import InputError, NoDataError, StoreFormatError
from embeddings.store.layout import ENCODER_STEM

KERNEL = 3
FILTERS = 512
DIM = 256
PATCHES = 100_000
ZCA_BIAS = 1e-3
"""Constants of the paper's code, but for FILTERS (4,096 there) and the projection."""

SMALLEST_SAMPLE = 16

_TENSORS = ("filters", "block_scale", "centre", "projection")


class RcfEncoder:
    """Filters ``(filters, bands * kernel * kernel)`` and a projection fitted on a first input."""

    name = "rcf"
    version = "1"

    def __init__(self, tensors: dict[str, NDArray[np.float32]], bands: int) -> None:
        self._tensors = tensors
        self.bands = bands
        self._filters_t = np.ascontiguousarray(tensors["filters"].T)

    @classmethod
    def fit(cls, chips: NDArray[np.float32], *, seed: int = 0) -> Self:
        """Fit filters and projection on normalised chips ``(n, bands, height, width)``.

        Raises InputError if the chips are smaller than the kernel, NoDataError if they are fewer
        than SMALLEST_SAMPLE or all alike.
        """
        count, bands, height, width = chips.shape
        if min(height, width) < KERNEL:
            raise InputError(
                f"A chip of {width} x {height} pixels is smaller than the encoder's kernel of "
                f"{KERNEL} x {KERNEL}. Choose a larger --chip."
            )
        if count < SMALLEST_SAMPLE:
            raise NoDataError(
                f"Only {count} chips of the scene have data, too few to fit the encoder on "
                f"({SMALLEST_SAMPLE} at least). Choose a smaller --chip or a larger scene."
            )
        with threadpool_limits(1):  # one thread, so that the bytes do not depend on the machine
            tensors = {"filters": _filters(chips, np.random.default_rng(seed))}
            encoder = cls(tensors, bands)
            tensors |= _projection(*encoder._blocks(chips))
        return encoder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Restore an encoder. Raises StoreFormatError if a file is damaged or does not fit."""
        try:
            tensors = load_file(folder / f"{ENCODER_STEM}.safetensors")
            data = json.loads((folder / f"{ENCODER_STEM}.json").read_text(encoding="utf-8"))
            encoder = cls({name: tensors[name] for name in _TENSORS}, int(data["bands"]))
            described = (data["version"], data["sha256"]) == (cls.version, encoder.sha256)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StoreFormatError(f"The encoder in {folder} cannot be read: {error}.") from error
        if not described:
            raise StoreFormatError(
                f"The encoder in {folder} is not the one its encoder.json describes. Restore both "
                "files from a backup, or embed with --replace."
            )
        return encoder

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._tensors["projection"].shape[1])

    @property
    def sha256(self) -> str:
        """Hash of all weights, hexadecimal."""
        digest = hashlib.sha256()
        for name in _TENSORS:
            tensor = self._tensors[name]
            digest.update(f"{name}{tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``encoder.safetensors`` and ``encoder.json`` into ``folder``, atomically."""
        with atomic_path(folder / f"{ENCODER_STEM}.safetensors") as path:
            path.write_bytes(save(self._tensors))
        description = {
            "name": self.name,
            "version": self.version,
            "bands": self.bands,
            "kernel": KERNEL,
            "sha256": self.sha256,
        }
        write_text(folder / f"{ENCODER_STEM}.json", json.dumps(description, indent=1) + "\n")

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn normalised chips ``(n, bands, height, width)`` into ``(n, dim) float32``."""
        with threadpool_limits(1):
            features, levels = self._blocks(pixels)
            joined = np.concatenate([features, levels], axis=1) * self._tensors["block_scale"]
            vectors = (joined - self._tensors["centre"]) @ self._tensors["projection"]
        return np.asarray(vectors, dtype=np.float32)

    def _blocks(self, chips: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return convolutional features ``(n, 2 * filters)`` and band means ``(n, bands)``."""
        features = np.empty((len(chips), 2 * self._filters_t.shape[1]), dtype=np.float32)

        def work(numbers: range) -> None:
            for i in numbers:
                features[i] = _features(chips[i], self._filters_t)

        threads = os.cpu_count() or 1
        # Chips are handled one by one whatever the threads, so their number changes no bit.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [range(t, len(chips), threads) for t in range(threads)]))
        return features, chips.mean(axis=(2, 3))


def _features(chip: NDArray[np.float32], filters_t: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return mean relu(conv), then mean relu(-conv), of one chip ``(bands, height, width)``.

    relu(c) = (abs(c) + c) / 2 and relu(-c) = (abs(c) - c) / 2, so one pass gives both halves.
    The responses of one chip stay in the processor's cache.
    """
    windows = np.lib.stride_tricks.sliding_window_view(chip, (KERNEL, KERNEL), axis=(1, 2))
    patches = windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(filters_t))
    responses = patches @ filters_t
    total = patches.sum(axis=0) @ filters_t
    np.abs(responses, out=responses)
    absolute = responses.sum(axis=0)
    joined = np.concatenate([absolute + total, absolute - total])
    return np.maximum(joined / np.float32(2 * len(patches)), np.float32(0))


def _filters(chips: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    count, _, height, width = chips.shape
    chip = rng.integers(0, count, PATCHES)
    row = rng.integers(0, height - KERNEL + 1, PATCHES)
    col = rng.integers(0, width - KERNEL + 1, PATCHES)
    windows = np.lib.stride_tricks.sliding_window_view(chips, (KERNEL, KERNEL), axis=(2, 3))
    drawn = np.asarray(windows[chip, :, row, col].reshape(PATCHES, -1), dtype=np.float64)
    patches = drawn - drawn.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(patches, axis=1, keepdims=True)
    patches /= np.where(norms < 1e-8, 1.0, norms)
    variance, axes = np.linalg.eigh(patches.T @ patches / PATCHES)
    zca = (axes / np.sqrt(variance + ZCA_BIAS)) @ axes.T
    chosen = patches[rng.choice(PATCHES, FILTERS, replace=False)]
    return np.ascontiguousarray(chosen @ zca @ zca.T, dtype=np.float32)


def _projection(
    features: NDArray[np.float32], levels: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    blocks = [block.astype(np.float64) for block in (features, levels)]
    spread = [float(np.sqrt(block.var(axis=0).sum())) for block in blocks]
    if max(spread) < 1e-9:
        raise NoDataError("All chips of the scene look alike; there is nothing to compare.")
    scale = np.concatenate(
        [
            np.full(block.shape[1], 1.0 / max(s, 1e-9))
            for block, s in zip(blocks, spread, strict=True)
        ]
    )
    joined = np.concatenate(blocks, axis=1) * scale
    centre = joined.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(joined - centre, rowvar=False))
    order = np.argsort(-variance)[: min(DIM, len(joined) - 1)]
    order = order[variance[order] > variance[order[0]] * 1e-9]
    projection = axes[:, order] * variance[order] ** -0.25
    return {
        "block_scale": scale.astype(np.float32),
        "centre": centre.astype(np.float32),
        "projection": np.ascontiguousarray(projection, dtype=np.float32),
    }
