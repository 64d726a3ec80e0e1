"""Change between dense vectors: drawn from, scored window by window, kept, then written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings import __version__
from embeddings.analysis.change.coverage import coverage_of
from embeddings.analysis.change.noise import cosine_distance, euclidean_distance
from embeddings.analysis.change.series import Since, series_threshold, since_when
from embeddings.analysis.plain import plain
from embeddings.atomic import check_space
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.dense_dates import DenseDates
from embeddings.change.dense_maps import UNKNOWN_DATE, DenseMaps, dense_maps
from embeddings.change.dense_scenes import dense_dates
from embeddings.change.dense_scores import (
    DenseNoise,
    References,
    Vectors,
    draw,
    read,
    reference_count,
)
from embeddings.change.memory import peak_bytes
from embeddings.change.output_lock import all_held
from embeddings.change.raster_staging import Staging
from embeddings.dense import Tile
from embeddings.errors import CancelledError, InputError
from embeddings.report import Progress
from embeddings.store import Store
from embeddings.store.collection import Collection

Floats = NDArray[np.float32]

FORMAT = 2
"""Of what is staged; another one is made anew."""
BLOCK = 8192
"""Cells that a thread scores at once."""
THREADS = 2
CELL_BYTES = 48
"""What a cell takes while it is staged and put together, at most."""
DRAWN = Tile(-1, -1, 0, 0)
"""What stands for the cells that were drawn, among the windows that are staged."""
CACHE_BYTES = 128 * 2**20


@dataclass(frozen=True, eq=False)
class DenseChange:
    """What was found between dates of dense vectors, and written."""

    job: CollectionChangeJob
    collections: tuple[Collection, ...]
    """Of the first chip size, then those beside it."""
    dates: DenseDates
    noise: DenseNoise
    references: int
    maps: DenseMaps
    notes: tuple[str, ...]
    seconds: dict[str, float]
    resumed: int
    """Windows that an earlier run had finished."""
    peak_bytes: int | None


def change_dense(
    job: CollectionChangeJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    last: Callable[[DenseChange], None] = lambda _: None,
) -> DenseChange:
    """Compare dense vectors and write the maps. Files that are there are replaced by whole ones.

    ``last`` writes ``job.reports``: it is called when the maps are there, before what was staged
    is removed, so that a run killed there need not be made again.

    Raises InputError or one of its kinds for what cannot be compared, StoreError for what cannot
    be written, CancelledError when asked to stop: then the same job goes on later.
    """
    job.check()
    began = time.perf_counter()
    dates = dense_dates(job, Store.open(job.store))
    owned = [each for scale in dates.scales for each in scale.collections]
    collections = tuple({each.path: each for each in owned}.values())
    told = {
        "format": FORMAT,
        "terrakin": __version__,
        "dates": list(dates.labels),
        "collections": {each.id: each.state for each in collections},
        "sets": [_sets(date) for scale in dates.scales for date in scale.dates],
        "settings": _compared(job),
    }
    # One thread of linear algebra, so that the bytes do not depend on how many there are.
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        threadpool_limits(1),
        # This one first: it is the one that a refusal names.
        Staging.open(job.out, told) as staging,
        all_held(path for path in job.outputs if path != job.out),
    ):
        staging.sweep(job.outputs)
        made = _Run(job, collections, dates, staging, progress, cancelled).run()
        made.seconds["all"] = time.perf_counter() - began
        last(made)
        staging.discard()
    return made


def _sets(date: Any) -> list[str]:
    """Say what the vectors of a date are made of, down to the bytes of the tiles."""
    return [
        layer.stored.dense.mark(layer.stored.collection.spec)
        + ",".join(filter(None, layer.stored.index["sha256"].to_pylist()))
        for layer in date
    ]


def _compared(job: CollectionChangeJob) -> dict[str, Any]:
    """Return the settings that scores depend on."""
    names = ("dense", "scales", "other", "all_dates", "metric", "false_alarms", "bbox", "seed")
    return {name: job.settings()[name] for name in names}


class _Run:
    """One run."""

    def __init__(
        self,
        job: CollectionChangeJob,
        collections: tuple[Collection, ...],
        dates: DenseDates,
        staging: Staging,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.job, self.collections, self.dates, self.staging = job, collections, dates, staging
        self.progress, self.cancelled = progress, cancelled
        self.seconds: dict[str, float] = {}
        many = len(dates.labels)
        self.pairs = list(combinations(range(many), 2)) if job.all_dates else [(0, 1)]
        self.total, self.done = 2 * dates.count, 0

    def run(self) -> DenseChange:
        """Learn the noise, score what is missing, then write everything."""
        check_space(self.job.out, CELL_BYTES * self.dates.count)
        with self._spent("drawing"):
            drawn = self._references()
        with self._spent("fitting"):
            try:
                noise = DenseNoise.fit(drawn, self.dates, self.pairs, self.job, self._check)
            except InputError:
                self.staging.discard()  # the same would come of it again
                raise
        limit = None
        if self.job.all_dates:
            many, alarms = len(self.dates.labels), self.job.false_alarms
            limit = series_threshold(noise.of_references(), many, alarms, self.job.seed)
        with self._spent("scoring"):
            resumed = self._score(noise, limit)
        self._check()
        self._tell("writing the maps")
        with self._spent("writing"):
            maps = dense_maps(self.job, self.dates, self.staging, limit, self._said())
        return DenseChange(
            self.job,
            self.collections,
            self.dates,
            noise,
            len(drawn.xyz),
            maps,
            self._notes(drawn),
            self.seconds,
            resumed,
            peak_bytes(),
        )

    def _references(self) -> References:
        """Draw cells to learn the noise from, or return those of an earlier run."""
        if self.staging.has(DRAWN):
            self.done += self.dates.count
            return References.from_arrays(self.staging.load(DRAWN), len(self.dates.labels))
        drawn = draw(self.dates, reference_count(self.pairs), self.job.seed, self._drawn)
        self.staging.keep(DRAWN, **drawn.to_arrays())
        return drawn

    def _drawn(self, tile: Tile) -> None:
        self._check()
        self.done += tile.cells
        self._tell("cells drawn from")

    def _score(self, noise: DenseNoise, limit: float | None) -> int:
        todo = [tile for tile in self.dates.tiles if not self.staging.has(tile)]
        resumed = len(self.dates.tiles) - len(todo)
        self.done += self.dates.count - sum(tile.cells for tile in todo)
        with ThreadPoolExecutor(THREADS) as pool:
            for tile in todo:
                self._check()
                vectors = read(self.dates, tile)
                parts = [
                    np.arange(first, min(first + BLOCK, tile.cells))
                    for first in range(0, tile.cells, BLOCK)
                ]
                found = list(
                    pool.map(lambda cells, t=tile, v=vectors: self._part(noise, limit, t, v, cells),
                             parts)
                )  # fmt: skip
                shape = tile.height, tile.width
                joined = {
                    name: np.concatenate([each[name] for each in found]).reshape(shape)
                    for name in found[0]
                }
                self.staging.keep(tile, **joined)
                self.done += tile.cells
                # The end is told when all is written.
                self._tell("cells scored")
        return resumed

    def _part(
        self,
        noise: DenseNoise,
        limit: float | None,
        tile: Tile,
        vectors: Vectors,
        cells: NDArray[np.int64],
    ) -> dict[str, NDArray[Any]]:
        """Measure some cells of a window."""
        self._check()
        here = [[date[cells] for date in scale] for scale in vectors]
        there = np.stack([np.isfinite(date).all(axis=1) for date in here[0]])
        scores = noise.score(here, self.dates.xyz(tile, cells))
        if limit is not None:
            return _since(scores, len(self.dates.labels), limit)
        before, after = here[0]
        none = np.zeros(len(cells), bool)
        centre = self.collections[0].spec.centre
        off = np.float32(0) if centre is None else np.asarray(centre, np.float32)
        return {
            "score": scores[0, 1],
            "cosine": cosine_distance(before - off, after - off),
            "euclidean": euclidean_distance(before, after),
            "coverage": coverage_of(there[0], there[1], none, none),
        }

    def _said(self) -> dict[str, Any]:
        """Say what the maps were made of; no time of running, so that equal maps are equal."""
        spec = self.collections[0].spec
        return {
            "terrakin": __version__,
            "collections": [each.id for each in self.collections],
            "collection_states": [each.state for each in self.collections],
            "product": spec.product,
            "source": spec.source,
            "dates": list(self.dates.labels),
            "settings": plain(self.job.settings()),
        }

    def _notes(self, drawn: References) -> tuple[str, ...]:
        if not self.job.all_dates:
            return ()
        last = self.dates.labels[-1]
        note = f"A change that shows only at the last date, {last}, is not named: it may not last."
        each = drawn.counts[:-1]
        if each[-1] == each.max():
            return (note,)
        return (
            note,
            f"Fewer cells have data at {last} than at another date: what is said of the rest holds "
            "up to their own last date with data.",
        )

    def _check(self) -> None:
        if self.cancelled():
            raise CancelledError(
                "Stopped as asked. Finished windows are kept; the same command goes on with them."
            )

    def _tell(self, message: str) -> None:
        self.progress(Progress(min(self.done, self.total - 1), self.total, message))

    @contextmanager
    def _spent(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - began


def _since(
    scores: dict[tuple[int, int], Floats], dates: int, limit: float
) -> dict[str, NDArray[Any]]:
    since: Since = since_when(scores, dates, limit)
    known = np.isfinite(since.score)
    codes = np.where(known, np.maximum(since.date, 0), UNKNOWN_DATE).astype(np.uint8)
    return {"score": since.score, "since": codes, "coverage": since.coverage}
