"""The weights in the installed torchgeo's registry, and what pixels each wants.

Bands, sizes and normalisation come from the weights' own metadata and transforms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from embeddings.encoders.base import BandWant, Values, Wants
from embeddings.encoders.preprocess import STRETCHES, TCI_SATURATION, Stretch
from embeddings.encoders.sensors import RGB, SENTINEL1, SENTINEL2, band_wants, sensor_of
from embeddings.encoders.torch_runtime import need, need_torchvision
from embeddings.encoders.torchgeo_adapters import (
    ADAPTERS,
    COMPUTED_BANDS,
    NO_ENCODERS,
    Adapter,
    Inputs,
)
from embeddings.errors import InputError

EXTRA = "torchgeo"
SR_BRIGHTEST, TOA_BRIGHTEST = 0.3, 0.4
"""Reflectance that is 255 in SSL4EO-L: of the surface, at the top of the atmosphere.

From the scripts that made it (experiments/ssl4eo in torchgeo's repository).
"""
KELVIN = (248.15, 318.15)
"""Its brightness temperatures that are 0 and 255."""
TRUE_COLOUR = 3
"""Satlas's multispectral weights take true-colour levels for the first three bands."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Weights of the registry and how they are used."""

    name: str
    """"ResNet18_Weights.SENTINEL2_ALL_MOCO"."""
    model: str
    """Name of the builder: "resnet18"."""
    member: Any
    """The registry's own entry: ``url``, ``meta``, ``transforms``."""
    adapter: Adapter
    bands: tuple[BandWant, ...]
    gsd_m: float | None
    res_m: float = 1.0
    stretch: Stretch | None = None

    @property
    def values(self) -> Values:
        """What the numbers stand for, as the normalisation tells."""
        if self.stretch is not None:
            return self.stretch.values
        if self.ranges is not None:
            return "reflectance"
        if self.mixed or self.adapter.standardised:
            return "reflectance-10000" if self.mixed else "any"
        spreads = [list(step.std) for step in self.steps if hasattr(step, "std")]
        if [255.0] in spreads:
            return "byte"
        if all(band.name in SENTINEL1 for band in self.bands):
            return "decibel"
        large = any(max(spread) > TCI_SATURATION / 3 for spread in spreads)
        return "reflectance-10000" if "SENTINEL2" in self.name and large else "any"

    @property
    def ranges(self) -> list[tuple[float, float]] | None:
        """What SSL4EO-L's makers brought to levels of 0 to 255, per band; None for others."""
        if self.member.meta.get("dataset") != "SSL4EO-L":
            return None
        brightest = SR_BRIGHTEST if "_SR_" in self.name else TOA_BRIGHTEST
        return [
            KELVIN if (band.common_name or "").startswith("lwir") else (0.0, brightest)
            for band in self.bands
        ]

    @property
    def mixed(self) -> bool:
        """Whether the first bands are true-colour levels and the others digital numbers."""
        spreads = [list(step.std) for step in self.steps if hasattr(step, "std")]
        return any(255.0 in spread and len(set(spread)) > 1 for spread in spreads)

    @property
    def steps(self) -> list[Any]:
        """The parts of the library's own transform."""
        transforms = self.member.transforms
        parts = list(transforms.children()) or [transforms]
        return [part for part in parts if type(part).__name__ != "Identity"]

    def first(self, kind: str) -> int | None:
        """Side of the first Resize or CenterCrop of the library's transform, pixels."""
        for step in self.steps:
            if type(step).__name__ == kind:
                return int(next(iter(step.size)))
        return None

    @property
    def crop(self) -> int | None:
        """Side below which a crop would put zeros around a chip; None where it cannot."""
        return None if self.first("Resize") else self.first("CenterCrop")

    @property
    def inputs(self) -> Inputs:
        """What the model is told beside the pixels."""
        return Inputs(self.bands, self.res_m)

    def wants(self) -> Wants:
        """What pixels it takes."""
        side = self.first("Resize") or self.first("CenterCrop") or self.adapter.size
        return Wants(
            bands=self.bands,
            chip_px=side,
            gsd_m=self.gsd_m,
            values=self.values,
            standardised=self.adapter.standardised,
            steps=tuple(self._told()),
        )

    def _told(self) -> Iterator[str]:
        if self.stretch is not None and self.stretch.step:
            yield self.stretch.step
        if self.ranges is not None:
            told = ", ".join(f"{low:g} to {high:g}" for low, high in dict.fromkeys(self.ranges))
            yield f"reflectance and kelvin to levels of 0 to 255, as SSL4EO-L's makers do ({told})"
        if self.mixed:
            yield f"bands 1 to {TRUE_COLOUR}: {STRETCHES['tci'].step}"
        if self.crop is not None:
            yield f"chips smaller than {self.crop} pixels: resized to that (bilinear, antialiased)"
        for step in self.steps:
            yield f"torchgeo's {' '.join(repr(step).split())}"
        if self.adapter.size is not None and self.adapter.size != self.last_size:
            side = self.adapter.size
            yield f"resized to {side} x {side} pixels (bilinear, antialiased) if not that large"
        if self.model.startswith("croma"):
            yield "clip((z + 2) / 4, 0, 1) of the standardised bands, as CROMA's authors do"
        if self.model.startswith("scalemae"):
            yield f"positions for pixels of {self.res_m:g} m"
        yield self.adapter.step()

    @property
    def last_size(self) -> int | None:
        """Side that the library's transform leaves, pixels; None: that of the chip."""
        return self.first("CenterCrop") or self.first("Resize")


def entries() -> dict[str, Entry]:
    """Return all image encoders of the registry by name. Imports torchgeo."""
    found = {}
    for model, member in _members():
        entry = _entry(model, member)
        if entry is not None:
            found[entry.name] = entry
    return found


def find(name: str, options: dict[str, str]) -> Entry:
    """Return the weights of a name, with the options applied. Raises InputError."""
    known = entries()
    if name not in known:
        raise InputError(f"torchgeo has no image encoder '{name}'. {_advice(name, list(known))}")
    entry = known[name]
    for key, value in options.items():
        entry = _with(entry, key, value)
    return entry


def _advice(name: str, known: Sequence[str]) -> str:
    for model, member in _members():
        if str(member) == name:
            reason = NO_ENCODERS.get(model, "not known to this release of Terrakin")
            if model in ADAPTERS:
                reason = f"one of its inputs is computed ({', '.join(COMPUTED_BANDS)})"
            return f"Its registry has it, but it cannot be used as one: {reason}."
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}'terrakin encoders' lists all {len(known)}."


def _members() -> Iterator[tuple[str, Any]]:
    """All weights of the registry, each with its builder's name."""
    need_torchvision(EXTRA)
    models = need("torchgeo.models", EXTRA)
    for model in models.list_models():
        try:
            weights = models.get_model_weights(model)
        except (KeyError, ValueError):  # a builder without published weights
            continue
        for member in weights:
            yield model, member


def _entry(model: str, member: Any) -> Entry | None:
    adapter = ADAPTERS.get(model)
    if adapter is None:
        return None
    name = str(member)
    bands = tuple(member.meta.get("bands") or adapter.bands or RGB)
    if COMPUTED_BANDS & set(bands):
        return None
    sensor = sensor_of(name.rpartition(".")[2], bands)
    gsd = None if adapter.wavelengths else sensor.gsd_m
    return Entry(name, model, member, adapter, band_wants(sensor, bands), gsd)


def _with(entry: Entry, key: str, value: str) -> Entry:
    if key == "stretch" and entry.values == "byte" and len(entry.bands) == TRUE_COLOUR:
        return replace(entry, stretch=STRETCHES[value])
    if key == "res" and entry.model.startswith("scalemae"):
        return replace(entry, res_m=_metres(value))
    if key == "bands" and entry.adapter.wavelengths:
        return replace(entry, bands=tuple(_band(part) for part in value.split(",")))
    raise InputError(
        f"'{entry.name}' has no option {key}: stretch is for weights that take 8-bit RGB, res for "
        "Scale-MAE, bands for DOFA, Panopticon and Copernicus-FM."
    )


def _metres(value: str) -> float:
    try:
        metres = float(value)
    except ValueError:
        metres = 0.0
    if not 0 < metres < float("inf"):
        raise InputError(f"res={value} is no size of a pixel. Give metres: res=10.")
    return metres


def _band(text: str) -> BandWant:
    name, _, um = text.partition("@")
    try:
        centre = float(um) if um else SENTINEL2[name][1]
    except (KeyError, ValueError):
        raise InputError(
            f"bands={text}: give names of Sentinel-2's bands ({', '.join(SENTINEL2)}) or "
            "NAME@MICROMETRES, as in bands=B04,red@0.655."
        ) from None
    return BandWant(name, SENTINEL2[name][0] if name in SENTINEL2 else None, centre)
