"""What torchgeo's models are given: bands, levels, sizes, and what is told beside the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.encoders import torchgeo_models as family
from embeddings.encoders.torch_runtime import need_torchvision
from embeddings.errors import InputError
from tests.embeddings.model_files import need

SMALL = "ResNet18_Weights.SENTINEL2_ALL_MOCO"


@pytest.fixture(autouse=True)
def _installed() -> None:
    need("torch", "torchvision", "torchgeo")
    need_torchvision("torchgeo")


@pytest.mark.parametrize(
    ("name", "first", "common", "um", "values", "side", "gsd"),
    [
        (SMALL, "B01", "coastal", 0.443, "reflectance-10000", 256, 10.0),
        ("ResNet50_Weights.SENTINEL1_ALL_DECUR", "VV", None, None, "decibel", 256, 10.0),
        ("ViTSmall16_Weights.LANDSAT_TM_TOA_MOCO", "B1", "blue", 0.485, "reflectance", 224, 30.0),
        ("ResNet50_Weights.LANDSAT_OLI_SR_MOCO", "SR_B1", "coastal", 0.443, "reflectance", 224, 30),
        ("Swin_V2_B_Weights.LANDSAT_SI_SATLAS", "B01", "coastal", 0.443, "any", 256, 30.0),
        ("Swin_V2_B_Weights.NAIP_RGB_SI_SATLAS", "R", "red", 0.65, "byte", 256, 1.0),
        ("ScaleMAELarge16_Weights.FMOW_RGB", "R", "red", 0.65, "byte", 224, None),
        ("CROMABase_Weights.CROMA_VIT", "B01", "coastal", 0.443, "any", 120, 10.0),
        ("Panopticon_Weights.VIT_BASE14", "B01", "coastal", 0.443, "any", 224, None),
    ],
)
def test_bands_and_sizes_come_from_the_registry(
    name: str, first: str, common: Any, um: Any, values: str, side: int, gsd: Any
) -> None:
    from embeddings.encoders.torchgeo_catalogue import find

    wants = find(name, {}).wants()
    assert wants.bands is not None
    band = wants.bands[0]
    assert (band.name, band.common_name, band.wavelength_um) == (first, common, um)
    assert (wants.values, wants.chip_px, wants.gsd_m) == (values, side, gsd)
    assert wants.steps


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name",
    [
        SMALL,
        "ResNet50_Weights.SENTINEL2_ALL_DECUR",
        "ViTSmall16_Weights.SENTINEL2_ALL_MOCO",
        "ResNet50_Weights.SENTINEL2_ALL_SECO_ECO",
        "ResNet50_Weights.SENTINEL2_RGB_SECO",
        "Panopticon_Weights.VIT_BASE14",
    ],
)
def test_preprocessing_is_the_librarys_on_real_sentinel2(shared: Path, name: str) -> None:
    import rasterio
    import torch

    from embeddings.encoders.torchgeo_catalogue import find

    with rasterio.open(shared / "satclip-samples" / "example_s2" / "patch_445.tif") as file:
        twelve = file.read().astype("f4")
    bands = dict(zip([f"B{n:02d}" for n in range(1, 9)], twelve, strict=False))
    bands |= {"B8A": twelve[8], "B09": twelve[9], "B11": twelve[10], "B12": twelve[11]}
    bands["B10"] = np.zeros_like(twelve[0])
    entry = find(name, {})
    chip = torch.from_numpy(np.stack([bands[band.name] for band in entry.bands]))[None]
    ours = family.prepare(entry, chip.clone())
    theirs = entry.member.transforms(chip.clone())
    if name.startswith("Panopticon"):  # whose library leaves the size to its user
        theirs = torch.nn.functional.interpolate(
            theirs, (224, 224), mode="bilinear", antialias=True
        )
    assert torch.equal(ours, theirs)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", ["ResNet50_Weights.FMOW_RGB_GASSL", "EarthLoc_Weights.SENTINEL2_RESNET50"]
)
def test_preprocessing_is_the_librarys_on_a_real_picture(shared: Path, name: str) -> None:
    import torch
    from PIL import Image

    from embeddings.encoders.torchgeo_catalogue import find

    picture = np.asarray(Image.open(shared / "eurosat-rgb" / "Forest" / "Forest_10.jpg"))
    chip = torch.from_numpy(picture.transpose(2, 0, 1).astype("f4"))[None]
    entry = find(name, {})
    ours = family.prepare(entry, chip.clone())
    assert torch.equal(ours, entry.member.transforms(chip.clone()))


def test_a_small_chip_is_enlarged_where_the_library_would_frame_it_with_zeros() -> None:
    import torch

    from embeddings.encoders.torchgeo_catalogue import find

    entry = find("ResNet18_Weights.LANDSAT_OLI_SR_MOCO", {})
    chip = torch.full((1, 7, 64, 64), 0.12)
    assert (entry.member.transforms(chip.clone()) == 0).any()
    assert torch.allclose(family.prepare(entry, chip), torch.full((1, 7, 224, 224), 0.12 / 0.3))


def test_landsat_gets_the_levels_of_ssl4eo_l() -> None:
    import torch

    from embeddings.encoders.torchgeo_catalogue import find

    entry = find("ResNet18_Weights.LANDSAT_OLI_TIRS_TOA_MOCO", {})
    chip = torch.full((1, 11, 224, 224), 0.1)
    chip[:, 9:] = 283.15
    ready = family.prepare(entry, chip)
    assert ready[0, :9].mean() == pytest.approx(0.25, abs=1e-6)
    assert ready[0, 9:].mean() == pytest.approx(0.5, abs=1e-6)
    assert "248.15 to 318.15" in entry.wants().steps[0]


class _Recorder:
    """Stands for a model, and keeps what it is told."""

    res = 1.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.given = (*given, *named.values())
        return {"optical_GAP": None}

    forward_features = __call__


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("DOFABase16_Weights.DOFA_MAE", {"bands": "B04,x@1.5"}, [0.665, 1.5]),
        ("Panopticon_Weights.VIT_BASE14", {"bands": "B04,x@1.5"}, [665.0, 1500.0]),
        ("CopernicusFM_Base_Weights.CopernicusFM_ViT", {"bands": "B8A,B04"}, [860.0, 665.0]),
    ],
)
def test_models_are_told_wavelengths_in_their_own_unit(
    name: str, options: dict[str, str], told: list[float]
) -> None:
    import torch

    from embeddings.encoders.torchgeo_catalogue import find

    entry, model = find(name, options), _Recorder()
    entry.adapter.run(model, torch.zeros(3, 2, 224, 224), entry.inputs)
    if name.startswith("Panopticon"):
        assert model.given[0]["chn_ids"].tolist() == [pytest.approx(told)] * 3
    elif name.startswith("Copernicus"):
        _, metadata, centres, widths = model.given
        assert metadata.shape == (3, 4)
        assert metadata.isnan().all()
        assert (centres, widths) == (told, pytest.approx([20, 30]))
    else:
        assert model.given[1] == told


def test_copernicus_needs_widths_and_croma_unit_values() -> None:
    import torch

    from embeddings.encoders.torchgeo_catalogue import find

    narrow = find("CopernicusFM_Base_Weights.CopernicusFM_ViT", {"bands": "B04,x@1.5"})
    with pytest.raises(InputError, match="each band's width"):
        narrow.adapter.run(_Recorder(), torch.zeros(1, 2, 224, 224), narrow.inputs)
    croma, model = find("CROMABase_Weights.CROMA_VIT", {}), _Recorder()
    values = torch.tensor([-3.0, -2.0, 0.0, 2.0, 5.0])
    croma.adapter.run(model, values, croma.inputs)
    assert model.given[0].tolist() == [0, 0, 0.5, 1, 1]
    scale = find("ScaleMAELarge16_Weights.FMOW_RGB", {"res": "10"})
    scale.adapter.run(model, values, scale.inputs)
    assert model.res == 10


def test_satlas_gets_true_colour_levels_for_its_first_three_bands() -> None:
    import torch

    from embeddings.encoders.torchgeo_catalogue import find

    entry = find("Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS", {})
    ready = family.prepare(entry, torch.full((1, 9, 256, 256), 1779.0))
    assert ready[0, :3].mean() == pytest.approx(0.5, abs=1e-4)
    assert ready[0, 3:].mean() == pytest.approx(1779 / 8160, abs=1e-4)


def test_options_change_what_a_model_is_given() -> None:
    from embeddings.encoders.torchgeo_catalogue import find

    dofa = find("DOFABase16_Weights.DOFA_MAE", {"bands": "B04,red@0.655"})
    assert [band.wavelength_um for band in dofa.wants().bands or ()] == [0.665, 0.655]
    scale = find("ScaleMAELarge16_Weights.FMOW_RGB", {"res": "10", "stretch": "tci"})
    assert scale.inputs.res_m == 10
    assert scale.wants().values == "reflectance-10000"
    assert any("3558" in step for step in scale.wants().steps)
