"""What to label next: unlabelled places in a useful order, as a layer to label in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from embeddings.analysis.queueing import margins
from embeddings.errors import (
    CancelledError,
    InputError,
    OutsideCoverageError,
    SpecMismatchError,
)
from embeddings.probe.beside import Beside
from embeddings.probe.fit import fit_probe
from embeddings.probe.model import ProbeModel
from embeddings.probe.queue import QueueOptions, labelled_rows, make_queue, write_queue
from embeddings.sources.areas import Area
from embeddings.store import Store
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader
from embeddings.types import Bounds
from tests.embeddings.label_data import SIDE, square_chips
from tests.embeddings.probe_data import COLS, NORTH, WEST, job, make_store, write_points

NONE = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_points(tmp_path_factory.mktemp("labels") / "points.gpkg", 120)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Store.open(make_store(tmp_path_factory.mktemp("queue") / "store", noise=2.0)).collection(
        "land"
    )


@pytest.fixture(scope="module")
def model(collection: Collection, labels: Path) -> ProbeModel:
    return fit_probe(job(collection.path.parent, labels)).model


def _rows(items: object) -> np.ndarray:
    ids = items["id"].to_pylist()  # type: ignore[index]  # a pyarrow table
    return np.array([int(r) * COLS + int(c) for r, c in (name.split("_") for name in ids)])


def test_the_probe_is_asked_where_it_hesitates(
    collection: Collection, model: ProbeModel, labels: Path
) -> None:
    labelled = labelled_rows(collection, labels, field="class")
    assert len(labelled) == 120
    found = make_queue(Beside.of([collection]), model, labelled, QueueOptions(20))
    assert found.strategy == "uncertainty"
    assert found.candidates == collection.count - 120
    rows = _rows(found.items)
    assert len(set(rows)) == 20
    assert not set(rows) & set(labelled)
    assert found.items["rank"].to_pylist() == list(range(1, 21))
    likely = model.probe.probabilities(Reader(collection).vectors(np.arange(collection.count)))
    every = margins(likely)
    assert np.median(every[rows]) < np.quantile(np.delete(every, labelled), 0.4)
    np.testing.assert_allclose(found.items["margin"].to_numpy(), every[rows], atol=1e-6)
    first = found.items.slice(0, 1).to_pylist()[0]
    assert first["class"] != first["second"]
    assert f"hesitates between {first['class']} and {first['second']}" in first["why"]


def test_without_a_probe_the_space_is_covered(collection: Collection) -> None:
    found = make_queue(Beside.of([collection]), None, NONE, QueueOptions(9))
    assert (found.strategy, len(found)) == ("coverage", 9)
    assert "class" not in found.items.column_names
    vectors = Reader(collection).vectors(_rows(found.items))
    assert len(set(vectors[:, :3].argmax(axis=1))) == 3


def test_only_the_area_asked_for_is_queued(collection: Collection, model: ProbeModel) -> None:
    box = Bounds(WEST, NORTH - 5 * SIDE, WEST + 4 * SIDE, NORTH)
    found = make_queue(Beside.of([collection]), model, NONE, QueueOptions(50, Area.of_box(box)))
    assert len(found) == found.candidates == 20
    assert max(found.items["lon"].to_pylist()) < box.east
    away = Area.of_box(Bounds(-60, -10, -59, -9))
    with pytest.raises(OutsideCoverageError, match="nothing to label"):
        make_queue(Beside.of([collection]), model, NONE, QueueOptions(5, away))


def test_many_candidates_are_seen_a_batch_at_a_time(
    collection: Collection, model: ProbeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_queue(Beside.of([collection]), model, NONE, QueueOptions(10))
    batches = Reader.batches
    monkeypatch.setattr(Reader, "batches", lambda self: batches(self, 50))
    assert make_queue(Beside.of([collection]), model, NONE, QueueOptions(10)).items.equals(
        whole.items
    )


def test_the_layer_has_footprints_and_a_field_to_fill_in(
    collection: Collection, model: ProbeModel, tmp_path: Path
) -> None:
    found = make_queue(Beside.of([collection]), model, NONE, QueueOptions(5))
    write_queue(found, tmp_path / "queue.gpkg", {"collection": "land"})
    meta, _, shapes, values = pyogrio.raw.read(tmp_path / "queue.gpkg", layer="queue")
    fields = dict(zip(meta["fields"].tolist(), values, strict=True))
    assert fields["rank"].tolist() == [1, 2, 3, 4, 5]
    assert [value is None for value in fields["label"]] == [True] * 5
    footprints = shapely.from_wkb(shapes)
    assert shapely.contains_xy(footprints, fields["lon"], fields["lat"]).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "queue.gpkg"]
    (tmp_path / "first").mkdir()
    first = (tmp_path / "queue.gpkg").rename(tmp_path / "first" / "queue.gpkg")
    write_queue(found, tmp_path / "queue.gpkg", {"collection": "land"})
    assert first.read_bytes() == (tmp_path / "queue.gpkg").read_bytes()
    with pytest.raises(InputError, match="no GeoPackage"):
        write_queue(found, tmp_path / "queue.shp", {})


def test_what_cannot_be_queued_is_refused(
    collection: Collection, model: ProbeModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="0 places"):
        make_queue(Beside.of([collection]), None, NONE, QueueOptions(0))
    with pytest.raises(InputError, match="Only a probe of classes"):
        make_queue(Beside.of([collection]), None, NONE, QueueOptions(5, strategy="uncertainty"))
    with pytest.raises(CancelledError):
        make_queue(Beside.of([collection]), model, NONE, QueueOptions(5), cancelled=lambda: True)
    other = square_chips(tmp_path / "other", vectors=np.ones((100, 3), np.float32))
    with pytest.raises(SpecMismatchError, match="dim"):
        make_queue(Beside.of([other]), model, NONE, QueueOptions(5))
