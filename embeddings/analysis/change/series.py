"""Since when a place is another: its first lasting departure in a series of dates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.coverage import Coverage
from embeddings.errors import InputError

Floats = NDArray[np.float32]
Pairs = Mapping[tuple[int, int], Floats]
"""Scores ``(n,)`` of all places between two dates, by their numbers in order of time."""

NEVER = -1
"""The place stayed what it was, as far as its dates tell."""
LASTING = 2
"""Dates that a departure has to last; one alone may be a cloud."""
FEWEST_DATES = LASTING + 1
"""With data, without which nothing is said of a place: one before a departure, LASTING from it."""
SERIES_COVERAGE = {
    Coverage.COMPARED: Coverage.COMPARED.label,
    Coverage.NO_DATA: f"no data at {FEWEST_DATES} dates",
}
"""What the codes of a series are called: it has no date 1 and no date 2."""
KEPT = 0.75
"""Share of the dates from the departure on that have to differ from what was before."""
ABRUPT = 0.5
"""Share of the score of all dates from the departure on that its first date has to have."""
ORDERS = 16
MOST_PLACES = 4000
HIGHEST, STEPS = 8.0, 9
"""Thresholds are sought up to HIGHEST, in so many halvings."""


@dataclass(frozen=True, eq=False)
class Since:
    """``date (n,) int16``: number of the first date of the departure, or NEVER.

    ``score (n,) float32``: the median score between the dates before and those from it on; of
    places that stayed, the largest of any way to part their dates. NaN where nothing can be
    told, since fewer than FEWEST_DATES have data. ``dates (n,) int16``: how many dates there are
    from the departure on.
    """

    date: NDArray[np.int16]
    score: Floats
    dates: NDArray[np.int16]

    @property
    def coverage(self) -> NDArray[np.uint8]:
        """Codes ``(n,)`` of SERIES_COVERAGE."""
        told = np.isfinite(self.score)
        return np.where(told, Coverage.COMPARED, Coverage.NO_DATA).astype(np.uint8)


def check_dates(dates: int) -> None:
    """Raise InputError if a series is too short to tell what lasts."""
    if dates < FEWEST_DATES:
        raise InputError(
            f"A series needs {FEWEST_DATES} dates or more, since a departure has to last "
            f"{LASTING}; there are {dates}. Compare two dates with --from and --to."
        )


def series_threshold(pairs: Pairs, dates: int, false_alarms: float, seed: int = 0) -> float:
    """Return the score from which on two dates of a series differ.

    With it, no more than the share ``false_alarms`` of places seem to depart for good when their
    dates are put in an order drawn at random. Where nothing changed any order is as good as the
    true one, and what did change seldom lasts in another order. Between two dates the same rate
    needs a higher score: that one date is odd is more likely than that all later ones are.

    Raises InputError if no place has FEWEST_DATES.
    """
    check_dates(dates)
    rng = np.random.default_rng(seed)
    told = np.flatnonzero(_dates_there(pairs, dates).sum(axis=0) >= FEWEST_DATES)
    if not len(told):
        raise InputError(
            f"No place has data at {FEWEST_DATES} of the {dates} dates, so since when it is "
            "another cannot be told. Compare two dates with --from and --to."
        )
    some = np.sort(rng.permutation(told)[:MOST_PLACES])
    drawn = []
    for _ in range(ORDERS):
        order = rng.permutation(dates)
        drawn.append(
            {
                (a, b): pairs[min(order[a], order[b]), max(order[a], order[b])][some]
                for a, b in pairs
            }
        )
    low, high = 0.0, HIGHEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        named = [since_when(each, dates, middle) for each in drawn]
        share = np.concatenate([e.date[np.isfinite(e.score)] != NEVER for e in named]).mean()
        low, high = (low, middle) if share <= false_alarms else (middle, high)
    return high


def since_when(pairs: Pairs, dates: int, threshold: float) -> Since:
    """Find the first lasting departure of each place.

    A place departs at a date if that date and the last one both differ from the dates before (the
    lower median of the scores between them is above the threshold), as do KEPT of all dates from
    it on; if there are LASTING or more of these; and if it has ABRUPT of their score. Dates
    without data (NaN) are left out: where they end early, what is said holds up to the last with
    data; with fewer than FEWEST_DATES nothing is said. That the first date differs from all others
    may be its own fault: the departure is then at the second.
    """
    count = len(next(iter(pairs.values())))
    found = Since(
        np.full(count, NEVER, np.int16),
        np.full(count, np.nan, np.float32),
        np.zeros(count, np.int16),
    )
    for date in range(1, dates):
        differs = np.stack([_against(pairs, date, later) for later in range(date, dates)])
        there = np.isfinite(differs)
        with np.errstate(invalid="ignore"):
            away = differs > threshold
        many = there.sum(axis=0)
        last = np.take_along_axis(away, _last(there), axis=0)[0]
        departed = away[0] & last & (many >= LASTING) & (away.sum(axis=0) >= KEPT * many)
        strength = _median(differs)
        # Chance may take the date before a strong change above the threshold, but not far above.
        with np.errstate(invalid="ignore"):
            departed &= differs[0] >= ABRUPT * strength
        first = departed & (found.date == NEVER)
        found.date[first], found.score[first] = date, strength[first]
        found.dates[first] = many[first]
        stayed = found.date == NEVER
        found.score[stayed] = np.fmax(found.score[stayed], strength[stayed])
    found.score[_dates_there(pairs, dates).sum(axis=0) < FEWEST_DATES] = np.nan
    return found


def _dates_there(pairs: Pairs, dates: int) -> NDArray[np.bool_]:
    """Return at which dates ``(dates, n)`` places have data: what was compared with any other."""
    there = np.zeros((dates, len(next(iter(pairs.values())))), bool)
    for (one, two), scores in pairs.items():
        there[[one, two]] |= np.isfinite(scores)
    return there


def _against(pairs: Pairs, first: int, later: int) -> Floats:
    """Return the median score ``(n,)`` of a date against all dates before ``first``."""
    return _median(np.stack([pairs[before, later] for before in range(first)]))


def _last(there: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the row ``(1, n)`` of the last True of each column, 0 where there is none."""
    rows = np.arange(len(there))[:, None]
    return np.asarray(np.where(there, rows, 0).max(axis=0)[None])


def _median(values: Floats) -> Floats:
    """Return medians over the first axis, the lower of two middle ones; NaN is left out."""
    ordered = np.sort(values, axis=0)  # NaN come last
    many = np.isfinite(values).sum(axis=0)
    middle = np.take_along_axis(ordered, np.maximum(many - 1, 0)[None] // 2, axis=0)[0]
    return np.asarray(middle, np.float32)
