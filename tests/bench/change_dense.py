"""Change between dense vectors on seven labelled pairs (OSCD): one chip size, several, smoothed.

Vectors are those of the encoder rcf, fitted to date 1 of each city, of every second pixel. No
method sees a label. ``python tests/bench/change_dense.py [CITY ...]`` runs it alone, on some.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import rasterio
from change_quality import CHANGED, CITIES, FIVE, Reading
from numpy.typing import NDArray

from embeddings.analysis.change.noise import (
    NoiseModel,
    NoiseSettings,
    cosine_distance,
    euclidean_distance,
)
from embeddings.analysis.change.null import Null
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_scores import REFERENCES
from embeddings.change.dense_dates import DenseDates
from embeddings.change.dense_scenes import dense_dates
from embeddings.change.dense_scores import draw, read
from embeddings.change.dense_smoothing import smooth_scores
from embeddings.dense import Tile
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Store

ENCODER, STRIDE, CHIPS = "rcf:dim=64", 2, (4, 6, 12)
SIDES_APART = 3.0
SMOOTHINGS = (1.0, 1.5, 2.0, 3.0)
"""Standard deviations in cells."""

Floats = NDArray[np.float32]
Maps = dict[str, Floats]


def run(data: Path, cities: Sequence[str] = CITIES) -> dict[str, str]:
    """Return AUC, average precision and false alarms at 5 % of each way, means of the cities."""
    folder = data / "oscd"
    if not folder.is_dir():
        return {"oscd": f"not measured: {folder} is not there"}
    found = [dict(_readings(folder / city)) for city in cities]
    return {way: _told(Reading.mean([each[way] for each in found])) for way in found[0]}


def _told(reading: Reading) -> str:
    told = f"AUC {reading.auc:.3f}, average precision {reading.precision:.3f}"
    return told + (f", false alarms {reading.alarms:.1%}" if np.isfinite(reading.alarms) else "")


def _readings(folder: Path) -> Iterator[tuple[str, Reading]]:
    """Yield what each way reads on a city, at the pixels that have all chip sizes."""
    with rasterio.open(folder / f"{folder.name}-cm.tif") as source:
        changed = source.read(1) == CHANGED
    with tempfile.TemporaryDirectory() as store:
        scores, others = _maps(folder, Path(store))
    everywhere = np.isfinite(np.stack(list(scores.values()))).all(axis=0)

    def reading(cells: Floats, limit: float) -> Reading:
        pixels = np.where(everywhere, cells, np.nan).repeat(STRIDE, 0).repeat(STRIDE, 1)
        height, width = changed.shape
        return Reading.of(pixels[:height, :width], changed, limit)

    for way, cells in others.items():
        yield way, reading(cells, float("nan") if "raw" in way else FIVE)
    for way, cells in _combined(scores):
        yield way, reading(cells, FIVE)


def _combined(scores: Maps) -> Iterator[tuple[str, Floats]]:
    """Yield one chip size or several, as the mean or the largest of their scores, and smoothed."""
    for many in range(1, len(scores) + 1):
        for chosen in combinations(scores, many):
            stack, way = np.stack([scores[name] for name in chosen]), " and ".join(chosen)
            mean = stack.mean(axis=0)
            yield way, mean if many == 1 else _normal(mean)
            if many > 1:
                yield f"{way}, the largest", _normal(stack.max(axis=0))
            for sigma in SMOOTHINGS:
                out = np.empty_like(mean)
                smooth_scores(mean, out, sigma)
                yield f"{way}, smoothed {sigma:g}", out


def _normal(scores: Floats) -> Floats:
    return Null.fit(scores[np.isfinite(scores)]).scores(scores)


def _maps(folder: Path, store: Path) -> tuple[Maps, Maps]:
    """Return the scores of each chip size, and what they are compared with; a number a cell."""
    dates = _embedded(folder, store)
    drawn = draw(dates, REFERENCES, 0, lambda _: None)
    tile = Tile(0, 0, dates.grid.height, dates.grid.width)
    vectors = read(dates, tile)
    scores: Maps = {}
    others: Maps = {}

    def scored(sample: list[Floats], cells: list[Floats], chip_m: float) -> Floats:
        settings = NoiseSettings(apart_m=SIDES_APART * chip_m)
        model = NoiseModel.fit(sample[0], sample[1], drawn.xyz, settings)
        return model.score(cells[0], cells[1], dates.xyz(tile, np.arange(tile.cells)))

    for number, scale in enumerate(dates.scales):
        name = f"{CHIPS[number]} pixels"
        scores[name] = scored(drawn.vectors[number], vectors[number], scale.chip_m)
        others[f"{name}, raw cosine"] = cosine_distance(*vectors[number])
        others[f"{name}, raw Euclidean"] = euclidean_distance(*vectors[number])
    lengths = [each[0].std() for each in drawn.vectors]
    others["vectors side by side"] = scored(
        _side_by_side(drawn.vectors, lengths),
        _side_by_side(vectors, lengths),
        dates.scales[-1].chip_m,
    )
    shape = tile.height, tile.width
    both = ({name: each.reshape(shape) for name, each in maps.items()} for maps in (scores, others))
    return next(both), next(both)


def _embedded(folder: Path, store: Path) -> DenseDates:
    for chip in CHIPS:
        for number in (1, 2):
            files = tuple(sorted(map(str, (folder / f"imgs_{number}").glob("*.tif"))))
            day = f"{2014 + 2 * number}-01-01"
            job = RasterJob(store, f"chip{chip}", files, ENCODER, chip=str(chip), datetime=day)
            embed_raster(replace(job, scene=f"date{number}", dense=str(STRIDE)))
    names = tuple(f"chip{chip}" for chip in CHIPS)
    asked = CollectionChangeJob(store, names[0], store / "never-written.tif", dense="any")
    return dense_dates(replace(asked, scales=names[1:]), Store.open(store))


def _side_by_side(scales: list[list[Floats]], lengths: list[float]) -> list[Floats]:
    """Return the vectors of all chip sizes as one, each size as strong, by date."""
    return [
        np.concatenate([scale[date] / size for scale, size in zip(scales, lengths, strict=True)], 1)
        for date in (0, 1)
    ]


def main() -> None:
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root, sys.argv[1:] or CITIES).items():
        print(f"{figure:<62} {value}")


if __name__ == "__main__":
    main()
