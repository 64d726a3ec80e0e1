"""Which rows of several collections are the same places: those whose items have the same id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.query.items import ItemTable
from embeddings.search.loaded import Loaded
from embeddings.spacing import distances_m
from embeddings.store.reader import Reader

Numbers = NDArray[np.integer[Any]]

APART_M = 30.0
"""Centres of one place may lie so far apart: two products may round a cell to their own pixels."""
APART_SHARE = 0.25
"""Nor may they lie further apart than this share of the chip's shorter side."""
BLOCK_ROWS = 1_000_000


class Joinable(Protocol):
    """What joining needs of a collection."""

    @property
    def reader(self) -> Reader:
        """What reads its columns."""

    @property
    def items(self) -> ItemTable:
        """The centres of its rows."""

    def rows(self, positions: NDArray[np.int64]) -> pa.Table:
        """Return rows by their numbers, in that order."""


@dataclass(frozen=True, eq=False)
class Join:
    """Rows of two or more collections, paired by the ids of their items.

    ``own[c] (count,)`` are the row numbers in collection c, those of the first rising;
    ``number[c]`` gives for each row of c its joined row, -1 where it has no partner in all others.
    Together they take 8 bytes for a row of each collection.
    """

    parts: tuple[Loaded, ...]
    own: tuple[Numbers, ...]
    number: tuple[Numbers, ...]

    @classmethod
    def of(cls, parts: Sequence[Loaded]) -> Join:
        """Pair the rows. Raises InputError if none is shared, or if their centres disagree."""
        rows = paired(parts)
        most = max(part.index.count for part in parts)
        kind = np.dtype(np.int32 if most < np.iinfo(np.int32).max else np.int64)
        number = []
        for part, own in zip(parts, rows, strict=True):
            joined = np.full(part.index.count, -1, kind)
            joined[own] = np.arange(len(own))
            number.append(joined)
        return cls(tuple(parts), tuple(own.astype(kind) for own in rows), tuple(number))

    @property
    def count(self) -> int:
        """How many rows are joined."""
        return len(self.own[0])

    def rows(self, part: int, joined: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows in one collection of joined rows, in that order."""
        return np.asarray(self.own[part][joined], np.int64)

    def joined(self, part: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the joined rows of those rows of one collection that are joined."""
        found = np.asarray(self.number[part][rows], np.int64)
        return found[found >= 0]

    @cached_property
    def masks(self) -> tuple[NDArray[np.bool_] | None, ...]:
        """For each collection whether a row is joined; None where all are."""
        return tuple(None if len(number) == self.count else number >= 0 for number in self.number)


def paired(parts: Sequence[Joinable]) -> list[NDArray[np.int64]]:
    """Return the rows of each collection that all share, in the order of the first.

    Raises InputError if none is shared, or if their centres disagree.
    """
    ids = [_ids(part) for part in parts]
    rows = [np.arange(len(ids[0]))]
    for others in ids[1:]:
        partner = pc.index_in(ids[0].take(pa.array(rows[0])), value_set=others)
        there = partner.is_valid().to_numpy(zero_copy_only=False)
        found = partner.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
        rows = [*(each[there] for each in rows), found]
    if not len(rows[0]):
        raise InputError(_nothing_shared(parts, ids))
    _check_centres(parts, rows)
    return rows


def _ids(part: Joinable) -> pa.Array:
    tables = part.reader.columns(("id",))
    chunks = [chunk.cast(pa.large_string()) for table in tables for chunk in table["id"].chunks]
    return pa.chunked_array(chunks, pa.large_string()).combine_chunks()


def _nothing_shared(parts: Sequence[Joinable], ids: Sequence[pa.Array]) -> str:
    names = [f"'{part.reader.collection.id}'" for part in parts]
    shown = ", ".join(f"'{own[0].as_py()}' of {name}" for name, own in zip(names, ids, strict=True))
    return (
        f"Collections {', '.join(names)} share no item ids: {shown}, for example. Items are joined "
        "by their ids; take collections of the same scenes cut into the same chips, or of the "
        "same grid."
    )


def _check_centres(parts: Sequence[Joinable], rows: Sequence[NDArray[np.int64]]) -> None:
    """Raise InputError if two rows of one id lie in two places, naming the pair that is worst."""
    first = parts[0].items
    for part, own in zip(parts[1:], rows[1:], strict=True):
        worst, apart = 0, -1.0
        for start in range(0, len(own), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            here, there = rows[0][block], own[block]
            away = distances_m(
                first.lon[here], first.lat[here], part.items.lon[there], part.items.lat[there]
            )
            if away.max() > apart:
                worst, apart = start + int(away.argmax()), float(away.max())
        item = parts[0].rows(rows[0][worst : worst + 1])
        if apart > min(APART_M, APART_SHARE * _side_m(item)):
            one, other = rows[0][worst], own[worst]
            raise InputError(
                f"Collections '{parts[0].reader.collection.id}' and "
                f"'{part.reader.collection.id}' are not on one grid: '{item['id'][0].as_py()}' "
                f"lies at {first.lon[one]:.6f}, {first.lat[one]:.6f} in the first and at "
                f"{part.items.lon[other]:.6f}, {part.items.lat[other]:.6f} in the other. Take "
                "each by itself, or embed one anew with the other's chips."
            )


def _side_m(item: pa.Table) -> float:
    """Return the shorter side of a chip's box in metres."""
    box = item["bbox"][0].as_py()
    west, south, east, north = (np.array([box[s]]) for s in ("xmin", "ymin", "xmax", "ymax"))
    lat = (south + north) / 2
    wide = distances_m(west, lat, east, lat)
    return float(min(wide[0], distances_m(west, south, west, north)[0]))
