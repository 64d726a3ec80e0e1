"""Pairs of chips and labels → one target a chip: majorities, conflicts, means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embeddings.probe.label_classes import Targets
from embeddings.probe.matching import Pairs

EQUAL = 1e-9
"""Weights that differ by a smaller share are a draw."""

Conflicts = Literal["drop", "majority"]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Resolved:
    """One target for each of ``n`` chips, ``row`` sorted; and what was left out.

    ``target`` is ``(n,) int64`` codes, ``(n,) float64``, ``(n, c) bool`` or ``(n,) bool``, as of
    ``Samples``. ``group (n,)``: the label of most weight. ``used`` labels are sorted.
    """

    row: Rows
    target: NDArray[Any]
    group: Rows
    used: Rows
    little: Rows
    """Chips that no class covers by the least share."""
    conflict: Rows
    """Chips of several classes that were dropped."""
    outvoted: Rows
    """Chips of several classes that got the one of most weight."""


@dataclass(frozen=True, eq=False)
class Terms:
    """How pairs ``(m,)`` are weighed.

    ``majority``: whether the class of most weight wins at the chip of a pair, else several
    classes there are a conflict. ``least``: the least weight of a class there; 0 is any.
    """

    majority: NDArray[np.bool_]
    least: NDArray[np.float64]

    @classmethod
    def of(cls, count: int, *, majority: bool) -> Terms:
        """Make the terms of pairs of which any weight is enough."""
        return cls(np.full(count, majority), np.zeros(count))


def resolve(pairs: Pairs, targets: Targets, terms: Terms) -> Resolved:
    """Give each chip its target."""
    if targets.task == "number":
        return _means(pairs, targets, terms.least)
    pairs, code, terms = _said(pairs, targets, terms)
    count = max(len(targets.classes), 1)
    key, which = np.unique(pairs.row * count + code, return_inverse=True)
    weight = np.bincount(which, pairs.weight, minlength=len(key)).astype(np.float64)
    row, kind = np.divmod(key, count)
    enough = weight >= _least(which, terms.least, len(key)) - EQUAL
    little = _without(row, enough)
    wins = np.bincount(which[~terms.majority], minlength=len(key)) == 0
    if targets.task == "multilabel":
        chosen, conflict, outvoted = enough, row[:0], row[:0]
    else:
        chosen, conflict, outvoted = _winners(row, weight, enough, wins)
    group = _heaviest(which, pairs, len(key))
    rows, at = np.unique(row[chosen], return_index=True)
    used = np.flatnonzero(np.bincount(pairs.label[chosen[which]]))
    if targets.task != "multilabel":
        codes = kind[chosen][at]
        target = codes if targets.task == "classes" else np.ones(len(rows), bool)
        groups = group[chosen][at]
        return Resolved(rows, target, groups, used, little, conflict, outvoted)
    several = np.zeros((len(rows), count), bool)
    several[np.searchsorted(rows, row[chosen]), kind[chosen]] = True
    order = np.lexsort((group[chosen], -weight[chosen], row[chosen]))
    first = np.unique(row[chosen][order], return_index=True)[1]
    groups = group[chosen][order][first]
    return Resolved(rows, several, groups, used, little, conflict, outvoted)


def _least(which: Rows, least: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the least weight of each key: that of the pair that asks least."""
    found = np.full(count, np.inf)
    np.minimum.at(found, which, least)
    return found


def _without(row: Rows, good: NDArray[np.bool_]) -> Rows:
    """Return the different ones of sorted rows that are good nowhere."""
    if not len(row):
        return row
    first = np.flatnonzero(np.diff(row, prepend=-1))
    return np.asarray(row[first][~np.logical_or.reduceat(good, first)])


def _said(pairs: Pairs, targets: Targets, terms: Terms) -> tuple[Pairs, Rows, Terms]:
    """Return a pair for every class that a label says, and the classes."""
    start = np.searchsorted(targets.feature, pairs.label)
    stop = np.searchsorted(targets.feature, pairs.label, side="right")
    many = stop - start
    again = np.repeat(np.arange(len(many)), many)
    offset = np.arange(len(again)) - np.repeat(np.cumsum(many) - many, many)
    terms = Terms(terms.majority[again], terms.least[again])
    return pairs.take(again), targets.code[start[again] + offset], terms


def _winners(
    row: Rows,
    weight: NDArray[np.float64],
    enough: NDArray[np.bool_],
    wins: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], Rows, Rows]:
    """Return which (row, class) is chosen, the rows in conflict, and those decided by weight."""
    at = np.flatnonzero(enough)
    order = at[np.lexsort((-weight[at], row[at]))]
    first = np.flatnonzero(np.diff(row[order], prepend=-1))
    size = np.diff(np.append(first, len(order)))
    best = order[first]
    second = order[np.minimum(first + 1, len(order) - 1)] if len(order) else order
    draw = (size > 1) & (weight[second] >= weight[best] * (1 - EQUAL))
    free = np.minimum.reduceat(wins[order], first) if len(order) else wins[:0]
    conflict = (size > 1) & (draw | ~free)
    chosen = np.zeros(len(row), bool)
    chosen[best[~conflict]] = True
    return chosen, row[best[conflict]], row[best[(size > 1) & ~conflict]]


def _heaviest(which: Rows, pairs: Pairs, count: int) -> Rows:
    """Return the label of most weight of each key, the first of equal ones."""
    order = np.lexsort((pairs.label, -pairs.weight, which))
    label = np.zeros(count, np.int64)
    keys, first = np.unique(which[order], return_index=True)
    label[keys] = pairs.label[order][first]
    return label


def _means(pairs: Pairs, targets: Targets, least: NDArray[np.float64]) -> Resolved:
    """Give each chip the mean of its labels' numbers, by weight."""
    assert targets.number is not None
    row, which = np.unique(pairs.row, return_inverse=True)
    weight = np.bincount(which, pairs.weight, minlength=len(row)).astype(np.float64)
    value = np.bincount(which, pairs.weight * targets.number[pairs.label], minlength=len(row))
    enough = weight >= _least(which, least, len(row)) - EQUAL
    group = _heaviest(which, pairs, len(row))
    mean = value[enough] / weight[enough]
    used = np.flatnonzero(np.bincount(pairs.label[enough[which]]))
    none = row[:0]
    several = row[enough & (np.bincount(which, minlength=len(row)) > 1)]
    return Resolved(row[enough], mean, group[enough], used, row[~enough], none, several)
