"""Where change begins on a map: by its scores, or by the clicks of a user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.thresholds import from_clicks
from embeddings.change.clicks import Clicks, read_clicks
from embeddings.change.clicks_judged import clicks_told
from embeddings.change.raster_job import CLICKS, THRESHOLD, RasterChangeJob, Threshold
from embeddings.change.raster_scores import ScoreRaster, threshold_of
from embeddings.errors import InputError
from embeddings.sources.grids import TargetGrid


@dataclass(frozen=True, eq=False)
class Decided:
    """The score from which on a pixel is change, and what clicks say of it."""

    asked: str
    threshold: float
    kinds: Clicks | None
    """Those that kinds of change are learned from, where any are named."""
    told: dict[str, Any] | None
    notes: tuple[str, ...] = ()


def clicks_of(job: RasterChangeJob, grid: TargetGrid) -> Clicks | None:
    """Read the clicks of a job before its work. Raises InputError if they cannot serve."""
    if job.clicks is None:
        return None
    clicks = read_clicks(job.clicks, job.field, grid)
    _asked(job, clicks)
    return clicks


def decide(
    job: RasterChangeJob, clicks: Clicks | None, raster: ScoreRaster, sample: NDArray[np.float32]
) -> Decided:
    """Return where change begins. Raises InputError if no click lies on data."""
    if clicks is None:
        asked = _asked(job, clicks)
        return Decided(asked, threshold_of(Threshold.parse(asked), sample), None, None)
    scores = np.asarray(raster.score[clicks.row, clicks.col])
    there = np.isfinite(scores)
    if not there.any():
        raise InputError(
            f"No label of '{job.clicks}' lies on a pixel with data at both dates. Label others."
        )
    clicks, scores, lost = clicks.take(there), scores[there], lost_kinds(clicks, there)
    asked = _asked(job, clicks)
    kind = Threshold.parse(asked, clicks=True)
    if kind.kind == "clicks":
        threshold = from_clicks(scores[clicks.changed], scores[~clicks.changed])
    else:
        threshold = threshold_of(kind, sample)
    chosen = kind.kind == "clicks"
    told, notes = clicks_told(clicks, scores, threshold, clicks.lonlat(raster.grid), chosen=chosen)
    kinds = doubtful(clicks, scores >= threshold) if clicks.kinds else None
    return Decided(asked, threshold, kinds, told, (*lost, *notes))


def lost_kinds(clicks: Clicks, there: NDArray[np.bool_]) -> tuple[str, ...]:
    """Note the kinds that have no label with data. Raises InputError if fewer than two have."""
    names = np.array(clicks.classes)
    lost = np.setdiff1d(names[clicks.code], names[clicks.code[there]]).tolist()
    if not lost:
        return ()
    listed = ", ".join(f"'{name}'" for name in lost)
    if clicks.kinds and len(np.unique(clicks.code[there])) < 2:
        raise InputError(
            f"No label of {listed} lies on a pixel with data at both dates, so there is nothing "
            "to tell the others from. Label such places elsewhere."
        )
    return (f"No label of {listed} lies on a pixel with data at both dates: nothing is called so.",)


def doubtful(clicks: Clicks, over: NDArray[np.bool_]) -> Clicks:
    """Leave out what did not change and is not called change anyway, for kinds are told beyond.

    What is left may be of one kind; then all of them serve.
    """
    keep = clicks.changed | over
    return clicks.take(keep) if len(np.unique(clicks.code[keep])) > 1 else clicks


def _asked(job: RasterChangeJob, clicks: Clicks | None) -> str:
    return asked_of(job.threshold, THRESHOLD, job.clicks, clicks)


def asked_of(threshold: str | None, usual: str, file: Path | None, clicks: Clicks | None) -> str:
    """Return the threshold that is asked for, or that holds where none is: clicks, or the usual.

    Raises InputError if the clicks cannot serve it.
    """
    two_sided = clicks is not None and clicks.two_sided
    asked = threshold or (CLICKS if two_sided else usual)
    wants = Threshold.parse(asked, clicks=True).kind == "clicks"
    if clicks is not None and not two_sided and (wants or not clicks.kinds):
        which = "no change" if clicks.changed.all() else "change"
        raise InputError(
            f"No label of '{_name(file)}' that can be used is of {which}; a threshold needs "
            f"places that changed and places that did not. Label {which} too."
        )
    return asked


def _name(path: Path | None) -> str:
    return path.name if path is not None else ""
