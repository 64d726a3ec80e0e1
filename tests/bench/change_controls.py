"""False alarms of `change raster` where nothing changed, and made-up change of a known extent.

Pucallpa at pixels that the other dates show stable; one date against itself with a made-up season,
haze, noise and shift; and the same with ground from elsewhere laid over a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, shift

from embeddings.analysis.change.pixels import PixelChange
from embeddings.analysis.change.thresholds import false_discovery, otsu
from embeddings.change.raster_fit import fit_pair
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_pair import ScenePair

FIVE = 1.645
"""The score that 5 % of unchanged pixels exceed."""
CALM = 0.674
"""The score that a quarter of unchanged pixels exceeds."""
NOISE = 0.05
"""Of a band's standard deviation."""
RATE = 0.1
SHARES = (0.05, 0.10, 0.16, 0.25, 0.40)
EDGE = 5
"""Pixels round made-up change that the smoothing of bands and score spreads it over."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Groups = tuple[tuple[int, ...], ...]


def cosine_distance(before: Floats, after: Floats) -> Floats:
    """Return ``(h, w)``: one minus the cosine between the bands of both dates."""
    lengths = np.linalg.norm(before, axis=0) * np.linalg.norm(after, axis=0)
    return np.asarray(1 - (before * after).sum(axis=0) / np.maximum(lengths, 1e-9), np.float32)


def stable_places(folder: Path) -> dict[str, str]:
    """Return false alarms of every pair of dates with dates before and after it.

    A pixel is stable if the mean of all dates before the pair and that of all after it differ by
    a score below FIVE: neither date of the pair has a part in it. The raw cosine has one threshold
    for all pairs, which gives 5 % on the first.
    """
    files = sorted(folder.glob("*.tif"))
    years = [file.stem for file in files]
    dates = np.stack([_read(file) for file in files])
    found: dict[str, str] = {}
    alarms, raw, calm, level = [], [], [], float("nan")
    for one, two in combinations(range(1, len(files) - 1), 2):
        told = _means_apart(dates[:one], dates[two + 1 :])
        score = _command(files[one], files[two])
        stable = (told < FIVE) & np.isfinite(score)
        cosine = cosine_distance(dates[one], dates[two])[stable]
        level = float(np.quantile(cosine, 0.95)) if not alarms else level
        alarms.append(float((score[stable] > FIVE).mean()))
        raw.append(float((cosine > level).mean()))
        calm.append(float((score[stable & (told < CALM)] > FIVE).mean()))
        found[
            f"Pucallpa {years[one]} to {years[two]}, {stable.mean():.0%} of the pixels stable"
        ] = f"{alarms[-1]:.1%}; raw cosine {raw[-1]:.1%}; calmest {calm[-1]:.1%}"
    return found | {
        f"Pucallpa, {len(alarms)} pairs": f"{_range(alarms)}; raw cosine {_range(raw)}; "
        f"of the three quarters of the pixels that are calmest {_range(calm)}"
    }


def _range(shares: list[float]) -> str:
    return f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


def _read(file: Path) -> Floats:
    with rasterio.open(file) as source:
        return np.asarray(source.read(masked=True).astype(np.float32).filled(np.nan))


def _means_apart(before: Floats, after: Floats) -> Floats:
    pair = before.mean(axis=0), after.mean(axis=0)
    return PixelChange.fit([pair]).score(*pair)


def _command(before: Path, after: Path) -> Floats:
    """Return the scores that the command gives. Its output path is never written."""
    dates = (str(before),), (str(after),)
    days = {"before_date": f"{before.stem}-07-01", "after_date": f"{after.stem}-07-01"}
    job = RasterChangeJob(*dates, before.parent / "never-written.tif", **days)
    with ScenePair.open(job) as pair:
        model = fit_pair(pair, register=True, check=lambda: None).model
        window = pair.read(0, 0, pair.grid.height, pair.grid.width)
    return model.score(window.before, window.after)


@dataclass(frozen=True)
class Disturbed:
    """A date without gaps ``(13, h, w)``, and what becomes of it though nothing changes."""

    first: Floats
    seed: int = 0

    @property
    def spread(self) -> Floats:
        """Standard deviation of each band, ``(13, 1, 1)``."""
        return np.asarray(self.first.std(axis=(1, 2), keepdims=True))

    def noisy(self, ground: Floats) -> Floats:
        """Return other noise of the sensor over the ground."""
        noise = np.random.default_rng([self.seed, 1]).normal(size=ground.shape)
        return np.asarray(ground + NOISE * self.spread * noise, np.float32)

    def season(self, ground: Floats) -> Floats:
        """Return the ground with paler plants and under a lower sun."""
        green = np.clip((ground[7] - ground[3]) / (ground[7] + ground[3] + 1), 0, 1)
        sun = np.linspace(1.1, 0.9, len(ground))[:, None, None]
        return np.asarray(ground * (1 - 0.2 * green) * sun, np.float32)

    def haze(self, ground: Floats) -> Floats:
        """Return the ground under a veil that is denser here than there, and in the blue."""
        rng = np.random.default_rng([self.seed, 2])
        veil = gaussian_filter(rng.normal(size=ground.shape[1:]), 40)
        veil = ((veil - veil.min()) / np.ptp(veil)) ** 2
        added = 2 * self.spread * veil * np.linspace(1, 0.1, len(ground))[:, None, None]
        return np.asarray(ground + added, np.float32)

    def moved(self) -> Floats:
        """Return the date half a pixel off."""
        return np.stack([shift(band, (0.4, 0.3), order=3, mode="nearest") for band in self.first])

    def rebuilt(self, share: float) -> tuple[Floats, Bools]:
        """Return the date with blocks of ground from elsewhere over it, and where these are."""
        rng = np.random.default_rng([self.seed, 3])
        height, width = self.first.shape[1:]
        elsewhere = np.roll(self.first[:, ::-1], (height // 3, width // 2), axis=(1, 2))
        where = np.zeros((height, width), bool)
        while where.mean() < share:
            side = int(rng.integers(16, 64))
            row, col = rng.integers(0, height - side), rng.integers(0, width - side)
            where[row : row + side, col : col + side] = True
        return np.where(where, elsewhere, self.first), where


def with_itself(first: Floats, groups: Groups) -> Iterator[tuple[str, float, float]]:
    """Yield kinds of disturbance with the false alarms of ours and of the raw cosine.

    The threshold of the cosine is that which gives 5 % on noise alone.
    """
    made = Disturbed(first)
    level = float("nan")
    for name, ground in (
        ("noise", first),
        ("noise and season", made.season(first)),
        ("noise and haze", made.haze(first)),
        ("noise and shift", made.moved()),
        ("season, haze, shift and noise", made.haze(made.season(made.moved()))),
    ):
        second = made.noisy(ground)
        cosine = cosine_distance(first, second)
        level = float(np.quantile(cosine, 0.95)) if name == "noise" else level
        score = PixelChange.fit([(first, second)], None, groups).score(first, second)
        yield name, float((score > FIVE).mean()), float((cosine > level).mean())


def rebuilt(first: Floats, groups: Groups) -> Iterator[tuple[float, list[float]]]:
    """Yield shares of made-up change and what is found of it.

    That is: false alarms at a stated 5 %; what ``fdr`` finds, and the share of false ones in what
    it calls; what Otsu's threshold finds, and the same. Pixels at the edge of a block do not count
    as false ones.
    """
    made = Disturbed(first)
    for share in SHARES:
        ground, truth = made.rebuilt(share)
        second = made.noisy(made.haze(made.season(ground)))
        score = PixelChange.fit([(first, second)], None, groups).score(first, second)
        quiet = ~binary_dilation(truth, iterations=EDGE)
        told = [float((score[quiet] > FIVE).mean())]
        for limit in (false_discovery(score, RATE), otsu(score)):
            named = score >= limit
            hits, false = int((named & truth).sum()), int((named & quiet).sum())
            told += [hits / int(truth.sum()), false / max(hits + false, 1)]
        yield share, told
