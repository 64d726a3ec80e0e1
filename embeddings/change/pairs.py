"""Dates of a collection side by side: the same place at each, and what could not be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from embeddings.analysis.change.coverage import coverage_of
from embeddings.analysis.change.series import check_dates
from embeddings.change.places import DAY_US, Chips, Doubles, Ints, items, points
from embeddings.errors import InputError, NoDataError, OutsideCoverageError, SpecMismatchError
from embeddings.probe.model import differences
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader
from embeddings.types import Bounds, parse_datetime

LEAST_OVERLAP = 0.01
"""Of the places of the smaller date, so many have to be at the other."""
SHOWN = 8
MOST_DATES = 24
"""Of a series: all pairs of dates are compared."""
LOCATION_ONLY = "longitude and latitude"
"""What location embeddings name as their source."""


@dataclass(frozen=True, eq=False)
class Dates:
    """Places at several dates of one vector space.

    ``at (m, n)``: position of each place in the chips of each date, -1 where it is not among them.
    """

    chips: tuple[Chips, ...]
    at: Ints

    def __len__(self) -> int:
        return len(self.chips)

    @property
    def count(self) -> int:
        """How many places there are."""
        return int(self.at.shape[1])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Each date as a day, or from the first to the last day."""
        return tuple(map(_label, self.chips))

    @cached_property
    def there(self) -> NDArray[np.bool_]:
        """Which places have a vector, ``(m, n)``."""
        return np.stack(
            [(at >= 0) & c.present[at] for c, at in zip(self.chips, self.at, strict=True)]
        )

    @cached_property
    def base(self) -> Ints:
        """The first date at which each place is known, ``(n,)``."""
        return np.asarray((self.at >= 0).argmax(axis=0))

    def _of_base(self, name: str) -> NDArray[np.float64]:
        out = np.empty(self.count)
        for date, chips in enumerate(self.chips):
            here = self.base == date
            out[here] = getattr(chips, name)[self.at[date, here]]
        return out

    @cached_property
    def lonlat(self) -> tuple[Doubles, Doubles]:
        """Longitudes and latitudes ``(n,)``."""
        return self._of_base("lon"), self._of_base("lat")

    @cached_property
    def xyz(self) -> Doubles:
        """Where the places lie in space, ``(n, 3)`` metres."""
        return points(*self.lonlat)

    @property
    def side(self) -> float:
        """The usual smaller side of a chip in metres."""
        return max(chips.side for chips in self.chips)

    def coverage(self, first: int = 0, second: int = -1) -> NDArray[np.uint8]:
        """Return codes of Coverage ``(n,)`` for two of the dates."""
        none = np.zeros(self.count, bool)
        return coverage_of(self.there[first], self.there[second], none, none)

    def vectors(self, date: int, places: Ints) -> NDArray[np.float32]:
        """Return the vectors ``(k, dim)`` of some places at a date, NaN where there is none."""
        chips = self.chips[date]
        there = self.there[date, places]
        out = np.full((len(places), chips.collection.spec.dim), np.nan, np.float32)
        rows = chips.row[self.at[date, places[there]]]
        out[there] = Reader(chips.collection).vectors(rows)
        return out

    def places_of(self, rows: pa.Table) -> Ints:
        """Return the places that rows with ``lon`` and ``lat`` are, -1 where they are none."""
        xyz = points(rows["lon"].to_numpy(), rows["lat"].to_numpy())
        reach = self.chips[0].reach(self.xyz)
        away, place = cKDTree(self.xyz).query(xyz, distance_upper_bound=reach)
        return np.where(np.isfinite(away), place, -1)

    def items(self) -> pa.Table:
        """Return ``id``, ``lon``, ``lat``, ``bbox`` and ``geometry`` of all places, in order."""
        pieces, places = [], []
        for date, chips in enumerate(self.chips):
            here = np.flatnonzero(self.base == date)
            if len(here):
                pieces.append(items(chips.take(self.at[date, here])))
                places.append(here)
        return pa.concat_tables(pieces).take(np.argsort(np.concatenate(places)))


def side_by_side(chips: Sequence[Chips]) -> Dates:
    """Find the same places at all dates: centres nearer than a tenth of a step are one place."""
    first = chips[0]
    xyz = first.xyz
    reach = first.reach(xyz)
    at = [np.arange(len(first))]
    for later in chips[1:]:
        here = later.xyz
        found = np.full(len(xyz), -1, np.int64)
        if len(here) and len(xyz):
            away, place = cKDTree(xyz).query(here, distance_upper_bound=reach)
            met = np.flatnonzero(np.isfinite(away))
            found[place[met]] = met
        fresh = np.setdiff1d(np.arange(len(here)), found[found >= 0])
        xyz = np.concatenate([xyz, here[fresh]])
        at = [np.pad(each, (0, len(fresh)), constant_values=-1) for each in at]
        at.append(np.concatenate([found, fresh]))
    return Dates(tuple(chips), np.stack(at))


def usable(collection: Collection, bounds: Bounds | None = None) -> Chips:
    """Return the chips of a collection whose change can be measured.

    Raises InputError for location embeddings and for rows without dates.
    """
    check_imagery(collection)
    chips = Chips.of(collection)
    if bounds is not None:
        chips = chips.take(_within(chips, bounds))
        if not len(chips):
            box = ",".join(f"{side:g}" for side in bounds.west_south_east_north())
            raise OutsideCoverageError(f"Collection '{collection.id}' has no chip in {box}.")
    if not chips.days:
        raise InputError(
            f"The chips of collection '{collection.id}' have no dates, so no two can be compared. "
            "Embed the imagery with --datetime."
        )
    return chips


def check_imagery(collection: Collection) -> None:
    """Raise InputError for location embeddings, which are the same at every date."""
    spec = collection.spec
    if spec.source == LOCATION_ONLY or spec.model.lower().startswith("satclip"):
        raise InputError(
            f"Collection '{collection.id}' holds location embeddings ({spec.product}): they are "
            "computed from longitude and latitude alone, so they are the same at every date and "
            "cannot show change. Choose a collection made from imagery."
        )


def check_specs(one: Collection, two: Collection) -> None:
    """Raise SpecMismatchError, naming each difference, if two collections cannot be compared."""
    found = differences(one.spec, two.spec)
    if found:
        raise SpecMismatchError(
            f"Collections '{one.id}' and '{two.id}' hold vectors of two kinds (collection: "
            f"'{two.id}', asked: '{one.id}'): {'; '.join(found)}. Change can only be measured "
            "between vectors that were made in the same way. Embed both dates into one collection: "
            "what is fitted to a first input, as rcf is, is another encoder in each."
        )


def two_dates(
    one: Chips, two: Chips, start: str | None, end: str | None, tolerance_days: float
) -> Dates:
    """Return the places at two dates, each the nearest within the tolerance.

    Without a date it is the first of ``one``, or the last of ``two``. Raises InputError,
    NoDataError or OutsideCoverageError.
    """
    same = one.collection.path == two.collection.path
    before, after = check_order(one.collection, one.days, two.collection, two.days, start, end)
    chips = [
        _found(chips, when, other, tolerance_days)
        for chips, when, other in (
            (one, before, after if same else None),
            (two, after, before if same else None),
        )
    ]
    found = side_by_side(chips)
    _check_overlap(found)
    return found


def all_dates(chips: Chips, days: Sequence[datetime]) -> Dates:
    """Return the places at some days of a collection."""
    return side_by_side([chips.on(day) for day in days])


def check_order(
    one: Collection,
    one_days: Sequence[datetime],
    two: Collection,
    two_days: Sequence[datetime],
    start: str | None,
    end: str | None,
) -> tuple[datetime, datetime]:
    """Return the two dates that are meant: asked for, or the first of ``one``, the last of ``two``.

    Raises InputError if they are one, or in the wrong order.
    """
    same = one.path == two.path
    if same and len(one_days) < 2 and not start == end is not None:
        raise InputError(
            f"Collection '{one.id}' has one date, {listed(one_days)}. Change needs two: embed "
            "imagery of another date into it, or name another collection with --with-collection."
        )
    before = one_days[0] if start is None else parse_datetime(start)
    after = two_days[-1] if end is None else parse_datetime(end)
    if same and before == after:
        raise InputError(
            f"Both dates are {before:%Y-%m-%d}. Name two of the dates of '{one.id}': "
            f"{listed(one_days)}."
        )
    if before > after:
        raise InputError(
            f"--from {before:%Y-%m-%d} is later than --to {after:%Y-%m-%d}. Give the earlier date "
            "as --from."
        )
    return before, after


def series_days(
    collection: Collection, days: Sequence[datetime], start: str | None, end: str | None
) -> list[datetime]:
    """Return the days of a series, from a date to another. Raises InputError, also for few."""
    low = None if start is None else parse_datetime(start)
    high = None if end is None else parse_datetime(end)
    found = [day for day in days if (low is None or day >= low) and (high is None or day <= high)]
    if len(found) > MOST_DATES:
        raise InputError(
            f"Collection '{collection.id}' has {len(found)} dates there; a series compares all "
            f"pairs of {MOST_DATES} at most. Choose some with --from and --to."
        )
    check_dates(len(found))
    return found


def _found(chips: Chips, when: datetime, other: datetime | None, days: float) -> Chips:
    found = chips.near(when, days, other)
    if not len(found):
        raise nothing_near(chips.collection, chips.days, when, days, other)
    if not found.present.any():
        raise NoDataError(
            f"All {len(found):,} chips of collection '{chips.collection.id}' at {_label(found)} "
            "are without data (cloud, or outside the image). Choose another date: "
            f"{listed(chips.days)}."
        )
    return found


def nothing_near(
    collection: Collection,
    days: Sequence[datetime],
    when: datetime,
    tolerance_days: float,
    other: datetime | None,
) -> InputError:
    """Return the error of a date without any image: there is none, or the ``other`` date has it."""
    names = listed(days)
    near = [day for day in days if abs(day - when) <= timedelta(days=tolerance_days)]
    if other is not None and near:
        closest = min(near, key=lambda day: abs(day - when))
        return InputError(
            f"{min(when, other):%Y-%m-%d} and {max(when, other):%Y-%m-%d} both fall on the image "
            f"of {closest:%Y-%m-%d} in collection '{collection.id}', and change needs two. Its "
            f"dates are {names}: name two of them."
        )
    return InputError(
        f"Collection '{collection.id}' has nothing within {tolerance_days:g} days of "
        f"{when:%Y-%m-%d}. Its dates are {names}: name one of them, or raise --tolerance."
    )


def _check_overlap(found: Dates) -> None:
    common = int(found.there.all(axis=0).sum())
    counts = found.there.sum(axis=1)
    one, two = (chips.collection.id for chips in found.chips)
    where = (
        f"{found.labels[0]} of '{one}' ({counts[0]:,} places) and {found.labels[1]} of '{two}' "
        f"({counts[1]:,} places)"
    )
    if not common:
        raise OutsideCoverageError(
            f"No place has data at both {where}. Places are the same where the centres of their "
            "chips are: embed both dates on one grid, over one area."
        )
    share = common / counts.min()
    if share < LEAST_OVERLAP:
        raise OutsideCoverageError(
            f"Only {common:,} places have data at both {where}: {share:.2%} of the smaller, and "
            f"{LEAST_OVERLAP:.0%} is the least. Choose dates that cover the same area."
        )


def _label(chips: Chips) -> str:
    times = chips.time[chips.present] if chips.present.any() else chips.time
    ends = [np.datetime64(int(t // DAY_US), "D") for t in (times.min(), times.max())]
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def listed(days: Sequence[datetime]) -> str:
    """Return days in words, the first of many."""
    shown = [f"{day:%Y-%m-%d}" for day in days[:SHOWN]]
    return ", ".join(shown) + (f" and {len(days) - SHOWN} more" if len(days) > SHOWN else "")


def _within(chips: Chips, bounds: Bounds) -> NDArray[np.bool_]:
    west, south, east, north = bounds.west_south_east_north()
    if bounds.crosses_antimeridian:
        keep = (chips.lon >= west) | (chips.lon <= east)
    else:
        keep = (chips.lon >= west) & (chips.lon <= east)
    return np.asarray(keep & (chips.lat >= south) & (chips.lat <= north))
