"""Every class of torchgeo's image encoders, with random weights and the library's own code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from embeddings.encoders import torchgeo_models as family
from embeddings.encoders.base import EncoderChoice
from embeddings.encoders.torch_runtime import need_torchvision
from embeddings.encoders.weights import file_sha256
from embeddings.errors import BandError, InputError, SourceError
from tests.embeddings.model_files import need, torchgeo_file

SMALL = "ResNet18_Weights.SENTINEL2_ALL_MOCO"
CLASSES = [
    SMALL,
    "ViTSmall16_Weights.LANDSAT_ETM_SR_MOCO",
    "ViTSmall14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON",
    "Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS",
    "EarthLoc_Weights.SENTINEL2_RESNET50",
    "CROMABase_Weights.CROMA_VIT",
    "DOFABase16_Weights.DOFA_MAE",
    "CopernicusFM_Base_Weights.CopernicusFM_ViT",
    "Panopticon_Weights.VIT_BASE14",
    "ScaleMAELarge16_Weights.FMOW_RGB",
    "TileNet_Weights.NAIP_ALL_TILE2VEC",
]
"""The smallest of each class: larger ones differ in width and depth only."""


@pytest.fixture(autouse=True)
def _installed() -> None:
    need("torch", "torchvision", "torchgeo")
    need_torchvision("torchgeo")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("torch", "torchvision", "torchgeo")
    return torchgeo_file(tmp_path_factory.mktemp("weights") / "resnet18.pth", SMALL)


def _draft(name: str, path: Path | None, **more: Any) -> Any:
    return family.draft(EncoderChoice(f"torchgeo:{name}", weights=path, **more))


def _has(model: str) -> bool:
    import torchgeo.models

    return model in torchgeo.models.list_models()


def _thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave two of the 24 layers of the one Scale-MAE there is, to be quick."""
    from torchgeo.models import scale_mae

    class Thin(scale_mae.ScaleMAE):  # type: ignore[misc]  # no types without torchgeo
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named | {"depth": 2})

    monkeypatch.setattr(scale_mae, "ScaleMAE", Thin)


def _chips(encoder: Any, count: int = 2, side: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    high = {"byte": 255, "decibel": 20, "reflectance": 0.4}.get(encoder.wants.values, 3000)
    chips = rng.uniform(0, high, (count, len(encoder.wants.bands), side, side))
    chips[1::2] *= np.linspace(0, 1, side)  # darker on one side, so that chips differ
    return (chips / 1500 - 1 if encoder.wants.standardised else chips).astype("f4")


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_model_gives_one_vector_a_chip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("TileNet") and not _has("tilenet"):
        pytest.skip("torchgeo has TileNet from 0.9 on")
    if name.startswith("ScaleMAE"):
        _thin(monkeypatch)
    path = torchgeo_file(tmp_path / "weights.pth", name)
    encoder = _draft(name, path)
    path.unlink()
    chips = _chips(encoder)
    before = chips.copy()
    vectors = encoder.encode(chips)
    assert vectors.shape == (2, encoder.dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    spread = np.abs(vectors).max()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-6 * spread
    assert np.abs(encoder.encode(chips[:1]) - vectors[:1]).max() <= 1e-5 * spread
    assert np.array_equal(chips, before)


@pytest.mark.parametrize("name", CLASSES[:4])
def test_the_vector_is_the_librarys_own_pooled_feature(name: str, tmp_path: Path) -> None:
    import torch
    import torchgeo.models

    path = torchgeo_file(tmp_path / "weights.pth", name)
    encoder = _draft(name, path)
    member = torchgeo.models.get_weight(name)

    class Local:
        meta: ClassVar[dict[str, Any]] = member.meta

        def get_state_dict(self, *_: Any, **__: Any) -> Any:
            return torch.load(path, weights_only=True)

    model = torchgeo.models.get_model(member.meta["model"], weights=Local()).eval()
    chips = _chips(encoder, side=256)
    given = torch.from_numpy(chips.copy())
    if "LANDSAT" in name:
        given = (given / 0.3 * 255).clamp(0, 255)
    if "SATLAS" in name:
        given[:, :3] = (given[:, :3] * (255 / 3558)).clamp(0, 255)
    with torch.inference_mode():
        ready = member.transforms(given)
        if name.startswith("Swin"):
            maps = model.norm(model.features(ready))
            expected = maps.mean(dim=(1, 2))
        else:
            expected = model.forward_head(model.forward_features(ready), pre_logits=True)
    np.testing.assert_allclose(encoder.encode(chips), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_every_model_of_the_registry_is_used_or_has_a_reason() -> None:
    from embeddings.encoders.torchgeo_adapters import ADAPTERS, COMPUTED_BANDS, NO_ENCODERS
    from embeddings.encoders.torchgeo_catalogue import _members

    listed = {info.name.partition(":")[2]: info for info in family.listing()}
    assert len(listed) > 90
    for model, member in _members():
        computed = COMPUTED_BANDS & set(member.meta.get("bands") or ())
        assert (str(member) in listed) != (model in NO_ENCODERS or bool(computed)), str(member)
        if str(member) in listed and "in_chans" in member.meta:
            assert listed[str(member)].bands == member.meta["in_chans"]
            assert listed[str(member)].dim == ADAPTERS[model].dim


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("ResNet18_Weights.SENTINEL2_ALL_MOCOO", "Did you mean ResNet18"),
        ("Unet_Weights.SENTINEL2_2CLASS_FTW", "segmentation models"),
        ("ResNet50_Weights.SENTINEL2_ALL_NDVI_SECO_ECO", "computed (NDVI)"),
        (f"{SMALL}?size=3", "Options: bands=..., res=..., stretch="),
        (f"{SMALL}?stretch=tci", "has no option stretch"),
        ("ScaleMAELarge16_Weights.FMOW_RGB?res=-1", "no size of a pixel"),
        ("ScaleMAELarge16_Weights.FMOW_RGB?stretch=no", "allowed are majortom"),
        ("DOFABase16_Weights.DOFA_MAE?bands=red", "NAME@MICROMETRES"),
    ],
)
def test_names_that_cannot_be_used_say_why(arg: str, words: str) -> None:
    with pytest.raises(InputError) as told:
        _draft(arg, None)
    assert words in str(told.value)


def test_weights_of_another_model_are_refused_by_name(weights: Path) -> None:
    with pytest.raises(InputError, match=r"missing \(.*unexpected \(.*bn1"):
        _draft("ViTSmall16_Weights.SENTINEL2_ALL_MOCO", weights)
    with pytest.raises(InputError, match=r"size mismatch|shape"):
        _draft("ResNet18_Weights.SENTINEL2_RGB_MOCO", weights)


def test_a_model_that_loads_loosely_must_still_find_its_tensors(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import torchgeo.models

    class Loose(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.Linear(2, 2)

    monkeypatch.setattr(torchgeo.models, "get_model", lambda *_, **__: Loose())
    with pytest.raises(InputError, match=r"2 missing \(blocks\.bias, blocks\.weight\)"):
        _draft("ScaleMAELarge16_Weights.FMOW_RGB", weights)


def test_damaged_and_dangerous_files_are_refused(tmp_path: Path, weights: Path) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(SourceError, match=r"truncated or damaged|no file of PyTorch"):
        _draft(SMALL, cut)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(SourceError, match="no safetensors file"):
        _draft(SMALL, torn)

    import torch

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    evil = tmp_path / "evil.pth"
    torch.save({"conv1.weight": Evil()}, evil, pickle_module=pickle)
    with pytest.raises(SourceError, match="could run code"):
        _draft(SMALL, evil)
    assert not marker.exists()
    with pytest.raises(InputError, match="no file"):
        _draft(SMALL, tmp_path / "absent.pth")


def test_the_hash_is_recorded_and_checked(weights: Path, tmp_path: Path) -> None:
    sha256 = file_sha256(weights)
    encoder = _draft(SMALL, weights, weights_sha256=sha256.upper())
    assert encoder.sha256 == sha256
    with pytest.raises(InputError, match="other weights"):
        _draft(SMALL, weights, weights_sha256="0" * 64)
    encoder.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]
    said = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    assert said["sha256"] == sha256
    moved = tmp_path / "moved.pth"
    moved.write_bytes(weights.read_bytes())
    assert family.load(tmp_path, said, moved).sha256 == sha256
    other = torchgeo_file(tmp_path / "other.pth", "ResNet18_Weights.SENTINEL2_RGB_MOCO")
    with pytest.raises(InputError, match="other weights"):
        family.load(tmp_path, said, other)


def test_weights_in_torchs_cache_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    name = "ViTSmall14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON"
    (tmp_path / "checkpoints").mkdir()
    path = torchgeo_file(tmp_path / "checkpoints" / "B2_vits14_softcon_enc.pth", name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    encoder = _draft(name, None)
    assert encoder.sha256 == file_sha256(path)
    encoder.save(tmp_path)
    said = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    assert said["weights"]["path"] is None
    assert said["weights"]["origin"].startswith("https://")
    assert family.load(tmp_path, said, None).sha256 == encoder.sha256


def test_safetensors_hold_the_same_model(weights: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(torch.load(weights, weights_only=True), path)
    chips = _chips(first := _draft(SMALL, weights))
    assert np.array_equal(_draft(SMALL, path).encode(chips), first.encode(chips))


def test_wrong_bands_are_told_by_name(weights: Path) -> None:
    with pytest.raises(BandError, match=r"13 bands \(B01, B02.*shape \(1, 3, 8, 8\)"):
        _draft(SMALL, weights).encode(np.zeros((1, 3, 8, 8), dtype="f4"))
