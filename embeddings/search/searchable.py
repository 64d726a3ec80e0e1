"""What a search runs over: the rows of one collection, or of several that are joined (fused)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.index.base import Index
from embeddings.index.scan import unit_query
from embeddings.query import filters
from embeddings.query.calibration import Scale
from embeddings.query.examples import Examples, direction, encoded, resolve, rows_of_ids
from embeddings.query.filters import Filter
from embeddings.search.held import Held
from embeddings.search.locating import locate
from embeddings.store import Collection
from embeddings.types import LonLat

Rows = NDArray[np.int64]

FEW_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Directed:
    """Examples as one direction.

    ``vector (dim,)`` has unit length; ``own`` are the rows of all examples, sorted; ``lon`` and
    ``lat`` the centres of the positive ones; ``single`` says that one positive alone is its own
    direction. ``at`` is the row of the query's place in the (first) collection; ``notes`` tell what
    was decided in reading the examples.
    """

    vector: NDArray[np.float32]
    own: Rows
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    single: bool
    at: int | None
    notes: tuple[str, ...] = ()


class Searchable(Protocol):
    """Rows that a query can be asked of; results have the columns of ``collection``."""

    @property
    def collection(self) -> Collection:
        """The collection, or the first of several."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each of several collections; empty of one."""

    @property
    def state(self) -> str:
        """What changes with the rows, and with a new index of them."""

    @property
    def index(self) -> Index:
        """What finds the rows nearest to a direction."""

    @property
    def sample(self) -> NDArray[np.float32]:
        """Unit vectors of a seeded sample of the rows."""

    @property
    def pairs(self) -> Scale:
        """How alike random pairs of rows are."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What an analyst should know of these rows."""

    def direct(self, at: LonLat | None, positive: Examples, negative: Examples) -> Directed:
        """Look examples up and make one direction of them; ``at`` is a positive one.

        Raises OutsideCoverageError, NoDataAtPlaceError, ItemNotFoundError or InputError.
        """

    def meeting(self, wanted: Filter) -> Rows:
        """Return the sorted rows that meet a filter which asks for something. Raises InputError."""

    def barred(self, wanted: Filter) -> Rows:
        """Return the sorted rows that lie too near to the places that a filter excludes."""

    def find(self, ids: tuple[str, ...]) -> Rows:
        """Return the sorted rows of items. Raises ItemNotFoundError if one is not there."""

    def centres(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitudes and latitudes of rows, degrees."""

    def cosines(self, directed: Directed, rows: Rows) -> NDArray[np.float32]:
        """Return how like a direction some rows are, exactly as a search states it."""

    def similarities(self, directed: Directed, rows: Rows) -> dict[str, NDArray[np.float32]]:
        """Return the cosines ``(m,)`` of rows in each collection."""

    def fetch(self, rows: Rows, at: int | None) -> tuple[pa.Table, pa.Table | None]:
        """Return rows with all columns but the embedding, in that order, and the query's place.

        ``at`` is that of ``Directed``.
        """


@dataclass(frozen=True)
class OneCollection(Searchable):
    """All rows of a collection in one state."""

    held: Held

    @property
    def collection(self) -> Collection:
        """The collection."""
        return self.held.collection

    @property
    def weights(self) -> Mapping[str, float]:
        """None."""
        return {}

    @property
    def state(self) -> str:
        """What changes with the rows, and with a new index of them."""
        return self.held.loaded.state

    @property
    def index(self) -> Index:
        """The collection's index."""
        return self.held.loaded.index

    @property
    def sample(self) -> NDArray[np.float32]:
        """Unit vectors of a seeded sample of the rows."""
        return self.held.loaded.sample

    @property
    def pairs(self) -> Scale:
        """How alike random pairs of rows are."""
        return self.held.loaded.pairs

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the collection's index is not used, if it is not."""
        return self.held.loaded.notes

    def direct(self, at: LonLat | None, positive: Examples, negative: Examples) -> Directed:
        """Look examples up and make one direction of them; see Searchable."""
        loaded = self.held.loaded
        located = cache(partial(locate, self.collection, loaded))
        if at is not None:
            positive = replace(positive, places=(at, *positive.places))
        given, notes = encoded((positive, negative), self.collection)
        wanted, unwanted = (
            resolve(examples, loaded.items, loaded.index.vectors, located) for examples in given
        )
        single = len(wanted.vectors) == 1 and not len(unwanted.vectors)
        # Alone, a positive is its own direction, and the background need not be known.
        vector = (
            wanted.vectors[0]
            if single
            else direction(wanted.vectors, unwanted.vectors, loaded.background)
        )
        return Directed(
            unit_query(vector, loaded.index.dim),
            np.union1d(wanted.rows, unwanted.rows),
            loaded.items.lon[wanted.rows],
            loaded.items.lat[wanted.rows],
            single,
            None if at is None else located(at),
            tuple(notes),
        )

    def meeting(self, wanted: Filter) -> Rows:
        """Return the sorted rows that meet a filter; see Searchable."""
        found = filters.rows(self.held.loaded.items, wanted)
        return np.arange(self.index.count) if found is None else found

    def barred(self, wanted: Filter) -> Rows:
        """Return the sorted rows that a filter excludes; see Searchable."""
        found = filters.barred(self.held.loaded.items, wanted)
        return np.empty(0, np.int64) if found is None else found

    def find(self, ids: tuple[str, ...]) -> Rows:
        """Return the sorted rows of items; see Searchable."""
        return rows_of_ids(self.held.loaded.items, ids)

    def centres(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitudes and latitudes of rows, degrees."""
        return self.held.loaded.items.lon[rows], self.held.loaded.items.lat[rows]

    def cosines(self, directed: Directed, rows: Rows) -> NDArray[np.float32]:
        """Return how like a direction some rows are; see Searchable."""
        return cosines(self.index, directed.vector, rows).astype(np.float32)

    def similarities(self, directed: Directed, rows: Rows) -> dict[str, NDArray[np.float32]]:
        """Return the cosines of rows, which are the similarities themselves."""
        return {self.collection.id: self.cosines(directed, rows)}

    def fetch(self, rows: Rows, at: int | None) -> tuple[pa.Table, pa.Table | None]:
        """Return rows, and the row of the query's place, read together."""
        loaded, count = self.held.loaded, len(rows)
        if at is None:
            return loaded.rows(rows), None
        table = loaded.rows(np.append(rows, at))
        return table.slice(0, count), table.slice(count)


def cosines(index: Index, direction: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
    """Return the cosines of rows with a unit vector, each summed alike in float64, as a scan does.

    A matrix product would sum some rows in another order, so that they would get other cosines.
    """
    wide = direction.astype(np.float64)
    scores = np.empty(len(rows))
    for start in range(0, len(rows), FEW_ROWS):
        here = slice(start, start + FEW_ROWS)
        scores[here] = (index.vectors(rows[here]) * wide).sum(axis=1)
    return np.clip(scores, -1.0, 1.0)
