"""Several collections on one grid, searched as one: items joined by id, cosines weighed.

The similarity of two places is the weighted mean of their cosines in the collections. That is the
cosine of all their vectors put end to end, each times the root of its weight; so an example, a
sample and a scale are made of such vectors as in one collection, though none is stored.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.errors import InputError, ItemNotFoundError
from embeddings.query.calibration import Scale
from embeddings.query.examples import Examples, background
from embeddings.query.filters import Filter
from embeddings.search.fused_index import FusedIndex
from embeddings.search.held import Held
from embeddings.search.joined import Join
from embeddings.search.searchable import Directed, OneCollection, Rows, Searchable
from embeddings.store import Collection
from embeddings.types import LonLat

MOST_COLLECTIONS = 8
WEIGHTS = (0.001, 1_000.0)
MOST_KEPT = 4
"""Joins that are remembered."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A collection and how much its cosine counts. Raises InputError."""

    collection: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        least, most = WEIGHTS
        if not least <= self.weight <= most:
            raise InputError(
                f"The weight of '{self.collection}' is {self.weight:g}; it may be {least:g} to "
                f"{most:,g}. Only how the weights compare counts."
            )

    @staticmethod
    def names(collections: Sequence[Weighted]) -> list[str]:
        """Return the ids of collections that are to be searched together. Raises InputError."""
        names = [each.collection for each in collections]
        if not 2 <= len(names) <= MOST_COLLECTIONS:
            raise InputError(
                f"{len(names)} collection(s) cannot be searched together; name 2 to "
                f"{MOST_COLLECTIONS}."
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"Collection '{twice}' is named twice. Name each once.")
        return names


class FusedCollections:
    """Joins collections and remembers the last joins while their rows stand. Thread-safe."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, ...], Fused] = OrderedDict()
        self._joining: defaultdict[tuple[str, ...], threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def join(self, held: Sequence[Held], collections: Sequence[Weighted]) -> Fused:
        """Return the collections as one. Raises InputError if they are not on one grid."""
        names = tuple(each.collection for each in collections)
        weights = tuple(each.weight for each in collections)
        states = [each.loaded.state for each in held]
        with self._lock:
            joining = self._joining[names]
        # Others wait only for a join that they need themselves.
        with joining:
            with self._lock:
                known = self._known.pop(names, None)
            if known is None or [each.loaded.state for each in known.held] != states:
                known = Fused(tuple(held), Join.of([each.loaded for each in held]), weights)
            elif known.asked != weights:
                known = Fused(tuple(held), known.joined, weights)
            with self._lock:
                self._known[names] = known
                while len(self._known) > MOST_KEPT:
                    self._known.popitem(last=False)
            return known

    def forget(self, name: str) -> None:
        """Let go of all joins of a collection."""
        with self._lock:
            for names in [names for names in self._known if name in names]:
                del self._known[names]


@dataclass(frozen=True)
class Fused(Searchable):
    """The joined rows of several collections; geometry and columns are those of the first."""

    held: tuple[Held, ...]
    joined: Join
    asked: tuple[float, ...]

    @property
    def collection(self) -> Collection:
        """The first collection."""
        return self.held[0].collection

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each collection, as asked for."""
        names = (each.collection.id for each in self.held)
        return dict(zip(names, self.asked, strict=True))

    @property
    def state(self) -> str:
        """What changes with the rows of any, and with a new index of them."""
        return repr([each.loaded.state for each in self.held])

    @cached_property
    def index(self) -> FusedIndex:
        """What compares the joined rows with a direction."""
        return FusedIndex(self.joined, self.asked)

    @cached_property
    def sample(self) -> NDArray[np.float32]:
        """Unit vectors, put end to end, of a seeded sample of the joined rows."""
        return background(self.index.count, self.index.vectors)

    @cached_property
    def pairs(self) -> Scale:
        """How alike random pairs of joined rows are."""
        return Scale.of_pairs(self.sample)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is known of each collection, and how many rows have no partner."""
        told = tuple(note for each in self.held for note in each.loaded.notes)
        lost = {
            each.collection.id: each.loaded.index.count - self.joined.count for each in self.held
        }
        texts = [f"{count:,} of '{name}'" for name, count in lost.items() if count]
        if not texts:
            return told
        return (*told, f"Rows without a partner in the other collections: {', '.join(texts)}.")

    def direct(self, at: LonLat | None, positive: Examples, negative: Examples) -> Directed:
        """Look the examples up in each collection, and put the directions end to end."""
        if positive.vectors or negative.vectors:
            raise InputError(
                "A vector belongs to the space of one collection, and several are searched. Give "
                "places, ids, polygons or images as examples."
            )
        each = [part.direct(at, positive, negative) for part in self._alone]
        own = [self.joined.joined(part, directed.own) for part, directed in enumerate(each)]
        return Directed(
            self.index.combined([directed.vector for directed in each]),
            np.unique(np.concatenate(own)),
            each[0].lon,
            each[0].lat,
            all(directed.single for directed in each),
            each[0].at,
            tuple(dict.fromkeys(note for directed in each for note in directed.notes)),
        )

    def meeting(self, wanted: Filter) -> Rows:
        """Return the sorted joined rows that meet a filter in the first collection."""
        return self.joined.joined(0, self._alone[0].meeting(wanted))

    def barred(self, wanted: Filter) -> Rows:
        """Return the sorted joined rows that a filter excludes."""
        return self.joined.joined(0, self._alone[0].barred(wanted))

    def find(self, ids: tuple[str, ...]) -> Rows:
        """Return the sorted joined rows of items. Raises ItemNotFoundError."""
        first = self._alone[0].find(ids)
        alone = first[self.joined.number[0][first] < 0]
        if len(alone):
            name = self.held[0].loaded.rows(alone[:1])["id"][0].as_py()
            raise ItemNotFoundError(
                f"Item '{name}' of collection '{self.collection.id}' has no partner in the others "
                f"({len(alone)} of {len(ids)} have none), so that it cannot be a result. Leave it "
                "out."
            )
        return self.joined.joined(0, first)

    def centres(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitudes and latitudes of joined rows, degrees."""
        return self._alone[0].centres(self.joined.rows(0, rows))

    def cosines(self, directed: Directed, rows: Rows) -> NDArray[np.float32]:
        """Return how like a direction some joined rows are."""
        return self.index.fused(directed.vector, rows)

    def similarities(self, directed: Directed, rows: Rows) -> dict[str, NDArray[np.float32]]:
        """Return the cosines of joined rows in each collection."""
        found = self.index.cosines(directed.vector, rows)
        return {
            name: values.astype(np.float32)
            for name, values in zip(self.weights, found, strict=True)
        }

    def fetch(self, rows: Rows, at: int | None) -> tuple[pa.Table, pa.Table | None]:
        """Return joined rows, and the query's place, as they stand in the first collection."""
        return self._alone[0].fetch(self.joined.rows(0, rows), at)

    @cached_property
    def _alone(self) -> list[OneCollection]:
        return [OneCollection(held) for held in self.held]
