"""Change between stored dense vectors: a cell a place, in windows, of several chip sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import geopandas
import numpy as np
import pytest
import rasterio

from embeddings.analysis.change.coverage import Coverage
from embeddings.change import dense_dates
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_report import report_html, report_lines
from embeddings.change.dense_report import dense_report
from embeddings.change.dense_run import DenseChange, change_dense
from embeddings.change.dense_scenes import dense_dates as found_dates
from embeddings.errors import (
    CancelledError,
    InputError,
    OutsideCoverageError,
    StorageFullError,
    StoreLockedError,
    TerrakinError,
)
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Store
from embeddings.types import Bounds
from tests.embeddings.change_scenes import BLOCK, write_date

ENCODER = "rcf:features=16,dim=8"
SIZE = (120, 140)
ROWS, COLS = 60, 70
"""Cells of 2 x 2 pixels."""
HOLE = (slice(80, 100), slice(20, 40))
FAR = 2.326
"""The score that 1 % of unchanged places exceed."""


def embed(
    folder: Path, day: str, name: str = "years", chip: str = "6", dense: str = "2", **date: Any
) -> None:
    """Embed a made-up date with dense vectors."""
    files = write_date(folder / f"{name}-{day}-{date.get('prefix', '')}", **{"size": SIZE, **date})
    job = RasterJob(folder / "store", name, tuple(files), ENCODER, chip=chip, datetime=day)
    embed_raster(replace(job, scene=f"d{day}{date.get('prefix', '')}", dense=dense, dtype="int8"))


def job(folder: Path, name: str = "out.tif", **changes: Any) -> CollectionChangeJob:
    made = CollectionChangeJob(folder / "store", "years", folder / name, dense="any")
    return replace(made, **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store: 'years' has dates of 2016 to 2019, 'wide' the first and last with larger chips."""
    folder = tmp_path_factory.mktemp("dense")
    for year, more in (
        (2016, {}),
        (2017, {"seed": 1, "gain": 1.1}),
        (2018, {"seed": 2, "changed": True}),
        (2019, {"seed": 3, "changed": True, "holes": [HOLE]}),
    ):
        embed(folder, f"{year}-07-01", **more)
        if year == 2016:
            shutil.copytree(folder / "store", folder / "first")
        if year in (2016, 2019):
            embed(folder, f"{year}-07-01", "wide", "12", **more)
    return folder


@pytest.fixture
def alone(place: Path, tmp_path: Path) -> Path:
    """A store whose collection 'years' has the first date alone."""
    shutil.copytree(place / "first", tmp_path / "store")
    return tmp_path


@pytest.fixture(scope="module")
def made(place: Path) -> DenseChange:
    return change_dense(job(place, objects=place / "changes.gpkg", threshold="2.326"))


def bands(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def block() -> tuple[slice, slice]:
    """The cells whose middle changed."""
    top, bottom, left, right = (int(metres / 20) for metres in BLOCK)
    return slice(top + 1, bottom - 1), slice(left + 1, right - 1)


@pytest.mark.usefixtures("made")
def test_the_map_lies_on_the_cells_and_finds_the_change(place: Path) -> None:
    with rasterio.open(place / "out.tif") as source:
        assert source.shape == (ROWS, COLS)
        assert source.transform.a == 20.0
        assert source.descriptions == ("score", "probability", "cosine", "euclidean")
        score, probability, cosine, euclidean = source.read()
        said = json.loads(source.tags()["TERRAKIN"])
    assert said["dates"] == ["2016-07-01", "2019-07-01"]
    changed = np.zeros((ROWS, COLS), bool)
    changed[block()] = True
    assert np.median(score[changed]) > FAR
    # Chips of 6 pixels reach two cells beyond what changed.
    around = np.zeros((ROWS, COLS), bool)
    around[16:30, 21:44] = True
    quiet = score[~around & np.isfinite(score)]
    assert (quiet > 1.645).mean() == pytest.approx(0.05, abs=0.03)
    assert np.nanmedian(probability[changed]) > 0.9 > 0.2 > np.nanmedian(probability)
    assert np.isfinite(cosine).sum() == np.isfinite(score).sum()
    assert np.median(euclidean[changed]) > 2 * np.nanmedian(euclidean)


def test_no_data_is_a_layer_of_its_own(place: Path, made: DenseChange) -> None:
    coverage, score = bands(place / "out_coverage.tif")[0], bands(place / "out.tif")[0]
    assert (np.isfinite(score) == (coverage == Coverage.COMPARED)).all()
    # Every chip that meets the hole lacks data at date 2 alone; at the edge chips leave the scene.
    assert (coverage[40:50, 10:20] == Coverage.NO_DATA_AFTER).all()
    assert coverage[0, 0] == Coverage.NO_DATA
    counts = np.bincount(coverage.ravel(), minlength=5)
    assert counts.tolist() == list(made.maps.totals.pixels)


def test_objects_and_report_say_what_changed(place: Path, made: DenseChange) -> None:
    rows = geopandas.read_file(place / "changes.gpkg", layer="changes")
    assert len(rows) == made.maps.objects["count"]
    first = rows.iloc[0]
    # Chips reach beyond what changed, by half their side.
    assert 20_000 < first["area_m2"] < 120_000
    assert first["date_after"] == "2019-07-01"
    report = dense_report(made)
    json.dumps(report, allow_nan=False)
    assert report["dense"]["cells"] == [ROWS, COLS]
    assert report["dense"]["references"] <= 4096
    assert report["places"] == ROWS * COLS
    score = bands(place / "out.tif")[0]
    assert report["changed"]["places"] == int((score >= np.float32(made.maps.threshold)).sum())
    assert sum(report["histogram"]["counts"]) == int(np.isfinite(score).sum())
    lines = report_lines(report)
    assert f"of {ROWS * COLS:,} cells compared" in lines[0]
    assert "objects" in lines[-1]
    assert "2016-07-01 against 2019-07-01" in report_html(report, made.maps.picture)


def test_windows_do_not_show(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dates = found_dates(job(place), Store.open(place / "store"))
    whole = [scale.read(0, dates.tiles[0]) for scale in dates.scales]
    monkeypatch.setattr(dense_dates, "WINDOW_BYTES", 1)
    small = found_dates(job(place), Store.open(place / "store"))
    assert len(small.tiles) == 4 * 5
    for tile in small.tiles:
        at = np.s_[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
        np.testing.assert_array_equal(small.scales[0].read(0, tile), whole[0][at])


def test_several_chip_sizes_make_one_score(place: Path) -> None:
    change_dense(job(place, "one.tif"))
    both = change_dense(job(place, "both.tif", scales=("wide",)))
    assert [each.id for each in both.collections] == ["years", "wide"]
    assert [scale.chip_m for scale in both.dates.scales] == pytest.approx([60, 120], rel=0.01)
    one, two = bands(place / "one.tif")[0], bands(place / "both.tif")[0]
    # At the edge only the small chips lie in the scene: the places are theirs.
    assert (np.isfinite(one) == np.isfinite(two)).all()
    assert np.median(two[block()]) > FAR
    assert np.nanmax(np.abs(one - two)) > 0.1
    quiet = two[:15][np.isfinite(two[:15])]
    assert (quiet > 1.645).mean() == pytest.approx(0.05, abs=0.03)


def test_all_dates_say_since_when(place: Path) -> None:
    made = change_dense(job(place, "since.tif", all_dates=True))
    with rasterio.open(place / "since.tif") as source:
        codes, palette = source.read(1), source.colormap(1)
    assert (codes[block()] == 2).mean() > 0.8  # 2018, the third date
    assert (codes[2:15, 2:-2] == 254).mean() > 0.85
    assert codes[0, 0] == 0
    coverage = bands(place / "since_coverage.tif")[0]
    assert place / "since_coverage.tif" in made.maps.files
    assert ((coverage == Coverage.NO_DATA) == (codes == 0)).all()
    assert palette[2] != palette[254]
    report = dense_report(made)
    assert [each["date"] for each in report["since"]] == ["2017-07-01", "2018-07-01", "2019-07-01"]
    assert report["since"][1]["places"] == int((codes == 2).sum())
    assert report["changed"]["places"] == int(((codes > 0) & (codes < 254)).sum())
    assert "since" in "\n".join(report_lines(report))


def test_two_dates_with_data_do_not_tell_that_a_cell_stayed(place: Path) -> None:
    made = change_dense(job(place, "three.tif", all_dates=True, start="2017-01-01"))
    codes, coverage = bands(place / "three.tif")[0], bands(place / "three_coverage.tif")[0]
    # The hole of 2019 leaves two dates of three.
    assert (codes[40:50, 10:20] == 0).all()
    assert (coverage[40:50, 10:20] == Coverage.NO_DATA).all()
    assert (codes[2:15, 2:-2] > 0).all()
    report = dense_report(made)
    assert list(report["coverage"]) == ["compared", "no data at 3 dates"]
    assert report["coverage"]["no data at 3 dates"]["places"] == int((codes == 0).sum())
    assert "Not compared: no data at 3 dates" in "\n".join(report_lines(report))
    assert "Fewer cells have data at 2019-07-01" in made.notes[1]


def test_a_stopped_run_goes_on_and_ends_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_dates, "WINDOW_BYTES", 1)
    asked = job(place, "stopped.tif")
    seen: list[str] = []

    def stop() -> bool:
        return seen.count("cells scored") > 3

    with pytest.raises(CancelledError, match="goes on"):
        change_dense(asked, lambda told: seen.append(told.message), stop)
    assert not asked.out.exists()
    again = change_dense(asked)
    assert 3 < again.resumed < len(again.dates.tiles)
    whole = change_dense(job(place, "whole.tif"))
    assert whole.resumed == 0
    np.testing.assert_array_equal(bands(asked.out), bands(whole.job.out))
    assert not list(place.glob(".*staging"))


def test_what_is_staged_stays_until_the_last_file_is_written(place: Path) -> None:
    asked = job(place, "last.tif")

    def full(_: DenseChange) -> NoReturn:
        raise StorageFullError("The disk is full.")

    with pytest.raises(StorageFullError):
        change_dense(asked, last=full)
    assert asked.out.exists()
    seen: list[DenseChange] = []
    made = change_dense(asked, last=seen.append)
    assert made.resumed == len(made.dates.tiles) == 1
    assert seen == [made]
    assert not list(place.glob(".*staging"))


def test_a_second_run_is_refused_by_the_file_both_would_make(place: Path) -> None:
    asked = job(place, "held.tif", reports=(place / "held.json",))
    temporary = place / ".held.4711.tmp.json"
    refused = []

    def last(_: DenseChange) -> None:
        temporary.touch()
        for again, named in (
            (asked, r"held\.tif"),
            (replace(asked, out=place / "free.tif"), r"held\.json"),
        ):
            with pytest.raises(StoreLockedError, match=f"Another process is making '{named}'"):
                change_dense(again)
            refused.append(named)

    change_dense(asked, last=last)
    assert len(refused) == 2
    # What the holder was writing was not swept.
    assert temporary.exists()
    temporary.unlink()
    assert not list(place.glob(".*staging"))


def test_scenes_of_one_date_lie_beside_and_over_each_other(alone: Path) -> None:
    east = {"origin": (400.0, 0.0), "size": (120, 100)}
    embed(alone, "2019-07-01", changed=True, size=(120, 60), seed=1)
    embed(alone, "2019-07-02", changed=True, prefix="east", seed=2, **east)
    made = change_dense(job(alone))
    assert made.dates.labels == ("2016-07-01", "2019-07-01 to 2019-07-02")
    assert made.dates.grid.width == COLS
    coverage, score = bands(alone / "out_coverage.tif")[0], bands(alone / "out.tif")[0]
    assert (coverage[2:-2, 2:-2] == Coverage.COMPARED).all()
    assert np.median(score[block()]) > FAR


def test_a_box_cuts_the_grid(place: Path) -> None:
    whole = found_dates(job(place), Store.open(place / "store"))
    lon, lat = whole.grid.xy(np.array([10.5, 29.5]), np.array([29.5, 10.5]))
    box = Bounds(float(lon[0]), float(lat[0]), float(lon[1]), float(lat[1]))
    part = found_dates(job(place, bbox=box), Store.open(place / "store"))
    assert 19 <= part.grid.height <= 22
    top = round((whole.grid.transform.f - part.grid.transform.f) / 20)
    left = round((part.grid.transform.c - whole.grid.transform.c) / 20)
    np.testing.assert_array_equal(
        part.scales[0].read(1, part.tiles[0]),
        whole.scales[0].read(1, whole.tiles[0])[
            top : top + part.grid.height, left : left + part.grid.width
        ],
    )


def _half_a_cell(folder: Path) -> None:
    embed(folder, "2019-07-01", origin=(10.0, 0.0))


def _other_crs(folder: Path) -> None:
    embed(folder, "2019-07-01", crs="EPSG:32632")


def _elsewhere(folder: Path) -> None:
    embed(folder, "2019-07-01", origin=(4000.0, 0.0))


def _same_image(folder: Path) -> None:
    embed(folder, "2019-07-01", prefix="copy")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (_half_a_cell, InputError, r"by 0.00 of a cell down and 0.50 across.*change raster"),
        (_other_crs, InputError, "lie in two CRS"),
        (_elsewhere, OutsideCoverageError, "No cell has a vector at all of 2016-07-01"),
        (_same_image, InputError, "the same image"),
        (lambda _: None, InputError, r"has one date, 2016-07-01"),
    ],
    ids=["half a cell", "CRS", "elsewhere", "same image", "one date"],
)
def test_what_cannot_be_compared_is_refused(
    alone: Path, make: Callable[[Path], None], error: type[TerrakinError], says: str
) -> None:
    make(alone)
    with pytest.raises(error, match=says):
        change_dense(job(alone))
    assert not (alone / "out.tif").exists()
    assert not list(alone.glob(".*staging"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"dense": "7"}, "no dense vectors of scene 'd2016-07-01' with stride 7; there: 2"),
        ({"dense": "wide"}, "wide"),
        ({"out": Path("x.gpkg")}, "dense vectors give a raster"),
        ({"dense": None, "scales": ("wide",)}, "give --dense too"),
        ({"scales": ("years",)}, "name each only once"),
        ({"scales": ("wide",), "other": "wide"}, "cannot be used together"),
        ({"history": True}, "--history is for chips"),
        ({"scales": ("wide",), "end": "2018-07-01"}, "'wide' has no scene 'd2018-07-01'"),
        ({"start": "2012-01-01"}, "nothing within 30 days of 2012-01-01. Its dates are 2016-07"),
        ({"start": "2019-07-01", "end": "2016-07-01"}, "later than --to"),
        ({"start": "2018-06-15", "end": "2018-07-05"}, "both fall on the image of 2018-07-01"),
    ],
    ids=str,
)
def test_what_is_asked_for_is_checked(place: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(TerrakinError, match=says):
        change_dense(job(place, "refused.tif", **asked))
    assert not (place / "refused.tif").exists()
