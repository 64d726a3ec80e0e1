"""How unusual the move of a vector is: against the moves of places that looked like it.

Between two dates every vector moves, by season, haze and sensor, and each kind of place moves in
its own way. Places of one kind at the first date, its look-alikes, tell where such a place goes and
how far it strays from there. The score is that straying, on a scale on which unchanged places are
standard normal: absolute, so that areas and pairs of dates can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.null import Null
from embeddings.errors import InputError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)

FEWEST = 60
"""Places whose moves are known, below which nothing can be said about noise."""
FEWEST_ALIKE, SHARE_ALIKE = 30, 8
"""Of few references, one in SHARE_ALIKE is a look-alike: with more all kinds would be one."""
BLOCK = 256
TINY = 1e-9
MAD = 1.4826
"""What makes a median absolute deviation the standard deviation of a normal."""
UNUSUAL = 2.5
"""References that stray so far take no part in saying where look-alikes go."""
ROUNDS = 2
POOLED = 0.5
"""How far the spread of look-alikes is drawn to that of all places: of 200 it errs by a tenth."""
AT_ONCE = 2**24


@dataclass(frozen=True, slots=True)
class NoiseSettings:
    """How noise is measured; one setting for all places.

    ``alike`` look-alikes say how far such places stray, the ``nearest`` of them where they go.
    ``references`` are places that can be look-alikes. ``apart_m``: what lies nearer than this to a
    place is none, since it may have changed with it.
    """

    metric: Metric = "euclidean"
    alike: int = 200
    nearest: int = 30
    references: int = 4096
    apart_m: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"'{self.metric}' is no measure. Give {' or '.join(METRICS)}.")


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """The moves of a sample of places between two dates, and what is usual among them.

    ``before`` and ``moves`` ``(r, d)`` of the references as the metric takes them, ``xyz (r, 3)``
    metres, ``usual (r,)``: those that stray no farther than others like them, ``strays (r,)``: the
    logarithm of how far.
    """

    settings: NoiseSettings
    before: Floats
    moves: Floats
    xyz: Doubles
    usual: NDArray[np.bool_]
    strays: Floats
    spread: float
    null: Null

    @classmethod
    def fit(
        cls,
        before: Floats,
        after: Floats,
        xyz: Doubles,
        settings: NoiseSettings | None = None,
        alike: Ints | None = None,
    ) -> Self:
        """Learn the noise of places ``(r, d)`` that were drawn at random, at both dates.

        ``xyz (r, 3)`` is where they lie, in metres. A place is never its own look-alike. ``alike``
        is what ``look_alikes`` of a model of the same places and date 1 gave for them. Raises
        InputError if there are too few.
        """
        settings = settings or NoiseSettings()
        if len(before) < FEWEST:
            raise InputError(
                f"{len(before)} places have data at both dates; {FEWEST} or more are needed to "
                "learn how much places move that do not change. Take a larger area."
            )
        one, two = (prepared(each, settings.metric) for each in (before, after))
        many = len(one)
        model = cls(
            settings,
            one,
            two - one,
            xyz,
            np.ones(many, bool),
            np.zeros(many, np.float32),
            1.0,
            Null(0.0, 1.0, 0.0, 1.0, 0.0),
        )
        if alike is None:
            alike = model.look_alikes(before, xyz)
        for _ in range(ROUNDS):
            model, raw = model._measured(alike)
            if (raw < UNUSUAL).mean() > 0.5:
                model = replace(model, usual=raw < UNUSUAL)
        model, raw = model._measured(alike)
        return replace(model, null=Null.fit(raw))

    def _measured(self, alike: Ints) -> tuple[Self, Doubles]:
        """Measure how far the references stray from where their look-alikes go."""
        strays = np.concatenate(
            [self._strays(self.moves[part], alike[part]) for part in _parts(len(alike))]
        )
        model = replace(self, strays=strays)
        middles, spreads = model._usual(alike)
        model = replace(model, spread=float(np.median(spreads)))
        return model, model._raw(strays, middles, spreads)

    def score(
        self, before: Floats, after: Floats, xyz: Doubles, alike: Ints | None = None
    ) -> Floats:
        """Return scores ``(n,)`` of places ``(n, d)``, NaN where a vector is not made of numbers.

        About standard normal where nothing changed, whatever kind of place it is. ``alike`` is
        what ``look_alikes`` gave, where it is known.
        """
        one, two = (prepared(each, self.settings.metric) for each in (before, after))
        alike = self.look_alikes(before, xyz) if alike is None else alike
        out = np.full(len(one), np.nan, np.float32)
        there = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
        known = alike[there]
        strays = self._strays(two[there] - one[there], known)
        out[there] = self.null.scores(self._raw(strays, *self._usual(known)))
        return out

    def look_alikes(self, before: Floats, xyz: Doubles) -> Ints:
        """Return the look-alikes ``(n, alike)`` of places: rows of references, most alike first.

        They depend on the references at date 1 alone. Those within ``apart_m`` come last, so that
        they count only where nothing else is.
        """
        vectors = np.nan_to_num(prepared(before, self.settings.metric))
        count = len(self.before)
        many = min(self.settings.alike, max(FEWEST_ALIKE, count // SHARE_ALIKE), count - 1)
        squares = np.einsum("ij,ij->i", self.before, self.before)
        out = np.empty((len(vectors), many), np.int64)
        # Never itself, which lies at no distance.
        apart = max(self.settings.apart_m, 0.01)
        for part in _parts(len(vectors)):
            away = squares - 2 * (vectors[part] @ self.before.T)
            self._leave_out(away, xyz[part], apart)
            rows = np.argpartition(away, many - 1, axis=1)[:, :many]
            order = np.argsort(np.take_along_axis(away, rows, axis=1), axis=1, kind="stable")
            out[part] = np.take_along_axis(rows, order, axis=1)
        return out

    def _leave_out(self, away: Floats, xyz: Doubles, apart: float) -> None:
        """Set ``away (n, r)`` to infinity where a reference lies nearer than ``apart`` metres."""
        # Only a few references lie near a block of neighbours, so the others are not measured.
        low, high = xyz.min(axis=0) - apart, xyz.max(axis=0) + apart
        near = np.flatnonzero(((self.xyz >= low) & (self.xyz <= high)).all(axis=1))
        if len(near):
            place, which = np.nonzero(_nearer(xyz, self.xyz[near], apart))
            away[place, near[which]] = np.inf

    def _going(self, alike: Ints) -> Floats:
        """Return where look-alikes ``(m, alike)`` go, the mean move ``(m, d)`` of the nearest."""
        near = alike[:, : self.settings.nearest]
        weight = self.usual[near].astype(np.float32)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
        out = np.empty((len(near), self.moves.shape[1]), np.float32)
        step = max(1, AT_ONCE // max(1, near.shape[1] * self.moves.shape[1]))
        for first in range(0, len(near), step):
            part = slice(first, first + step)
            out[part] = np.einsum("nk,nkd->nd", weight[part], self.moves[near[part]])
        return out

    def _strays(self, moves: Floats, alike: Ints) -> Floats:
        """Return the logarithm of how far moves ``(m, d)`` are from those of look-alikes."""
        away = np.linalg.norm(moves - self._going(alike), axis=1)
        return np.asarray(np.log(away + TINY), np.float32)

    def _usual(self, alike: Ints) -> tuple[Doubles, Doubles]:
        """Return median and spread of how far look-alikes stray ``(m, alike)``."""
        values = self.strays[alike].astype(np.float64)
        middle = np.median(values, axis=1)
        spread = MAD * np.median(np.abs(values - middle[:, None]), axis=1)
        return np.asarray(middle), np.asarray(spread)

    def _raw(self, strays: Floats, middles: Doubles, spreads: Doubles) -> Doubles:
        spread = spreads + POOLED * (self.spread - spreads)
        return np.asarray((strays - middles) / np.maximum(spread, 1e-6), np.float64)


def prepared(vectors: Floats, metric: Metric) -> Floats:
    """Return vectors ``(n, d)`` as a metric takes them: of unit length for the cosine."""
    if metric == "euclidean":
        return np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(TINY)), np.float32)


def cosine_distance(before: Floats, after: Floats) -> Floats:
    """Return 1 - cosine ``(n,)`` of vectors ``(n, d)``: the raw distance, noise and all."""
    one, two = (prepared(each, "cosine") for each in (before, after))
    return np.asarray(1 - np.einsum("ij,ij->i", one, two), np.float32)


def euclidean_distance(before: Floats, after: Floats) -> Floats:
    """Return the distance ``(n,)`` between vectors ``(n, d)``: raw, noise and all."""
    return np.asarray(np.linalg.norm(after - before, axis=1), np.float32)


def own_history(score: Floats, history: Floats, trust: float = 4.0) -> Floats:
    """Return scores ``(n,)`` relative to what the same places did at other dates.

    ``history (h, n)`` are scores of pairs of dates that leave out the one under test, NaN where
    there was no data. A place that always moves scores less, one that never did scores more.
    ``trust`` is how many pairs of dates count as much as that places are standard normal.
    """
    there = np.isfinite(history)
    many = there.sum(axis=0)
    total = np.where(there, np.clip(history, -4, 4), 0).sum(axis=0)
    middle = total / (many + trust)
    squares = np.where(there, (np.clip(history, -4, 4) - middle) ** 2, 0).sum(axis=0)
    spread = np.sqrt((squares + trust) / (many + trust))
    return np.asarray((score - middle) / spread, np.float32)


def _parts(count: int) -> Iterator[slice]:
    for first in range(0, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))


def _nearer(one: Doubles, two: Doubles, apart: float) -> NDArray[np.bool_]:
    """Return which places ``(n, m)`` lie nearer to each other than so many metres.

    Around their common middle: small differences of large numbers would err by metres.
    """
    middle = two.mean(axis=0)
    a, b = one - middle, two - middle
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * (a @ b.T)
    return np.asarray(squares < apart * apart)
