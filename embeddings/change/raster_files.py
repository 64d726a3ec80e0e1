"""The rasters of a change: scores, what could be compared, and classes, as COGs on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.coverage import Coverage
from embeddings.atomic import atomic_path
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_scores import (
    CHANGED,
    UNCHANGED,
    ScoreRaster,
    probability_bands,
)
from embeddings.change.raster_staging import Staging
from embeddings.change.styles import score_qml
from embeddings.dense import Tile
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.predict_grids import Frame
from embeddings.probe.predict_raster import Sheet, is_users, mapped, write_cog
from embeddings.probe.predict_style import UNKNOWN_COLOUR, colours
from embeddings.sources.grids import TargetGrid

NO_CODE = 255

_COVERAGE_COLOURS = ((232, 236, 239), (68, 119, 170), (204, 187, 68), (60, 60, 60), (170, 51, 119))
_CLASS_COLOURS = ((222, 222, 222), (215, 48, 39))

COVERAGE = Sheet(
    ("coverage",),
    "uint8",
    NO_CODE,
    tuple(int(kind) for kind in Coverage),
    tuple(kind.label for kind in Coverage),
    _COVERAGE_COLOURS,
    (int(Coverage.COMPARED),),
)
CLASSES = Sheet(
    ("class",),
    "uint8",
    0,
    (UNCHANGED, CHANGED),
    ("no change", "change"),
    _CLASS_COLOURS,
    (UNCHANGED,),
)


@contextmanager
def assembled(staging: Staging, tiles: list[Tile], grid: TargetGrid, folder: Path) -> Any:
    """Lend all finished windows as one raster, in files that are never seen.

    Raises StorageFullError if there is no room for them.
    """
    shape = grid.height, grid.width
    with mapped(folder, shape, "float32") as score, mapped(folder, shape, "uint8") as coverage:
        for tile in tiles:
            at = np.s_[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
            found = staging.load(tile)
            score[at], coverage[at] = found["score"], found["coverage"]
        yield ScoreRaster(score, coverage, grid)


def write_rasters(
    raster: ScoreRaster,
    job: RasterChangeJob,
    threshold: float,
    sample: NDArray[np.float32],
    said: Mapping[str, Any],
    legend: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write all rasters, or none; the scores come last. Return the files. Raises StoreError.

    ``legend``: the code of each name among kinds of change.
    """
    frame = Frame(raster.grid.crs_wkt, raster.grid.transform, raster.grid.height, raster.grid.width)
    with ExitStack() as stack:
        sheets: dict[Path, tuple[Sheet, Any]] = {
            job.out: _scores(raster, job, sample, stack),
            job.coverage: (COVERAGE, raster.coverage[None]),
        }
        if job.classes is not None:
            codes = stack.enter_context(_classes(raster, threshold, job.classes.parent))
            sheets[job.classes] = CLASSES if legend is None else kinds_sheet(legend), codes[None]
        # What was entered last gets its name first; the scores come when all else is there.
        paths = {path: stack.enter_context(atomic_path(path, IF_FULL)) for path in sheets}
        texts: dict[Path, str] = {}
        for path, (sheet, bands) in sheets.items():
            write_cog(paths[path], sheet, bands, frame, said)
            texts |= sheet.beside(path)
        style = job.out.with_suffix(".qml")
        if not is_users(style):
            texts[style] = score_qml(threshold)
        write_beside(texts, stack)
    return [*sheets, *texts]


def write_beside(texts: Mapping[Path, str], stack: ExitStack) -> None:
    """Write legends and styles, which get their names as the stack ends. Raises StoreError."""
    for path, text in texts.items():
        temporary = stack.enter_context(atomic_path(path, IF_FULL))
        temporary.write_text(text, encoding="utf-8", newline="\n")


def kinds_sheet(legend: Mapping[str, int]) -> Sheet:
    """Return the raster of kinds of change: no change, the kinds, and unknown last."""
    palette = (_CLASS_COLOURS[0], *colours(len(legend) - 2), UNKNOWN_COLOUR)
    codes = tuple(legend.values())
    return Sheet(("kind",), "uint8", 0, codes, tuple(legend), palette, (UNCHANGED,))


def _scores(
    raster: ScoreRaster, job: RasterChangeJob, sample: NDArray[np.float32], stack: ExitStack
) -> tuple[Sheet, Any]:
    nan = float("nan")
    if not job.probability:
        return Sheet(("score",), "float32", nan), raster.score[None]
    shape = (2, *raster.score.shape)
    both = stack.enter_context(mapped(job.out.absolute().parent, shape, "float32"))
    of = probability_bands(raster, sample)
    for rows in raster.strips():
        both[0, rows] = raster.score[rows]
        both[1, rows] = of(rows)
    return Sheet(("score", "probability"), "float32", nan), both


@contextmanager
def _classes(raster: ScoreRaster, threshold: float, folder: Path) -> Iterator[NDArray[np.uint8]]:
    if raster.kinds is not None:
        yield raster.kinds
        return
    with mapped(folder.absolute(), raster.score.shape, "uint8") as codes:
        for rows in raster.strips():
            score = np.asarray(raster.score[rows])
            known = np.where(score >= threshold, CHANGED, UNCHANGED)
            codes[rows] = np.where(np.isfinite(score), known, CLASSES.nodata)
        yield codes
