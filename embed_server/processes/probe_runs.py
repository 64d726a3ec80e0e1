"""Runs of probes from files to files, as the commands and the processes have them.

Every function raises InputError, StoreError or CancelledError; then nothing was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embeddings.analysis.plain import plain
from embeddings.errors import InputError
from embeddings.report import Progress

if TYPE_CHECKING:
    from embeddings.probe.accuracy import MapAccuracy
    from embeddings.probe.fit import FittedProbe, ProbeOutcome
    from embeddings.probe.fit_job import ProbeJob
    from embeddings.probe.model import ProbeModel
    from embeddings.probe.predict import PredictOptions, PredictReport
    from embeddings.probe.queue import LabelQueue, QueueOptions
    from embeddings.probe.sampling import MapSample, SampleOptions
    from embeddings.sources.areas import Area

Tell = Callable[[Progress], None]
Stop = Callable[[], bool]
Json = dict[str, Any]


@dataclass(frozen=True)
class KnownLabels:
    """Labels there are: a file, its layer, and the field in which labels have a value."""

    path: Path
    layer: str | None = None
    field: str | None = None


def fit_to_files(
    job: ProbeJob,
    out: Path,
    report: Path | None,
    progress: Tell,
    cancelled: Stop,
    fitted: Callable[[FittedProbe], None] = lambda _: None,
) -> tuple[ProbeOutcome, Json]:
    """Fit a probe, judge it, and write the model and a report: both or neither.

    ``fitted`` is called with the probe before it is judged. Return the outcome and the report.
    """
    from embeddings.probe.fit import fit_first, judge
    from embeddings.probe.outputs import check_spared
    from embeddings.probe.report import check_report_path, probe_report, write_report

    if report is not None:
        check_report_path(report, out)
    check_spared(written_by_fit(out, report), [job.labels], job.store)
    first = fit_first(job, progress, cancelled)
    fitted(first)
    outcome = judge(first, progress, cancelled)
    made = probe_report(outcome.model)
    if report is not None:
        write_report(made, report, also=lambda: outcome.save(out))
    else:
        outcome.save(out)
    return outcome, made


def written_by_fit(out: Path, report: Path | None) -> list[Path]:
    """Return the files that a fit writes, the model first."""
    from embeddings.probe.model import model_files

    return [*model_files(out), *([report] if report is not None else [])]


def predict_to_file(
    model: Path,
    store: Path,
    collection: str,
    out: Path,
    within: Area | None,
    time: str | None,
    options: PredictOptions,
    progress: Tell,
    cancelled: Stop,
    others: Sequence[str] = (),
    within_file: Path | None = None,
) -> tuple[ProbeModel, PredictReport]:
    """Predict a collection, and ``others`` beside it, with a model and write a map.

    ``within_file`` is what ``within`` was read from, if anything; it is not written to.
    """
    from embeddings.probe.model import ProbeModel
    from embeddings.probe.outputs import check_spared
    from embeddings.probe.predict import check_out, predict
    from embeddings.store import Store
    from embeddings.types import TimeRange

    check_out(out, options)
    check_spared([out], [within_file], store)
    loaded = ProbeModel.load(model)
    opened = Store.open(store)
    known = opened.collection(collection)
    span = TimeRange.parse(time) if time is not None else None
    done = predict(
        loaded,
        known,
        out,
        others=tuple(map(opened.collection, others)),
        within=within,
        time=span,
        options=options,
        progress=progress,
        cancelled=cancelled,
    )
    return loaded, done


def queue_to_file(
    store: Path,
    collection: str,
    model: Path | None,
    labels: KnownLabels | None,
    options: QueueOptions,
    out: Path,
    progress: Tell,
    cancelled: Stop,
    others: Sequence[str] = (),
) -> tuple[LabelQueue, Json]:
    """List the places to label next and write them; return them, and a summary."""
    import numpy as np

    from embeddings.probe.beside import Beside
    from embeddings.probe.layer_file import check_layer_path
    from embeddings.probe.lottery import check_seed
    from embeddings.probe.model import ProbeModel
    from embeddings.probe.outputs import check_spared
    from embeddings.probe.queue import labelled_rows, make_queue, write_queue
    from embeddings.store import Store

    check_layer_path(out)
    check_spared([out], [], store)
    check_seed(options.seed)
    beside = Beside.open(Store.open(store), [collection, *others])
    known = beside.first
    loaded = ProbeModel.load(model) if model is not None else None
    done = np.empty(0, np.int64)
    if labels is not None:
        done = labelled_rows(known, labels.path, labels.layer, labels.field)
    found = make_queue(beside, loaded, done, options, progress, cancelled)
    said = {"collection": known.id, "collection_state": known.state, "strategy": found.strategy}
    write_queue(found, out, said | {"model_sha256": loaded.sha256 if loaded else None})
    places = found.items.drop_columns(["geometry", "datetime"]).to_pylist()
    summary: Json = {
        "strategy": found.strategy,
        "candidates": found.candidates,
        "labelled": found.labelled,
        "places": plain(places),
        "file": str(out),
    }
    return found, summary


def sample_to_file(source: Path, options: SampleOptions, out: Path) -> tuple[MapSample, Json]:
    """Draw a sample of a map and write it; return it, and a summary."""
    from embeddings.probe.layer_file import check_layer_path
    from embeddings.probe.sampling import draw_sample, write_sample

    check_layer_path(out)
    drawn = draw_sample(source, options)
    write_sample(drawn, out)
    strata = plain(drawn.strata.to_pylist())
    return drawn, {"places": drawn.places.num_rows, "strata": strata, "file": str(out)}


def accuracy_to_file(
    sample: Path, field: str, confidence: float, merge_classes: bool, out: Path | None
) -> tuple[MapAccuracy, Json]:
    """Estimate accuracy and areas from a filled-in sample and write a report, if one is wanted."""
    from embeddings.atomic import write_text
    from embeddings.probe.accuracy import assess
    from embeddings.probe.accuracy_html import write_accuracy
    from embeddings.probe.report import check_report_path

    if out is not None:
        check_report_path(out)
        if out.absolute() == sample.absolute():
            raise InputError(f"'{out}' is the sample itself. Choose another name for the report.")
    found = assess(sample, field, confidence=confidence, merge_classes=merge_classes)
    data: Json = plain(found.to_json())
    if out is not None and out.suffix.lower() == ".json":
        write_text(out, json.dumps(data, indent=1) + "\n")
    elif out is not None:
        write_accuracy(found, f"Accuracy from {sample.name}", out)
    return found, data
