"""Collections of several years in which some places change, for the tests of change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.change.collection_job import CollectionChangeJob
from embeddings.store import Store
from embeddings.store.collection import Collection
from tests.embeddings.label_data import square_chips

ROWS = COLS = 24
DIM = 8
KINDS = ("forest", "field", "town")


def stamp(year: int) -> int:
    """Return the middle of a year in seconds since 1970."""
    return int(datetime(year, 7, 1, tzinfo=UTC).timestamp())


def kinds(seed: int = 3) -> np.ndarray:
    """Return the kind ``(places,)`` of each place at first."""
    return np.random.default_rng(seed).integers(0, len(KINDS), ROWS * COLS)


def vectors_of(kind: np.ndarray, year: int, seed: int = 0) -> np.ndarray:
    """Return vectors ``(places, DIM)``: each kind has its middle and, each year, its season."""
    middle = 4 * np.eye(len(KINDS), DIM)
    season = np.random.default_rng(year).normal(size=(len(KINDS), DIM))
    noise = np.random.default_rng([year, seed]).normal(size=(len(kind), DIM))
    return (middle[kind] + 0.25 * season[kind] + 0.3 * noise).astype(np.float32)


def make_years(
    store: Path,
    years: tuple[int, ...],
    changed: Mapping[int, int] | None = None,
    name: str = "years",
    **more: Any,
) -> Collection:
    """Make a collection of a 24 x 24 grid of chips at each year.

    ``changed`` says from which year on a place is the next of KINDS.
    """
    if not (store / "terrakin.json").exists():
        Store.create(store)
    first, pieces = kinds(), []
    for year in years:
        kind = first.copy()
        for place, since in (changed or {}).items():
            kind[place] = (first[place] + (year >= since)) % len(KINDS)
        pieces.append(vectors_of(kind, year))
    times = [stamp(year) for year in years]
    vectors = np.concatenate(pieces)
    return square_chips(store / name, ROWS, COLS, times=times, vectors=vectors, **more)


def job(folder: Path, out: str = "out.parquet", **changes: Any) -> CollectionChangeJob:
    """Make a job on the collection 'years' of ``folder/store``."""
    return CollectionChangeJob(folder / "store", "years", folder / out, **changes)
