"""Several scenes at once, scenes that break off, plans: what a run keeps and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import (
    BandError,
    CancelledError,
    InputError,
    SourceError,
    SpecMismatchError,
)
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.plan import plan_raster
from embeddings.report import Progress
from embeddings.sources.raster import RasterScene
from embeddings.store import Collection, Store
from embeddings.store.coverage import read_coverage
from embeddings.store.reader import Reader
from embeddings.store.verify import verify
from embeddings.types import Bounds
from tests.embeddings.hashes import contents

Embed = Callable[..., Collection]


@pytest.fixture
def years(tmp_path: Path, land: Any, write_raster: Any) -> list[Path]:
    """Three dates of one place, one of them on another CRS elsewhere."""
    other = {"crs": "EPSG:32718", "origin": (540_000.0, 9_000_000.0)}
    return [
        write_raster(tmp_path / "in" / f"{year}.tif", land(seed=year), **more)
        for year, more in ((1990, {}), (1995, {}), (2000, other))
    ]


def test_scenes_of_several_dates_and_crs_go_into_one_collection(
    tmp_path: Path, years: list[Path]
) -> None:
    seen: list[Progress] = []
    job = RasterJob(tmp_path / "store", "years", tuple(map(str, years)), chip="8", datetime="%Y")
    report = embed_raster(job, seen.append)
    assert [scene.scene for scene in report.scenes] == ["1990", "1995", "2000"]
    assert (report.planned, report.embedded, report.failures) == (432, 432, ())
    made = Store.open(tmp_path / "store").collection("years")
    assert [scene.datetime[:4] for scene in made.scenes if scene.datetime] == [
        "1990",
        "1995",
        "2000",
    ]
    assert verify(made) == []
    done = [step.done for step in seen]
    assert done == sorted(done)
    assert (done[-1], seen[-1].total) == (3000, 3000)
    assert "scene 3 of 3, '2000': 144 of 144 chips" in seen[-1].message
    again = embed_raster(job)
    assert again.resumed == 432


def test_a_scene_that_cannot_be_read_is_reported_and_the_others_kept(
    tmp_path: Path, years: list[Path], land: Any, write_raster: Any
) -> None:
    two = write_raster(tmp_path / "in" / "2005.tif", land(seed=9, bands=2))
    three = write_raster(tmp_path / "in" / "2010.tif", np.zeros((3, 96, 96), np.uint16), nodata=0)
    files = tuple(map(str, [*years, three]))
    report = embed_raster(RasterJob(tmp_path / "store", "years", files, chip="8"))
    empty = report.scenes[3]
    assert (empty.scene, empty.planned, empty.embedded, empty.absent) == ("2010", 144, 0, 144)
    assert report.failures == ()
    second = embed_raster(
        RasterJob(tmp_path / "store", "years", (str(two), *files), chip="8", each=True)
    )
    assert len(second.failures) == 1
    assert "2005" in second.failures[0]
    assert second.embedded == 432
    with pytest.raises(BandError):
        embed_raster(RasterJob(tmp_path / "store", "years", (str(two),), chip="8"))


def truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_a_file_cut_off_midway_keeps_the_rest_and_goes_on_when_it_is_whole(
    tmp_path: Path, land: Any, write_raster: Any, monkeypatch: pytest.MonkeyPatch, embed: Embed
) -> None:
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    monkeypatch.setattr("embeddings.scene_run.rows_per_part", lambda _: 48)
    values = land(seed=5)
    first = embed(tmp_path / "store", write_raster(tmp_path / "first.tif", land(seed=4)))
    before = contents(first.path)
    whole = write_raster(tmp_path / "whole.tif", values, interleave="pixel")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes())
    truncated(cut, 0.6)
    job = RasterJob(tmp_path / "store", "land", (str(cut),), chip="8")
    report = embed_raster(job)
    assert 0 < report.embedded < 144
    assert report.missing == 144 - report.embedded
    assert "cut.tif" in report.failures[0]
    kept = Store.open(tmp_path / "store").collection("land")
    assert before.items() <= contents(kept.path).items()
    assert any("not finished" in problem for problem in verify(kept))
    assert embed_raster(job).missing == report.missing
    cut.write_bytes(whole.read_bytes())
    healed = embed_raster(job)
    assert (healed.embedded, healed.missing, healed.failures) == (144, 0, ())
    made = Store.open(tmp_path / "store").collection("land")
    assert verify(made) == []


def test_what_fails_once_is_tried_again_and_ends_in_the_same_bytes(
    tmp_path: Path, land: Any, write_raster: Any, monkeypatch: pytest.MonkeyPatch, embed: Embed
) -> None:
    from embeddings.encoding import SceneEncoding

    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    monkeypatch.setattr("embeddings.scene_run.rows_per_part", lambda _: 48)
    scene = write_raster(tmp_path / "scene.tif", land(seed=5))
    whole = embed(tmp_path / "whole", scene)
    real = SceneEncoding.rows

    def fails(self: Any, batch: Any) -> Any:
        if batch.number in (1, 4):
            raise SourceError("the line is down")
        return real(self, batch)

    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8")
    with monkeypatch.context() as patch:
        patch.setattr(SceneEncoding, "rows", fails)
        report = embed_raster(job)
    assert (report.missing, report.embedded) == (48, 96)
    assert report.failures == ("Scene 'scene': the line is down",)
    after = embed_raster(job)
    assert (after.missing, after.embedded, after.failures) == (0, 144, ())
    assert after.resumed == 96
    made = Store.open(tmp_path / "store").collection("land")
    assert contents(made.path) == contents(whole.path)
    assert [part.file for part in made.parts] == [part.file for part in whole.parts]


def test_a_failure_before_a_stop_is_tried_again_and_forgotten(
    tmp_path: Path, land: Any, write_raster: Any, monkeypatch: pytest.MonkeyPatch, embed: Embed
) -> None:
    from embeddings.encoding import SceneEncoding

    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    values = land(seed=5)
    values[:, :8, :8] = 0
    scene = write_raster(tmp_path / "scene.tif", values, nodata=0)
    whole = embed(tmp_path / "whole", scene)
    real, failed = SceneEncoding.rows, []

    def fails(self: Any, batch: Any) -> Any:
        if batch.number == 1:
            failed.append(batch.number)
            raise SourceError("the line is down")
        return real(self, batch)

    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8")
    with monkeypatch.context() as patch:
        patch.setattr(SceneEncoding, "rows", fails)
        with pytest.raises(CancelledError):
            embed_raster(job, cancelled=lambda: bool(failed))
    after = embed_raster(job)
    assert (after.missing, after.embedded, after.absent) == (0, 143, 1)
    assert after.resumed == 23  # of the first batch's 24 chips one has no data
    assert contents(Store.open(tmp_path / "store").collection("land").path) == contents(whole.path)


def test_scenes_that_do_not_fit_are_reported_by_name(
    tmp_path: Path, years: list[Path], land: Any, write_raster: Any
) -> None:
    tiny = write_raster(tmp_path / "in" / "1980.tif", land(6, 6))
    coarse = write_raster(tmp_path / "in" / "1998.tif", land(seed=9), res=30.0)
    files = tuple(map(str, [tiny, *years, coarse]))
    job = RasterJob(tmp_path / "store", "years", files, chip="8")
    assert "has only 6 x 6" in str(plan_raster(job).scenes[0].error)
    report = embed_raster(job)
    assert [scene.scene for scene in report.scenes] == ["1990", "1995", "2000"]
    assert [text.split(":")[0] for text in report.failures] == ["Scene '1980'", "Scene '1998'"]
    assert "has only 6 x 6" in report.failures[0]
    assert "gsd_m" in report.failures[1]


def test_a_box_that_meets_some_of_the_scenes_takes_those(tmp_path: Path, years: list[Path]) -> None:
    with RasterScene.open([str(years[0])]) as scene:
        lon, lat = scene.outline()
    box = Bounds(float(min(lon)), float(min(lat)), float(max(lon)), float(max(lat)))
    files = tuple(map(str, reversed(years)))
    report = embed_raster(RasterJob(tmp_path / "store", "years", files, chip="8", bbox=box))
    assert [scene.scene for scene in report.scenes] == ["1995", "1990"]
    (failure,) = report.failures
    assert failure.startswith("Scene '2000': The box")


def test_a_failed_beginning_leaves_no_collection(
    tmp_path: Path, land: Any, write_raster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embeddings.encoding import SceneEncoding

    def fails(*_: Any) -> Any:
        raise SourceError("the line is down")

    monkeypatch.setattr(SceneEncoding, "rows", fails)
    scene = write_raster(tmp_path / "scene.tif", land(seed=5))
    with pytest.raises(SourceError):
        embed_raster(RasterJob(tmp_path / "store", "land", (str(scene),), chip="8"))
    assert not (tmp_path / "store" / "land").exists()


def test_a_plan_refuses_what_the_run_would(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    scene = write_raster(tmp_path / "scene.tif", land(seed=5))
    embed(tmp_path / "store", scene)
    job = RasterJob(tmp_path / "store", "land", (str(scene),), dtype="int8")
    with pytest.raises(SpecMismatchError, match="dtype"):
        plan_raster(job)
    with pytest.raises(SpecMismatchError, match="chip"):
        plan_raster(replace(job, dtype=None, chip="majortom:64"))


def test_a_mask_is_part_of_the_spec(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    values = land(seed=5, bands=4)
    first = write_raster(tmp_path / "first.tif", values)
    second = write_raster(tmp_path / "second.tif", land(seed=6, bands=4))
    more = {"bands": ("B02", "B03", "B04", "CLOUD")}
    made = embed(tmp_path / "store", first, mask="CLOUD>=4000", **more)
    assert embed(tmp_path / "store", second, **more).count > made.count
    with pytest.raises(SpecMismatchError, match="CLOUD>=3"):
        embed(tmp_path / "store", second, mask="CLOUD>=3", scene="third", **more)


def test_progress_with_dense_vectors_never_goes_back(tmp_path: Path, years: list[Path]) -> None:
    for files in (years[:1], years[:2]):
        seen: list[Progress] = []
        store = tmp_path / str(len(files))
        embed_raster(
            RasterJob(store, "years", tuple(map(str, files)), chip="8", dense="8"), seen.append
        )
        shares = [step.done / step.total for step in seen]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert "dense vectors" in seen[-1].message


def test_absent_chips_are_known(tmp_path: Path, land: Any, write_raster: Any, embed: Embed) -> None:
    values = land(seed=3)
    values[:, :40, :40] = 0
    values[:, 48:52, 48:56] = 0  # half of one chip
    scene = write_raster(tmp_path / "scene.tif", values, nodata=0)
    collection = embed(tmp_path / "store", scene)
    absent = read_coverage(collection)
    assert absent.num_rows == collection.scenes[0].absent == 26
    by_id = dict(zip(absent["id"].to_pylist(), absent["valid"].to_pylist(), strict=True))
    assert by_id["scene_0_0"] == 0
    assert by_id["scene_6_6"] == 0.5
    generous = embed(tmp_path / "generous", scene, min_valid=0.5)
    assert generous.count == collection.count + 1
    assert "scene_6_6" not in read_coverage(generous)["id"].to_pylist()
    assert generous.spec.preprocessing is not None
    assert generous.spec.preprocessing.min_valid == 0.5
    vectors = np.concatenate([values for _, values in Reader(generous).batches()])
    assert np.isfinite(vectors).all()


def test_a_plan_writes_nothing_and_counts_what_a_run_does(
    tmp_path: Path, years: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.plan.TRIAL_S", 0.05)
    job = RasterJob(tmp_path / "store", "years", tuple(map(str, years)), chip="8")
    plan = plan_raster(job)
    assert not (tmp_path / "store").exists()
    assert [(scene.scene, scene.chips) for scene in plan.scenes] == [
        ("1990", 144),
        ("1995", 144),
        ("2000", 144),
    ]
    assert plan.chips == embed_raster(job).planned
    assert plan.seconds is not None
    assert 0 < plan.seconds < 60
    assert plan.bytes > 432 * plan.dim * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_valid": 0.0}, "--min-valid is 0; give a share above 0 and up to 1"),
        ({"min_valid": 1.5}, "--min-valid is 1.5"),
        ({"gsd": "0m"}, "is no pixel size"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "--scheduler has its own"),
        ({"encoder": "magic:1"}, "There is no encoder 'magic:1'"),
        ({"scene": "one"}, "--scene"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, years: list[Path], change: dict[str, Any], message: str
) -> None:
    job = RasterJob(tmp_path / "store", "years", tuple(map(str, years)), chip="8", **change)
    with pytest.raises(InputError, match=message):
        embed_raster(job)
    assert not (tmp_path / "store").exists()


@pytest.mark.shared_data
def test_all_patches_of_satclip_go_into_one_collection(tmp_path: Path, shared: Path) -> None:
    files = sorted(map(str, (shared / "satclip-samples").rglob("*.tif")))
    assert len(files) == 23
    report = embed_raster(RasterJob(tmp_path / "store", "patches", tuple(files)))
    assert (len(report.scenes), report.embedded, report.failures) == (23, 23 * 64, ())
    made = Store.open(tmp_path / "store").collection("patches")
    assert verify(made) == []
    assert len({scene.grid["crs"] for scene in made.scenes if scene.grid}) > 10


@pytest.mark.shared_data
def test_eight_dates_of_pucallpa_go_into_one_collection(tmp_path: Path, shared: Path) -> None:
    folder = str(shared / "landsat-pucallpa")
    job = RasterJob(tmp_path / "store", "pucallpa", (folder,), chip="16", datetime="%Y")
    report = embed_raster(job)
    made = Store.open(tmp_path / "store").collection("pucallpa")
    dates = [scene.datetime[:4] for scene in made.scenes if scene.datetime is not None]
    assert dates == [str(year) for year in range(1985, 2021, 5)]
    assert report.embedded + report.absent == report.planned
    times = set(Reader(made).items(limit=10_000)["datetime"].to_pylist())
    assert len(times) == 8
