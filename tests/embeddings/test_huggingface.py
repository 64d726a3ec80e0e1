"""DINO, SigLIP and CLIP with tiny random models, through the real loading code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.encoders import huggingface as family
from embeddings.encoders.base import EncoderChoice
from embeddings.encoders.preprocess import STRETCHES
from embeddings.errors import InputError, SourceError, SourceNotFoundError
from tests.embeddings.model_files import hf_folder, need

KINDS = ["dinov2", "dinov2_with_registers", "dinov3_vit", "siglip", "siglip2", "clip"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    need("torch", "torchvision", "transformers")
    made: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in made:
            made[kind] = hf_folder(tmp_path_factory.mktemp("hf") / kind, kind)
        return made[kind]

    return find


def _draft(arg: str, **more: Any) -> Any:
    return family.draft(EncoderChoice(f"hf:{arg}", **more))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stretch", ["majortom", "byte"])
def test_the_vector_is_the_librarys_own(
    folder_of: Callable[[str], Path], kind: str, stretch: str
) -> None:
    import torch
    import transformers

    folder = folder_of(kind)
    encoder = _draft(f"{folder}?stretch={stretch}")
    rng = np.random.default_rng(0)
    high = 255 if stretch == "byte" else 6000
    chips = rng.uniform(0, high, (3, 3, 40, 40)).astype("f4")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    levels = chips if stretch == "byte" else 255 * np.clip(2.5 * chips / 1e4, 0, 1)
    pictures = [chip.transpose(1, 2, 0) for chip in levels.round().astype("u1")]
    inputs = processor(pictures, return_tensors="pt")
    with torch.inference_mode():
        if "clip" in kind or "siglip" in kind:
            out = model.get_image_features(**inputs)
            expected = getattr(out, "pooler_output", out)
        else:
            expected = model(**inputs).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.encode(chips), expected.numpy(), rtol=1e-4, atol=2e-5)


def test_the_mean_is_that_of_the_patches_only(folder_of: Callable[[str], Path]) -> None:
    import torch
    import transformers

    folder = folder_of("dinov3_vit")
    chips = np.random.default_rng(0).uniform(0, 255, (2, 3, 56, 56)).astype("u1")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = processor(list(chips), return_tensors="pt", input_data_format="channels_first")
    with torch.inference_mode():
        tokens = model(**inputs).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + (56 // 14) ** 2
    encoder = _draft(f"{folder}?stretch=byte&pool=mean")
    expected = tokens[:, 5:].mean(dim=1).numpy()
    np.testing.assert_allclose(encoder.encode(chips.astype("f4")), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.parametrize("kind", ["dinov2", "siglip", "clip", "dinov3_vit"])
def test_preprocessing_is_the_librarys_on_a_real_picture(
    folder_of: Callable[[str], Path], shared: Path, kind: str
) -> None:
    import torch
    import transformers
    from PIL import Image

    folder = folder_of(kind)
    picture = Image.open(shared / "eurosat-rgb" / "River" / _first(shared, "River"))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    tower = family._Tower(None, processor, kind, "cls")
    levels = np.asarray(picture).transpose(2, 0, 1)[None]
    chip = torch.from_numpy(levels.astype("f4"))
    ours = tower.prepare(STRETCHES["byte"], chip)["pixel_values"]
    assert torch.equal(ours, theirs)
    values = chip / 255 * 1e4 / 2.5
    assert torch.equal(tower.prepare(STRETCHES["majortom"], values)["pixel_values"], theirs)


def _first(shared: Path, name: str) -> str:
    return min(path.name for path in (shared / "eurosat-rgb" / name).iterdir())


def test_what_it_wants_is_said(folder_of: Callable[[str], Path]) -> None:
    wants = _draft(f"{folder_of('dinov2')}").wants
    assert [band.name for band in wants.bands] == ["B04", "B03", "B02"]
    assert (wants.values, wants.chip_px, wants.standardised) == ("reflectance-10000", 56, False)
    assert "Major TOM" in wants.steps[0]
    assert any("bicubic" in step for step in wants.steps)
    byte = _draft(f"{folder_of('siglip')}?stretch=byte").wants
    assert [band.common_name for band in byte.bands] == ["red", "green", "blue"]
    assert byte.values == "byte"


def test_the_text_tower_is_there_for_later(folder_of: Callable[[str], Path]) -> None:
    import torch

    encoder = _draft(str(folder_of("siglip")))
    out = encoder.module.get_text_features(input_ids=torch.tensor([[3, 4, 5]]))
    assert getattr(out, "pooler_output", out).shape[1] == encoder.dim


def test_the_folder_is_hashed_whole(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(folder_of("dinov2"), folder)
    first = _draft(str(folder))
    first.save(tmp_path)
    said = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    assert family.load(tmp_path, said, None).sha256 == first.sha256
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    settings["image_mean"] = [0.0, 0.0, 0.0]
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(InputError, match="other weights"):
        family.load(tmp_path, said, None)


@pytest.mark.parametrize(
    "missing", ["config.json", "preprocessor_config.json", "model.safetensors"]
)
def test_a_folder_without_a_file_says_which(
    folder_of: Callable[[str], Path], tmp_path: Path, missing: str
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(folder_of("dinov2"), folder)
    (folder / missing).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(SourceError, match=f"has no {missing}"):
        _draft(str(folder))


def test_damaged_models_are_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(folder_of("dinov2"), folder)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "attention" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 missing \(.*attention"):
        _draft(str(folder))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(SourceError, match="cannot be loaded"):
        _draft(str(folder))


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    need("torch", "torchvision", "transformers")
    for name in ("preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"of type 'bert'; hf takes dinov2.*exported:PATH"):
        _draft(str(tmp_path))


@pytest.mark.parametrize(
    ("arg", "error", "words"),
    [
        ("facebook/dinov2-base", InputError, "commits/main"),
        ("facebook/dinov2-base@main", InputError, "is not pinned"),
        ("./nowhere", SourceNotFoundError, "There is no folder"),
        (f"facebook/dinov2-base@{COMMIT}", SourceNotFoundError, "--weights FOLDER"),
        ("facebook/dinov2-base?pool=max", InputError, "allowed are cls, mean"),
    ],
)
def test_models_of_the_hub_are_pinned_or_refused(
    arg: str, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("torch", "torchvision", "transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error) as told:
        _draft(arg)
    assert words in str(told.value)


def test_a_pinned_model_in_the_cache_needs_no_network(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    import huggingface_hub

    source = folder_of("dinov2")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--facebook--dinov2-tiny" / "snapshots" / COMMIT
    shutil.copytree(source, snapshot)
    encoder = _draft(f"facebook/dinov2-tiny@{COMMIT}")
    assert encoder.sha256 == _draft(str(source)).sha256
    encoder.save(tmp_path)
    said = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    assert said["weights"] == {"path": None, "origin": f"facebook/dinov2-tiny@{COMMIT}"}
    assert family.load(tmp_path, said, None).sha256 == encoder.sha256
    assert family.load(tmp_path, said, source).sha256 == encoder.sha256


def test_a_pair_has_no_pool(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="pool is for DINO"):
        _draft(f"{folder_of('clip')}?pool=mean")
