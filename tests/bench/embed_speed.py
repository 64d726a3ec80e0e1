"""Encoding chips against the matrix products alone, and against reading the scene."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from embeddings.encoders.rcf import FILTERS, KERNEL, RcfEncoder
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.synthetic import write_scene


def run() -> dict[str, Any]:
    """Encode 4 bands in chips of 16 pixels; state the shares of reading and of sgemm."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(path) for path in write_scene(Path(folder) / "scene")]
        start = time.perf_counter()
        layers = []
        for file in files:
            with rasterio.open(file) as band:
                layers.append(band.read(1).astype(np.float32))
        read_s = time.perf_counter() - start
        start = time.perf_counter()
        report = embed_raster(RasterJob(Path(folder) / "store", "bench", tuple(files), chip="16"))
        embed_s = time.perf_counter() - start
    scene = np.stack(layers) / 3000
    windows = np.lib.stride_tricks.sliding_window_view(scene, (16, 16), axis=(1, 2))
    chips = windows[:, ::16, ::16].transpose(1, 2, 0, 3, 4).reshape(-1, len(files), 16, 16)
    chips = np.ascontiguousarray(chips)
    encoder = RcfEncoder.fit(chips[:512])
    start = time.perf_counter()
    encoder.encode(chips)
    encode_s = time.perf_counter() - start
    positions = (16 - KERNEL + 1) ** 2
    patches = np.random.default_rng(0).normal(size=(positions * 64, len(files) * KERNEL**2))
    filters = np.random.default_rng(1).normal(size=(len(files) * KERNEL**2, FILTERS))
    patches, filters = patches.astype(np.float32), filters.astype(np.float32)
    patches @ filters
    start = time.perf_counter()
    for _ in range(len(chips) // 64):
        patches @ filters
    gemm_s = time.perf_counter() - start
    return {
        "chips": report.embedded,
        "embed_s": round(embed_s, 2),
        "chips_per_s": round(report.embedded / embed_s),
        "read_share": round(read_s / embed_s, 3),
        "encode_only_s": round(encode_s, 2),
        "same_matrix_products_s": round(gemm_s, 2),
        "ratio_products_to_encode": round(gemm_s / encode_s, 2),
    }
