"""Finds rows by the ids of their items: a sorted file of 64-bit hashes, and the row of each."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.atomic import atomic_path
from embeddings.index.base import Rows
from embeddings.index.sums import Guard

Hashes = NDArray[np.uint64]

BUCKET_ROWS = 2**23
"""So many hashes are sorted in memory at once, in some 300 MB."""
BLOCK_ROWS = 2**20

_FACTOR = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def hashes_of(ids: pa.StringArray) -> Hashes:
    """Return a hash ``(n,)`` of each id, the same on every machine. Equal hashes may be of others.

    A polynomial of the UTF-8 bytes modulo 2**64, then the finaliser of splitmix64 (Steele, Lea and
    Flood 2014).
    """
    _, offsets, content = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    text = np.frombuffer(content or b"", np.uint8)[ends[0] : ends[-1]]
    ends -= ends[0]
    lengths = np.diff(ends)
    powers = np.cumprod(np.full(lengths.max(initial=0), _FACTOR, np.uint64), dtype=np.uint64)
    places = np.arange(len(text)) - np.repeat(ends[:-1], lengths)
    # One more than the byte, so that zeros count; sums and products wrap around.
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum((text.astype(np.uint64) + np.uint64(1)) * powers[places], out=sums[1:])
    mixed: Hashes = sums[ends[1:]] - sums[ends[:-1]]
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed


def row_type(count: int) -> type[np.uint32] | type[np.int64]:
    """Return how row numbers are stored: in four bytes while these suffice."""
    return np.uint32 if count <= 2**32 else np.int64


def ids_bytes(count: int) -> int:
    """Return the size of the file."""
    return count * (8 + np.dtype(row_type(count)).itemsize)


def sort_ids(source: Path, target: Path, count: int, check: Callable[[int], None]) -> None:
    """Sort the hashes of ``source``, which has the order of the rows, into ``target``, atomically.

    All hashes are looked through for every bucket, so that little memory is enough. ``check(rows
    done)`` may raise to stop.
    """
    hashes = np.memmap(source, np.uint64, "r", shape=(count,))
    bits = max(0, math.ceil(math.log2(count / BUCKET_ROWS)))
    done, wide = 0, np.dtype(row_type(count)).itemsize
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        for bucket in range(2**bits):
            check(done)
            rows = _between(hashes, bucket << (64 - bits), ((bucket + 1) << (64 - bits)) - 1)
            chosen = hashes[rows]
            order = np.argsort(chosen, kind="stable")
            file.seek(8 * done)
            file.write(chosen[order].tobytes())
            file.seek(8 * count + wide * done)
            file.write(rows[order].astype(row_type(count)).tobytes())
            done += len(rows)


def _between(hashes: Hashes, low: int, high: int) -> Rows:
    """Return the sorted rows whose hash is one of ``low`` to ``high``."""
    found = [np.empty(0, np.int64)]
    for start in range(0, len(hashes), BLOCK_ROWS):
        block = hashes[start : start + BLOCK_ROWS]
        found.append(np.flatnonzero((block >= np.uint64(low)) & (block <= np.uint64(high))) + start)
    return np.concatenate(found)


class IdFile:
    """The finished file, mapped. What a look-up rests on is checked. Thread-safe."""

    def __init__(self, content: mmap.mmap, count: int, guard: Guard) -> None:
        """Take the mapped file. Nothing is read."""
        rows = np.dtype(row_type(count)).newbyteorder("<")
        self._hashes = np.frombuffer(content, "<u8", count)
        self._rows = np.frombuffer(content, rows, count, self._hashes.nbytes)
        self._guard = guard

    def candidates(self, ids: pa.StringArray) -> tuple[Rows, Rows]:
        """Return pairs of numbers of ``ids`` and rows whose ids have the same hash.

        Raises IndexDamagedError.
        """
        asked = hashes_of(ids)
        first, behind = self._ends(asked)
        many = behind - first
        numbers = np.repeat(np.arange(len(ids)), many)
        before = np.repeat(np.cumsum(many) - many, many)
        at = np.repeat(first, many) + np.arange(len(numbers)) - before
        wide = self._rows.itemsize
        self._guard.spans(self._hashes.nbytes + wide * at, wide)
        return numbers, self._rows[at].astype(np.int64)

    def _ends(self, asked: Hashes) -> tuple[Rows, Rows]:
        """Return where the hashes asked for begin and end.

        The search jumps through hashes that were not checked. Where it ends is right if the hashes
        on both sides are, and have no other between them; else the whole file is looked at.
        """
        count = len(self._hashes)
        first, behind = (np.searchsorted(self._hashes, asked, side) for side in ("left", "right"))
        for place in (first, behind):
            for beside in (place - 1, place):
                self._guard.spans(8 * np.clip(beside, 0, count - 1), 8)
        lower, upper = (self._hashes.take(at, mode="clip") for at in (first - 1, behind))
        inner, last = (self._hashes.take(at, mode="clip") for at in (first, behind - 1))
        sound = ((first == 0) | (lower < asked)) & ((behind == count) | (asked < upper))
        sound &= np.where(first < behind, (inner == asked) & (last == asked), first == behind)
        if not sound.all():
            self._guard.all()
        return first, behind
