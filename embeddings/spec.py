"""EmbeddingSpec: what the vectors of a collection are. It travels in every file.

Two collections may be compared, appended to or probed together only if their specs agree;
``EmbeddingSpec.differences`` is the one place that says so. As JSON the spec stands in
``collection.json`` and in the Parquet footer, beside its STAC form (STAC Embedding extension
v0.0.1, prefix ``emb``, and the geo-embeddings best practice of October 2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, Self

from embeddings.errors import InputError, StoreFormatError

STAC_EMBEDDING_EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"

Dtype = Literal["float16", "float32", "int8"]
Norm = Literal["none", "l2"]
AttributeType = Literal["int64", "float64", "string", "bool", "timestamp"]

GSD_TOLERANCE = 0.05
"""Two scenes of one collection may differ by this share in ground sampling distance."""


_SIZE = re.compile(r"(\d+(?:\.\d+)?)(m|km)?")


def parse_size(size: str) -> tuple[float, Literal["px", "m"]]:
    """Read "32" (pixels), "320m" or "0.32km" (metres). Raises InputError."""
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise InputError(f"'{size}' is not a size. Give pixels (32) or metres (320m, 1.5km).")
    value, unit = float(match[1]), match[2]
    if unit is None:
        return value, "px"
    return (round(1000 * value, 6) if unit == "km" else value), "m"


@dataclass(frozen=True, slots=True)
class ChipLayout:
    """How a scene is cut: sizes in whole pixels (row, column), as asked and in metres.

    ``chip_asked`` and ``stride_asked`` are the user's words ("32" or "320m"); the pixel sizes
    are what they became at the centre of the first scene.
    """

    chip_asked: str
    stride_asked: str
    chip_px: tuple[int, int]
    stride_px: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to pixels before the model sees them.

    A pixel is a number of the files times ``scale``, one for each band, plus the scene's offset.
    Then ``(pixel - mean) / std`` per band, where the encoder wants it so; else ``mean`` and
    ``std`` are empty, and ``steps`` tells what the encoder does by itself.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: str
    scale: tuple[float, ...]
    steps: tuple[str, ...] = ()
    min_valid: float = 1.0
    """Chips with a smaller share of valid pixels are absent; other gaps get the chip's mean."""
    mask: str | None = None
    """The band that says which pixels are missing, and how."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore it; collections of earlier releases lack what was not recorded then."""
        mean = tuple(data["mean"])
        return cls(
            mean,
            tuple(data["std"]),
            data["resampling"],
            tuple(data.get("scale", (1.0,) * len(mean))),
            tuple(data.get("steps", ())),
            data.get("min_valid", 1.0),
            data.get("mask"),
        )


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """The identity of a vector space and of how its vectors are stored."""

    product: str
    """What the vectors describe, for people: "rcf on sentinel-2"."""
    model: str
    model_version: str
    weights_sha256: str
    """Hash of all the weights (filters, projection, network) the encoder used."""
    dim: int
    dtype: Dtype
    scale: tuple[float, ...] | None
    """int8 only: value = stored * scale, one scale per dimension."""
    norm: Norm
    bands: tuple[str, ...]
    gsd_m: float
    """Ground sampling distance of the pixels the encoder saw, metres."""
    layout: ChipLayout | None
    """None for a collection on a Major TOM grid."""
    grid_km: float
    """Grid distance of the ``grid_cell`` column, kilometres."""
    preprocessing: Preprocessing | None
    source: str
    """The data the vectors were computed from."""
    licence: str
    """SPDX identifier or "proprietary"."""
    centre: tuple[float, ...] | None = None
    """What search takes off every vector before it compares angles; None: nothing."""
    attributes: tuple[tuple[str, str], ...] = ()
    """Further columns of the stored rows, in file order: name, and type as of ``AttributeType``."""

    def __post_init__(self) -> None:
        """Raise InputError if columns cannot be told apart."""
        names: dict[str, str] = {}
        for name, _ in self.attributes:
            other = names.setdefault(name.lower(), name)
            if other != name:
                raise InputError(
                    f"The columns '{other}' and '{name}' differ only in capitals, which SQL does "
                    "not tell apart. Rename one of them."
                )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which ``from_json`` restores an equal spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a spec. Raises StoreFormatError if a field is missing or unknown."""
        names = {field.name for field in fields(cls)}
        later = {field.name for field in fields(cls) if field.default is not MISSING}
        if not names - later <= set(data) <= names:
            raise StoreFormatError(
                "The embedding spec has other fields than this release knows: missing "
                f"{sorted(names - later - set(data))}, unknown {sorted(set(data) - names)}. "
                "Read it with the release that wrote it."
            )
        values: dict[str, Any] = {**data, "bands": tuple(data["bands"])}
        for name in ("scale", "centre"):
            if data.get(name) is not None:
                values[name] = tuple(data[name])
        values["attributes"] = tuple((name, kind) for name, kind in data.get("attributes", ()))
        if data["layout"] is not None:
            layout = dict(data["layout"])
            values["layout"] = ChipLayout(
                layout["chip_asked"],
                layout["stride_asked"],
                tuple(layout["chip_px"]),
                tuple(layout["stride_px"]),
            )
        if data["preprocessing"] is not None:
            values["preprocessing"] = Preprocessing.from_json(data["preprocessing"])
        return cls(**values)

    def differences(self, other: EmbeddingSpec) -> list[str]:
        """Name what keeps vectors asked for out of this collection; empty if they may go in.

        Pixel sizes of chips asked for in metres may differ, and the ground sampling distance
        by ``GSD_TOLERANCE``, since scenes in degrees differ with latitude.
        """
        mine, theirs = self._identity(), other._identity()
        found = [
            f"{name} (collection: {_short(mine[name])}, asked: {_short(theirs[name])})"
            for name in mine
            if mine[name] != theirs[name]
        ]
        if abs(self.gsd_m - other.gsd_m) > GSD_TOLERANCE * self.gsd_m:
            found.append(f"gsd_m (collection: {self.gsd_m:g}, asked: {other.gsd_m:g})")
        return found + self._attribute_differences(other)

    def _attribute_differences(self, other: EmbeddingSpec) -> list[str]:
        mine, theirs = dict(self.attributes), dict(other.attributes)
        if mine == theirs and self.attributes != other.attributes:
            return ["order of the attributes"]
        return [
            f"attribute '{name}' (collection: {mine.get(name, 'none')}, asked: "
            f"{theirs.get(name, 'none')})"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]

    def _identity(self) -> dict[str, Any]:
        data = self.to_json()
        del data["gsd_m"], data["attributes"]
        layout = data.pop("layout")
        data["chip"] = layout and _size_text(layout["chip_asked"])
        data["stride"] = layout and _size_text(layout["stride_asked"])
        pre = data.pop("preprocessing") or {}
        data["pixel scale"] = pre.pop("scale", None)
        named = [field.name for field in fields(Preprocessing) if field.name != "scale"]
        return {**data, **{name: pre.get(name) for name in named}}

    def to_stac(self) -> dict[str, Any]:
        """Return the ``emb:`` descriptor of a STAC Collection."""
        descriptor: dict[str, Any] = {
            "emb:type": "chip",
            "emb:dimensions": self.dim,
            "data_type": self.dtype,
            "gsd": self.gsd_m,
            "emb:quantization": self._stac_quantization(),
        }
        if self.layout is None:
            grid = f"majortom-{self.grid_km:g}km"
            descriptor["emb:chip_layout"] = {"layout_type": "named_grid", "grid_id": grid}
        else:
            descriptor["emb:chip_layout"] = {
                "layout_type": "regular_grid",
                "chip_size": list(self.layout.chip_px),
                "stride": list(self.layout.stride_px),
            }
        return descriptor

    def _stac_quantization(self) -> dict[str, Any]:
        if self.scale is None:
            return {"method": "none", "original_dtype": self.dtype}
        return {
            "method": "linear",
            "original_dtype": "float32",
            "quantized_dtype": "int8",
            "scale": list(self.scale),
            "offset": [0.0] * self.dim,
        }


def _size_text(size: str) -> str:
    """Return one text for equal sizes: 160m for 0.16km; fragments (majortom:224) as they are."""
    if ":" in size:
        return size.strip().lower()
    value, unit = parse_size(size)
    return f"{value:.12g}m" if unit == "m" else f"{value:.12g}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
