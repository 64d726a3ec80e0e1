"""Chips with their labels, and the vectors they are: what a probe is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.samples import Samples, Task
from embeddings.errors import InputError
from embeddings.probe.beside import Beside
from embeddings.probe.join_report import SHOWN, ClassCount, Dropped, JoinReport
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader

NOT_FINITE = "its vector holds values that are not numbers"
ZERO = "its vector is all zero"
ALONE = "the collection beside has no item of its id"


@dataclass(frozen=True, eq=False)
class Joined:
    """Chips with their labels: ``rows (n,) int64`` of the collection, sorted.

    ``target`` and ``classes`` are as of ``Samples``; ``group (n,) int64`` is the label, counted
    from 0 in the order of the file, that a chip got its target from; pixels are each their own.
    """

    task: Task
    rows: NDArray[np.int64]
    target: NDArray[Any]
    classes: tuple[str, ...]
    group: NDArray[np.int64]
    report: JoinReport

    def __len__(self) -> int:
        return len(self.rows)

    def check(self) -> None:
        """Raise InputError if no probe can be fitted to so few labels, or to all the same."""
        report = " ".join(d.line("labels not used") for d in self.report.dropped)
        if len(self.rows) == 1:
            raise InputError(
                "Only one chip is labelled; a probe needs at least two, and rather dozens a class. "
                f"To find what is like one place, search there. {report}".rstrip()
            )
        if self.task == "classes" and len(self.classes) < 2:
            raise InputError(
                f"All {len(self.rows):,} labelled chips are of one class, '{self.classes[0]}': "
                "there is nothing to tell it from. Label another class, or fit with --task "
                f"positive, which draws a background. {report}".rstrip()
            )
        if self.task == "number" and len(np.unique(self.target)) < 2:
            raise InputError(
                f"All {len(self.rows):,} labelled chips have the number {self.target[0]:g}: there "
                f"is nothing to fit. {report}".rstrip()
            )


def samples(collection: Collection, joined: Joined) -> Samples:
    """Read the vectors of labelled chips; see ``with_vectors``."""
    return with_vectors(Beside((collection,)), joined)[0]


def with_vectors(beside: Beside, joined: Joined) -> tuple[Samples, Joined]:
    """Read the vectors of labelled chips of the first collection, and of their partners.

    Chips without a partner, or whose vector is all zero or not all numbers, are left out of the
    samples and of what is returned beside them, whose report counts them. Raises InputError if too
    few are left.
    """
    reader, there = beside.reader, beside.joined(joined.rows)
    vectors = beside.vectors(joined.rows[there])
    numbers = np.isfinite(vectors).all(axis=1)
    some = vectors.any(axis=1)
    finite, zero = there.copy(), there.copy()
    finite[there], zero[there] = numbers, numbers & ~some
    keep = finite & ~zero
    dropped = [
        chips_dropped(reader, joined.rows[mask], reason)
        for mask, reason in ((~there, ALONE), (there & ~finite, NOT_FINITE), (zero, ZERO))
    ]
    vectors = vectors[keep[there]]
    target, classes = present(joined.task, joined.target[keep], joined.classes)
    labels = {each.name: each.labels for each in joined.report.classes}
    table = class_table(joined.task, target, classes, labels)
    report = joined.report.with_vectors(dropped, int(keep.sum()), table)
    left = Joined(joined.task, joined.rows[keep], target, classes, joined.group[keep], report)
    if not len(left):
        raise InputError(
            f"None of the {len(joined):,} labelled chips has a vector that can be used: "
            + " ".join(d.line("chips") for d in dropped if d.count)
        )
    left.check()
    lon, lat = _places(reader, left.rows)
    blocks = beside.dims if len(beside.dims) > 1 else ()
    made = Samples(left.task, vectors, target, classes, lon, lat, left.group, blocks=blocks)
    return made, left


def class_table(
    task: Task, target: NDArray[Any], classes: tuple[str, ...], labels: dict[str, int | None]
) -> list[ClassCount]:
    """Count the chips of each class, of those in ``labels`` too that have none."""
    if task == "number":
        return []
    if task == "multilabel":
        counts = target.sum(axis=0)
    elif task == "positive":
        counts = np.array([target.sum()])
    else:
        counts = np.bincount(target, minlength=len(classes))
    chips = dict(zip(classes, counts.tolist(), strict=True))
    names = [*labels, *(name for name in classes if name not in labels)]
    total = max(len(target), 1)
    return [
        ClassCount(name, labels.get(name), chips.get(name, 0), chips.get(name, 0) / total)
        for name in names
    ]


def present(
    task: Task, target: NDArray[Any], classes: tuple[str, ...]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Leave out classes that no chip has."""
    if task == "classes":
        there, codes = np.unique(target, return_inverse=True)
        return codes.astype(np.int64), tuple(classes[i] for i in there.tolist())
    if task == "multilabel":
        some = np.flatnonzero(target.any(axis=0))
        return target[:, some], tuple(classes[i] for i in some.tolist())
    return target, classes


def chips_dropped(reader: Reader, rows: NDArray[np.int64], reason: str) -> Dropped:
    """Count chips that are left out, and name the first."""
    shown: tuple[str, ...] = ()
    if len(rows):
        shown = tuple(f"'{name}'" for name in reader.rows(rows[:SHOWN])["id"].to_pylist())
    return Dropped(reason, len(rows), shown)


def _places(
    reader: Reader, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude of rows, sorted, a part of the collection at a time."""
    first, lon, lat = 0, [], []
    for table in reader.columns(("lon", "lat")):
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + table.num_rows)]
        lon.append(table["lon"].to_numpy()[here - first])
        lat.append(table["lat"].to_numpy()[here - first])
        first += table.num_rows
    return np.concatenate([np.empty(0), *lon]), np.concatenate([np.empty(0), *lat])
