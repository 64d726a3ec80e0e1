"""How each kind of torchgeo's models is built, fed and asked for one vector a chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from embeddings.encoders.base import BandWant
from embeddings.encoders.sensors import RGB, SENTINEL2, widths_um
from embeddings.errors import InputError

Run = Callable[[Any, Any, "Inputs"], Any]
NANOMETRES = 1000
COPERNICUS_NM = {"B01": 440.0, "B8A": 860.0, "B09": 940.0, "B10": 1370.0}
"""Centres that Copernicus-FM was trained with, where they are not the sensor's."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What some models are told beside the pixels."""

    bands: tuple[BandWant, ...]
    res_m: float = 1.0

    def wavelengths(self) -> list[float]:
        """Centres of the bands, micrometres. Raises InputError where one is not known."""
        unknown = [band.name for band in self.bands if band.wavelength_um is None]
        if unknown:
            raise InputError(
                f"The model is told each band's wavelength; {', '.join(unknown)} has none. Give "
                "it in the encoder's name: ?bands=NAME@MICROMETRES,..."
            )
        return [float(band.wavelength_um or 0) for band in self.bands]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a builder of torchgeo makes and how it is used."""

    dim: int
    run: Run
    pooling: str
    """For people: what the vector is."""
    build: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    """Side of the images it takes, pixels; None: any."""
    bands: tuple[str, ...] = ()
    """Bands it was trained on, where the registry does not say."""
    wavelengths: bool = False
    """Whether it takes any bands, told their wavelengths."""
    standardised: bool = False
    """Whether the library leaves the normalisation of each band to its user."""
    prefix: str = ""
    """Before the names of the file's tensors in the model's."""

    def step(self) -> str:
        """The last line of what happens to a chip."""
        return f"vector of {self.dim}: {self.pooling}"


def _features(model: Any, chips: Any, inputs: Inputs) -> Any:  # noqa: ARG001
    return model(chips)


def _croma(model: Any, chips: Any, inputs: Inputs) -> Any:  # noqa: ARG001
    # The authors bring each band from mean - 2 std .. mean + 2 std to 0 .. 1.
    return model(x_optical=((chips + 2) / 4).clamp(0, 1))["optical_GAP"]


def _dofa(model: Any, chips: Any, inputs: Inputs) -> Any:
    return model.forward_features(chips, inputs.wavelengths())


def _panopticon(model: Any, chips: Any, inputs: Inputs) -> Any:
    torch = import_module("torch")
    centres = torch.tensor([um * NANOMETRES for um in inputs.wavelengths()], device=chips.device)
    return model({"imgs": chips, "chn_ids": centres.repeat(len(chips), 1)})


def _copernicus(model: Any, chips: Any, inputs: Inputs) -> Any:
    torch = import_module("torch")
    widths = widths_um(inputs.bands)
    if widths is None:
        raise InputError(
            "Copernicus-FM is told each band's width, which is known of Sentinel-2 only: "
            f"{', '.join(SENTINEL2)}. Choose among them with ?bands=."
        )
    unknown = torch.full((len(chips), 4), float("nan"), device=chips.device)
    return model.forward_features(
        chips,
        unknown,  # longitude, latitude, time, area: it has learned to do without
        [
            COPERNICUS_NM.get(band.name, um * NANOMETRES)
            for band, um in zip(inputs.bands, inputs.wavelengths(), strict=True)
        ],
        [um * NANOMETRES for um in widths],
    )


def _scale_mae(model: Any, chips: Any, inputs: Inputs) -> Any:
    model.res = inputs.res_m
    return model(chips)


HEADLESS = {"num_classes": 0}
BY_MAP = "mean of the last feature map"
BY_CLASS = "class token after the last normalisation"
BY_PATCHES = "mean of the patches' tokens, normalised"
ALL_BUT_CIRRUS = tuple(name for name in SENTINEL2 if name != "B10")
NINE = ("B04", "B03", "B02", "B05", "B06", "B07", "B08", "B11", "B12")


def _resnet(dim: int) -> Adapter:
    return Adapter(dim, _features, BY_MAP, HEADLESS)


def _vit(dim: int) -> Adapter:
    return Adapter(dim, _features, BY_CLASS, HEADLESS, size=224)


def _croma_of(dim: int) -> Adapter:
    return Adapter(
        dim,
        _croma,
        "'optical_GAP': mean of the optical encoder's tokens through its head",
        {"modalities": ["optical"]},
        size=120,
        bands=ALL_BUT_CIRRUS,
        standardised=True,
    )


def _dofa_of(dim: int) -> Adapter:
    return Adapter(dim, _dofa, BY_PATCHES, HEADLESS, 224, NINE, wavelengths=True, standardised=True)


ADAPTERS = {
    "resnet18": _resnet(512),
    "resnet50": _resnet(2048),
    "resnet152": _resnet(2048),
    "vit_small_patch16_224": _vit(384),
    "vit_base_patch16_224": _vit(768),
    "vit_large_patch16_224": _vit(1024),
    "vit_huge_patch14_224": _vit(1280),
    "vit_small_patch14_dinov2": _vit(384),
    "vit_base_patch14_dinov2": _vit(768),
    "swin_v2_t": Adapter(768, _features, BY_MAP),
    "swin_v2_b": Adapter(1024, _features, BY_MAP),
    "croma_base": _croma_of(768),
    "croma_large": _croma_of(1024),
    "dofa_base_patch16_224": _dofa_of(768),
    "dofa_large_patch16_224": _dofa_of(1024),
    "copernicusfm_base": Adapter(
        768, _copernicus, BY_PATCHES, HEADLESS, 224, tuple(SENTINEL2),
        wavelengths=True, standardised=True,
    ),
    "panopticon_vitb14": Adapter(
        768, _panopticon, BY_CLASS, {}, 224, ALL_BUT_CIRRUS,
        wavelengths=True, standardised=True, prefix="model.",
    ),
    "scalemae_large_patch16": Adapter(
        1024, _scale_mae, BY_CLASS, HEADLESS, 224, RGB
    ),
    "earthloc": Adapter(4096, _features, "its place descriptor, of unit length", size=320),
    "tilenet": Adapter(512, _features, BY_MAP, size=50),
}  # fmt: skip
"""By the name of the builder in torchgeo's registry."""

NO_ENCODERS = {
    "aurora_swin_unet": "a weather model",
    "unet": "segmentation models",
    "presto": "takes time series of single pixels",
    "tessera": "takes time series of single pixels",
    "satclip": "a location encoder: use 'terrakin embed locations'",
    "olmoearth_v1": "needs a package of its own and dates",
    "deo_base": "mixes 8-bit RGB and digital numbers, in units the registry does not state",
    "swin_t": "trained on street scenes (Cityscapes)",
    "swin_s": "trained on street scenes (Cityscapes)",
    "swin_b": "trained on street scenes (Cityscapes)",
}
"""Builders of the registry that are no image encoders of Earth observation, and why."""

COMPUTED_BANDS = {"NDVI"}
"""Inputs that no scene has as a band; the registry does not state their scale."""


def headless(name: str, model: Any) -> Any:
    """Take the classifier off a model whose builder knows no ``num_classes=0``."""
    if name.startswith("swin_v2"):
        model.head = import_module("torch").nn.Identity()
    return model


def optional(name: str) -> bool:
    """Whether a tensor may be missing from a file: no vector depends on a trained one.

    Heads are cut off; the last normalisation is the identity where a file has none.
    """
    parts: Sequence[str] = name.split(".")
    return parts[0] in {"head", "fc", "norm", "fc_norm", "mask_token", "attn_bias"}
