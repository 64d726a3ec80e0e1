"""The maps of a change between dense vectors: put together from windows, counted, written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.plain import plain
from embeddings.atomic import atomic_path
from embeddings.change.collection_job import THRESHOLD, CollectionChangeJob
from embeddings.change.collection_layers import STAYED, series_coverage_sheet, since_sheet
from embeddings.change.collection_picture import picture_uri, score_colours, since_colours
from embeddings.change.dense_dates import DenseDates
from embeddings.change.dense_smoothing import reach_of, smooth_scores
from embeddings.change.objects import (
    Least,
    find_objects,
    lent_labels,
    objects_told,
    write_objects,
)
from embeddings.change.raster_files import COVERAGE, write_beside
from embeddings.change.raster_job import Threshold
from embeddings.change.raster_scores import (
    ScoreRaster,
    Totals,
    areas_of,
    count,
    pixel_m2,
    probability_bands,
    threshold_of,
)
from embeddings.change.raster_staging import Staging
from embeddings.change.styles import score_qml
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.predict_grids import Frame
from embeddings.probe.predict_raster import Sheet, is_users, mapped, write_cog

BANDS = ("score", "probability", "cosine", "euclidean")
UNKNOWN_DATE = 255
"""Where nothing could be compared, in the codes of a series while they are staged."""
SIDE = 640
"""Pixels of the longer side of the picture at most."""
NAN = float("nan")
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class DenseMaps:
    """What was written, and what it comes to.

    ``since`` of a series: for each date from the second on, its cells and square metres.
    ``quartiles`` of two dates: of the raw distances, of a sample.
    """

    threshold: float
    totals: Totals
    objects: dict[str, Any] | None
    since: tuple[tuple[int, float], ...]
    quartiles: dict[str, list[float]]
    picture: str
    files: tuple[Path, ...]


def dense_maps(
    job: CollectionChangeJob,
    dates: DenseDates,
    staging: Staging,
    limit: float | None,
    said: Mapping[str, Any],
) -> DenseMaps:
    """Put finished windows together and write all files, or none.

    ``limit`` is the threshold of a series; None: two dates are compared. Raises StoreError.
    """
    shape = dates.grid.height, dates.grid.width
    folder = job.out.absolute().parent
    with ExitStack() as stack:
        names = BANDS if limit is None else ("score",)
        bands = stack.enter_context(mapped(folder, (len(names), *shape), "float32"))
        coverage = stack.enter_context(mapped(folder, shape, "uint8"))
        since = stack.enter_context(mapped(folder, shape, "uint8")) if limit is not None else None
        for tile in dates.tiles:
            at = np.s_[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
            found = staging.load(tile)
            coverage[at] = found["coverage"]
            for number, name in enumerate(names):
                if name in found:
                    bands[number][at] = found[name]
            if since is not None:
                since[at] = found["since"]
        if limit is None and (sigma := reach_of(dates)):
            raw = stack.enter_context(mapped(folder, shape, "float32"))
            raw[:] = bands[0]
            smooth_scores(raw, bands[0], sigma)
        raster = ScoreRaster(bands[0], coverage, dates.grid)
        return _Maps(job, dates, raster, bands, since, said).write(limit)


class _Maps:
    """All of a change in mapped files, about to be written."""

    def __init__(
        self,
        job: CollectionChangeJob,
        dates: DenseDates,
        raster: ScoreRaster,
        bands: NDArray[np.float32],
        since: Codes | None,
        said: Mapping[str, Any],
    ) -> None:
        self.job, self.dates, self.raster = job, dates, raster
        self.bands, self.since, self.said = bands, since, said

    def write(self, limit: float | None) -> DenseMaps:
        job, raster, sample = self.job, self.raster, self.raster.sample()
        threshold = (
            threshold_of(Threshold.parse(job.threshold or THRESHOLD), sample)
            if limit is None
            else limit
        )
        said = {**self.said, "threshold": plain(threshold)}
        totals = count(raster, threshold, sample)
        counted = () if self.since is None else self._since_counted(self.since)
        quartiles = {}
        if self.since is None:
            of = probability_bands(raster, sample)
            for rows in raster.strips():
                self.bands[BANDS.index("probability"), rows] = of(rows)
            quartiles = {name: self._quartiles(name) for name in ("cosine", "euclidean")}
        objects = None
        if job.objects is not None:
            objects = self._objects(threshold, said, job.objects)
        picture = self._picture(threshold)
        files = self._rasters(threshold, said)
        files += [job.objects] if job.objects is not None else []
        return DenseMaps(threshold, totals, objects, counted, quartiles, picture, tuple(files))

    def _rasters(self, threshold: float, said: Mapping[str, Any]) -> list[Path]:
        job, grid = self.job, self.raster.grid
        frame = Frame(grid.crs_wkt, grid.transform, grid.height, grid.width)
        sheets: dict[Path, tuple[Sheet, Any]] = {}
        if self.since is None:
            score = job.out
            sheets[job.out] = Sheet(BANDS, "float32", NAN), self.bands
            sheets[job.beside("coverage")] = COVERAGE, self.raster.coverage[None]
        else:
            score = job.beside("score")
            self._recode(self.since)
            sheets[job.out] = since_sheet(self.dates.labels), self.since[None]
            sheets[score] = Sheet(("score",), "float32", NAN), self.bands
            sheets[job.beside("coverage")] = series_coverage_sheet(), self.raster.coverage[None]
        with ExitStack() as files:
            # What was entered last gets its name first; the first comes when all else is there.
            paths = {path: files.enter_context(atomic_path(path, IF_FULL)) for path in sheets}
            texts: dict[Path, str] = {}
            for path, (sheet, bands) in sheets.items():
                write_cog(paths[path], sheet, bands, frame, said)
                texts |= sheet.beside(path)
            style = score.with_suffix(".qml")
            if not is_users(style):
                texts[style] = score_qml(threshold)
            write_beside(texts, files)
        return [*sheets, *texts]

    def _recode(self, since: Codes) -> None:
        """Bring staged codes into those of the map: 0 no data, STAYED no lasting change."""
        for rows in self.raster.strips():
            codes = np.asarray(since[rows])
            since[rows] = np.where(
                codes == UNKNOWN_DATE, 0, np.where(codes == 0, STAYED, codes)
            ).astype(np.uint8)

    def _since_counted(self, since: Codes) -> tuple[tuple[int, float], ...]:
        many = len(self.dates.labels)
        cells, m2 = np.zeros(many, np.int64), np.zeros(many)
        areas = areas_of(self.raster.grid)
        for rows in self.raster.strips():
            codes = np.asarray(since[rows])
            size = np.broadcast_to(pixel_m2(areas, rows, self.raster.grid.width), codes.shape)
            known = codes < many
            cells += np.bincount(codes[known], minlength=many)
            m2 += np.bincount(codes[known], weights=size[known], minlength=many)
        return tuple(zip(cells[1:].tolist(), m2[1:].tolist(), strict=True))

    def _quartiles(self, name: str) -> list[float]:
        values = ScoreRaster(
            self.bands[BANDS.index(name)], self.raster.coverage, self.raster.grid
        ).sample()
        return [float(each) for each in np.quantile(values, (0.25, 0.5, 0.75))]

    def _objects(self, threshold: float, said: Mapping[str, Any], path: Path) -> dict[str, Any]:
        grid, least = self.raster.grid, Least(m2=self.job.min_area_m2)
        days = self.dates.labels[0], self.dates.labels[-1]
        with lent_labels(path.parent, grid) as labels:
            found = find_objects(self.raster, threshold, least, labels)
            write_objects(path, found, grid, threshold, days, said)
            return objects_told(found, least)

    def _picture(self, threshold: float) -> str:
        """Return a small map: of scores every so many cells, or of dates."""
        step = max(1, -(-max(self.raster.score.shape) // SIDE))
        score = np.asarray(self.raster.score[::step, ::step])
        colours = score_colours(score, threshold)
        if self.since is not None:
            codes = np.asarray(self.since[::step, ::step])
            colours = since_colours(codes, score, self.dates.labels)
        down, across = self.raster.grid.pixel_m
        return picture_uri(colours, down / across)
