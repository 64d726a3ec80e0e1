"""Measures how complete an index is: held queries against the exact scan of the same vectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.index.base import Rows, Vectors
from embeddings.index.curve import RecallCurve
from embeddings.index.ivf import IvfIndex
from embeddings.index.scan import BLOCK_ROWS, Source, unit

GROUPS = ((100, (1, 10, 100)), (32, (1000,)), (4, (10_000, 50_000)))
"""How many held queries of each kind measure which k: the more neighbours, the less they differ."""

LEVELS = (0.95, 0.98, 0.99, 0.995, 0.998, 0.9995, 0.9999, 0.99999)
"""The promises at which the recall is measured."""
SAME = 4e-6
"""Cosines this close are equal: the true ones are taken in float32."""
ANEW = 100
"""Up to this k each promise is a search of its own, as users make them; beyond, one goes on."""
MOST_EXAMPLES = 5
BACKGROUND_ROWS = 2000

_NO_CURVE = RecallCurve((1,), (1.0,), ((0.0,),), ((0.0,),), ((1.0,),))


@dataclass(frozen=True, slots=True)
class _Held:
    """Unit queries, and the true cosines of their neighbours, best first.

    ``rows`` are their own rows, which are left out; -1 for directions.
    """

    rows: Rows
    units: Vectors
    best: list[NDArray[np.float32]]
    ks: tuple[int, ...]


def measure(
    index: Callable[[RecallCurve], IvfIndex],
    source: Source,
    seed: int,
    check: Callable[[float], None],
) -> RecallCurve | None:
    """Return the recall curve of the index that ``index(curve)`` makes.

    Half of the held queries are rows of the collection, left out of their own answers as in a
    search by a click; half are directions, as several examples make them. None if no row can
    serve, since all are zero. ``check(share done)`` is called now and then and may raise to stop.
    """
    engine = index(_NO_CURVE)
    groups = _hold(source, seed, check)
    if not groups:
        return None
    ks: list[int] = []
    columns: list[NDArray[np.float64]] = []
    for number, held in enumerate(groups):
        for k in held.ks:
            check(0.5 + 0.5 * (number + 0.5) / len(groups))
            ks.append(k)
            columns.append(_measured(engine, held, k))
    promised, recall = (
        np.array([column[..., part].mean(axis=0) for column in columns]) for part in (0, 1)
    )
    error = np.array([c[..., 1].std(axis=0) / np.sqrt(len(c)) for c in columns])
    tables = (
        tuple(tuple(map(float, row)) for row in table.round(5))
        for table in (np.maximum.accumulate(promised, axis=1), recall, error)
    )
    return RecallCurve(tuple(ks), LEVELS, *tables)


def _hold(source: Source, seed: int, check: Callable[[float], None]) -> list[_Held]:
    """Choose queries, and find their true neighbours."""
    rng = np.random.default_rng(seed)
    rows, units = _queries(source, rng)
    most = max(1, source.count // 4)
    groups = [(2 * many, tuple(k for k in ks if k <= most)) for many, ks in GROUPS]
    groups = [(many, ks) for many, ks in groups if ks and len(rows)]
    reach = np.zeros(len(rows), np.int64)
    for many, ks in groups:
        reach[:many] = ks[-1]
    best = _true_best(source, rows, units, reach, check)
    return [_Held(rows[:many], units[:many], best[:many], ks) for many, ks in groups]


def _queries(source: Source, rng: np.random.Generator) -> tuple[Rows, Vectors]:
    """Return rows and directions in turn, as far as there are any that are not zero."""
    many = min(GROUPS[0][0], source.count)
    rows = rng.choice(source.count, many, replace=False).astype(np.int64)
    units = source.take(rows)
    # A zero vector has no neighbours.
    rows, units = rows[units.any(axis=1)], units[units.any(axis=1)]
    if not len(rows):
        return rows, units
    ways = _directions(source, len(rows), rng)
    both = np.stack([units, ways], axis=1).reshape(-1, source.dim)
    own = np.stack([rows, np.full(len(rows), -1)], axis=1).ravel()
    there = both.any(axis=1)
    return own[there], both[there]


def _directions(source: Source, many: int, rng: np.random.Generator) -> Vectors:
    """Return directions as examples make them: differences of means, evened by the covariance."""
    size = min(BACKGROUND_ROWS, source.count)
    sample = source.take(np.sort(rng.choice(source.count, size, replace=False)).astype(np.int64))
    away = sample - sample.mean(axis=0)
    covariance = away.T @ away / np.float32(size)
    even = np.trace(covariance) / source.dim + np.float32(1e-12)
    ways = np.empty((many, source.dim), np.float32)
    for number in range(many):
        positives, negatives = rng.integers(2, MOST_EXAMPLES + 1), rng.integers(MOST_EXAMPLES + 1)
        # Positives are alike as a rule, but not always.
        some = rng.choice(size, positives)
        if number % 2:
            near = np.argsort(-(sample @ sample[some[0]]))[: max(size // 20, positives)]
            some = rng.choice(near, positives)
        ways[number] = away[some].mean(axis=0)
        if negatives:
            ways[number] -= 0.5 * away[rng.choice(size, negatives)].mean(axis=0)
    ridge = covariance + 4 * even * np.eye(source.dim, dtype=np.float32)
    return unit(np.linalg.solve(ridge, ways.T).T.astype(np.float32))


def _true_best(
    source: Source,
    rows: Rows,
    units: Vectors,
    reach: NDArray[np.int64],
    check: Callable[[float], None],
) -> list[NDArray[np.float32]]:
    """Return the best ``reach`` cosines of every query with all rows but its own, in one pass."""
    best = [np.empty(0, np.float32) for _ in rows]
    floor = np.full(len(rows), -np.inf, np.float32)

    def keep(i: int, scores: NDArray[np.float32], own: int) -> None:
        if 0 <= own < len(scores):
            scores[own] = -np.inf
        held = np.concatenate([best[i], scores[scores > floor[i]]])
        if len(held) > reach[i]:
            held = np.partition(held, len(held) - reach[i])[len(held) - reach[i] :]
            floor[i] = held.min()
        best[i] = held

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, source.count, BLOCK_ROWS):
            check(0.5 * start / source.count)
            stop = min(start + BLOCK_ROWS, source.count)
            scores = units @ source.block(start, stop).T
            list(threads.map(keep, range(len(rows)), scores, rows - start))
    return [np.sort(scores)[::-1] for scores in best]


def _measured(engine: IvfIndex, held: _Held, k: int) -> NDArray[np.float64]:
    """Return what was promised and found ``(queries, levels, 2)``."""
    # Threads of its own for every product of every thread would get in each other's way.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.array(
            list(threads.map(lambda i: _steps(engine, held, i, k), range(len(held.rows))))
        )


def _steps(engine: IvfIndex, held: _Held, i: int, k: int) -> list[tuple[float, float]]:
    """Return for each level what was promised, and which share of the true best was found."""
    many = k + int(held.rows[i] >= 0)
    hunt, steps = engine.hunt(held.units[i], many), []
    for level in LEVELS:
        if k <= ANEW:
            hunt = engine.hunt(held.units[i], many)
        rows, scores = hunt.run(level)
        others = scores[rows != held.rows[i]][:k]
        found = int((others >= held.best[i][k - 1] - SAME).sum())
        steps.append((hunt.promise, found / k))
    return steps
