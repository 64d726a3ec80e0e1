"""Inverted lists of compressed vectors: the only importer of faiss.

Vectors are put into the list of the nearest of ``lists`` centres and stored there as 8 bits a value
(SQ8), in very large collections as 4 bits (SQ4). A search compares the query with the vectors of
the lists that lie nearest to it. docs/decisions/0007-index.md says why these codes.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.atomic import atomic_path
from embeddings.errors import StoreFormatError
from embeddings.index import shapes
from embeddings.index.base import Mask, Rows, Vectors
from embeddings.index.sums import Guard

Code = Literal["SQ8", "SQ4"]

LISTS_FILE = "ivf.faiss"

SQ8_BYTES = 2**31
"""Beyond this many values SQ4 keeps the lists within memory; it scans a fifth more slowly."""
ID_BYTES = 8
TRAIN_ROUNDS = 10
TRAIN_PER_LIST = 64
TRAIN_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Plan:
    """How many lists there are, and how vectors are stored in them."""

    dim: int
    lists: int
    code: Code

    @classmethod
    def of(cls, count: int, dim: int) -> Plan:
        """Choose for a collection: about the square root of its rows, as a power of two."""
        lists = 2 ** max(4, round(math.log2(max(count, 1)) / 2))
        while lists > 16 and lists * TRAIN_PER_LIST > min(count, TRAIN_BYTES // (4 * dim)):
            lists //= 2
        return cls(dim, lists, "SQ8" if count * dim <= SQ8_BYTES else "SQ4")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the lists."""
        return ID_BYTES + (self.dim if self.code == "SQ8" else (self.dim + 1) // 2)

    @property
    def training_rows(self) -> int:
        """How many vectors the centres are fitted on."""
        return self.lists * TRAIN_PER_LIST


def train(plan: Plan, sample: Vectors, check: Callable[[int], None]) -> Any:
    """Return an empty faiss index: spherical k-means, then the range of the codes.

    ``check(round)`` is called before each round and may raise to stop.
    """
    faiss = _faiss()
    centres: Any = None
    for step in range(TRAIN_ROUNDS):
        check(step)
        means = faiss.Kmeans(
            plan.dim,
            plan.lists,
            niter=1,
            spherical=True,
            seed=step,
            max_points_per_centroid=2 * TRAIN_PER_LIST,
            min_points_per_centroid=1,
        )
        means.train(sample, init_centroids=centres)
        centres = means.centroids
    quantizer = faiss.IndexFlatIP(plan.dim)
    quantizer.add(centres)
    kind = {"SQ8": faiss.ScalarQuantizer.QT_8bit, "SQ4": faiss.ScalarQuantizer.QT_4bit}[plan.code]
    index = faiss.IndexIVFScalarQuantizer(
        quantizer,
        plan.dim,
        plan.lists,
        kind,
        faiss.METRIC_INNER_PRODUCT,
        # Differences from the centre need fewer bits, but take longer to compare.
        plan.code == "SQ4",
    )
    quantizer.this.disown()
    index.own_fields = True
    index.train(sample)
    return index


def save(index: Any, path: Path) -> None:
    """Write a faiss index whole or not at all."""
    faiss = _faiss()
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def load(path: Path) -> Any:
    """Read a faiss index into memory."""
    faiss = _faiss()
    return faiss.read_index(str(path))


def merge(empty: Any, count: int, blocks: Sequence[Path], path: Path) -> None:
    """Join the lists of the blocks into one file, list by list, without holding them in memory.

    The file is what faiss itself would write of the index with all ``count`` rows, and after
    that the shapes of the lists.
    """
    faiss = _faiss()
    parts = [faiss.read_index(str(block), _mapping()) for block in blocks]
    empty.ntotal = count
    head = faiss.serialize_index(empty).tobytes()
    lists = [part.invlists for part in parts]
    sizes = [[one.list_size(i) for one in lists] for i in range(empty.nlist)]
    homes = np.empty(count, np.int64)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(head[: head.rindex(b"ilar")])
        file.write(b"ilar" + struct.pack("<QQ", empty.nlist, empty.code_size))
        file.write(b"full" + struct.pack("<Q", empty.nlist))
        file.write(np.array([sum(size) for size in sizes], "<u8").tobytes())
        for number, size in enumerate(sizes):
            there = [(one, n) for one, n in zip(lists, size, strict=True) if n]
            for one, n in there:
                file.write(faiss.rev_swig_ptr(one.get_codes(number), n * empty.code_size))
            for one, n in there:
                rows = faiss.rev_swig_ptr(one.get_ids(number), n)
                homes[rows] = number
                file.write(rows)
        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as threads:
            shape = partial(_shape, empty, _centres(empty), lists)
            shapes.write(threads.map(shape, range(empty.nlist), sizes), homes, file)


def _shape(
    empty: Any, centres: Vectors, blocks: Sequence[Any], number: int, sizes: Sequence[int]
) -> shapes.Shape:
    """Describe a list by a seeded sample of its rows, as their codes tell."""
    faiss = _faiss()
    whole, rng = sum(sizes), np.random.default_rng(number)
    chosen = rng.choice(whole, min(whole, shapes.MEMBERS), replace=False)
    codes, start = np.empty((len(chosen), empty.code_size), np.uint8), 0
    for one, n in zip(blocks, sizes, strict=True):
        here = (chosen >= start) & (chosen < start + n)
        if here.any():
            values = faiss.rev_swig_ptr(one.get_codes(number), n * empty.code_size)
            codes[here] = values.reshape(n, -1)[chosen[here] - start]
        start += n
    members = empty.sq.decode(codes) if whole else np.empty((0, empty.d), np.float32)
    if empty.by_residual:
        members += centres[number]
    return shapes.Shape.of(members, shapes.rank_of(empty.nlist, empty.d))


def _centres(index: Any) -> Vectors:
    """Return the centres ``(lists, dim)`` of an index, which it holds."""
    faiss = _faiss()
    quantizer = faiss.downcast_index(index.quantizer)
    values = faiss.rev_swig_ptr(quantizer.get_xb(), index.nlist * index.d)
    return np.asarray(values.reshape(index.nlist, index.d))


class Lists:
    """The finished lists, opened for searching. Thread-safe."""

    def __init__(self, folder: Path, count: int, plan: Plan, guard: Guard | None = None) -> None:
        """Open without reading the lists. Raises StoreFormatError if it is not what was built.

        With a guard, a list that is damaged raises IndexDamagedError when it is first looked into.
        """
        faiss = _faiss()
        path = folder / LISTS_FILE
        self._guard = guard or Guard.trusting(path)
        self._row_bytes = plan.row_bytes
        behind = path.stat().st_size - shapes.tail_bytes(count, plan.lists, plan.dim)
        head = behind - count * plan.row_bytes
        # Where faiss cannot map the lists it reads them here.
        self._guard.span(0, head if _mapping() else behind)
        try:
            self._index = faiss.read_index(str(path), _mapping())
        except RuntimeError as error:
            raise StoreFormatError(
                f"{path} cannot be read ({error}). Build the index again."
            ) from error
        told = (self._index.ntotal, self._index.d, self._index.nlist)
        if told != (count, plan.dim, plan.lists):
            raise StoreFormatError(f"{path} is another index. Build it again.")
        self._lists = faiss.downcast_InvertedLists(self._index.invlists)
        if hasattr(self._lists, "prefetch_nthread"):
            # Threads that read ahead cost more than they bring where the file is in the cache.
            self._lists.prefetch_nthread = 0
        self._sizes = np.array(
            [self._lists.list_size(i) for i in range(self._index.nlist)], np.int64
        )
        # The codes of a list, then its rows, and then the next list.
        self._starts = head + plan.row_bytes * (np.cumsum(self._sizes) - self._sizes)
        self._sound = np.zeros(plan.lists, np.bool_)
        self._centres = _centres(self._index)
        self._shapes = shapes.Shapes(path, self._sizes, plan.dim, self._guard)

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return len(self._sizes)

    def outlook(
        self, query: Vectors, among: Rows | None = None, without: Rows | None = None
    ) -> shapes.Outlook:
        """Return what lists may hold for a unit query, of rows ``among`` or ``without`` some."""
        return self._shapes.outlook(query, among, without)

    def sizes(self, lists: Rows) -> int:
        """Return how many rows stand in lists."""
        return int(self._sizes[lists].sum())

    def allowed(self, lists: Rows, mask: Mask) -> int:
        """Return how many rows of lists are allowed."""
        faiss = _faiss()
        self._check(lists)
        found = 0
        for number in lists.ravel().tolist():
            size = int(self._sizes[number])
            if size:
                ids = faiss.rev_swig_ptr(self._lists.get_ids(number), size)
                found += int(np.count_nonzero(mask[ids]))
        return found

    def search(
        self, query: Vectors, k: int, lists: Rows, bits: NDArray[np.uint8] | None
    ) -> tuple[Rows, Vectors]:
        """Return at most ``k`` rows of ``lists (m,)`` that seem best, and how near they seem.

        In no certain order. ``bits`` holds one bit a row, little-endian: which are allowed.
        """
        faiss = _faiss()
        self._check(lists)
        near = self._centres[lists] @ query
        scores = np.empty(k, np.float32)
        rows = np.empty(k, np.int64)
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        asked = faiss.SearchParametersIVF(nprobe=len(lists), sel=selector)
        self._index.search_preassigned_c(
            1,
            *(faiss.swig_ptr(query), k, faiss.swig_ptr(lists), faiss.swig_ptr(near)),
            *(faiss.swig_ptr(scores), faiss.swig_ptr(rows), False, asked),
        )
        found = rows >= 0
        return rows[found], scores[found]

    def _check(self, lists: Rows) -> None:
        """Raise IndexDamagedError if one of these lists is not what was written."""
        known = self._sound.take(lists)
        if np.count_nonzero(known) < known.size:
            for number in lists[~known].tolist():
                start = int(self._starts[number])
                self._guard.span(start, start + int(self._sizes[number]) * self._row_bytes)
                self._sound[number] = True


def _mapping() -> int:
    """Return how faiss is to open lists: mapped, or in memory where it cannot map (Windows)."""
    faiss = _faiss()
    return int(faiss.IO_FLAG_MMAP) if hasattr(faiss, "OnDiskInvertedLists") else 0


def _faiss() -> Any:
    """Import faiss, which takes a while and which small collections do not need."""
    import faiss

    # What the package says of its types leaves out half of what it offers.
    return faiss
