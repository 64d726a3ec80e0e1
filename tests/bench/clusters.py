"""The seeded collection that the benches of searches share: written once, its truth, their times.

Each of those benches runs alone as `python tests/bench/NAME.py [rows] [folder]`; what a named
folder holds is used again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from embeddings.index.build import build_index  # noqa: E402
from embeddings.index.open import open_index  # noqa: E402
from embeddings.store import Store  # noqa: E402
from embeddings.store.collection import Collection  # noqa: E402
from tests.embeddings.index_data import clustered, spec_of, write_collection  # noqa: E402

ROWS, DIM, K = 1_000_000, 256, 100
PART_ROWS = 125_000
NAME = "clusters"
TIMES = (datetime(2018, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC))
TRUTH_BLOCK = 20
"""Queries that are compared with all rows at once."""


@dataclass(frozen=True)
class Clusters:
    """A store with the one collection ``NAME`` of ``count`` rows at seeded places and times."""

    folder: Path

    @classmethod
    @contextmanager
    def written(cls, count: int = ROWS, folder: Path | None = None) -> Iterator[Clusters]:
        """Write the store for the length of a with block; one that stands in a folder is kept."""
        with tempfile.TemporaryDirectory() as temporary:
            made = cls(folder or Path(temporary))
            if not (made.store / NAME / "collection.json").exists():
                Store.create(made.store)
                parts = range(max(1, round(count / PART_ROWS)))
                pieces = [partial(clustered, PART_ROWS, DIM, part) for part in parts]
                write_collection(made.store / NAME, spec_of(DIM), pieces, TIMES)
            yield made

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self.folder / "store"

    @cached_property
    def collection(self) -> Collection:
        """The collection."""
        return Collection.load(self.store / NAME)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.collection.count

    @cached_property
    def vectors(self) -> np.ndarray:
        """All vectors at length 1, ``(count, DIM) float32``."""
        found = np.empty((self.count, DIM), np.float32)
        for part in range(self.count // PART_ROWS):
            piece = clustered(PART_ROWS, DIM, part)
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
            found[part * PART_ROWS : (part + 1) * PART_ROWS] = piece
        return found

    @cached_property
    def items(self) -> dict[str, np.ndarray]:
        """``lon``, ``lat`` in degrees and ``datetime`` (datetime64) of all rows ``(count,)``."""
        names = ["lon", "lat", "datetime"]
        table = pq.read_table(self.collection.part_paths, columns=names)
        return {name: table[name].to_numpy() for name in names}

    def index(self) -> None:
        """Build the index unless it stands."""
        if open_index(self.collection) is None:
            build_index(self.collection, ivf_rows=1)

    def truth(self, queries: np.ndarray, k: int = K) -> list[set[int]]:
        """Return the numbers of the k true best rows of each query ``(n, DIM)``."""
        found = []
        for start in range(0, len(queries), TRUTH_BLOCK):
            scores = queries[start : start + TRUTH_BLOCK] @ self.vectors.T
            found += [set(row.tolist()) for row in np.argpartition(-scores, k, axis=1)[:, :k]]
        return found


def row_of(item_id: str) -> int:
    """Return the number of the row that has an id."""
    _, part, row = item_id.split("_")
    return int(part) * PART_ROWS + int(row)


def timed(ask: Callable[[Any], Any], queries: Iterable[Any]) -> tuple[list[float], list[Any]]:
    """Ask one query after the other; return milliseconds and answers."""
    times, answers = [], []
    for query in queries:
        start = time.perf_counter()
        answers.append(ask(query))
        times.append(1000 * (time.perf_counter() - start))
    return times, answers


def spread(name: str, times: list[float]) -> dict[str, float]:
    """Return median and 95th percentile of milliseconds as two figures."""
    p50, p95 = np.percentile(times, [50, 95])
    return {f"{name}_p50_ms": round(float(p50), 2), f"{name}_p95_ms": round(float(p95), 2)}


def recall(found: Iterable[int], best: set[int]) -> float:
    """Return which share of the true best was found; 1 if there is none."""
    return len(best & {int(row) for row in found}) / len(best) if best else 1.0


def main(run: Callable[[Clusters], dict[str, Any]]) -> int:
    """Run one bench as the command line says."""
    count = int(sys.argv[1]) if sys.argv[1:] else ROWS
    with Clusters.written(count, Path(sys.argv[2]) if sys.argv[2:] else None) as clusters:
        print(json.dumps(run(clusters), indent=1))
    return 0
