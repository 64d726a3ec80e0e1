"""How right predictions are: confusion, accuracies, kappa, errors of numbers, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Parts = NDArray[Any]
Figure = Callable[[Parts], float]

DRAWS = 500
"""Bootstrap draws of an interval."""

COVERED = 0.95
"""Of all intervals here."""

RANKS = 512
"""Steps of equal count into which scores are put for the area under the curve."""

LIMITS = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "auc", "exact"), (0.0, 1.0)),
    **dict.fromkeys(("macro_f1", "micro_f1"), (0.0, 1.0)),
    **dict.fromkeys(("rmse", "mae"), (0.0, np.inf)),
    "kappa": (-1.0, 1.0),
    "r2": (-np.inf, 1.0),
}
"""Between which a figure lies, and its interval with it."""

MAIN = {"classes": "accuracy", "number": "r2", "multilabel": "macro_f1", "positive": "auc"}
"""The figure by which splits are compared, for each task."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and the ends of a 95 % interval; nan where unknown."""

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; ``support`` counts its samples, ``predicted`` those so called."""

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Scored:
    """Figures by name, scores of each class, and ``confusion`` with truth in rows ("classes")."""

    figures: dict[str, Estimate]
    classes: list[ClassScore] = field(default_factory=list)
    confusion: Codes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; what is not a number becomes None."""
        table = None if self.confusion is None else self.confusion.tolist()
        return {
            "figures": {name: plain(asdict(each)) for name, each in self.figures.items()},
            "classes": [plain(asdict(each)) for each in self.classes],
            "confusion": table,
        }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with None for floats that JSON does not know."""
    return {
        k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()
    }


def score(
    task: str,
    truth: NDArray[Any],
    predicted: NDArray[Any],
    names: tuple[str, ...],
    unit: Codes,
    *,
    seed: int = 0,
) -> Scored:
    """Score predictions; ``unit (n,)`` are the spatial units that intervals are drawn from.

    ``predicted`` is ``(n,)`` codes, ``(n,)`` numbers, ``(n, c)`` bool, or for "positive" ``(n,)``
    scores, which say which places rank first.
    """
    makers: dict[str, Callable[..., Scored]] = {
        "classes": _classes,
        "number": _numbers,
        "multilabel": _multilabel,
        "positive": _positive,
    }
    _, member = np.unique(unit, return_inverse=True)
    return makers[task](truth, predicted, names, member.reshape(-1), seed)


def _classes(
    truth: Codes, predicted: Codes, names: tuple[str, ...], member: Codes, seed: int
) -> Scored:
    count = len(names)
    units = int(member.max(initial=-1)) + 1
    cells = (member * count + truth) * count + predicted
    tables = np.bincount(cells, minlength=units * count**2).reshape(units, count, count)
    whole = tables.sum(axis=0)
    figures: dict[str, Figure] = {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "macro_f1": macro_f1,
        "kappa": kappa,
    }
    right = np.diag(whole), whole.sum(axis=1), whole.sum(axis=0)
    return Scored(_estimates(tables, figures, seed), _per_class(names, *right), whole)


def _numbers(
    truth: NDArray[Any], predicted: NDArray[Any], _names: tuple[str, ...], member: Codes, seed: int
) -> Scored:
    """R squared is 1 - squared error / variance of all truths; bias is predicted - true."""
    # Around the mean, so that the variance does not drown in the squares.
    truth, predicted = truth - truth.mean(), predicted.astype(np.float64) - truth.mean()
    error = predicted - truth
    parts = np.stack([np.ones_like(error), error, np.abs(error), error**2, truth, truth**2])
    sums = np.stack([np.bincount(member, each) for each in parts], axis=1)
    figures: dict[str, Figure] = {
        "r2": _r2,
        "rmse": lambda s: float(np.sqrt(s[3] / s[0])),
        "mae": lambda s: float(s[2] / s[0]),
        "bias": lambda s: float(s[1] / s[0]),
    }
    return Scored(_estimates(sums, figures, seed))


def _multilabel(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    names: tuple[str, ...],
    member: Codes,
    seed: int,
) -> Scored:
    units = int(member.max(initial=-1)) + 1
    parts = np.zeros((units, 4, len(names)))
    same = (truth == predicted).all(axis=1)
    for row, values in enumerate((truth & predicted, truth, predicted)):
        np.add.at(parts[:, row], member, values)
    # The fourth row counts samples, and in its first column's place those wholly right.
    parts[:, 3, :] = np.bincount(member, minlength=units)[:, None]
    exact = np.bincount(member, same, units)
    parts = np.concatenate([parts.reshape(units, -1), exact[:, None]], axis=1)
    count = len(names)

    def f1(s: Parts) -> float:
        hits, there, said = (s[i * count : (i + 1) * count] for i in range(3))
        some = there > 0
        return float((2 * hits[some] / (there + said)[some]).mean()) if some.any() else np.nan

    figures: dict[str, Figure] = {
        "macro_f1": f1,
        "micro_f1": lambda s: _ratio(2 * s[:count].sum(), s[count : 3 * count].sum()),
        "exact": lambda s: _ratio(s[-1], s[3 * count]),
    }
    whole = parts.sum(axis=0)
    rows = (whole[i * count : (i + 1) * count] for i in range(3))
    return Scored(_estimates(parts, figures, seed), _per_class(names, *rows))


def _positive(
    truth: NDArray[np.bool_],
    predicted: NDArray[Any],
    _names: tuple[str, ...],
    member: Codes,
    seed: int,
) -> Scored:
    """The chance that a positive ranks above a place of the background, which may be one too."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, RANKS + 1)[1:-1]))
    rank = np.searchsorted(edges, predicted, side="right")
    units = int(member.max(initial=-1)) + 1
    cells = (member * 2 + truth) * (len(edges) + 1) + rank
    parts = np.bincount(cells, minlength=units * 2 * (len(edges) + 1))
    return Scored(_estimates(parts.reshape(units, 2, -1), {"auc": _auc}, seed))


def confusion(truth: Codes, predicted: Codes, count: int) -> Codes:
    """Return how often class i was called j, ``(count, count) int64``; both ``(n,)`` codes."""
    return np.bincount(truth * count + predicted, minlength=count**2).reshape(count, count)


def accuracy(table: Parts) -> float:
    """Return the share on the diagonal."""
    return _ratio(np.trace(table), table.sum())


def balanced_accuracy(table: Parts) -> float:
    """Return the mean recall of the classes that occur."""
    support = table.sum(axis=1)
    there = support > 0
    return float((np.diag(table)[there] / support[there]).mean()) if there.any() else float("nan")


def macro_f1(table: Parts) -> float:
    """Return the mean F1 of the classes that occur."""
    f1 = 2 * np.diag(table) / np.maximum(table.sum(axis=0) + table.sum(axis=1), 1)
    there = table.sum(axis=1) > 0
    return float(f1[there].mean()) if there.any() else float("nan")


def kappa(table: Parts) -> float:
    """Return Cohen's kappa (1960): agreement beyond chance, 0 where there is none beyond it."""
    total = float(table.sum())
    if total == 0:
        return float("nan")
    chance = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    return (accuracy(table) - chance) / (1 - chance) if chance < 1 else 0.0


def bootstrap(
    parts: Parts, figure: Figure, drawn: Codes, limits: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Estimate a figure of summed ``parts (u, ...)`` by drawing whole units with replacement.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8): samples of one region rise and
    fall together, so that single samples would promise too narrow an interval. ``drawn (b, u)``
    says how often each unit was drawn. Few units make it too narrow, so its ends are moved out by
    what Student's interval of a mean is wider (Hesterberg 2015, "What teachers should know about
    the bootstrap", section 3.3), but not beyond ``limits``.
    """
    whole = figure(parts.sum(axis=0))
    units = len(parts)
    unknown = Estimate(whole, float("nan"), float("nan"), float("nan"))
    if units < 2:
        return unknown
    found = np.array([figure(each) for each in np.tensordot(drawn, parts, axes=1)])
    found = found[np.isfinite(found)]
    if not len(found):
        return unknown
    spread, wide = few_units(units, COVERED)
    ends = np.quantile(found, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    low, high = np.clip(whole + (ends - whole) * wide, *limits)
    return Estimate(whole, float(found.std()) * spread, float(low), float(high))


def few_units(units: int, covered: float) -> tuple[float, float]:
    """Return by what a bootstrap of ``units`` is too narrow: deviations, and ends of intervals."""
    from scipy.special import ndtri, stdtrit

    spread = float(np.sqrt(units / (units - 1)))
    share = (1 + covered) / 2
    return spread, spread * float(stdtrit(units - 1, share) / ndtri(share))


def _estimates(parts: Parts, figures: dict[str, Figure], seed: int) -> dict[str, Estimate]:
    units = max(1, len(parts))
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), DRAWS)
    every = (-np.inf, np.inf)
    return {
        name: bootstrap(parts, figure, drawn, LIMITS.get(name, every))
        for name, figure in figures.items()
    }


def _r2(sums: Parts) -> float:
    spread = sums[5] - sums[4] ** 2 / sums[0]
    return float(1 - sums[3] / spread) if spread > 0 else float("nan")


def _auc(counts: Parts) -> float:
    background, positives = counts[0].astype(float), counts[1].astype(float)
    pairs = background.sum() * positives.sum()
    below = np.cumsum(background) - background
    return _ratio(float((positives * (below + background / 2)).sum()), pairs)


def _per_class(names: tuple[str, ...], right: Parts, support: Parts, said: Parts) -> list[Any]:
    return [
        ClassScore(name, int(n), int(p), _ratio(r, p), _ratio(r, n), _ratio(2 * r, n + p))
        for name, r, n, p in zip(names, right, support, said, strict=True)
    ]


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else float("nan")
