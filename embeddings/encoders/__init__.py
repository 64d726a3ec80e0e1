"""Encoders: pixels to vectors. ``fit`` makes one for a first input, ``load`` restores it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings.encoders.base import Encoder
from embeddings.encoders.rcf import RcfEncoder
from embeddings.errors import InputError, StoreFormatError
from embeddings.store.layout import ENCODER_STEM

NAMES = (RcfEncoder.name,)

__all__ = ["NAMES", "Encoder", "check_encoder", "fit", "load"]


def check_encoder(name: str) -> str:
    """Return the name of a known encoder, or raise InputError naming those there are."""
    if name not in NAMES:
        raise InputError(f"There is no encoder '{name}'. There: {', '.join(NAMES)}.")
    return name


def fit(name: str, chips: NDArray[np.float32], seed: int = 0) -> Encoder:
    """Fit an encoder on a sample of normalised chips ``(n, bands, height, width)``."""
    check_encoder(name)
    return RcfEncoder.fit(chips, seed=seed)


def load(folder: Path) -> Encoder:
    """Restore the encoder stored with a collection. Raises StoreFormatError."""
    description = folder / f"{ENCODER_STEM}.json"
    try:
        name = json.loads(description.read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(f"{description} cannot be read: {error}.") from error
    if name not in NAMES:
        raise StoreFormatError(
            f"The collection was made with encoder '{name}', which this release does not have. "
            f"There: {', '.join(NAMES)}."
        )
    return RcfEncoder.load(folder)
