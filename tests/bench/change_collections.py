"""False alarms of change between vectors, where nothing changed; the raw cosine beside it.

One date of Landsat against itself with a made-up season, haze, sensor noise and a shift of half a
pixel; and pairs of true dates, at places that the other dates show stable.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from embeddings.analysis.change.noise import (
    NoiseModel,
    NoiseSettings,
    cosine_distance,
)
from embeddings.change.pairs import Dates, all_dates, usable
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Store

CHIP, BANDS = "6", ("swir1", "nir", "red", "green")
FIVE = 1.645
"""The score that 5 % of unchanged places exceed."""
REFERENCES = 4096
Pixels = NDArray[np.float32]


def run(data: Path) -> dict[str, str]:
    """Return the share of false alarms at a stated 5 %, of each kind of pair."""
    folder = data / "landsat-pucallpa"
    if not folder.is_dir():
        return {"skipped": "landsat-pucallpa is not there"}
    return {**_simulated(folder / "2000.tif"), **_stable(folder)}


def _simulated(file: Path) -> dict[str, str]:
    with rasterio.open(file) as source:
        first, profile = source.read().astype(np.float32), source.profile
    rng = np.random.default_rng(0)
    found: dict[str, str] = {}
    level = None
    for name, after in _disturbed(first, rng).items():
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for year, values in ((2000, first), (2001, after)):
                files.append(Path(folder) / f"{year}.tif")
                with rasterio.open(files[-1], "w", **profile | {"dtype": "float32"}) as target:
                    target.write(values)
            dates = _embedded(Path(folder) / "store", files)
            scores, cosines = _scores(dates, 0, 1)
        # The raw cosine has no scale of its own: its threshold is that of noise alone.
        level = float(np.quantile(cosines, 0.95)) if level is None else level
        found[f"one date, {name}"] = _told(scores, cosines > level)
    return found


def _disturbed(first: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    def noise(values: Pixels) -> Pixels:
        return np.asarray(values + rng.normal(0, 1.5, values.shape), np.float32)

    def season(values: Pixels) -> Pixels:
        swir, nir, red, green = values
        ndvi = (nir - red) / (nir + red + 1)
        bands = (swir * 1.08 + 4, nir * (1 - 0.15 * ndvi) - 3, red * (1 + 0.2 * ndvi) + 2)
        return np.stack([*bands, green * 1.05 + 2])

    def haze(values: Pixels) -> Pixels:
        veil = gaussian_filter(rng.normal(size=values.shape[1:]), 40)
        veil = ((veil - veil.min()) / np.ptp(veil)) ** 2
        added = 12 * veil * np.array([0.2, 0.3, 0.9, 1.0])[:, None, None]
        return np.asarray(values * (1 - added / 255) + added)

    def moved(values: Pixels) -> Pixels:
        return np.stack([shift(band, (0.4, 0.3), order=3, mode="nearest") for band in values])

    return {
        "sensor noise": noise(first),
        "season": noise(season(first)),
        "haze": noise(haze(first)),
        "shift of half a pixel": noise(moved(first)),
        "all of them": noise(haze(season(moved(first)))),
    }


def _stable(folder: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as store:
        dates = _embedded(Path(store) / "store", sorted(folder.glob("*.tif")))
        everywhere = np.flatnonzero(dates.there.all(axis=0))
        vectors = [dates.vectors(date, everywhere) for date in range(len(dates))]
        model_of = _Models(dates, everywhere)
        alarms, raw, found = [], [], {}
        level = None
        for one, two in list(pairwise(range(len(dates))))[1:-1]:
            before, after = np.mean(vectors[:one], axis=0), np.mean(vectors[two + 1 :], axis=0)
            stable = model_of(before, after) < FIVE
            scores = model_of(vectors[one], vectors[two])[stable]
            cosines = cosine_distance(vectors[one], vectors[two])[stable]
            level = float(np.quantile(cosines, 0.95)) if level is None else level
            alarms.append(float((scores > FIVE).mean()))
            raw.append(float((cosines > level).mean()))
            name = f"{dates.labels[one][:4]} to {dates.labels[two][:4]}, stable places"
            found[name] = _told(scores, cosines > level)
        found["stable places, mean"] = f"{np.mean(alarms):.1%}; raw cosine {np.mean(raw):.1%}"
        return found


class _Models:
    """Scores vectors of the same places by a model of a sample of them."""

    def __init__(self, dates: Dates, places: NDArray[np.int64]) -> None:
        self._xyz, self._side = dates.xyz[places], dates.side

    def __call__(self, before: Pixels, after: Pixels) -> Pixels:
        some = np.sort(np.random.default_rng(0).permutation(len(before))[:REFERENCES])
        settings = NoiseSettings(apart_m=3 * self._side)
        arrays = before, after, self._xyz
        return NoiseModel.fit(*(each[some] for each in arrays), settings).score(*arrays)


def _embedded(store: Path, files: list[Path]) -> Dates:
    paths = tuple(map(str, files))
    embed_raster(
        RasterJob(store, "years", paths, chip=CHIP, datetime="%Y", bands=BANDS, nodata="0")
    )
    chips = usable(Store.open(store).collection("years"))
    return all_dates(chips, chips.days)


def _scores(dates: Dates, one: int, two: int) -> tuple[Pixels, Pixels]:
    places = np.flatnonzero(dates.there[[one, two]].all(axis=0))
    before, after = (dates.vectors(date, places) for date in (one, two))
    return _Models(dates, places)(before, after), cosine_distance(before, after)


def _told(scores: Pixels, raw: NDArray[np.bool_]) -> str:
    return f"{(scores > FIVE).mean():.1%}; raw cosine {raw.mean():.1%}"
