"""Kinds of change of two dates of imagery, learned from a few clicks."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from embeddings.analysis.probes import fit
from embeddings.analysis.samples import Samples
from embeddings.change import raster_kinds, raster_run
from embeddings.change.label_reach import LabelReach
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_kinds import Kinds
from embeddings.change.raster_report import change_report, kind_rows
from embeddings.change.raster_run import change_raster
from embeddings.errors import CancelledError, InputError
from tests.embeddings.change_scenes import BANDS, truth, write_date
from tests.embeddings.test_change_clicks import points, spread

FELLED = np.s_[80:100, 20:50]
"""Rows and columns of the other kind of change: the near infrared falls."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dates, between which one block was built up and another felled."""
    folder = tmp_path_factory.mktemp("place")
    write_date(folder / "before", seed=1)
    write_date(folder / "after", seed=2, changed=True)
    with rasterio.open(folder / "after" / "B08.tif", "r+") as file:
        values = file.read(1).astype(int)
        values[FELLED] -= 1500
        file.write(values.clip(1).astype("uint16"), 1)
    return folder


def masks(place: Path) -> tuple[np.ndarray, np.ndarray]:
    built = truth(place / "before" / "B02.tif")
    felled = np.zeros_like(built)
    felled[FELLED] = True
    return built, felled


@pytest.fixture
def clicks(place: Path, tmp_path: Path) -> Path:
    built, felled = masks(place)
    rest = ~(built | felled)
    places = [*spread(built, "built", 12), *spread(felled, "felled", 12)]
    return points(tmp_path, [*places, *spread(rest, "no change", 12)])


@pytest.fixture
def job(place: Path, tmp_path: Path, clicks: Path) -> RasterChangeJob:
    before, after = (tuple(str(place / s / f"{b}.tif") for b in BANDS) for s in ("before", "after"))
    out = tmp_path / "score.tif"
    return RasterChangeJob(
        before,
        after,
        out,
        classes=tmp_path / "kinds.tif",
        objects=tmp_path / "changes.gpkg",
        clicks=clicks,
        field="what",
    )


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 48 pixels, so that a small pair has several."""
    monkeypatch.setattr(raster_run, "SIDES", (48,))


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as found:
        return np.asarray(found.read(1))


def test_each_change_has_its_kind_in_map_objects_and_report(
    job: RasterChangeJob, place: Path
) -> None:
    made = change_raster(job)
    assert job.classes is not None
    codes, score = pixels(job.classes), pixels(job.out)
    with rasterio.open(job.classes) as file:
        legend = json.loads(file.tags()["CLASSES"])
    assert legend == {"no change": 1, "built": 2, "felled": 3, "unknown": 255}
    over = score >= made.threshold
    assert (codes[~over] == 1).all()
    for mask, code in zip(masks(place), (2, 3), strict=True):
        named = codes[mask & over]
        assert len(named) > 150
        assert (named == code).mean() > 0.8
        assert (named == 5 - code).mean() < 0.05
    with closing(sqlite3.connect(job.objects or "")) as database:
        found = database.execute(
            "SELECT kind, kind_share, pixels FROM changes ORDER BY object LIMIT 2"
        ).fetchall()
    assert {kind for kind, _, _ in found} == {"built", "felled"}
    touching, _ = ndimage.label(codes > 1, np.ones((3, 3)))
    for kind, share, many in found:
        inside = np.bincount(touching[codes == legend[kind]], minlength=touching.max() + 1)
        whole = np.bincount(touching[codes > 1])
        assert round(share * many) in inside[whole == many]
    report = change_report(made)
    table = {row[0]: row[1:] for row in kind_rows(report["kinds"])}
    assert table["built"][0] == table["felled"][0] == "12"
    assert table["built"][1] == f"{(codes == 2).sum():,}"
    assert report["kinds"]["left_out"]["right_of_named"] > 0.8
    assert report["changed"]["pixels"] == (codes > 1).sum()


def test_what_is_like_no_label_is_unknown(job: RasterChangeJob, place: Path) -> None:
    """Without a label of it, what was felled is neither of two kinds of building."""
    built, felled = masks(place)
    places = spread(built, "built", 30)
    half = [(row, col, "roofed" if row < 50 else "built") for row, col, _ in places]
    made = change_raster(
        replace(job, clicks=points(job.out.parent, half), threshold="2", objects=None)
    )
    assert job.classes is not None
    codes = pixels(job.classes)
    over = pixels(job.out) >= made.threshold
    assert made.decided.asked == "2"
    assert (codes[felled & over] == 255).mean() > 0.8
    assert (codes[built & over] == 255).mean() < 0.5


def test_what_clicks_call_no_change_is_no_change(job: RasterChangeJob, place: Path) -> None:
    """Beyond the threshold too: what is felled every year, to this user, is none."""
    built, felled = masks(place)
    places = [*spread(built, "built", 12), *spread(felled, "none", 12)]
    asked = replace(job, clicks=points(job.out.parent, places), threshold="2")
    made = change_raster(asked)
    assert job.classes is not None
    codes = pixels(job.classes)
    over = pixels(job.out) >= 2
    assert (codes[felled & over] == 1).mean() > 0.7
    assert (codes[built & over] == 2).mean() > 0.7
    assert made.totals.changed_pixels == (codes > 1).sum() < over.sum()
    with closing(sqlite3.connect(job.objects or "")) as database:
        kinds = {row[0] for row in database.execute("SELECT kind FROM changes")}
    assert kinds <= {"built", "unknown"}


def test_one_kind_that_lies_on_data_is_refused(job: RasterChangeJob, tmp_path: Path) -> None:
    after = write_date(tmp_path / "holes", seed=3, changed=True, holes=[np.s_[100:, :]])
    places = [(50, 60, "built"), (55, 70, "built"), (110, 60, "felled")]
    asked = replace(job, after=tuple(after), clicks=points(tmp_path, places))
    with pytest.raises(InputError, match=r"No label of 'felled' lies on .* Label such places"):
        change_raster(asked)


def test_a_kind_without_data_is_told(job: RasterChangeJob, place: Path, tmp_path: Path) -> None:
    after = write_date(tmp_path / "holes", seed=3, changed=True, holes=[np.s_[100:, :]])
    built, felled = masks(place)
    places = [*spread(built, "built", 12), *spread(felled, "felled", 12), (110, 60, "dug")]
    asked = replace(job, after=tuple(after), clicks=points(tmp_path, places), threshold="2")
    made = change_raster(asked)
    assert any("No label of 'dug' lies on a pixel with data" in note for note in made.notes)
    assert made.kinds is not None
    assert [each["kind"] for each in made.kinds["found"]] == ["built", "felled", "unknown"]


def test_kinds_are_marked_by_all_they_depend_on() -> None:
    """What is staged is taken up by the same kinds alone."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 3)).astype(np.float32)
    code = np.arange(40) % 2
    where = rng.uniform(0, 1, (2, 40))
    samples = Samples("classes", vectors, code, ("a", "b"), *where, np.arange(40))
    splits = [(np.arange(20), np.arange(20, 40)), (np.arange(20, 40), np.arange(20))]
    probe = replace(fit(samples), thresholds=np.full(2, 0.5))
    reach, near = LabelReach.fit(vectors, splits)
    assert near.mean() == pytest.approx(0.95, abs=0.03)
    ends = np.stack([np.zeros((2, 3)), np.ones((2, 3))]).astype(np.float32)
    model = SimpleNamespace(ends=ends)
    first = Kinds(model, probe, reach, {}, ())
    marks = {
        first.mark,
        replace(first, reach=replace(reach, far=reach.far * 1.01)).mark,
        replace(first, reach=replace(reach, centres=reach.centres + 1)).mark,
        replace(first, probe=replace(probe, scale=probe.scale * 2)).mark,
        replace(first, probe=replace(probe, thresholds=np.full(2, 0.6))).mark,
        replace(first, probe=replace(probe, classes=("a", "c"))).mark,
    }
    assert len(marks) == 6
    assert replace(first, told={"x": 1}).mark == first.mark


def same(ours: RasterChangeJob, theirs: RasterChangeJob) -> None:
    for one, two in zip(ours.outputs, theirs.outputs, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def elsewhere(job: RasterChangeJob) -> RasterChangeJob:
    """Return the same job into another folder."""
    folder = job.out.parent / "other"
    folder.mkdir()
    names = {name: folder / getattr(job, name).name for name in ("out", "classes", "objects")}
    return replace(job, **names)


@pytest.mark.usefixtures("small_windows")
def test_a_run_stopped_while_kinds_are_named_goes_on(
    job: RasterChangeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = elsewhere(job)
    change_raster(other)
    naming = False

    def tell(progress: Any) -> None:
        nonlocal naming
        naming |= "window 6 of 9" in progress.message

    with pytest.raises(CancelledError, match="run the same command again"):
        change_raster(job, tell, lambda: naming)
    staged = list(job.out.parent.glob(".score.tif.staging/*.npy"))
    assert staged
    read = []
    of = raster_kinds.Kinds.of
    monkeypatch.setattr(
        raster_kinds.Kinds, "of", lambda self, *given: read.append(1) or of(self, *given)
    )
    change_raster(job)
    same(job, other)
    resumed = len(read)
    read.clear()
    change_raster(replace(other, out=other.out.with_name("third.tif")))
    assert resumed == len(read) - len(staged)


@pytest.mark.usefixtures("small_windows")
def test_other_clicks_name_kinds_anew(job: RasterChangeJob, place: Path) -> None:
    named: list[str] = []

    def tell(progress: Any) -> None:
        named.extend([progress.message] if "window 9" in progress.message else [])

    with pytest.raises(CancelledError):
        change_raster(job, tell, lambda: bool(named))
    built, felled = masks(place)
    swapped = [*spread(built, "felled", 12), *spread(felled, "built", 12)]
    points(job.out.parent, [*swapped, *spread(~(built | felled), "no change", 12)])
    made = change_raster(job)
    assert made.resumed == 9
    assert job.classes is not None
    codes, over = pixels(job.classes), pixels(job.out) >= made.threshold
    assert (codes[built & over] == 3).mean() > 0.8


KILLED = """
import os, signal, sys, json
from pathlib import Path
from embeddings.change import raster_run
from embeddings.change.raster_job import RasterChangeJob
raster_run.SIDES = (48,)
before, after, out, classes, objects, clicks = json.loads(sys.argv[1])
def tell(progress):
    if "window 7 of 9" in progress.message:
        os.kill(os.getpid(), signal.SIGKILL)
job = RasterChangeJob(tuple(before), tuple(after), Path(out), classes=Path(classes),
                      objects=Path(objects), clicks=Path(clicks), field="what")
raster_run.change_raster(job, tell)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
@pytest.mark.usefixtures("small_windows")
def test_a_run_killed_while_kinds_are_named_ends_in_the_same_bytes(job: RasterChangeJob) -> None:
    other = elsewhere(job)
    change_raster(other)
    files = map(str, (job.out, job.classes, job.objects, job.clicks))
    asked = json.dumps([job.before, job.after, *files])
    done = subprocess.run([sys.executable, "-c", KILLED, asked], check=False)
    assert done.returncode == -9
    assert list(job.out.parent.glob(".score.tif.staging/*.npy"))
    assert change_raster(job).resumed == 9
    same(job, other)
