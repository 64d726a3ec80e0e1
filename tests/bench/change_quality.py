"""How well `terrakin change raster` finds change, and how often it cries wolf.

Seven labelled pairs of Sentinel-2 (OSCD), ours beside simpler methods: ours as the command does it,
co-registration and settings included. All methods see the same pixels of the same pairs, and none
sees a label. Then what has no label but a known truth (`change_controls`).
`python tests/bench/change_quality.py` prints all that docs/change.md tells of it, and writes it to
build/change_quality.json.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from change_controls import cosine_distance, rebuilt, stable_places, with_itself
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans
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
KINDS = 8
"""Of place, by what date 1 looks like."""

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
    raw: float = float("nan")
    """The same of the raw cosine, where it is asked for."""
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


NOTHING = Reading(float("nan"), float("nan"))


@dataclass(frozen=True)
class Measured:
    """What was measured on one city."""

    methods: dict[str, Reading]
    choices: dict[Chosen, Reading]
    kinds: list[float]
    """False alarms in each kind of place, falling."""
    rebuilt: dict[float, list[float]]
    """By the share of made-up change; see `change_controls.rebuilt`."""


def run(data: Path) -> dict[str, str]:
    """Return all figures: of the cities, of one date against itself, of Pucallpa."""
    cities, years = data / "oscd", data / "landsat-pucallpa"
    found: dict[str, str] = {}
    if cities.is_dir():
        found |= figures({name: measured(cities / name) for name in CITIES})
    else:
        found["oscd"] = f"not measured: {cities} is not there"
    if years.is_dir():
        return found | stable_places(years)
    return found | {"Pucallpa": f"not measured: {years} is not there"}


def measured(folder: Path) -> Measured:
    """Return what all methods and all settings read on one city."""
    city = _city(folder)
    first = np.nan_to_num(city.before)
    methods = {
        "ours": Reading.of(city.score, city.changed, FIVE).called(city.score, city.changed),
        **dict(_simple(city)),
        **dict(_ablated(city)),
        **{
            f"ours, date 1 with itself, {name}": replace(NOTHING, alarms=alarms, raw=raw)
            for name, alarms, raw in with_itself(first, city.groups)
        },
    }
    made = dict(rebuilt(first, city.groups))
    return Measured(methods, dict(_choices(city)), _kinds(city), made)


def figures(cities: dict[str, Measured]) -> dict[str, str]:
    """Return what is told of the readings of all cities."""
    readings = [city.methods for city in cities.values()]
    return {
        **{name: _told(city.methods["ours"]) for name, city in cities.items()},
        **{
            f"mean, {method}": _told(Reading.mean([each[method] for each in readings]))
            + _spread([each[method].alarms for each in readings])
            for method in readings[0]
        },
        **{
            f"false alarms by kind of place, {name}": " ".join(f"{x:.1%}" for x in city.kinds)
            for name, city in cities.items()
        },
        **_found(list(cities.values())),
        **_left_out({name: city.choices for name, city in cities.items()}),
    }


def _spread(alarms: list[float]) -> str:
    if not np.isfinite(alarms).all():
        return ""
    return f", false alarms from {min(alarms):.1%} to {max(alarms):.1%}"


def _found(cities: list[Measured]) -> dict[str, str]:
    words = "false alarms {:.1%}; fdr finds {:.0%}, {:.0%} false; otsu finds {:.0%}, {:.0%} false"
    return {
        f"mean, made-up change of {share:.0%}": words.format(
            *np.mean([city.rebuilt[share] for city in cities], axis=0)
        )
        for share in cities[0].rebuilt
    }


def _told(reading: Reading) -> str:
    words = []
    if np.isfinite(reading.auc):
        words.append(f"AUC {reading.auc:.3f}, average precision {reading.precision:.3f}")
    if np.isfinite(reading.alarms):
        words.append(f"false alarms {reading.alarms:.1%}")
    if np.isfinite(reading.raw):
        words.append(f"raw cosine {reading.raw:.1%}")
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
    for method, score in {
        "CVA of 4 bands": np.linalg.norm((city.after - city.before)[fine], axis=0),
        "CVA of 4 bands, dates as they lie": np.linalg.norm(
            (city.unmoved - city.before)[fine], axis=0
        ),
        "CVA of 13 stretched bands": np.linalg.norm(two - one, axis=0),
        "CVA of 13 stretched bands, dates as they lie": np.linalg.norm(unmoved - one, axis=0),
        "few lines": _residual(*blurred),
        "cosine of 13 bands": cosine_distance(city.before, city.after),
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


def _kinds(city: City) -> list[float]:
    """Return the false alarms in each of KINDS clusters of the fine bands of date 1, falling."""
    quiet = np.isfinite(city.score) & ~city.changed
    look = city.before[list(city.fine)][:, quiet].T
    look = (look - look.mean(axis=0)) / look.std(axis=0)
    some = np.random.default_rng(0).permutation(len(look))[:20_000]
    kinds = KMeans(KINDS, n_init=3, random_state=0).fit(look[some]).predict(look)
    alarms = city.score[quiet] > FIVE
    return sorted((float(alarms[kinds == kind].mean()) for kind in range(KINDS)), reverse=True)


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
    root = Path(__file__).resolve().parents[2]
    told = run(root.parent / "shared" / "data")
    for figure, value in told.items():
        print(f"{figure:<62} {value}")
    out = root / "build" / "change_quality.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
