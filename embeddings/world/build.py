"""Make the world collection from the public images.

``python -m embeddings.world.build IMAGES_FOLDER OUT_FOLDER`` makes OUT_FOLDER a store and writes
the collection ``world`` into it: the same Parquet bytes for the same images and library versions.
It takes a few minutes and less than 4 GB. docs/world.md describes the images and the method.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from threadpoolctl import threadpool_limits

from embeddings import codec
from embeddings.errors import CollectionExistsError, TerrakinError
from embeddings.grid import MajorTomGrid
from embeddings.land import cells_with_land
from embeddings.sources.footprints import polygons
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection, Scene, Store
from embeddings.store.schema import embedding_array
from embeddings.store.writer import CollectionWriter, batch_table
from embeddings.world import NAME
from embeddings.world.features import features
from embeddings.world.images import WorldImages, read_images
from embeddings.world.whiten import embed

GRID_KM = 25.0
SCENE = "earth"
MODEL = "world"
MODEL_VERSION = "1"
LICENCE = "CC0-1.0"
SOURCE = (
    "NASA Blue Marble Next Generation (July and December 2004), NASA Black Marble and NOAA ETOPO, "
    "all public domain"
)
BANDS = (
    "summer_red",
    "summer_green",
    "summer_blue",
    "winter_red",
    "winter_green",
    "winter_blue",
    "night",
    "elevation",
)
METRES_PER_DEGREE = 111_195.0

Ints = npt.NDArray[np.int32]


def build(images_folder: Path, out: Path, grid_km: float = GRID_KM) -> Collection:
    """Write the collection into the store ``out``, made if need be.

    Raises SourceError for images that are missing, CollectionExistsError if it is there already.
    """
    images = read_images(images_folder)
    grid = MajorTomGrid(grid_km)
    rows, cols = _land_cells(grid)
    lon, lat = grid.centre(rows, cols)
    with threadpool_limits(1):  # so that the bytes do not depend on the number of processors
        vectors = embed(features(images, lon, lat), lon, lat)
    spec = _spec(images, vectors, grid_km)
    store = Store.create(out)
    with store.writing():
        if NAME in store.names():
            raise CollectionExistsError(
                f"There is a collection '{NAME}' in {out} already. Name another folder."
            )
        # Nothing is stored to embed with later: the vectors are those of the whole Earth at once.
        writer = CollectionWriter.begin(out / NAME, spec, LICENCE, lambda _: None)
        writer.begin_scene(_scene(images, grid, rows))
        writer.stage(SCENE, 0, _table(grid, rows, cols, vectors, spec))
        writer.publish(SCENE, 0, [0], len(rows))
        writer.finish_scene(SCENE)
        return writer.collection


def _land_cells(grid: MajorTomGrid) -> tuple[Ints, Ints]:
    rows, cols, _, _ = grid.enumerate_cells()
    land = cells_with_land(grid, rows, cols)
    return rows[land], cols[land]


def _spec(images: WorldImages, vectors: npt.NDArray[np.float32], grid_km: float) -> EmbeddingSpec:
    # All vectors are known, so that the scales need no room for larger ones.
    largest = np.maximum(np.abs(vectors).max(axis=0), np.finfo(np.float32).tiny)
    made_of = f"{MODEL} {MODEL_VERSION} {images.sha256}"
    return EmbeddingSpec(
        product="what a place looks like in summer and winter, by night, and its relief",
        model=MODEL,
        model_version=MODEL_VERSION,
        weights_sha256=hashlib.sha256(made_of.encode()).hexdigest(),
        dim=vectors.shape[1],
        dtype="int8",
        scale=tuple(float(value) for value in (largest / 127).astype(np.float32)),
        norm="none",
        bands=BANDS,
        gsd_m=round(180.0 / images.night.shape[0] * METRES_PER_DEGREE, 1),
        layout=None,
        grid_km=grid_km,
        preprocessing=None,
        source=SOURCE,
        licence=LICENCE,
    )


def _scene(images: WorldImages, grid: MajorTomGrid, rows: Ints) -> Scene:
    ends = np.array([rows.min(), rows.max()])
    _, south, _, north = grid.footprint(ends, grid.columns(ends)[0])
    box = (-180.0, float(south[0]), 180.0, float(north[1]))
    return Scene(
        id=SCENE,
        fingerprint=images.sha256,
        files=images.files,
        datetime=None,
        footprint=json.loads(shapely.to_geojson(shapely.box(*box))),
        bbox=box,
        planned=len(rows),
        absent=0,
        complete=False,
        parts=(),
        notes=("Cells whose centre lies on land; the sea has none.",),
    )


def _table(
    grid: MajorTomGrid,
    rows: Ints,
    cols: Ints,
    vectors: npt.NDArray[np.float32],
    spec: EmbeddingSpec,
) -> pa.Table:
    names = grid.names(rows, cols).tolist()
    lon, lat = grid.centre(rows, cols)
    west, south, east, north = grid.footprint(rows, cols)
    shapes, boxes = polygons(
        np.stack([west, east, east, west], axis=1), np.stack([south, south, north, north], axis=1)
    )
    columns: dict[str, Any] = {
        "id": names,
        "grid_cell": names,
        "datetime": pa.nulls(len(names), pa.timestamp("us", tz="UTC")),
        "lon": lon,
        "lat": lat,
        "bbox": pa.StructArray.from_arrays(
            [pa.array(side) for side in boxes.T.copy()], names=["xmin", "ymin", "xmax", "ymax"]
        ),
        "geometry": shapely.to_wkb(shapes, byte_order=1).tolist(),
        "embedding": embedding_array(codec.encode(vectors, spec.dtype, spec.scale)),
        # Row by row from the south: neighbours share latitudes and edges, which compress to 2 MB
        # less than along a Hilbert curve; with two row groups no order would prune much.
        "order": np.arange(len(names), dtype=np.uint64),
    }
    return batch_table(columns, spec)


def main(arguments: list[str]) -> int:
    """Build from the command line."""
    if len(arguments) != 2:
        print("Usage: python -m embeddings.world.build IMAGES_FOLDER OUT_FOLDER", file=sys.stderr)
        return 2
    try:
        collection = build(Path(arguments[0]), Path(arguments[1]))
    except TerrakinError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{collection.count:,} cells in {collection.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
