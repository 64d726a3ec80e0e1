"""Random convolutional features against a plain reading of the paper, and what they promise."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from embeddings import encoders
from embeddings.encoders import EncoderChoice
from embeddings.encoders.rcf import RcfEncoder, draft, listing
from embeddings.encoders.rcf_features import Workspace, pooled, split
from embeddings.encoders.rcf_filters import turned, whitened
from embeddings.encoders.rcf_options import DEFAULT, parse
from embeddings.errors import InputError, NoDataError, StoreFormatError

SMALL = "features=64,dim=24"


def chips(count: int = 200, bands: int = 3, side: int = 7, seed: int = 0) -> np.ndarray:
    """Chips whose bands differ in level and texture."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 1, (count, bands, 1, 1))
    rough = rng.uniform(0.05, 1, (count, 1, 1, 1))
    return (level + rough * rng.normal(0, 1, (count, bands, side, side))).astype(np.float32)


def fitted(options: str = SMALL, **shape: int) -> RcfEncoder:
    return RcfEncoder.fit(chips(**shape), options=parse(options))


@pytest.fixture(scope="module")
def encoder() -> RcfEncoder:
    return fitted()


def paper_responses(chip: np.ndarray, filters: np.ndarray, kernel: int) -> np.ndarray:
    """The valid convolution, place by place in float64: ``(places, filters)``."""
    places = product(
        range(chip.shape[1] - kernel + 1),
        range(chip.shape[2] - kernel + 1),
    )
    patches = [chip[:, r : r + kernel, c : c + kernel].ravel() for r, c in places]
    return np.array(patches, dtype=np.float64) @ filters.T.astype(np.float64)


@pytest.mark.parametrize("bias", [0.0, 0.7, -1.0])
@pytest.mark.parametrize(
    ("bands", "height", "width", "kernel", "filters"),
    [
        (3, 9, 9, 3, 20),
        (1, 8, 8, 2, 7),
        (13, 17, 5, 5, 300),
        (2, 5, 61, 4, 130),
        (3, 3, 3, 3, 1),
        (3, 40, 1200, 3, 5),
        (1, 33, 31, 7, 129),
    ],
)
def test_features_are_the_papers_formula(
    bands: int, height: int, width: int, kernel: int, filters: int, bias: float
) -> None:
    rng = np.random.default_rng(bands + kernel)
    chip = rng.normal(0.3, 1, (bands, height, width)).astype(np.float32)
    weights = rng.normal(size=(filters, bands * kernel**2)).astype(np.float32)
    conv = paper_responses(chip, weights, kernel)
    halves = [np.maximum(conv - bias, 0), np.maximum(-conv - bias, 0)]
    expected = np.array([h.mean(axis=0) for h in halves] + [h.var(axis=0) for h in halves])
    parts, workspace = split(weights), Workspace()
    found = pooled(chip, parts, kernel, bias=bias, deviations=True, workspace=workspace)
    tolerance = 1e-5 * np.abs(conv).max() ** 2
    assert np.abs(found - expected).max() < tolerance
    means = pooled(chip, parts, kernel, bias=bias, deviations=False, workspace=workspace)
    assert np.abs(means - expected[:2]).max() < 1e-6 * np.abs(conv).max() * 10


@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("level", [1.7, -0.33])
def test_smooth_chips_have_no_texture(level: float, bias: float) -> None:
    weights = np.random.default_rng(0).normal(size=(500, 27)).astype(np.float32)
    flat = np.full((3, 30, 50), level, np.float32)
    with threadpool_limits(1):  # as the encoder sets it: threads would sum in several orders
        found = pooled(flat, split(weights), 3, bias=bias, deviations=True, workspace=Workspace())
    assert (found[2:] == 0).all()
    assert found[:2].max() > 1


def test_slight_texture_is_not_lost() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(200, 27)).astype(np.float32)
    chip = (1.0 + 0.02 * rng.normal(size=(3, 30, 30))).astype(np.float32)
    conv = paper_responses(chip, weights, 3)
    expected = np.maximum(conv, 0).var(axis=0)
    found = pooled(chip, split(weights), 3, bias=0, deviations=True, workspace=Workspace())
    positive = conv.min(axis=0) > 0
    assert positive.any()
    assert np.abs(found[2][positive] / expected[positive] - 1).max() < 0.2


def test_filters_are_the_papers_whitened_patches() -> None:
    patches = np.random.default_rng(0).normal(size=(500, 12)) + 3
    plain = np.array([p - p.mean() for p in patches])
    plain = np.array([p / np.linalg.norm(p) for p in plain])
    values, vectors = np.linalg.eigh(sum(np.outer(p, p) for p in plain) / len(plain))
    zca = vectors @ np.diag(1 / np.sqrt(values + 1e-3)) @ vectors.T
    assert np.allclose(whitened(patches), plain @ zca @ zca.T)
    assert (whitened(np.full((20, 12), 4.0)) == 0).all()


def test_turns_are_the_symmetries_of_the_square() -> None:
    filters = np.arange(18, dtype=np.float32).reshape(1, 18)
    images = {one.tobytes() for one in turned(filters, 3, 8)}
    square = filters.reshape(2, 3, 3)
    expected = {
        np.ascontiguousarray(np.rot90(image, n, (1, 2))).tobytes()
        for image in (square, square.transpose(0, 2, 1))
        for n in range(4)
    }
    assert images == expected
    assert len(images) == 8


def test_a_turned_chip_has_the_same_vector() -> None:
    encoder = fitted("features=64,dim=24,scales=1+2", side=33)
    chip = chips(1, side=32, seed=4)
    vector = encoder.encode(chip)
    for other in (np.rot90(chip, 1, (2, 3)), chip[..., ::-1], chip.transpose(0, 1, 3, 2)):
        turned_vector = encoder.encode(np.ascontiguousarray(other))
        assert np.abs(turned_vector - vector).max() < 1e-3 * np.abs(vector).max()


def test_mosaiks_is_the_paper_unprojected() -> None:
    encoder = fitted("mosaiks,features=40,kernel=3+4,bias=0.5")
    pixels = chips(3, seed=1)
    found = encoder.encode(pixels)
    assert found.shape == (3, 80)
    for chip, vector in zip(pixels, found, strict=True):
        expected = []
        for level, kernel in enumerate((3, 4)):
            conv = paper_responses(chip, encoder.filters(level), kernel)
            expected += [np.maximum(conv - 0.5, 0).mean(axis=0)]
            expected += [np.maximum(-conv - 0.5, 0).mean(axis=0)]
        assert np.abs(np.concatenate(expected) - vector).max() < 1e-5 * np.abs(vector).max()


@pytest.mark.parametrize("transform", ["none", "sqrt", "log"])
@pytest.mark.parametrize("turns", [1, 4, 8])
def test_vectors_are_those_of_a_plain_implementation(
    tmp_path: Path, turns: int, transform: str
) -> None:
    encoder = fitted(f"features=32,scales=1+2,turns={turns},transform={transform}", side=32)
    encoder.save(tmp_path)
    tensors = load_file(tmp_path / "encoder.safetensors")
    pixels = chips(4, side=35, seed=1)
    vectors = []
    for chip in pixels.astype(np.float64):
        blocks = []
        halved = chip[:, :34, :34].reshape(3, 17, 2, 17, 2).mean(axis=(2, 4))
        for level, image in enumerate((chip, halved)):
            conv = paper_responses(image, encoder.filters(level), 3)
            conv = conv.reshape(len(conv), turns, -1)
            halves = [np.maximum(conv, 0), np.maximum(-conv, 0)]
            features = [h.mean(axis=(0, 1)) for h in halves] + [h.std(axis=(0, 1)) for h in halves]
            change = {"none": lambda f: f, "sqrt": np.sqrt, "log": lambda f: np.log(f + 0.1)}
            blocks += [change[transform](feature) for feature in features]
        blocks += [chip.mean(axis=(1, 2)), np.log(chip.std(axis=(1, 2)) + 0.01)]
        scaled = np.concatenate(blocks) * tensors["block_scale"] - tensors["centre"]
        vectors.append(scaled @ tensors["projection"].astype(np.float64))
    found = encoder.encode(pixels)
    assert np.abs(found - np.array(vectors)).max() < 1e-3 * np.abs(vectors).max()


def test_a_seed_gives_the_same_encoder_and_another_seed_another() -> None:
    one, same, other = (
        RcfEncoder.fit(chips(), seed=seed, options=parse(SMALL)) for seed in (3, 3, 4)
    )
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
    assert fitted().sha256 == encoder.sha256


@pytest.mark.parametrize("options", [SMALL, "mosaiks,features=600,bias=0.2"])
def test_neighbours_change_no_bit(options: str) -> None:
    encoder = fitted(options, side=19)
    pixels = chips(11, side=19, seed=6)
    alone = np.concatenate([encoder.encode(pixels[i : i + 1]) for i in range(11)])
    assert encoder.encode(pixels).tobytes() == alone.tobytes()
    assert encoder.encode(pixels[::-1])[::-1].tobytes() == alone.tobytes()
    assert encoder.encode(pixels[:0]).shape == (0, encoder.dim)


def test_it_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    choice = EncoderChoice(f"rcf:{SMALL},kernel=3+5,bias=0.5")
    encoder = draft(choice).fit(chips(), seed=1)
    encoder.save(tmp_path)
    loaded: Any = encoders.load(tmp_path)
    assert (loaded.name, loaded.dim, loaded.bands) == (choice.name, encoder.dim, 3)
    assert (loaded.sha256, loaded.options) == (encoder.sha256, encoder.options)
    pixels = chips(5, seed=1)
    assert loaded.encode(pixels).tobytes() == encoder.encode(pixels).tobytes()
    first = (tmp_path / "encoder.safetensors").read_bytes()
    loaded.save(tmp_path)
    assert (tmp_path / "encoder.safetensors").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.safetensors", "encoder.json"}


def test_files_of_version_1_give_the_vectors_they_gave(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "filters": rng.normal(size=(20, 27)),
        "block_scale": rng.uniform(0.5, 2, 43),
        "centre": rng.normal(size=43),
        "projection": rng.normal(size=(43, 6)),
    }
    tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
    digest = hashlib.sha256()
    for name, values in tensors.items():
        digest.update(f"{name}{values.shape}".encode() + values.tobytes())
    save_file(tensors, tmp_path / "encoder.safetensors")
    description = {"name": "rcf", "version": "1", "bands": 3, "kernel": 3}
    description["sha256"] = digest.hexdigest()
    (tmp_path / "encoder.json").write_text(json.dumps(description))
    pixels = chips(4)
    expected = []
    for chip in pixels:
        conv = paper_responses(chip, tensors["filters"], 3)
        halves = [np.maximum(conv, 0).mean(axis=0), np.maximum(-conv, 0).mean(axis=0)]
        joined = np.concatenate([*halves, chip.mean(axis=(1, 2))]) * tensors["block_scale"]
        expected.append((joined - tensors["centre"]) @ tensors["projection"])
    encoder: Any = encoders.load(tmp_path)
    assert (encoder.version, encoder.dim) == ("1", 6)
    found = encoder.encode(pixels)
    assert np.abs(found - np.array(expected)).max() < 1e-5 * np.abs(expected).max()
    encoder.save(tmp_path)
    again: Any = encoders.load(tmp_path)
    assert again.encode(pixels).tobytes() == found.tobytes()


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
    _edit(folder, version="99")


def _other_options(folder: Path) -> None:
    data = json.loads((folder / "encoder.json").read_text())
    _edit(folder, options={**data["options"], "bias": 0.1})


def _unknown_option(folder: Path) -> None:
    data = json.loads((folder / "encoder.json").read_text())
    _edit(folder, options={**data["options"], "depth": 2})


def _other_levels(folder: Path) -> None:
    _edit(folder, levels=[[5, 1]])


@pytest.mark.parametrize(
    "damage",
    [
        _drop_weights,
        _cut_weights,
        _flip_a_bit,
        _no_json,
        _other_encoder,
        _future,
        _other_options,
        _unknown_option,
        _other_levels,
    ],
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
        RcfEncoder.fit(sample, options=parse(SMALL))


def test_chips_that_do_not_fit_the_encoder() -> None:
    encoder = fitted(f"{SMALL},scales=1+2", side=32)
    with pytest.raises(InputError, match="fitted on 3 bands; these chips have 2"):
        encoder.encode(chips(2, bands=2, side=32))
    with pytest.raises(InputError, match=r"5 x 5 .*the 6 pixels a side"):
        encoder.encode(chips(2, side=5))


def test_flat_chips_of_different_levels_are_told_apart_by_their_bands() -> None:
    level = np.random.default_rng(0).normal(size=(60, 3, 1, 1)).astype(np.float32)
    flat = np.repeat(np.repeat(level, 8, axis=2), 8, axis=3)
    vectors = RcfEncoder.fit(flat, options=parse(SMALL)).encode(flat)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(3), axis=0)) == 60


def test_the_fewest_chips_that_will_do() -> None:
    encoder = RcfEncoder.fit(chips(16))
    vectors = encoder.encode(chips(16))
    assert 1 <= encoder.dim <= 15
    assert np.isfinite(vectors).all()


def test_vectors_of_a_scene_do_not_bunch() -> None:
    encoder = RcfEncoder.fit(chips(1000))
    assert encoder.dim <= DEFAULT.dim
    vectors = encoder.encode(chips(500, seed=9))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(500, 1)]
    assert abs(np.median(cosines)) < 0.3


def test_it_has_no_weights_to_load(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights to load"):
        draft(EncoderChoice("rcf", weights=tmp_path))
    assert [info.name for info in listing()] == ["rcf", "rcf:mosaiks"]
    for info in listing():
        assert draft(EncoderChoice(info.name)).wants.standardised
