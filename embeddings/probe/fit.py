"""Labels and a collection → a probe with an accuracy that can be defended.

``fit_first`` gives the probe within a second or so, for a map; ``judge`` validates it behind that
and gives what is saved. ``fit_probe`` does both.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embeddings import __version__
from embeddings.analysis.probes import LinearProbe, fit
from embeddings.analysis.samples import Samples
from embeddings.analysis.solving import Kind
from embeddings.analysis.validation import Validation, finish, validate
from embeddings.errors import CancelledError, InputError
from embeddings.probe.background import with_background
from embeddings.probe.beside import Beside
from embeddings.probe.fit_job import ProbeJob
from embeddings.probe.join_report import JoinReport
from embeddings.probe.joining import join
from embeddings.probe.label_raster import LabelRaster
from embeddings.probe.labelled import with_vectors
from embeddings.probe.labels import read_labels
from embeddings.probe.model import ProbeModel, TrainedOn
from embeddings.report import Progress
from embeddings.store import Store

Tell = Callable[[Progress], None]
Stop = Callable[[], bool]

STEPS = 100
JOINED, FITTED, JUDGED = 35, 45, 98
"""How far a run is, of STEPS, when the labels are joined, the probe fitted, and judged."""


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A probe fitted to all labels, before anybody knows how good it is.

    Its model predicts, but its probabilities are not calibrated and it never says unknown.
    """

    job: ProbeJob
    samples: Samples
    labels: JoinReport
    model: ProbeModel
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class ProbeOutcome:
    """A probe as it is saved, and what is known of it.

    ``validation`` is None where no region could be left out, which ``model.validation`` says too.
    """

    model: ProbeModel
    labels: JoinReport
    validation: Validation | None
    seconds: dict[str, float]

    def save(self, path: Path) -> Path:
        """Write MODEL.safetensors and MODEL.json; return the first."""
        return self.model.save(path)


def fit_probe(
    job: ProbeJob,
    progress: Tell = lambda _: None,
    cancelled: Stop = lambda: False,
    fitted: Callable[[FittedProbe], None] = lambda _: None,
) -> ProbeOutcome:
    """Fit a probe, judge it, and write it to ``job.out`` if that is given.

    ``fitted`` is called with the probe before it is judged. Raises InputError, StoreError or
    CancelledError; then nothing was written.
    """
    first = fit_first(job, progress, cancelled)
    fitted(first)
    outcome = judge(first, progress, cancelled)
    if job.out is not None:
        outcome.save(job.out)
    progress(Progress(STEPS, STEPS, "done"))
    return outcome


def fit_first(
    job: ProbeJob, progress: Tell = lambda _: None, cancelled: Stop = lambda: False
) -> FittedProbe:
    """Read and join the labels and fit the probe to all of them; write nothing."""
    job.check()
    began = time.perf_counter()
    beside = Beside.open(Store.open(job.store), (job.collection, *job.others))
    samples, labels = _samples(job, beside, progress, cancelled)
    joined = time.perf_counter()
    progress(Progress(JOINED, STEPS, f"{len(samples):,} labelled vectors read"))
    _stop_if(cancelled)
    probe = _fitted(job, samples, job.strength)
    seconds = {"labels": joined - began, "fit": time.perf_counter() - joined}
    trained_on = tuple(map(TrainedOn.of, beside.collections))
    model = ProbeModel(probe, trained_on, {}, labels.to_json(), _provenance(job, seconds))
    progress(Progress(FITTED, STEPS, "fitted"))
    return FittedProbe(job, samples, labels, model, seconds)


def judge(
    first: FittedProbe, progress: Tell = lambda _: None, cancelled: Stop = lambda: False
) -> ProbeOutcome:
    """Validate a fitted probe and calibrate it; write nothing.

    Where the labels allow no region to be left out the probe is returned as it is, with the
    reason among the warnings of its model.
    """
    job, began, steps = first.job, time.perf_counter(), FITTED

    def check() -> None:
        nonlocal steps
        _stop_if(cancelled)
        steps = min(steps + 2, JUDGED)
        progress(Progress(steps, STEPS, "validating"))

    check()
    try:
        settings = job.validation_settings(_kind(job, first.samples))
        validation = validate(first.samples, settings, check=check)
    except InputError as error:
        model = replace(first.model, validation=_not_judged(error))
        return ProbeOutcome(model, first.labels, None, first.seconds)
    probe = first.model.probe
    if probe.strength != validation.strength:
        probe = _fitted(job, first.samples, validation.strength)
    probe = finish(probe, validation)
    if job.unknown_error is None and probe.task == "classes":
        probe = replace(probe, thresholds=None)
    seconds = first.seconds | {"validate": time.perf_counter() - began}
    model = replace(
        first.model,
        probe=probe,
        validation=_said_of(job, validation),
        provenance={**first.model.provenance, "seconds": _rounded(seconds)},
    )
    return ProbeOutcome(model, first.labels, validation, seconds)


def _samples(
    job: ProbeJob, beside: Beside, progress: Tell, cancelled: Stop
) -> tuple[Samples, JoinReport]:
    labels = read_labels(job.labels, job.label_options())
    if isinstance(labels, LabelRaster):
        job.check_labels(labels.task, "share")
    else:
        job.check_labels(labels.targets.task, "centre")
    seen, total = 0, max(beside.first.count, 1)

    def tick(more: int) -> None:
        nonlocal seen
        _stop_if(cancelled)
        seen += more
        done = int(min(seen / total, 1) * (JOINED - 5))
        progress(Progress(done, STEPS, f"labels joined to {seen:,} of {total:,} chips"))

    joined = join(beside.first, labels, job.join_options(), tick)
    samples, joined = with_vectors(beside, joined)
    if samples.task == "positive":
        samples = with_background(samples, beside, joined.rows, job.background, job.seed)
    return samples, joined.report


def _fitted(job: ProbeJob, samples: Samples, strength: float | None) -> LinearProbe:
    kind = _kind(job, samples)
    probe = fit(samples, kind=kind, strength=strength, class_weight=job.class_weight)
    return replace(probe, prevalence=job.prevalence) if samples.task == "positive" else probe


def _kind(job: ProbeJob, samples: Samples) -> Kind:
    """Return the kind asked for; of a number that is a ridge whatever was asked for."""
    kind: Kind = "ridge" if samples.task == "number" else job.kind  # type: ignore[assignment]  # checked
    return kind


def _said_of(job: ProbeJob, validation: Validation) -> dict[str, Any]:
    """Return what the model file says of its validation."""
    said = validation.to_json()
    if job.unknown_error is None and validation.task == "classes":
        said["selection"] = None
    return said


def _not_judged(error: InputError) -> dict[str, Any]:
    text = (
        f"No accuracy is known: {error} The map can be looked at, but no figure speaks for it, "
        "its probabilities are not calibrated, and it never says unknown."
    )
    return {"warnings": [text]}


def _provenance(job: ProbeJob, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "terrakin": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "labels_sha256": _hash(job.labels),
        "job": job.to_json(),
        "seconds": _rounded(seconds),
    }


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def _hash(path: Path) -> str | None:
    """Return the SHA-256 of a file; None of a folder, such as a File Geodatabase."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stop_if(cancelled: Stop) -> None:
    if cancelled():
        raise CancelledError("Stopped as asked. Nothing was written.")
