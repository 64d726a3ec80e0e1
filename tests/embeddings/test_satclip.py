"""Official SatCLIP checkpoints: exact vectors, and refusal of what is none."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from embeddings.encoders.harmonics import (
    angles,
    harmonics,
    legendre_official,
    legendre_stable,
    trigonometric,
)
from embeddings.encoders.location import LocationEncoder
from embeddings.encoders.satclip import PREFIX, load_satclip
from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.grid import MajorTomGrid

SETTINGS = {
    "le_type": "sphericalharmonics",
    "pe_type": "siren",
    "harmonics_calculation": "analytic",
    "legendre_polys": 6,
    "num_hidden_layers": 2,
}


def state(degrees: int = 6, width: int = 16, dim: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {
        "layers.0": (width, degrees**2),
        "layers.1": (width, width),
        "last_layer": (dim, width),
    }
    tensors = {}
    for name, (out, into) in sizes.items():
        tensors[f"{PREFIX}{name}.weight"] = torch.randn(out, into, dtype=torch.float64) / 10
        tensors[f"{PREFIX}{name}.bias"] = torch.randn(out, dtype=torch.float64) / 10
    return tensors


def write(path: Path, settings: dict[str, object], tensors: dict[str, torch.Tensor]) -> Path:
    torch.save({"hyper_parameters": settings, "state_dict": tensors}, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LocationEncoder:
    return load_satclip(write(tmp_path_factory.mktemp("ckpt") / "a.ckpt", SETTINGS, state()))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.shared_data
@pytest.mark.parametrize(("degrees", "limit", "least"), [(10, 90, 0.9999), (40, 75, 0.999)])
def test_vectors_equal_the_official_codes(
    shared: Path, degrees: int, limit: float, least: float
) -> None:
    folder = shared / "satclip-reference"
    expected = np.load(folder / f"satclip-random-l{degrees}-expected.npz")
    encoder = load_satclip(folder / f"satclip-random-l{degrees}.ckpt")
    lon, lat = expected["lonlat"].T
    near = np.abs(lat) <= limit
    found = encoder.encode(lon, lat)
    assert cosines(found, expected["embedding"])[near].min() >= least
    # Far better than asked, and at the poles too.
    assert cosines(found, expected["embedding"]).min() > 0.999999
    phi, theta = angles(lon[:20], lat[:20])
    ours = harmonics(legendre_official(theta, degrees), trigonometric(phi, degrees))
    np.testing.assert_allclose(ours, expected["harmonics"], atol=1e-12 if degrees == 10 else 1e-3)
    stable = harmonics(legendre_stable(theta, degrees), trigonometric(phi, degrees))
    away = np.abs(stable - expected["harmonics"]).max()
    assert away < 1e-11 if degrees == 10 else away > 0.1  # L=40 needs the official constants


@pytest.mark.shared_data
def test_the_grid_path_equals_the_point_path(shared: Path) -> None:
    encoder = load_satclip(shared / "satclip-reference" / "satclip-random-l40.ckpt")
    grid = MajorTomGrid(10)
    for row in (-946, -500, 0, 573, 830, 946):
        first, count = grid.columns(row)
        cols = np.arange(int(first), int(first) + int(count))[:: max(1, int(count) // 50)]
        lon, lat = grid.centre(np.full(len(cols), row), cols)
        fast = encoder.encode_row(encoder.fold(lat[:1])[0], lon)
        assert cosines(fast, encoder.encode(lon, lat)).min() > 0.99999


def test_first_harmonics_have_the_official_quirks() -> None:
    phi, theta = angles(np.array([30.0]), np.array([40.0]))
    found = harmonics(legendre_official(theta, 2), trigonometric(phi, 2))[0]
    sine, cosine = np.sin(theta[0]), np.cos(theta[0])
    norm = np.sqrt(3 / (4 * np.pi))
    expected = [
        np.pi / np.sqrt(4 * np.pi),  # pi times the orthonormal value
        norm * sine * np.sin(phi[0]),  # no Condon-Shortley phase
        np.pi * norm * cosine,
        norm * sine * np.cos(phi[0]),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_fold_and_rows_agree_for_a_small_network(small: LocationEncoder) -> None:
    lon = np.linspace(-180, 180, 37)
    for lat in (-89.9, -30.0, 0.0, 61.0):
        fast = small.encode_row(small.fold(np.array([lat]))[0], lon)
        np.testing.assert_allclose(fast, small.encode(lon, np.full(37, lat)), atol=2e-5)


def test_longitudes_wrap_and_bad_places_are_refused(small: LocationEncoder) -> None:
    np.testing.assert_allclose(small.encode(181.0, 10.0), small.encode(-179.0, 10.0), atol=1e-9)
    for lon, lat in ((0.0, 91.0), (np.nan, 0.0), (0.0, np.inf), (600.0, 0.0)):
        with pytest.raises(InputError):
            small.encode(lon, lat)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.ckpt", {**SETTINGS, "le_type": "grid"}, state())
    with pytest.raises(SourceError, match="le_type = 'grid'"):
        load_satclip(wrong)
    short = write(tmp_path / "b.ckpt", SETTINGS, state(degrees=5))
    with pytest.raises(InputError, match="another architecture"):
        load_satclip(short)
    tensors = state()
    del tensors[f"{PREFIX}layers.1.bias"]
    with pytest.raises(SourceError, match="not a SatCLIP checkpoint"):
        load_satclip(write(tmp_path / "c.ckpt", SETTINGS, tensors))
    tensors = state()
    tensors[f"{PREFIX}layers.1.bias"][0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        load_satclip(write(tmp_path / "d.ckpt", SETTINGS, tensors))


def test_truncated_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.ckpt", SETTINGS, state())
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(SourceError, match="truncated or damaged"):
        load_satclip(cut)
    empty = tmp_path / "empty.ckpt"
    empty.write_bytes(b"")
    with pytest.raises(SourceError):
        load_satclip(empty)
    tensors = state()
    tensors[f"{PREFIX}layers.0.weight"] = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(InputError, match="another architecture"):
        load_satclip(write(tmp_path / "flat.ckpt", SETTINGS, tensors))
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    with pytest.raises(SourceError):
        load_satclip(text)
    with pytest.raises(SourceNotFoundError):
        load_satclip(tmp_path / "none.ckpt")


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.witness)!r}, 'w').close()",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "it-ran"
    loaded = tmp_path / "bomb.ckpt"
    torch.save({"hyper_parameters": SETTINGS, "state_dict": Bomb(witness)}, loaded)
    with pytest.raises(SourceError, match="refused"):
        load_satclip(loaded)
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps(Bomb(witness)))
    with pytest.raises(SourceError):
        load_satclip(plain)
    assert not witness.exists()
