"""EmbeddingSpec: what the vectors of a collection are. It travels in every file.

Two collections may be compared, appended to or probed together only if their specs agree;
``EmbeddingSpec.differences`` is the one place that says so. As JSON the spec stands in
``collection.json`` and in the Parquet footer, beside its STAC form (STAC Embedding extension
v0.0.1, prefix ``emb``, and the geo-embeddings best practice of October 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from embeddings.errors import StoreFormatError

STAC_EMBEDDING_EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"

Dtype = Literal["float16", "float32", "int8"]
Norm = Literal["none", "l2"]

GSD_TOLERANCE = 0.05
"""Two scenes of one collection may differ by this share in ground sampling distance."""


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
    """What happens to pixels before the encoder sees them: ``(pixel - mean) / std`` per band."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: str


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """The identity of a vector space and of how its vectors are stored."""

    product: str
    """What the vectors describe, for people: "rcf on sentinel-2"."""
    model: str
    model_version: str
    weights_sha256: str
    """Hash of all the weights (filters, projection) the encoder used."""
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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which ``from_json`` restores an equal spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a spec. Raises StoreFormatError if a field is missing or unknown."""
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise StoreFormatError(
                "The embedding spec has other fields than this release knows: missing "
                f"{sorted(names - set(data))}, unknown {sorted(set(data) - names)}. "
                "Read it with the release that wrote it."
            )
        values: dict[str, Any] = {**data, "bands": tuple(data["bands"])}
        if data["scale"] is not None:
            values["scale"] = tuple(data["scale"])
        if data["layout"] is not None:
            layout = dict(data["layout"])
            values["layout"] = ChipLayout(
                layout["chip_asked"],
                layout["stride_asked"],
                tuple(layout["chip_px"]),
                tuple(layout["stride_px"]),
            )
        if data["preprocessing"] is not None:
            pre = data["preprocessing"]
            values["preprocessing"] = Preprocessing(
                tuple(pre["mean"]), tuple(pre["std"]), pre["resampling"]
            )
        return cls(**values)

    def differences(self, other: EmbeddingSpec) -> list[str]:
        """Name what keeps vectors of the two specs apart; empty if they may be mixed.

        Pixel sizes of chips asked for in metres may differ, and the ground sampling distance
        by ``GSD_TOLERANCE``, since scenes in degrees differ with latitude.
        """
        mine, theirs = self._identity(), other._identity()
        found = [
            f"{name}: {_short(mine[name])} here, {_short(theirs[name])} there"
            for name in mine
            if mine[name] != theirs[name]
        ]
        if abs(self.gsd_m - other.gsd_m) > GSD_TOLERANCE * self.gsd_m:
            found.append(f"gsd_m: {self.gsd_m:g} here, {other.gsd_m:g} there")
        return found

    def _identity(self) -> dict[str, Any]:
        data = self.to_json()
        del data["gsd_m"]
        layout = data.pop("layout")
        data["chip"] = layout and layout["chip_asked"]
        data["stride"] = layout and layout["stride_asked"]
        return data

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


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
