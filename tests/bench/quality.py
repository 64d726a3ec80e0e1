"""Precision at 10 on Landsat 8 of Zion: chips of 16 pixels, majority class of the NLCD map."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject

from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Store
from embeddings.store.reader import Reader

CHIP = 16
K = 10
BANDS = (2, 3, 4, 5)


def run(data: Path) -> dict[str, Any]:
    """Return precision at 10 over all chips: ours, raw band means, chance; the median cosine."""
    folder = data / "landsat8-zion" / "raster"
    if not folder.is_dir():
        return {"zion": f"not measured: {folder} is not there"}
    files = [folder / f"landsat_b{band}.tif" for band in BANDS]
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        embed_raster(RasterJob(store, "zion", tuple(map(str, files)), chip=str(CHIP)))
        reader = Reader(Store.open(store).collection("zion"))
        ids = reader.items(limit=100_000)["id"].to_pylist()
        vectors = np.concatenate([values for _, values in reader.batches()])
    place = np.array([[int(part) for part in i.rsplit("_", 2)[1:]] for i in ids])
    layers = [rasterio.open(file).read(1).astype(np.float64) for file in files]
    means = np.stack([_chips(layer, place).mean(axis=1) for layer in layers], axis=1)
    classes = np.array([np.bincount(c).argmax() for c in _chips(_nlcd(folder, files[0]), place)])
    shares = np.bincount(classes) / len(classes)
    pairs = np.random.default_rng(0).integers(0, len(vectors), (2, 50_000))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    spreads = np.stack([_chips(layer, place).std(axis=1) for layer in layers], axis=1)
    plain = np.concatenate([means, spreads], axis=1)
    ours, ours_balanced = _precision(vectors, classes)
    raw, raw_balanced = _precision(means, classes)
    return {
        "zion_chips": len(ids),
        "zion_precision_at_10": ours,
        "zion_raw_band_means": raw,
        "zion_standardised_means_and_deviations": _precision(
            (plain - plain.mean(axis=0)) / plain.std(axis=0), classes
        )[0],
        "zion_chance": round(float((shares**2).sum()), 4),
        "zion_precision_at_10_class_mean": ours_balanced,
        "zion_raw_band_means_class_mean": raw_balanced,
        "zion_median_cosine_of_random_pairs": round(
            float(np.median((units[pairs[0]] * units[pairs[1]]).sum(axis=1))), 3
        ),
    }


def _chips(layer: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    windows = np.lib.stride_tricks.sliding_window_view(layer, (CHIP, CHIP))
    return windows[place[:, 0] * CHIP, place[:, 1] * CHIP].reshape(len(place), -1)


def _nlcd(folder: Path, like: Path) -> NDArray[np.uint8]:
    with rasterio.open(like) as grid, rasterio.open(folder / "nlcd.tif") as labels:
        out = np.zeros(grid.shape, dtype=np.uint8)
        reproject(
            rasterio.band(labels, 1),
            out,
            dst_transform=grid.transform,
            dst_crs=grid.crs,
            resampling=Resampling.nearest,
        )
    return out


def _precision(vectors: NDArray[Any], classes: NDArray[np.int64]) -> tuple[float, float]:
    """Return precision at K over all chips, and the mean of its means by class."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = units @ units.T
    np.fill_diagonal(scores, -2)
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    hits = (classes[best] == classes[:, None]).mean(axis=1)
    by_class = [hits[classes == number].mean() for number in np.unique(classes)]
    return round(float(hits.mean()), 4), round(float(np.mean(by_class)), 4)
