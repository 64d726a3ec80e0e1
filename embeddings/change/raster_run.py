"""A change map of two dates, made window by window; can be killed anywhere and goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.plain import plain
from embeddings.atomic import check_space
from embeddings.change.memory import peak_bytes
from embeddings.change.objects import (
    Least,
    find_objects,
    lent_labels,
    objects_told,
    write_objects,
)
from embeddings.change.raster_files import assembled, write_rasters
from embeddings.change.raster_fit import PairFit, fit_pair
from embeddings.change.raster_job import SMALLEST_OBJECT_PX, RasterChangeJob, Threshold
from embeddings.change.raster_pair import PairWindow, ScenePair
from embeddings.change.raster_scores import ScoreRaster, Totals, count, threshold_of
from embeddings.change.raster_staging import Staging
from embeddings.change.thumbnails import Thumbnails
from embeddings.dense import Tile
from embeddings.errors import CancelledError
from embeddings.report import Pace, Progress

FORMAT = 1
"""Of what is staged; another one is not gone on with."""
WINDOW_BYTES = 32 * 2**20
"""Both dates of a window take at most that many bytes."""
SIDES = (512, 384, 256)
CACHE_BYTES = 192 * 2**20
"""What GDAL may keep of the files it reads; by itself it takes a twentieth of the memory."""
PIXEL_BYTES = 20
"""Of disk that a pixel takes at most: staged, put together, and written in two forms."""
THREADS = 2
"""Windows that are scored at once; each takes memory."""
STOPPED = "Stopped. What was finished is kept: run the same command again to go on."

Floats = NDArray[np.float32]


@dataclass
class Seconds:
    """What the stages of a run took, summed over threads."""

    of: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Count the time of a block for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.of[stage] = self.of.get(stage, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Waiting:
    """A window that is being scored."""

    tile: Tile
    inner: tuple[slice, slice]
    coverage: NDArray[np.uint8]
    shown: dict[str, Floats]
    score: Future[Floats]


@dataclass(frozen=True)
class RasterChange:
    """What a run found; ``report`` says it all as JSON."""

    job: RasterChangeJob
    pair: dict[str, Any]
    fit: PairFit
    threshold: float
    totals: Totals
    objects: dict[str, Any] | None
    pictures: Thumbnails
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    """By stage, summed over threads."""
    windows: int
    resumed: int
    """Windows that an earlier run had finished."""
    peak_bytes: int | None
    elapsed_s: float = 0.0


def change_raster(
    job: RasterChangeJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> RasterChange:
    """Compare two dates and write the maps. Files that are there are replaced by whole ones.

    Raises InputError or one of its kinds for dates that cannot be compared, StoreError for what
    cannot be written, CancelledError when asked to stop: then the same job goes on later.
    """
    job.check()
    started = time.perf_counter()
    # One thread of linear algebra, so that the bytes do not depend on how many there are.
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        threadpool_limits(1),
        ScenePair.open(job) as pair,
    ):
        said = {
            "format": FORMAT,
            "terrakin": __version__,
            "settings": _compared(job),
            "marks": pair.marks,
            "rule": pair.rule(),
        }
        with Staging.open(job.out, said) as staging:
            staging.sweep(job.outputs)
            run = _Run(job, pair, staging, progress, cancelled)
            made = run.run()
            staging.discard()
    return replace(made, elapsed_s=time.perf_counter() - started)


def _compared(job: RasterChangeJob) -> dict[str, Any]:
    """Return the settings that scores depend on."""
    return {name: job.settings()[name] for name in ("bands", "mask", "gsd", "bbox", "register")}


class _Run:
    """One run."""

    def __init__(
        self,
        job: RasterChangeJob,
        pair: ScenePair,
        staging: Staging,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.job, self.pair, self.staging = job, pair, staging
        self.progress, self.cancelled = progress, cancelled
        self.seconds = Seconds()
        self.tiles = tiles_of(pair)
        self.pictures = Thumbnails(pair.grid, pair.bands)
        self.resumed = 0

    def run(self) -> RasterChange:
        """Score what is missing, then write everything. Raises StorageFullError before it."""
        if self.staging.fit() is None:
            check_space(self.job.out, PIXEL_BYTES * self.pair.grid.height * self.pair.grid.width)
        fit = self._fitted()
        self._score(fit)
        folder = self.job.out.absolute().parent
        with assembled(self.staging, self.tiles, self.pair.grid, folder) as raster:
            return self._write(fit, raster)

    def _check(self) -> None:
        if self.cancelled():
            raise CancelledError(STOPPED)

    def _tell(self, done: int, message: str) -> None:
        total = self.pair.grid.height * self.pair.grid.width
        self.progress(Progress(done, total, message))

    def _fitted(self) -> PairFit:
        known = self.staging.fit()
        if known is not None:
            fit = PairFit.from_json(known)
            self.pair.move(fit.shift if fit.applied else None)
            return fit
        self._tell(0, "measuring the shift and the noise on a sample")
        with self.seconds.spent("fitting"):
            fit = fit_pair(self.pair, register=self.job.register, check=self._check)
        self.staging.keep_fit(fit.to_json())
        return fit

    def _score(self, fit: PairFit) -> None:
        todo = [tile for tile in self.tiles if not self.staging.has(tile)]
        self.resumed = len(self.tiles) - len(todo)
        total = self.pair.grid.height * self.pair.grid.width
        pace, done = Pace(total, "pixels"), total - sum(tile.cells for tile in todo)
        self._tell(done, pace.message(done))
        waiting: deque[_Waiting] = deque()

        def keep() -> None:
            nonlocal done
            tile = self._keep(waiting.popleft())
            done += tile.cells
            # The end is told when all is written.
            self._tell(min(done, total - 1), pace.message(done))

        with ThreadPoolExecutor(THREADS) as pool:
            for tile in todo:
                if self.cancelled():
                    break
                waiting.append(self._begun(tile, fit, pool))
                if len(waiting) > THREADS:
                    keep()
            while waiting:
                keep()
        self._check()

    def _begun(self, tile: Tile, fit: PairFit, pool: Executor) -> _Waiting:
        """Read a window, which files allow one at a time, and let it be scored."""
        with self.seconds.spent("reading"):
            window, inner = read_with_halo(self.pair, tile, fit.model.halo)
        shown = self.pictures.of(tile, window.before[:, *inner], window.after[:, *inner])
        score = pool.submit(self._scored, window, fit)
        return _Waiting(tile, inner, window.coverage[inner], shown, score)

    def _scored(self, window: PairWindow, fit: PairFit) -> Floats:
        return fit.model.score(window.before, window.after, self.seconds.spent)

    def _keep(self, window: _Waiting) -> Tile:
        score = window.score.result()[window.inner]
        score[window.coverage != Coverage.COMPARED] = np.nan
        with self.seconds.spent("staging"):
            self.staging.keep(window.tile, score=score, coverage=window.coverage, **window.shown)
        return window.tile

    def _write(self, fit: PairFit, raster: ScoreRaster) -> RasterChange:
        job, total = self.job, self.pair.grid.height * self.pair.grid.width
        self._check()
        self._tell(total - 1, "writing the maps")
        with self.seconds.spent("writing"):
            sample = raster.sample()
            threshold = threshold_of(Threshold.parse(job.threshold), sample)
            totals = count(raster, threshold, sample)
            said = self._said(fit, threshold)
        objects, files = None, []
        if job.objects is not None:
            self._tell(total - 1, "finding objects")
            with self.seconds.spent("objects"):
                objects = self._objects(raster, threshold, said, job.objects)
            files.append(job.objects)
        with self.seconds.spent("writing"):
            files = [*write_rasters(raster, job, threshold, sample, said), *files]
            self.pictures.gather(self.staging, self.tiles, raster, threshold)
        self._tell(total, "done")
        return RasterChange(
            job,
            self.pair.told(),
            fit,
            threshold,
            totals,
            objects,
            self.pictures,
            tuple(files),
            (*self.pair.notes, *fit.notes),
            self.seconds.of,
            len(self.tiles),
            self.resumed,
            peak_bytes(),
        )

    def _objects(
        self, raster: ScoreRaster, threshold: float, said: dict[str, Any], path: Path
    ) -> dict[str, Any]:
        grid = self.pair.grid
        asked = self.job.min_area_m2
        least = Least(SMALLEST_OBJECT_PX) if asked is None else Least(m2=asked)
        with lent_labels(path.parent, grid) as labels:
            found = find_objects(raster, threshold, least, labels)
            dates = self.pair.refs[0].datetime, self.pair.refs[1].datetime
            write_objects(path, found, grid, threshold, dates, said, self._check)
            return objects_told(found, least)

    def _said(self, fit: PairFit, threshold: float) -> dict[str, Any]:
        """Say what the map was made of; no time of running, so that equal maps are equal."""
        return {
            "terrakin": __version__,
            **self.pair.told(),
            "settings": _compared(self.job),
            "registration": fit.to_json()["shift"] | {"applied": fit.applied},
            "threshold": {"asked": self.job.threshold, "score": plain(threshold)},
        }


def tiles_of(pair: ScenePair) -> list[Tile]:
    """Return the windows a pair is scored in; they depend on its size and bands alone."""
    bands = len(pair.bands)
    side = next((s for s in SIDES if 8 * bands * s * s <= WINDOW_BYTES), SIDES[-1])
    return list(Tile(0, 0, pair.grid.height, pair.grid.width).split((side, side)))


def read_with_halo(
    pair: ScenePair, tile: Tile, halo: int
) -> tuple[PairWindow, tuple[slice, slice]]:
    """Read a window and what lies round it; return it, and where the window lies in that."""
    top, left = max(0, tile.row - halo), max(0, tile.col - halo)
    bottom = min(pair.grid.height, tile.row + tile.height + halo)
    right = min(pair.grid.width, tile.col + tile.width + halo)
    window = pair.read(top, left, bottom - top, right - left)
    row, col = tile.row - top, tile.col - left
    return window, (slice(row, row + tile.height), slice(col, col + tile.width))
