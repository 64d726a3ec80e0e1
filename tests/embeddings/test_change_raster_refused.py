"""Dates that cannot be compared, and files that cannot be written: one clear error, before work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embeddings.change.raster_job import RasterChangeJob, Threshold, check_box
from embeddings.change.raster_run import change_raster
from embeddings.errors import (
    BandError,
    InputError,
    NoDataError,
    OutsideCoverageError,
    SourceError,
    SourceNotFoundError,
    StorageFullError,
    StoreError,
)
from embeddings.types import Bounds
from tests.embeddings.change_scenes import write_date, write_mask

Job = Callable[..., RasterChangeJob]
EVERYTHING = np.s_[:, :]


@pytest.fixture(scope="module")
def dates(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("dates")
    before = write_date(folder / "before", seed=1)
    return tuple(before), tuple(write_date(folder / "after", seed=2, changed=True))


@pytest.fixture
def job(dates: tuple[tuple[str, ...], tuple[str, ...]], tmp_path: Path) -> RasterChangeJob:
    return RasterChangeJob(*dates, tmp_path / "score.tif", threshold="2")


def refused(job: RasterChangeJob, kind: type[Exception], words: str) -> None:
    """The run fails with these words, and leaves nothing."""
    there = set(job.out.parent.iterdir()) if job.out.parent.is_dir() else set()
    with pytest.raises(kind, match=words):
        change_raster(job)
    if job.out.parent.is_dir():
        assert set(job.out.parent.iterdir()) == there


def test_the_same_files_twice(job: RasterChangeJob) -> None:
    refused(replace(job, after=job.before), InputError, r"B02\.tif of --before is B02\.tif of")


def test_a_copy_of_the_same_file(job: RasterChangeJob, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    after = tuple(shutil.copy(file, tmp_path / "copy") for file in job.before)
    refused(replace(job, after=after), InputError, "The same content stands on both sides")


def test_the_same_pixels_in_another_file(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=1)
    # Another compression: the bytes differ, the pixels do not.
    import rasterio

    for file in after:
        with rasterio.open(file) as found:
            profile, values = found.profile, found.read()
        with rasterio.open(file, "w", **profile | {"compress": "deflate"}) as target:
            target.write(values)
    refused(replace(job, after=tuple(after)), InputError, "it is one image twice")


def test_the_same_date_twice(job: RasterChangeJob) -> None:
    day = {"before_date": "2020-05-01", "after_date": "2020-05-01"}
    refused(replace(job, **day), InputError, "2020-05-01: the same date twice")


def test_dates_in_the_wrong_order(job: RasterChangeJob) -> None:
    days = {"before_date": "2021-05-01", "after_date": "2020-05-01"}
    words = "--before is of 2021-05-01, --after of 2020-05-01: the dates are in the wrong order"
    refused(replace(job, **days), InputError, words)


@pytest.mark.parametrize("names", [("2020", "1985"), ("x_20200501_a", "x_19850501_a")])
def test_names_that_tell_the_wrong_order(
    job: RasterChangeJob, tmp_path: Path, names: tuple[str, str]
) -> None:
    before = write_date(tmp_path / names[0], seed=1, bands=("B02", "B03"))
    after = write_date(tmp_path / names[1], seed=2, bands=("B02", "B03"))
    job = replace(job, before=tuple(before), after=tuple(after))
    refused(job, InputError, "By the names of the files --before is of 2020.*--before-date")
    # Whoever states the dates is believed.
    change_raster(replace(job, before_date="1984-01-01", after_date="1985-05-01"))


def test_scenes_of_several_days_on_one_side(job: RasterChangeJob, tmp_path: Path) -> None:
    other = write_date(tmp_path / "2001", bands=("B02", "B03"))
    more = write_date(tmp_path / "2002", bands=("B02", "B03"), seed=3)
    job = replace(job, after=(*other, *more))
    words = "--after holds scenes of several days: 2001 .*Give the files of one date"
    refused(replace(job, after_date="%Y"), InputError, words)
    # Folders or files that are named after their days need not be explained.
    refused(job, InputError, words)


def test_other_bands(job: RasterChangeJob) -> None:
    one, two = job.before[:3], (*job.after[:2], job.after[3])
    words = "different bands: B02, B03, B04 before, B02, B03, B08 after.*--bands B02,B03"
    refused(replace(job, before=one, after=two), BandError, words)
    change_raster(replace(job, before=one, after=two, bands=("B02", "B03")))


def test_bands_that_are_known_to_differ_are_not_paired_in_order(job: RasterChangeJob) -> None:
    job = replace(job, before=job.before[:2], after=job.after[2:])
    refused(job, BandError, "B02, B03 before, B04, B08 after")


def test_no_overlap(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=2, origin=(3000.0, 0.0))
    words = "The dates do not overlap; 1% is the least. Date 1 covers 3, 46.9"
    refused(replace(job, after=tuple(after)), OutsideCoverageError, words)


def test_hardly_any_overlap(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=2, origin=(1300.0, 1150.0))
    refused(replace(job, after=tuple(after)), OutsideCoverageError, r"overlap in 0\.30% of date 1")


def test_no_overlap_in_another_crs(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=2, origin=(30_000.0, 0.0), crs="EPSG:4326")
    refused(replace(job, after=tuple(after)), OutsideCoverageError, "do not overlap")


@pytest.mark.parametrize(("side", "number"), [("before", 1), ("after", 2)])
def test_a_date_without_data(job: RasterChangeJob, tmp_path: Path, side: str, number: int) -> None:
    empty = write_date(tmp_path / "x", seed=2, holes=[EVERYTHING])
    job = replace(job, **{side: tuple(empty)})
    refused(job, NoDataError, f"Date {number} has no pixel with data: all is nodata or masked")


def test_a_date_under_cloud(job: RasterChangeJob, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    clear = write_mask(tmp_path / "one", np.s_[:3, :3])
    cloud = write_mask(tmp_path / "two", EVERYTHING)
    job = replace(job, before=(*job.before, clear), after=(*job.after, cloud), mask="SCL")
    refused(job, NoDataError, r"Date 2 has no pixel with data: all is nodata or masked \(cloud\)")


def test_data_that_never_meets(job: RasterChangeJob, tmp_path: Path) -> None:
    before = write_date(tmp_path / "x", seed=1, holes=[np.s_[:60]])
    after = write_date(tmp_path / "y", seed=2, holes=[np.s_[60:]])
    job = replace(job, before=tuple(before), after=tuple(after))
    refused(job, NoDataError, "No pixel has data at both dates")


def test_pixels_of_very_different_size(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=2, size=(20, 24), pixel=60.0)
    job = replace(job, after=tuple(after))
    refused(job, InputError, r"10 m before, 60\.\d+ m after.*--gsd 60m compares both")
    change_raster(replace(job, gsd="60m"))


@pytest.mark.parametrize("field", ["out", "classes"])
def test_an_output_that_is_an_input(job: RasterChangeJob, tmp_path: Path, field: str) -> None:
    after = write_date(tmp_path / "x", seed=2)
    job = replace(job, after=tuple(after), **{field: Path(after[0])})
    refused(job, InputError, r"B02\.tif' is one of the inputs and would be replaced")


def test_a_coverage_that_is_an_input(job: RasterChangeJob, tmp_path: Path) -> None:
    before = write_date(tmp_path / "x", bands=("s_coverage", "other"))
    job = replace(job, before=tuple(before), out=tmp_path / "x" / "s.tif")
    refused(job, InputError, r"s_coverage\.tif' is one of the inputs")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": "score.png"}, r"--out score\.png must end in \.tif or \.tiff"),
        ({"classes": "c.gpkg"}, r"--classes c\.gpkg must end in \.tif"),
        ({"objects": "o.shp"}, r"--objects o\.shp must end in \.gpkg"),
        ({"reports": ("r.pdf",)}, r"--report r\.pdf must end in \.html or \.json"),
        ({"out": "no/score.tif"}, "name a file in a folder that exists"),
        ({"classes": "score_coverage.tif"}, "Two outputs would be the file 'score_coverage.tif'"),
        ({"out": "y.tif", "classes": "y.tiff"}, r"'y\.tif' and 'y\.tiff' .*the style 'y\.qml'"),
        ({"classes": "score_coverage.tiff"}, r"both have the style 'score_coverage\.qml'"),
        ({"objects": "a.gpkg", "reports": ("b.html", "b.html")}, "Two outputs .* 'b.html'"),
    ],
)
def test_outputs_are_checked_before_inputs(
    job: RasterChangeJob, tmp_path: Path, changes: dict[str, str | tuple[str, ...]], words: str
) -> None:
    placed = {
        name: tmp_path / value if isinstance(value, str) else tuple(tmp_path / v for v in value)
        for name, value in changes.items()
    }
    job = replace(job, before=("not there",), **placed)
    refused(job, InputError, words)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions of this kind")
def test_a_folder_that_refuses_files(
    job: RasterChangeJob, tmp_path: Path, closed: Callable[[Path], None]
) -> None:
    folder = tmp_path / "shut"
    folder.mkdir()
    job = replace(job, before=("not there",), out=folder / "score.tif")
    closed(folder)
    with pytest.raises(StoreError, match="cannot be written"):
        change_raster(job)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": "maybe"}, "--threshold maybe cannot be used. Write otsu, fdr=0.05"),
        ({"threshold": "fdr=2"}, "a rate between 0 and 1"),
        ({"threshold": "nan"}, "--threshold nan"),
        ({"min_area_m2": -1.0}, "--min-area -1 is no area"),
        ({"min_area_m2": float("inf")}, "--min-area inf is no area"),
        ({"min_area_m2": float("nan")}, "--min-area nan is no area"),
        ({"gsd": "0m"}, "--gsd 0m is no pixel size"),
        ({"gsd": "-10m"}, r"--gsd -10m is no pixel size\. Give a length, for example 20m"),
        (
            {"bbox": Bounds(5.2, 46.1, 4.9, 46.4)},
            "--bbox 5.2,46.1,4.9,46.4 has its west, 5.2, east",
        ),
        ({"nodata": "sea"}, "--nodata sea is not a number"),
        ({"before": ()}, "No file was given for --before"),
    ],
)
def test_settings_that_mean_nothing(
    job: RasterChangeJob, changes: dict[str, object], words: str
) -> None:
    refused(replace(job, **changes), InputError, words)


def test_a_box_across_the_antimeridian_is_none_with_its_sides_exchanged() -> None:
    check_box(Bounds(179, -18, -179, -16))
    check_box(Bounds(10, -18, -170, -16))
    with pytest.raises(InputError, match="W,S,E,N"):
        check_box(Bounds(-10, -18, -170, -16))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_only_looks_like_one(job: RasterChangeJob) -> None:
    words = r"'/proc/x\.tif' cannot be written: name a file in a folder"
    with pytest.raises(InputError, match=words):
        change_raster(replace(job, out=Path("/proc/x.tif")))


def test_a_file_that_is_not_there(job: RasterChangeJob) -> None:
    refused(replace(job, after=("nowhere.tif",)), SourceNotFoundError, "no file 'nowhere.tif'")


def test_a_damaged_file(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=2)
    content = Path(after[1]).read_bytes()
    Path(after[1]).write_bytes(content[: len(content) // 2])
    refused(replace(job, after=tuple(after)), SourceError, r"B03\.tif' is damaged")


def test_a_disk_without_room(job: RasterChangeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 300_000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Full)
    refused(job, StorageFullError, "Nothing was written: choose another disk")


def test_thresholds_are_read() -> None:
    assert Threshold.parse(" Otsu ") == Threshold("otsu")
    assert Threshold.parse("FDR=0.1") == Threshold("fdr", 0.1)
    assert Threshold.parse("2.5") == Threshold("value", 2.5)
    assert Threshold.parse("-1e1") == Threshold("value", -10.0)
