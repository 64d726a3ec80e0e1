"""Accuracy and areas of a map from a stratified random sample of it.

Olofsson, Foody, Herold, Stehman, Woodcock and Wulder (2014): Good practices for estimating area
and assessing accuracy of land change. Remote Sensing of Environment 148, 42-57. Strata are the
classes of the map; "equation" in the comments is that paper's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.plain import plain
from embeddings.errors import InputError

Floats = NDArray[np.float64]

FEWEST_A_STRATUM = 2
"""Of one unit no spread can be told."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the half-width of its confidence interval; both NaN where nothing tells."""

    value: float
    half_width: float


@dataclass(frozen=True, slots=True)
class ClassEstimate:
    """One class: what of it is right, what of it is found, and how large it truly is.

    ``mapped_area`` and ``area`` are in the unit of the areas given.
    """

    name: str
    mapped_area: float
    sampled: int
    users_accuracy: Estimate
    producers_accuracy: Estimate
    area: Estimate


@dataclass(frozen=True, slots=True)
class AreaReport:
    """Area-adjusted accuracy of a map; intervals hold the truth with ``confidence``.

    ``matrix (q, q)`` are shares of the area: rows by map, columns by reference.
    """

    confidence: float
    overall_accuracy: Estimate
    classes: tuple[ClassEstimate, ...]
    matrix: Floats

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object; what is not known is null."""
        data = asdict(self)
        known: dict[str, Any] = plain(data)
        return known


def estimate(
    counts: NDArray[np.integer[Any]],
    mapped_areas: Floats,
    classes: tuple[str, ...],
    confidence: float = 0.95,
) -> AreaReport:
    """Estimate accuracies and areas from a sample drawn at random within each class of a map.

    ``counts (q, q)``: sampled units by map class (row) and reference class (column), in the order
    of ``classes``; ``mapped_areas (q,)`` in any one unit. All units are taken to be of one size.
    Raises InputError if a class that is on the map has fewer than two sampled units.
    """
    drawn = np.asarray(counts, np.float64)
    areas = np.asarray(mapped_areas, np.float64)
    _check(drawn, areas, classes, confidence)
    weights = areas / areas.sum()
    sampled = drawn.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(weights[:, None] > 0, drawn / sampled[:, None], 0.0)
        spread = np.where(weights[:, None] > 0, shares * (1 - shares) / (sampled - 1)[:, None], 0.0)
    matrix = weights[:, None] * shares  # equation 4
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    right, spread_right = np.diag(shares), np.diag(spread)
    overall = Estimate(
        float(np.trace(matrix)),  # equation 1
        z * float(np.sqrt((weights**2 * spread_right).sum())),  # equation 5
    )
    found, error = _producers(weights, spread, matrix)
    area_error = np.sqrt((weights[:, None] ** 2 * spread).sum(axis=0))  # equation 10
    there = weights > 0
    return AreaReport(
        confidence,
        overall,
        tuple(
            ClassEstimate(
                name,
                float(areas[i]),
                int(sampled[i]),
                _estimate(right[i], z * np.sqrt(spread_right[i]), there[i]),  # equations 2, 6
                _estimate(found[i], z * error[i], matrix[:, i].sum() > 0),
                Estimate(  # equations 9, 11
                    float(areas.sum() * matrix[:, i].sum()), float(areas.sum() * z * area_error[i])
                ),
            )
            for i, name in enumerate(classes)
        ),
        matrix,
    )


def _producers(weights: Floats, spread: Floats, matrix: Floats) -> tuple[Floats, Floats]:
    """Return the producer's accuracies and their standard errors (equations 3 and 7)."""
    true = matrix.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.diag(matrix) / true
        own = weights**2 * (1 - found) ** 2 * np.diag(spread)
        others = (weights[:, None] ** 2 * spread).sum(axis=0) - weights**2 * np.diag(spread)
        error = np.sqrt(own + found**2 * others) / true
    return found, error


def sample_size(shares: Floats, expected_accuracy: Floats, standard_error: float) -> int:
    """Return how many units give the overall accuracy this standard error (equation 13).

    ``shares (q,)`` of the area, ``expected_accuracy (q,)`` guessed user's accuracies.
    """
    if not 0 < standard_error < 1:
        raise InputError(
            f"The standard error asked for is {standard_error:g}; give a share between 0 and 1, "
            "0.01 for one percent."
        )
    deviations = np.sqrt(expected_accuracy * (1 - expected_accuracy))
    return int(np.ceil(float((shares * deviations).sum() / standard_error) ** 2 - 1e-9))


def allocate(
    total: int, areas: Floats, units: NDArray[np.integer[Any]], minimum: int = 50
) -> NDArray[np.int64]:
    """Share a sample among the classes of a map: by area, but ``minimum`` for rare ones.

    As the paper advises (section 5.1.2): rare classes get 50 to 100 units each, the rest is shared
    in proportion to area. ``areas (q,)`` in any one unit; ``units (q,)``: how many units each class
    has; none gets more than that. Raises InputError if ``total`` is too small for the minimum.
    """
    there = np.asarray(units, np.int64)
    areas = np.asarray(areas, np.float64)
    least = np.minimum(minimum, there)
    if total < least.sum():
        raise InputError(
            f"A sample of {total:,} is too small for {np.count_nonzero(there)} classes with "
            f"{minimum} units each. Ask for at least {int(least.sum()):,}, or for fewer a class."
        )
    total = min(total, int(there.sum()))
    chosen = least.copy()
    # Classes that their share leaves below the minimum keep it, those that it gives more than they
    # have give all; the others share what is left.
    free = there > 0
    while True:
        left = total - int(chosen[~free].sum())
        wanted = np.where(free, areas / max(float(areas[free].sum()), 1e-300) * left, chosen)
        held = np.clip(wanted, least, there)
        # Of both kinds the one that is further off is settled first: it changes the other.
        short, over = (held - wanted)[free].clip(0).sum(), (wanted - held)[free].clip(0).sum()
        settled = free & ((wanted < least) if short >= over else (wanted > there))
        if not settled.any():
            break
        chosen[settled] = held[settled].astype(np.int64)
        free &= ~settled
    return _rounded(wanted, total, there)


def _rounded(wanted: Floats, total: int, units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round to whole units whose sum is ``total``, the largest remainders up."""
    chosen = np.floor(wanted + 1e-9).astype(np.int64)
    for i in np.argsort(-(wanted - chosen), kind="stable"):
        if chosen.sum() >= total:
            break
        chosen[i] += chosen[i] < units[i]
    return chosen


def _estimate(value: float, half_width: float, known: bool) -> Estimate:
    if not known:
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(value), float(half_width))


def _check(counts: Floats, areas: Floats, classes: tuple[str, ...], confidence: float) -> None:
    if counts.shape != (len(classes), len(classes)) or areas.shape != (len(classes),):
        raise InputError(
            f"{len(classes)} classes need a matrix of {len(classes)} x {len(classes)} counts and "
            f"as many areas; {counts.shape} counts and {areas.shape} areas came."
        )
    if not 0 < confidence < 1:
        raise InputError(f"The confidence is {confidence:g}; give a share, 0.95 for 95 percent.")
    if not (np.isfinite(areas).all() and (areas >= 0).all() and areas.sum() > 0):
        raise InputError("The mapped areas must be numbers of 0 or more, and not all 0.")
    few = [
        f"'{name}' ({int(n)})"
        for name, area, n in zip(classes, areas, counts.sum(axis=1), strict=True)
        if area > 0 and n < FEWEST_A_STRATUM
    ]
    if few:
        raise InputError(
            "Each class on the map needs two sampled units with a reference at least, since of one "
            f"no spread can be told. Too few: {', '.join(few)}. Label more of the sample there."
        )
