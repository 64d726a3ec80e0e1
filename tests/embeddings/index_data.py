"""Seeded vectors as real embeddings are (clusters in 16 dimensions), and collections of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from embeddings import codec
from embeddings.spec import EmbeddingSpec, Preprocessing
from embeddings.store.collection import Collection, Part, Scene
from embeddings.store.order import hilbert_index
from embeddings.store.schema import embedding_array, write_part

INTRINSIC = 16

Times = tuple[datetime, datetime]


def clustered(
    count: int, dim: int = 64, seed: int = 0, centres: int = 400, noise: float = 0.05
) -> np.ndarray:
    """Make vectors ``(count, dim) float32``: a mixture in 16 dimensions, bent by tanh, and noise.

    The mixture is the same for every ``seed``, so that other seeds give fresh queries.
    """
    world = np.random.default_rng(1)
    middles = world.normal(size=(centres, INTRINSIC)).astype(np.float32)
    wide = world.normal(size=(INTRINSIC, dim)).astype(np.float32) / np.float32(INTRINSIC**0.5)
    rng = np.random.default_rng([seed, 7])
    low = middles[rng.integers(centres, size=count)]
    low += 0.5 * rng.standard_normal((count, INTRINSIC), dtype=np.float32)
    vectors = np.tanh(low @ wide)
    vectors += noise * rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors


def spec_of(dim: int, **changes: Any) -> EmbeddingSpec:
    """Make a spec of ``dim`` dimensions; keywords replace its fields."""
    fields: dict[str, Any] = {
        "product": "clusters",
        "model": "clusters",
        "model_version": "1",
        "weights_sha256": "0" * 64,
        "dim": dim,
        "dtype": "float16",
        "scale": None,
        "norm": "none",
        "bands": (),
        "gsd_m": 10.0,
        "layout": None,
        "grid_km": 10.0,
        "preprocessing": Preprocessing((), (), "nearest", ()),
        "source": "seeded",
        "licence": "CC0-1.0",
        **changes,
    }
    return EmbeddingSpec(**fields)


def write_collection(
    path: Path,
    spec: EmbeddingSpec,
    pieces: Iterable[Callable[[], np.ndarray]],
    times: Times | None = None,
) -> Collection:
    """Write a collection of one scene with a part for each piece; two are made at once.

    Rows have seeded times in the range ``times``, or none.
    """
    (path / "parts").mkdir(parents=True)

    def write(item: tuple[int, Callable[[], np.ndarray]]) -> Part:
        number, piece = item
        file = f"parts/s-{number:05d}.parquet"
        table = table_of(piece(), spec, number, times)
        write_part(path / file, table, spec)
        content = (path / file).read_bytes()
        return Part(file, table.num_rows, len(content), hashlib.sha256(content).hexdigest())

    with ThreadPoolExecutor(2) as threads:
        parts = tuple(threads.map(write, enumerate(pieces)))
    rows = sum(part.rows for part in parts)
    shape = {"type": "MultiPolygon", "coordinates": []}
    box = (0.0, -60.0, 60.0, 60.0)
    scene = Scene("s", "f", (), None, shape, box, rows, 0, True, parts, ())
    now = "2026-01-01T00:00:00+00:00"
    Collection(path, path.name, spec, "CC0-1.0", (scene,), now, now).save()
    return Collection.load(path)


def table_of(
    vectors: np.ndarray, spec: EmbeddingSpec, part: int, times: Times | None = None
) -> pa.Table:
    """Make the rows of a part at seeded places, neighbours beside each other as writers do."""
    count = len(vectors)
    rng = np.random.default_rng([part, 11])
    lon, lat = rng.uniform(0, 60, count), rng.uniform(-60, 60, count)
    fine = 2**16 / 120
    order = np.argsort(hilbert_index((fine * (lat + 60)).astype(int), (fine * lon).astype(int), 16))
    lon, lat = lon[order], lat[order]
    half = 0.001
    sides = (lon - half, lat - half, lon + half, lat + half)
    time = pa.nulls(count)
    if times is not None:
        first, last = (int(1e6 * each.timestamp()) for each in times)
        time = pa.array(rng.integers(first, last, count))
    return pa.table(
        {
            "id": [f"s_{part}_{row}" for row in range(count)],
            "grid_cell": pa.nulls(count, pa.string()),
            "datetime": time.cast(pa.timestamp("us", tz="UTC")),
            "lon": lon,
            "lat": lat,
            "bbox": pa.StructArray.from_arrays(
                [pa.array(side) for side in sides], ["xmin", "ymin", "xmax", "ymax"]
            ),
            "geometry": shapely.to_wkb(shapely.box(*sides)),
            "embedding": embedding_array(codec.encode(vectors, spec.dtype, spec.scale)),
        }
    )
