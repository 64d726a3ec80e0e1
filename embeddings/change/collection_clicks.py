"""Labels on the places of a collection, and where change begins by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.thresholds import from_clicks
from embeddings.change.clicks import Clicks, meant
from embeddings.change.clicks_judged import clicks_told
from embeddings.change.collection_job import THRESHOLD, CollectionChangeJob
from embeddings.change.pairs import Dates
from embeddings.change.raster_decided import Decided, asked_of, doubtful
from embeddings.change.raster_job import Threshold
from embeddings.change.raster_scores import threshold_of
from embeddings.errors import InputError
from embeddings.probe.joining import join
from embeddings.probe.label_classes import FieldOptions
from embeddings.probe.label_raster import LabelRaster
from embeddings.probe.labelled import Joined
from embeddings.probe.labels import LabelOptions, read_labels
from embeddings.probe.vector_join import JoinOptions, Rule
from embeddings.store.reader import Reader

Floats = NDArray[np.float32]


def place_clicks(job: CollectionChangeJob, dates: Dates) -> Clicks | None:
    """Read the clicks of a job before its work: ``row`` is the place, ``col`` 0.

    Raises InputError if they cannot serve.
    """
    clicks = None if job.clicks is None else _read(job.clicks, job.field, dates)
    _asked(job, clicks)
    return clicks


def decide(job: CollectionChangeJob, clicks: Clicks | None, dates: Dates, score: Floats) -> Decided:
    """Return where change begins among scores ``(n,)`` of places, and what clicks say of it.

    Raises InputError if no click lies on a place that could be compared.
    """
    there = score[np.isfinite(score)]
    if clicks is None:
        asked = _asked(job, clicks)
        return Decided(asked, threshold_of(Threshold.parse(asked), there), None, None)
    known = np.isfinite(score[clicks.row])
    if not known.any():
        raise _no_data(job.clicks)
    clicks = clicks.take(known) if not known.all() else clicks
    scores = score[clicks.row]
    asked = _asked(job, clicks)
    kind = Threshold.parse(asked, clicks=True)
    chosen = kind.kind == "clicks"
    threshold = (
        from_clicks(scores[clicks.changed], scores[~clicks.changed])
        if chosen
        else threshold_of(kind, there)
    )
    lon, lat = (each[clicks.row] for each in dates.lonlat)
    told, notes = clicks_told(clicks, scores, threshold, (lon, lat), chosen=chosen)
    kinds = doubtful(clicks, scores >= threshold) if clicks.kinds else None
    return Decided(asked, threshold, kinds, _of_places(told), tuple(notes))


def _read(path: Path, field: str | None, dates: Dates) -> Clicks:
    """Put labels on places that have data at both dates, each place once."""
    if field is None:
        raise InputError(
            "Say with --field which field of --clicks says yes and no, or names the kinds of "
            "change."
        )
    after = dates.chips[1].collection
    values = FieldOptions(task="classes", merge_classes=True)
    labels = read_labels(path, LabelOptions(field=field, values=values))
    rule: Rule | None = None if isinstance(labels, LabelRaster) else "contains"
    joined = join(after, labels, JoinOptions(rule, any_date=True))
    codes, classes, notes = meant(path, field, joined.classes)
    places = dates.places_of(Reader(after).rows(joined.rows))
    known = np.flatnonzero(places >= 0)
    known = known[dates.there[:2, places[known]].all(axis=0)]
    # A place has a chip at each date, and a label may have met several of them.
    known = known[np.unique(places[known], return_index=True)[1]]
    if not len(known):
        raise _no_data(path)
    told = _told(path, field, joined, known)
    code = np.asarray(codes, np.int64)[joined.target[known]]
    found = places[known], np.zeros(len(known), np.int64), code, joined.group[known]
    return Clicks(*found, classes, told, (*joined.report.notes, *notes))


def _told(path: Path, field: str, joined: Joined, known: NDArray[np.int64]) -> dict[str, Any]:
    met, used = (len(np.unique(group)) for group in (joined.group, joined.group[known]))
    report = joined.report
    return {
        "file": path.name,
        "field": field,
        "labels": met if report.labels_read is None else report.labels_read,
        "used": used,
        "covered": 0 if report.labels_used is None else report.labels_used - met,
        "outside": 0,
        "without_data": met - used,
        "unusable": {each.reason: each.count for each in report.dropped},
        "pixels": len(known),
    }


def _of_places(told: dict[str, Any]) -> dict[str, Any]:
    """Call what a raster has pixels of places, as reports of collections do."""

    def renamed(found: dict[str, Any]) -> dict[str, Any]:
        return {"places" if name == "pixels" else name: value for name, value in found.items()}

    out = renamed(told) | {"classes": [renamed(each) for each in told["classes"]]}
    return out | ({"left_out": renamed(told["left_out"])} if "left_out" in told else {})


def _asked(job: CollectionChangeJob, clicks: Clicks | None) -> str:
    return asked_of(job.threshold, THRESHOLD, job.clicks, clicks)


def _no_data(path: Path | None) -> InputError:
    return InputError(
        f"No label of '{path}' lies on a place with data at both dates. Label places that the "
        "score map shows."
    )
