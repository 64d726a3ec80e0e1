"""Probes of two collections of one grid: rows joined by id, fitted, saved and predicted alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embeddings.analysis.probes import fit
from embeddings.analysis.queueing import margins
from embeddings.analysis.samples import Samples
from embeddings.analysis.solving import standardisation
from embeddings.errors import CollectionNotFoundError, InputError, SpecMismatchError
from embeddings.probe.beside import Beside
from embeddings.probe.fit import fit_first, fit_probe
from embeddings.probe.fit_job import ProbeJob
from embeddings.probe.model import ProbeModel
from embeddings.probe.predict import PredictOptions, predict
from embeddings.probe.queue import LabelQueue, QueueOptions, make_queue
from embeddings.store import Store
from embeddings.store.reader import Reader
from tests.embeddings.label_data import square_chips
from tests.embeddings.probe_data import (
    CLASSES,
    COLS,
    NORTH,
    ROWS,
    WEST,
    job,
    truth,
    write_points,
)

NARROW = COLS - 2
"""Columns of the second collection: its row numbers are others, and some chips have no partner."""


def _known(classes: tuple[int, ...], cols: int, dim: int, scale: float, seed: int) -> np.ndarray:
    """Vectors ``(rows x cols, dim)`` that tell each of some classes from all others."""
    rng = np.random.default_rng(seed)
    codes = truth()[:, :cols].ravel()
    vectors = 0.5 * rng.normal(size=(len(codes), dim))
    for axis, code in enumerate(classes):
        vectors[:, axis] += 4 * (codes == code)
    return (scale * vectors).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections, each blind to what the other sees, of very different scales."""
    store = Store.create(tmp_path_factory.mktemp("beside") / "store")
    origin = (WEST, NORTH)
    light = _known((0,), COLS, 5, 1000.0, 1)
    square_chips(store.path / "light", ROWS, COLS, origin=origin, vectors=light)
    radar = _known((1,), NARROW, 7, 0.001, 2)
    square_chips(store.path / "radar", ROWS, NARROW, origin=origin, vectors=radar)
    square_chips(store.path / "away", ROWS, COLS, origin=(0.0, 0.0))
    return store.path


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_points(tmp_path_factory.mktemp("labels") / "points.gpkg", 300)


def _job(store: Path, labels: Path, name: str = "light", **more: object) -> ProbeJob:
    return replace(job(store, labels, **more), collection=name)


def test_rows_are_joined_by_id_and_vectors_stand_side_by_side(store: Path) -> None:
    beside = Beside.open(Store.open(store), ("light", "radar"))
    light, radar = (Reader(each) for each in beside.collections)
    rows = np.array([30, 3, 500])
    assert beside.joined(rows).all()
    ids = light.rows(rows)["id"].to_pylist()
    partners = np.array([radar.find([name])[0] for name in ids])
    np.testing.assert_array_equal(
        beside.vectors(rows), np.concatenate([light.vectors(rows), radar.vectors(partners)], axis=1)
    )
    alone = np.flatnonzero(~beside.joined(np.arange(ROWS * COLS)))
    assert beside.alone == len(alone) == 2 * ROWS
    assert set((alone % COLS).tolist()) == {COLS - 2, COLS - 1}


def test_two_collections_tell_what_neither_tells_alone(
    store: Path, labels: Path, tmp_path: Path
) -> None:
    figures = {}
    for name, others in (("light", ()), ("radar", ()), ("light", ("radar",))):
        asked = _job(store, labels, name, others=others, out=tmp_path / "model")
        said = fit_probe(asked).model.validation["spatial"]["figures"]
        figures[name, others] = said["accuracy"]["value"]
    *alone, both = figures.values()
    assert max(alone) < 0.85
    assert both > 0.97
    model = ProbeModel.load(tmp_path / "model")
    assert [each.collection for each in model.trained_on] == ["light", "radar"]
    dropped = {each["reason"]: each["count"] for each in model.labels["chips_dropped"]}
    assert dropped["the collection beside has no item of its id"] > 0

    opened = Store.open(store)
    light, radar = opened.collection("light"), opened.collection("radar")
    report = predict(model, light, tmp_path / "map.parquet", others=[radar])
    rows = pq.read_table(tmp_path / "map.parquet").to_pandas()
    assert report.rows == len(rows) == ROWS * NARROW
    assert any("48 of 576 chips of 'light' have no partner" in note for note in report.notes)
    place = rows["id"].str.split("_", expand=True).astype(int).to_numpy()
    codes = truth()[place[:, 0], place[:, 1]]
    named = rows["class"].to_numpy() != "unknown"
    assert named.mean() > 0.8
    assert (rows["class"].to_numpy() == np.array(CLASSES)[codes])[named].mean() > 0.97
    # Row by row what the probe says of the vectors side by side.
    beside = Beside.of([light, radar])
    numbers = np.array([light_row[0] * COLS + light_row[1] for light_row in place])
    likely = model.probe.probabilities(beside.vectors(numbers)).max(axis=1)
    np.testing.assert_allclose(rows["probability"], likely, atol=1e-5)


def test_each_collection_has_a_scale_of_its_own(store: Path, labels: Path) -> None:
    first = fit_first(_job(store, labels, others=("radar",)))
    assert first.samples.blocks == (5, 7)
    scale = first.model.probe.scale
    assert len(set(scale[:5].tolist())) == len(set(scale[5:].tolist())) == 1
    assert scale[0] / scale[5] > 1e5
    # Thus the size of one says nothing about how much it counts.
    grown = first.samples.vectors.copy()
    grown[:, :5] *= 100
    other = fit(replace(first.samples, vectors=grown), strength=10.0)
    same = fit(first.samples, strength=10.0)
    np.testing.assert_allclose(
        other.probabilities(grown), same.probabilities(first.samples.vectors), atol=1e-3
    )


def test_one_vector_has_one_scale_so_that_noise_stays_small() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(60) % 2
    vectors = 0.05 * rng.normal(size=(60, 200))
    vectors[:, 0] += 2 * codes
    samples = Samples(
        "classes",
        vectors.astype(np.float32),
        codes,
        ("a", "b"),
        rng.uniform(0, 1, 60),
        rng.uniform(0, 1, 60),
        np.arange(60),
    )
    _, scale = standardisation(samples)
    assert np.unique(scale).tolist() == [scale[0]]
    probe = fit(samples.take(np.arange(12)), strength=10.0)
    assert (probe.predict(samples.vectors[12:]) == codes[12:]).all()


def test_what_does_not_fit_is_refused(store: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are not on one grid"):
        fit_probe(_job(store, labels, others=("away",)))
    with pytest.raises(InputError, match="name each only once"):
        fit_probe(_job(store, labels, others=("light",)))
    with pytest.raises(CollectionNotFoundError):
        fit_probe(_job(store, labels, others=("none",)))
    both = fit_first(_job(store, labels, others=("radar",))).model
    one = fit_first(_job(store, labels)).model
    opened = Store.open(store)
    light, radar = opened.collection("light"), opened.collection("radar")
    out = tmp_path / "map.parquet"
    with pytest.raises(SpecMismatchError, match=r"2 collections .* 1 came \('light'\)"):
        predict(both, light, out)
    with pytest.raises(SpecMismatchError, match="Leave out --with"):
        predict(one, light, out, others=[radar])
    with pytest.raises(SpecMismatchError, match="than those of collection 'radar'"):
        predict(both, radar, out, others=[light])
    assert not out.exists()


def test_positives_are_compared_with_chips_that_have_a_partner(store: Path, labels: Path) -> None:
    first = fit_first(_job(store, labels, others=("radar",), field=None, background=5000))
    assert first.samples.dim == 12
    assert len(first.samples) == ROWS * NARROW


def test_the_queue_asks_of_vectors_side_by_side(store: Path, labels: Path) -> None:
    model = fit_first(_job(store, labels, others=("radar",))).model
    both = Beside.open(Store.open(store), ("light", "radar"))
    found = make_queue(both, model, np.empty(0, np.int64), QueueOptions(12, strategy="uncertainty"))
    assert found.candidates == ROWS * NARROW
    rows = np.array([int(r) * COLS + int(c) for r, c in _places(found)])
    likely = model.probe.probabilities(both.vectors(rows))
    np.testing.assert_allclose(found.items["margin"].to_numpy(), margins(likely), atol=1e-5)
    # A chip that has a label but no partner is neither asked for nor in the way.
    alone = np.flatnonzero(~both.joined(np.arange(ROWS * COLS)))
    again = make_queue(both, model, alone, QueueOptions(12, strategy="uncertainty"))
    assert again.items.equals(found.items)
    with pytest.raises(SpecMismatchError, match="Name all with --collection and --with"):
        make_queue(Beside.of([both.first]), model, alone, QueueOptions(12))


def test_without_a_probe_each_collection_counts_alike(store: Path) -> None:
    both = Beside.open(Store.open(store), ("light", "radar"))
    found = make_queue(both, None, np.empty(0, np.int64), QueueOptions(3))
    # Each collection sees one class of three; side by side they tell all three.
    assert {truth()[int(r), int(c)] for r, c in _places(found)} == {0, 1, 2}


def _places(found: LabelQueue) -> list[list[str]]:
    return [name.split("_") for name in found.items["id"].to_pylist()]


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_workers_write_the_same_bytes(
    store: Path, labels: Path, tmp_path: Path, suffix: str
) -> None:
    model = fit_first(_job(store, labels, others=("radar",))).model
    opened = Store.open(store)
    light, radar = opened.collection("light"), opened.collection("radar")
    for name, options in (("here", PredictOptions()), ("there", PredictOptions(workers=2))):
        predict(model, light, tmp_path / f"{name}{suffix}", others=[radar], options=options)
    here, there = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("here", "there"))
    assert here == there
