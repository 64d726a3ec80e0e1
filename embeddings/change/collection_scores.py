"""The change of the places of a collection, block by block, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.noise import (
    NoiseModel,
    cosine_distance,
    euclidean_distance,
)
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.pairs import Dates
from embeddings.change.places import Ints
from embeddings.errors import CancelledError, InputError

Floats = NDArray[np.float32]
PairScores = dict[tuple[int, int], Floats]
Tell = Callable[[int, int, str], None]
Stop = Callable[[], bool]

BLOCK = 16_384
"""Places whose vectors are in memory at once."""
REFERENCES = 4096
MOST_REFERENCES = 120_000
"""Of all pairs of a series together."""
FEWEST_REFERENCES = 512
SAME = 0.5
"""If more vectors than this share are the same at both dates, one image stands for both."""


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of ``n`` places, NaN where nothing could be compared.

    ``scores``: of pairs of dates, ``(n,)``. ``cosine`` and ``euclidean`` ``(n,)``: raw distances
    between the first two dates. ``models``: the noise of each pair.
    """

    scores: PairScores
    cosine: Floats
    euclidean: Floats
    models: dict[tuple[int, int], NoiseModel]


def scored(
    dates: Dates,
    pairs: Sequence[tuple[int, int]],
    job: CollectionChangeJob,
    tell: Tell,
    cancelled: Stop,
) -> Found:
    """Score pairs of dates. Raises InputError if one has too few places, or CancelledError."""
    total = len(pairs) * 2 * BLOCK + dates.count * len(pairs)
    models, done = {}, 0
    drawn = _References(dates, pairs, job)
    for pair in pairs:
        stop_if(cancelled)
        models[pair] = drawn.model(pair)
        done += 2 * BLOCK
        names = " and ".join(dates.labels[date] for date in pair)
        tell(done, total, f"noise between {names} measured")
    out = {pair: np.full(dates.count, np.nan, np.float32) for pair in pairs}
    raw = np.full((2, dates.count), np.nan, np.float32)
    needed = sorted({date for pair in pairs for date in pair})
    for places in _blocks(dates.count):
        vectors = {date: dates.vectors(date, places) for date in needed}
        xyz, alike = dates.xyz[places], {}
        for one, two in pairs:
            stop_if(cancelled)
            model = models[one, two]
            if one not in alike or not drawn.shared:
                alike[one] = model.look_alikes(vectors[one], xyz)
            out[one, two][places] = model.score(vectors[one], vectors[two], xyz, alike[one])
            done += len(places)
            tell(done, total, f"{places[-1] + 1:,} of {dates.count:,} places")
        raw[:, places] = _distances(vectors[pairs[0][0]], vectors[pairs[0][1]], dates)
    return Found(out, raw[0], raw[1], models)


class _References:
    """Draws the places that can be look-alikes, and learns the noise of pairs of dates from them.

    ``shared``: they are the same for all pairs, so that a date's look-alikes are sought once.
    """

    def __init__(
        self, dates: Dates, pairs: Sequence[tuple[int, int]], job: CollectionChangeJob
    ) -> None:
        self._dates, self._job = dates, job
        most = int(np.clip(MOST_REFERENCES // len(pairs), FEWEST_REFERENCES, REFERENCES))
        self._settings = job.noise(dates.side, most)
        needed = sorted({date for pair in pairs for date in pair})
        places = self._drawn(needed)
        self._vectors = {date: dates.vectors(date, places) for date in needed}
        whole = np.all([np.isfinite(each).all(axis=1) for each in self._vectors.values()], axis=0)
        self._places = places[whole]
        self._vectors = {date: each[whole] for date, each in self._vectors.items()}
        self._alike: dict[int, Ints] = {}
        self.shared = len(pairs) == 1 or len(self._places) >= FEWEST_REFERENCES

    def _drawn(self, of_dates: Sequence[int]) -> Ints:
        there = np.flatnonzero(self._dates.there[list(of_dates)].all(axis=0))
        drawn = np.random.default_rng(self._job.seed).permutation(len(there))
        return np.asarray(there[np.sort(drawn[: self._settings.references])])

    def model(self, pair: tuple[int, int]) -> NoiseModel:
        """Return the noise of a pair of dates. Raises InputError."""
        before, after, places = self._of(pair)
        if len(before) and float((before == after).all(axis=1).mean()) > SAME:
            one, two = (self._dates.labels[date] for date in pair)
            raise InputError(
                f"The vectors of {one} and {two} are the same at most places: the same image "
                "seems to stand for both dates. Embed the image of the other date."
            )
        known = self._alike.get(pair[0]) if self.shared else None
        xyz = self._dates.xyz[places]
        model = NoiseModel.fit(before, after, xyz, self._settings, known)
        if self.shared and known is None:
            self._alike[pair[0]] = model.look_alikes(before, xyz)
        return model

    def _of(self, pair: tuple[int, int]) -> tuple[Floats, Floats, Ints]:
        """Return the vectors of the references at both dates, and their places."""
        if self.shared:
            return self._vectors[pair[0]], self._vectors[pair[1]], self._places
        places = self._drawn(pair)
        before, after = (self._dates.vectors(date, places) for date in pair)
        good = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        return before[good], after[good], places[good]


def _distances(before: Floats, after: Floats, dates: Dates) -> Floats:
    """Return the cosine and the Euclidean distance ``(2, k)``, NaN where there is none."""
    centre = dates.chips[0].collection.spec.centre
    off = np.float32(0) if centre is None else np.asarray(centre, np.float32)
    return np.stack([cosine_distance(before - off, after - off), euclidean_distance(before, after)])


def _blocks(count: int) -> Iterator[Ints]:
    for first in range(0, count, BLOCK):
        yield np.arange(first, min(first + BLOCK, count))


def stop_if(cancelled: Stop) -> None:
    """Raise CancelledError if it was asked to stop."""
    if cancelled():
        raise CancelledError("Stopped as asked. Nothing was written.")
