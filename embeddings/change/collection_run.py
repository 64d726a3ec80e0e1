"""The change of a collection: two dates compared, or since when of all; measured, then written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embeddings.analysis.change import thresholds
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.change.noise import own_history
from embeddings.analysis.change.series import Since, series_threshold, since_when
from embeddings.change.clicks import Clicks
from embeddings.change.collection_classes import Named, kinds_of_change, land_cover
from embeddings.change.collection_clicks import decide, place_clicks
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_scores import Found, Stop, Tell, scored
from embeddings.change.pairs import (
    Dates,
    all_dates,
    check_specs,
    series_days,
    side_by_side,
    two_dates,
    usable,
)
from embeddings.change.places import Chips
from embeddings.errors import InputError
from embeddings.probe.map_areas import hectares
from embeddings.report import Progress
from embeddings.store import Store
from embeddings.store.collection import Collection

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CollectionChange:
    """What was found of each of ``n`` places; all arrays ``(n,)``.

    ``coverage`` are codes of Coverage: between the two dates, or of a series between its first and
    its last. ``hectares`` is the area of each place. ``since`` belongs to a series, the other
    measures to two dates.
    """

    job: CollectionChangeJob
    collections: tuple[Collection, ...]
    dates: Dates
    coverage: NDArray[np.uint8]
    hectares: NDArray[np.float64]
    asked: str
    """What the threshold comes of."""
    threshold: float
    found: Found
    score: Floats
    probability: Floats | None = None
    history: Floats | None = None
    since: Since | None = None
    denied: NDArray[np.bool_] | None = None
    """Places that reach the threshold, but are no change by the labels of kinds."""
    classes: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Texts ``(n,)`` by column: what probe and clicks name, None where they name nothing."""
    told: dict[str, Any] = field(default_factory=dict)
    """What the report says of them."""
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def measures(self) -> dict[str, Floats]:
        """What was measured between two dates, ``score`` first."""
        found = {"score": self.score, "probability": self.probability, "own_score": self.history}
        raw = {"cosine": self.found.cosine, "euclidean": self.found.euclidean}
        return {name: values for name, values in (found | raw).items() if values is not None}

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Which places changed."""
        if self.since is not None:
            return np.asarray(self.since.date > 0)
        with np.errstate(invalid="ignore"):
            over = np.asarray(self.score >= self.threshold)
        return over if self.denied is None else over & ~self.denied


def measure(
    job: CollectionChangeJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> CollectionChange:
    """Find what changed; write nothing.

    Raises InputError for location embeddings, rows without dates, dates that are one or in the
    wrong order, and too few places; SpecMismatchError for two vector spaces; NoDataError for a
    date without any data; OutsideCoverageError where less than 1 % is at both; CancelledError.
    """
    job.check()
    began = time.perf_counter()
    store = Store.open(job.store)
    one = store.collection(job.collection)
    two = one if job.other in (None, job.collection) else store.collection(str(job.other))
    check_specs(one, two)
    first = usable(one, job.bbox)
    second = first if two is one else usable(two, job.bbox)

    def tell(done: int, total: int, message: str) -> None:
        progress(Progress(done, total, message))

    run = _series if job.all_dates else _pair
    made = run(job, first, second, tell, cancelled)
    made.seconds["all"] = time.perf_counter() - began
    return made


def _pair(
    job: CollectionChangeJob, first: Chips, second: Chips, tell: Tell, stop: Stop
) -> CollectionChange:
    dates = two_dates(first, second, job.start, job.end, job.tolerance_days)
    pairs, notes = [(0, 1)], []
    if job.history:
        dates, more = _with_history(first, second, dates)
        pairs += more
    clicks = place_clicks(job, dates)
    found = scored(dates, pairs, job, tell, stop)
    score = found.scores[0, 1]
    decided = decide(job, clicks, dates, score)
    history = None
    if job.history:
        before = np.stack([found.scores[pair] for pair in pairs[1:]])
        history = own_history(score, before)
        notes.append(
            f"The score against a place's own history rests on {len(pairs) - 1} pairs of other "
            f"dates; {dates.labels[1]}, the date under test, is not among them."
        )
    likely = thresholds.ChangeProbability.fit(score).of(score)
    made = CollectionChange(
        job=job,
        collections=(first.collection, second.collection),
        dates=dates,
        coverage=_without_numbers(dates.coverage(0, 1), score),
        hectares=_hectares(dates),
        asked=decided.asked,
        threshold=decided.threshold,
        found=found,
        score=score,
        probability=np.asarray(likely, np.float32),
        history=history,
        told={} if decided.told is None else {"clicks": decided.told},
        notes=(*notes, *decided.notes),
    )
    return _named(made, decided.kinds)


def _named(made: CollectionChange, kinds: Clicks | None) -> CollectionChange:
    """Add what a probe and clicks say, where they are asked for."""
    job, dates = made.job, made.dates
    if kinds is not None:
        # First: what they deny is no change to the probe either.
        named = kinds_of_change(kinds, job.clicks_from, dates, made.changed, made.hectares)
        made = _with(replace(made, denied=named.denied), named)
    if job.probe is not None:
        made = _with(made, land_cover(job.probe, dates, made.changed, made.hectares))
    return made


def _with(made: CollectionChange, named: Named) -> CollectionChange:
    return replace(
        made,
        classes=made.classes | named.columns,
        told=made.told | named.told,
        notes=(*made.notes, *named.notes),
    )


def _with_history(first: Chips, second: Chips, dates: Dates) -> tuple[Dates, list[tuple[int, int]]]:
    """Add the other dates, and name pairs of dates that follow each other without date 2."""
    known = [
        {np.datetime64(int(d), "D") for d in np.unique(c.time // 86_400_000_000)}
        for c in dates.chips
    ]
    others = [
        chips.on(day)
        for chips in ([first] if second is first else [first, second])
        for day in chips.days
        if np.datetime64(day.date()) not in known[0] | known[1]
    ]
    series = sorted(
        [
            (int(np.median(chips.time)), n)
            for n, chips in enumerate((*dates.chips, *others))
            if n != 1
        ]
    )
    if len(series) < 3:
        raise InputError(
            f"--history needs two dates or more beside {dates.labels[0]} and {dates.labels[1]}, "
            f"since the date under test says nothing of what is usual; there are "
            f"{len(others)}."
        )
    pairs = [(a, b) for (_, a), (_, b) in pairwise(series)]
    return side_by_side([*dates.chips, *others]), pairs


def _series(
    job: CollectionChangeJob, first: Chips, _: Chips, tell: Tell, stop: Stop
) -> CollectionChange:
    days = series_days(first.collection, first.days, job.start, job.end)
    dates = all_dates(first, days)
    pairs = list(combinations(range(len(days)), 2))
    found = scored(dates, pairs, job, tell, stop)
    threshold = series_threshold(found.scores, len(days), job.false_alarms, job.seed)
    since = since_when(found.scores, len(days), threshold)
    return CollectionChange(
        job=job,
        collections=(first.collection,),
        dates=dates,
        coverage=since.coverage,
        hectares=_hectares(dates),
        asked=f"false alarms {job.false_alarms:g}",
        threshold=threshold,
        found=found,
        score=since.score,
        since=since,
        notes=_series_notes(dates, since),
    )


def _series_notes(dates: Dates, since: Since) -> tuple[str, ...]:
    last = dates.labels[-1]
    note = f"A change that shows only at the last date, {last}, is not named: it may not last."
    early = int((np.isfinite(since.score) & ~dates.there[-1]).sum())
    if not early:
        return (note,)
    return (
        note,
        f"{early:,} places have no data at {last}: what is said of them holds up to their own last "
        "date with data.",
    )


def _without_numbers(codes: NDArray[np.uint8], score: Floats) -> NDArray[np.uint8]:
    """Take vectors that are not made of numbers for no data."""
    out = codes.copy()
    out[(codes == Coverage.COMPARED) & ~np.isfinite(score)] = Coverage.NO_DATA
    return out


def _hectares(dates: Dates) -> NDArray[np.float64]:
    """Return the area of each place: its chip, or its step where chips overlap."""
    shapes = shapely.from_wkb(dates.items()["geometry"].to_numpy(zero_copy_only=False))
    layout = dates.chips[0].collection.spec.layout
    share = 1.0 if layout is None else math.prod(layout.stride_px) / math.prod(layout.chip_px)
    return np.asarray(hectares(shapes) * min(1.0, share))
