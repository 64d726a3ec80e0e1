"""The JSON side-car of an exported model: what goes in, what comes out.

``MODEL.onnx.json`` or ``MODEL.pt2.json``; docs/encoders.md lists the keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embeddings.encoders.base import BandWant, Values, Wants
from embeddings.errors import InputError, SourceError, SourceNotFoundError

FORMAT = "terrakin-exported-encoder"
FORMAT_VERSION = 1
RESIZES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Interface:
    """What the side-car says."""

    name: str
    version: str
    input: str
    """Name of the model's one input, ``(n, bands, chip_px, chip_px) float32``."""
    output: str
    """Name of its output, ``(n, dim) float32``."""
    bands: tuple[BandWant, ...]
    chip_px: int
    gsd_m: float | None
    values: Values
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str | None
    """How chips of another size are brought to ``chip_px``; None: they are refused."""
    dim: int
    licence: str
    sha256: str
    """Of the model file."""

    def wants(self) -> Wants:
        """What pixels the model takes."""
        steps = [f"minus {list(self.mean)}, divided by {list(self.std)}", f"vector of {self.dim}"]
        if self.resize:
            steps.insert(
                0, f"resized to {self.chip_px} x {self.chip_px} ({self.resize}, antialiased)"
            )
        return Wants(self.bands, self.chip_px, self.gsd_m, self.values, steps=tuple(steps))

    def prepare(self, pixels: Floats) -> Floats:
        """Resize and normalise values ``(n, bands, height, width)``. Raises InputError."""
        side = self.chip_px
        if pixels.shape[2:] != (side, side):
            if self.resize is None:
                raise InputError(
                    f"The model '{self.name}' takes chips of {side} x {side} pixels and its "
                    f"side-car allows no resizing; these have {pixels.shape[3]} x "
                    f"{pixels.shape[2]}. Choose --chip {side}, or set 'resize' in the side-car."
                )
            pixels = _resized(pixels, side, RESIZES[self.resize])
        mean, std = (
            np.array(values, dtype=np.float32)[:, None, None] for values in (self.mean, self.std)
        )
        out: Floats = np.ascontiguousarray((pixels - mean) / std, dtype=np.float32)
        return out


def _resized(pixels: Floats, side: int, how: Image.Resampling) -> Floats:
    """Resize every band of its own; Pillow's filters widen when shrinking (antialiased)."""
    out = np.empty((*pixels.shape[:2], side, side), dtype=np.float32)
    for chip, target in zip(pixels, out, strict=True):
        for band, place in zip(chip, target, strict=True):
            image = Image.fromarray(np.ascontiguousarray(band, dtype=np.float32))
            place[:] = np.asarray(image.resize((side, side), how))
    return out


def side_car(model: Path) -> Path:
    """Return the path of a model's side-car."""
    return model.with_name(f"{model.name}.json")


def read_interface(model: Path) -> Interface:
    """Read the side-car of a model file. Raises SourceNotFoundError, SourceError, InputError."""
    path = side_car(model)
    for file in (model, path):
        if not file.is_file():
            raise SourceNotFoundError(
                f"There is no file '{file}'. An exported encoder is two files, the model "
                f"(.onnx or .pt2) and its description beside it ('{path.name}')."
            )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        said = (data["format"], data["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"'{path}' is no side-car of an exported model ({error!r}).") from error
    if said != (FORMAT, FORMAT_VERSION):
        raise SourceError(
            f"'{path}' is of format {said[0]} version {said[1]}; this release reads {FORMAT} "
            f"version {FORMAT_VERSION}."
        )
    try:
        interface = _parsed(data)
    except KeyError as error:
        raise InputError(f"'{path}' does not say {error}. Add it.") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"'{path}' cannot be used: {error}.") from error
    return interface


def _parsed(data: Mapping[str, Any]) -> Interface:
    bands = tuple(
        BandWant(str(band["name"]), band.get("common_name"), band.get("wavelength_um"))
        for band in data["bands"]
    )
    gsd, resize = data.get("gsd_m"), data.get("resize")
    interface = Interface(
        name=str(data["name"]),
        version=str(data["version"]),
        input=str(data["input"]),
        output=str(data["output"]),
        bands=bands,
        chip_px=int(data["chip_px"]),
        gsd_m=None if gsd is None else float(gsd),
        values=cast(Values, data.get("values", "any")),
        mean=tuple(map(float, data["mean"])),
        std=tuple(map(float, data["std"])),
        resize=None if resize is None else str(resize),
        dim=int(data["dim"]),
        licence=str(data.get("licence", "")),
        sha256=str(data["sha256"]).lower(),
    )
    _check(interface)
    return interface


def _check(interface: Interface) -> None:
    count = len(interface.bands)
    if not count or len(interface.mean) != count or len(interface.std) != count:
        raise ValueError(
            f"it names {count} bands, {len(interface.mean)} means and {len(interface.std)} "
            "deviations; each band needs one of each"
        )
    if not np.isfinite(interface.mean).all() or min(interface.std) <= 0:
        raise ValueError("means must be numbers and deviations above 0")
    if interface.values not in get_args(Values):
        raise ValueError(f"values is {interface.values!r}; allowed: {', '.join(get_args(Values))}")
    if interface.resize not in (None, *RESIZES):
        raise ValueError(f"resize is {interface.resize!r}; allowed: null, {', '.join(RESIZES)}")
    if interface.chip_px < 1 or interface.dim < 1:
        raise ValueError("chip_px and dim must be at least 1")
