"""Ways to make one query of several examples: precision at 50 on EuroSAT and Köppen classes.

Once more with each class of EuroSAT in turn cut down to 1 % of the rows, precision at 20.

Positives are drawn at random from one class, as clicks on a map are. Negatives are the first wrong
results of a search with the first positive, as a user would reject them, or random others.
Constants of the method were chosen with seeds 0 and 1; the figures are of other seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rcf_quality
import world_quality
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from embeddings.encoders import EncoderChoice, draft
from embeddings.query.examples import BACKGROUND_ROWS, Background, direction
from embeddings.world import NAME, STORE

SEEDS = (11, 12, 13, 14, 15)
DRAWS = 4
"""Of each class for each seed; the figures of decision 0008 are of 20."""
K = 50
KOPPEN_CELLS = 8_000
LEAST_MEMBERS = 150
RARE_MEMBERS, RARE_K = 60, 20
"""A class cut down to 1 % of the rows, and how many of the best are looked at then."""
SAMPLE = 4_096

SETTINGS = {
    "1": (1, 0, "rejected"),
    "5+0": (5, 0, "rejected"),
    "5+5 rejected": (5, 5, "rejected"),
    "5+5 random": (5, 5, "random"),
    "10+0": (10, 0, "rejected"),
    "10+10 rejected": (10, 10, "rejected"),
}

Units = NDArray[np.float32]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """Vectors of all chips, of the examples, and a sample of the collection."""

    all: Units
    positive: Units
    negative: Units
    sample: Units
    background: Background


def ours(s: Setting) -> Scores:
    return s.all @ direction(s.positive, s.negative, s.background)


def positives_alone(s: Setting) -> Scores:
    """Ours, with the negatives left out of the answer but not used."""
    return s.all @ direction(s.positive, s.negative[:0], s.background)


def mean(s: Setting) -> Scores:
    return s.all @ s.positive.mean(axis=0)


def geovibes(s: Setting) -> Scores:
    if not len(s.negative):
        return mean(s)
    return s.all @ (2 * s.positive.mean(axis=0) - s.negative.mean(axis=0))


def rocchio(s: Setting) -> Scores:
    """Weights 0.75 and 0.15, as information retrieval has them."""
    if not len(s.negative):
        return mean(s)
    return s.all @ (0.75 * s.positive.mean(axis=0) - 0.15 * s.negative.mean(axis=0))


def nearest(s: Setting) -> Scores:
    return np.asarray((s.all @ s.positive.T).max(axis=1))


def logistic(s: Setting) -> Scores:
    """Regularised; negatives and background are the other class, weighted 3 to 7."""
    parts = [s.positive, s.negative, s.sample]
    weight = [1.0, 0.3 if len(s.negative) else 0.0, 0.7 if len(s.negative) else 1.0]
    each = [np.full(len(p), w / max(len(p), 1)) for p, w in zip(parts, weight, strict=True)]
    weights = np.concatenate(each)
    labels = np.arange(len(weights)) < len(s.positive)
    fit = LogisticRegression(C=200.0, max_iter=200)
    fit.fit(np.concatenate(parts), labels, sample_weight=weights)
    return np.asarray(s.all @ fit.coef_[0].astype(np.float32))


METHODS: dict[str, Callable[[Setting], Scores]] = {
    "ours": ours,
    "ours without negatives": positives_alone,
    "mean": mean,
    "2 mean - mean (geovibes)": geovibes,
    "rocchio": rocchio,
    "nearest positive": nearest,
    "logistic": logistic,
}


def run(data: Path, draws: int = DRAWS, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
    """Return mean precision, and its deviation between seeds, by data, setting and method."""
    figures: dict[str, Any] = {}
    for name, read, members, best in (
        ("eurosat", _eurosat, None, K),
        ("eurosat, rare", _eurosat, RARE_MEMBERS, RARE_K),
        ("koppen", _koppen, None, K),
    ):
        found: dict[str, list[float]] = {}
        for seed in seeds:
            units, classes = read(data, seed)
            for key, value in _measure(units, classes, draws, seed, members, best).items():
                found.setdefault(key, []).append(value)
        figures |= {
            f"{name}, {key}": f"{np.mean(values):.3f} ± {np.std(values):.3f}"
            for key, values in found.items()
        }
        if not found:
            figures[name] = "not measured: the evaluation data is not there"
    return figures


def _measure(
    units: Units, classes: NDArray[np.int64], draws: int, seed: int, members: int | None, most: int
) -> dict[str, float]:
    """Return the mean precision among the ``most`` best; ``members`` of each class are kept."""
    rng = np.random.default_rng(seed)
    hits: dict[str, list[float]] = {}
    for wanted in np.unique(classes):
        inside = np.flatnonzero(classes == wanted)
        if len(inside) < LEAST_MEMBERS:
            continue
        lost = inside[:0] if members is None else rng.permutation(inside)[members:]
        kept = np.setdiff1d(np.arange(len(units)), lost)
        vectors, right = units[kept], classes[kept] == wanted
        sample = vectors[rng.choice(len(kept), min(BACKGROUND_ROWS, len(kept)), replace=False)]
        background = Background.of(sample)
        for setting, positive, negative in _draws(vectors, right, draws, rng):
            asked = Setting(vectors, vectors[positive], vectors[negative], sample, background)
            for method, score in METHODS.items():
                scores = score(asked).copy()
                scores[np.concatenate([positive, negative])] = -np.inf
                best = np.argpartition(-scores, most)[:most]
                hits.setdefault(f"{setting}: {method}", []).append(float(right[best].mean()))
    return {key: float(np.mean(values)) for key, values in hits.items()}


def _draws(
    units: Units, wanted: NDArray[np.bool_], draws: int, rng: np.random.Generator
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield settings and the rows of their positives and negatives."""
    inside, outside = np.flatnonzero(wanted), np.flatnonzero(~wanted)
    for _ in range(draws):
        positives = rng.choice(inside, 10, replace=False)
        negatives = {"random": rng.choice(outside, 10, replace=False)}
        order = np.argsort(-(units @ units[positives[0]]), kind="stable")
        negatives["rejected"] = order[~wanted[order]][:10]
        for setting, (some, others, kind) in SETTINGS.items():
            yield setting, positives[:some], negatives[kind][:others]


_CACHE: dict[str, Any] = {}


def _eurosat(data: Path, _seed: int) -> tuple[Units, NDArray[np.int64]]:
    folder = data / "eurosat-rgb"
    if not folder.is_dir():
        return np.empty((0, 1), np.float32), np.empty(0, np.int64)
    if "eurosat" not in _CACHE:
        chips, classes, _ = rcf_quality._read(folder)
        sample = np.random.default_rng(0).choice(len(chips), SAMPLE, replace=False)
        encoder = draft(EncoderChoice("rcf")).fit(chips[sample], seed=0)
        _CACHE["eurosat"] = (_units(encoder.encode(chips)), classes)
    found: tuple[Units, NDArray[np.int64]] = _CACHE["eurosat"]
    return found


def _koppen(data: Path, seed: int) -> tuple[Units, NDArray[np.int64]]:
    """Return cells drawn with area weight; each stands for the nearest cell of the world."""
    if not (data / "koppen").is_dir():
        return np.empty((0, 1), np.float32), np.empty(0, np.int64)
    if "koppen" not in _CACHE:
        lon, lat, names = world_quality.read_koppen(data / "koppen" / "koppen_0.5deg.csv.gz")
        centres, vectors = world_quality.read_vectors(STORE / NAME)
        near = world_quality.nearest_cells(world_quality.points(lon, lat), centres)
        classes = np.unique(names, return_inverse=True)[1]
        _CACHE["koppen"] = (_units(vectors[near]), classes, np.cos(np.radians(lat)))
    units, classes, area = _CACHE["koppen"]
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(units), KOPPEN_CELLS, replace=False, p=area / area.sum())
    return units[drawn], classes[drawn]


def _units(vectors: NDArray[np.float32]) -> Units:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root, *(int(each) for each in sys.argv[1:2])).items():
        print(f"{figure:<60} {value}")
