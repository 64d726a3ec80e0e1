"""Encoders that come with their weights: one class for all families, and what it stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from embeddings.atomic import write_text
from embeddings.encoders.base import EncoderChoice, Wants
from embeddings.encoders.torch_runtime import Batches
from embeddings.encoders.weights import Weights
from embeddings.errors import BandError, InputError, StoreFormatError
from embeddings.store.layout import ENCODER_STEM

FORMAT_VERSION = 1
CHIPS_AT_ONCE = 32

Floats = NDArray[np.float32]


@dataclass(eq=False)
class PretrainedEncoder:
    """An encoder with fixed weights; its own draft, since it learns nothing from pixels."""

    name: str
    version: str
    wants: Wants
    dim: int
    weights: Weights
    forward: Callable[[Floats], Floats]
    """Values of chips ``(n, bands, height, width)`` to vectors ``(n, dim)``, n at least 1."""
    batches: Batches
    licence: str = ""
    """Of the weights, as their publisher states it; empty: not stated."""
    module: Any = None
    """The whole model, for more than its image tower (the text tower of SigLIP and CLIP)."""

    @property
    def sha256(self) -> str:
        """Hash of the weights, hexadecimal."""
        return self.weights.sha256

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be changed while it ran, for people."""
        return tuple(self.batches.notes)

    def fit(self, chips: NDArray[np.float32], *, seed: int = 0) -> PretrainedEncoder:  # noqa: ARG002
        """Return the encoder as it is."""
        return self

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn chips ``(n, bands, height, width)`` into vectors ``(n, dim) float32``.

        Raises BandError for another number of bands, InputError where the memory does not
        suffice for one chip or the model gives no numbers.
        """
        self._check(pixels)
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        out = np.concatenate(self.batches.run(self.forward, pixels, self.name))
        if out.shape != (len(pixels), self.dim):
            raise InputError(
                f"Encoder '{self.name}' gave {out.shape}; {(len(pixels), self.dim)} was expected. "
                "Its description does not fit the model."
            )
        if not np.isfinite(out).all():
            raise InputError(
                f"Encoder '{self.name}' gave NaN or infinity. Check that the imagery holds the "
                f"values it wants ({self.wants.values}) and that no pixel is missing."
            )
        return np.ascontiguousarray(out, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write ``encoder.json``: which weights these are. The weights stay where they are."""
        description = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "dim": self.dim,
            "licence": self.licence,
            "weights": {
                "path": str(self.weights.path.absolute()) if self.weights.given else None,
                "origin": self.weights.origin,
            },
            "steps": list(self.wants.steps),
        }
        write_text(folder / f"{ENCODER_STEM}.json", json.dumps(description, indent=1) + "\n")

    def _check(self, pixels: NDArray[np.float32]) -> None:
        wanted = len(self.wants.bands or ())
        if pixels.ndim != 4 or pixels.shape[1] != wanted:
            names = ", ".join(band.name for band in self.wants.bands or ())
            raise BandError(
                f"Encoder '{self.name}' takes chips of {wanted} bands ({names}); it was given an "
                f"array of shape {pixels.shape}. Choose these bands in this order with --bands."
            )


def restore(
    draft: Callable[[EncoderChoice], PretrainedEncoder],
    folder: Path,
    description: Mapping[str, Any],
    weights: Path | None,
) -> PretrainedEncoder:
    """Find the weights that ``save`` spoke of, and make the encoder again.

    Raises StoreFormatError for a damaged description, InputError where the weights are gone or
    are others.
    """
    try:
        if description["format_version"] != FORMAT_VERSION:
            _damaged(folder, f"format_version is {description['format_version']}")
        name, sha256 = str(description["name"]), str(description["sha256"])
        path = description["weights"]["path"]
    except (KeyError, TypeError) as error:
        _damaged(folder, repr(error))
    found = weights or (Path(path) if path else None)
    encoder = draft(EncoderChoice(name, weights=found, weights_sha256=sha256))
    if encoder.dim != description.get("dim"):
        _damaged(folder, f"dim is {description.get('dim')}, the model's is {encoder.dim}")
    return encoder


def _damaged(folder: Path, reason: str) -> NoReturn:
    raise StoreFormatError(
        f"{folder / ENCODER_STEM}.json does not describe a pre-trained encoder of this release "
        f"({reason}). Restore it from a copy, or embed the imagery again."
    )
