"""What every encoder offers, and what it wants of the pixels.

A *draft* is an encoder that has seen no pixels yet. Pre-trained encoders are their own draft;
those that learn from the first input (rcf) make the encoder of its sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Values = Literal["any", "reflectance-10000", "reflectance", "byte", "decibel"]
"""What numbers stand for: reflectance times 10,000 (Sentinel-2's digital numbers), reflectance of
0 to 1, 8-bit pictures of 0 to 255, radar backscatter in dB."""


@dataclass(frozen=True, slots=True)
class BandWant:
    """A band an encoder was trained on."""

    name: str
    """As the sensor names it: "B04"."""
    common_name: str | None = None
    """As the STAC electro-optical extension names it: "red"."""
    wavelength_um: float | None = None
    """Centre of the band, micrometres; None for radar."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What pixels an encoder takes."""

    bands: tuple[BandWant, ...] | None = None
    """In the order of the model's input channels; None: any, as the first input has them."""
    chip_px: int | None = None
    """Side of the chips it was trained on, pixels; None: any."""
    gsd_m: float | None = None
    """Ground sampling distance it was trained on, metres; None: any."""
    values: Values = "any"
    standardised: bool = False
    """Whether the pipeline takes off each band's mean and divides by its deviation."""
    steps: tuple[str, ...] = ()
    """What the encoder does to a chip before the model sees it, in order, for people."""


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """What the user asked for: ``FAMILY[:ARG]``, and where the weights are."""

    name: str
    weights: Path | None = None
    """A local file or folder with the weights; None: as the family finds them (cache, hub)."""
    weights_sha256: str | None = None
    """What the weights must hash to, hexadecimal; None: not checked, but recorded."""

    @property
    def family(self) -> str:
        """The part before the first colon."""
        return self.name.partition(":")[0]

    @property
    def arg(self) -> str:
        """The part after the first colon, or an empty text."""
        return self.name.partition(":")[2]


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """A line of ``terrakin encoders``."""

    name: str
    title: str
    bands: int | None
    dim: int | None
    chip_px: int | None
    available: bool
    """False: its extra is not installed."""


class Encoder(Protocol):
    """Turns chips into vectors."""

    @property
    def name(self) -> str:
        """The family and its argument: "torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO"."""

    @property
    def version(self) -> str:
        """Version of the method or of the weights."""

    @property
    def wants(self) -> Wants:
        """What pixels it takes."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def sha256(self) -> str:
        """Hash of all weights, hexadecimal."""

    @property
    def notes(self) -> Sequence[str]:
        """What it decided by itself while it encoded, such as smaller batches."""

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn chips ``(n, bands, height, width)`` into vectors ``(n, dim) float32``."""

    def save(self, folder: Path) -> None:
        """Write ``encoder.json`` and what it needs beside it into ``folder``, atomically."""


class Draft(Protocol):
    """An encoder before it has seen pixels."""

    @property
    def wants(self) -> Wants:
        """What pixels it takes."""

    def fit(self, chips: NDArray[np.float32], *, seed: int = 0) -> Encoder:
        """Return the encoder for imagery of which ``chips`` are a sample."""


class Family(Protocol):
    """A module of encoders of one kind."""

    PREFIX: str
    TITLE: str
    EXTRA: str | None
    """The extra of the package that brings its libraries."""

    @property
    def listing(self) -> Callable[[], list[EncoderInfo]]:
        """``listing()``: what ``terrakin encoders`` shows."""

    @property
    def draft(self) -> Callable[[EncoderChoice], Draft]:
        """``draft(choice)``. Raises InputError or ExtraMissingError."""

    @property
    def load(self) -> Callable[[Path, Mapping[str, Any], Path | None], Encoder]:
        """``load(folder, description, weights)``: restore what ``save(folder)`` wrote.

        ``description`` is what ``encoder.json`` says. Raises StoreFormatError, or InputError
        where the weights are not found.
        """
