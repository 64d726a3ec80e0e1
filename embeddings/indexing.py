"""The index of a collection as a command or a job asks for it, and when one is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.errors import StoreFormatError, StoreNotWritableError
from embeddings.index.build import IVF_ROWS, build_index
from embeddings.index.files import Manifest, finished_folders
from embeddings.index.open import open_index
from embeddings.report import Progress
from embeddings.store import Collection, Store

RECALL = 0.99
"""Share of the true best that a search is to find, where nobody says another."""
TYPICAL_K = 100
"""How complete an index is, is told for this many results."""
TRIED = 64
SEED = 0


@dataclass(frozen=True, slots=True)
class Indexed:
    """The index that was built, and how complete answers of ``TYPICAL_K`` results are."""

    collection: str
    kind: str
    """ivf: inverted lists; scan: vectors that are all compared."""
    rows: int
    bytes: int
    seconds: dict[str, float]
    """By step."""
    recall: float
    """Mean share of the true best, as the searches state it: measured on the own rows; 1: all."""
    considered: int
    """Mean number of rows that are compared."""
    lists: int
    """How many lists there are; 0 without."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """What was built, for people."""
        seconds = sum(self.seconds.values())
        built = (
            f"{self.rows:,} rows of '{self.collection}' are indexed ({self.kind}, "
            f"{self.bytes / 1e6:,.1f} MB) in {seconds:,.1f} s."
        )
        if self.considered == self.rows:
            return [built, "A search compares all rows, so none of the best is missed."]
        found = math.floor(10_000 * self.recall) / 100
        return [
            built,
            f"A search for {TYPICAL_K} results compares about {self.considered:,} rows in a few of "
            f"{self.lists:,} lists and finds {found:g} % of the true best, as measured on the "
            "collection's own rows.",
        ]


def index_collection(
    store: Path,
    name: str,
    recall: float = RECALL,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Indexed:
    """Build the index of a collection, going on where an earlier call stopped.

    The old one serves until the new one is whole. Raises StoreError, InputError, CancelledError.
    """
    opened = Store.open(store)
    collection = opened.collection(name)
    if name in opened.shipped():
        raise StoreNotWritableError(
            f"Collection '{name}' comes with Terrakin, is read-only and small: it is "
            "searched without an index."
        )
    report = build_index(
        collection,
        target_recall=recall,
        progress=lambda done, total, text: progress(Progress(done, total, text)),
        cancelled=cancelled,
    )
    found, considered = (1.0, report.count) if report.curve is None else _tried(collection)
    return Indexed(
        collection=name,
        kind=report.kind,
        rows=report.count,
        bytes=report.bytes,
        seconds=report.seconds,
        recall=found,
        considered=considered,
        lists=Manifest.load(report.folder).lists,
    )


def _tried(collection: Collection) -> tuple[float, int]:
    """Return what searches like some of the rows state: mean recall, mean rows compared."""
    index = open_index(collection)
    if index is None:
        raise StoreFormatError(
            f"The index of collection '{collection.id}' was changed while it was built. Run "
            "'terrakin index' again."
        )
    rows = np.random.default_rng(SEED).choice(index.count, min(TRIED, index.count), replace=False)
    found = [index.search(index.vector(int(row)), TYPICAL_K) for row in np.sort(rows)]
    recall = float(np.mean([each.expected_recall for each in found]))
    return recall, round(np.mean([each.considered for each in found]))


def index_advice(collection: Collection) -> str | None:
    """Return what to do about a large collection without an index of its present rows, or None."""
    if collection.count < IVF_ROWS or any(map(_readable, finished_folders(collection))):
        return None
    return (
        f"'{collection.id}' has {collection.count:,} rows and no index of them, so every search "
        f'compares all. Run: terrakin index --store "{collection.path.parent}" --collection '
        f"{collection.id}"
    )


def _readable(folder: Path) -> bool:
    """Return whether this release can read an index, as far as its ``index.json`` tells."""
    try:
        Manifest.load(folder)
    except StoreFormatError:
        return False
    return True
