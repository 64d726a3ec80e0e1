"""A collection whose rows are as awkward as rows may be, for the tests of an index's row files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely

from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection, Part, Scene
from embeddings.store.schema import SIDES, embedding_array, write_part
from embeddings.types import LonLat
from tests.embeddings.index_data import spec_of

DIM = 4
SIZES = (100, 20_000, 1, 16_384, 3_000)
COUNT = sum(SIZES)
SPECIAL = ("", "ü", "Ω/€ 7", "long" * 100)
NOW = "2026-01-01T00:00:00+00:00"
EDGES = (
    *(LonLat(lon, 10.0) for lon in (180.0, -180.0, 179.99, -179.99, 178.5, -178.5, 0.0)),
    *(LonLat(0.0, lat) for lat in (90.0, -90.0, 89.0)),
)


def awkward_spec() -> EmbeddingSpec:
    """Attributes of every type."""
    kinds = ("int64", "float64", "string", "bool", "timestamp")
    return replace(spec_of(DIM), attributes=tuple((f"an {kind}", kind) for kind in kinds))


def awkward_collection(path: Path, seed: int = 0) -> Collection:
    """Write parts of many sizes; ids are repeated, times and attributes missing here and there."""
    (path / "parts").mkdir(parents=True)
    spec = awkward_spec()
    parts = []
    for number, count in enumerate(SIZES):
        file = f"parts/s-{number:05d}.parquet"
        write_part(path / file, _table(count, seed, number), spec)
        size = (path / file).stat().st_size
        parts.append(Part(file, count, size, f"{seed:032d}{number:032d}"))
    parts.insert(2, Part("parts/none.parquet", 0, 0, "0" * 64))
    shape = {"type": "MultiPolygon", "coordinates": []}
    box = (-180.0, -90.0, 180.0, 90.0)
    scene = Scene("s", "f", (), None, shape, box, COUNT, 0, True, tuple(parts), ())
    Collection(path, path.name, spec, "CC0-1.0", (scene,), NOW, NOW).save()
    return Collection.load(path)


def _table(count: int, seed: int, part: int) -> pa.Table:
    rng = np.random.default_rng([seed, part])
    lon = np.sort(rng.uniform(-180, 180, count))
    # The tenth part lies at the antimeridian, where boxes cross it.
    lon[: count // 10] = rng.choice([-179.99, 179.99, 180.0, -180.0, 179.0], count // 10)
    lat = np.clip(rng.normal(0, 40, count), -89.9, 89.9)
    half = rng.choice([0.02, 0.5], count)
    west, east = lon - half, lon + half
    across = (west < -180) | (east > 180)
    west, east = np.where(west < -180, west + 360, west), np.where(east > 180, east - 360, east)
    sides = (west, np.maximum(lat - half, -90), east, np.minimum(lat + half, 90))
    shapes = shapely.box(lon - half, sides[1], lon + half, sides[3])
    shapes[across] = shapely.multipolygons(shapes[across][:, None])

    def some(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=rng.random(count) < 0.3)

    names = [f"s_{part}_{row}" for row in range(count)]
    names[: len(SPECIAL)] = SPECIAL[:count]  # In every part: ids are repeated.
    texts = np.array(["meadow", "", "wood, old"])[rng.integers(3, size=count)]
    return pa.table(
        {
            "id": names,
            "grid_cell": some(np.array([f"{row}U_7R" for row in range(count)])),
            "datetime": some(rng.integers(-(10**15), 10**15, count)).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "lon": lon,
            "lat": lat,
            "bbox": pa.StructArray.from_arrays([pa.array(side) for side in sides], SIDES),
            "geometry": shapely.to_wkb(shapes),
            "an int64": some(rng.integers(-5, 5, count)),
            "an float64": some(rng.normal(size=count)),
            "an string": some(texts),
            "an bool": some(rng.random(count) < 0.5),
            "an timestamp": some(rng.integers(0, 10**15, count)).cast(pa.timestamp("us", tz="UTC")),
            "embedding": embedding_array(rng.normal(size=(count, DIM)).astype(np.float16)),
        }
    )
