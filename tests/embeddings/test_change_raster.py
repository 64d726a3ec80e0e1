"""A change map of two dates: what it holds, where it lies, and that it can be interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from sklearn.metrics import roc_auc_score

from embeddings.analysis.change.coverage import Coverage
from embeddings.change import raster_run
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_pair import ScenePair
from embeddings.change.raster_run import change_raster
from embeddings.errors import CancelledError, StoreLockedError
from tests.embeddings.change_scenes import BANDS, truth, write_date, write_mask

THRESHOLD = "2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dates, in 'before' and 'after'."""
    folder = tmp_path_factory.mktemp("place")
    write_date(folder / "before", seed=1)
    write_date(folder / "after", seed=2, changed=True, gain=1.1)
    return folder


@pytest.fixture
def job(place: Path, tmp_path: Path) -> RasterChangeJob:
    return RasterChangeJob(
        files(place / "before"), files(place / "after"), tmp_path / "score.tif", threshold=THRESHOLD
    )


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 48 pixels, so that a small pair has several."""
    monkeypatch.setattr(raster_run, "SIDES", (48,))


def files(folder: Path, *bands: str) -> tuple[str, ...]:
    return tuple(str(folder / f"{name}.tif") for name in bands or BANDS)


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as found:
        return np.asarray(found.read(1))


def auc(path: Path) -> float:
    score = pixels(path)
    there = np.isfinite(score)
    return float(roc_auc_score(truth(path)[there], score[there]))


def test_what_changed_stands_out_on_the_grid_of_the_first_date(
    job: RasterChangeJob, place: Path
) -> None:
    made = change_raster(job)
    with rasterio.open(place / "before" / "B02.tif") as first, rasterio.open(job.out) as found:
        assert (found.crs, found.transform, found.shape) == (
            first.crs,
            first.transform,
            first.shape,
        )
        assert found.dtypes == ("float32",)
        assert np.isnan(found.nodata)
        assert found.descriptions == ("score",)
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        said = json.loads(found.tags()["TERRAKIN"])
    assert said["before"]["files"] == [f"{name}.tif" for name in BANDS]
    assert said["threshold"] == {"asked": THRESHOLD, "score": 2.0}
    assert auc(job.out) > 0.97
    assert made.totals.pixels == (120 * 140, 0, 0, 0, 0)
    assert made.totals.changed_pixels == (pixels(job.out) >= 2).sum() > 100
    assert sum(made.totals.counts) == 120 * 140
    assert not list(job.out.parent.glob(".*"))


def test_a_large_map_has_overviews(tmp_path: Path) -> None:
    for name, more in (("before", {"seed": 1}), ("after", {"seed": 2, "changed": True})):
        write_date(tmp_path / name, size=(530, 70), bands=("B02",), **more)
    job = RasterChangeJob(
        files(tmp_path / "before", "B02"),
        files(tmp_path / "after", "B02"),
        tmp_path / "score.tif",
        threshold=THRESHOLD,
    )
    change_raster(job)
    for path in (job.out, job.coverage):
        with rasterio.open(path) as found:
            assert found.overviews(1) == [2]


@pytest.mark.usefixtures("small_windows")
def test_scores_do_not_depend_on_the_windows(
    job: RasterChangeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = change_raster(job)
    assert cut.windows == 9
    monkeypatch.setattr(raster_run, "SIDES", (1024,))
    whole = replace(job, out=job.out.with_name("whole.tif"))
    assert change_raster(whole).windows == 1
    np.testing.assert_allclose(pixels(job.out), pixels(whole.out), atol=1e-4)


@pytest.mark.usefixtures("small_windows")
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(job: RasterChangeJob) -> None:
    other = replace(job, out=job.out.with_name("other.tif"), classes=job.out.with_name("c.tif"))
    change_raster(other)
    job = replace(job, classes=job.out.with_name("d.tif"))
    asked = iter([False] * 5 + [True] * 99)
    with pytest.raises(CancelledError, match="run the same command again"):
        change_raster(job, cancelled=lambda: next(asked))
    assert not job.out.exists()
    staged = len(list(job.out.parent.glob(".score.tif.staging/*.npz")))
    assert staged == 4
    made = change_raster(job)
    assert (made.windows, made.resumed) == (9, 4)
    for ours, theirs in zip(job.outputs, other.outputs, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


KILLED = """
import os, signal, sys, json
from pathlib import Path
from embeddings.change import raster_run
from embeddings.change.raster_job import RasterChangeJob
raster_run.SIDES = (48,)
before, after, out = json.loads(sys.argv[1])
def tell(progress):
    if progress.done > 120 * 140 * 0.6:
        os.kill(os.getpid(), signal.SIGKILL)
job = RasterChangeJob(tuple(before), tuple(after), Path(out), threshold="2")
raster_run.change_raster(job, tell)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
@pytest.mark.usefixtures("small_windows")
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(job: RasterChangeJob) -> None:
    other = replace(job, out=job.out.with_name("other.tif"))
    change_raster(other)
    asked = json.dumps([job.before, job.after, str(job.out)])
    # What a run that was killed while it wrote leaves.
    left = job.out.with_name(".score.4711.tmp.tif")
    left.touch()
    done = subprocess.run([sys.executable, "-c", KILLED, asked], check=False)
    assert done.returncode == -9
    made = change_raster(job)
    assert 0 < made.resumed < made.windows == 9
    for ours, theirs in zip(job.outputs, other.outputs, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    assert not left.exists()


@pytest.mark.usefixtures("small_windows")
def test_other_settings_or_files_begin_anew(job: RasterChangeJob, tmp_path: Path) -> None:
    def stopped(asked: RasterChangeJob) -> None:
        answers = iter([False] * 5 + [True] * 99)
        with pytest.raises(CancelledError):
            change_raster(asked, cancelled=lambda: next(answers))

    stopped(job)
    # A threshold changes no score, so the windows serve.
    assert change_raster(replace(job, threshold="4")).resumed == 4
    stopped(job)
    assert change_raster(replace(job, register=False)).resumed == 0
    stopped(job)
    after = tuple(write_date(tmp_path / "later", seed=9, changed=True))
    assert change_raster(replace(job, after=after)).resumed == 0


@pytest.mark.usefixtures("small_windows")
def test_two_runs_to_one_file_are_refused(job: RasterChangeJob) -> None:
    def meanwhile(_: Any) -> None:
        with pytest.raises(StoreLockedError, match=r"Another process is making 'score\.tif'"):
            change_raster(job)
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        change_raster(job, meanwhile)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("shared", ["classes", "objects", "coverage"])
def test_two_runs_to_one_file_beside_the_scores_are_refused(
    job: RasterChangeJob, shared: str
) -> None:
    """The second would sweep away what the first is writing."""
    both = job.out.with_name("both.gpkg" if shared == "objects" else "both_coverage.tif")
    first = replace(job, out=job.out.with_name("both.tif")) if shared == "coverage" else job
    first = first if shared == "coverage" else replace(job, **{shared: both})

    def meanwhile(_: Any) -> None:
        other = {"objects": both} if shared == "objects" else {"classes": both}
        with pytest.raises(StoreLockedError, match=f"Another process is making '{both.name}'"):
            change_raster(replace(job, out=job.out.with_name("other.tif"), **other))
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        change_raster(first, meanwhile)
    assert not list(job.out.parent.glob(".*"))


def test_what_could_not_be_compared_is_told_apart(tmp_path: Path) -> None:
    one, two = np.s_[:20, :50], np.s_[10:30, :30]
    before = write_date(tmp_path / "before", seed=1, holes=[one])
    after = write_date(tmp_path / "after", seed=2, changed=True, holes=[two])
    clear, cloud = np.s_[:0, :0], np.s_[90:, 100:]
    before.append(write_mask(tmp_path / "before", clear))
    after.append(write_mask(tmp_path / "after", cloud))
    job = RasterChangeJob(
        tuple(before), tuple(after), tmp_path / "s.tif", threshold=THRESHOLD, mask="SCL"
    )
    made = change_raster(job)
    want = np.zeros((120, 140), np.uint8)
    want[cloud] = Coverage.MASKED
    want[one], want[two] = Coverage.NO_DATA_BEFORE, Coverage.NO_DATA_AFTER
    want[10:20, :30] = Coverage.NO_DATA
    assert (pixels(job.coverage) == want).all()
    assert (np.isnan(pixels(job.out)) == (want != Coverage.COMPARED)).all()
    assert made.totals.pixels == tuple(np.bincount(want.ravel()).tolist())
    with rasterio.open(job.coverage) as found:
        names = json.loads(found.tags()["CLASSES"])
    assert names == {kind.label: int(kind) for kind in Coverage}


def test_bands_pair_by_name_in_any_order(job: RasterChangeJob) -> None:
    change_raster(job)
    other = replace(
        job, out=job.out.with_name("o.tif"), after=(*job.after[2:], *reversed(job.after[:2]))
    )
    change_raster(other)
    np.testing.assert_array_equal(pixels(job.out), pixels(other.out))


def test_bands_of_other_names_pair_in_order_and_this_is_told(
    job: RasterChangeJob, tmp_path: Path
) -> None:
    after = write_date(tmp_path / "x", seed=2, changed=True, bands=("one", "two", "three", "four"))
    made = change_raster(replace(job, after=tuple(after)))
    assert any("taken in order: one as B02" in note for note in made.notes)
    assert auc(job.out) > 0.97


def test_the_second_date_follows_from_another_grid(job: RasterChangeJob, tmp_path: Path) -> None:
    """Another size, and edges of pixels elsewhere: values between pixels are interpolated."""
    after = write_date(tmp_path / "x", seed=2, changed=True, size=(150, 161), origin=(-53.0, -47.0))
    made = change_raster(replace(job, after=tuple(after)))
    assert made.fit.shift.length < 0.15
    assert auc(job.out) > 0.97


def test_the_second_date_follows_from_another_crs(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "x", seed=2, changed=True, crs="EPSG:4326", size=(126, 150))
    made = change_raster(replace(job, after=tuple(after)))
    assert made.fit.shift.length < 0.15
    assert made.totals.pixels[Coverage.COMPARED] > 0.95 * 120 * 140
    assert auc(job.out) > 0.97
    with rasterio.open(job.out) as found:
        assert found.crs.to_epsg() == 32631


def test_a_date_may_be_a_mosaic(job: RasterChangeJob, tmp_path: Path) -> None:
    change_raster(job)
    upper = write_date(tmp_path / "upper", seed=1, size=(70, 140))
    lower = write_date(tmp_path / "lower", seed=3, size=(55, 140), origin=(0.0, 650.0))
    mosaic = replace(job, before=(*upper, *lower), out=job.out.with_name("m.tif"))
    made = change_raster(mosaic)
    assert any("A mosaic of 2 scenes" in note for note in made.notes)
    with rasterio.open(job.out) as one, rasterio.open(mosaic.out) as two:
        assert (one.shape, one.transform) == (two.shape, two.transform)
    assert auc(mosaic.out) > 0.97


def test_a_coarser_date_is_brought_onto_the_finer_grid(
    job: RasterChangeJob, tmp_path: Path
) -> None:
    after = write_date(tmp_path / "x", seed=2, changed=True, size=(60, 70), pixel=20.0)
    made = change_raster(replace(job, after=tuple(after)))
    assert any("they were resampled to the 10" in note for note in made.notes)
    assert auc(job.out) > 0.95


def test_the_dates_can_be_compared_at_coarser_pixels(job: RasterChangeJob) -> None:
    change_raster(replace(job, gsd="20m"))
    with rasterio.open(job.out) as found:
        assert (found.res, found.shape) == ((20.0, 20.0), (60, 70))
    assert auc(job.out) > 0.9


def test_a_shift_is_undone_and_told(job: RasterChangeJob, tmp_path: Path) -> None:
    after = tuple(write_date(tmp_path / "x", seed=2, changed=True, shift=(1.5, -2.25)))
    moved = replace(job, after=after)
    made = change_raster(moved)
    assert (made.fit.shift.row, made.fit.shift.col) == pytest.approx((1.5, -2.25), abs=0.1)
    assert made.fit.applied
    assert any("1.5" in note and "this was undone" in note for note in made.notes)
    left = replace(moved, out=job.out.with_name("left.tif"), register=False)
    alone = change_raster(left)
    assert not alone.fit.applied
    outside = ~truth(job.out)
    # What was not moved differs at every edge of a pattern: its own noise hides the change.
    assert auc(job.out) > 0.97
    assert auc(job.out) >= auc(left.out)
    assert np.isfinite(pixels(left.out)[outside]).all()


def test_a_part_of_the_place_is_enough(job: RasterChangeJob) -> None:
    from embeddings.sources.raster import RasterScene
    from embeddings.types import Bounds

    with RasterScene.open(job.before) as scene:
        lon, lat = scene.xy(np.array([40.5, 119.5]), np.array([100.5, 20.5]))
    box = Bounds(float(lon[0]), float(lat[0]), float(lon[1]), float(lat[1]))
    change_raster(replace(job, bbox=box))
    with rasterio.open(job.out) as found:
        assert 78 <= found.shape[0] <= 84
        assert 78 <= found.shape[1] <= 84
    assert auc(job.out) > 0.97


def test_classes_and_probability_follow_the_score(job: RasterChangeJob) -> None:
    job = replace(job, classes=job.out.with_name("class.tif"), probability=True)
    assert job.classes is not None
    change_raster(job)
    score, codes = pixels(job.out), pixels(job.classes)
    assert (codes == np.where(score >= 2, 2, 1)).all()
    with rasterio.open(job.out) as found:
        assert found.descriptions == ("score", "probability")
        chance = found.read(2)
    assert 0 <= chance.min() < chance.max() <= 1
    inside = truth(job.out)
    assert chance[inside].mean() > 0.5 > chance[~inside].mean()


@pytest.mark.parametrize("asked", ["otsu", "fdr=0.05"])
def test_thresholds_part_change_from_no_change(job: RasterChangeJob, asked: str) -> None:
    made = change_raster(replace(job, threshold=asked))
    inside = truth(job.out)
    found = pixels(job.out) >= made.threshold
    assert found[inside].mean() > 0.5
    assert found[~inside].mean() < 0.15


def test_progress_ends_when_all_is_written(job: RasterChangeJob) -> None:
    told: list[tuple[int, int]] = []
    change_raster(job, lambda progress: told.append((progress.done, progress.total)))
    assert told[-1] == (120 * 140, 120 * 140)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert sum(done == 120 * 140 for done, _ in told) == 1


def test_a_style_that_the_user_saved_stays(job: RasterChangeJob) -> None:
    style = job.coverage.with_suffix(".qml")
    style.write_text("<qgis/>")
    change_raster(job)
    assert style.read_text() == "<qgis/>"


def test_a_real_pair_is_aligned_and_its_building_sites_stand_out(
    shared: Path, tmp_path: Path
) -> None:
    city = shared / "oscd" / "bercy"
    before, after = (
        tuple(str(path) for path in sorted((city / side).glob("*.tif")))
        for side in ("imgs_1", "imgs_2")
    )
    made = change_raster(RasterChangeJob(before, after, tmp_path / "s.tif", threshold=THRESHOLD))
    assert (made.fit.shift.row, made.fit.shift.col) == pytest.approx((0.18, 0.48), abs=0.1)
    assert made.fit.applied
    changed, score = pixels(city / "bercy-cm.tif") == 2, pixels(tmp_path / "s.tif")
    assert np.isfinite(score).all()
    assert roc_auc_score(changed.ravel(), score.ravel()) > 0.85


def test_the_detector_hears_what_is_known_of_the_bands(
    job: RasterChangeJob, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    fine = write_date(folder, seed=5, bands=("B02", "B04"))
    coarse = write_date(folder, seed=6, bands=("B11",), size=(60, 70), pixel=20.0)
    named = [*fine, *coarse, *write_date(folder, seed=7, bands=("strange",))]
    later = write_date(tmp_path / "y", seed=8, bands=("B02", "B04", "B11", "strange"))
    with ScenePair.open(replace(job, before=tuple(named), after=tuple(later))) as pair:
        facts = dict(zip(pair.bands, pair.facts(), strict=True))
    assert [facts[name].wavelength_um for name in ("B02", "B04", "B11")] == [0.49, 0.665, 1.61]
    assert np.isnan(facts["strange"].wavelength_um)
    sizes = [facts[name].resolution_m for name in ("B02", "B04", "B11", "strange")]
    assert sizes == pytest.approx([10, 10, 20, 10], rel=1e-3)
