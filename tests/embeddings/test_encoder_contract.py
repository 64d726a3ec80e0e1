"""What every encoder must do, whatever its family: one small instance of each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from embeddings.encoders import EncoderChoice, draft, families, load
from embeddings.encoders.base import Values
from embeddings.errors import InputError, StoreFormatError
from tests.embeddings.model_files import (
    describe,
    export,
    hf_folder,
    need,
    small_network,
    torchgeo_file,
)

RESNET = "ResNet18_Weights.SENTINEL2_RGB_MOCO"


@dataclass(frozen=True)
class Case:
    """How an encoder is named, and chips as the pipeline would hand them over."""

    choice: EncoderChoice
    chips: np.ndarray


def _rcf(_: Path) -> EncoderChoice:
    return EncoderChoice("rcf")


def _torchgeo(folder: Path) -> EncoderChoice:
    need("torch", "torchvision", "torchgeo")
    path = torchgeo_file(folder / "resnet18.pth", RESNET)
    return EncoderChoice(f"torchgeo:{RESNET}", weights=path)


def _hf(kind: str, options: str = "") -> Callable[[Path], EncoderChoice]:
    def make(folder: Path) -> EncoderChoice:
        need("torch", "torchvision", "transformers")
        return EncoderChoice(f"hf:{hf_folder(folder / kind, kind)}{options}")

    return make


def _exported(kind: str) -> Callable[[Path], EncoderChoice]:
    def make(folder: Path) -> EncoderChoice:
        need("torch", "onnx", "onnxruntime")
        path = describe(export(small_network(), folder / f"model.{kind}"))
        return EncoderChoice(f"exported:{path}")

    return make


MAKERS = {
    "rcf": _rcf,
    "torchgeo": _torchgeo,
    "hf-dinov2": _hf("dinov2", "?pool=mean"),
    "hf-siglip": _hf("siglip", "?stretch=byte"),
    "hf-clip": _hf("clip"),
    "exported-onnx": _exported("onnx"),
    "exported-pt2": _exported("pt2"),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    choice = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    rng = np.random.default_rng(0)
    level = rng.uniform(300, 3000, (64, 3, 4, 4)).repeat(6, axis=2).repeat(6, axis=3)
    chips = level + rng.normal(0, 100, level.shape)
    if "byte" in choice.name:
        chips = chips / 12
    chips = chips if request.param == "rcf" else chips[:16]
    return Case(choice, (chips / 1000 - 1.5 if request.param == "rcf" else chips).astype("f4"))


@pytest.fixture(scope="module")
def encoder(case: Case) -> Any:
    return draft(case.choice).fit(case.chips, seed=0)


def test_vectors_have_the_promised_shape_and_are_numbers(encoder: Any, case: Case) -> None:
    vectors = encoder.encode(case.chips)
    assert vectors.shape == (len(case.chips), encoder.dim)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).max() > 0


def test_a_chip_has_one_vector_in_whatever_batch(encoder: Any, case: Case) -> None:
    chips = case.chips[:5]
    together = encoder.encode(chips)
    alone = np.concatenate([encoder.encode(chip[None]) for chip in chips])
    assert np.abs(together - alone).max() <= 1e-5 * max(1.0, np.abs(together).max())


def test_the_same_input_gives_the_same_output(encoder: Any, case: Case) -> None:
    before = case.chips.copy()
    first = encoder.encode(case.chips)
    assert np.array_equal(encoder.encode(case.chips), first)
    assert np.array_equal(case.chips, before)
    again = draft(case.choice).fit(case.chips, seed=0)
    assert (again.name, again.version, again.dim) == (encoder.name, encoder.version, encoder.dim)
    assert again.sha256 == encoder.sha256
    assert np.array_equal(again.encode(case.chips), first)


def test_it_is_restored_from_what_it_saved(encoder: Any, case: Case, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"encoder.json", "encoder.safetensors"}
    assert encoder.name.startswith("rcf") or names == {"encoder.json"}
    restored = load(tmp_path)
    assert (restored.name, restored.sha256) == (encoder.name, encoder.sha256)
    assert restored.wants == encoder.wants
    assert np.array_equal(restored.encode(case.chips), encoder.encode(case.chips))


def test_a_damaged_description_is_told_of(encoder: Any, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    path = tmp_path / "encoder.json"
    path.write_text(f'{{"name": "{encoder.name}"}}', encoding="utf-8")
    with pytest.raises(StoreFormatError):
        load(tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StoreFormatError):
        load(tmp_path)


def test_its_wants_and_its_draft_agree(encoder: Any, case: Case) -> None:
    wants = encoder.wants
    assert draft(case.choice).wants == wants
    assert wants.values in get_args(Values)
    assert wants.chip_px is None or wants.chip_px > 0
    assert wants.gsd_m is None or wants.gsd_m > 0
    if not encoder.name.startswith("rcf"):
        assert wants.steps
        assert len(wants.bands) == 3
        for band in wants.bands:
            assert band.wavelength_um is None or 0.3 < band.wavelength_um < 15
    assert len(encoder.sha256) == 64
    assert encoder.version
    assert encoder.name == case.choice.name


def test_no_chips_give_no_vectors(encoder: Any, case: Case) -> None:
    vectors = encoder.encode(case.chips[:0])
    assert vectors.shape == (0, encoder.dim)
    assert vectors.dtype == np.float32


def test_another_number_of_bands_is_refused(encoder: Any, case: Case) -> None:
    with pytest.raises(InputError, match="bands"):
        encoder.encode(case.chips[:, :2])


def test_every_family_offers_what_the_registry_asks_for() -> None:
    prefixes = [family.PREFIX for family in families()]
    assert len(set(prefixes)) == len(prefixes)
    for family in families():
        assert family.TITLE
        for info in family.listing():
            assert info.name.partition(":")[0] == family.PREFIX
            assert info.title


def test_no_heavy_library_is_imported_before_an_encoder_is_asked_for() -> None:
    code = (
        "import sys, embeddings.encoders as e; [f.PREFIX for f in e.families()];"
        "heavy = {'torch', 'torchvision', 'torchgeo', 'timm', 'transformers', 'onnxruntime'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
