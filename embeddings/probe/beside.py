"""Vectors of several collections side by side: rows that are joined by the ids of their items.

A probe of two products, such as an optical and a radar embedding of one grid, learns from both;
each place has one row of the first collection, whose footprints a map shows, and its partners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.query.items import ItemTable
from embeddings.search.joined import paired
from embeddings.store import Store
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Beside:
    """One collection, or several of one grid, as one space of vectors.

    ``partners[i] (count,) int64``: for each row of the first collection its row in the next but i,
    -1 where it has none in one of them. Empty for one collection.
    """

    collections: tuple[Collection, ...]
    partners: tuple[Rows, ...] = ()
    _readers: list[Reader] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_readers", [Reader(each) for each in self.collections])

    @classmethod
    def of(cls, collections: Sequence[Collection]) -> Beside:
        """Join collections. Raises InputError if they share no ids, or ids in other places."""
        if len(collections) == 1:
            return cls((collections[0],))
        names = [each.id for each in collections]
        if len(set(names)) < len(names):
            raise InputError(
                f"Collections {', '.join(names)} stand side by side: name each only once."
            )
        first, *others = paired([_Part(Reader(each)) for each in collections])
        partners = []
        for rows in others:
            partner = np.full(collections[0].count, -1, np.int64)
            partner[first] = rows
            partners.append(partner)
        return cls(tuple(collections), tuple(partners))

    @classmethod
    def open(cls, store: Store, names: Sequence[str]) -> Beside:
        """Join collections of a store by their names."""
        return cls.of([store.collection(name) for name in names])

    @property
    def first(self) -> Collection:
        """The collection whose chips are labelled and mapped."""
        return self.collections[0]

    @property
    def reader(self) -> Reader:
        """What reads the first collection."""
        return self._readers[0]

    @property
    def dims(self) -> tuple[int, ...]:
        """The length of the vectors of each collection."""
        return tuple(each.spec.dim for each in self.collections)

    def joined(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows of the first collection have a partner in all others ``(n,)``."""
        if not self.partners:
            return np.ones(len(rows), bool)
        return np.asarray(self.partners[0][rows] >= 0)

    @property
    def alone(self) -> int:
        """How many rows of the first collection have no partner."""
        return int((self.partners[0] < 0).sum()) if self.partners else 0

    def batches(self) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
        """Yield (lon and lat columns, vectors ``(n, sum of dims)``) over the first collection.

        Rows without a partner have NaN.
        """
        start = 0
        for places, vectors in self.reader.batches():
            if self.partners:
                here = np.arange(start, start + len(vectors))
                wide = np.full((len(vectors), sum(self.dims)), np.nan, np.float32)
                joined = self.joined(here)
                wide[joined, : vectors.shape[1]] = vectors[joined]
                wide[joined, vectors.shape[1] :] = self._partners(here[joined])
                vectors = wide
            start += len(vectors)
            yield places, vectors

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        """Return the vectors ``(n, sum of dims)`` of joined rows of the first collection."""
        found = self.reader.vectors(rows)
        return np.concatenate([found, self._partners(rows)], axis=1) if self.partners else found

    def _partners(self, rows: Rows) -> NDArray[np.float32]:
        pairs = zip(self._readers[1:], self.partners, strict=True)
        return np.concatenate([reader.vectors(partner[rows]) for reader, partner in pairs], axis=1)


class _Part:
    """What joining needs of a collection: no vector is read."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.items = ItemTable.load(reader)

    def rows(self, positions: NDArray[np.int64]) -> pa.Table:
        """Return rows by their numbers."""
        return self.reader.rows(positions)
