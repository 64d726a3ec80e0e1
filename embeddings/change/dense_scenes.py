"""Which scenes with dense vectors stand for which date, by what ``change collection`` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from embeddings.change.collection_job import ANY_STRIDE, CollectionChangeJob
from embeddings.change.dense_dates import DenseDates, on_one_grid
from embeddings.change.pairs import (
    check_imagery,
    check_order,
    check_specs,
    nothing_near,
    series_days,
)
from embeddings.dense_files import StoredDense, open_dense
from embeddings.errors import InputError, NoDataError
from embeddings.store import Store
from embeddings.store.collection import Collection, Scene
from embeddings.types import parse_datetime


@dataclass(frozen=True)
class Dated:
    """The scenes of a collection that have a date, in order of time."""

    collection: Collection
    scenes: tuple[Scene, ...]
    times: tuple[datetime, ...]

    @classmethod
    def of(cls, collection: Collection) -> Dated:
        """Take them. Raises InputError if there is none, or for location embeddings."""
        check_imagery(collection)
        known = [(_time(scene.datetime), scene) for scene in collection.scenes if scene.datetime]
        if not known:
            raise InputError(
                f"No scene of collection '{collection.id}' has a date, so no two can be compared. "
                "Embed the imagery with --datetime."
            )
        known.sort(key=lambda each: (each[0], each[1].id))
        return cls(collection, tuple(s for _, s in known), tuple(t for t, _ in known))

    @property
    def days(self) -> list[datetime]:
        """The days there are scenes of, from the first on."""
        return sorted({_day(time) for time in self.times})

    def near(self, when: datetime, days: float, other: datetime | None) -> list[Scene]:
        """Return the scenes within so many days of a time, the nearest day first.

        Those nearer to the ``other`` time belong to that one. Raises InputError if there is none.
        """
        found = [
            (abs(_day(time) - _day(when)), scene)
            for time, scene in zip(self.times, self.scenes, strict=True)
            if abs(time - when) <= timedelta(days=days)
            and (other is None or abs(time - when) <= abs(time - other))
        ]
        if not found:
            raise nothing_near(self.collection, self.days, when, days, other)
        return [scene for _, scene in sorted(found, key=lambda each: each[0])]


def dense_dates(job: CollectionChangeJob, store: Store) -> DenseDates:
    """Find the stored dense vectors of the dates that a job compares, on one grid.

    Raises InputError, ItemNotFoundError where a scene has no dense vectors, SpecMismatchError, or
    NoDataError where a date has not one vector.
    """
    one = store.collection(job.collection)
    two = one if job.other in (None, job.collection) else store.collection(str(job.other))
    check_specs(one, two)
    beside = [store.collection(name) for name in job.scales]
    names = [one.id, *job.scales]
    if len(set(names)) < len(names):
        raise InputError(f"Collections {', '.join(names)} stand side by side: name each only once.")
    scenes = _series(job, Dated.of(one)) if job.all_dates else _pair(job, Dated.of(one), two)
    owners = [[one, two] if not job.all_dates else [one] * len(scenes)]
    owners += [[each] * len(scenes) for each in beside]
    stride = None if job.dense == ANY_STRIDE else job.dense
    found = [
        [
            [open_dense(_holder(owner, scene), scene.id, stride) for scene in date]
            for owner, date in zip(owned, scenes, strict=True)
        ]
        for owned in owners
    ]
    labels = [_label(date) for date in scenes]
    for owned, dates in zip(owners, found, strict=True):
        for owner, label, date in zip(owned, labels, dates, strict=True):
            _check_data(owner, label, date)
    return on_one_grid(labels, owners, found, job.bbox)


def _pair(job: CollectionChangeJob, one: Dated, other: Collection) -> list[list[Scene]]:
    same = other.path == one.collection.path
    two = one if same else Dated.of(other)
    before, after = check_order(
        one.collection, one.days, two.collection, two.days, job.start, job.end
    )
    days = job.tolerance_days
    return [
        one.near(before, days, after if same else None),
        two.near(after, days, before if same else None),
    ]


def _series(job: CollectionChangeJob, one: Dated) -> list[list[Scene]]:
    days = series_days(one.collection, one.days, job.start, job.end)
    dated = list(zip(one.times, one.scenes, strict=True))
    return [[scene for time, scene in dated if _day(time) == day] for day in days]


def _holder(owner: Collection, scene: Scene) -> Collection:
    """Return the collection, if it holds the scene made from the same files."""
    own = owner.scene(scene.id)
    if own is None:
        raise InputError(
            f"Collection '{owner.id}' has no scene '{scene.id}'. Collections that stand side by "
            "side hold the same scenes: embed it there too, with the same --scene name."
        )
    if own.datetime is not None and _time(own.datetime) != _time(str(scene.datetime)):
        raise InputError(
            f"Scene '{scene.id}' is of {own.datetime} in collection '{owner.id}' and of "
            f"{scene.datetime} in the first. Collections that stand side by side hold the same "
            "scenes."
        )
    return owner


def _check_data(collection: Collection, label: str, date: Sequence[StoredDense]) -> None:
    if not sum(stored.valid for stored in date):
        raise NoDataError(
            f"No cell of collection '{collection.id}' at {label} has a vector (cloud, or outside "
            "the image). Choose another date."
        )


def _label(scenes: Sequence[Scene]) -> str:
    days = sorted(f"{_time(str(scene.datetime)):%Y-%m-%d}" for scene in scenes)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _time(text: str | None) -> datetime:
    return parse_datetime(str(text))


def _day(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)
