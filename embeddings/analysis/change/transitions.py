"""Changed into what: areas from class to class between two dates, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.plain import plain
from embeddings.errors import InputError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]

DRAWS = 200
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Transitions:
    """Areas ``(q, q)`` in hectares: rows are the class at date 1, columns that at date 2.

    ``mapped`` counts each place as its likeliest class, ``expected`` as its probabilities say;
    ``low`` and ``high`` hold CONFIDENCE of what the draws gave. ``before`` and ``after`` ``(n,)``
    are the classes that the places were counted as.
    """

    classes: tuple[str, ...]
    before: Codes
    after: Codes
    places: NDArray[np.int64]
    mapped: Doubles
    expected: Doubles
    low: Doubles
    high: Doubles

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        names = ("places", "mapped", "expected", "low", "high")
        return {
            "classes": list(self.classes),
            "confidence": CONFIDENCE,
            **{
                f"{name}" if name == "places" else f"{name}_ha": plain(getattr(self, name))
                for name in names
            },
        }


def transitions(
    before: Floats,
    after: Floats,
    hectares: Doubles,
    block: NDArray[np.int64],
    classes: tuple[str, ...],
    changed: NDArray[np.bool_] | None = None,
    *,
    unknown: int | None = None,
    seed: int = 0,
) -> Transitions:
    """Return the areas from class to class of ``n`` places.

    ``before`` and ``after`` ``(n, q)`` are calibrated probabilities of the classes, ``hectares
    (n,)``, ``block (n,)`` numbers of compact regions. Where ``changed (n,)`` is False a place
    keeps its class, named from both dates together: an error of the probe is then the same at
    both, and makes no transition. ``unknown`` is the number of the class that says nothing; what
    one date says of such a place holds for both.

    The intervals are of DRAWS draws. Each draws regions with replacement and, in each region, one
    number that says for all its places how far down their probabilities the class is taken: errors
    of a probe are alike where places are alike, so they do not average out within a region. They
    say nothing of a probe that is wrong everywhere in the same way; a random sample of the map
    does ('terrakin probe sample').
    """
    _check(before, after, hectares, block, classes)
    if changed is None:
        changed = np.ones(len(before), bool)
    one, two = _settled(before, after, changed, unknown)
    first, second = one.argmax(axis=1), two.argmax(axis=1)
    count = len(classes)
    mapped = _table(first, second, hectares, count)
    expected = np.where(changed, hectares, 0.0)[:, None] * one
    whole = expected.T @ two + np.diag(
        (np.where(changed, 0.0, hectares)[:, None] * one).sum(axis=0)
    )
    low, high = _intervals(one, two, hectares, block, changed, seed)
    places = _table(first, second, np.ones(len(first)), count).astype(np.int64)
    return Transitions(classes, first, second, places, mapped, whole, low, high)


def _settled(
    before: Floats, after: Floats, changed: NDArray[np.bool_], unknown: int | None
) -> tuple[Doubles, Doubles]:
    """Give places that did not change one probability for both dates: the mean of the logs."""
    one, two = (np.maximum(each.astype(np.float64), 1e-9) for each in (before, after))
    both = np.sqrt(one * two)
    if unknown is not None:
        blind, blind_after = (each[:, unknown] > 0.5 for each in (one, two))
        both[blind] = two[blind]
        both[blind_after] = one[blind_after]
    both /= both.sum(axis=1, keepdims=True)
    return np.where(changed[:, None], one, both), np.where(changed[:, None], two, both)


def _intervals(
    one: Doubles,
    two: Doubles,
    hectares: Doubles,
    block: NDArray[np.int64],
    changed: NDArray[np.bool_],
    seed: int,
) -> tuple[Doubles, Doubles]:
    rng = np.random.default_rng(seed)
    _, member = np.unique(block, return_inverse=True)
    regions = int(member.max()) + 1
    edges = [np.cumsum(each, axis=1) for each in (one, two)]
    for each in edges:
        each /= each[:, -1:]
    count = one.shape[1]
    drawn = np.empty((DRAWS, count, count))
    for i in range(DRAWS):
        times = np.bincount(rng.integers(0, regions, regions), minlength=regions)
        depth = rng.random((2, regions))
        first, second = (
            (edge < level[member][:, None]).sum(axis=1).clip(max=count - 1)
            for edge, level in zip(edges, depth, strict=True)
        )
        second = np.where(changed, second, first)
        drawn[i] = _table(first, second, hectares * times[member], count)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return low, high


def _table(
    first: NDArray[np.int64], second: NDArray[np.int64], weight: Doubles, count: int
) -> Doubles:
    sums = np.bincount(first * count + second, weights=weight, minlength=count * count)
    return np.asarray(sums.reshape(count, count))


def _check(
    before: Floats,
    after: Floats,
    hectares: Doubles,
    block: NDArray[np.int64],
    classes: tuple[str, ...],
) -> None:
    shape = (len(hectares), len(classes))
    if before.shape != shape or after.shape != shape or block.shape != shape[:1]:
        raise InputError(
            f"{shape[0]} places and {shape[1]} classes need probabilities of {shape} at both "
            f"dates and {shape[0]} blocks; {before.shape}, {after.shape} and {block.shape} came."
        )
    if not len(hectares):
        raise InputError("There is no place at both dates, so there is no transition.")
