"""The encoder against a plain reading of the paper, and what it promises to the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from embeddings import encoders
from embeddings.encoders.rcf import DIM, KERNEL, RcfEncoder
from embeddings.errors import InputError, NoDataError, StoreFormatError

BANDS, SIDE = 3, 7


def chips(count: int = 400, seed: int = 0) -> np.ndarray:
    """Chips of three bands whose levels and textures differ."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 1, (count, BANDS, 1, 1))
    rough = rng.uniform(0.05, 1, (count, 1, 1, 1))
    return (level + rough * rng.normal(0, 1, (count, BANDS, SIDE, SIDE))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder() -> RcfEncoder:
    return RcfEncoder.fit(chips())


def naive(pixels: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The same vectors, pixel by pixel in float64, from what the store keeps."""
    filters = tensors["filters"].astype(np.float64)
    vectors = []
    for chip in pixels.astype(np.float64):
        positive, negative = np.zeros(len(filters)), np.zeros(len(filters))
        places = [
            (row, col)
            for row in range(chip.shape[1] - KERNEL + 1)
            for col in range(chip.shape[2] - KERNEL + 1)
        ]
        for row, col in places:
            patch = chip[:, row : row + KERNEL, col : col + KERNEL].ravel()
            response = np.array([(one * patch).sum() for one in filters])
            positive += np.maximum(response, 0)
            negative += np.maximum(-response, 0)
        features = np.concatenate([positive, negative]) / len(places)
        joined = np.concatenate([features, chip.mean(axis=(1, 2))]) * tensors["block_scale"]
        vectors.append((joined - tensors["centre"]) @ tensors["projection"].astype(np.float64))
    return np.array(vectors)


def test_vectors_are_those_of_a_plain_implementation(encoder: RcfEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    tensors = load_file(tmp_path / "encoder.safetensors")
    pixels = chips(5, seed=1)
    found, expected = encoder.encode(pixels), naive(pixels, tensors)
    assert found.dtype == np.float32
    assert found.shape == (5, encoder.dim)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_filters_are_whitened_patches_without_their_mean(
    encoder: RcfEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    filters = load_file(tmp_path / "encoder.safetensors")["filters"]
    assert filters.shape[1] == BANDS * KERNEL * KERNEL
    assert len(np.unique(filters, axis=0)) > 0.9 * len(filters)
    # A patch without its mean has no part along the constant direction, and whitening adds none.
    constant = np.ones(filters.shape[1]) / np.sqrt(filters.shape[1])
    assert np.abs(filters @ constant).max() < 1e-2 * np.linalg.norm(filters, axis=1).min()


def test_a_seed_gives_the_same_encoder_and_another_seed_another() -> None:
    one, same, other = (RcfEncoder.fit(chips(), seed=seed) for seed in (3, 3, 4))
    assert one.sha256 == same.sha256 != other.sha256
    pixels = chips(4, seed=2)
    assert one.encode(pixels).tobytes() == same.encode(pixels).tobytes()


@pytest.mark.parametrize("cpus", [1, 3, 16])
def test_threads_change_no_bit(
    encoder: RcfEncoder, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    pixels = chips(37, seed=5)
    before = encoder.encode(pixels).tobytes()
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    assert encoder.encode(pixels).tobytes() == before
    assert RcfEncoder.fit(chips()).sha256 == encoder.sha256


def test_a_chip_has_its_vector_whatever_its_neighbours(encoder: RcfEncoder) -> None:
    pixels = chips(20, seed=6)
    whole = encoder.encode(pixels)
    alone = np.concatenate([encoder.encode(pixels[i : i + 1]) for i in range(20)])
    assert np.abs(whole - alone).max() < 1e-5 * np.abs(whole).max()
    assert encoder.encode(pixels[:0]).shape == (0, encoder.dim)


def test_it_comes_back_from_disk_as_it_was(encoder: RcfEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    loaded = encoders.load(tmp_path)
    assert (loaded.name, loaded.dim, loaded.bands) == ("rcf", encoder.dim, BANDS)
    assert loaded.sha256 == encoder.sha256
    pixels = chips(5, seed=1)
    assert loaded.encode(pixels).tobytes() == encoder.encode(pixels).tobytes()
    first = (tmp_path / "encoder.safetensors").read_bytes()
    loaded.save(tmp_path)
    assert (tmp_path / "encoder.safetensors").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.safetensors", "encoder.json"}


def _drop_weights(folder: Path) -> None:
    (folder / "encoder.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    file = folder / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _flip_a_bit(folder: Path) -> None:
    file = folder / "encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def _no_json(folder: Path) -> None:
    (folder / "encoder.json").write_text("{")


def _other_encoder(folder: Path) -> None:
    (folder / "encoder.json").write_text(json.dumps({"name": "magic"}))


def _future(folder: Path) -> None:
    description = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**description, "version": "99"}))


@pytest.mark.parametrize(
    "damage", [_drop_weights, _cut_weights, _flip_a_bit, _no_json, _other_encoder, _future]
)
def test_a_damaged_encoder_is_an_error_in_words(
    encoder: RcfEncoder, tmp_path: Path, damage: Any
) -> None:
    encoder.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(StoreFormatError):
        encoders.load(tmp_path)


@pytest.mark.parametrize(
    ("sample", "kind", "message"),
    [
        (chips(15), NoDataError, "Only 15 chips .*16 at least"),
        (np.zeros((40, 2, 8, 8), np.float32), NoDataError, "look alike"),
        (np.full((40, 2, 8, 8), 0.1, np.float32), NoDataError, "look alike"),
        (chips()[:, :, :2], InputError, "smaller than the encoder's kernel"),
        (chips()[:, :, :, :1], InputError, "smaller than the encoder's kernel"),
    ],
)
def test_samples_that_cannot_be_fitted(sample: np.ndarray, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        RcfEncoder.fit(sample)


def test_the_fewest_chips_that_will_do() -> None:
    encoder = RcfEncoder.fit(chips(16))
    vectors = encoder.encode(chips(16))
    assert 1 <= encoder.dim <= 15
    assert np.isfinite(vectors).all()


def test_vectors_of_a_scene_do_not_bunch() -> None:
    sample = chips(1000)
    encoder = RcfEncoder.fit(sample)
    assert encoder.dim <= DIM
    vectors = encoder.encode(chips(500, seed=9))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(500, 1)]
    assert abs(np.median(cosines)) < 0.3


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises(InputError, match="no encoder 'magic'"):
        encoders.check_encoder("magic")
    with pytest.raises(InputError, match="no encoder"):
        encoders.fit("magic", chips())
