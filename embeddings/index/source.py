"""The vectors of a collection, out of its Parquet parts into one file of unit vectors."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embeddings import codec
from embeddings.atomic import write_text, writing_to
from embeddings.errors import StoreFormatError
from embeddings.index.base import Vectors
from embeddings.index.scan import unit
from embeddings.index.vectors import VALUE_BYTES
from embeddings.store.collection import Collection, Part
from embeddings.store.schema import embedding_matrix

BATCH_BYTES = 2**26
"""Of a batch in float32; a few copies of it are made in each thread."""
THREADS = 4
KEEP_SECONDS = 5.0


class VectorWriter:
    """Writes the file part by part, at most four at once, and remembers which are whole."""

    def __init__(self, collection: Collection, path: Path) -> None:
        self._collection = collection
        self._path = path
        self._kept = path.with_suffix(".json")
        parts = [part for part in collection.parts if part.rows]
        starts = itertools.accumulate((part.rows for part in parts), initial=0)
        self._parts = list(zip(parts, starts, strict=False))
        self._stop = threading.Event()

    def write(self, check: Callable[[int], None]) -> None:
        """Write what is missing. ``check(rows done)`` may raise to stop; that is kept.

        Raises StoreFormatError, StorageFullError or StoreNotWritableError.
        """
        done = self._begin()
        left = [(part, start) for part, start in self._parts if part.file not in done]
        rows = sum(part.rows for part, _ in self._parts if part.file in done)
        kept = time.monotonic()
        with writing_to(self._path), ThreadPoolExecutor(_threads()) as threads:
            waiting = {threads.submit(self._write_part, *item): item[0] for item in left}
            try:
                for future in as_completed(waiting):
                    future.result()
                    part = waiting[future]
                    done.add(part.file)
                    rows += part.rows
                    if time.monotonic() - kept > KEEP_SECONDS:
                        self._keep(done)
                        kept = time.monotonic()
                    check(rows)
            finally:
                self._stop.set()
                _cancel(waiting)
                self._keep(done)

    def _begin(self) -> set[str]:
        """Return the parts that an earlier run finished; make room for all."""
        spec = self._collection.spec
        size = self._collection.count * spec.dim * VALUE_BYTES
        with writing_to(self._path):
            try:
                known = json.loads(self._kept.read_text(encoding="utf-8"))
                if self._path.stat().st_size == size:
                    return set(known["parts"])
            except (OSError, ValueError, KeyError, TypeError):
                pass  # There is none, or it was not written to its end.
            self._kept.unlink(missing_ok=True)
            with self._path.open("wb") as file:
                file.truncate(size)
        return set()

    def _keep(self, done: set[str]) -> None:
        """Note the finished parts, once they are safely on the disk."""
        with self._path.open("rb+") as file:
            os.fsync(file.fileno())
        write_text(self._kept, json.dumps({"parts": sorted(done)}) + "\n")

    def _write_part(self, part: Part, start: int) -> None:
        spec = self._collection.spec
        with self._path.open("rb+") as file:
            file.seek(start * spec.dim * VALUE_BYTES)
            rows = 0
            for units in part_units(self._collection, part):
                if self._stop.is_set():
                    return
                rows += len(units)
                # The rows of the next part are not written over.
                if rows <= part.rows:
                    file.write(units.astype(np.float16).tobytes())
        if rows != part.rows:
            raise StoreFormatError(
                f"{part.file} of collection '{self._collection.id}' has {rows:,} rows instead of "
                f"{part.rows:,}. Run 'terrakin verify'."
            )


def part_units(collection: Collection, part: Part) -> Iterator[Vectors]:
    """Yield the vectors ``(n, dim)`` of a part, centred as the spec says, at length 1."""
    spec = collection.spec
    centre = None if spec.centre is None else np.asarray(spec.centre, np.float32)
    try:
        with pq.ParquetFile(collection.path / part.file) as file:
            rows = max(1, BATCH_BYTES // (4 * spec.dim))
            for batch in file.iter_batches(rows, columns=["embedding"], use_threads=False):
                stored = embedding_matrix(batch.column("embedding"))
                vectors = codec.decode(stored, spec.dtype, spec.scale)
                yield unit(vectors if centre is None else vectors - centre)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreFormatError(
            f"{part.file} of collection '{collection.id}' could not be read ({error}). It may "
            "have been changed while it was read: try again; then run 'terrakin verify'."
        ) from error


def _threads() -> int:
    return min(THREADS, os.cpu_count() or 1)


def _cancel(waiting: dict[Future[None], Part]) -> None:
    for future in waiting:
        future.cancel()
