"""Change objects: what touches is one, whatever strips it was found in; areas are of the ground."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
from affine import Affine
from scipy import ndimage

from embeddings.change.objects import ChangeObjects, Least, find_objects, write_objects
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_pair import ScenePair
from embeddings.change.raster_run import change_raster
from embeddings.change.raster_scores import ScoreRaster, count
from embeddings.change.styles import score_qml
from embeddings.sources.grids import TargetGrid
from tests.embeddings.change_scenes import LEFT, TOP, write_date

UTM = pyproj.CRS("EPSG:32631").to_wkt()
DEGREES = pyproj.CRS("EPSG:4326").to_wkt()


def raster(score: np.ndarray, grid: TargetGrid | None = None) -> ScoreRaster:
    height, width = score.shape
    grid = grid or TargetGrid(UTM, Affine(10, 0, 500_000, 0, -10, 5_200_000), width, height)
    coverage = np.zeros(score.shape, np.uint8)
    return ScoreRaster(score.astype(np.float32), coverage, grid)


def found_in(
    score: np.ndarray, least: Least | None = None, grid: TargetGrid | None = None
) -> ChangeObjects:
    labels = np.zeros(score.shape, np.int32)
    return find_objects(raster(score, grid), 2.0, least or Least(), labels)


def snake() -> np.ndarray:
    """A line that goes back and forth over the strips of 256 rows, touching at corners only."""
    score = np.zeros((700, 60))
    rows = np.arange(0, 700)
    score[rows, 30 + (rows % 2)] = 5
    score[255, :20], score[256, 20:25] = 3, 4  # meets at a corner across the edge of a strip
    score[511, 50:], score[512, 40:49] = 3, 3  # a gap of one column: two objects
    return score


def test_objects_are_those_of_the_whole_raster() -> None:
    score = snake()
    rng = np.random.default_rng(3)
    score = np.where(rng.uniform(size=score.shape) < 0.2, 4.0, score)
    want, many = ndimage.label(score >= 2, np.ones((3, 3)))
    found = found_in(score)
    assert len(found) == many
    sizes = np.sort(np.bincount(want.ravel())[1:])[::-1]
    assert (found.pixels == sizes).all()
    # Each label of the whole raster is one of ours and the other way round.
    pairs = np.unique(np.stack([want.ravel(), found.labels.ravel()]), axis=1)
    assert pairs.shape[1] == many + 1
    first = found.labels == 1
    assert found.max_score[0] == score[first].max()
    assert found.mean_score[0] == pytest.approx(score[first].mean())
    rows, cols = np.nonzero(first)
    assert found.box[0].tolist() == [rows.min(), cols.min(), rows.max() + 1, cols.max() + 1]


def test_corners_join_and_gaps_part_across_strips() -> None:
    found = found_in(snake())
    assert sorted(found.pixels.tolist()) == [9, 10, 25, 700]


def test_small_objects_are_left_out() -> None:
    for least in (Least(m2=20 * 100.0), Least(pixels=25)):
        found = found_in(snake(), least)
        assert found.pixels.tolist() == [700, 25]
        assert set(np.unique(found.labels)) == {0, 1, 2}


def test_no_object_is_no_error(tmp_path: Path) -> None:
    quiet = raster(np.full((20, 20), np.nan))
    found = find_objects(quiet, 2.0, Least(), np.zeros((20, 20), np.int32))
    assert len(found) == 0
    write_objects(tmp_path / "o.gpkg", found, quiet.grid, 2.0, (None, None), {})
    assert len(pyogrio.read_dataframe(tmp_path / "o.gpkg", layer="changes")) == 0


def test_areas_are_of_the_ground_not_of_the_map() -> None:
    """Far north a pixel of degrees is narrow; and in UTM a metre is 0.9996 of one."""
    geod = pyproj.Geod(ellps="WGS84")
    score = np.zeros((300, 50))
    score[10:20, 5:15] = score[280:290, 5:15] = 5
    grid = TargetGrid(DEGREES, Affine(0.01, 0, 10.0, 0, -0.01, 72.0), 50, 300)
    found = found_in(score, grid=grid)
    for top, area in zip((280, 10), found.area_m2, strict=True):  # the southern one is larger
        south, north = 72.0 - 0.01 * (top + 10), 72.0 - 0.01 * top
        ring = [(10.05, south), (10.15, south), (10.15, north), (10.05, north)]
        want, _ = geod.polygon_area_perimeter(*zip(*ring, strict=True))
        assert area == pytest.approx(abs(want), rel=1e-3)
    assert found.area_m2[0] > 1.05 * found.area_m2[1]
    utm = found_in(score)
    assert utm.area_m2[0] == pytest.approx(100 * 100 / 0.9996**2, rel=1e-4)
    totals = count(raster(score), 2.0, np.array([0.0, 5.0], np.float32))
    assert totals.changed_m2 == pytest.approx(utm.area_m2.sum())
    assert totals.changed_pixels == 200


def test_outlines_have_holes_and_lie_where_the_pixels_lie(tmp_path: Path) -> None:
    score = np.zeros((40, 40))
    score[10:20, 10:20] = 5
    score[14:16, 14:16] = 0
    score[20, 20] = 5  # touches at a corner
    found, place = found_in(score), raster(score)
    write_objects(tmp_path / "o.gpkg", found, place.grid, 2.0, ("2016-01-01", None), {"a": 1})
    rows = pyogrio.read_dataframe(tmp_path / "o.gpkg", layer="changes")
    assert len(rows) == 1
    row = rows.iloc[0]
    assert row.geometry.is_valid
    back = rows.to_crs(32631).geometry.iloc[0]
    assert back.area == pytest.approx(97 * 100, rel=1e-5)
    assert back.bounds == pytest.approx((500_100, 5_199_790, 500_210, 5_199_900), abs=0.01)
    assert (row.pixels, row.date_before, row.date_after) == (97, "2016-01-01", None)
    with closing(sqlite3.connect(tmp_path / "o.gpkg")) as database:
        name, qml = database.execute("SELECT f_table_name, styleQML FROM layer_styles").fetchone()
    assert name == "changes"
    style = ElementTree.fromstring(qml).find("renderer-v2")
    assert style is not None
    assert style.attrib["attr"] == '"mean_score"'


def test_an_object_across_the_antimeridian_is_cut(tmp_path: Path) -> None:
    score = np.zeros((20, 40))
    score[5:10, 15:25] = 5
    grid = TargetGrid(DEGREES, Affine(0.01, 0, 179.8, 0, -0.01, 10.0), 40, 20)
    found = found_in(score, grid=grid)
    write_objects(tmp_path / "o.gpkg", found, grid, 2.0, (None, None), {})
    shape = pyogrio.read_dataframe(tmp_path / "o.gpkg").geometry.iloc[0]
    assert shape.geom_type == "MultiPolygon"
    assert shape.bounds == pytest.approx((-180, 9.9, 180, 9.95))
    assert sum(part.area for part in shape.geoms) == pytest.approx(0.1 * 0.05)


def test_a_run_writes_its_objects_again_and_again_the_same(tmp_path: Path) -> None:
    before = tuple(write_date(tmp_path / "before", seed=1))
    after = tuple(write_date(tmp_path / "after", seed=2, changed=True))
    job = RasterChangeJob(
        before, after, tmp_path / "s.tif", threshold="4", objects=tmp_path / "o.gpkg",
        before_date="2016-05-01", after_date="2017-06-02", min_area_m2=1500.0,
    )  # fmt: skip
    assert job.objects is not None
    made = change_raster(job)
    rows = pyogrio.read_dataframe(job.objects)
    assert made.objects is not None
    assert made.objects["count"] == len(rows) > 0
    assert (rows.area_m2 >= 1500).all()
    assert rows.date_before.str.startswith("2016-05-01").all()
    assert rows.date_after.str.startswith("2017-06-02").all()
    with rasterio.open(job.out) as found:
        score = found.read(1)
    best = rows.iloc[0]
    assert best.max_score <= score.max() + 1e-4
    assert best.max_score >= best.mean_score >= 4
    # The block that changed is 20 x 30 pixels of 10 m; what is seen of it is smoothed.
    assert 60_000 < best.area_m2 < 2.5 * 60_000
    middle = rows.to_crs(32631).geometry.iloc[0].centroid
    assert (middle.x - LEFT, TOP - middle.y) == pytest.approx((650, 500), abs=30)
    said = json.loads(pyogrio.read_info(job.objects, layer="changes")["layer_metadata"]["terrakin"])
    assert said["threshold"]["score"] == 4.0
    content = job.objects.read_bytes()
    change_raster(replace(job, min_area_m2=1500.0))
    assert job.objects.read_bytes() == content


def test_objects_have_one_type_of_geometry(tmp_path: Path) -> None:
    """Tools that load a layer into a database refuse one of several."""
    score = np.zeros((20, 40))
    score[5:10, 15:25] = score[15:18, 2:5] = 5
    grid = TargetGrid(DEGREES, Affine(0.01, 0, 179.8, 0, -0.01, 10.0), 40, 20)
    write_objects(tmp_path / "o.gpkg", found_in(score, grid=grid), grid, 2.0, (None, None), {})
    assert pyogrio.read_info(tmp_path / "o.gpkg", layer="changes")["geometry_type"] == (
        "MultiPolygon"
    )
    shapes = pyogrio.read_dataframe(tmp_path / "o.gpkg").geometry
    assert shapes.geom_type.tolist() == ["MultiPolygon"] * 2
    assert [len(shape.geoms) for shape in shapes] == [2, 1]


@pytest.mark.parametrize(
    ("names", "stated", "dates"),
    [
        (("x_20160511", "x_20170602"), None, ("2016-05-11", "2017-06-02")),
        (("2016", "2017"), None, ("2016", "2017")),
        (("2016", "2017"), "2017-06-02", ("2016", "2017-06-02")),
        (("2016", "x"), "2016-06-02", ("2016", "2016-06-02")),
        (("one", "two"), None, (None, None)),
        # What names both dates alike is no date of theirs.
        (("a_20200101", "b_20200101"), None, (None, None)),
    ],
)
def test_objects_have_the_dates_that_names_tell(
    tmp_path: Path, names: tuple[str, str], stated: str | None, dates: tuple[str | None, ...]
) -> None:
    sides = [write_date(tmp_path / name, seed=n, changed=n > 0) for n, name in enumerate(names)]
    job = RasterChangeJob(
        *map(tuple, sides), tmp_path / "s.tif", threshold="4", objects=tmp_path / "o.gpkg",
        after_date=stated,
    )  # fmt: skip
    assert job.objects is not None
    made = change_raster(job)
    rows = pyogrio.read_dataframe(job.objects)
    for column, day in zip(("date_before", "date_after"), dates, strict=True):
        want = [day] * len(rows)
        assert [value and value[:10] for value in rows[column]] == want
        assert want
    for side, day in zip(("before", "after"), dates, strict=True):
        told = made.pair[side]["datetime"] or made.pair[side]["named_date"]
        assert (told and told[:10]) == day


def test_a_day_in_the_year_that_the_other_name_tells_is_not_out_of_order(tmp_path: Path) -> None:
    before, after = (tuple(write_date(tmp_path / n, seed=len(n))) for n in ("20160511", "2016"))
    job = RasterChangeJob(before, after, tmp_path / "s.tif")
    with ScenePair.open(job) as pair:
        assert pair.dates == ("2016-05-11T00:00:00+00:00", "2016")


def test_every_object_has_a_colour_the_strongest_too(tmp_path: Path) -> None:
    """QGIS draws nothing for a value that is in no range."""
    score = np.zeros((60, 200))
    for number in range(30):
        score[5:10, 5 + 6 * number : 8 + 6 * number] = 3 + number % 3
    score[30:40, 30:40] = 50
    found = found_in(score)
    write_objects(tmp_path / "o.gpkg", found, raster(score).grid, 2.0, (None, None), {})
    with closing(sqlite3.connect(tmp_path / "o.gpkg")) as database:
        (qml,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
    ranges = ElementTree.fromstring(qml).findall("renderer-v2/ranges/range")
    assert found.mean_score.max() == 50
    for value in found.mean_score.tolist():
        assert any(float(r.attrib["lower"]) <= value <= float(r.attrib["upper"]) for r in ranges)


def test_scores_turn_red_at_the_threshold_and_let_the_map_through_below() -> None:
    items = ElementTree.fromstring(score_qml(2.0)).findall(".//item")
    stops = [(float(i.attrib["value"]), int(i.attrib["alpha"])) for i in items]
    assert [value for value, _ in stops] == pytest.approx([0, 1.998, 2, 4])
    assert stops[0][1] < 128 < stops[1][1] < stops[2][1] == 255
    assert items[2].attrib["label"] == "2.00: change begins"
    for threshold in (float("inf"), -1.0, 0.0):
        items = ElementTree.fromstring(score_qml(threshold)).findall(".//item")
        values = [float(item.attrib["value"]) for item in items]
        assert values == sorted(set(values))
        assert np.isfinite(values).all()
        assert threshold < 100 or all("change begins" not in i.attrib["label"] for i in items)
