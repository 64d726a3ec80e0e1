"""The noise of dense vectors, learned from cells drawn all over, and the scores of a window.

Each chip size has a noise model of its own, which gives scores that are standard normal where
nothing changed. Their mean is not, since they are alike; a curve fitted to the means of the
references brings it there (`Null`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.noise import NoiseModel
from embeddings.analysis.change.null import Null
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_scores import (
    FEWEST_REFERENCES,
    MOST_REFERENCES,
    REFERENCES,
    SAME,
    PairScores,
)
from embeddings.change.dense_dates import DenseDates
from embeddings.change.pairs import LEAST_OVERLAP
from embeddings.dense import Tile
from embeddings.errors import InputError, OutsideCoverageError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[int, int]
Vectors = list[list[Floats]]
"""By scale, by date, ``(n, dim)``."""
Tick = Callable[[Tile], None]
"""Called after each window that was read; may raise to stop."""


@dataclass(frozen=True, eq=False)
class References:
    """Cells drawn at random from all that have a vector of every scale at every date."""

    vectors: Vectors
    xyz: Doubles
    counts: Ints
    """``(dates + 1,)``: cells of each date with a vector of the first scale, and of all dates."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return them as arrays that a file holds."""
        each = [vectors for scale in self.vectors for vectors in scale]
        named = {f"vectors_{number}": vectors for number, vectors in enumerate(each)}
        return {**named, "xyz": self.xyz, "counts": self.counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], dates: int) -> References:
        """Restore what ``to_arrays`` gave, of so many dates."""
        each = [arrays[f"vectors_{number}"] for number in range(len(arrays) - 2)]
        scales = [each[first : first + dates] for first in range(0, len(each), dates)]
        return cls(scales, arrays["xyz"], arrays["counts"])


def draw(dates: DenseDates, many: int, seed: int, tick: Tick) -> References:
    """Read everything once, and draw cells that each have the same chance.

    Raises OutsideCoverageError if too few cells have a vector at all dates.
    """
    chance = np.empty(0)
    xyz = np.empty((0, 3))
    kept = [[np.empty((0, scale.dim), np.float32) for _ in dates.labels] for scale in dates.scales]
    counts = np.zeros(len(dates.labels) + 1, np.int64)
    for tile in dates.tiles:
        vectors = read(dates, tile)
        there = [np.isfinite(each).all(axis=1) for each in vectors[0]]
        counts += [*(each.sum() for each in there), np.all(there, axis=0).sum()]
        whole = np.all([np.isfinite(v).all(axis=1) for scale in vectors for v in scale], axis=0)
        # A chance a cell, whatever lies beside it: what is drawn hangs on the windows alone.
        drawn = np.random.default_rng([seed, tile.row, tile.col]).random(tile.cells)
        cells = np.flatnonzero(whole)
        cells = cells[np.argsort(drawn[cells])[:many]]
        all_chances = np.concatenate([chance, drawn[cells]])
        best = np.sort(np.argsort(all_chances, kind="stable")[:many])
        chance = all_chances[best]
        xyz = np.concatenate([xyz, dates.xyz(tile, cells)])[best]
        kept = [
            [np.concatenate([old, new[cells]])[best] for old, new in zip(olds, news, strict=True)]
            for olds, news in zip(kept, vectors, strict=True)
        ]
        tick(tile)
    _check_overlap(dates, counts)
    return References(kept, xyz, counts)


def read(dates: DenseDates, tile: Tile) -> Vectors:
    """Return the vectors of a window, by scale and date, ``(cells, dim)``."""
    return [
        [scale.read(date, tile).reshape(tile.cells, -1) for date in range(len(dates.labels))]
        for scale in dates.scales
    ]


def reference_count(pairs: Sequence[Pair]) -> int:
    """Return how many references each pair of dates has."""
    return int(np.clip(MOST_REFERENCES // len(pairs), FEWEST_REFERENCES, REFERENCES))


def _check_overlap(dates: DenseDates, counts: Ints) -> None:
    *each, both = counts.tolist()
    told = " and ".join(
        f"{label} ({count:,} cells)" for label, count in zip(dates.labels, each, strict=True)
    )
    if not both:
        raise OutsideCoverageError(
            f"No cell has a vector at all of {told}. Embed the dates over one area with --dense."
        )
    if both < LEAST_OVERLAP * min(each):
        raise OutsideCoverageError(
            f"Only {both:,} cells have a vector at all of {told}: {both / min(each):.2%} of the "
            f"smallest, and {LEAST_OVERLAP:.0%} is the least. Choose dates that cover the same "
            "area."
        )


@dataclass(frozen=True, eq=False)
class DenseNoise:
    """What is usual between pairs of dates: a model for each scale, and how their mean is spread.

    ``drawn``: scores of the references by pair, ``(scales, r)``.
    """

    models: dict[Pair, tuple[NoiseModel, ...]]
    nulls: dict[Pair, dict[tuple[bool, ...], Null]]
    drawn: dict[Pair, Floats]

    @classmethod
    def fit(
        cls,
        references: References,
        dates: DenseDates,
        pairs: Sequence[Pair],
        job: CollectionChangeJob,
        check: Callable[[], None],
    ) -> DenseNoise:
        """Learn the noise of pairs of dates. Raises InputError if there are too few references."""
        models: dict[Pair, tuple[NoiseModel, ...]] = {}
        drawn: dict[Pair, Floats] = {}
        alike: dict[tuple[int, int], Ints] = {}
        for one, two in pairs:
            found, scores = [], []
            for number, scale in enumerate(dates.scales):
                check()
                before, after = (references.vectors[number][date] for date in (one, two))
                _check_moved(before, after, (dates.labels[one], dates.labels[two]))
                settings = job.noise(scale.chip_m, reference_count(pairs))
                known = alike.get((number, one))
                model = NoiseModel.fit(before, after, references.xyz, settings, known)
                if known is None:
                    known = alike[number, one] = model.look_alikes(before, references.xyz)
                found.append(model)
                scores.append(model.score(before, after, references.xyz, known))
            models[one, two], drawn[one, two] = tuple(found), np.stack(scores)
        nulls = {pair: _nulls(scores) for pair, scores in drawn.items()}
        return cls(models, nulls, drawn)

    def of_references(self) -> PairScores:
        """Return the scores ``(r,)`` of the references themselves."""
        return {pair: self._together(pair, scores) for pair, scores in self.drawn.items()}

    def score(self, vectors: Vectors, xyz: Doubles) -> PairScores:
        """Return scores ``(n,)`` of places, NaN where the first scale has no vector at a date."""
        alike: dict[tuple[int, int], Ints] = {}
        out: PairScores = {}
        for pair, models in self.models.items():
            scores = []
            for number, (model, scale) in enumerate(zip(models, vectors, strict=True)):
                before, after = (scale[date] for date in pair)
                if (number, pair[0]) not in alike:
                    alike[number, pair[0]] = model.look_alikes(before, xyz)
                scores.append(model.score(before, after, xyz, alike[number, pair[0]]))
            out[pair] = self._together(pair, np.stack(scores))
        return out

    def _together(self, pair: Pair, scores: Floats) -> Floats:
        """Return one score for those ``(scales, n)`` of each chip size; those absent do not count.

        At the edge of a scene the larger chips have no vector.
        """
        if len(scores) == 1:
            return np.asarray(scores[0])
        there = np.isfinite(scores)
        out = np.full(scores.shape[1], np.nan, np.float32)
        for kind, null in self.nulls[pair].items():
            here = (there == np.array(kind)[:, None]).all(axis=0)
            out[here] = null.scores(scores[np.array(kind)][:, here].mean(axis=0))
        return out


def _nulls(scores: Floats) -> dict[tuple[bool, ...], Null]:
    """Fit how means of scores ``(scales, r)`` are spread, the first scale being among them."""
    found = {}
    for kind in _kinds(len(scores)):
        chosen = scores[np.array(kind)]
        found[kind] = Null.fit(chosen.mean(axis=0).astype(np.float64))
    return found


def _kinds(scales: int) -> Iterator[tuple[bool, ...]]:
    for bits in range(2 ** (scales - 1)):
        yield (True, *(bool(bits >> place & 1) for place in range(scales - 1)))


def _check_moved(before: Floats, after: Floats, labels: tuple[str, str]) -> None:
    if len(before) and float((before == after).all(axis=1).mean()) > SAME:
        raise InputError(
            f"The vectors of {labels[0]} and {labels[1]} are the same at most cells: the same "
            "image seems to stand for both dates. Embed the image of the other date."
        )
