"""Float32 vectors to their stored form and back, with a stated error bound.

| dtype | stored as | error of a value x |
|---|---|---|
| float32 | itself | 0 |
| float16 | IEEE half | at most abs(x) / 2048 + 2**-25, for abs(x) <= 65504 |
| int8 | round(x / scale), scale per dimension | at most scale / 2, for abs(x) <= 127 scale |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.spec import Dtype

HEADROOM = 1.25
"""int8 scales leave this much room above the largest value of the sample they are fitted on."""


def fit_scale(sample: NDArray[np.float32]) -> tuple[float, ...]:
    """Return int8 scales, one per dimension, from a sample ``(n, dim) float32``."""
    largest = np.abs(sample).max(axis=0) if len(sample) else np.zeros(sample.shape[1])
    scale = np.maximum(largest * HEADROOM, np.finfo(np.float32).tiny) / 127
    return tuple(float(value) for value in scale.astype(np.float32))


def encode(
    vectors: NDArray[np.float32], dtype: Dtype, scale: tuple[float, ...] | None = None
) -> NDArray[Any]:
    """Turn ``(n, dim) float32`` into its stored form. Values beyond the range are clipped.

    Raises InputError if a value is not finite, or if int8 comes without scales.
    """
    if not np.isfinite(vectors).all():
        raise InputError("A vector holds NaN or infinity; such a vector is never stored.")
    if dtype == "float32":
        return vectors.astype(np.float32)
    if dtype == "float16":
        limit = float(np.finfo(np.float16).max)
        return np.clip(vectors, -limit, limit).astype(np.float16)
    steps = np.rint(vectors / _scales(scale, vectors.shape[1]))
    return np.asarray(np.clip(steps, -127, 127), dtype=np.int8)


def decode(
    stored: NDArray[Any], dtype: Dtype, scale: tuple[float, ...] | None = None
) -> NDArray[np.float32]:
    """Turn the stored form ``(n, dim)`` into ``(n, dim) float32``."""
    values = stored.astype(np.float32)
    return values * _scales(scale, stored.shape[1]) if dtype == "int8" else values


def _scales(scale: tuple[float, ...] | None, dim: int) -> NDArray[np.float32]:
    if scale is None or len(scale) != dim:
        raise InputError(f"int8 vectors of {dim} dimensions need {dim} scales.")
    return np.asarray(scale, dtype=np.float32)
