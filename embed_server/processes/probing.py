"""Probes as processes: fit one, map with it, list what to label, sample and judge the map.

Files are read and written on this machine, by the rights of whoever started the server, and are
named by absolute paths. What a job writes lies outside the store, which belongs to its collections.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_server.errors import InvalidRequestError
from embed_server.job import JobContext
from embed_server.processes import probe_models as wire
from embed_server.processes.process import (
    Make,
    Process,
    check_absolute,
    check_written,
    teller,
)
from embeddings.errors import TerrakinError

if TYPE_CHECKING:
    from embeddings.sources.areas import Area

GeoJsonOrPath = str | wire.GeoJson

LABELS_FILE = "labels.geojson"


def _fit(store: Path, inputs: wire.ProbeFitInputs) -> Make:
    _check_read(labels=inputs.labels)
    check_written(store, out=inputs.out, report=inputs.report)
    given = inputs.model_dump(exclude_none=True)
    out, report = Path(given.pop("out")), given.pop("report", None)
    if given.get("unknown_error") == "off":
        given["unknown_error"] = None
    given["others"] = tuple(given.get("others", ()))

    def work(context: JobContext) -> Mapping[str, Any]:
        # Late, here and below: probes bring libraries that a server that searches does not need.
        from embed_server.processes.probe_runs import fit_to_files, written_by_fit
        from embeddings.probe.fit_job import ProbeJob
        from embeddings.probe.report import report_lines

        to = None if report is None else Path(report)
        with _label_file(given["labels"]) as labels:
            job = ProbeJob(**{**given, "store": store, "labels": labels, "out": out})
            outcome, made = fit_to_files(job, out, to, teller(context), context.cancelled)
        for line in filter(None, report_lines(made)):
            context.log(line)
        files = [str(file) for file in written_by_fit(out, to)]
        judged = outcome.validation is not None
        return {"model": files[0], "files": files, "judged": judged, "probe": made}

    return work


def _predict(store: Path, inputs: wire.ProbePredictInputs) -> Make:
    _check_read(model=inputs.model, within=inputs.within)
    check_written(store, out=inputs.out)

    def work(context: JobContext) -> Mapping[str, Any]:
        from embed_server.processes.probe_runs import predict_to_file
        from embeddings.probe.predict import PredictOptions

        options = PredictOptions(
            per_class=bool(inputs.per_class),
            measures=bool(inputs.measures),
            name_all=bool(inputs.name_all),
            scenes=tuple(inputs.scenes or ()),
            workers=1 if inputs.workers is None else inputs.workers,
            scheduler=inputs.scheduler,
        )
        _, done = predict_to_file(
            Path(inputs.model),
            store,
            inputs.collection,
            Path(inputs.out),
            _area(inputs.within, context),
            inputs.datetime,
            options,
            teller(context),
            context.cancelled,
            inputs.others or (),
            Path(inputs.within) if isinstance(inputs.within, str) else None,
        )
        for text in done.notes:
            context.log(text)
        return done.to_json()

    return work


def _queue(store: Path, inputs: wire.ProbeQueueInputs) -> Make:
    _check_read(model=inputs.model, labels=inputs.labels, within=inputs.within)
    check_written(store, out=inputs.out)
    if inputs.labels is None and (inputs.layer is not None or inputs.field is not None):
        raise InvalidRequestError("inputs.layer and inputs.field go with inputs.labels; give it.")
    given = inputs.model_dump(exclude_none=True, include={"many", "strategy", "seed"})

    def work(context: JobContext) -> Mapping[str, Any]:
        from embed_server.processes.probe_runs import KnownLabels, queue_to_file
        from embeddings.probe.queue import QueueOptions

        options = QueueOptions(within=_area(inputs.within, context), **given)
        model = None if inputs.model is None else Path(inputs.model)
        with _label_file(inputs.labels) as path:
            known = None if path is None else KnownLabels(path, inputs.layer, inputs.field)
            _, summary = queue_to_file(
                store,
                inputs.collection,
                model,
                known,
                options,
                Path(inputs.out),
                teller(context),
                context.cancelled,
                inputs.others or (),
            )
        return summary

    return work


def _sample(store: Path, inputs: wire.ProbeSampleInputs) -> Make:
    _check_read(map=inputs.map)
    check_written(store, out=inputs.out)
    if (inputs.total is None) == (inputs.standard_error is None):
        raise InvalidRequestError("Give either inputs.total or inputs.standard_error.")
    given = inputs.model_dump(exclude_none=True, exclude={"map", "out"})

    def work(context: JobContext) -> Mapping[str, Any]:
        from embed_server.processes.probe_runs import sample_to_file
        from embeddings.probe.sampling import SampleOptions

        drawn, summary = sample_to_file(Path(inputs.map), SampleOptions(**given), Path(inputs.out))
        for text in drawn.notes:
            context.log(text)
        return {**summary, "notes": drawn.notes}

    return work


def _accuracy(store: Path, inputs: wire.ProbeAccuracyInputs) -> Make:
    _check_read(sample=inputs.sample)
    check_written(store, out=inputs.out)

    def work(context: JobContext) -> Mapping[str, Any]:
        from embed_server.processes.probe_runs import accuracy_to_file
        from embeddings.probe.accuracy import CONFIDENCE
        from embeddings.probe.sampling import REFERENCE

        found, data = accuracy_to_file(
            Path(inputs.sample),
            REFERENCE if inputs.field is None else inputs.field,
            CONFIDENCE if inputs.confidence is None else inputs.confidence,
            bool(inputs.merge_classes),
            None if inputs.out is None else Path(inputs.out),
        )
        for line in filter(None, found.lines()):
            context.log(line)
        return {"accuracy": data, "file": inputs.out}

    return work


def _check_read(**paths: GeoJsonOrPath | None) -> None:
    """Raise InvalidRequestError unless each input that is a path is absolute."""
    for name, path in paths.items():
        if isinstance(path, str):
            check_absolute(name, path, "GeoJSON" if name in ("labels", "within") else "")


@contextmanager
def _label_file(labels: GeoJsonOrPath | None) -> Iterator[Any]:
    """Yield the path of labels; of GeoJSON that of a file, for as long as the block runs."""
    if labels is None or isinstance(labels, str):
        yield None if labels is None else Path(labels)
        return
    with tempfile.TemporaryDirectory(prefix="terrakin-") as folder:
        path = Path(folder) / LABELS_FILE
        path.write_text(json.dumps(labels), encoding="utf-8")
        try:
            yield path
        except TerrakinError as error:
            # The client has never seen this file.
            raise type(error)(str(error).replace(f"'{path}'", "The GeoJSON")) from error


def _area(within: GeoJsonOrPath | None, context: JobContext) -> Area | None:
    """Read an area, telling what was mended in it."""
    if within is None:
        return None
    from embeddings.query.polygons import read_polygons

    read = read_polygons(Path(within) if isinstance(within, str) else within)
    for text in read.notes:
        context.log(text)
    return read.area


FIT = Process(
    id="probe-fit",
    title="Fit a probe",
    description="Fit a probe to labels and judge it on regions that were left out. Nothing is "
    "written before all is done.",
    inputs=wire.ProbeFitInputs,
    output=wire.ProbeFitReport,
    prepare=_fit,
)

PREDICT = Process(
    id="probe-predict",
    title="Map with a probe",
    description="Predict the chips of a collection and write a map. A file that is there is "
    "replaced once the new one is whole.",
    inputs=wire.ProbePredictInputs,
    output=wire.ProbePredictReport,
    prepare=_predict,
)

QUEUE = Process(
    id="probe-queue",
    title="Places to label next",
    description="List the places that are worth labelling next, the most useful first.",
    inputs=wire.ProbeQueueInputs,
    output=wire.ProbeQueueReport,
    prepare=_queue,
)

SAMPLE = Process(
    id="probe-sample",
    title="Sample a map",
    description="Draw a stratified random sample of a map, to learn how right it is.",
    inputs=wire.ProbeSampleInputs,
    output=wire.ProbeSampleReport,
    prepare=_sample,
)

ACCURACY = Process(
    id="probe-accuracy",
    title="Accuracy and areas of a map",
    description="Estimate a map's accuracy and its classes' areas from a filled-in sample, with "
    "intervals, after Olofsson et al. (2014).",
    inputs=wire.ProbeAccuracyInputs,
    output=wire.ProbeAccuracyReport,
    prepare=_accuracy,
)
