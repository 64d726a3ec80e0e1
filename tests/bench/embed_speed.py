"""Embedding a scene against just reading it, and against the matrix products alone.

The scene is sentinel2-carolina where the evaluation data is there, else a made-up one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from embeddings import encoders
from embeddings.encoders.rcf import RcfEncoder
from embeddings.encoding import normalise
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.chips import ChipGrid
from embeddings.sources.raster import RasterScene
from embeddings.sources.synthetic import write_scene
from embeddings.store import Store


def run(data: Path) -> dict[str, Any]:
    """Embed in chips of 160 m; state chips and megabytes a second and the shares."""
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(map(str, (data / "sentinel2-carolina" / "sentinel-2").glob("*.tif")))
        files = files or [str(path) for path in write_scene(Path(folder) / "scene")]
        read_s, pixel_bytes = _read(files)
        store = Path(folder) / "store"
        start = time.perf_counter()
        report = embed_raster(RasterJob(store, "bench", tuple(files), chip="160m"))
        embed_s = time.perf_counter() - start
        collection = Store.open(store).collection("bench")
        spec = collection.spec
        assert spec.preprocessing is not None
        assert spec.layout is not None
        encoder = encoders.load(collection.path)
        assert isinstance(encoder, RcfEncoder)
        with RasterScene.open(files) as scene:
            plan = ChipGrid(scene, spec.layout)
            chips = np.concatenate([plan.read(batch).pixels for batch in plan.batches()])
        chips = normalise(chips, spec.preprocessing)
    start = time.perf_counter()
    encoder.encode(chips)
    encode_s = time.perf_counter() - start
    gemm_s = _products(encoder, chips)
    return {
        "scene": Path(files[0]).parent.name,
        "chips": report.embedded,
        "embed_s": round(embed_s, 2),
        "chips_per_s": round(report.embedded / embed_s),
        "megabytes_read_per_s": round(pixel_bytes / embed_s / 1e6, 1),
        "just_reading_s": round(read_s, 2),
        "encode_only_s": round(encode_s, 2),
        "same_matrix_products_s": round(gemm_s, 2),
        "ratio_embed_to_reading": round(embed_s / read_s, 1),
        "ratio_products_to_encode": round(gemm_s / encode_s, 2),
        "ratio_products_to_embed": round(gemm_s / embed_s, 2),
    }


def _read(files: Sequence[str]) -> tuple[float, int]:
    """Read all pixels with rasterio alone; return seconds and bytes of pixels."""
    start, size = time.perf_counter(), 0
    for file in files:
        with rasterio.open(file) as band:
            size += band.read().nbytes
    return time.perf_counter() - start, size


def _products(encoder: RcfEncoder, chips: NDArray[np.float32]) -> float:
    """Return the seconds of the encoder's matrix products, responses written out, chip by chip."""
    count, bands, height, width = chips.shape
    rng = np.random.default_rng(0)
    pairs = []
    for level, (kernel, scale) in enumerate(encoder.levels):
        places = (height // scale - kernel + 1) * (width // scale - kernel + 1)
        patches = rng.normal(size=(64 * places, bands * kernel**2)).astype(np.float32)
        filters = np.ascontiguousarray(encoder.filters(level).T)
        pairs.append((patches, filters, np.empty((len(patches), filters.shape[1]), np.float32)))
    start = time.perf_counter()
    for number in range(-1, count // 64):
        if number == 0:
            start = time.perf_counter()
        for patches, filters, out in pairs:
            np.matmul(patches, filters, out=out)
    return time.perf_counter() - start
