"""What clicks say of a map: a threshold from them, and how far it errs on clicks left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.thresholds import from_clicks
from embeddings.analysis.folds import Split, spatial_plan
from embeddings.change.clicks import Clicks
from embeddings.errors import InputError

FOLDS = 10
FEW = 5
"""Labels of one side; of fewer, what is learned is a guess."""
HARDLY = 0.35
"""A mean error of left-out clicks from which on they hardly tell change from no change."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class LeftOut:
    """Parts of the clicks that are left out in turn, and how they were cut, in words."""

    splits: list[Split]
    text: str

    @classmethod
    def of(cls, lon: Doubles, lat: Doubles, label: Ints, target: Ints) -> LeftOut:
        """Cut places ``(n,)`` into compact regions; into labels where all lie close together."""
        try:
            plan = spatial_plan(lon, lat, label, target, folds=FOLDS)
        except InputError:
            return cls._by_label(label)
        splits = plan.splits(lon, lat)
        return cls(
            splits,
            f"{len(splits)} compact regions of whole labels, left out in turn; labels up to about "
            f"{max(plan.block_m, 1):,.0f} m apart stay together",
        )

    @classmethod
    def _by_label(cls, label: Ints) -> LeftOut:
        numbers, member = np.unique(label, return_inverse=True)
        fold = member % min(FOLDS, len(numbers))
        splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
        return cls(
            splits,
            f"{len(splits)} parts of whole labels, left out in turn; all lie so near each other "
            "that the error is one of places close by",
        )


@dataclass(frozen=True)
class Errors:
    """Shares: changed clicks below a threshold, unchanged ones that reach it; NaN without any."""

    missed: float
    false: float

    @classmethod
    def of(cls, over: NDArray[np.bool_], changed: NDArray[np.bool_]) -> Errors:
        """Count what is over a threshold ``(n,)`` beside what was labelled."""
        nan = float("nan")
        missed = float((~over[changed]).mean()) if changed.any() else nan
        return cls(missed, float(over[~changed].mean()) if not changed.all() else nan)


def clicks_told(
    clicks: Clicks,
    scores: Floats,
    threshold: float,
    lonlat: tuple[Doubles, Doubles],
    *,
    chosen: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Return what the report says of clicks at a threshold, as JSON, and what to note.

    ``scores (n,)`` and degrees ``(n,)`` are those of the clicks. If they chose the threshold
    (``chosen``), it is chosen anew without each part of them, and its error measured on that part.
    """
    changed = clicks.changed
    here = Errors.of(scores >= threshold, changed)
    found = {
        **clicks.told,
        "classes": [
            {
                "name": name,
                "labels": len(np.unique(clicks.label[clicks.code == code])),
                "pixels": int((clicks.code == code).sum()),
            }
            for code, name in enumerate(clicks.classes)
        ],
        "at_threshold": {"missed": here.missed, "false_alarms": here.false},
    }
    if not chosen:
        return found, [*clicks.notes]
    found["left_out"], note = _left_out_told(clicks, scores, lonlat)
    return found, [*clicks.notes, *([note] if note else [])]


def _left_out_told(
    clicks: Clicks, scores: Floats, lonlat: tuple[Doubles, Doubles]
) -> tuple[dict[str, Any], str | None]:
    """Return how far thresholds err that were chosen without what they are tested on."""
    changed = clicks.changed
    cut = LeftOut.of(*lonlat, clicks.label, changed.astype(np.int64))
    over, tested = _left_out(scores, changed, cut.splits)
    apart = Errors.of(over[tested], changed[tested])
    whole = bool(np.isfinite([apart.missed, apart.false]).all())
    told = {
        "missed": apart.missed if whole else float("nan"),
        "false_alarms": apart.false if whole else float("nan"),
        "pixels": int(tested.sum()),
        "split": cut.text,
    }
    sides = [len(np.unique(clicks.label[changed == side])) for side in (True, False)]
    if min(sides) < FEW:
        return told, (
            f"The threshold rests on {sides[0]:,} labels of change and {sides[1]:,} of no change; "
            f"of fewer than {FEW} it is a guess. Label more."
        )
    if whole and (apart.missed + apart.false) / 2 > HARDLY:
        return told, (
            "The score hardly tells your labels of change from those of no change: "
            f"{apart.missed:.0%} missed and {apart.false:.0%} false alarms on labels left out."
        )
    return told, None


def _left_out(
    scores: Floats, changed: NDArray[np.bool_], splits: list[Split]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what reaches a threshold that was chosen without it, and what was tested so."""
    over, tested = np.zeros(len(scores), bool), np.zeros(len(scores), bool)
    for train, test in splits:
        sides = changed[train]
        if sides.any() and not sides.all():
            least = from_clicks(scores[train[sides]], scores[train[~sides]])
            over[test], tested[test] = scores[test] >= least, True
    return over, tested
