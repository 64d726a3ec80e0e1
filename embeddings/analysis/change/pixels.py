"""How unusual the change of each pixel is between two scenes of one place.

To predict a date from the other and look at the whitened residual is the chronochrome of Schaum
and Stocker (1997); to fit again to what seems unchanged is the idea of the iteratively reweighted
MAD of Nielsen (2007). Here both directions count, several scales and groups of bands, and the
prediction need not be linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.features import (
    compared,
    multi_scale,
    radius,
    smoothed,
    stretch_ends,
)
from embeddings.analysis.change.noise_scale import NoiseScale
from embeddings.analysis.change.prediction import MIN_PIXELS, Prediction
from embeddings.analysis.plain import plain
from embeddings.errors import NoDataError

Floats = NDArray[np.float32]
Window = tuple[Floats, Floats]
"""The same window at both dates, each ``(bands, h, w) float32``, NaN where there is no data."""
Groups = tuple[tuple[int, ...], ...]
Spent = Callable[[str], AbstractContextManager[None]]

SIDE = 256
"""Pixels of a side of the blocks that the scale of scores is measured on."""


def _untimed(_stage: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class PixelSettings:
    """How change is measured: one setting for all scenes.

    ``sigma``, ``waves`` and ``smoothing`` are the best on any six of seven labelled cities
    (tests/bench/change_quality.py).
    """

    low: float = 1.0
    high: float = 99.0
    """Percentiles that each band of each date is stretched between."""
    sigma: float = 1.0
    """Gaussian smoothing, in pixels, of what is predicted."""
    scales: tuple[float, ...] = (0.7, 1.0, 2.0, 4.0)
    """Smoothings of the other date, which it is predicted from."""
    waves: int = 150
    """Cosines that make the prediction more than linear; 0 for a linear one."""
    wave_scale: float = 2.0
    """Smoothing of what the cosines see; costs nothing more where it is one of ``scales``."""
    wave_width: float = 0.3
    """Standard deviation of their frequencies: radians to a mean spread of the bands."""
    kept: float = 0.9
    rounds: int = 2
    """Pixels that fit worst, all but ``kept``, are left out so many times, and the rest fitted."""
    smoothing: float = 2.0
    """Gaussian smoothing of the score, in pixels."""
    pixels: int = 20_000
    """Sampled to fit the predictions."""
    measured: int = 400_000
    """Pixels at most that the scale of scores is measured on."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PixelChange:
    """What was fitted to a pair of scenes; `score` needs nothing else.

    Each date is predicted from the other, robustly, in several groups of bands; the squared
    whitened residuals of both directions are added, the groups multiplied, the whole smoothed,
    and written on the scale of what it is where nothing changed (`NoiseScale`).
    """

    settings: PixelSettings
    groups: Groups
    ends: Floats
    """``(2 dates, 2 ends, bands)``: the stretch"""
    predictions: tuple[tuple[Prediction, Prediction], ...]
    """Of each group: the second date from the first, the first from the second."""
    scale: NoiseScale

    @property
    def halo(self) -> int:
        """Pixels of context that `score` needs on each side."""
        own = self.settings
        return radius(max(*own.scales, own.sigma)) + radius(own.smoothing)

    @classmethod
    def fit(
        cls,
        windows: Sequence[Window],
        settings: PixelSettings | None = None,
        groups: Groups | None = None,
    ) -> PixelChange:
        """Fit to a sample of windows of a pair of scenes, or to the whole of it as one window.

        ``groups`` are those of `features.band_groups`; without them all bands make one group.
        Raises NoDataError where hardly a pixel has data at both dates.
        """
        settings = settings or PixelSettings()
        groups = groups or (tuple(range(len(windows[0][0]))),)
        ends = np.stack(
            [
                stretch_ends([pair[date] for pair in windows], settings.low, settings.high)
                for date in (0, 1)
            ]
        )
        rng = np.random.default_rng(settings.seed)
        blocks = _blocks(windows, settings, rng)
        first, second = _sample(blocks, ends, settings, rng)
        predictions = tuple(
            (_fit(first, second, group, settings, rng), _fit(second, first, group, settings, rng))
            for group in groups
        )
        found = cls(settings, groups, ends, predictions, NoiseScale.standard())
        raw = [found._raw(*block)[1] for block in blocks]
        return cls(settings, groups, ends, predictions, NoiseScale.fit(np.concatenate(raw)))

    def score(self, before: Floats, after: Floats, spent: Spent = _untimed) -> Floats:
        """Return scores ``(h, w) float32``, higher is more change, NaN where there is no data.

        About standard normal where nothing changed. ``spent`` times the stages "features" and
        "scoring".
        """
        valid, raw = self._raw(before, after, spent)
        out = np.full(valid.shape, np.nan, np.float32)
        out[valid] = self.scale.normal(raw)
        return out

    def _raw(
        self, before: Floats, after: Floats, spent: Spent = _untimed
    ) -> tuple[NDArray[np.bool_], Floats]:
        """Return where both dates have data, and the score there ``(n,)`` on no scale."""
        valid = compared(before, after)
        if not valid.any():
            return valid, np.empty(0, np.float32)
        with spent("features"):
            first, second = (
                multi_scale(scene, valid, ends, _sigmas(self.settings))
                for scene, ends in zip((before, after), self.ends, strict=True)
            )
        with spent("scoring"):
            return valid, self._far(first, second, valid)

    def _far(
        self,
        first: Mapping[float, Floats],
        second: Mapping[float, Floats],
        valid: NDArray[np.bool_],
    ) -> Floats:
        """Return how far the features of both dates are from what the other date tells."""
        own = self.settings
        total = np.zeros(int(valid.sum()), np.float32)
        for group, (forth, back) in zip(self.groups, self.predictions, strict=True):
            rows = list(group)
            far = forth.distance(*_inputs(first, rows, own), second[own.sigma][rows])
            far += back.distance(*_inputs(second, rows, own), first[own.sigma][rows])
            total += np.log(np.maximum(far, np.float32(1e-12)))
        image = np.zeros(valid.shape, np.float32)
        image[valid] = np.exp(total / np.float32(2 * len(self.groups)))
        return smoothed(image, valid, own.smoothing)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "settings": plain(asdict(self.settings)),
            "groups": plain(self.groups),
            "ends": plain(self.ends),
            "predictions": [[each.to_json() for each in both] for both in self.predictions],
            "scale": self.scale.to_json(),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> PixelChange:
        """Return what `to_json` wrote down."""
        settings = dict(found["settings"])
        settings["scales"] = tuple(settings["scales"])
        return cls(
            PixelSettings(**settings),
            tuple(tuple(group) for group in found["groups"]),
            np.asarray(found["ends"], np.float32),
            tuple(
                (Prediction.from_json(forth), Prediction.from_json(back))
                for forth, back in found["predictions"]
            ),
            NoiseScale.from_json(found["scale"]),
        )


def _sigmas(settings: PixelSettings) -> list[float]:
    return sorted({*settings.scales, settings.sigma, settings.wave_scale})


def _inputs(
    scene: Mapping[float, Floats], rows: list[int], settings: PixelSettings
) -> tuple[Floats, Floats]:
    """Return what a prediction looks at: ``(k, n)`` and, for its cosines, ``(p, n)``."""
    features = np.concatenate([scene[sigma][rows] for sigma in settings.scales])
    return features, scene[settings.wave_scale][rows]


def _fit(
    source: Mapping[float, Floats],
    target: Mapping[float, Floats],
    group: tuple[int, ...],
    settings: PixelSettings,
    rng: np.random.Generator,
) -> Prediction:
    rows = list(group)
    return Prediction.fit(
        *_inputs(source, rows, settings),
        target[settings.sigma][rows],
        waves=settings.waves,
        width=settings.wave_width,
        kept=settings.kept,
        rounds=settings.rounds,
        rng=rng,
    )


def _blocks(
    windows: Sequence[Window], settings: PixelSettings, rng: np.random.Generator
) -> list[Window]:
    """Return parts of the windows, at random, of ``measured`` pixels with data in all."""
    places = list(_places(windows))
    found: list[Window] = []
    seen = 0
    for number in rng.permutation(len(places)).tolist():
        which, row, col = places[number]
        at = np.s_[:, row : row + SIDE, col : col + SIDE]
        block = windows[which][0][at], windows[which][1][at]
        count = int(compared(*block).sum())
        if count:
            found.append(block)
            seen += count
        if seen >= settings.measured:
            break
    if seen < MIN_PIXELS:
        raise NoDataError(
            f"Change needs {MIN_PIXELS} pixels or more that have data in all bands at both dates; "
            f"there are {seen}. Give dates that show more of the same place without cloud."
        )
    return found


def _places(windows: Sequence[Window]) -> Iterator[tuple[int, int, int]]:
    for which, (before, _) in enumerate(windows):
        for row in range(0, before.shape[1], SIDE):
            for col in range(0, before.shape[2], SIDE):
                yield which, row, col


def _sample(
    blocks: Sequence[Window], ends: Floats, settings: PixelSettings, rng: np.random.Generator
) -> tuple[dict[float, Floats], dict[float, Floats]]:
    """Return features of both dates at pixels at random, as many of each block as it has of all."""
    counts = [int(compared(*block).sum()) for block in blocks]
    share = min(1.0, settings.pixels / sum(counts))
    parts: tuple[list[dict[float, Floats]], list[dict[float, Floats]]] = ([], [])
    for (before, after), count in zip(blocks, counts, strict=True):
        valid = compared(before, after)
        taken = np.sort(rng.permutation(count)[: int(np.ceil(share * count))])
        for scene, own, into in zip((before, after), ends, parts, strict=True):
            scales = multi_scale(scene, valid, own, _sigmas(settings))
            into.append({sigma: values[:, taken] for sigma, values in scales.items()})
    first, second = (
        {sigma: np.concatenate([each[sigma] for each in part], axis=1) for sigma in part[0]}
        for part in parts
    )
    return first, second
