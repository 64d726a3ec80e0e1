"""A sample drawn from a map, and what it proves once the truth is filled in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely

from embeddings.analysis.area_accuracy import estimate
from embeddings.errors import InputError, SourceError
from embeddings.probe.accuracy import assess
from embeddings.probe.accuracy_html import accuracy_html
from embeddings.probe.fit import fit_probe
from embeddings.probe.lottery import Lottery
from embeddings.probe.map_areas import PixelAreas, hectares
from embeddings.probe.map_units import open_map
from embeddings.probe.model import ProbeModel
from embeddings.probe.predict import predict
from embeddings.probe.sampling import SampleOptions, draw_sample, write_sample
from embeddings.store import Store
from tests.embeddings.label_data import square_chips
from tests.embeddings.probe_data import CLASSES, COLS, ROWS, fill, job, make_store, write_points

GEOD = pyproj.Geod(ellps="WGS84")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a model, and its map as .tif, .gpkg and .parquet."""
    path = tmp_path_factory.mktemp("maps")
    store = make_store(path / "store", noise=1.5)
    labels = write_points(path / "points.gpkg")
    model = fit_probe(job(store, labels, unknown_error=0.08, out=path / "model")).model
    collection = Store.open(store).collection("land")
    for suffix in ("gpkg", "parquet"):
        report = predict(model, collection, path / f"map.{suffix}")
    assert report.unknown > 20
    _as_raster(path / "map.parquet", path / "map.tif", model)
    return path


def _as_raster(table: Path, out: Path, model: ProbeModel) -> None:
    """Write the map of footprints as the raster that ``predict`` makes of regular scenes."""
    frame = geopandas.read_parquet(table)
    codes = {name: i for i, name in enumerate(CLASSES, start=1)} | {"unknown": 255}
    at = frame["id"].str.split("_", expand=True).astype(int).to_numpy()
    values = np.zeros((ROWS, COLS), np.uint8)
    values[at[:, 0], at[:, 1]] = frame["class"].astype(str).map(codes)
    with rasterio.open(
        out,
        "w",
        driver="GTiff",
        width=COLS,
        height=ROWS,
        count=1,
        dtype="uint8",
        crs="EPSG:4326",
        transform=rasterio.Affine(0.01, 0, 10, 0, -0.01, 50),
        nodata=0,
    ) as file:
        file.write(values, 1)
        said = {"task": "classes", "classes": list(model.probe.classes)}
        file.update_tags(TERRAKIN=json.dumps(said), CLASSES=json.dumps(codes))


@pytest.fixture
def sample(folder: Path, tmp_path: Path) -> Path:
    drawn = draw_sample(folder / "map.gpkg", SampleOptions(120, minimum=15))
    write_sample(drawn, tmp_path / "sample.gpkg")
    return tmp_path / "sample.gpkg"


def test_areas_are_those_of_the_ellipsoid() -> None:
    shapes = np.array([shapely.box(10, 49.9, 10.1, 50), shapely.box(-71, -60.2, -70.8, -60)])
    wanted = [abs(GEOD.geometry_area_perimeter(shape)[0]) / 1e4 for shape in shapes]
    # Sides along parallels are straight here and great circles there.
    np.testing.assert_allclose(hectares(shapes), wanted, rtol=1e-4)
    whole = hectares(np.array([shapely.box(-180, -90, 180, 90)]))[0]
    assert whole == pytest.approx(510_065_621.724e2, rel=1e-9)


@pytest.mark.parametrize(
    ("crs", "left", "top", "size"),
    [("EPSG:32633", 300_000, 5_500_000, 100.0), ("EPSG:4326", 179.9, 61.0, 0.01)],
)
def test_pixels_have_their_true_area(crs: str, left: float, top: float, size: float) -> None:
    areas = PixelAreas(pyproj.CRS(crs), rasterio.Affine(size, 0, left, 0, -size, top))
    rows = areas.block_rows
    found = areas.pixel(0, 0, 30, rows)
    lon, lat = areas.degrees(np.array([0.0, 1, 1, 0]), np.array([0.0, 0, rows, rows]))
    area, _ = GEOD.polygon_area_perimeter(lon, lat)
    assert found == pytest.approx(abs(area) / 1e4 / rows, rel=2e-3)


def test_units_of_twice_the_size_are_drawn_twice_as_often() -> None:
    counts = np.zeros(2)
    for seed in range(400):
        lottery = Lottery({"a": 20}, seed)
        for start in range(0, 1000, 250):
            units = np.arange(start, start + 250)
            lottery.offer("a", units, np.where(units % 2, 2.0, 1.0))
        names, drawn = lottery.drawn()
        assert names == ["a"] * len(set(drawn.tolist()))
        counts += np.bincount(drawn % 2, minlength=2)
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.05)


def test_the_map_has_the_same_strata_in_every_format(folder: Path) -> None:
    maps = [open_map(folder / f"map.{suffix}") for suffix in ("gpkg", "parquet", "tif")]
    strata = [dict(zip(m.strata.names, m.strata.units, strict=True)) for m in maps]
    assert strata[0] == strata[1] == strata[2]
    assert sum(strata[0].values()) == ROWS * COLS
    assert set(strata[0]) == {*CLASSES, "unknown"}
    assert {m.unknown for m in maps} == {"unknown"}
    shape = shapely.box(10, 50 - 0.01 * ROWS, 10 + 0.01 * COLS, 50)
    for each in maps:
        assert sum(each.strata.area_ha) == pytest.approx(hectares(np.array([shape]))[0], rel=1e-6)


@pytest.mark.parametrize("suffix", ["gpkg", "parquet", "tif"])
def test_places_are_of_the_class_that_the_map_says(folder: Path, suffix: str) -> None:
    drawn = draw_sample(folder / f"map.{suffix}", SampleOptions(120, minimum=15))
    places = drawn.places.to_pandas()
    frame = geopandas.read_parquet(folder / "map.parquet")
    said = frame["class"].astype(str)
    said.index = [f"{lon:.3f} {lat:.3f}" for lon, lat in zip(frame.lon, frame.lat, strict=True)]
    keys = [f"{lon:.3f} {lat:.3f}" for lon, lat in zip(places.lon, places.lat, strict=True)]
    assert len(set(keys)) == len(places) == 120
    assert said[keys].tolist() == places.map_class.tolist()
    assert places.id.tolist() == list(range(1, 121))
    counts = places.map_class.value_counts().to_dict()
    strata = drawn.strata.to_pandas()
    assert counts == dict(zip(strata.map_class, strata.sampled, strict=True))
    assert min(counts.values()) >= 15
    # Shuffled: the classes do not stand one after another.
    assert (places.map_class != places.map_class.shift()).sum() > 40
    again = draw_sample(folder / f"map.{suffix}", SampleOptions(120, minimum=15))
    other = draw_sample(folder / f"map.{suffix}", SampleOptions(120, minimum=15, seed=1))
    assert again.places.equals(drawn.places)
    assert set(other.places["unit"].to_pylist()) != set(places.unit)


def test_a_standard_error_says_how_many(folder: Path) -> None:
    # Equation 13 with equal shares of accuracy 0.9: (0.3 / 0.03) squared; unknown has no spread.
    drawn = draw_sample(
        folder / "map.gpkg", SampleOptions(None, 5, standard_error=0.03, expected_accuracy=0.9)
    )
    strata = drawn.strata.to_pandas()
    share = strata.area_ha[~strata.unknown].sum() / strata.area_ha.sum()
    assert drawn.places.num_rows == np.ceil((0.3 * share / 0.03) ** 2)


def test_a_map_without_classes_or_with_overlaps_is_refused(folder: Path, tmp_path: Path) -> None:
    labels, store = folder / "points.gpkg", folder / "store"
    collection = Store.open(store).collection("land")
    number = fit_probe(job(store, labels, field="height")).model
    predict(number, collection, tmp_path / "number.gpkg")
    with pytest.raises(InputError, match="no map of classes"):
        open_map(tmp_path / "number.gpkg")
    vectors = np.random.default_rng(0).normal(size=(ROWS * COLS, 6)).astype(np.float32)
    wide = square_chips(tmp_path / "wide", ROWS, COLS, step=0.004, vectors=vectors)
    predict(ProbeModel.load(folder / "model"), wide, tmp_path / "wide.gpkg")
    with pytest.raises(InputError, match="overlap"):
        open_map(tmp_path / "wide.gpkg")
    frame = geopandas.read_file(folder / "map.gpkg", layer="predictions").to_crs("EPSG:32632")
    frame.to_file(tmp_path / "moved.gpkg", layer="predictions")
    with pytest.raises(InputError, match="has the CRS EPSG:32632"):
        open_map(tmp_path / "moved.gpkg")
    (tmp_path / "text.gpkg").write_text("no map")
    with pytest.raises(SourceError, match="cannot be read"):
        open_map(tmp_path / "text.gpkg")
    with pytest.raises(InputError, match="no suffix of a map"):
        open_map(labels.with_suffix(".gpkg").parent / "model.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SampleOptions(), "one only"),
        (SampleOptions(100, standard_error=0.1), "one only"),
        (SampleOptions(0), "0 places"),
        (SampleOptions(100, minimum=1), "no spread"),
        (SampleOptions(100, minimum=90), "too small"),
        (SampleOptions(standard_error=2.0), "standard error"),
        (SampleOptions(100, expected_accuracy=1.0), "accuracy expected"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(
    folder: Path, options: SampleOptions, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        draw_sample(folder / "map.gpkg", options)


def test_accuracy_is_the_papers_of_these_counts(sample: Path) -> None:
    def truth(name: str, number: int) -> str | None:
        if number % 10 == 0:
            return None
        return CLASSES[number % 3] if name == "unknown" or number % 4 == 0 else name

    fill(sample, truth)
    found = assess(sample, confidence=0.9)
    names = found.classes
    assert names[-1] == found.unknown == "unknown"
    meta, _, _, values = pyogrio.raw.read(sample, layer="strata")
    strata = dict(zip(meta["fields"].tolist(), values, strict=True))
    counts = np.zeros((4, 4), np.int64)
    _, _, _, places = pyogrio.raw.read(sample, layer="sample", columns=["id", "map_class"])
    for number, name in zip(*places, strict=True):
        said = truth(name, int(number))
        if said is not None:
            counts[names.index(name), names.index(said)] += 1
    np.testing.assert_array_equal(found.counts, counts)
    wanted = estimate(counts, strata["area_ha"], names, 0.9)
    assert found.whole.to_json() == wanted.to_json()
    assert found.without_reference == 12
    assert found.named is not None
    assert found.named.overall_accuracy.value > found.whole.overall_accuracy.value
    assert found.named_share < 1
    page = accuracy_html(found, "Accuracy")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_a_class_that_only_the_reference_has_gets_an_area(sample: Path) -> None:
    fill(sample, lambda _, number: "burnt" if number % 5 == 0 else CLASSES[1])
    found = assess(sample)
    burnt = found.whole.classes[-1]
    assert (burnt.name, burnt.mapped_area, burnt.sampled) == ("burnt", 0.0, 0)
    assert burnt.area.value > 0
    assert any("'burnt'" in text for text in found.notes)
    assert any(line.startswith("burnt") for line in found.lines())


def test_perfect_agreement_is_not_sold_as_certainty(sample: Path) -> None:
    fill(sample, lambda name, _: CLASSES[0] if name == "unknown" else name)
    found = assess(sample)
    assert found.named is not None
    assert found.named.overall_accuracy.value == 1
    assert any("does not mean that there is no error" in text for text in found.notes)
    # What nobody found outside its class is no proof that there is none.
    (rough,) = (text for text in found.notes if "may be too narrow" in text)
    assert all(f"'{name}' (0)" in rough for name in CLASSES[1:])
    assert f"'{CLASSES[0]}'" not in rough


def test_a_class_looked_at_whole_is_certain(folder: Path, tmp_path: Path) -> None:
    drawn = draw_sample(folder / "map.gpkg", SampleOptions(ROWS * COLS))
    write_sample(drawn, tmp_path / "all.gpkg")
    found = assess(fill(tmp_path / "all.gpkg", lambda *_: CLASSES[0]))
    assert {each.users_accuracy.half_width for each in found.whole.classes} == {0.0}
    assert not found.notes


def test_places_deleted_from_a_sample_are_told(sample: Path) -> None:
    fill(sample, lambda *_: CLASSES[0])
    assert not any("not those that were drawn" in text for text in assess(sample).notes)
    with closing(sqlite3.connect(sample)) as database, database:
        first = "SELECT fid FROM sample WHERE map_class = 'unknown' LIMIT 1"
        database.execute(f"DELETE FROM sample WHERE fid = ({first})")
    (told,) = (text for text in assess(sample).notes if "not those that were drawn" in text)
    assert "'unknown'" in told


def test_spelling_is_asked_about_and_joined_only_if_told_to(sample: Path) -> None:
    fill(sample, lambda name, _: "Wood " if name == "unknown" else f" {name.upper()}")
    with pytest.raises(InputError, match="'WOOD' and 'wood'"):
        assess(sample)
    found = assess(sample, merge_classes=True)
    assert found.classes == (*sorted(CLASSES), "unknown")


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (lambda *_: None, "No place of"),
        (lambda *_: " ", "No place of"),
        (lambda name, _: name, "'unknown' is what the map says"),
        (lambda name, _: name if name == CLASSES[1] else None, "two sampled places"),
    ],
)
def test_references_that_prove_nothing_are_refused(
    sample: Path, truth: Callable[[str, int], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        assess(fill(sample, truth))


def test_other_files_and_fields_are_refused(folder: Path, sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no field 'truth'"):
        assess(sample, "truth")
    with pytest.raises(InputError, match="no layer 'sample'"):
        assess(folder / "map.gpkg")
    with pytest.raises(SourceError, match="There is no file"):
        assess(tmp_path / "none.gpkg")
    with pytest.raises(InputError, match="confidence"):
        assess(fill(sample, lambda *_: CLASSES[0]), confidence=95)


def test_a_raster_of_others_and_a_class_of_one_pixel(tmp_path: Path) -> None:
    values = np.ones((40, 40), np.uint8)
    values[:, 20:] = 2
    values[0, 0] = 9
    values[5:7] = 0
    with rasterio.open(
        tmp_path / "map.tif",
        "w",
        driver="GTiff",
        width=40,
        height=40,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_500_000),
        nodata=0,
    ) as file:
        file.write(values, 1)
    drawn = draw_sample(tmp_path / "map.tif", SampleOptions(20, minimum=5))
    assert drawn.strata["map_class"].to_pylist() == ["1", "2"]
    assert drawn.strata["units"].to_pylist() == [759, 760]
    assert drawn.strata["unknown"].to_pylist() == [False, False]
    # 0.9996 is the scale of UTM at its central meridian.
    np.testing.assert_allclose(
        drawn.strata["area_ha"].to_numpy(), np.array([7.59, 7.6]) / 0.9996**2, rtol=1e-5
    )
    assert any("'9'" in text for text in drawn.notes)
    write_sample(drawn, tmp_path / "sample.gpkg")
    fill(tmp_path / "sample.gpkg", lambda name, _: int(name))
    found = assess(tmp_path / "sample.gpkg")
    assert (found.unknown, found.named) == (None, None)
    assert found.whole.overall_accuracy.value == 1


def test_equal_samples_have_equal_bytes(folder: Path, sample: Path, tmp_path: Path) -> None:
    drawn = draw_sample(folder / "map.gpkg", SampleOptions(120, minimum=15))
    (tmp_path / "again").mkdir()
    write_sample(drawn, tmp_path / "again" / sample.name)
    assert (tmp_path / "again" / sample.name).read_bytes() == sample.read_bytes()


def test_qgis_hides_what_the_map_says(sample: Path) -> None:
    with closing(sqlite3.connect(sample)) as database:
        ((name, style),) = database.execute("SELECT f_table_name, styleQML FROM layer_styles")
    assert name == "sample"
    field = Xml.fromstring(style).find("fieldConfiguration/field[@name='map_class']/editWidget")
    assert field is not None
    assert field.get("type") == "Hidden"
