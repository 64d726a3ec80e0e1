"""The whole 10 km grid with SatCLIP's L = 40: our row-folded path against the official evaluation.

``official``: each harmonic evaluated on its own from its polynomial in cos(theta), as the
generated code does, then the network, all in float64. ``vectorised``: the same values, the
polynomials' powers shared, one float64 matrix product a layer. Both are timed on a sample of the
grid's cells and scaled; ours runs over all of it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.encoders import harmonics as sh
from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.grid import MajorTomGrid
from embeddings.location_grid import CELLS_AT_ONCE, GridJob, embed_grid

DEGREES, WIDTH, DIM = 40, 512, 256
SAMPLE = 4096
ROWS_AT_ONCE = 64


def encoder() -> LocationEncoder:
    """Return a network of SatCLIP's size with seeded weights."""
    rng = np.random.default_rng(0)

    def layer(into: int, out: int, w0: float) -> Layer:
        return Layer(rng.normal(size=(out, into)) / np.sqrt(into), rng.normal(size=out) / 10, w0)

    layers = (layer(DEGREES**2, WIDTH, 30.0), layer(WIDTH, WIDTH, 1.0), layer(WIDTH, DIM, 0.0))
    return LocationEncoder("bench", DEGREES, "official", layers)


def run() -> dict[str, Any]:
    """Time all ways; return cells a second and ratios."""
    model, grid = encoder(), MajorTomGrid(10)
    start = time.perf_counter()
    rows, cols, _, _ = grid.enumerate_cells()
    enumerate_s = time.perf_counter() - start
    chosen = np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)
    lon, lat = grid.centre(rows[chosen], cols[chosen])
    del rows, cols
    official = SAMPLE / _seconds(lambda: _official(model, lon, lat))
    vectorised = SAMPLE / _seconds(lambda: model.encode(lon, lat))
    ours = grid.n_cells / _seconds(lambda: _all_rows(model, grid), 1)
    products = _products_per_second()
    found: dict[str, Any] = {
        "cells": grid.n_cells,
        "enumerate_10km_s": round(enumerate_s, 2),
        "official_cells_per_s": round(official),
        "vectorised_float64_cells_per_s": round(vectorised),
        "ours_cells_per_s": round(ours),
        "matrix_products_alone_cells_per_s": round(products),
        "ratio_ours_to_official": round(ours / official, 1),
        "ratio_ours_to_vectorised": round(ours / vectorised, 1),
        "ratio_ours_to_products": round(ours / products, 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        if shutil.disk_usage(folder).free < 5e9:
            return {**found, "written": "not measured: less than 5 GB free"}
        start = time.perf_counter()
        report = embed_grid(GridJob(Path(folder) / "store", "earth", 10.0), model)
        written = report.embedded / (time.perf_counter() - start)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    return {
        **found,
        "written_cells_per_s": round(written),
        "written_gb": round(size / 1e9, 2),
        "ratio_written_to_official": round(written / official, 1),
    }


def _seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _official(
    model: LocationEncoder, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> torch.Tensor:
    phi, theta = (torch.from_numpy(angle) for angle in sh.angles(lon, lat))
    features = []
    for l in range(DEGREES):  # noqa: E741
        for m in range(-l, l + 1):
            factor, exponents, coefficients = sh.official_terms(l, abs(m))
            value = sum(
                float(c) * torch.cos(theta) ** e
                for c, e in zip(coefficients, exponents, strict=True)
            )
            turned = torch.sin(-m * phi) if m < 0 else torch.cos(m * phi)
            features.append(factor * (1.0 - torch.cos(theta) ** 2) ** (abs(m) / 2) * turned * value)
    y = torch.stack(features, dim=1)
    for layer in model.layers:
        y = y @ torch.from_numpy(layer.weight).T + torch.from_numpy(layer.bias)
        y = torch.sin(layer.w0 * y) if layer.w0 else y
    return y


def _all_rows(model: LocationEncoder, grid: MajorTomGrid) -> None:
    rows = np.arange(grid.first_row, grid.last_row + 1)

    def work(block: NDArray[np.int64]) -> None:
        _, lat = grid.centre(block, grid.columns(block)[0])
        for row, folded in zip(block, model.fold(lat), strict=True):
            first, count = grid.columns(row)
            cols = np.arange(int(first), int(first) + int(count))
            lon, _ = grid.centre(np.full(len(cols), row), cols)
            for at in range(0, len(lon), CELLS_AT_ONCE):
                model.encode_row(folded, lon[at : at + CELLS_AT_ONCE])

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE))))


def _products_per_second() -> float:
    """Return cells a second of the three matrix products of a cell alone, on all cores."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(CELLS_AT_ONCE, 2 * DEGREES - 1)).astype(np.float32)
    shapes = ((2 * DEGREES - 1, WIDTH), (WIDTH, WIDTH), (WIDTH, DIM))
    a, b, c = (rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def work(_: int) -> None:
        ((x @ a) @ b) @ c

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        seconds = _seconds(lambda: list(pool.map(work, range(64))))
    return 64 * CELLS_AT_ONCE / seconds
