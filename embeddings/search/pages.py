"""The last answers, kept whole: the next page of one is a slice of it, not another search."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import shapely

from embeddings.index.base import Found
from embeddings.query.calibration import Scale
from embeddings.search.searchable import Directed
from embeddings.sources.areas import Polygons

MOST_ANSWERS = 32
MOST_BYTES = 32 * 2**20
"""An answer of 50,000 results takes 0.6 MB."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All that was found for a query: from what direction, of how many rows, on what scale."""

    directed: Directed
    found: Found
    matched: int
    scale: Scale

    @property
    def bytes(self) -> int:
        """The size of what grows with the query."""
        arrays = (self.found.rows, self.found.cosines, self.directed.vector, self.directed.own)
        return sum(each.nbytes for each in arrays)


class Answers:
    """The answers that were asked for last, few and small enough to be kept. Thread-safe."""

    def __init__(self, most: int = MOST_ANSWERS, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Answer | None:
        """Return an answer if it is still known."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; those that were not asked for the longest make room."""
        with self._lock:
            if key in self._kept:
                self._bytes -= self._kept.pop(key).bytes
            self._kept[key] = answer
            self._bytes += answer.bytes
            while len(self._kept) > self._most or self._bytes > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.bytes


def digest(*values: Any) -> str:
    """Return a hash of queries and what they hold that is the same for equal ones."""
    return hashlib.sha256(repr([_plain(value) for value in values]).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return what ``repr`` tells apart wherever two queries differ."""
    if isinstance(value, Polygons):
        return shapely.to_wkb(value.shape), value.crs.to_wkt()
    if isinstance(value, Path):
        return str(value), _written(value)
    if is_dataclass(value):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple) and any(is_dataclass(v) or isinstance(v, Path) for v in value):
        return [_plain(each) for each in value]
    return value


def _written(path: Path) -> list[tuple[str, int, int]]:
    """Return by what an image, or the files of a folder, are known not to have been changed."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(file.name, file.stat()) for file in files]
    except (OSError, ValueError):  # ValueError: a path with a NUL in it
        return []
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in found]
