"""Builds the index of a collection: out of core, step by step, resumable.

Memory: 1.1 GB at a million rows of 256 values, 1.3 GB at four million, and little more beyond:
batches of Parquet being decoded, a sample of at most 256 MiB, a block of lists of 256 MiB.
Disk: the vectors in float16, some 185 bytes a row for the other columns (without attributes), and
for a while 8 bytes a row more and twice the lists.

All indexes hold the rows, small ones too: a collection with an index is searched without reading
Parquet, whatever its size, and there is one path to test.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout

from embeddings.atomic import check_space, writing_to
from embeddings.errors import CancelledError, InputError, StoreLockedError
from embeddings.index import files
from embeddings.index.curve import RecallCurve
from embeddings.index.ids import sort_ids
from embeddings.index.ivf import IvfIndex
from embeddings.index.lists import LISTS_FILE, Lists, Plan, load, merge, save, train
from embeddings.index.row_writer import HASHES_FILE, RowWriter, rows_bytes
from embeddings.index.rows import IDS_FILE
from embeddings.index.source import VectorWriter
from embeddings.index.sums import SUMS_FILE, write_sums
from embeddings.index.tune import measure
from embeddings.index.vectors import VALUE_BYTES, VectorFile
from embeddings.store.collection import Collection

IVF_ROWS = 200_000
"""Smaller collections are scanned exactly; see docs/decisions/0007-index.md."""

BLOCK_BYTES = 2**28
ADD_ROWS = 32_768
SEED = 5
SPARE_BYTES = 2**26
_SUMS_FROM = 0.98
"""The share of the whole that is done before the checksums are taken."""

Made = TypeVar("Made")

Progress = Callable[[int, int, str], None]
"""Called with (thousandths done, 1000, what is being done)."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was built: rows, kind and size in bytes, seconds by step, and the recall measured."""

    folder: Path
    kind: files.Kind
    count: int
    bytes: int
    seconds: dict[str, float]
    curve: RecallCurve | None


def build_index(
    collection: Collection,
    *,
    target_recall: float = 0.99,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    ivf_rows: int = IVF_ROWS,
) -> IndexReport:
    """Build the index of the collection as it stands; the old one serves until it is whole.

    Raises CancelledError when ``cancelled`` says so (running again goes on), StoreLockedError if
    another process builds it, StorageFullError before anything is written, StoreFormatError.
    """
    if not 0 < target_recall <= 1:
        raise InputError(f"The recall asked for is {target_recall}; it may be above 0 and up to 1.")
    if not collection.count:
        raise InputError(f"Collection '{collection.id}' is empty. Embed something first.")
    root = files.index_root(collection)
    with writing_to(root):
        root.mkdir(exist_ok=True)
    with writing_to(root):
        lock = FileLock(root / files.LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLockedError(
                f"Another process is building the index of collection '{collection.id}'. Wait "
                "until it has finished."
            ) from None
    try:
        ivf = collection.count >= ivf_rows
        return _Build(collection, target_recall, progress, cancelled).run(ivf)
    finally:
        lock.release()


class _Build:
    """One run of the builder. The lock is held."""

    def __init__(
        self,
        collection: Collection,
        target_recall: float,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._collection = collection
        self._target = target_recall
        self._progress = progress
        self._cancelled = cancelled
        self._folder = files.building_folder(collection)
        self._seconds: dict[str, float] = {}
        self._plan = Plan.of(collection.count, collection.spec.dim)

    def run(self, ivf: bool) -> IndexReport:
        self._sweep()
        self._check_space(ivf)
        with writing_to(self._folder):
            self._folder.mkdir(exist_ok=True)
        path = self._folder / files.VECTORS_FILE
        # Shares of the whole are what the steps took in trials.
        share = 0.35 if ivf else _SUMS_FROM
        self._step("vectors", lambda: self._write_vectors(path, 0.6 * share))
        self._step("rows", lambda: self._write_rows(0.6 * share, share))
        # Windows renames no folder with open files: all are closed when this returns.
        curve = self._make_lists(path) if ivf else None
        sums = self._step("sums", lambda: self._write_sums(curve))
        return self._publish(curve, sums)

    def _make_lists(self, path: Path) -> RecallCurve | None:
        vectors = VectorFile(path, self._collection.count, self._plan.dim)
        self._step("train", lambda: self._train(vectors))
        self._step("lists", lambda: self._fill(vectors))
        return self._step("measure", lambda: self._measure(vectors))

    def _step(self, name: str, work: Callable[[], Made]) -> Made:
        start = time.monotonic()
        made = work()
        self._seconds[name] = round(time.monotonic() - start, 3)
        return made

    def _tell(self, share: float, message: str) -> None:
        """Report how far it is. Raises CancelledError."""
        if self._progress is not None:
            self._progress(int(1000 * share), 1000, message)
        if self._cancelled is not None and self._cancelled():
            raise CancelledError(
                f"Building the index of '{self._collection.id}' was stopped. What was finished is "
                "kept; run it again to go on."
            )

    def _sweep(self) -> None:
        """Remove what was begun for other rows, by other releases, or was left half-written."""
        for folder in files.index_root(self._collection).glob(f"{files.BUILDING}*"):
            if folder != self._folder:
                shutil.rmtree(folder, ignore_errors=True)
        for left in self._folder.glob(".*.tmp*"):
            left.unlink(missing_ok=True)

    def _check_space(self, ivf: bool) -> None:
        count, dim = self._collection.count, self._collection.spec.dim
        lists = 2 * count * self._plan.row_bytes if ivf else 0
        # Windows does not tell how much of a file is really there.
        blocks = (getattr(f.stat(), "st_blocks", 0) for f in self._folder.glob("*"))
        there = 512 * sum(blocks)
        needed = count * dim * VALUE_BYTES + rows_bytes(self._collection) + lists + SPARE_BYTES
        check_space(self._folder, needed - there)

    def _write_vectors(self, path: Path, share: float) -> None:
        count = self._collection.count

        def told(rows: int) -> None:
            self._tell(share * rows / count, f"{rows:,} of {count:,} vectors read")

        self._tell(0.0, f"Reading {count:,} vectors")
        VectorWriter(self._collection, path).write(told)

    def _write_rows(self, start: float, stop: float) -> None:
        count = self._collection.count

        def told(rows: int) -> None:
            share = start + 0.9 * (stop - start) * rows / count
            self._tell(share, f"{rows:,} of {count:,} rows written")

        RowWriter(self._collection, self._folder).write(told)

        def sorted_so_far(rows: int) -> None:
            share = start + (stop - start) * (0.9 + 0.1 * rows / count)
            self._tell(share, f"{rows:,} of {count:,} ids sorted")

        target = self._folder / IDS_FILE
        if not target.exists():
            sort_ids(self._folder / HASHES_FILE, target, count, sorted_so_far)

    def _train(self, vectors: VectorFile) -> None:
        path = self._folder / "trained.faiss"
        if path.exists():
            return
        many = min(self._plan.training_rows, vectors.count)
        rows = np.random.default_rng(SEED).choice(vectors.count, many, replace=False)
        sample = vectors.take(np.sort(rows).astype(np.int64))

        def told(step: int) -> None:
            self._tell(0.35 + 0.005 * step, f"Fitting {self._plan.lists:,} lists")

        save(train(self._plan, sample, told), path)

    def _fill(self, vectors: VectorFile) -> None:
        """Put all vectors into lists, block by block, then join the blocks."""
        size = max(ADD_ROWS, BLOCK_BYTES // self._plan.row_bytes)
        blocks: list[Path] = []
        for start in range(0, vectors.count, size):
            path = self._folder / f"block-{len(blocks):05d}.faiss"
            if not path.exists():
                self._fill_block(vectors, start, min(start + size, vectors.count), path)
            blocks.append(path)
        self._tell(0.6, "Joining the lists")
        empty = load(self._folder / "trained.faiss")
        merge(empty, vectors.count, blocks, self._folder / LISTS_FILE)

    def _fill_block(self, vectors: VectorFile, start: int, stop: int, path: Path) -> None:
        index = load(self._folder / "trained.faiss")
        for first in range(start, stop, ADD_ROWS):
            share = 0.4 + 0.2 * first / vectors.count
            self._tell(share, f"{first:,} of {vectors.count:,} vectors in lists")
            last = min(first + ADD_ROWS, stop)
            index.add_with_ids(vectors.block(first, last), np.arange(first, last))
        save(index, path)

    def _measure(self, vectors: VectorFile) -> RecallCurve | None:
        lists = Lists(self._folder, vectors.count, self._plan)

        def told(share: float) -> None:
            done = 0.65 + (_SUMS_FROM - 0.65) * share
            self._tell(done, "Measuring the recall against an exact scan")

        return measure(
            lambda curve: IvfIndex(vectors, lists, curve, self._target),
            vectors,
            SEED + 1,
            told,
        )

    def _write_sums(self, curve: RecallCurve | None) -> str:
        def told(share: float) -> None:
            self._tell(_SUMS_FROM + (1 - _SUMS_FROM) * share, "Taking checksums")

        return write_sums(self._folder, files.named_files(_kind(curve)), told)

    def _publish(self, curve: RecallCurve | None, sums: str) -> IndexReport:
        """Write ``index.json``, and let the new index take the place of all others."""
        kind = _kind(curve)
        names = files.named_files(kind)
        manifest = files.Manifest(
            key=files.key_of(self._collection),
            kind=kind,
            count=self._collection.count,
            dim=self._plan.dim,
            code="" if curve is None else self._plan.code,
            lists=0 if curve is None else self._plan.lists,
            target_recall=self._target,
            curve=curve,
            files={name: (self._folder / name).stat().st_size for name in names},
            sums=sums,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(sum(self._seconds.values()), 3),
        )
        manifest.save(self._folder)
        for path in self._folder.iterdir():
            if path.name not in {*names, SUMS_FILE, files.MANIFEST_FILE}:
                path.unlink()
        final = files.next_folder(self._collection)
        with writing_to(final):
            self._folder.rename(final)
        files.remove_others(self._collection, final)
        size = sum(manifest.files.values()) + (final / SUMS_FILE).stat().st_size
        return IndexReport(final, manifest.kind, manifest.count, size, dict(self._seconds), curve)


def _kind(curve: RecallCurve | None) -> files.Kind:
    return "scan" if curve is None else "ivf"
