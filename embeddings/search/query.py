"""What is asked of a search: examples, how many kin, which of them, and which page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from embeddings.errors import InputError
from embeddings.query.examples import MAX_EXAMPLES, Examples
from embeddings.query.filters import Filter
from embeddings.types import LonLat

MAX_K = 50_000


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Find the ``k`` chips most like the one at ``at``, or most like examples.

    ``at`` is a positive example like those of ``positive``. Chips whose centre lies within
    ``exclude_m`` metres of a positive example's centre are left out, and always the examples
    themselves. Results meet ``filter``, and lie ``apart_m`` metres from each other.

    Of the k, those from ``offset`` on are returned, ``limit`` at most (None: all). ``state`` is
    that of the answer whose further pages are asked for. The ids in ``confirmed`` and
    ``rejected`` are results that were judged right or wrong. Raises InputError.
    """

    at: LonLat | None = None
    k: int = 10
    exclude_m: float = 0.0
    positive: Examples = field(default_factory=Examples)
    negative: Examples = field(default_factory=Examples)
    filter: Filter = field(default_factory=Filter)
    apart_m: float = 0.0
    limit: int | None = None
    offset: int = 0
    state: str | None = None
    confirmed: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise InputError(f"k is {self.k}; it may be 1 to {MAX_K:,}.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"The limit is {self.limit}; a page holds 1 result or more.")
        if self.offset < 0:
            raise InputError(f"The offset is {self.offset}; the first page begins at 0.")
        for name, metres in (("exclusion radius", self.exclude_m), ("spacing", self.apart_m)):
            if not 0 <= metres < float("inf"):
                raise InputError(f"The {name} is {metres}; give 0 metres or more.")
        if self.at is None and not self.positive.count:
            raise InputError("Nothing to search for: give a place or another positive example.")
        _check_answers(self.confirmed, self.rejected)

    @property
    def page(self) -> slice:
        """Which of the results are returned."""
        return slice(self.offset, None if self.limit is None else self.offset + self.limit)

    @property
    def whole(self) -> SearchQuery:
        """The query of all pages, whatever was confirmed."""
        return replace(self, limit=None, offset=0, state=None, confirmed=(), rejected=())


def _check_answers(confirmed: tuple[str, ...], rejected: tuple[str, ...]) -> None:
    for name, ids in (("confirmed", confirmed), ("rejected", rejected)):
        if len(ids) > MAX_EXAMPLES:
            raise InputError(f"{len(ids):,} items are {name}; {MAX_EXAMPLES:,} may be.")
    both = set(confirmed) & set(rejected)
    if both:
        raise InputError(
            f"'{min(both)}' is both confirmed and rejected ({len(both)} such items). Name each in "
            "one list only."
        )
