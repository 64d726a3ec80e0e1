"""The index of a large collection against other engines: same vectors, same queries, one run.

`python tests/bench/index_speed.py [rows] [folder]`; in process, one query after the other.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from clusters import DIM, Clusters, K, main, recall, row_of, spread, timed
from rivals import installed, lance_table

from embeddings.index.build import build_index
from embeddings.index.open import open_index
from tests.embeddings.index_data import clustered

QUERIES, WARM_UP = 200, 10
SLOW_QUERIES = 50
DUCKDB_QUERIES = 3
IVF, PROBES = "IVF1024,SQ8", 64
"""What faiss itself does at a recall of 0.99 on such vectors."""

Search = Callable[[np.ndarray], Any]
"""A query vector -> the row numbers of the K best."""
Truth = list[set[int]]


def run(clusters: Clusters) -> dict[str, Any]:
    """Build and search our index and the rivals'; a rival that is not installed is skipped."""
    queries = clustered(QUERIES, DIM, seed=10_000)
    truth = clusters.truth(queries)
    figures: dict[str, Any] = {"vectors": clusters.count, "dim": DIM, "k": K}
    figures |= _told(_ours(clusters, queries, truth))
    for name, rival in RIVALS.items():
        if installed(name):
            figures |= _told(rival(clusters, queries, truth))
    return figures | _ratios(figures)


def _told(figures: dict[str, Any]) -> dict[str, Any]:
    """Show what is known so far: a run takes ten minutes."""
    print(json.dumps(figures, indent=1), file=sys.stderr)
    return figures


def _ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Return how many times as long as ours the rivals take that answer as well or worse."""
    ours, recalled = figures["ours_p50_ms"], figures["ours_recall_at_100"]
    found = {}
    for key, milliseconds in figures.items():
        name = key.removesuffix("_p50_ms")
        if name == key or name.startswith("ours"):
            continue
        better = round(recalled - figures[f"{name}_recall_at_100"], 4)
        found[f"ratio_{name}_to_ours"] = round(milliseconds / ours, 1)
        found[f"recall_of_ours_above_{name}"] = better
    return found


def _measured(name: str, search: Search, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Time one query after the other, the first few unmeasured."""
    timed(search, queries[:WARM_UP])
    times, answers = timed(search, queries)
    shares = [recall(found, best) for found, best in zip(answers, truth, strict=False)]
    return {**spread(name, times), f"{name}_recall_at_100": round(float(np.mean(shares)), 4)}


def _ours(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    collection = clusters.collection
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
        figures[f"ours_k{k}_ms"] = _p50(lambda q, k=k: index.search(q, k), queries[:20])
    rng = np.random.default_rng(0)
    for share in (0.5, 0.1, 0.01, 0.0001):
        rows = np.flatnonzero(rng.random(index.count) < share)
        found = index.search(queries[0], K, rows=rows)
        if len(found.rows) != min(K, len(rows)):
            raise RuntimeError("a filtered search gave another number of results than there are")
        figures[f"ours_filter_{share}_ms"] = _p50(
            lambda q, rows=rows: index.search(q, K, rows=rows), queries[:50]
        )
    return figures


def _p50(search: Search, queries: np.ndarray) -> float:
    return round(float(np.median(timed(search, queries)[0])), 2)


def _faiss(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    return _flat(clusters, queries[:SLOW_QUERIES], truth) | _ivf(clusters, queries, truth)


def _flat(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(clusters.vectors)
    return _measured("faiss_flat", lambda q: index.search(q[None], K)[1][0], queries, truth)


def _ivf(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    import faiss

    index = faiss.index_factory(DIM, IVF, faiss.METRIC_INNER_PRODUCT)
    start = time.perf_counter()
    index.train(clusters.vectors)
    index.add(clusters.vectors)
    figures: dict[str, Any] = {"faiss_ivf_build_s": round(time.perf_counter() - start, 1)}
    path = clusters.folder / "faiss.index"
    faiss.write_index(index, str(path))
    figures["faiss_ivf_bytes_a_row"] = round(path.stat().st_size / clusters.count, 1)
    index.nprobe = PROBES
    return figures | _measured(
        "faiss_ivf", lambda q: index.search(q[None], K)[1][0], queries, truth
    )


def _duckdb(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    import duckdb

    files = [str(path) for path in clusters.collection.part_paths]
    database = duckdb.connect()
    statement = f"""
        SELECT id FROM read_parquet($files) ORDER BY
        array_cosine_similarity(embedding::FLOAT[{DIM}], $query::FLOAT[{DIM}]) DESC LIMIT {K}"""

    def search(query: np.ndarray) -> list[int]:
        values = {"files": files, "query": query.tolist()}
        return [row_of(row[0]) for row in database.execute(statement, values).fetchall()]

    times, answers = timed(search, queries[:DUCKDB_QUERIES])
    shares = [recall(found, best) for found, best in zip(answers, truth, strict=False)]
    size = sum(part.bytes for part in clusters.collection.parts)
    return {
        "duckdb_parquet_p50_ms": round(float(np.median(times)), 1),
        "duckdb_parquet_recall_at_100": round(float(np.mean(shares)), 4),
        "parquet_bytes_a_row": round(size / clusters.count, 1),
    }


def _lancedb(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    table, figures = lance_table(clusters, anew=True)

    def search(refine: int | None, probes: int | None) -> Search:
        def ask(query: np.ndarray) -> list[int]:
            asked = table.search(query).limit(K).select(["row", "_distance"])
            asked = asked if probes is None else asked.nprobes(probes)
            asked = asked if refine is None else asked.refine_factor(refine)
            return list(asked.to_arrow()["row"].to_pylist())

        return ask

    for name, refine, probes in [
        ("lancedb_default", None, None),
        ("lancedb_refine10", 10, None),
        ("lancedb_refine10_nprobes64", 10, 64),
    ]:
        figures |= _measured(name, search(refine, probes), queries[:100], truth)
    return figures


def _usearch(clusters: Clusters, queries: np.ndarray, truth: Truth) -> dict[str, Any]:
    from usearch.index import Index

    index = Index(ndim=DIM, metric="cos", dtype="f16")
    start = time.perf_counter()
    index.add(np.arange(clusters.count), clusters.vectors)
    figures: dict[str, Any] = {"usearch_build_s": round(time.perf_counter() - start, 1)}
    path = clusters.folder / "usearch.index"
    index.save(str(path))
    figures["usearch_bytes_a_row"] = round(path.stat().st_size / clusters.count, 1)
    for name, expansion in (("usearch", 64), ("usearch_wide", 512)):
        index.expansion_search = expansion
        figures |= _measured(name, lambda q: index.search(q, K).keys, queries, truth)
    return figures


RIVALS = {"faiss": _faiss, "duckdb": _duckdb, "lancedb": _lancedb, "usearch": _usearch}


if __name__ == "__main__":
    sys.exit(main(run))
