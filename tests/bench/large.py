"""``make bench-large``: how a search grows from 1 to 4 to 16 million rows of 256 values.

Over HTTP through the real server; writes build/bench-large.json. The vectors are seeded and made
in pieces, so that none of it needs them all in memory; the true neighbours are found on the way.

`python tests/bench/large.py [millions ...] [--keep]`: what was kept is searched again, not built.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from clusters import DIM, PART_ROWS, K, timed  # noqa: E402
from served import TERRAKIN, served  # noqa: E402

from embed_server.client import Client  # noqa: E402
from embeddings.store import Store  # noqa: E402
from embeddings.store.collection import Collection  # noqa: E402
from tests.embeddings.index_data import clustered, spec_of, write_collection  # noqa: E402

FRESH, CLICKS = 100, 200
BYTES_A_ROW = 2_100
"""Parquet, index, and what its building takes for a while."""
FOLDER = ROOT / "build" / "large"


class Truth:
    """The true K best of each query ``(n, DIM)``, found piece by piece. Thread-safe."""

    def __init__(self, queries: np.ndarray) -> None:
        self._units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        self._scores = np.full((len(queries), K), -np.inf, np.float32)
        self._rows = np.full((len(queries), K), -1, np.int64)
        self._lock = threading.Lock()

    def add(self, vectors: np.ndarray, start: int) -> None:
        """Compare the queries with the rows from ``start`` on."""
        scores = self._units @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        with self._lock:
            for i, row in enumerate(scores):
                near = np.flatnonzero(row > self._scores[i].min())
                held = np.concatenate([self._scores[i], row[near]])
                rows = np.concatenate([self._rows[i], near + start])
                best = np.argsort(-held, kind="stable")[:K]
                self._scores[i], self._rows[i] = held[best], rows[best]

    def save(self, path: Path) -> None:
        """Keep the row numbers found."""
        np.save(path, self._rows)

    def load(self, path: Path) -> None:
        """Take the row numbers that were kept."""
        self._rows = np.load(path)

    def ids(self, query: int) -> set[str]:
        """Return the ids that ``write_collection`` gave to the true best."""
        parts = divmod(self._rows[query], PART_ROWS)
        return {f"s_{part}_{row}" for part, row in zip(*parts, strict=True)}


def run(millions: int, keep: bool = False) -> dict[str, Any]:
    """Write, index and search a collection; it is removed in the end unless it is to be kept."""
    count = millions * 1_000_000
    store = FOLDER / f"{millions}m"
    queries = clustered(FRESH, DIM, seed=10_000)
    truth = Truth(queries)
    built = store / "built.json"
    free = shutil.disk_usage(ROOT).free
    if not built.exists():
        shutil.rmtree(store, ignore_errors=True)
        if free < count * BYTES_A_ROW:
            return {
                "skipped": f"{count * BYTES_A_ROW / 1e9:,.0f} GB of disk are needed, "
                f"{free / 1e9:,.0f} are free"
            }
    try:
        if not built.exists():
            Store.create(store)
            pieces = [partial(_piece, part, truth) for part in range(count // PART_ROWS)]
            write_collection(store / "large", spec_of(DIM), pieces)
            truth.save(store / "truth.npy")
            built.write_text(json.dumps(_build(store)))
        truth.load(store / "truth.npy")
        collection = Collection.load(store / "large")
        figures = {"rows": collection.count, **json.loads(built.read_text())}
        return figures | _search(store, collection, queries, truth)
    finally:
        if not keep:
            shutil.rmtree(store, ignore_errors=True)


def _piece(part: int, truth: Truth) -> np.ndarray:
    vectors = clustered(PART_ROWS, DIM, part)
    # As they are stored: half floats.
    truth.add(vectors.astype(np.float16).astype(np.float32), part * PART_ROWS)
    return vectors


def _build(store: Path) -> dict[str, Any]:
    start = time.perf_counter()
    command = [TERRAKIN, "index", "--store", store, "--collection", "large", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        anonymous = 0.0
        while process.poll() is None:
            anonymous = max(anonymous, _memory(process.pid).get("anonymous_gb", 0.0))
            time.sleep(0.2)
        report = json.load(process.stdout)
    if process.returncode:
        raise RuntimeError("the index could not be built")
    return {
        "build_s": round(time.perf_counter() - start, 1),
        "build_anonymous_gb": anonymous,
        "index_bytes_a_row": round(report["bytes"] / report["rows"], 1),
    }


def _search(
    store: Path, collection: Collection, queries: np.ndarray, truth: Truth
) -> dict[str, Any]:
    _forget(collection.path)
    with served(store) as (ready, pid), Client.from_ready_file(ready) as client:
        start = time.perf_counter()
        client.search("large", positive={"vectors": [queries[0].tolist()]}, k=K)
        figures = {"cold_open_and_first_search_s": round(time.perf_counter() - start, 2)}
        bodies = [{"positive": {"vectors": [query.tolist()]}} for query in queries]
        cold, answers = _ask(client, bodies)
        warm, _ = _ask(client, bodies)
        shares = [
            len(truth.ids(i) & {f["id"] for f in answer["features"]}) / K
            for i, answer in enumerate(answers)
        ]
        clicks, clicked = _ask(client, [{"at": place} for place in _places(collection)])
        stages = [answer["timing_ms"] for answer in clicked]
        return figures | {
            **_spread("first_time", cold),
            **_spread("again", warm),
            **_spread("click", clicks),
            "click_stages_ms": {
                name: round(float(np.median([stage[name] for stage in stages])), 2)
                for name in stages[0]
            },
            "recall_at_100": round(float(np.mean(shares)), 4),
            "stated_recall": round(float(np.mean([a["expected_recall"] for a in answers])), 4),
            "considered": int(np.median([a["considered"] for a in answers])),
            **_memory(pid),
        }


def _ask(client: Client, bodies: list[dict[str, Any]]) -> tuple[list[float], list[dict[str, Any]]]:
    return timed(lambda body: client.search("large", k=K, **body), bodies)


def _spread(name: str, times: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(times, [50, 95])
    return {f"{name}_p50_ms": round(float(p50), 2), f"{name}_p95_ms": round(float(p95), 2)}


def _places(collection: Collection) -> list[list[float]]:
    """Return the centres of rows all over the collection."""
    rng = np.random.default_rng(3)
    places = []
    for path in rng.choice(collection.part_paths, CLICKS):
        table = pq.read_table(path, columns=["lon", "lat"])
        row = int(rng.integers(table.num_rows))
        places.append([table["lon"][row].as_py(), table["lat"][row].as_py()])
    return places


def _forget(folder: Path) -> None:
    """Let the system's cache forget the files, as after a restart (where it can be asked to)."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _memory(pid: int) -> dict[str, float]:
    """Return what a process holds of its own and of files, in GB; empty but on Linux."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = dict(re.findall(r"Rss(Anon|File):\s+(\d+) kB", text))
    names = {"Anon": "anonymous_gb", "File": "file_backed_gb"}
    return {names[kind]: round(int(size) / 1e6, 3) for kind, size in found.items()}


def main() -> int:
    """Run the sizes asked for, print each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("millions", nargs="*", type=int, default=[1, 4, 16])
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    results = {}
    for millions in asked.millions:
        results[f"{millions}M"] = run(millions, asked.keep)
        print(f"{millions} million:")
        for name, value in results[f"{millions}M"].items():
            print(f"  {name:<32} {value}", flush=True)
    out = ROOT / "build" / "bench-large.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
