"""What a run of ``change raster`` leaves beside its outputs: nothing, and never what is others'."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_run import RasterChange, change_raster
from embeddings.errors import StorageFullError, StoreLockedError
from tests.embeddings.change_scenes import write_date

PIXELS = 120 * 140


@pytest.fixture
def job(tmp_path: Path) -> RasterChangeJob:
    before = tuple(write_date(tmp_path / "before", seed=1))
    after = tuple(write_date(tmp_path / "after", seed=2, changed=True))
    return RasterChangeJob(before, after, tmp_path / "score.tif", threshold="2")


def test_only_files_of_the_same_name_are_swept(job: RasterChangeJob) -> None:
    """A start with --out score.tif while another run makes score.v2.tif or score.gpkg."""
    folder = job.out.parent
    ours = [
        ".score.4711.tmp.tif",
        ".score.4711.tmp.plain.tif",
        ".score.4711.tmp.plain.tif.aux.xml",
        ".score.4711.tmp.qml",
        ".score_coverage.4711.tmp.tif",
        ".score_coverage.tif.aux.4711.tmp.xml",
        ".o.4711.tmp.gpkg",
        "..o.4711.tmp.4711.tmp.gpkg",
        "..o.4711.tmp.4711.tmp.gpkg-journal",
        ".r.4711.tmp.html",
    ]
    others = [
        ".score.v2.4711.tmp.tif",
        ".score.v2.4711.tmp.plain.tif",
        ".score.2.4711.tmp.tif",
        ".score.4711.tmp.gpkg",
        ".o.4711.tmp.qml",
        ".o.b.4711.tmp.gpkg",
        ".score.old.tmp.tif",
    ]
    for name in (*ours, *others):
        (folder / name).touch()
    change_raster(replace(job, objects=folder / "o.gpkg", reports=(folder / "r.html",)))
    assert sorted(path.name for path in folder.glob(".*")) == sorted(others)


def test_what_is_staged_stays_until_the_last_file_is_written(job: RasterChangeJob) -> None:
    def full(_: RasterChange) -> NoReturn:
        raise StorageFullError("The disk is full.")

    with pytest.raises(StorageFullError):
        change_raster(job, last=full)
    seen: list[RasterChange] = []
    made = change_raster(job, last=seen.append)
    assert made.resumed == made.windows == 1
    assert seen == [made]
    assert made.elapsed_s > 0
    assert not list(job.out.parent.glob(".*"))


def test_two_runs_to_one_report_are_refused(job: RasterChangeJob) -> None:
    job = replace(job, reports=(job.out.with_name("r.html"),))

    def last(_: RasterChange) -> None:
        with pytest.raises(StoreLockedError, match=r"Another process is making 'r\.html'"):
            change_raster(replace(job, out=job.out.with_name("other.tif")))

    change_raster(job, last=last)
    assert not list(job.out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "needed"),
    [({}, 21), ({"probability": True}, 40), ({"classes": "c.tif"}, 24)],
)
def test_room_is_asked_for_all_that_is_written(
    job: RasterChangeJob,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    needed: int,
) -> None:
    classes = {"classes": job.out.with_name("c.tif")} if "classes" in changes else {}
    job = replace(job, **{**changes, **classes})

    class Disk:
        free = PIXELS * needed

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk)
    change_raster(job)
    Disk.free -= 1
    with pytest.raises(StorageFullError, match="Nothing was written"):
        change_raster(job)
