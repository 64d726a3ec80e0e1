"""From a table of images to a collection that can be searched, resumed and added to."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from PIL import Image

from embeddings import encoders
from embeddings.chip_job import ChipsJob, TablePlan, rectangles
from embeddings.chip_run import embed_chips
from embeddings.encoders import BandWant, EncoderChoice, Wants
from embeddings.errors import (
    BandError,
    CancelledError,
    CollectionExistsError,
    InputError,
    NoDataError,
    OutsideCoverageError,
    SpecMismatchError,
)
from embeddings.export import result_geojson
from embeddings.grid import MajorTomGrid
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.report import Progress
from embeddings.search import Searcher, SearchQuery
from embeddings.store import Collection, Store
from embeddings.store.coverage import read_coverage
from embeddings.store.reader import Reader
from embeddings.types import LonLat

CHIPS = 96
CLASSES = ("field", "forest", "town")

Table = Callable[..., Path]


def chip(path: Path, kind: int, seed: int, size: int = 16) -> Path:
    """Draw one of three textures: smooth, grained, striped."""
    rng = np.random.default_rng(seed)
    level = np.array([[150, 160, 90], [60, 90, 60], [120, 110, 115]])[kind] + rng.normal(0, 4, 3)
    noise = rng.normal(0, (2, 14, 4)[kind], (size, size, 3))
    stripes = 40 * ((np.arange(size) // 2) % 2)[:, None, None] if kind == 2 else 0
    pixels = np.clip(level + noise + stripes, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def make_table() -> Table:
    """Draw images of three classes, a degree apart, and list them in ``folder/table.csv``."""

    def make(folder: Path, count: int = CHIPS, seed: int = 0, name: str = "table") -> Path:
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "lon", "lat", "datetime", "class", "number", "rank"])
            for i in range(count):
                kind = i % 3
                path = chip(folder / f"{name}-images" / f"{name}{i}.png", kind, seed + i)
                relative = path.relative_to(folder).as_posix()
                time = "2018-10-13" if i % 2 else ""
                lon, lat = -20 + i % 12, 40 + i // 12
                writer.writerow([relative, lon, lat, time, CLASSES[kind], i, i / 2])
        return folder / f"{name}.csv"

    return make


def embed(table: Path, store: Path, **more: Any) -> Collection:
    embed_chips(ChipsJob(store, "chips", table, **{"chip_size": "160m", **more}))
    return Store.open(store).collection("chips")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_table: Table) -> Collection:
    folder = tmp_path_factory.mktemp("chips")
    return embed(make_table(folder), folder / "store")


def hashes(collection: Collection) -> dict[str, str]:
    return {part.file: part.sha256 for part in collection.parts}


def test_every_column_is_in_the_collection(made: Collection) -> None:
    assert made.spec.attributes == (
        ("path", "string"),
        ("class", "string"),
        ("number", "int64"),
        ("rank_", "float64"),
    )
    assert made.spec.bands == ("red", "green", "blue")
    assert made.spec.layout is not None
    assert (made.spec.layout.chip_asked, made.spec.layout.chip_px) == ("160m", (16, 16))
    assert made.spec.gsd_m == 10
    (scene,) = made.scenes
    assert (scene.id, scene.files, scene.planned) == ("table", ("table.csv",), CHIPS)
    assert (scene.complete, scene.absent, scene.missing) == (True, 0, 0)
    assert scene.bbox == pytest.approx((-20, 40, -9, 47), abs=2e-3)
    assert "'rank' is kept as 'rank_'" in scene.notes[0]
    rows = {row["id"]: row for row in Reader(made).items(limit=1000).to_pylist()}
    assert len(rows) == CHIPS
    row = rows["table17"]
    assert (row["lon"], row["lat"]) == (-15, 41)
    assert (row["class"], row["number"], row["rank_"]) == ("town", 17, 8.5)
    assert row["path"] == "table-images/table17.png"
    assert row["datetime"] == datetime(2018, 10, 13, tzinfo=UTC)
    assert rows["table16"]["datetime"] is None
    grid = MajorTomGrid(10)
    assert row["grid_cell"] == grid.names(*grid.cells(np.array([-15.0]), np.array([41.0])))[0]


def test_neighbours_in_the_file_are_neighbours_on_the_ground(made: Collection) -> None:
    table = Reader(made).items(limit=1000)
    steps = np.hypot(np.diff(table["lon"].to_numpy()), np.diff(table["lat"].to_numpy()))
    # In the order of the table, every twelfth step would be one of eleven degrees.
    assert np.median(steps) == 1
    assert steps.max() < 8


def test_footprints_are_squares_of_the_asked_size(made: Collection) -> None:
    frame = geopandas.read_parquet(made.path / made.parts[0].file)
    geod = pyproj.Geod(ellps="WGS84")
    for shape, lon, lat in zip(frame.geometry[:20], frame["lon"], frame["lat"], strict=False):
        area, around = geod.geometry_area_perimeter(shape)
        assert area == pytest.approx(160**2, rel=1e-3)
        assert around == pytest.approx(640, rel=1e-3)
        assert shape.centroid.distance(shapely.Point(lon, lat)) < 1e-6


@pytest.mark.parametrize(
    ("lon", "lat", "kind"),
    [(179.9999, 10, "MultiPolygon"), (20, -89.9999, "Polygon"), (0, 90, "Polygon")],
)
def test_footprints_at_the_ends_of_the_earth(lon: float, lat: float, kind: str) -> None:
    shapes, boxes = rectangles(np.array([lon]), np.array([lat]), 200, 100)
    assert shapes[0].geom_type == kind
    assert shapes[0].is_valid
    west, _, east, _ = boxes[0]
    assert (west > east) == (kind == "MultiPolygon")


def test_a_rectangle_is_as_wide_and_high_as_asked() -> None:
    shapes, _ = rectangles(np.array([10.0]), np.array([50.0]), 400, 100)
    west, south, east, north = shapes[0].bounds
    geod = pyproj.Geod(ellps="WGS84")
    assert geod.inv(west, 50, east, 50)[2] == pytest.approx(400, rel=1e-4)
    assert geod.inv(10, south, 10, north)[2] == pytest.approx(100, rel=1e-4)


def test_search_finds_chips_of_the_same_class(made: Collection) -> None:
    searcher = Searcher(Store(made.path.parent))
    for row in Reader(made).items(limit=1000).to_pylist()[::9]:
        found = searcher.search("chips", SearchQuery(LonLat(row["lon"], row["lat"]), k=10))
        assert found.query_item["id"].to_pylist() == [row["id"]]
        assert found.matches["class"].to_pylist() == [row["class"]] * 10
    answer = result_geojson(found)
    properties = answer["features"][0]["properties"]
    assert list(properties)[:2] == ["rank", "similarity"]
    assert properties["rank"] == 1
    assert {"class", "number", "rank_", "path"} <= set(properties)
    json.dumps(answer, allow_nan=False)


def test_a_place_without_a_chip_is_outside(made: Collection) -> None:
    with pytest.raises(OutsideCoverageError, match="nearest chip is 'table0'"):
        Searcher(Store(made.path.parent)).search("chips", SearchQuery(LonLat(-19.99, 40)))


def test_the_nearest_of_overlapping_chips_is_the_query(tmp_path: Path, make_table: Table) -> None:
    collection = embed(make_table(tmp_path), tmp_path / "store", chip_size="300km")
    found = Searcher(Store(tmp_path / "store")).search("chips", SearchQuery(LonLat(-14.4, 43.2)))
    (row,) = found.query_item.to_pylist()
    assert (row["lon"], row["lat"]) == (-14, 43)
    assert collection.count == CHIPS


def test_running_it_again_does_nothing(tmp_path: Path, make_table: Table) -> None:
    table = make_table(tmp_path)
    before = embed(table, tmp_path / "store")
    report = embed_chips(ChipsJob(tmp_path / "store", "chips", table, chip_size="160m"))
    assert (report.embedded, report.resumed, report.failures) == (CHIPS, CHIPS, ())
    assert Store.open(tmp_path / "store").collection("chips") == before


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, make_table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TablePlan, "batches", [range(i, i + 8) for i in range(0, CHIPS, 8)])
    table = make_table(tmp_path)
    told: list[int] = []
    job = ChipsJob(tmp_path / "store", "chips", table, chip_size="160m")
    with pytest.raises(CancelledError, match="goes on from there"):
        embed_chips(job, lambda progress: told.append(progress.done), lambda: told[-1:] == [40])
    assert max(told) == 40
    report = embed_chips(job)
    assert (report.embedded, report.resumed) == (CHIPS, 40)
    resumed = Store.open(tmp_path / "store").collection("chips")
    assert hashes(resumed) == hashes(embed(table, tmp_path / "whole"))


def test_another_table_of_that_name_is_refused(tmp_path: Path, make_table: Table) -> None:
    table = make_table(tmp_path)
    before = hashes(embed(table, tmp_path / "store"))
    chip(tmp_path / "table-images" / "table5.png", 0, 77)
    with pytest.raises(CollectionExistsError, match="images are not those"):
        embed(table, tmp_path / "store")
    make_table(tmp_path)
    with pytest.raises(CollectionExistsError, match="the table or the settings"):
        embed(table, tmp_path / "store", nodata=3)
    table.write_text(table.read_text().replace("field", "meadow"))
    with pytest.raises(CollectionExistsError, match="the table or the settings"):
        embed(table, tmp_path / "store")
    assert hashes(Store.open(tmp_path / "store").collection("chips")) == before
    anew = embed(table, tmp_path / "store", replace=True)
    assert "meadow" in Reader(anew).items(limit=1000)["class"].to_pylist()


def test_a_second_table_joins_if_it_has_the_same_attributes(
    tmp_path: Path, make_table: Table
) -> None:
    embed(make_table(tmp_path), tmp_path / "store")
    more = make_table(tmp_path, count=5, seed=900, name="more")
    collection = embed(more, tmp_path / "store")
    assert [scene.id for scene in collection.scenes] == ["table", "more"]
    assert collection.count == CHIPS + 5
    unsaid = make_table(tmp_path, count=4, seed=950, name="unsaid")
    collection = embed(unsaid, tmp_path / "store", chip_size=None)
    shapes = shapely.from_wkb(Reader(collection).items(limit=1000)["geometry"].to_pylist())
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapes[-1])
    assert area == pytest.approx(160**2, rel=1e-3)
    again = more.with_name("again.csv")
    again.write_text(more.read_text())
    with pytest.raises(CollectionExistsError, match="5 chips of the same ids: more0, more1"):
        embed(again, tmp_path / "store")
    other = more.with_name("other.csv")
    other.write_text(more.read_text().replace("class", "kind"))
    with pytest.raises(SpecMismatchError) as error:
        embed(other, tmp_path / "store")
    assert "attribute 'class' (collection: string, asked: none)" in str(error.value)
    assert "attribute 'kind' (collection: none, asked: string)" in str(error.value)
    with pytest.raises(SpecMismatchError, match="chip "):
        embed(again, tmp_path / "store", chip_size="200m")


def test_images_of_another_size_are_another_collection(tmp_path: Path, make_table: Table) -> None:
    embed(make_table(tmp_path), tmp_path / "store")
    chip(tmp_path / "large.png", 0, 1, size=32)
    table = tmp_path / "large.csv"
    table.write_text("path,lon,lat,class,number,rank\nlarge.png,0,0,field,1,2.5\n")
    with pytest.raises(SpecMismatchError, match="collection: 16 x 16 pixels, asked: 32 x 32"):
        embed(table, tmp_path / "store", chip_size="160m")


def test_a_scene_of_rasters_does_not_go_in(
    tmp_path: Path, made: Collection, land: Any, write_raster: Any
) -> None:
    file = write_raster(tmp_path / "a.tif", land(dtype="uint8"))
    names = ("red", "green", "blue")
    job = RasterJob(made.path.parent, "chips", (str(file),), bands=names)
    with pytest.raises(SpecMismatchError, match="attribute 'class'"):
        embed_raster(job)


def test_images_that_turn_out_unreadable_are_left_out_and_named(
    tmp_path: Path, make_table: Table
) -> None:
    table = make_table(tmp_path)
    for number in (7, 50):
        broken = tmp_path / "table-images" / f"table{number}.png"
        broken.write_bytes(broken.read_bytes()[:200])
    job = ChipsJob(tmp_path / "store", "chips", table, chip_size="160m")
    for resumed in (0, CHIPS - 2):
        report = embed_chips(job)
        assert (report.embedded, report.missing, report.absent) == (CHIPS - 2, 2, 0)
        assert report.resumed == resumed
        (text,) = report.failures
        assert text.startswith(f"2 of {CHIPS} images could not be read: row 8: ")
        assert "table7.png' is no image that can be read" in text
        assert "row 51: " in text
    make_table(tmp_path)
    report = embed_chips(job)
    assert (report.embedded, report.missing, report.failures) == (CHIPS, 0, ())


def test_an_image_that_changes_meanwhile_is_left_out_until_the_next_run(
    tmp_path: Path, make_table: Table
) -> None:
    job = ChipsJob(tmp_path / "store", "chips", make_table(tmp_path), chip_size="160m")

    def change(progress: Progress) -> None:
        if progress.message.startswith("fitting"):  # all images have been hashed by now
            chip(tmp_path / "table-images" / "table90.png", 1, seed=1000)

    first = embed_chips(job, change)
    assert (first.embedded, first.missing) == (CHIPS - 1, 1)
    assert "row 91: " in first.failures[0]
    assert "was changed while this ran" in first.failures[0]
    again = embed_chips(job)
    assert (again.embedded, again.missing, again.failures) == (CHIPS, 0, ())


def test_images_without_data_are_absent_and_known_to_be(tmp_path: Path, make_table: Table) -> None:
    table = make_table(tmp_path)
    images = tmp_path / "table-images"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(images / "table4.png")
    half = np.array(Image.open(images / "table5.png"))
    half[:8] = 0
    Image.fromarray(half).save(images / "table5.png")
    collection = embed(table, tmp_path / "store", nodata=0)
    (scene,) = collection.scenes
    assert (scene.embedded, scene.absent, scene.missing) == (CHIPS - 1, 1, 0)
    (absent,) = read_coverage(collection).to_pylist()
    assert (absent["id"], absent["lon"], absent["valid"]) == ("table4", -16, 0)
    strict = embed(table, tmp_path / "strict", nodata="0", min_valid=1)
    assert strict.scenes[0].absent == 2


def test_nothing_is_written_where_a_row_cannot_be_used(tmp_path: Path, make_table: Table) -> None:
    table = make_table(tmp_path)
    (tmp_path / "table-images" / "table3.png").unlink()
    with pytest.raises(InputError, match="1 of 96 rows"):
        embed(table, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_no_image_has_data(tmp_path: Path, make_table: Table) -> None:
    table = make_table(tmp_path, count=3)
    for i in range(3):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(
            tmp_path / "table-images" / f"table{i}.png"
        )
    with pytest.raises(NoDataError, match="nodata"):
        embed(table, tmp_path / "store", nodata=0)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chip_size": "64"}, "no length on the ground"),
        ({"chip_size": "0m"}, "no length on the ground"),
        ({"nodata": "black"}, "not a number"),
        ({"min_valid": 0}, "above 0"),
        ({"dtype": "float8"}, "no storage type"),
        ({"encoder": "magic"}, "no encoder 'magic'"),
        ({"collection": "Bad Name"}, "cannot name a collection"),
        ({"scene": "a/b"}, "cannot name a scene"),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: Path, make_table: Table, options: dict[str, Any], said: str
) -> None:
    job = {"store": tmp_path / "s", "collection": "c", "table": make_table(tmp_path, 3), **options}
    with pytest.raises(InputError, match=said):
        embed_chips(ChipsJob(**job))
    assert not (tmp_path / "s").exists()


def test_without_a_size_footprints_are_those_of_the_images_or_100_m(
    tmp_path: Path, make_table: Table, write_raster: Any, land: Any
) -> None:
    plain = embed(make_table(tmp_path), tmp_path / "plain", chip_size=None)
    assert "squares of 100 m" in plain.scenes[0].notes[-1]
    assert plain.spec.gsd_m == 6.25
    sized = embed(make_table(tmp_path), tmp_path / "sized")
    joined = embed(make_table(tmp_path, 4, name="other"), sized.path.parent, chip_size=None)
    assert len(joined.scenes[1].notes) == 1, joined.scenes[1].notes  # "rank" alone
    lines = ["path,lon,lat"]
    for i in range(20):
        write_raster(tmp_path / f"{i}.tif", land(8, 16, seed=i), res=20)
        lines.append(f"{i}.tif,{i},50")
    (tmp_path / "tifs.csv").write_text("\n".join(lines))
    collection = embed(tmp_path / "tifs.csv", tmp_path / "tifs", chip_size=None)
    assert collection.scenes[0].notes == ()
    assert collection.spec.gsd_m == 20
    shape = shapely.from_wkb(Reader(collection).item("3")["geometry"][0].as_py())
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape)
    assert area == pytest.approx(8 * 20 * 16 * 20, rel=1e-3)


def test_bands_are_chosen_named_and_paired(tmp_path: Path, make_table: Table) -> None:
    table = make_table(tmp_path)
    two = embed(table, tmp_path / "two", bands=("blue", "red"))
    assert two.spec.bands == ("blue", "red")
    more = make_table(tmp_path, count=4, seed=900, name="more")
    assert embed(more, tmp_path / "two", bands=("red", "blue")).count == CHIPS + 4
    with pytest.raises(BandError, match="made from the bands blue, red"):
        embed(make_table(tmp_path, 4, 990, "third"), tmp_path / "two", bands=("red", "green"))


class MeanColour:
    """An encoder trained elsewhere, on B04 and B03; a chip's vector is the mean of each."""

    name, version, dim, sha256 = "mean", "1", 2, "0" * 64
    wants = Wants(
        bands=(BandWant("B04", "red", 0.665), BandWant("B03", "green", 0.56)),
        gsd_m=10,
        values="reflectance-10000",
        steps=("as it is",),
    )

    def fit(self, chips: Any, *, seed: int = 0) -> MeanColour:
        del chips, seed
        return self

    def encode(self, pixels: Any) -> Any:
        return pixels.mean(axis=(2, 3))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)


def test_a_trained_encoder_gets_its_bands_as_they_are(
    tmp_path: Path, make_table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EncoderChoice] = []
    monkeypatch.setattr(encoders, "draft", lambda choice: asked.append(choice) or MeanColour())
    monkeypatch.setattr(encoders, "load", lambda *_: MeanColour())
    table = make_table(tmp_path)
    more = {"encoder": "mean", "dtype": "float32", "weights_sha256": "abc"}
    collection = embed(table, tmp_path / "store", **more)
    assert asked == [EncoderChoice("mean", None, "abc")]
    assert collection.spec.bands == ("B04", "B03")
    pre = collection.spec.preprocessing
    assert pre is not None
    assert (pre.mean, pre.std, pre.steps) == ((), (), ("as it is",))
    # Colours all lie in one quadrant, so search takes their mean off.
    assert collection.spec.centre is not None
    assert "8-bit picture" in " ".join(collection.scenes[0].notes)
    rows = pq.read_table(collection.part_paths[0], columns=["path", "embedding"]).to_pylist()
    for row in rows[::10]:
        pixels = np.array(Image.open(tmp_path / row["path"]))
        assert row["embedding"] == pytest.approx(pixels.mean(axis=(0, 1))[:2], rel=1e-5)
    report = embed_chips(ChipsJob(tmp_path / "store", "chips", table, chip_size="160m"))
    assert report.resumed == CHIPS
    with pytest.raises(BandError, match=r"The encoder needs band B03 .* has red, blue"):
        embed(table, tmp_path / "other", bands=("red", "blue"), **more)
    coarse = embed(table, tmp_path / "coarse", chip_size="320m", scale=1.0, **more)
    assert coarse.scenes[0].notes[-1].startswith("Resolution: a pixel is 20 m")


def test_one_encoder_is_not_taken_for_another(tmp_path: Path, make_table: Table) -> None:
    embed(make_table(tmp_path), tmp_path / "store")
    more = make_table(tmp_path, count=4, seed=900, name="more")
    with pytest.raises(SpecMismatchError, match=r"model \(collection: rcf, asked: hf:some\)"):
        embed(more, tmp_path / "store", encoder="hf:some")


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_vectors_are_stored_as_asked(tmp_path: Path, make_table: Table, dtype: str) -> None:
    collection = embed(make_table(tmp_path), tmp_path / "store", dtype=dtype)
    assert collection.spec.dtype == dtype
    column = pq.read_table(collection.part_paths[0])["embedding"]
    assert str(column.type.value_type) == dtype.replace("float32", "float")


def test_the_store_is_the_same_wherever_the_images_lie(
    tmp_path: Path, make_table: Table, made: Collection
) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert hashes(embed(make_table(tmp_path / "elsewhere"), tmp_path / "s")) == hashes(made)
    files = sorted((tmp_path / "elsewhere").rglob("*.aux.xml"))
    assert files == []


@pytest.mark.shared_data
def test_eurosat_comes_back_with_its_classes(tmp_path: Path, shared: Path) -> None:
    folder = shared / "eurosat-rgb"
    with (folder / "coordinates.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::10]
    with (tmp_path / "eurosat.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "path": str(folder / row["path"])} for row in rows)
    collection = embed(tmp_path / "eurosat.csv", tmp_path / "store", chip_size="640m")
    assert collection.count == 600
    searcher = Searcher(Store(tmp_path / "store"))
    same = []
    for row in rows[::6]:
        place = LonLat(float(row["lon"]), float(row["lat"]))
        found = searcher.search("chips", SearchQuery(place, k=10))
        (query,) = found.query_item["class"].to_pylist()
        same += [name == query for name in found.matches["class"].to_pylist()]
    # Ten classes of equal size: chance finds a tenth.
    assert np.mean(same) > 0.4
