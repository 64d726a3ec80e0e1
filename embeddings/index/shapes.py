"""How the rows of each list lie around their mean, and so what lists may hold that were not read.

A list is described by a normal distribution: its mean, its widest axes, and how much there is
besides, which lies as it does in all lists together. For a query that gives the distribution of
the cosines in every list, and with it how many rows of a list are to be expected above any cosine,
whatever the query is: a row, a direction made of examples, with a filter or without.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import StoreFormatError
from embeddings.index.base import Rows, Vectors
from embeddings.index.sums import Guard

AXES = 8
AXES_VALUES = 2**24
"""Very many long vectors get fewer axes: 64 MiB of them at most."""
MEMBERS = 128
"""So many rows of a list say how it lies."""
LEFT_OVER = 8
"""So many rows of a list say how lists lie besides their axes."""
COUNTED = 500_000
"""Of filters that allow more rows, every second, third ... is counted."""
HALVINGS = 14
DEEPEST = 6.0
"""So many deviations from its middle a list holds nothing."""

_MAGIC = b"TKSHAPES"
_FOOT = struct.Struct("<8s4Q")
_HOME = np.dtype("<u2")
"""There are 65,536 lists at most, those of four thousand million rows."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """One list: its mean ``(dim,)``, its axes ``(rank, dim)`` as long as their deviations.

    ``rest`` is the sum of the variances besides, ``others (n, dim)`` what the axes leave over of
    some rows.
    """

    mean: Vectors
    axes: Vectors
    rest: float
    others: Vectors

    @classmethod
    def of(cls, members: Vectors, rank: int) -> Self:
        """Fit to a sample of the list ``members (m, dim)``, in random order."""
        count, dim = members.shape
        axes = np.zeros((rank, dim), np.float32)
        if not count:
            return cls(np.zeros(dim, np.float32), axes, 0.0, members)
        mean = members.mean(axis=0, dtype=np.float64).astype(np.float32)
        away = (members - mean) / np.float32(count**0.5)
        # The axes of m vectors follow from their m x m products.
        turns = np.linalg.eigh(away @ away.T)[1][:, ::-1][:, : min(rank, count)]
        axes[: turns.shape[1]] = turns.T @ away
        others = away - turns @ (turns.T @ away)
        rest = float(np.square(others).sum())
        return cls(mean, axes, rest, others[:LEFT_OVER] * np.float32(count**0.5))


def rank_of(lists: int, dim: int) -> int:
    """Return how many axes each list gets."""
    return max(1, min(AXES, dim, AXES_VALUES // (lists * dim)))


def tail_bytes(count: int, lists: int, dim: int) -> int:
    """Return how much ``write`` puts at the end of a file."""
    rank = rank_of(lists, dim)
    values = sum(map(math.prod, _parts(lists, rank, dim)))
    return _HOME.itemsize * count + 4 * values + _FOOT.size


def _parts(lists: int, rank: int, dim: int) -> list[tuple[int, ...]]:
    """Return the shapes of the arrays: means, axes, what is left over, and how it lies."""
    return [(lists, dim), (lists * rank, dim), (lists,), (dim, dim)]


class Shapes:
    """The shapes of all lists, in memory, and the list of every row, mapped."""

    def __init__(self, path: Path, sizes: Rows, dim: int, guard: Guard) -> None:
        """Read what ``write`` put at the end of a file. Raises StoreFormatError."""
        whole, lists = path.stat().st_size, len(sizes)
        guard.span(whole - _FOOT.size, whole)
        with path.open("rb") as file:
            file.seek(max(0, whole - _FOOT.size))
            foot = file.read()
        told = _FOOT.unpack(foot) if len(foot) == _FOOT.size else (b"",)
        if told[0] != _MAGIC or (told[1], *told[3:]) != (lists, dim, sizes.sum()):
            raise StoreFormatError(f"{path} ends before it should. Build the index again.")
        rank, count = told[2], told[4]
        shapes = _parts(lists, rank, dim)
        start = whole - _FOOT.size - 4 * sum(map(math.prod, shapes))
        guard.span(start, whole)
        self._guard, self._start = guard, start - _HOME.itemsize * count
        self._homes = np.memmap(path, _HOME, "r", self._start, (count,))
        with path.open("rb") as file:
            file.seek(start)
            self._means, self._axes, self._rest, self._besides = (
                np.fromfile(file, "<f4", math.prod(shape)).reshape(shape) for shape in shapes
            )
        self._sizes = sizes.astype(np.float64)
        self._rank = rank

    def outlook(self, query: Vectors, among: Rows | None, without: Rows | None) -> Outlook:
        """Return what the lists may hold for a unit query; see ``Lists.outlook``."""
        middle = self._means @ query
        along = (self._axes @ query).reshape(-1, self._rank)
        besides = max(float(query @ self._besides @ query), 0.0)
        width = np.sqrt(np.square(along).sum(axis=1) + self._rest * np.float32(besides))
        count = self._sizes if among is None else self._count(among)
        if without is not None:
            count = np.maximum(count - self._count(without), 0)
        return Outlook(middle, np.maximum(width, 1e-6), count)

    def _count(self, rows: Rows) -> Floats:
        self._guard.span(self._start, self._start + self._homes.nbytes)
        step = max(1, len(rows) // COUNTED)
        found = np.bincount(self._homes[rows[::step]], minlength=len(self._sizes))
        return np.asarray(found * float(step))


def write(shapes: Iterable[Shape], homes: Rows, file: BinaryIO) -> None:
    """Write, where the file stands, what ``Shapes`` reads; ``homes (count,)`` are rows' lists."""
    file.write(homes.astype(_HOME).tobytes())
    every = list(shapes)
    means = np.stack([shape.mean for shape in every])
    axes = np.stack([shape.axes for shape in every])
    besides = np.zeros((means.shape[1],) * 2)
    for shape in every:
        besides += shape.others.T @ shape.others
    besides /= max(float(np.trace(besides)), 1e-30)
    for values in (means, axes, np.array([shape.rest for shape in every]), besides):
        file.write(values.astype("<f4").tobytes())
    file.write(_FOOT.pack(_MAGIC, *axes.shape, len(homes)))


@dataclass(frozen=True, slots=True)
class Outlook:
    """The cosines of a query in each list: middle and width ``(lists,)``, and allowed rows."""

    middle: Vectors
    width: Vectors
    count: Floats

    def above(self, cosine: float) -> Floats:
        """Return how many rows of each list are to be expected above a cosine."""
        return self.count * upper_tail((cosine - self.middle) / self.width)

    def cosine_of(self, k: float) -> float:
        """Return the cosine that ``k`` rows are to be expected above; -inf if all are fewer."""
        if k >= self.count.sum():
            return -np.inf
        low, high = -1.0, 1.0
        rest = self
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if rest.above(middle).sum() > k:
                low, rest = middle, rest._reaching(middle)
            else:
                high = middle
        return low

    def _reaching(self, cosine: float) -> Outlook:
        """Leave out the lists that hold nothing so near."""
        near = self.middle + DEEPEST * self.width > cosine
        return Outlook(self.middle[near], self.width[near], self.count[near])


def upper_tail(z: Vectors) -> Floats:
    """Return the share of a normal distribution above ``z`` deviations, to 1e-7.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17.
    """
    away = np.abs(z, dtype=np.float64)
    t = 1 / (1 + 0.2316419 * away)
    series = t * (
        0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    )
    tail = series * np.exp(-0.5 * np.minimum(away, 30.0) ** 2) * 0.3989422804014327
    return np.where(z < 0, 1 - tail, tail)
