"""Runs of change from files to files, as the commands and the processes have them.

Every function raises InputError, StoreError or CancelledError. ``files`` are all that was written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embeddings.report import Progress

if TYPE_CHECKING:
    from embeddings.change.collection_job import CollectionChangeJob
    from embeddings.change.collection_run import CollectionChange
    from embeddings.change.dense_run import DenseChange
    from embeddings.change.raster_job import RasterChangeJob
    from embeddings.change.raster_run import RasterChange

Tell = Callable[[Progress], None]
Stop = Callable[[], bool]
Json = dict[str, Any]


def raster_to_files(
    job: RasterChangeJob, progress: Tell, cancelled: Stop
) -> tuple[RasterChange, Json, list[Path]]:
    """Compare two dates of imagery and write maps and reports; return them, report and files."""
    from embeddings.change.raster_report import change_report
    from embeddings.change.raster_report_html import report_html
    from embeddings.change.raster_run import change_raster
    from embeddings.change.report_files import write_reports

    report: Json = {}

    def last(made: RasterChange) -> None:
        shown = made.pictures.pictures
        report.update(change_report(made))
        write_reports(job.reports, report, lambda: report_html(report, shown(made.threshold)))

    made = change_raster(job, progress, cancelled, last)
    return made, report, [*made.files, *job.reports]


def collection_to_files(
    job: CollectionChangeJob, progress: Tell, cancelled: Stop
) -> tuple[CollectionChange | DenseChange, Json, list[Path]]:
    """Compare dates of a collection and write maps and reports; return them, report and files."""
    if job.dense is not None:
        return _dense_to_files(job, progress, cancelled)
    from embeddings.change.collection_layers import write
    from embeddings.change.collection_objects import change_objects, write_objects
    from embeddings.change.collection_picture import map_uri
    from embeddings.change.collection_report import collection_report, report_html
    from embeddings.change.collection_run import measure
    from embeddings.change.output_lock import all_held
    from embeddings.change.report_files import write_reports

    job.check()
    with all_held(job.outputs):
        made = measure(job, progress, cancelled)
        # A stop is heeded while they are joined: as long as nothing is written.
        objects = None if job.objects is None else change_objects(made, cancelled)
        files = write(made)
        if objects is not None and job.objects is not None:
            write_objects(made, objects, job.objects)
            files.append(job.objects)
        report = collection_report(made, files)
        write_reports(job.reports, report, lambda: report_html(report, map_uri(made)))
    return made, report, [*files, *job.reports]


def _dense_to_files(
    job: CollectionChangeJob, progress: Tell, cancelled: Stop
) -> tuple[DenseChange, Json, list[Path]]:
    from embeddings.change.collection_report import report_html
    from embeddings.change.dense_report import dense_report
    from embeddings.change.dense_run import change_dense
    from embeddings.change.report_files import write_reports

    report: Json = {}

    def last(made: DenseChange) -> None:
        report.update(dense_report(made))
        write_reports(job.reports, report, lambda: report_html(report, made.maps.picture))

    made = change_dense(job, progress, cancelled, last)
    return made, report, [*made.maps.files, *job.reports]
