"""Changed into what: a probe of land cover at both dates, and kinds of change from a few clicks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.applicability import measure_applicability
from embeddings.analysis.change.transitions import transitions
from embeddings.analysis.probes import UNKNOWN, LinearProbe, fit
from embeddings.analysis.samples import Samples
from embeddings.change.clicks import NO_CHANGE, Clicks
from embeddings.change.clicks_judged import FEW
from embeddings.change.collection_scores import BLOCK
from embeddings.change.pairs import Dates
from embeddings.change.places import Ints
from embeddings.errors import InputError
from embeddings.probe.map_areas import equal_area
from embeddings.probe.model import ProbeModel

Floats = NDArray[np.float32]
Texts = NDArray[Any]

REGIONS = 40
"""Compact regions from which the intervals are drawn."""
SURE = 0.5
"""A kind of change is named from this probability on."""
UNKNOWN_NAME = "unknown"


@dataclass(frozen=True, eq=False)
class Named:
    """Texts ``(n,)`` by column, None where nothing is named; and what the report says.

    ``denied (n,)``: places over the threshold that are no change by the labels.
    """

    columns: dict[str, Texts]
    told: dict[str, Any]
    notes: tuple[str, ...] = ()
    denied: NDArray[np.bool_] | None = None


def land_cover(
    path: Path, dates: Dates, changed: NDArray[np.bool_], hectares: NDArray[np.float64]
) -> Named:
    """Name the classes of a probe at both dates, and the areas from class to class.

    Raises InputError if the probe does not name classes, SpecMismatchError if it understands other
    vectors.
    """
    model = ProbeModel.load(path)
    if model.probe.task != "classes":
        raise InputError(
            f"'{path}' is a probe of {model.probe.task}; what became what needs one of classes. "
            "Fit one with: terrakin probe fit --task classes"
        )
    spec = dates.chips[0].collection
    model.check(spec.spec, spec.id)
    places = np.flatnonzero(dates.there[:2].all(axis=0))
    names = (*model.probe.classes, _unknown(model.probe.classes))
    before, after = (_shares(model.probe, dates, date, places) for date in (0, 1))
    found = transitions(
        before,
        after,
        hectares[places],
        _regions(dates, places),
        names,
        changed[places],
        unknown=len(names) - 1,
    )
    columns = {}
    for name, code in (("class_before", found.before), ("class_after", found.after)):
        texts = np.full(dates.count, None, object)
        texts[places] = np.array(names, object)[code]
        columns[name] = texts
    method = (
        "Mapped: each place as its likeliest class. Expected: as the probe's probabilities say. "
        "Places that did not change keep one class, named from both dates together, and are "
        "unknown only if they are at both. The interval is of the expected area, from 200 draws of "
        "regions and, within each, of how far the probe errs; it does not hold errors that the "
        "probe makes everywhere. For that, check a random sample of the map."
    )
    return Named(columns, {"transitions": {**found.to_json(), "method": method}})


def _shares(probe: LinearProbe, dates: Dates, date: int, places: Ints) -> Floats:
    """Return probabilities ``(n, q + 1)``, the last of unknown: 1 where it is, else 0."""
    many = len(probe.classes)
    shares = np.zeros((len(places), many + 1), np.float32)
    for first in range(0, len(places), BLOCK):
        part = slice(first, first + BLOCK)
        vectors = dates.vectors(date, places[part])
        away = probe.predict(vectors) == UNKNOWN
        shares[part, :many] = np.where(away[:, None], 0, probe.probabilities(vectors))
        shares[part, many] = away
    return shares


def _unknown(classes: tuple[str, ...]) -> str:
    return UNKNOWN_NAME if UNKNOWN_NAME not in classes else "not recognised"


def _regions(dates: Dates, places: Ints) -> NDArray[np.int64]:
    """Return the compact region of each place: squares of one area."""
    lon, lat = (each[places] for each in dates.lonlat)
    x, y = equal_area(lon, lat)
    side = max(float(np.sqrt(np.ptp(x) * np.ptp(y) / REGIONS)), 1.0)
    col, row = ((each - each.min()) // side for each in (x, y))
    return np.asarray(row * (col.max() + 1) + col, np.int64)


def kinds_of_change(
    clicks: Clicks,
    learn_from: str,
    dates: Dates,
    changed: NDArray[np.bool_],
    hectares: NDArray[np.float64],
) -> Named:
    """Name the kind of change of changed places ``(n,)``, learned from labels on some of them.

    ``learn_from``: "after" tells kinds by the vector of date 2, "move" by the difference, "both"
    by the vector of date 1 and the difference. A place unlike all labels, or with no kind likely
    enough, is unknown; one that is like those labelled as no change is denied. Raises InputError.
    """
    probe, many = _probe_of_kinds(clicks, learn_from, dates)
    kinds = [name for name in probe.classes if name != NO_CHANGE]
    texts = np.full(dates.count, None, object)
    asked = np.flatnonzero(changed & dates.there[:2].all(axis=0))
    names = np.array([*probe.classes, _unknown(probe.classes)], object)
    for first in range(0, len(asked), BLOCK):
        part = asked[first : first + BLOCK]
        texts[part] = names[probe.predict(_features(dates, part, learn_from))]
    denied = texts == NO_CHANGE
    texts[denied] = None
    told = [
        {
            "kind": name,
            "labels": many.get(name, 0),
            "places": int((texts == name).sum()),
            "hectares": float(hectares[texts == name].sum()),
        }
        for name in (*kinds, names[-1])
    ]
    few = [name for name in kinds if many[name] < FEW]
    note = f"Fewer than {FEW} labels each: {', '.join(few)}. Their kinds are a guess."
    return Named(
        {"kind": texts},
        {"kinds": {"found": told, "learned_from": learn_from, "method": _METHODS[learn_from]}},
        (note,) if few else (),
        denied,
    )


def _probe_of_kinds(
    clicks: Clicks, learn_from: str, dates: Dates
) -> tuple[LinearProbe, dict[str, int]]:
    """Fit a probe to the labels; return it, and how many labels each class has."""
    places = clicks.row
    there, target = np.unique(clicks.code, return_inverse=True)
    classes = tuple(clicks.classes[code] for code in there.tolist())
    if len(classes) < 2:
        raise InputError(
            f"All labels on places with data at both dates are of one kind, '{classes[0]}': one "
            "kind alone would take every change for itself. Label another kind too."
        )
    lon, lat = (each[places] for each in dates.lonlat)
    vectors = _features(dates, places, learn_from)
    samples = Samples("classes", vectors, target, classes, lon, lat, clicks.label)
    probe = fit(samples)
    near = measure_applicability(samples.vectors, probe.mean, probe.scale, samples.group)
    probe = replace(probe, applicability=near, thresholds=np.full(len(classes), SURE))
    many = [len(np.unique(clicks.label[target == code])) for code in range(len(classes))]
    return probe, dict(zip(classes, many, strict=True))


_METHODS = {
    "both": "Kinds are told by the vector of date 1 and the move. That separates best between the "
    "two dates they were labelled on; for another pair of dates take 'after'.",
    "after": "Kinds are told by the vector of date 2 alone. That carries over to another date 1; "
    "it cannot tell what a place was before.",
    "move": "Kinds are told by the move alone. It does not carry over to other pairs of dates.",
}


def _features(dates: Dates, places: Ints, learn_from: str) -> Floats:
    before, after = (dates.vectors(date, places) for date in (0, 1))
    if learn_from == "after":
        return after
    move = after - before
    return move if learn_from == "move" else np.concatenate([before, move], axis=1)
