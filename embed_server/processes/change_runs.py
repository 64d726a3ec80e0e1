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
    from embeddings.change.raster_job import RasterChangeJob
    from embeddings.change.raster_run import RasterChange

Tell = Callable[[Progress], None]
Stop = Callable[[], bool]
Json = dict[str, Any]


def raster_to_files(
    job: RasterChangeJob, progress: Tell, cancelled: Stop
) -> tuple[RasterChange, Json, list[Path]]:
    """Compare two dates of imagery and write maps and reports; return them, report and files."""
    from embeddings.change.raster_report import change_report, write_reports
    from embeddings.change.raster_run import change_raster

    made = change_raster(job, progress, cancelled)
    report = change_report(made)
    write_reports(made, report)
    return made, report, [*made.files, *job.reports]


def collection_to_files(
    job: CollectionChangeJob, progress: Tell, cancelled: Stop
) -> tuple[CollectionChange, Json, list[Path]]:
    """Compare dates of a collection and write maps and reports; return them, report and files."""
    from embeddings.change.collection_layers import write
    from embeddings.change.collection_objects import write_objects
    from embeddings.change.collection_report import collection_report, write_reports
    from embeddings.change.collection_run import measure

    made = measure(job, progress, cancelled)
    files = write(made)
    if job.objects is not None:
        write_objects(made, job.objects)
        files.append(job.objects)
    report = collection_report(made, files)
    write_reports(made, report)
    return made, report, [*files, *job.reports]
