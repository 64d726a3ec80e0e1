"""A place or examples, and the places that are like them: open, locate, filter, scan, fetch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.errors import CollectionChangedError
from embeddings.query.calibration import Precision, PrecisionCurve
from embeddings.search.fused import MOST_COLLECTIONS, FusedCollections, Weighted
from embeddings.search.held import HeldCollections
from embeddings.search.pages import Answer, Answers, digest
from embeddings.search.query import SearchQuery
from embeddings.search.scanning import Clock, look
from embeddings.search.searchable import OneCollection, Searchable
from embeddings.store import Collection, Store

LEAST_OF_EACH = 3
"""Fewer confirmed or rejected results say nothing of precision."""
STATE_DIGITS = 16


@dataclass(frozen=True)
class Judged:
    """What was confirmed and rejected says: of each result of the page, and as a curve.

    ``precision``, ``low`` and ``high (m,)``: if the answer ended with this result, which share of
    it would be right, and the ends of a 90 % interval.
    """

    precision: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    curve: PrecisionCurve


@dataclass(frozen=True)
class SearchResult:
    """The kin of a place or of examples, or one page of them.

    ``matches`` has the item columns in the order of rank; ``similarity (m,) float32`` are cosines
    and ``percentile (m,)`` the shares, 0 to 1, of random pairs of the collection that are at most
    so alike. ``found`` counts the results on all pages. ``query_item`` is the row at the query's
    place, None without one; ``matched`` counts the rows that could have been returned,
    ``considered`` those compared, ``expected_recall`` is the share of the true best that an answer
    like this holds; ``seconds`` the time by stage. ``state`` changes with the rows, and with a new
    index of them. ``judged`` is None without enough confirmed and rejected. Of several
    collections, ``weights`` and the cosines ``similarities`` stand by their ids.
    """

    collection: Collection
    query: SearchQuery
    query_item: pa.Table | None
    matches: pa.Table
    similarity: NDArray[np.float32]
    percentile: NDArray[np.float64]
    found: int
    matched: int
    considered: int
    expected_recall: float
    seconds: dict[str, float]
    state: str
    judged: Judged | None
    weights: Mapping[str, float]
    similarities: Mapping[str, NDArray[np.float32]]
    notes: tuple[str, ...]

    @property
    def next_offset(self) -> int | None:
        """Where the next page begins; None on the last one."""
        following = self.query.offset + len(self.similarity)
        return following if len(self.similarity) and following < self.found else None


class Searcher:
    """Searches the collections of a store; keeps them and the last answers. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._fused = FusedCollections()
        self._held = HeldCollections(store, self._fused.forget)
        self._answers = Answers()

    def search(self, name: str, query: SearchQuery) -> SearchResult:
        """Return the places most like those asked for.

        Raises CollectionNotFoundError, ItemNotFoundError, OutsideCoverageError,
        NoDataAtPlaceError, InputError, CollectionChangedError or StoreError.
        """
        return self._answer(lambda: OneCollection(self._held.get(name)), name, query)

    def search_fused(self, collections: Sequence[Weighted], query: SearchQuery) -> SearchResult:
        """Return the places most like those asked for in several collections on one grid.

        The similarity is the weighted mean of the collections' cosines; geometry and columns are
        those of the first. Raises the same errors.
        """
        names = Weighted.names(collections)

        def joined() -> Searchable:
            return self._fused.join([self._held.get(name) for name in names], collections)

        return self._answer(joined, repr(collections), query)

    def _answer(
        self, open_: Callable[[], Searchable], name: str, query: SearchQuery
    ) -> SearchResult:
        """Answer; anew where rows were replaced while they were read, or an index is damaged."""
        for _ in range(MOST_COLLECTIONS):
            try:
                return self._once(open_, name, query)
            except CollectionChangedError:
                if query.state is not None:
                    raise
        return self._once(open_, name, query)

    def _once(self, open_: Callable[[], Searchable], name: str, query: SearchQuery) -> SearchResult:
        clock = Clock()
        ground = open_()
        clock.done("open")
        state = digest(ground.state)[:STATE_DIGITS]
        if query.state not in (None, state):
            raise CollectionChangedError(
                f"'{ground.collection.id}' has changed since the first page, or its index has "
                f"(state {query.state[:STATE_DIGITS]}, now {state}). Start again at the first "
                "page, without a state."
            )
        key = digest(name, ground.state, query.whole)
        answer = self._answers.get(key)
        if answer is None:
            answer = look(ground, query, clock)
            self._answers.put(key, answer)
        rows, cosines = answer.found.rows[query.page], answer.found.cosines[query.page]
        judged, notes = _judge(ground, answer, query)
        percentile = answer.scale.percentile(cosines)
        similarities = ground.similarities(answer.directed, rows) if ground.weights else {}
        clock.done("calibrate")
        matches, place = ground.fetch(rows, answer.directed.at)
        return SearchResult(
            collection=ground.collection,
            query=query,
            query_item=place,
            matches=matches,
            similarity=cosines,
            percentile=percentile,
            found=len(answer.found.rows),
            matched=answer.matched,
            considered=answer.found.considered,
            expected_recall=answer.found.expected_recall,
            seconds=clock.done("fetch"),
            state=state,
            judged=judged,
            weights=ground.weights,
            similarities=similarities,
            notes=(*ground.notes, *answer.directed.notes, *notes),
        )


def _judge(
    ground: Searchable, answer: Answer, query: SearchQuery
) -> tuple[Judged | None, tuple[str, ...]]:
    """Return what the confirmed and rejected say of the page's results, and what to tell.

    The query's own examples are no results; their scores would flatter those that are.
    """
    if not query.confirmed and not query.rejected:
        return None, ()
    right, wrong = ground.find(query.confirmed), ground.find(query.rejected)
    named = len(right) + len(wrong)
    right, wrong = (rows[~np.isin(rows, answer.directed.own)] for rows in (right, wrong))
    labelled = np.concatenate([right, wrong])
    notes: tuple[str, ...] = ()
    if len(labelled) < named:
        notes = (
            f"{named - len(labelled)} of the confirmed or rejected are examples of this query; "
            "they are no results, so that they say nothing of its precision.",
        )
    if min(len(right), len(wrong)) < LEAST_OF_EACH:
        short = (
            f"No precision is estimated from {len(right)} confirmed and {len(wrong)} rejected; "
            f"it takes {LEAST_OF_EACH} of each."
        )
        return None, (*notes, short)
    cosines = answer.found.cosines
    if not len(cosines):
        return None, notes
    precision = Precision(
        cosines,
        ground.cosines(answer.directed, labelled),
        np.arange(len(labelled)) < len(right),
    )
    return Judged(*precision.at(cosines[query.page]), precision.curve()), notes
