"""The index of a large collection against other engines: same vectors, same queries, one run.

`python tests/bench/index_speed.py [rows]`; a million rows of 256 values by default.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from embeddings.index.build import build_index  # noqa: E402
from embeddings.index.open import open_index  # noqa: E402
from embeddings.store.collection import Collection  # noqa: E402
from tests.embeddings.index_data import clustered, spec_of, write_collection  # noqa: E402

ROWS, DIM, K, QUERIES = 1_000_000, 256, 100, 200
PART_ROWS = 125_000

Search = Callable[[np.ndarray], Any]
"""A query vector -> the row numbers of the K best."""


def run(count: int = ROWS) -> dict[str, Any]:
    """Build and search our index and the rivals'; a rival that is not installed is skipped."""
    parts = max(1, round(count / PART_ROWS))
    queries = clustered(QUERIES, DIM, seed=10_000)
    figures: dict[str, Any] = {"vectors": parts * PART_ROWS, "dim": DIM, "k": K}
    with tempfile.TemporaryDirectory() as folder:
        pieces = [lambda part=part: clustered(PART_ROWS, DIM, part) for part in range(parts)]
        collection = write_collection(Path(folder) / "clusters", spec_of(DIM), pieces)
        vectors = np.concatenate([clustered(PART_ROWS, DIM, part) for part in range(parts)])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        truth = _truth(vectors, queries)
        figures |= _ours(collection, queries, truth)
        print(json.dumps(figures, indent=1), file=sys.stderr)
        for name, rival in RIVALS.items():
            if importlib.util.find_spec(name) is None:
                print(f"{name} is not installed: skipped.", file=sys.stderr)
                continue
            found = rival(vectors, collection, Path(folder), queries, truth)
            print(json.dumps(found, indent=1), file=sys.stderr)
            figures |= found
    return figures


def _truth(vectors: np.ndarray, queries: np.ndarray) -> list[set[int]]:
    found = []
    for start in range(0, len(queries), 20):
        scores = queries[start : start + 20] @ vectors.T
        found += [set(row.tolist()) for row in np.argpartition(-scores, K, axis=1)[:, :K]]
    return found


def _measured(name: str, search: Search, queries: np.ndarray, truth: list[set[int]]) -> dict:
    """Time one query after the other, the first ten unmeasured."""
    for query in queries[:10]:
        search(query)
    times, recall = [], []
    for query, best in zip(queries, truth, strict=False):
        start = time.perf_counter()
        found = search(query)
        times.append(1000 * (time.perf_counter() - start))
        recall.append(len(best & {int(row) for row in found}) / K)
    return {
        f"{name}_p50_ms": round(float(np.percentile(times, 50)), 2),
        f"{name}_p95_ms": round(float(np.percentile(times, 95)), 2),
        f"{name}_recall_at_100": round(float(np.mean(recall)), 4),
    }


def _ours(collection: Collection, queries: np.ndarray, truth: list[set[int]]) -> dict[str, Any]:
    start = time.perf_counter()
    report = build_index(collection, ivf_rows=1)
    figures: dict[str, Any] = {
        "ours_build_s": round(time.perf_counter() - start, 1),
        **{f"ours_build_{step}_s": seconds for step, seconds in report.seconds.items()},
        "ours_bytes_a_row": round(report.bytes / report.count, 1),
    }
    start = time.perf_counter()
    index = open_index(collection)
    figures["ours_open_ms"] = round(1000 * (time.perf_counter() - start), 1)
    if index is None:
        raise RuntimeError("the index that was just built cannot be opened")
    figures |= _measured("ours", lambda query: index.search(query, K).rows, queries, truth)
    stated = [index.search(query, K) for query in queries]
    figures["ours_stated_recall"] = round(float(np.mean([f.expected_recall for f in stated])), 4)
    figures["ours_considered"] = int(np.mean([f.considered for f in stated]))
    for k in (1000, 10_000, 50_000):
        figures[f"ours_k{k}_p50_ms"] = _p50(lambda q, k=k: index.search(q, k), queries[:20])
    rng = np.random.default_rng(0)
    for share in (0.5, 0.1, 0.01, 0.0001):
        rows = np.flatnonzero(rng.random(index.count) < share)
        found = index.search(queries[0], K, rows=rows)
        if len(found.rows) != min(K, len(rows)):
            raise RuntimeError("a filtered search gave another number of results than there are")
        figures[f"ours_filter_{share}_p50_ms"] = _p50(
            lambda q, rows=rows: index.search(q, K, rows=rows), queries[:50]
        )
    return figures


def _p50(search: Search, queries: np.ndarray) -> float:
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(times)), 2)


def _faiss(
    vectors: np.ndarray, _: Collection, __: Path, queries: np.ndarray, truth: list[set[int]]
) -> dict[str, Any]:
    import faiss

    flat = faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    return _measured("faiss_flat", lambda q: flat.search(q[None], K)[1][0], queries[:50], truth)


def _duckdb(
    _: np.ndarray, collection: Collection, __: Path, queries: np.ndarray, truth: list[set[int]]
) -> dict[str, Any]:
    import duckdb

    files = [str(path) for path in collection.part_paths]
    database = duckdb.connect()
    statement = f"""
        SELECT id FROM read_parquet($files) ORDER BY
        array_cosine_similarity(embedding::FLOAT[{DIM}], $query::FLOAT[{DIM}]) DESC LIMIT {K}"""

    def search(query: np.ndarray) -> list[int]:
        values = {"files": files, "query": query.tolist()}
        ids = [row[0].split("_") for row in database.execute(statement, values).fetchall()]
        return [int(part) * PART_ROWS + int(row) for _, part, row in ids]

    times = _p50(search, queries[:3])
    recall = [len(truth[i] & set(search(queries[i]))) / K for i in range(2)]
    return {"duckdb_parquet_p50_ms": times, "duckdb_recall_at_100": float(np.mean(recall))}


def _lancedb(
    vectors: np.ndarray, _: Collection, folder: Path, queries: np.ndarray, truth: list[set[int]]
) -> dict[str, Any]:
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    rows = pa.array(np.arange(len(vectors)))
    database = lancedb.connect(str(folder / "lance"))
    table = database.create_table("t", pa.table({"row": rows, "vector": values}))
    start = time.perf_counter()
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    figures: dict[str, Any] = {"lancedb_build_s": round(time.perf_counter() - start, 1)}
    size = sum(path.stat().st_size for path in (folder / "lance").rglob("*") if path.is_file())
    figures["lancedb_bytes_a_row"] = round(size / len(vectors), 1)

    def search(refine: int | None, probes: int | None) -> Search:
        def ask(query: np.ndarray) -> list[int]:
            asked = table.search(query).limit(K).select(["row", "_distance"])
            asked = asked if probes is None else asked.nprobes(probes)
            asked = asked if refine is None else asked.refine_factor(refine)
            return list(asked.to_arrow()["row"].to_pylist())

        return ask

    for name, refine, probes in [
        ("lancedb_default", None, None),
        ("lancedb_refine5", 5, None),
        ("lancedb_refine10", 10, None),
        ("lancedb_refine10_nprobes64", 10, 64),
    ]:
        figures |= _measured(name, search(refine, probes), queries[:100], truth)
    return figures


def _usearch(
    vectors: np.ndarray, _: Collection, folder: Path, queries: np.ndarray, truth: list[set[int]]
) -> dict[str, Any]:
    from usearch.index import Index

    index = Index(ndim=DIM, metric="cos", dtype="f16")
    start = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors)
    figures: dict[str, Any] = {"usearch_build_s": round(time.perf_counter() - start, 1)}
    path = folder / "usearch.index"
    index.save(str(path))
    figures["usearch_bytes_a_row"] = round(path.stat().st_size / len(vectors), 1)
    for name, expansion in (("usearch", 64), ("usearch_wide", 512)):
        index.expansion_search = expansion
        figures |= _measured(name, lambda q: index.search(q, K).keys, queries, truth)
    return figures


RIVALS = {"faiss": _faiss, "duckdb": _duckdb, "lancedb": _lancedb, "usearch": _usearch}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if sys.argv[1:] else ROWS), indent=1))
