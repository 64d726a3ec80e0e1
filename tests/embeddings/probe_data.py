"""A store whose chips' classes can be learned, and labels of them, for the tests of probes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from embeddings.probe.fit_job import ProbeJob
from embeddings.store import Store
from tests.embeddings.label_data import SIDE, square_chips, write_labels

ROWS = COLS = 24
WEST, NORTH = 10.0, 50.0
CLASSES = ("sea <b>&", "wood", "field")
DIM = 6


def truth(seed: int = 4) -> np.ndarray:
    """Return the class ``(rows, cols)`` of each chip: patches of 3 x 3 chips."""
    patches = np.random.default_rng(seed).integers(0, len(CLASSES), (ROWS // 3, COLS // 3))
    return np.kron(patches, np.ones((3, 3), int))


def make_store(folder: Path, name: str = "land", noise: float = 0.6) -> Path:
    """Make a store with a collection whose vectors tell the classes of ``truth``, with noise."""
    rng = np.random.default_rng(0)
    middles = 3 * np.eye(len(CLASSES), DIM)
    vectors = middles[truth().ravel()] + noise * rng.normal(size=(ROWS * COLS, DIM))
    store = Store.create(folder)
    square_chips(
        store.path / name, ROWS, COLS, origin=(WEST, NORTH), vectors=vectors.astype(np.float32)
    )
    return folder


def centre(row: int, col: int) -> shapely.Point:
    """Return the centre of a chip."""
    return shapely.Point(WEST + (col + 0.5) * SIDE, NORTH - (row + 0.5) * SIDE)


def some_chips(count: int, seed: int = 1) -> np.ndarray:
    """Return rows and columns ``(count, 2)`` of chips drawn at random."""
    numbers = np.random.default_rng(seed).permutation(ROWS * COLS)[:count]
    return np.stack([numbers // COLS, numbers % COLS], axis=1)


def write_points(path: Path, count: int = 250, seed: int = 1) -> Path:
    """Write labelled points: ``class`` text, ``height`` number, ``both`` two classes in one."""
    chips = some_chips(count, seed)
    codes = truth()[chips[:, 0], chips[:, 1]]
    names = [CLASSES[code] for code in codes]
    return write_labels(
        path,
        [centre(*chip) for chip in chips.tolist()],
        **{
            "class": names,
            "height": (codes * 10 + chips[:, 0] / 10).tolist(),
            "both": [
                f"{name};{'high' if code else 'low'}"
                for name, code in zip(names, codes, strict=True)
            ],
        },
    )


def job(store: Path, labels: Path, **changes: object) -> ProbeJob:
    """Make a job on the field ``class``; keywords replace its fields."""
    values: dict[str, object] = {"field": "class", "folds": 5, "curve": False} | changes
    return ProbeJob(store, "land", labels, **values)  # type: ignore[arg-type]  # as named


def fill(path: Path, truth: Callable[[str, int], Any], field: str = "reference") -> Path:
    """Fill in references: a function of the map's class and the place's id."""
    with closing(sqlite3.connect(path)) as database, database:
        for name in ("IsEmpty", "MinX", "MaxX", "MinY", "MaxY"):  # what GDAL's triggers call
            database.create_function(f"ST_{name}", 1, lambda _: 0)
        rows = database.execute("SELECT fid, id, map_class FROM sample").fetchall()
        for fid, number, name in rows:
            database.execute(
                f"UPDATE sample SET {field} = ? WHERE fid = ?", (truth(name, number), fid)
            )
    return path
