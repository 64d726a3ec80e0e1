"""One query over a stored collection: our search against DuckDB scanning the same Parquet."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from embeddings.pipeline import RasterJob, embed_raster
from embeddings.search import Searcher, SearchQuery
from embeddings.sources.synthetic import write_scene
from embeddings.store import Store
from embeddings.types import LonLat

REPEATS = 15
K = 100


def run() -> dict[str, Any]:
    """Embed a seeded scene with overlapping chips (about 60,000) and time warm searches."""
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(str(path) for path in write_scene(Path(folder) / "scene"))
        store = Path(folder) / "store"
        embed_raster(RasterJob(store, "bench", files, chip="16", stride="4"))
        collection = Store.open(store).collection("bench")
        searcher = Searcher(Store.open(store))
        place = LonLat(13.9051, 45.3038)
        query = searcher.search("bench", SearchQuery(place, k=1)).query_item["id"][0].as_py()
        parts = [str(path) for path in collection.part_paths]
        database = duckdb.connect()
        statement = f"""
            WITH q AS (SELECT embedding::FLOAT[{collection.spec.dim}] AS v
                       FROM read_parquet($files) WHERE id = $id)
            SELECT id, array_cosine_similarity(embedding::FLOAT[{collection.spec.dim}], q.v) AS s
            FROM read_parquet($files), q WHERE id <> $id ORDER BY s DESC LIMIT {K}"""

        def rival() -> list[str]:
            rows = database.execute(statement, {"files": parts, "id": query}).fetchall()
            return [row[0] for row in rows]

        def ours() -> list[str]:
            result = searcher.search("bench", SearchQuery(place, k=K))
            return list(result.matches["id"].to_pylist())

        agreement = len(set(ours()) & set(rival())) / K
        ours_s, rival_s = _alternate(ours, rival)
        return {
            "vectors": collection.count,
            "ours_ms": round(1000 * ours_s, 2),
            "duckdb_scan_ms": round(1000 * rival_s, 2),
            "ratio_duckdb_to_ours": round(rival_s / ours_s, 1),
            "shared_results_of_100": agreement,
        }


def _alternate(*functions: Callable[[], Any]) -> list[float]:
    """Time the functions in turn, so that a drifting machine slows all alike; medians."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [float(np.round(statistics.median(found), 6)) for found in times]
