"""Change between two Sentinel-2 dates of seven labelled cities (OSCD): we and simpler methods.

Ours is what `terrakin change raster` does, co-registration and settings included. All methods see
the same pixels of the same pairs, and none sees a label. `python tests/bench/change_quality.py`
prints the tables of docs/change.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift
from sklearn.metrics import average_precision_score, roc_auc_score

from embeddings.analysis.change.features import band_groups, smoothed
from embeddings.analysis.change.noise_scale import NoiseScale
from embeddings.analysis.change.pixels import PixelChange, PixelSettings
from embeddings.change.raster_fit import fit_pair
from embeddings.change.raster_job import THRESHOLD, RasterChangeJob, Threshold
from embeddings.change.raster_pair import ScenePair
from embeddings.change.raster_scores import threshold_of

CITIES = ("aguasclaras", "bercy", "bordeaux", "nantes", "paris", "pisa", "rennes")
CHANGED = 2
"""Of a label; 1 is no change."""
FINE = ("B02", "B03", "B04", "B08")
FIVE = 1.645
"""The score that 5 % of unchanged pixels exceed."""
NORMAL_MAD = 1.4826
"""Standard deviations of a normal variable in one median absolute deviation."""
SIGMAS, WAVES, SMOOTHINGS = (1.0, 2.0), (0, 150), (0.0, 1.0, 2.0, 3.0)
"""The settings that are chosen from, leaving one city out; none is the ablation of a part."""
ONE_SCALE = PixelSettings(scales=(1.0,), wave_scale=1.0)
ALL_PIXELS = PixelSettings(rounds=0)

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Chosen = tuple[float, int, float]
"""sigma, waves, smoothing"""


@dataclass(frozen=True)
class City:
    """A pair as the command reads it, and what became of it by the settings of the command."""

    before: Floats
    """``(13, h, w)``, on the grid of the 10 m bands"""
    after: Floats
    """Date 2, moved by the shift that was measured."""
    unmoved: Floats
    """Date 2 as it is."""
    changed: Bools
    groups: tuple[tuple[int, ...], ...]
    fine: tuple[int, ...]
    fine_groups: tuple[tuple[int, ...], ...]
    """Of the fine bands alone."""
    model: PixelChange
    score: Floats


@dataclass(frozen=True)
class Reading:
    """How well a score tells the changed pixels of a city."""

    auc: float
    precision: float
    """Average precision: the area under precision and recall."""
    alarms: float = float("nan")
    """Share of unchanged pixels that are called change at a stated 5 %."""
    right: float = float("nan")
    """Share of the pixels called change by the command's own threshold that changed."""
    named: float = float("nan")
    """Share of the changed pixels that it calls so."""

    @classmethod
    def of(cls, score: Floats, changed: Bools, limit: float = float("nan")) -> Reading:
        there = np.isfinite(score)
        found, truth = score[there], changed[there]
        alarms = float((found[~truth] > limit).mean()) if np.isfinite(limit) else limit
        return cls(
            float(roc_auc_score(truth, found)),
            float(average_precision_score(truth, found)),
            alarms,
        )

    @classmethod
    def mean(cls, readings: list[Reading]) -> Reading:
        return cls(*np.mean([astuple(each) for each in readings], axis=0).tolist())

    def called(self, score: Floats, changed: Bools) -> Reading:
        """Add what the threshold of the command makes of a score."""
        there = np.isfinite(score)
        limit = threshold_of(Threshold.parse(THRESHOLD), score[there])
        found, truth = score[there] >= limit, changed[there]
        hits = float((found & truth).sum())
        return replace(self, right=hits / max(int(found.sum()), 1), named=hits / truth.sum())


Measured = tuple[dict[str, Reading], dict[Chosen, Reading]]
"""Of a city: by method, and by setting."""


def run(data: Path) -> dict[str, str]:
    """Return AUC, average precision and false alarms at 5 %: cities, methods, ablation, choice."""
    folder = data / "oscd"
    if not folder.is_dir():
        return {"oscd": f"not measured: {folder} is not there"}
    return figures({name: measured(folder / name) for name in CITIES})


def measured(folder: Path) -> Measured:
    """Return what all methods and all settings read on one city."""
    city = _city(folder)
    methods = {
        "ours": Reading.of(city.score, city.changed, FIVE).called(city.score, city.changed),
        **dict(_simple(city)),
        **dict(_ablated(city)),
        **dict(_with_itself(city)),
    }
    return methods, dict(_choices(city))


def figures(cities: dict[str, Measured]) -> dict[str, str]:
    """Return what is told of the readings of all cities."""
    readings = [methods for methods, _ in cities.values()]
    choices = {name: choices for name, (_, choices) in cities.items()}
    return {
        **{name: _told(methods["ours"]) for name, (methods, _) in cities.items()},
        **{
            f"mean, {method}": _told(Reading.mean([each[method] for each in readings]))
            for method in readings[0]
        },
        **_left_out(choices),
    }


def _told(reading: Reading) -> str:
    words = []
    if np.isfinite(reading.auc):
        words.append(f"AUC {reading.auc:.3f}, average precision {reading.precision:.3f}")
    if np.isfinite(reading.alarms):
        words.append(f"false alarms {reading.alarms:.1%}")
    if np.isfinite(reading.right):
        words.append(f"{THRESHOLD} is right in {reading.right:.0%}, finds {reading.named:.0%}")
    return ", ".join(words)


def _city(folder: Path) -> City:
    """Read and score a pair as the command does. Its output path is never written."""
    dates = [tuple(sorted(map(str, (folder / f"imgs_{n}").glob("*.tif")))) for n in (1, 2)]
    with rasterio.open(folder / f"{folder.name}-cm.tif") as source:
        changed = source.read(1) == CHANGED
    with ScenePair.open(RasterChangeJob(*dates, folder / "never-written.tif")) as pair:
        whole = 0, 0, pair.grid.height, pair.grid.width
        unmoved = pair.read(*whole).after
        fit = fit_pair(pair, register=True, check=lambda: None)
        window = pair.read(*whole)
        facts = pair.facts()
        fine = tuple(i for i, band in enumerate(pair.bands) if band.endswith(FINE))
    return City(
        window.before,
        window.after,
        unmoved,
        changed,
        fit.model.groups,
        fine,
        band_groups([facts[i] for i in fine]),
        fit.model,
        fit.model.score(window.before, window.after),
    )


def _simple(city: City) -> Iterator[tuple[str, Reading]]:
    """Yield methods of a few lines; their 5 % is that of a normal score with robust moments."""
    fine = list(city.fine)
    one, two, unmoved = (_stretched(date) for date in (city.before, city.after, city.unmoved))
    blurred = (np.stack([gaussian_filter(band, 2) for band in date]) for date in (one, two))
    lengths = np.linalg.norm(city.before, axis=0) * np.linalg.norm(city.after, axis=0)
    for method, score in {
        "CVA of 4 bands": np.linalg.norm((city.after - city.before)[fine], axis=0),
        "CVA of 4 bands, dates as they lie": np.linalg.norm(
            (city.unmoved - city.before)[fine], axis=0
        ),
        "CVA of 13 stretched bands": np.linalg.norm(two - one, axis=0),
        "CVA of 13 stretched bands, dates as they lie": np.linalg.norm(unmoved - one, axis=0),
        "few lines": _residual(*blurred),
        "cosine of 13 bands": 1 - (city.before * city.after).sum(axis=0) / lengths,
    }.items():
        known = np.where(np.isfinite(city.score), score, np.nan)
        middle = float(np.nanmedian(known))
        spread = NORMAL_MAD * float(np.nanmedian(np.abs(known - middle)))
        yield method, Reading.of(known, city.changed, middle + FIVE * spread)


def _stretched(scene: Floats) -> Floats:
    """Return bands between their 2nd and 98th percentiles, 0 where there is no data."""
    low, high = np.nanpercentile(scene, (2, 98), axis=(1, 2))[:, :, None, None]
    return np.nan_to_num(np.clip((scene - low) / (high - low), 0, 1)).astype(np.float32)


def _residual(before: Floats, after: Floats) -> Floats:
    """Return the Mahalanobis length of what a linear prediction of date 2 leaves, ``(h, w)``."""
    bands, height, width = before.shape
    inputs = np.vstack([before.reshape(bands, -1), np.ones((1, height * width))])
    target = after.reshape(bands, -1)
    left = target - np.linalg.lstsq(inputs.T, target.T, rcond=None)[0].T @ inputs
    inverse = np.linalg.pinv(np.cov(left))
    return np.asarray(np.sqrt(np.einsum("in,ij,jn->n", left, inverse, left)).reshape(height, width))


def _ablated(city: City) -> Iterator[tuple[str, Reading]]:
    """Yield ours without one of its parts at a time; `_choices` has those that are settings."""
    before, after, fine = city.before, city.after, list(city.fine)
    everything = (tuple(range(len(before))),)
    for method, one, two, settings, groups in (
        ("without registration", before, city.unmoved, PixelSettings(), city.groups),
        ("one scale of features", before, after, ONE_SCALE, city.groups),
        ("fitted to all pixels", before, after, ALL_PIXELS, city.groups),
        ("13 bands as one group", before, after, PixelSettings(), everything),
        ("4 bands alone", before[fine], after[fine], PixelSettings(), city.fine_groups),
    ):
        score = PixelChange.fit([(one, two)], settings, groups).score(one, two)
        yield f"ours, {method}", Reading.of(score, city.changed, FIVE)


def _with_itself(city: City) -> Iterator[tuple[str, Reading]]:
    """Yield false alarms of date 1 against itself, disturbed: season, haze, noise, a shift."""
    rng = np.random.default_rng(0)
    first = np.nan_to_num(city.before)
    spread = first.std(axis=(1, 2), keepdims=True)
    moved = np.stack([shift(band, (0.4, 0.3), order=3, mode="nearest") for band in first])
    veil = gaussian_filter(rng.normal(size=first.shape[1:]), 40)
    veil = ((veil - veil.min()) / np.ptp(veil)) ** 2
    green = np.clip((moved[7] - moved[3]) / (moved[7] + moved[3] + 1), 0, 1)
    season = moved * (1 - 0.2 * green) * np.linspace(1.1, 0.9, len(first))[:, None, None]
    hazy = season + 2 * spread * veil * np.linspace(1, 0.1, len(first))[:, None, None]
    for name, after in (("noise", first), ("season, haze, shift and noise", hazy)):
        second = (after + 0.05 * spread * rng.normal(size=first.shape)).astype(np.float32)
        score = PixelChange.fit([(first, second)], None, city.groups).score(first, second)
        alarms = float((score > FIVE).mean())
        yield f"ours, date 1 with itself, {name}", Reading(float("nan"), float("nan"), alarms)


def _choices(city: City) -> Iterator[tuple[Chosen, Reading]]:
    """Yield how each setting of the grid does: each model scores once, and is smoothed apart."""
    valid = np.isfinite(city.score)
    for sigma, waves in itertools.product(SIGMAS, WAVES):
        settings = PixelSettings(sigma=sigma, waves=waves, smoothing=0.0)
        model = PixelChange.fit([(city.before, city.after)], settings, city.groups)
        # On the standard scale a score is the logarithm of a raw one, which is what is smoothed.
        model = replace(model, scale=NoiseScale.standard())
        raw = np.exp(model.score(city.before, city.after))
        for smoothing in SMOOTHINGS:
            found = smoothed(raw, valid, smoothing)
            yield (sigma, waves, smoothing), Reading.of(found, city.changed[valid])


def _left_out(choices: dict[str, dict[Chosen, Reading]]) -> dict[str, str]:
    """Return the grid, and each city by what was best, AUC and precision added, on the others."""
    grid = list(choices[CITIES[0]])
    found = {
        "grid, sigma {:g}, waves {}, smoothing {:g}".format(*chosen): _told(
            Reading.mean([readings[chosen] for readings in choices.values()])
        )
        for chosen in grid
    }
    held: list[Reading] = []
    for name in choices:
        others = [readings for other, readings in choices.items() if other != name]
        gains = [
            sum(each[chosen].auc + each[chosen].precision for each in others) for chosen in grid
        ]
        best = grid[int(np.argmax(gains))]
        held.append(choices[name][best])
        found[f"chosen without {name}"] = "sigma {:g}, waves {}, smoothing {:g}".format(*best)
    return found | {"mean, settings chosen leaving one city out": _told(Reading.mean(held))}


def main() -> None:
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root).items():
        print(f"{figure:<62} {value}")


if __name__ == "__main__":
    main()
