"""A change map of two dates, made window by window; can be killed anywhere and goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
from embeddings.change.clicks import Clicks
from embeddings.change.memory import peak_bytes
from embeddings.change.objects import (
    Least,
    find_objects,
    lent_labels,
    objects_told,
    with_kinds,
    write_objects,
)
from embeddings.change.output_lock import all_held
from embeddings.change.raster_decided import Decided, clicks_of, decide
from embeddings.change.raster_files import assembled, write_rasters
from embeddings.change.raster_fit import PairFit, fit_pair
from embeddings.change.raster_job import SMALLEST_OBJECT_PX, RasterChangeJob
from embeddings.change.raster_kinds import Kinds, kinds_counted, learn_kinds, name_kinds
from embeddings.change.raster_pair import PairWindow, ScenePair
from embeddings.change.raster_scores import ScoreRaster, Totals, count
from embeddings.change.raster_staging import Staging
from embeddings.change.thumbnails import Thumbnails
from embeddings.dense import Tile
from embeddings.errors import CancelledError
from embeddings.probe.predict_raster import mapped
from embeddings.report import Pace, Progress

FORMAT = 1
"""Of what is staged; another one is not gone on with."""
WINDOW_BYTES = 32 * 2**20
"""Both dates of a window take at most that many bytes."""
SIDES = (512, 384, 256)
CACHE_BYTES = 192 * 2**20
"""What GDAL may keep of the files it reads; by itself it takes a twentieth of the memory."""
PIXEL_BYTES, PROBABILITY_BYTES, CLASS_BYTES, KIND_BYTES = 21, 19, 3, 2
"""Of disk that a pixel takes at most. Scores and coverage: staged and put together (10), then the
scores plain and as a COG with its overviews (11); more for what else is asked for, likewise."""
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
    decided: Decided
    totals: Totals
    objects: dict[str, Any] | None
    kinds: dict[str, Any] | None
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

    @property
    def threshold(self) -> float:
        """The score from which on a pixel is change."""
        return self.decided.threshold


def change_raster(
    job: RasterChangeJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    last: Callable[[RasterChange], None] = lambda _: None,
) -> RasterChange:
    """Compare two dates and write the maps. Files that are there are replaced by whole ones.

    ``last`` writes ``job.reports``: it is called when the maps are there, before what was staged
    is removed, so that a run killed there need not be made again.

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
        clicks = clicks_of(job, pair.grid)
        others = [path for path in job.outputs if path != job.out]  # that one holds the staging
        with Staging.open(job.out, said) as staging, all_held(others):
            staging.sweep(job.outputs)
            run = _Run(job, pair, staging, clicks, progress, cancelled)
            made = replace(run.run(), elapsed_s=time.perf_counter() - started)
            last(made)
            staging.discard()
    return made


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
        clicks: Clicks | None,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.job, self.pair, self.staging, self.clicks = job, pair, staging, clicks
        self.progress, self.cancelled = progress, cancelled
        self.seconds = Seconds()
        self.tiles = tiles_of(pair)
        self.pictures = Thumbnails(pair.grid, pair.bands)
        self.resumed = 0

    def run(self) -> RasterChange:
        """Score what is missing, then write everything. Raises StorageFullError before it."""
        if self.staging.fit() is None:
            pixels = self.pair.grid.height * self.pair.grid.width
            check_space(self.job.out, pixels * _pixel_bytes(self.job, self.clicks))
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
            window, inner = self.pair.read_with_halo(tile, fit.model.halo)
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
        total = self.pair.grid.height * self.pair.grid.width
        self._check()
        self._tell(total - 1, "writing the maps")
        with self.seconds.spent("writing"):
            sample = raster.sample()
            decided = decide(self.job, self.clicks, raster, sample)
        with self._with_kinds(fit, decided, raster) as (raster, kinds):
            objects, files = self._files(raster, decided, kinds, sample, self._said(fit, decided))
            with self.seconds.spent("writing"):
                totals = count(raster, decided.threshold, sample)
                counted = None if kinds is None else kinds_counted(kinds, raster)
        self._tell(total, "done")
        return RasterChange(
            self.job,
            self.pair.told(),
            fit,
            decided,
            totals,
            objects,
            counted,
            self.pictures,
            files,
            (*self.pair.notes, *fit.notes, *decided.notes, *(kinds.notes if kinds else ())),
            self.seconds.of,
            len(self.tiles),
            self.resumed,
            peak_bytes(),
        )

    def _files(
        self,
        raster: ScoreRaster,
        decided: Decided,
        kinds: Kinds | None,
        sample: Floats,
        said: dict[str, Any],
    ) -> tuple[dict[str, Any] | None, tuple[Path, ...]]:
        """Write objects, then rasters; return what is known of objects, and all files."""
        job, threshold, objects = self.job, decided.threshold, None
        legend = None if kinds is None else kinds.legend
        if job.objects is not None:
            self._tell(self.pair.grid.height * self.pair.grid.width - 1, "finding objects")
            with self.seconds.spent("objects"):
                objects = self._objects(raster, threshold, said, kinds, job.objects)
        with self.seconds.spent("writing"):
            files = write_rasters(raster, job, threshold, sample, said, legend)
            self.pictures.gather(self.staging, self.tiles, raster, threshold, legend)
        return objects, (*files, *([] if job.objects is None else [job.objects]))

    @contextmanager
    def _with_kinds(
        self, fit: PairFit, decided: Decided, raster: ScoreRaster
    ) -> Iterator[tuple[ScoreRaster, Kinds | None]]:
        """Lend the raster with kinds of change, and what told them, where clicks name any."""
        clicks = decided.kinds
        if clicks is None:
            yield raster, None
            return
        many, total = len(self.tiles), self.pair.grid.height * self.pair.grid.width

        def tell(done: int) -> None:
            self._check()
            self._tell(total - 1, f"naming kinds of change, window {done + 1:,} of {many:,}")

        with mapped(self.job.out.absolute().parent, raster.score.shape, "uint8") as codes:
            raster = replace(raster, kinds=codes)
            with self.seconds.spent("kinds"):
                kinds = learn_kinds(self.pair, fit.model, clicks, self.tiles, self._check)
                name_kinds(
                    self.pair, kinds, decided.threshold, raster, self.staging, self.tiles, tell
                )
            yield raster, kinds

    def _objects(
        self,
        raster: ScoreRaster,
        threshold: float,
        said: dict[str, Any],
        kinds: Kinds | None,
        path: Path,
    ) -> dict[str, Any]:
        grid = self.pair.grid
        asked = self.job.min_area_m2
        least = Least(SMALLEST_OBJECT_PX) if asked is None else Least(m2=asked)
        with lent_labels(path.parent, grid) as labels:
            found = find_objects(raster, threshold, least, labels)
            names: Sequence[str] = ()
            if kinds is not None:
                found, names = with_kinds(found, raster, kinds.legend), list(kinds.legend)[1:]
            dates = self.pair.dates
            write_objects(path, found, grid, threshold, dates, said, names, self._check)
            return objects_told(found, least)

    def _said(self, fit: PairFit, decided: Decided) -> dict[str, Any]:
        """Say what the map was made of; no time of running, so that equal maps are equal."""
        return {
            "terrakin": __version__,
            **self.pair.told(),
            "settings": _compared(self.job),
            "registration": fit.to_json()["shift"] | {"applied": fit.applied},
            "threshold": {"asked": decided.asked, "score": plain(decided.threshold)},
            "clicks": None if self.job.clicks is None else self.job.clicks.name,
        }


def _pixel_bytes(job: RasterChangeJob, clicks: Clicks | None) -> int:
    """Return the bytes of disk that a pixel takes at most while all is written."""
    found = PIXEL_BYTES
    found += PROBABILITY_BYTES if job.probability else 0
    found += CLASS_BYTES if job.classes is not None else 0
    return found + (KIND_BYTES if clicks is not None and clicks.kinds else 0)


def tiles_of(pair: ScenePair) -> list[Tile]:
    """Return the windows a pair is scored in; they depend on its size and bands alone."""
    bands = len(pair.bands)
    side = next((s for s in SIDES if 8 * bands * s * s <= WINDOW_BYTES), SIDES[-1])
    return list(Tile(0, 0, pair.grid.height, pair.grid.width).split((side, side)))
