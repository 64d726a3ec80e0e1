"""A row group → what is said of its rows: the piece of a prediction that a worker is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import codec
from embeddings.errors import StoreFormatError
from embeddings.probe.predict_scores import BLOCK_ROWS, Scored, Scorer
from embeddings.sources.areas import Area
from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection, Scene
from embeddings.store.reader import Reader
from embeddings.store.schema import embedding_matrix
from embeddings.types import TimeRange

READ_BYTES = 2**20

Partners = tuple[NDArray[np.int64], ...]
"""Of each collection beside, the rows ``(n,)`` that belong to those of a group; -1 for none."""


@dataclass(frozen=True)
class Wanted:
    """Which rows: those whose centre lies in the area and whose time in the range, of scenes."""

    within: Area | None = None
    time: TimeRange | None = None
    scenes: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether rows without a time are left out."""
        return self.time is not None and bool(self.time.start or self.time.end)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Neighbouring rows of one scene: the columns asked for, and what is said of them."""

    scene: Scene
    rows: pa.Table
    scored: Scored
    left_out: int
    """Rows asked for whose vector holds a value that is not a number; they are not among these."""


@dataclass(frozen=True)
class Group:
    """A row group of a part; ``first`` is the number of its first row in the collection."""

    scene: Scene
    path: Path
    number: int
    rows: int
    first: int


@dataclass(frozen=True, eq=False)
class Scoring:
    """All that scoring any row group of a collection needs; travels to any worker once.

    ``others`` are the collections whose vectors stand beside those of ``spec``.
    """

    scorer: Scorer
    spec: EmbeddingSpec
    wanted: Wanted
    columns: tuple[str, ...]
    others: tuple[Collection, ...] = ()

    def chunk(self, group: Group, partners: Partners) -> Chunk | None:
        """Return the rows asked for and what is said of them; None if there are none."""
        with reading(group.path), pq.ParquetFile(group.path, buffer_size=READ_BYTES) as file:
            keep = self._keep(file, group, partners)
            if keep is not None and not keep.any():
                return None
            # Apart from the vectors, which would take more time beside other columns.
            columns = list(self.columns)
            table = file.read_row_group(group.number, columns=columns, use_threads=False)
            scored = self._scored(file, group, keep, self._beside(partners))
        asked = group.rows if keep is None else int(keep.sum())
        good = scored.there if keep is None else scored.there & keep
        table = table.select(columns).replace_schema_metadata(None)
        if not good.all():
            table, scored = table.filter(pa.array(good)), scored.take(good)
        return Chunk(group.scene, table, scored, asked - table.num_rows)

    @cached_property
    def _readers(self) -> tuple[Reader, ...]:
        return tuple(map(Reader, self.others))

    def _beside(self, partners: Partners) -> list[NDArray[np.float32]]:
        """Return the vectors ``(n, d)`` of the partners; of rows without one any will do."""
        return [
            reader.vectors(np.maximum(rows, 0))
            for reader, rows in zip(self._readers, partners, strict=True)
        ]

    def _scored(
        self,
        file: Any,
        group: Group,
        keep: NDArray[np.bool_] | None,
        beside: list[NDArray[np.float32]],
    ) -> Scored:
        """Score the vectors of a row group in small batches, so that they stay in the cache."""
        pieces, start, dim = [], 0, self.spec.dim
        for batch in file.iter_batches(
            BLOCK_ROWS, row_groups=[group.number], columns=["embedding"], use_threads=False
        ):
            stored = embedding_matrix(batch.column("embedding"))
            if stored.shape[1] != dim:
                raise KeyError(f"vectors of {stored.shape[1]} instead of {dim} dimensions")
            rows = slice(start, start + len(stored))
            start = rows.stop
            if beside:
                own = codec.decode(stored, self.spec.dtype, self.spec.scale)
                stored = np.concatenate([own, *(each[rows] for each in beside)], axis=1)
            pieces.append(self.scorer.score(stored, None if keep is None else keep[rows]))
        return Scored.joined(pieces)

    def _keep(self, file: Any, group: Group, partners: Partners) -> NDArray[np.bool_] | None:
        """Return which rows of a row group are asked for, None for all."""
        wanted = self.wanted
        joined = partners[0] >= 0 if partners else None
        if wanted.within is None and not wanted.timed:
            return None if joined is None or joined.all() else joined
        table = file.read_row_group(
            group.number, columns=["lon", "lat", "datetime"], use_threads=False
        )
        keep = np.ones(group.rows, bool) if joined is None else joined
        if wanted.within is not None:
            keep &= inside(wanted.within, table["lon"].to_numpy(), table["lat"].to_numpy())
        if wanted.time is not None and wanted.timed:
            times = table["datetime"]
            if wanted.time.start is not None:
                keep &= _true(pc.greater_equal(times, pa.scalar(wanted.time.start, times.type)))
            if wanted.time.end is not None:
                keep &= _true(pc.less_equal(times, pa.scalar(wanted.time.end, times.type)))
        return keep


def inside(area: Area, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether places ``(n,)`` in degrees lie in an area."""
    west, south, east, north = area.bounds.west_south_east_north()
    if area.bounds.crosses_antimeridian:
        keep = (lon >= west) | (lon <= east)
    else:
        keep = (lon >= west) & (lon <= east)
    keep &= (lat >= south) & (lat <= north)
    keep[keep] = area.contains(lon[keep], lat[keep])
    return np.asarray(keep)


def _true(column: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column, False).to_numpy(), bool)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of reading a part into StoreFormatError."""
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreFormatError(
            f"'{path}' could not be read ({error}). It may have been changed while it was read: "
            "try again; then run 'terrakin verify'."
        ) from error
