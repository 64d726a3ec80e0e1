"""Change between dates as processes: of imagery, and of a collection.

Files are read and written as ``probing`` has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embed_server.job import JobContext
from embed_server.models import Received
from embed_server.processes import change_models as wire
from embed_server.processes.process import (
    Make,
    Process,
    check_absolute,
    check_sources,
    check_written,
    teller,
)
from embeddings.types import Bounds

TUPLES = ("before", "after", "bands", "scales")
PATHS = ("out", "classes", "objects", "probe", "clicks")


def _raster(store: Path, inputs: wire.ChangeRasterInputs) -> Make:
    check_sources("before", inputs.before)
    check_sources("after", inputs.after)
    _check_read(inputs, ("clicks",))
    check_written(store, out=inputs.out, classes=inputs.classes, objects=inputs.objects)
    _check_reports(store, inputs.report)
    given = _given(inputs, {"register_": "register"})

    def work(context: JobContext) -> Mapping[str, Any]:
        # Late, here and below: change brings libraries that a server that searches does not need.
        from embed_server.processes.change_runs import raster_to_files
        from embeddings.change.raster_job import RasterChangeJob
        from embeddings.change.raster_report import report_lines

        job = RasterChangeJob(**given)
        made, report, files = raster_to_files(job, teller(context), context.cancelled)
        return _told(context, files, report, report_lines(report), made.notes)

    return work


def _collection(store: Path, inputs: wire.ChangeCollectionInputs) -> Make:
    _check_read(inputs, ("probe", "clicks"))
    check_written(store, out=inputs.out, objects=inputs.objects)
    _check_reports(store, inputs.report)
    given = _given(inputs, {"with_collection": "other", "with_": "scales"})

    def work(context: JobContext) -> Mapping[str, Any]:
        from embed_server.processes.change_runs import collection_to_files
        from embeddings.change.collection_job import CollectionChangeJob
        from embeddings.change.collection_report import report_lines

        job = CollectionChangeJob(store=store, **given)
        made, report, files = collection_to_files(job, teller(context), context.cancelled)
        return _told(context, files, report, report_lines(report), made.notes)

    return work


def _check_read(inputs: Received, names: Sequence[str]) -> None:
    for name in names:
        if (path := getattr(inputs, name)) is not None:
            check_absolute(name, path)


def _check_reports(store: Path, reports: list[str] | None) -> None:
    for path in reports or ():
        check_written(store, report=path)


def _given(inputs: Received, renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return what the client gave, in the names and types of the jobs of ``embeddings``."""
    found = inputs.model_dump(exclude_none=True)
    given = {renamed.get(name, name): value for name, value in found.items()}
    for name in TUPLES:
        if name in given:
            given[name] = tuple(given[name])
    for name in PATHS:
        if name in given:
            given[name] = Path(given[name])
    if "bbox" in given:
        given["bbox"] = Bounds(*given["bbox"])
    given["reports"] = tuple(map(Path, given.pop("report", ())))
    return given


def _told(
    context: JobContext,
    files: list[Path],
    report: Mapping[str, Any],
    lines: list[str],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Log what was found, and return the result."""
    for line in (*lines, *(f"Note: {text}" for text in notes)):
        context.log(line)
    return {"files": [str(file) for file in files], "change": report}


RASTER = Process(
    id="change-raster",
    title="Change between two dates of imagery",
    description="Map how unusual the change of each pixel is between two dates. Files that are "
    "there are replaced by whole ones; running it again goes on where a dismissed job stopped.",
    inputs=wire.ChangeRasterInputs,
    output=wire.ChangeReport,
    prepare=_raster,
)

COLLECTION = Process(
    id="change-collection",
    title="Change in a collection",
    description="Map how unusual the change of each place of a collection is between two dates, or "
    "since when it is another.",
    inputs=wire.ChangeCollectionInputs,
    output=wire.ChangeReport,
    prepare=_collection,
)
