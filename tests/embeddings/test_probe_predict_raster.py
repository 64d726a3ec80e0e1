"""Predictions as rasters: a pixel a chip, scenes without seams, no data apart from unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.transform
import shapely

from embeddings.analysis.probes import LinearProbe
from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.errors import CancelledError, InputError
from embeddings.grid import MajorTomGrid
from embeddings.location_grid import GridJob, embed_grid
from embeddings.probe.model import ProbeModel, TrainedOn
from embeddings.probe.predict import PredictOptions, PredictReport, predict
from embeddings.probe.predict_grids import ChipPixels
from embeddings.sources.areas import Area
from embeddings.spec import ChipLayout
from embeddings.store import Collection, Store
from embeddings.store.layout import SHIPPED_FOLDER
from embeddings.store.reader import Reader
from embeddings.types import Bounds, TimeRange
from tests.embeddings.index_data import clustered, spec_of, write_collection

CLASSES = ("sea", "dune", "wood")
UNKNOWN = 255


def model_of(
    collection: Collection, task: str = "classes", classes: tuple[str, ...] = CLASSES, **more: Any
) -> ProbeModel:
    """A probe with directions of the collection's own, so that all classes occur."""
    vectors = Reader(collection).vectors(np.arange(collection.count))
    rng = np.random.default_rng(2)
    columns = 1 if task == "number" else len(classes)
    dim = vectors.shape[1]
    probe = LinearProbe(
        **{
            "task": task,
            "kind": "ridge" if task == "number" else "logistic",
            "classes": () if task == "number" else classes,
            "mean": vectors.mean(axis=0),
            "scale": vectors.std(axis=0) + np.float32(1e-3),
            "weights": rng.normal(size=(dim, columns)).astype(np.float32) / np.float32(dim**0.5),
            "bias": np.zeros(columns, np.float32),
            "strength": 1.0,
            **more,
        }
    )
    return ProbeModel(probe, (TrainedOn.of(collection),))


@pytest.fixture(scope="module")
def scenes(
    tmp_path_factory: pytest.TempPathFactory,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
) -> Collection:
    """Three scenes on one grid of 80 m: 'west' with a hole; 'east' over its last two columns of
    chips and a later date; 'south', undated, apart from both."""
    folder = tmp_path_factory.mktemp("scenes")
    values = land(seed=1)
    values[:, 20:41, 30:60] = 0
    west = write_raster(folder / "west.tif", values, nodata=0)
    east = write_raster(folder / "east.tif", land(seed=2), origin=(500_800, 5_200_000), nodata=0)
    south = write_raster(folder / "south.tif", land(seed=3), origin=(499_920, 5_198_400), nodata=0)
    embed(folder / "store", east, datetime="2019-06-01T10:00:00Z")
    embed(folder / "store", west, datetime="2018-06-01T10:00:00Z")
    return embed(folder / "store", south)


def both(
    collection: Collection, model: ProbeModel, folder: Path, **more: Any
) -> tuple[PredictReport, Any, np.ndarray, Any]:
    """Predict as a raster and as a table; return report, profile, band 1 and the table."""
    report = predict(model, collection, folder / "map.tif", **more)
    options = PredictOptions(per_class=True)
    rows = predict(model, collection, folder / "map.parquet", **{**more, "options": options})
    with rasterio.open(folder / "map.tif") as file:
        profile = {**file.profile, "bounds": file.bounds, "tags": file.tags()}
        return report, profile, file.read(1), geopandas.read_parquet(rows.files[0])


def pixels(profile: Any, table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the pixels that hold the centres of chips."""
    change = pyproj.Transformer.from_crs("OGC:CRS84", profile["crs"].to_wkt(), always_xy=True)
    x, y = change.transform(table["lon"], table["lat"])
    row, col = rasterio.transform.rowcol(profile["transform"], x, y)
    return np.asarray(row), np.asarray(col)


def test_scenes_are_tiled_without_seams_the_latest_on_top(
    scenes: Collection, tmp_path: Path
) -> None:
    model = model_of(scenes, thresholds=np.full(3, 0.5))
    report, profile, band, table = both(scenes, model, tmp_path)
    # 22 columns of west and east, one further west for south; 20 rows above 12 of south.
    assert (profile["width"], profile["height"]) == (23, 32)
    assert profile["bounds"] == (499_920, 5_197_440, 501_760, 5_200_000)
    assert profile["crs"] == "EPSG:32633"
    assert (profile["dtype"], profile["nodata"]) == ("uint8", 0)
    row, col = pixels(profile, table)
    codes = np.array(
        [
            {**dict(zip(CLASSES, (1, 2, 3), strict=True)), "unknown": UNKNOWN}[name]
            for name in table["class"]
        ]
    )
    assert set(codes) == {1, 2, 3, UNKNOWN}
    expected = np.zeros_like(band)
    for scene in ("south", "west", "east"):
        here = table["id"].str.startswith(scene).to_numpy()
        expected[row[here], col[here]] = codes[here]
    np.testing.assert_array_equal(band, expected)
    # The hole of 'west' is no data, as is what no scene covers.
    assert (band[2:6, 5:8] == 0).sum() >= 9
    shared = table[["id"]].assign(at=row * 23 + col)
    twice = int(shared["at"].duplicated().sum())
    assert f"{twice} pixels have chips of several scenes" in report.notes[0]
    assert twice == 24
    assert report.rows == len(table) == scenes.count
    assert report.unknown == (codes == UNKNOWN).sum()


def test_a_time_or_a_scene_chooses_among_dates(scenes: Collection, tmp_path: Path) -> None:
    model = model_of(scenes)
    asked = {"time": TimeRange.parse("2018-01-01/2018-12-31")}
    report, profile, band, table = both(scenes, model, tmp_path, **asked)
    assert (profile["width"], profile["height"]) == (12, 12)
    assert table["id"].str.startswith("west").all()
    assert (band > 0).sum() == len(table) == report.rows
    assert report.notes == ()
    options = PredictOptions(scenes=("east",))
    predict(model, scenes, tmp_path / "east.tif", options=options)
    with rasterio.open(tmp_path / "east.tif") as file:
        assert file.bounds == (500_800, 5_199_040, 501_760, 5_200_000)
        assert (file.read(1) > 0).all()


def test_an_area_cuts_the_raster_on_the_same_grid(scenes: Collection, tmp_path: Path) -> None:
    model = model_of(scenes)
    predict(model, scenes, tmp_path / "all.tif")
    box = shapely.box(500_100, 5_199_300, 500_500, 5_199_900)
    geopandas.GeoSeries([box], crs=32633).to_file(tmp_path / "area.gpkg")
    predict(model, scenes, tmp_path / "some.tif", within=Area.of_file(tmp_path / "area.gpkg"))
    with rasterio.open(tmp_path / "all.tif") as whole, rasterio.open(tmp_path / "some.tif") as part:
        assert part.bounds == (500_080, 5_199_280, 500_480, 5_199_920)
        window = whole.window(*part.bounds)
        np.testing.assert_array_equal(whole.read(1, window=window), part.read(1))


def test_colours_names_and_provenance(scenes: Collection, tmp_path: Path) -> None:
    model = model_of(scenes)
    report = predict(model, scenes, tmp_path / "map.tif")
    assert [Path(file).name for file in report.files] == ["map.tif", "map.tif.aux.xml", "map.qml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        Path(file).name for file in report.files
    )
    with rasterio.open(tmp_path / "map.tif") as file:
        table, tags = file.colormap(1), file.tags()
        assert file.descriptions == ("class",)
        assert file.profile["driver"] == "GTiff"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert json.loads(tags["TERRAKIN"])["model_sha256"] == model.sha256
    assert json.loads(tags["CLASSES"]) == {"sea": 1, "dune": 2, "wood": 3, "unknown": UNKNOWN}
    assert len({table[code] for code in (1, 2, 3, UNKNOWN)}) == 4
    assert table[UNKNOWN] == (158, 158, 158, 255)
    band = Xml.parse(tmp_path / "map.tif.aux.xml").getroot().find("PAMRasterBand")
    assert band is not None
    names = [each.text or "" for each in band.iter("Category")]
    assert names[:5] == ["", *CLASSES, ""]
    assert names[UNKNOWN:] == ["unknown"]
    style = Xml.parse(tmp_path / "map.qml").getroot()
    entries = {each.get("value"): each.get("label") for each in style.iter("paletteEntry")}
    assert entries == {"1": "sea", "2": "dune", "3": "wood", "255": "unknown"}


def test_a_style_of_the_user_is_kept_and_ours_goes_with_the_classes(
    scenes: Collection, tmp_path: Path
) -> None:
    out, style = tmp_path / "map.tif", tmp_path / "map.qml"
    predict(model_of(scenes), scenes, out)
    predict(model_of(scenes, "number"), scenes, out)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    style.write_text("<qgis/>")
    predict(model_of(scenes), scenes, out)
    predict(model_of(scenes, "number"), scenes, out)
    assert style.read_text() == "<qgis/>"


def test_measures_stand_in_a_second_file(scenes: Collection, tmp_path: Path) -> None:
    model = model_of(scenes)
    options = PredictOptions(per_class=True, measures=True)
    report, profile, band, table = both(scenes, model, tmp_path, options=options)
    assert Path(report.files[1]).name == "map_probability.tif"
    with rasterio.open(report.files[1]) as file:
        assert file.descriptions == (
            *("probability", "margin", "entropy"),
            *(f"p_{name}" for name in CLASSES),
        )
        assert file.transform == profile["transform"]
        assert (file.profile["dtype"], np.isnan(file.nodata)) == ("float32", True)
        values = file.read()
    assert (np.isnan(values) == (band == 0)).all()
    row, col = pixels(profile, table)
    top = table["id"].str.startswith("east").to_numpy()
    for number, name in enumerate(("probability", "margin", "entropy", "p_sea")):
        np.testing.assert_array_equal(values[number, row[top], col[top]], table[name][top])


def test_numbers_and_labels(scenes: Collection, tmp_path: Path) -> None:
    model = model_of(scenes, "number")
    _, profile, band, table = both(scenes, model, tmp_path)
    assert (profile["dtype"], np.isnan(profile["nodata"])) == ("float32", True)
    row, col = pixels(profile, table)
    top = table["id"].str.startswith("east").to_numpy()
    np.testing.assert_array_equal(band[row[top], col[top]], table["value"][top])
    assert np.isnan(band[2:6, 5:8]).sum() >= 9

    model = model_of(scenes, "multilabel")
    _, profile, _, table = both(scenes, model, tmp_path)
    with rasterio.open(tmp_path / "map.tif") as file:
        bands = file.read()
        assert file.descriptions == tuple(f"is_{name}" for name in CLASSES)
        assert file.nodata == 0
    for number, name in enumerate(CLASSES):
        codes = np.where(table[f"is_{name}"], 2, 1)
        np.testing.assert_array_equal(bands[number, row[top], col[top]], codes[top])
        assert set(np.unique(bands[number])) == {0, 1, 2}


def test_more_classes_than_a_byte_holds(scenes: Collection, tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(300))
    model = model_of(scenes, classes=names)
    best = model.probe.probabilities(Reader(scenes).vectors(np.arange(scenes.count))).max(axis=1)
    model = model_of(scenes, classes=names, thresholds=np.full(300, np.median(best)))
    _, profile, band, table = both(scenes, model, tmp_path)
    assert (profile["dtype"], profile["nodata"]) == ("uint16", 0)
    codes = {name: code for code, name in enumerate(names, start=1)} | {"unknown": 65535}
    row, col = pixels(profile, table)
    top = table["id"].str.startswith("east").to_numpy()
    np.testing.assert_array_equal(
        band[row[top], col[top]], table["class"].astype(str).map(codes)[top]
    )
    assert {0, 65535} < set(np.unique(band).tolist())
    assert ((band > 255) & (band < 65535)).any()


def test_the_bytes_do_not_depend_on_the_run_and_a_stop_leaves_the_old(
    scenes: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = model_of(scenes), PredictOptions(measures=True)
    predict(model, scenes, tmp_path / "map.tif", options=options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("embeddings.probe.predict_workers.MOST_THREADS", 1)
    predict(model, scenes, tmp_path / "map.tif", options=options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(CancelledError):
        predict(model, scenes, tmp_path / "map.tif", cancelled=lambda: True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overlapping_chips_have_pixels_of_their_stride(
    tmp_path: Path,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
) -> None:
    raster = write_raster(tmp_path / "a.tif", land(rows=64, cols=64))
    collection = embed(tmp_path / "store", raster, stride="2")
    _, profile, band, table = both(collection, model_of(collection), tmp_path)
    # The first chip's centre is 40 m from the corner, the first pixel 20 m wide around it.
    assert profile["bounds"] == (500_030, 5_199_390, 500_610, 5_199_970)
    assert band.shape == (29, 29)
    row, col = pixels(profile, table)
    codes = table["class"].astype(str).map({name: i for i, name in enumerate(CLASSES, start=1)})
    np.testing.assert_array_equal(band[row, col], codes)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform.a == 20


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """All cells of a coarse grid of the Earth; in some rows the last one crosses ±180."""
    rng = np.random.default_rng(6)
    layers = (
        Layer(rng.normal(size=(12, 9)), rng.normal(size=12), 1.0),
        Layer(rng.normal(size=(8, 12)), rng.normal(size=8), 1.0),
    )
    store = tmp_path_factory.mktemp("earth") / "store"
    job = GridJob(store, "earth", 500.0)
    embed_grid(job, LocationEncoder("test", 3, "stable", layers))
    return Store.open(store).collection("earth")


def test_every_pixel_of_a_grid_has_the_cell_of_its_centre(
    earth: Collection, tmp_path: Path
) -> None:
    model = model_of(earth)
    _, profile, band, table = both(earth, model, tmp_path)
    assert profile["crs"] == "EPSG:4326"
    grid = MajorTomGrid(500.0)
    bounds = profile["bounds"]
    assert (bounds.left, bounds.right) == (-180, pytest.approx(180))
    assert (bounds.bottom, bounds.top) == pytest.approx((grid.south_limit, grid.north_limit))
    codes = {name: code for code, name in enumerate(CLASSES, start=1)}
    of_cell = dict(zip(table["id"], table["class"].astype(str).map(codes), strict=True))
    rows, cols = np.indices(band.shape)
    lon, lat = rasterio.transform.xy(profile["transform"], rows.ravel(), cols.ravel())
    # A centre on the edge of two cells lies in the western one, but for the last digit of both.
    cells = grid.names(*grid.cells(np.asarray(lon) - 1e-9, np.asarray(lat)))
    np.testing.assert_array_equal(band.ravel(), [of_cell[name] for name in cells])
    assert set(cells) == set(of_cell)


def test_cells_that_are_not_there_are_no_data(earth: Collection, tmp_path: Path) -> None:
    model = model_of(earth)
    area = Area.of_box(Bounds(170, -20, -165, 20))
    _, profile, band, table = both(earth, model, tmp_path, within=area)
    row, col = pixels(profile, table)
    assert (band[row, col] > 0).all()
    assert (band == 0).any()
    assert 8 <= len(table) < 80
    assert (table["lon"] > 165).any()
    assert (table["lon"] < -160).any()
    assert profile["bounds"].top < 30


def test_overviews_hold_codes_that_are_there(tmp_path: Path) -> None:
    world = Collection.load(SHIPPED_FOLDER / "world")
    model = model_of(world, thresholds=np.full(3, 0.4))
    report = predict(model, world, tmp_path / "map.tif")
    assert report.rows == world.count
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.overviews(1)[0] == 2
        whole = file.read(1)
        # The centre of Africa is land, that of the Pacific is not.
        assert [value[0] > 0 for value in file.sample([(20, 10), (-140, 0)])] == [True, False]
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as file:
        assert set(np.unique(file.read(1))) <= set(np.unique(whole)) == {0, 1, 2, 3, UNKNOWN}


def refused(collection: Collection, folder: Path, says: str, **more: Any) -> None:
    with pytest.raises(InputError, match=says) as caught:
        predict(model_of(collection), collection, folder / "map.tif", **more)
    assert ".gpkg or .parquet" in str(caught.value)
    assert not [*folder.glob("*map*")]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"origin": (501_000, 5_200_050)}, r"lie between those of 'a' \(12.50 columns and -0.62"),
        ({"crs": "EPSG:32634"}, r"different CRS \(WGS 84 / UTM zone 33N and WGS 84 / UTM zone 34N"),
    ],
)
def test_scenes_that_no_raster_fits_are_refused(
    tmp_path: Path,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
    where: dict[str, Any],
    says: str,
) -> None:
    embed(tmp_path / "store", write_raster(tmp_path / "a.tif", land()))
    other = write_raster(tmp_path / "b.tif", land(seed=2), **where)
    collection = embed(tmp_path / "store", other)
    refused(collection, tmp_path, says)
    options = PredictOptions(scenes=("b",))
    report = predict(model_of(collection), collection, tmp_path / "b_map.tif", options=options)
    assert report.rows == 144


def test_strides_that_differ_are_refused(scenes: Collection) -> None:
    first, second = scenes.scenes[:2]
    grid = {**second.grid, "transform": [10.01, 0, 500_800, 0, -10.01, 5_200_000]}
    with pytest.raises(InputError, match="different strides"):
        ChipPixels(scenes, [first, replace(second, grid=grid)])


def test_scattered_chips_have_no_raster(tmp_path: Path) -> None:
    spec = spec_of(8)
    collection = write_collection(tmp_path / "c", spec, [lambda: clustered(50, 8)])
    refused(collection, tmp_path, "not the cells of a grid")
    layout = ChipLayout("8", "8", (8, 8), (8, 8))
    folder = tmp_path / "d"
    collection = write_collection(folder, spec_of(8, layout=layout), [lambda: clustered(50, 8)])
    refused(collection, tmp_path, "Scene 's' of collection 'd' is no regular grid")


def test_a_raster_that_would_be_too_large_is_refused(
    scenes: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.probe.predict_grids.MOST_PIXELS", 700)
    refused(scenes, tmp_path, "23 x 32 pixels; 700 are allowed")
