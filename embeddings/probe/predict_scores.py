"""What a probe says of stored vectors: one matrix product and a softmax, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.probes import UNKNOWN, LinearProbe

BLOCK_ROWS = 2048
"""Rows of one matrix product: the block in float32 stays in the processor's cache.

Blocks begin at whole multiples of this in a row group, so that a row gives the same number
whichever part of the collection is asked for.
"""

Floats = NDArray[np.float32]
Measures = dict[str, NDArray[Any]]

_SIGN_AND_VALUE = np.uint32(0x8FFFE000).view(np.int32)
_REBIASED = np.float32(2.0**112)
_INFINITY = np.int16(0x7C00)
_MINUS_INFINITY = np.uint16(0xFC00)


@dataclass(frozen=True, eq=False)
class Scored:
    """What is said of n vectors.

    ``there (n,) bool``: whether the vector is made of numbers; the rest says nothing where it is
    not. ``codes (n,) int32``: places in ``Scorer.names``, or UNKNOWN; zeros where nothing is
    named. ``measures``: further columns ``(n,)``, as of ``Scorer.measures``.
    """

    there: NDArray[np.bool_]
    codes: NDArray[np.int32]
    measures: Measures

    @classmethod
    def joined(cls, pieces: Sequence[Scored]) -> Scored:
        """Return what is said of the vectors of all pieces, one after another."""
        measures = {
            name: np.concatenate([each.measures[name] for each in pieces])
            for name in pieces[0].measures
        }
        there, codes = ([getattr(each, name) for each in pieces] for name in ("there", "codes"))
        return cls(np.concatenate(there), np.concatenate(codes), measures)

    def take(self, keep: NDArray[np.bool_]) -> Scored:
        """Return what is said of some of the vectors."""
        kept = {name: values[keep] for name, values in self.measures.items()}
        return Scored(self.there[keep], self.codes[keep], kept)


class Scorer:
    """Scores vectors as they are stored; the scales of int8 and the standardisation are folded in.

    ``names`` are the classes that may be named, ``measures`` the further columns and their types:

    | task | names | measures |
    |---|---|---|
    | classes | the classes | probability, margin, entropy |
    | positive | the class, and "not" it | the same |
    | multilabel | none | ``is_CLASS`` bool and ``p_CLASS`` for each class |
    | number | none | value |

    ``probability`` is that of the class named or most likely, calibrated; ``margin`` its distance
    to the second; ``entropy`` that of all classes, as a share of the largest there can be.
    ``applicability`` is the distance to the training data, where the probe knows it and it is
    asked for. ``per_class`` adds ``p_CLASS``. ``name_all`` never says unknown. ``scale (d,)`` is
    what stored int8 is to be multiplied by; None for vectors as they are.
    """

    def __init__(
        self,
        probe: LinearProbe,
        scale: Sequence[float] | None,
        *,
        applicability: bool = True,
        per_class: bool = False,
        name_all: bool = False,
    ) -> None:
        self.probe = probe
        weights, bias = probe.folded
        self._scale = None if scale is None else np.asarray(scale, np.float32)
        if self._scale is not None:
            weights = weights * self._scale[:, None]
        self._weights = np.ascontiguousarray(weights, np.float32)
        self._bias = np.asarray(bias, np.float32)[:, None]
        known = probe.applicability
        self._shown = applicability and known is not None
        self._refusing = probe.task == "classes" and not name_all
        # A class is named inside the area of applicability only, shown or not.
        self._near = known if self._shown or self._refusing else None
        self._per_class = per_class or probe.task == "multilabel"
        self._columns = _column_names(probe.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes that may be named, in the order of the codes."""
        if self.probe.task == "positive":
            return (self.probe.classes[0], f"not {self.probe.classes[0]}")
        return self.probe.classes if self.probe.task == "classes" else ()

    @cached_property
    def measures(self) -> dict[str, type]:
        """The further columns in their order: ``float`` (float32 in files) or ``bool``."""
        found: dict[str, type] = {}
        if self.probe.task == "number":
            found["value"] = float
        elif self.probe.task == "multilabel":
            found |= {f"is_{name}": bool for name in self._columns}
        else:
            found |= dict.fromkeys(("probability", "margin", "entropy"), float)
        if self._shown:
            found["applicability"] = float
        if self._per_class and self.probe.task in ("classes", "multilabel"):
            found |= {f"p_{name}": float for name in self._columns}
        return found

    def score(self, stored: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> Scored:
        """Score stored vectors ``(n, d)``; where ``keep (n,)`` is False any answer will do."""
        count = len(stored)
        scored = Scored(
            np.zeros(count, bool),
            np.zeros(count, np.int32),
            {
                name: np.zeros(count, bool if kind is bool else np.float32)
                for name, kind in self.measures.items()
            },
        )
        wide = np.empty((min(BLOCK_ROWS, count), stored.shape[1]), np.float32)
        for block in _blocks(count, keep):
            part = stored[block]
            self._score_block(_widened(part, wide[: len(part)]), block, scored)
        return scored

    def _score_block(self, wide: Floats, block: slice, scored: Scored) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            scores = np.ascontiguousarray((wide @ self._weights).T)
            scores += self._bias
            # One value that is no number makes all scores of its vector none.
            there = np.isfinite(scores.sum(axis=0))
        if not there.all():
            scores[:, ~there] = 0
        scored.there[block] = there
        measures = {name: values[block] for name, values in scored.measures.items()}
        if self.probe.task == "classes":
            scored.codes[block] = self._class(scores, measures)
        elif self.probe.task == "positive":
            scored.codes[block] = self._positive(scores, measures)
        elif self.probe.task == "multilabel":
            self._labels(scores, measures)
        else:
            measures["value"][:] = scores[0]
        if self._near is not None:
            if self._scale is not None:
                wide *= self._scale
            wide[~there] = 0
            away = self._near.dissimilarity_in_place(wide)
            if self._shown:
                measures["applicability"][:] = away
            if self._refusing:
                scored.codes[block][away > self._near.threshold] = UNKNOWN

    def _class(self, scores: Floats, measures: Measures) -> NDArray[np.int32]:
        """Fill in the measures of scores ``(c, n)`` and return the codes ``(n,)``."""
        scores *= np.float32(1 / self.probe.temperature)
        measures["entropy"][:] = _softmax(scores)
        code, best, second = _two_best(scores)
        measures["probability"][:] = best
        measures["margin"][:] = best - second
        if self._per_class:
            for name, share in zip(self._columns, scores, strict=True):
                measures[f"p_{name}"][:] = share
        if self._refusing and self.probe.thresholds is not None:
            code[best < self.probe.thresholds[code]] = UNKNOWN
        return code

    def _positive(self, scores: Floats, measures: Measures) -> NDArray[np.int32]:
        share = self.probe.probabilities_of(scores.T)[:, 0]
        measures["probability"][:] = share
        measures["margin"][:] = np.abs(2 * share - 1)
        measures["entropy"][:] = _binary_entropy(share)
        return np.where(self.probe.decide(scores.T), 0, 1).astype(np.int32)

    def _labels(self, scores: Floats, measures: Measures) -> None:
        shares, there = self.probe.probabilities_of(scores.T), self.probe.decide(scores.T)
        for number, name in enumerate(self._columns):
            measures[f"p_{name}"][:] = shares[:, number]
            measures[f"is_{name}"][:] = there[:, number]


def _blocks(count: int, keep: NDArray[np.bool_] | None) -> Iterator[slice]:
    for start in range(0, count, BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, count))
        if keep is None or keep[block].any():
            yield block


def _widened(stored: NDArray[Any], out: Floats) -> Floats:
    """Write stored numbers into ``out`` as float32, without their scales."""
    if stored.dtype != np.float16:
        out[:] = stored
        return out
    bits, plain = stored.view(np.int16), stored.view(np.uint16)
    # Infinities and NaNs have the largest bits of their sign.
    if bits.max(initial=0) >= _INFINITY or plain.max(initial=0) >= _MINUS_INFINITY:
        out[:] = stored
        return out
    # The bits of a half, moved to their places in a float, make 2**-112 times its value. Three
    # passes over integers take a third of the time of NumPy's conversion.
    wide = out.view(np.int32)
    wide[:] = bits
    np.left_shift(wide, 13, out=wide)
    np.bitwise_and(wide, _SIGN_AND_VALUE, out=wide)
    return np.multiply(out, _REBIASED, out=out)


def _softmax(scores: Floats) -> Floats:
    """Turn scores ``(c, n)`` into shares in place; return their entropy ``(n,)``, 0 to 1."""
    scores -= scores.max(axis=0)
    raised = np.exp(scores)
    total = raised.sum(axis=0)
    raised /= total
    entropy = np.log(total) - np.einsum("cn,cn->n", raised, scores)
    scores[:] = raised
    return np.asarray(np.clip(entropy / np.float32(math.log(max(2, len(scores)))), 0, 1))


def _binary_entropy(share: Floats) -> Floats:
    inner = np.clip(share, 1e-12, 1 - 1e-7)
    return np.asarray(-(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner)), np.float32)


def _two_best(shares: Floats) -> tuple[NDArray[np.int32], Floats, Floats]:
    """Return the first largest of ``(c, n)``, its share and the second largest share."""
    best, second = shares[0].copy(), np.zeros_like(shares[0])
    code = np.zeros(len(best), np.int32)
    for number in range(1, len(shares)):
        here = shares[number]
        better = here > best
        np.maximum(second, np.minimum(here, best), out=second)
        np.maximum(best, here, out=best)
        code[better] = number
    return code, best, second


def _column_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes, numbered where GeoPackage would take two for one."""
    seen: dict[str, int] = {}
    names = []
    for name in classes:
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
        times = seen[name.lower()]
        names.append(name if times == 1 else f"{name}_{times}")
    return tuple(names)
