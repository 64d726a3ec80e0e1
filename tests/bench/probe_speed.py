"""Predicting a collection against just reading its vectors, and against scikit-learn in memory.

``python tests/bench/probe_speed.py [GRID_KM] [FOLDER]`` runs it alone; a collection that is in
the folder is used again. Every figure is of a process of its own, with its own memory; the ways
are run in turn, so that a machine that is busy slows all alike.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from embeddings.analysis.applicability import Applicability, measure_applicability  # noqa: E402
from embeddings.analysis.probes import LinearProbe  # noqa: E402
from embeddings.encoders.location import Layer, LocationEncoder  # noqa: E402
from embeddings.location_grid import GridJob, embed_grid  # noqa: E402
from embeddings.probe.model import ProbeModel, TrainedOn  # noqa: E402
from embeddings.probe.predict import predict  # noqa: E402
from embeddings.store import Collection, Store  # noqa: E402
from embeddings.store.reader import Reader  # noqa: E402
from embeddings.store.schema import embedding_matrix  # noqa: E402

NAME = "grid"
GRID_KM = 42.0
DIM, CLASSES, DEGREES = 256, 10, 12
REPEATS = 3


def run(grid_km: float = GRID_KM, folder: Path | None = None) -> dict[str, Any]:
    """State seconds of the wall and of the processors, memory, and the ratios to reading."""
    with tempfile.TemporaryDirectory() as temporary:
        store = (folder or Path(temporary)) / f"grid-{grid_km:g}km"
        path = store / NAME
        collection = write(store, grid_km)
        rows = collection.count
        for near in (False, True):
            model_of(collection, near).save(_model_file(path, near))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for _ in range(REPEATS):
            for name in WAYS:
                found[name].append(_in_own_process(name, path))
    best = {name: min(each, key=lambda r: r["seconds"]) for name, each in found.items()}
    reading = [name for name in WAYS if name.startswith("pyarrow")]
    fastest = min(best[name]["seconds"] for name in reading)
    least = min(best[name]["processor_s"] for name in reading)
    figures: dict[str, Any] = {"rows": rows, "dimensions": DIM, "classes": CLASSES}
    figures["load"] = round(os.getloadavg()[0], 1)
    for name, result in best.items():
        figures |= {f"{name}_{key}": round(value, 2) for key, value in result.items()}
    for name in ("to_parquet", "to_parquet_with_applicability", "to_geotiff", "scikit_learn"):
        figures[f"ratio_{name}_to_reading"] = round(best[name]["seconds"] / fastest, 2)
        figures[f"ratio_{name}_to_reading_processor"] = round(best[name]["processor_s"] / least, 2)
    return figures


def write(store: Path, grid_km: float) -> Collection:
    """Embed all cells of a grid of the Earth (5,094,350 at 10 km) with a small seeded network."""
    rng = np.random.default_rng(8)
    layers = (
        Layer(rng.normal(size=(DIM, DEGREES**2)), rng.normal(size=DIM), 1.0),
        Layer(rng.normal(size=(DIM, DIM)) / DIM**0.5, rng.normal(size=DIM), 1.0),
    )
    embed_grid(GridJob(store, NAME, grid_km), LocationEncoder("seeded", DEGREES, "stable", layers))
    return Store.open(store).collection(NAME)


def model_of(collection: Collection, near: bool = False) -> ProbeModel:
    """A probe of ten overlapping classes; half of the places are unknown."""
    rng = np.random.default_rng(0)
    probe = LinearProbe(
        task="classes",
        kind="logistic",
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        mean=rng.normal(scale=0.1, size=DIM).astype(np.float32),
        scale=rng.uniform(0.5, 1.5, DIM).astype(np.float32),
        weights=rng.normal(scale=0.1, size=(DIM, CLASSES)).astype(np.float32),
        bias=np.zeros(CLASSES, np.float32),
        strength=1.0,
        temperature=1.5,
        thresholds=np.full(CLASSES, 0.5),
        applicability=_near(collection) if near else None,
    )
    return ProbeModel(probe, (TrainedOn.of(collection),))


def _near(collection: Collection) -> Applicability:
    train = Reader(collection).vectors(np.arange(2000))
    mean, scale = train.mean(axis=0), train.std(axis=0) + np.float32(1e-3)
    return measure_applicability(train, mean, scale, np.arange(len(train)))


def _model_file(path: Path, near: bool) -> Path:
    return path.parent / f"model{'-near' if near else ''}.safetensors"


def iterate(path: Path) -> None:
    for part in Collection.load(path).part_paths:
        with pq.ParquetFile(part) as file:
            for _ in file.iter_batches(columns=["embedding"]):
                pass


def scan(path: Path) -> None:
    files = [str(part) for part in Collection.load(path).part_paths]
    for _ in pyarrow.dataset.dataset(files).to_batches(columns=["embedding"]):
        pass


def read(path: Path) -> None:
    for part in Collection.load(path).part_paths:
        pq.read_table(part, columns=["embedding"])


def ours(path: Path, suffix: str, applicability: bool = False) -> None:
    collection, model = Collection.load(path), ProbeModel.load(_model_file(path, applicability))
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        predict(model, collection, Path(out) / f"map{suffix}")


def scikit_learn(path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    collection = Collection.load(path)
    weights, bias = ProbeModel.load(_model_file(path, False)).probe.folded
    regression = LogisticRegression()
    regression.coef_, regression.intercept_ = weights.T, bias
    regression.classes_ = np.arange(CLASSES)
    vectors = np.empty((collection.count, DIM), np.float32)
    start = 0
    for part in collection.part_paths:
        stored = embedding_matrix(pq.read_table(part, columns=["embedding"])["embedding"])
        vectors[start : start + len(stored)] = stored
        start += len(stored)
    regression.predict_proba(vectors)


WAYS: dict[str, Callable[[Path], None]] = {
    "pyarrow_batches": iterate,
    "pyarrow_scanner": scan,
    "pyarrow_tables": read,
    "to_parquet": partial(ours, suffix=".parquet"),
    "to_parquet_with_applicability": partial(ours, suffix=".parquet", applicability=True),
    "to_geotiff": partial(ours, suffix=".tif"),
    "scikit_learn": scikit_learn,
}
"""scikit_learn loads the vectors as float32 and asks for probabilities; it writes nothing."""


def _in_own_process(name: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _most_memory() -> float:
    """Return the most bytes in memory, of this program and not of what started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if "VmHWM" in each)
        return 1024 * float(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _measured(name: str, path: Path) -> dict[str, float]:
    start, used = time.perf_counter(), time.process_time()
    WAYS[name](path)
    return {
        "seconds": time.perf_counter() - start,
        "processor_s": time.process_time() - used,
        "megabytes": _most_memory() / 1e6,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        print(json.dumps(_measured(sys.argv[2], Path(sys.argv[3]))))
    else:
        grid_km = float(sys.argv[1]) if len(sys.argv) > 1 else GRID_KM
        print(json.dumps(run(grid_km, Path(sys.argv[2]) if len(sys.argv) > 2 else None), indent=1))
