"""What every encoder offers. Encoders see normalised pixels and return float32 vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Turns chips into vectors."""

    name: str
    version: str
    bands: int

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def sha256(self) -> str:
        """Hash of all weights, hexadecimal."""

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn normalised chips ``(n, bands, height, width)`` into ``(n, dim)`` float32."""

    def save(self, folder: Path) -> None:
        """Write ``encoder.safetensors`` and ``encoder.json`` into ``folder``, atomically."""
