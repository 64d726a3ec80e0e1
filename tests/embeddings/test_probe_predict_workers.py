"""Predicting in processes and on a Dask cluster: the same file, whoever computes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import CancelledError, InputError, StoreFormatError
from embeddings.probe.model import ProbeModel, TrainedOn
from embeddings.probe.predict import PredictOptions, predict
from embeddings.report import Progress
from embeddings.sources.areas import Area
from embeddings.store.collection import Collection
from embeddings.types import Bounds
from tests.embeddings.index_data import clustered, spec_of, write_collection
from tests.embeddings.test_probe_predict import DIM, TIMES, probe_of


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Six parts, so that workers have something to share."""
    makers = [lambda seed=seed: clustered(700, DIM, seed=seed) for seed in range(6)]
    folder = tmp_path_factory.mktemp("shared") / "clusters"
    return write_collection(folder, spec_of(DIM), makers, TIMES)


@pytest.fixture(scope="module")
def model(collection: Collection) -> ProbeModel:
    return ProbeModel(probe_of(thresholds=np.full(3, 0.6)), (TrainedOn.of(collection),))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Dask cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as made:
        yield made


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_processes_and_a_cluster_write_the_same_bytes(
    collection: Collection, model: ProbeModel, tmp_path: Path, cluster: Any, suffix: str
) -> None:
    address = cluster.scheduler_address
    area = Area.of_box(Bounds(10, -60, 60, 60))
    ways = {
        "here": PredictOptions(per_class=True),
        "beside": PredictOptions(per_class=True, workers=2),
        "far": PredictOptions(per_class=True, scheduler=address),
    }
    found, counts = [], []
    for name, options in ways.items():
        out = tmp_path / f"{name}{suffix}"
        counts.append(predict(model, collection, out, within=area, options=options).rows)
        found.append(out.read_bytes())
    assert 0 < counts[0] < collection.count
    assert len(set(counts)) == 1
    assert len(set(found)) == 1


def test_a_cancelled_run_of_workers_writes_nothing(
    collection: Collection, model: ProbeModel, tmp_path: Path
) -> None:
    heard: list[Progress] = []
    with pytest.raises(CancelledError):
        predict(
            model,
            collection,
            tmp_path / "map.parquet",
            options=PredictOptions(workers=2),
            progress=heard.append,
            cancelled=lambda: bool(heard),
        )
    assert heard
    assert not list(tmp_path.iterdir())


def test_the_errors_of_workers_are_those_of_reading(
    collection: Collection, model: ProbeModel, tmp_path: Path
) -> None:
    shutil.copytree(collection.path, tmp_path / "c")
    copy = Collection.load(tmp_path / "c")
    content = bytearray(copy.part_paths[-1].read_bytes())
    content[40:4000] = bytes(3960)
    copy.part_paths[-1].write_bytes(content)
    with pytest.raises(StoreFormatError, match="could not be read"):
        predict(model, copy, tmp_path / "map.parquet", options=PredictOptions(workers=2))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "0 workers were asked for"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "give one of the two"),
    ],
)
def test_workers_that_cannot_be_are_refused(
    collection: Collection,
    model: ProbeModel,
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        predict(model, collection, tmp_path / "x.parquet", options=PredictOptions(**options))
    assert not list(tmp_path.iterdir())
