"""The labelled collections that probes are measured on."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import quality
import rcf_quality
import world_quality
from location_quality import temperature

from embeddings.analysis.samples import Samples
from embeddings.encoders import EncoderChoice, draft
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.probe.joining import join
from embeddings.probe.label_places import extent
from embeddings.probe.labelled import samples as labelled
from embeddings.probe.labels import LabelLayer, LabelOptions, read_labels
from embeddings.probe.vector_join import JoinOptions
from embeddings.store import Store
from embeddings.store.reader import Reader
from embeddings.types import Bounds
from embeddings.world import NAME, STORE

CELLS = 5000
"""Köppen cells drawn with area weight."""

MARGIN = 0.001
"""Degrees around the polygons that are embedded with them."""


def named(task: str, vectors: Any, target: Any, lon: Any, lat: Any) -> Samples:
    """Return samples, classes numbered in the order of their names; each its own feature."""
    names: tuple[str, ...] = ()
    if task == "classes":
        found, target = np.unique(np.asarray(target, str), return_inverse=True)
        names = tuple(str(name) for name in found)
    vectors = np.ascontiguousarray(vectors, np.float32)
    return Samples(task, vectors, target, names, lon, lat, np.arange(len(target)))


def eurosat(data: Path) -> Samples:
    """Return 6,000 chips over Europe, 10 classes, embedded by ``rcf``."""
    folder = data / "eurosat-rgb"
    chips, _, _ = rcf_quality._read(folder)
    with (folder / "coordinates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lon, lat = (np.array([float(row[key]) for row in rows]) for key in ("lon", "lat"))
    sample = np.random.default_rng(0).choice(len(chips), rcf_quality.SAMPLE, replace=False)
    encoder = draft(EncoderChoice("rcf")).fit(chips[sample], seed=0)
    return named("classes", encoder.encode(chips), [row["class"] for row in rows], lon, lat)


def koppen(data: Path) -> Samples:
    """Return the 30 climate classes on the shipped world collection."""
    lon, lat, classes = world_quality.read_koppen(data / "koppen" / "koppen_0.5deg.csv.gz")
    drawn = world_quality.draw(lat, 0)[:CELLS]
    lon, lat = lon[drawn], lat[drawn]
    return named("classes", _world(lon, lat), classes[drawn], lon, lat)


def koppen_groups(data: Path) -> Samples:
    """Return the same cells with the 5 main climates."""
    fine = koppen(data)
    return named("classes", fine.vectors, [fine.classes[c][0] for c in fine.target], *_at(fine))


def air_temperature(data: Path) -> Samples:
    """Return the mean air temperature of 3,076 stations on the shipped world collection."""
    lon, lat, degrees_c = temperature(data)
    inside = np.abs(lat) < 84.9
    lon, lat = lon[inside], lat[inside]
    return named("number", _world(lon, lat), degrees_c[inside], lon, lat)


def zion(data: Path) -> Samples:
    """Return 6,230 Landsat chips of 16 pixels with the NLCD class of most of their pixels."""
    folder = data / "landsat8-zion" / "raster"
    files = [folder / f"landsat_b{band}.tif" for band in quality.BANDS]
    vectors, lon, lat = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        embed_raster(RasterJob(store, "zion", tuple(map(str, files)), chip=str(quality.CHIP)))
        reader = Reader(Store.open(store).collection("zion"))
        ids = reader.items(limit=100_000)["id"].to_pylist()
        for batch, values in reader.batches():
            vectors.append(values)
            lon.append(batch.column("lon").to_numpy())
            lat.append(batch.column("lat").to_numpy())
    place = np.array([[int(part) for part in i.rsplit("_", 2)[1:]] for i in ids])
    pixels = quality._chips(quality._nlcd(folder, files[0]), place)
    classes = [np.bincount(chip).argmax() for chip in pixels]
    joined = (np.concatenate(part) for part in (lon, lat))
    return named("classes", np.concatenate(vectors), classes, *joined)


def carolina(data: Path) -> Samples:
    """Return the Sentinel-2 chips of 4 pixels (33 m), every 2, of 23 polygons of 6 land covers."""
    folder = data / "sentinel2-carolina"
    layer = read_labels(folder / "rcr" / "rcr_landcover.shp", LabelOptions(field="Classname"))
    assert isinstance(layer, LabelLayer)
    west, south, east, north = extent(layer.boxes)
    around = Bounds(west - MARGIN, south - MARGIN, east + MARGIN, north + MARGIN)
    files = tuple(str(path) for path in sorted((folder / "sentinel-2").glob("B0*.tif")))
    if not files:
        raise FileNotFoundError(folder / "sentinel-2")
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        embed_raster(RasterJob(store, "sand", files, chip="4", stride="2", nodata=255, bbox=around))
        collection = Store.open(store).collection("sand")
        return labelled(collection, join(collection, layer, JoinOptions("contains")))


SETS: dict[str, Callable[[Path], Samples]] = {
    "eurosat": eurosat,
    "zion": zion,
    "carolina": carolina,
    "koppen": koppen,
    "koppen_groups": koppen_groups,
    "air_temperature": air_temperature,
}


def _world(lon: Any, lat: Any) -> Any:
    """Return the vectors of the world's cells nearest to places in degrees."""
    centres, vectors = world_quality.read_vectors(STORE / NAME)
    return vectors[world_quality.nearest_cells(world_quality.points(lon, lat), centres)]


def _at(samples: Samples) -> tuple[Any, Any]:
    return samples.lon, samples.lat
