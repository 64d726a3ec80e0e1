"""Training a location encoder on a collection."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from embeddings import training
from embeddings.encoders.location_file import load_location, load_shipped
from embeddings.errors import CancelledError, InputError
from embeddings.store import Store
from embeddings.store.collection import Collection
from embeddings.training import Sample, fit, read_sample, train_location
from embeddings.world import NAME, STORE


@pytest.fixture(scope="module")
def world() -> Collection:
    return Store.open(STORE).collection(NAME)


@pytest.fixture(scope="module")
def smooth() -> Sample:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 4000), np.degrees(np.arcsin(rng.uniform(-1, 1, 4000)))
    turn, tilt = np.radians(lon), np.radians(lat)
    targets = np.stack([np.cos(tilt) * np.sin(3 * turn), np.sin(2 * tilt)], axis=1)
    return Sample(lon, lat, (targets / targets.std()).astype(np.float32))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DEGREES": 16,
        "WIDTH": 64,
        "BATCH": 256,
        "DIM": 128,
        "SKIP_DEGREES": 6,
    }.items():
        monkeypatch.setattr(training, name, value)


def test_it_learns_a_smooth_function_and_passes_on_the_low_harmonics(smooth: Sample) -> None:
    encoder, r2 = fit(smooth, steps=200)
    _, untrained = fit(smooth, steps=1)
    assert r2 > 0.9 > untrained + 0.3
    vectors = encoder.encode(smooth.lon, smooth.lat)
    assert vectors.shape == (4000, 128)
    # What was learned, and where on Earth a place is, can both be read off linearly.
    wanted = np.concatenate([smooth.targets, np.stack([np.sin(np.radians(smooth.lat))], 1)], 1)
    fitted = vectors @ np.linalg.lstsq(vectors, wanted, rcond=None)[0]
    assert ((fitted - wanted) ** 2).mean() < 0.05 * wanted.var(axis=0).mean()


def test_the_same_seed_gives_the_same_model(smooth: Sample) -> None:
    assert fit(smooth, steps=20)[0].sha256 == fit(smooth, steps=20)[0].sha256
    assert fit(smooth, steps=20)[0].sha256 != fit(smooth, steps=20, seed=1)[0].sha256


def test_training_on_a_collection_writes_a_model(world: Collection, tmp_path: Path) -> None:
    report = train_location(world, tmp_path / "m.safetensors", steps=5)
    said = json.loads((tmp_path / "m.json").read_text())["provenance"]
    assert said == report
    assert (report["trained_on"], report["rows"]) == ("world", world.count)
    assert load_location(tmp_path / "m.safetensors").dim == 128


def test_targets_are_main_axes_of_unit_spread(world: Collection) -> None:
    sample = read_sample(world, 0)
    spread = sample.targets.astype(np.float64).var(axis=0)
    assert (np.diff(spread) <= 1e-6).all()
    assert spread.mean() == pytest.approx(1.0, rel=1e-3)


def test_refusals_leave_nothing(
    world: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"\.safetensors"):
        train_location(world, tmp_path / "m.pt")
    with pytest.raises(CancelledError):
        train_location(world, tmp_path / "m.safetensors", cancelled=lambda: True)
    monkeypatch.setattr(training, "LEAST_ROWS", 10**9)
    with pytest.raises(InputError, match="are needed"):
        train_location(world, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_encoder_covers_the_earth() -> None:
    encoder = load_shipped()
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 500), rng.uniform(-90, 90, 500)
    vectors = encoder.encode(np.append(lon, [0, 0]), np.append(lat, [90, -90]))
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=1) > 0).all()
    # Continuous: across the antimeridian, and a step of a metre changes next to nothing.
    np.testing.assert_allclose(encoder.encode(180, 10), encoder.encode(-180, 10), atol=1e-8)
    near = encoder.encode(lon, np.clip(lat + 1e-5, -90, 90))
    assert np.abs(near - vectors[:500]).max() < 1e-2
    folder = Path(training.__file__).parent / "world"
    assert sum(f.stat().st_size for f in folder.glob("location.*")) <= 6 * 2**20


@pytest.mark.shared_data
def test_the_shipped_encoder_beats_plain_harmonics_with_few_labels(shared: Path) -> None:
    path = Path(__file__).resolve().parents[1] / "bench" / "location_quality.py"
    bench = runpy.run_path(str(path))
    encoders = {"ours": load_shipped().encode, "plain": bench["baselines"]()["harmonics L=10"]}
    lon, lat, classes = bench["koppen"](shared)
    station_lon, station_lat, celsius = bench["temperature"](shared)
    accuracy, r2 = {}, {}
    for name, encode in encoders.items():
        x, z = encode(lon, lat), encode(station_lon, station_lat)
        accuracy[name] = np.mean([bench["probe_classes"](x, classes, 300, s) for s in range(3)])
        r2[name] = np.mean([bench["probe_values"](z, celsius, 300, s) for s in range(20)])
    # Measured with 20 draws: 0.665 against 0.629, and 0.933 against 0.889.
    assert accuracy["ours"] > accuracy["plain"] + 0.02
    assert r2["ours"] >= 0.93 > r2["plain"] + 0.02
