"""Collections of square chips in degrees, and label files, for the tests of labels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio.raw
import shapely

from embeddings.sources.footprints import polygons
from embeddings.store.collection import Collection, Part, Scene
from embeddings.store.schema import embedding_array, write_part
from tests.embeddings.index_data import spec_of

SIDE = 0.01
"""Degrees."""
DIM = 4


def square_chips(
    path: Path,
    rows: int = 10,
    cols: int = 10,
    *,
    origin: tuple[float, float] = (10.0, 50.0),
    side: float = SIDE,
    times: Sequence[int | None] = (None,),
    parts: int = 2,
    vectors: np.ndarray | None = None,
    step: float | None = None,
) -> Collection:
    """Write chips row by row from the north-west corner ``origin``, once for each time.

    ``times`` in seconds since 1970; ids are "row_column" or "row_column_time". Row numbers count
    along rows of chips, then times. A ``step`` below ``side`` makes chips overlap.
    """
    (path / "parts").mkdir(parents=True)
    step = step or side
    r, c = (axis.ravel() for axis in np.mgrid[:rows, :cols])
    west, north = origin[0] + c * step, origin[1] - r * step
    ring = np.stack([west, west + side, west + side, west], axis=1)
    lats = np.stack([north - side, north - side, north, north], axis=1)
    shapes, boxes = polygons(ring, lats)
    lon = np.mod(west + side / 2 + 180.0, 360.0) - 180.0
    tables = []
    for number, time in enumerate(times):
        suffix = "" if len(times) == 1 else f"_{number}"
        stamp = pa.scalar(None if time is None else time * 10**6, pa.timestamp("us", tz="UTC"))
        tables.append(
            pa.table(
                {
                    "id": [f"{a}_{b}{suffix}" for a, b in zip(r, c, strict=True)],
                    "grid_cell": pa.nulls(len(r), pa.string()),
                    "datetime": pa.array([stamp.as_py()] * len(r), stamp.type),
                    "lon": lon,
                    "lat": north - side / 2,
                    "bbox": pa.StructArray.from_arrays(
                        [pa.array(s) for s in boxes.T], ["xmin", "ymin", "xmax", "ymax"]
                    ),
                    "geometry": shapely.to_wkb(shapes),
                }
            )
        )
    table = pa.concat_tables(tables)
    if vectors is None:
        vectors = np.random.default_rng(3).normal(size=(table.num_rows, DIM)).astype(np.float32)
    spec = spec_of(vectors.shape[1], dtype="float32")
    table = table.append_column("embedding", embedding_array(vectors))
    made = []
    edges = np.linspace(0, table.num_rows, parts + 1).astype(int)
    for number, (first, last) in enumerate(pairwise(edges)):
        file = f"parts/s-{number:05d}.parquet"
        write_part(path / file, table.slice(first, last - first).combine_chunks(), spec)
        digest = hashlib.sha256((path / file).read_bytes()).hexdigest()
        made.append(Part(file, int(last - first), (path / file).stat().st_size, digest))
    _, whole = polygons(*_outline(origin, rows, cols, step))
    box = tuple(whole[0].tolist())
    scene = Scene(
        "s",
        "f",
        (),
        None,
        {"type": "MultiPolygon", "coordinates": []},
        box,
        table.num_rows,
        0,
        True,
        tuple(made),
        (),
    )
    now = "2026-01-01T00:00:00+00:00"
    Collection(path, path.name, spec, "CC0-1.0", (scene,), now, now).save()
    return Collection.load(path)


def _outline(
    origin: tuple[float, float], rows: int, cols: int, step: float
) -> tuple[np.ndarray, np.ndarray]:
    west, north = origin
    east, south = west + cols * step, north - rows * step
    return np.array([[west, east, east, west]]), np.array([[south, south, north, north]])


def write_labels(
    path: Path,
    shapes: Sequence[Any],
    *,
    crs: str | None = "EPSG:4326",
    layer: str | None = None,
    **fields: Any,
) -> Path:
    """Write a vector file of shapely geometries (None: null) and fields."""
    geometry = np.array([None if s is None else shapely.to_wkb(s) for s in shapes], dtype=object)
    values, masks = [], []
    for each in fields.values():
        null = np.array([v is None for v in each])
        filler = next(value for value in each if value is not None)
        column = np.array([filler if value is None else value for value in each])
        values.append(column.astype(object) if column.dtype.kind == "U" else column)
        masks.append(null)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.raw.write(
            path,
            geometry,
            values,
            fields=list(fields),
            field_mask=masks,
            geometry_type="Unknown",
            crs=crs,
            layer=layer,
        )
    return path


def point(row: float, col: float, side: float = SIDE) -> Any:
    """Return a point at chips' rows and columns: 0.5, 0.5 is the centre of the first chip."""
    return shapely.Point(10.0 + col * side, 50.0 - row * side)


def box(top: float, left: float, bottom: float, right: float, side: float = SIDE) -> Any:
    """Return a box given in chips' rows and columns."""
    return shapely.box(
        10.0 + left * side, 50.0 - bottom * side, 10.0 + right * side, 50.0 - top * side
    )
