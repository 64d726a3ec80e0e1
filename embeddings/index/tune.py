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
from embeddings.index.ivf import IvfIndex, candidates_for
from embeddings.index.scan import BLOCK_ROWS, Source, unit

GROUPS = ((256, (1, 10, 100)), (64, (1000,)), (8, (10_000, 50_000)))
"""How many held queries measure which k: the more neighbours, the less they differ."""

ENOUGH = 0.9995
"""From here on looking into more lists is not worth measuring."""
FINE = 0.8
"""Below this recall every doubling of the lists is measured, above it two steps in each."""
SAME = 1e-6
"""Cosines this close are equal: the true ones are taken in float32."""

_Measured = list[tuple[float, float]]
"""For each k the mean recall and its standard error."""

_NO_CURVE = RecallCurve((1,), (1,), ((0.0,),), ((1.0,),))


@dataclass(frozen=True, slots=True)
class _Held:
    """Rows that serve as queries, and the true cosines of their neighbours, best first."""

    rows: Rows
    units: Vectors
    best: list[NDArray[np.float32]]
    ks: tuple[int, ...]


def measure(
    index: Callable[[RecallCurve], IvfIndex],
    source: Source,
    lists: int,
    seed: int,
    check: Callable[[float], None],
) -> RecallCurve | None:
    """Return the recall curve of the index that ``index(curve)`` makes.

    A held query is a row of the collection that is left out of its own answer, as in a search by
    a click. None if no row can serve, since all are zero. ``check(share done)`` is called now
    and then and may raise to stop.
    """
    engine = index(_NO_CURVE)
    grid = _grid(lists)
    groups = _hold(source, seed, check)
    if not groups:
        return None
    columns: list[list[_Measured]] = []
    for number in grid:
        check(0.5 + 0.5 * len(columns) / len(grid))
        last = columns[-1] if columns else [[(0.0, 0.0)] * len(held.ks) for held in groups]
        columns.append(
            [
                _recalls(engine, held, number) if _worth(before, number) else before
                for held, before in zip(groups, last, strict=True)
            ]
        )
        if min(mean for group in columns[-1] for mean, _ in group) >= ENOUGH:
            break
    ks = tuple(k for held in groups for k in held.ks)
    flat = [[one for group in column for one in group] for column in columns]
    recall, error = (
        tuple(tuple(round(column[row][part], 5) for column in flat) for row in range(len(ks)))
        for part in (0, 1)
    )
    return RecallCurve(ks, tuple(grid[: len(columns)]), recall, error)


def _worth(before: _Measured, probes: int) -> bool:
    """Whether to measure again: recall only grows, and fine steps matter near its end alone."""
    least = min(mean for mean, _ in before)
    return least < ENOUGH and (least >= FINE or probes.bit_count() == 1)


def _grid(lists: int) -> list[int]:
    """Return 1, 2, 4, then two steps in every doubling, up to all lists."""
    powers = [2**i for i in range(lists.bit_length()) if 2**i <= lists]
    between = [3 * power // 2 for power in powers if power >= 4 and 3 * power // 2 < lists]
    return sorted({*powers, *between})


def _hold(source: Source, seed: int, check: Callable[[float], None]) -> list[_Held]:
    """Choose rows as queries, and find their true neighbours."""
    many = min(GROUPS[0][0], source.count)
    rows = np.random.default_rng(seed).choice(source.count, many, replace=False).astype(np.int64)
    units = source.take(rows)
    # A zero vector has no neighbours.
    rows, units = rows[units.any(axis=1)], unit(units[units.any(axis=1)])
    most = max(1, source.count // 4)
    groups = [(many, tuple(k for k in ks if k <= most)) for many, ks in GROUPS]
    groups = [(many, ks) for many, ks in groups if ks and len(rows)]
    reach = np.zeros(len(rows), np.int64)
    for many, ks in groups:
        reach[:many] = ks[-1]
    best = _true_best(source, rows, units, reach, check)
    return [_Held(rows[:many], units[:many], best[:many], ks) for many, ks in groups]


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


def _recalls(engine: IvfIndex, held: _Held, probes: int) -> _Measured:
    """Return for each k the mean recall and its standard error."""
    # Threads of its own for every product of every thread would get in each other's way.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as threads:
        shares = np.array(
            list(threads.map(lambda i: _shares(engine, held, i, probes), range(len(held.rows))))
        )
    error = shares.std(axis=0) / np.sqrt(len(shares))
    return [(float(m), float(e)) for m, e in zip(shares.mean(axis=0), error, strict=True)]


def _shares(engine: IvfIndex, held: _Held, i: int, probes: int) -> list[float]:
    """Return for each k which share of the true best a query found."""
    rows, scores = engine.candidates(held.units[i], held.ks[-1] + 1, probes)
    shares = []
    for k in held.ks:
        # A search for k re-ranks only the first of these.
        first = slice(0, candidates_for(k + 1))
        others = np.sort(scores[first][rows[first] != held.rows[i]])[::-1]
        shares.append(min(int((others[:k] >= held.best[i][k - 1] - SAME).sum()), k) / k)
    return shares
