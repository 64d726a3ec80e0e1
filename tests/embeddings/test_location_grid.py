"""Location embeddings of grid cells: the right cells, the right vectors, resumable."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from embeddings import land, location_grid
from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    InputError,
    NoDataError,
    SourceError,
    SpecMismatchError,
    StorageFullError,
)
from embeddings.grid import MajorTomGrid
from embeddings.location_grid import GridJob, embed_grid
from embeddings.search import Searcher, SearchQuery
from embeddings.sources.areas import Area
from embeddings.store import Store
from embeddings.store.reader import Reader
from embeddings.store.verify import verify
from embeddings.types import Bounds, LonLat


def make(seed: int = 0) -> LocationEncoder:
    rng = np.random.default_rng(seed)
    layers = (
        Layer(rng.normal(size=(12, 25)) / 20, rng.normal(size=12), 10.0),
        Layer(rng.normal(size=(6, 12)), rng.normal(size=6), 0.0),
    )
    return LocationEncoder("tiny", 5, "stable", layers)


ENCODER = make()


def test_every_cell_of_the_earth_has_its_vector(tmp_path: Path) -> None:
    report = embed_grid(GridJob(tmp_path / "s", "g", 200.0), ENCODER)
    grid = MajorTomGrid(200.0)
    assert report.embedded == report.planned == grid.n_cells
    collection = Store.open(tmp_path / "s").collection("g")
    assert verify(collection) == []
    items = Reader(collection).items(limit=20_000)
    ids = items["id"].to_pylist()
    assert len(set(ids)) == grid.n_cells
    assert items["grid_cell"].to_pylist() == ids
    rows, cols = grid.parse(ids)
    lon, lat = grid.centre(rows, cols)
    np.testing.assert_array_equal(items["lon"].to_numpy(), lon)
    vectors = np.concatenate([values for _, values in Reader(collection).batches()])
    np.testing.assert_allclose(vectors, ENCODER.encode(lon, lat), atol=0.01)
    shapes = shapely.from_wkb(items["geometry"].to_pylist())
    assert shapely.is_valid(shapes).all()
    west, _, east, _ = grid.footprint(rows, cols)
    np.testing.assert_array_equal(shapely.get_type_id(shapes) == 6, east < west)
    found = Searcher(Store.open(tmp_path / "s")).search("g", SearchQuery(LonLat(10, 50), k=3))
    assert found.matches.num_rows == 3


def test_cells_of_a_box_an_area_and_of_land(tmp_path: Path) -> None:
    box = Area.of_box(Bounds(170, -20, -170, -10))
    embed_grid(GridJob(tmp_path / "s", "box", 100.0, area=box), ENCODER)
    items = Reader(Store.open(tmp_path / "s").collection("box")).items(limit=9999)
    lon, lat = items["lon"].to_numpy(), items["lat"].to_numpy()
    assert ((lon >= 170) | (lon <= -170)).all()
    assert ((lat >= -20) & (lat <= -10)).all()
    rows, _ = MajorTomGrid(100.0).cells_in(box.bounds)
    assert 0.7 * len(rows) < len(lon) <= len(rows)

    shape = shapely.Point(2_000_000, 6_000_000).buffer(500_000)
    file = tmp_path / "area.gpkg"
    geopandas.GeoSeries([shape], crs="EPSG:3857").to_file(file)
    embed_grid(GridJob(tmp_path / "s", "area", 50.0, area=Area.of_file(file)), ENCODER)
    items = Reader(Store.open(tmp_path / "s").collection("area")).items(limit=9999)
    centres = geopandas.GeoSeries.from_xy(
        items["lon"].to_numpy(), items["lat"].to_numpy(), crs=4326
    ).to_crs(3857)
    assert len(centres) > 20
    assert centres.within(shape.buffer(2000)).all()

    embed_grid(GridJob(tmp_path / "s", "land", 300.0, land=True), ENCODER)
    items = Reader(Store.open(tmp_path / "s").collection("land")).items(limit=9999)
    grid = MajorTomGrid(300.0)
    every = np.concatenate(
        [
            land.cells_with_land(grid, np.full(len(cols), row), cols)
            for row, cols in grid.all_cells()
        ]
    )
    assert items.num_rows == every.sum()


def test_an_interrupted_run_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_grid, "rows_per_part", lambda _: 4096)
    calls = iter(range(100))
    with pytest.raises(CancelledError):
        embed_grid(GridJob(tmp_path / "a", "g", 200.0), ENCODER, cancelled=lambda: next(calls) > 4)
    begun = Store.open(tmp_path / "a").collection("g")
    assert 0 < begun.count < MajorTomGrid(200.0).n_cells
    report = embed_grid(GridJob(tmp_path / "a", "g", 200.0), ENCODER)
    assert report.resumed == begun.count
    embed_grid(GridJob(tmp_path / "b", "g", 200.0), ENCODER)
    parts = [
        sorted(p.sha256 for p in Store.open(tmp_path / name).collection("g").parts) for name in "ab"
    ]
    assert parts[0] == parts[1]
    assert len(parts[0]) > 5
    again = embed_grid(GridJob(tmp_path / "a", "g", 200.0), ENCODER)
    assert again.resumed == again.embedded


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = GridJob(tmp_path / "s", "g", 500.0)
    embed_grid(job, ENCODER)
    with pytest.raises(SpecMismatchError, match="weights_sha256"):
        embed_grid(job, make(1))
    with pytest.raises(CollectionExistsError, match="other cells"):
        embed_grid(GridJob(tmp_path / "s", "g", 500.0, land=True), ENCODER)
    for km in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError):
            embed_grid(GridJob(tmp_path / "s", "h", km), ENCODER)
    with pytest.raises(InputError, match="comes with Terrakin"):
        embed_grid(GridJob(tmp_path / "s", "world", 500.0), ENCODER)
    sea = Area.of_box(Bounds(-40, 20, -35, 25))
    with pytest.raises(NoDataError):
        embed_grid(GridJob(tmp_path / "s", "sea", 50.0, area=sea, land=True), ENCODER)
    assert Store.open(tmp_path / "s").names() == ["g"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Use", (), {"free": 10_000}))
    with pytest.raises(StorageFullError, match="take about"):
        embed_grid(GridJob(tmp_path / "s", "big", 10.0), ENCODER)
    assert Store.open(tmp_path / "s").names() == ["g"]


def test_a_replacement_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_grid, "rows_per_part", lambda _: 4096)
    embed_grid(GridJob(tmp_path / "s", "g", 500.0), ENCODER)
    job = GridJob(tmp_path / "s", "g", 200.0, replace=True)
    calls = iter(range(100))
    with pytest.raises(CancelledError):
        embed_grid(job, ENCODER, cancelled=lambda: next(calls) > 4)
    assert Store.open(tmp_path / "s").collection("g").spec.grid_km == 500.0
    report = embed_grid(job, ENCODER)
    assert 0 < report.resumed < report.embedded == MajorTomGrid(200.0).n_cells
    assert Store.open(tmp_path / "s").collection("g").spec.grid_km == 200.0
    # What another job left is not gone on with.
    calls = iter(range(100))
    with pytest.raises(CancelledError):
        embed_grid(job, ENCODER, cancelled=lambda: next(calls) > 4)
    assert embed_grid(job, make(1)).resumed == 0


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Use", (), {"free": size}))


def test_a_refusal_leaves_no_store_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for area in (Bounds(-40, 20, -35, 25), Bounds(0, 88, 5, 89), Bounds(0, -90, 5, -86)):
        job = GridJob(tmp_path / "new" / "s", "g", 50.0, area=Area.of_box(area), land=True)
        with pytest.raises(NoDataError):
            embed_grid(job, ENCODER)
        assert not (tmp_path / "new").exists()
    free(monkeypatch, 10_000)
    with pytest.raises(StorageFullError):
        embed_grid(GridJob(tmp_path / "new" / "s", "g", 50.0), ENCODER)
    assert not (tmp_path / "new").exists()


def test_space_is_asked_for_what_will_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = embed_grid(GridJob(tmp_path / "s", "land", 200.0, land=True), ENCODER)
    size = location_grid.row_bytes(Store.open(tmp_path / "s").collection("land").spec)
    enough = every.embedded * size
    free(monkeypatch, enough)
    assert every.embedded < every.planned / 2
    embed_grid(GridJob(tmp_path / "s", "again", 200.0, land=True), ENCODER)
    monkeypatch.setattr(location_grid, "MOST_COUNTED", 100)
    with pytest.raises(StorageFullError, match="at most"):
        embed_grid(GridJob(tmp_path / "s", "more", 200.0, land=True), ENCODER)

    monkeypatch.setattr(location_grid, "rows_per_part", lambda _: 4096)
    free(monkeypatch, 10**9)
    calls = iter(range(100))
    job = GridJob(tmp_path / "s", "half", 200.0)
    with pytest.raises(CancelledError):
        embed_grid(job, ENCODER, cancelled=lambda: next(calls) > 4)
    begun = Store.open(tmp_path / "s").collection("half").count
    left = MajorTomGrid(200.0).n_cells - begun
    free(monkeypatch, int(left * size * 0.9))
    with pytest.raises(StorageFullError):
        embed_grid(job, ENCODER)
    free(monkeypatch, left * size)
    assert embed_grid(job, ENCODER).resumed == begun


def test_the_scene_lies_within_the_grid(tmp_path: Path) -> None:
    embed_grid(GridJob(tmp_path / "s", "g", 500.0), ENCODER)
    grid = MajorTomGrid(500.0)
    scene = Store.open(tmp_path / "s").collection("g").scenes[0]
    assert scene.bbox == (-180, grid.south_limit, 180, grid.north_limit)
    shape = shapely.from_geojson(json.dumps(scene.footprint))
    assert shape.bounds == scene.bbox
    pole = geopandas.GeoSeries([shapely.Point(0, 0).buffer(2_000_000)], crs=3995)
    pole.to_file(tmp_path / "pole.gpkg")
    area = Area.of_file(tmp_path / "pole.gpkg")
    embed_grid(GridJob(tmp_path / "s", "pole", 100.0, area=area), ENCODER)
    collection = Store.open(tmp_path / "s").collection("pole")
    assert collection.scenes[0].bbox[3] == MajorTomGrid(100.0).north_limit
    lon = Reader(collection).items(limit=9999)["lon"].to_numpy()
    assert set(np.unique(lon % 360 // 45)) == set(range(8))


@pytest.mark.parametrize(
    "box",
    [
        (-180, -90, 180, 90),
        (-180, 0, -170, 5),
        (170, -5, 180, 5),
        (170, -85, -170, -60),
        (180, 0, -180, 10),
        (-3.3, 40, 12.7, 90),
        (10, -90, 9, 90),
        (-180, 50, 179.9, 52),
    ],
)
def test_the_cells_of_a_box_are_those_with_their_centre_in_it(
    box: tuple[float, float, float, float],
) -> None:
    grid, bounds = MajorTomGrid(150.0), Bounds(*box)
    west, south, east, north = box
    for row, cols in grid.all_cells():
        lon, lat = grid.centre(row, cols)
        inside = (lon >= west) | (lon <= east) if west > east else (lon >= west) & (lon <= east)
        expected = cols[inside & (lat >= south) & (lat <= north)]
        np.testing.assert_array_equal(location_grid._row_cells(grid, row, bounds), expected)
        if len(expected):
            assert row in location_grid._rows(grid, bounds)


def test_a_small_box_of_a_fine_grid_is_quick(tmp_path: Path) -> None:
    area = Area.of_box(Bounds(10.0, 50.0, 10.01, 50.01))
    report = embed_grid(GridJob(tmp_path / "s", "g", 0.01, area=area), ENCODER)
    assert 5000 < report.embedded < 10_000


def test_fewer_threads_where_parts_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    job = GridJob(Path("s"), "g", 200.0)

    def threads() -> int:
        grid = MajorTomGrid(200.0)
        run = location_grid._GridRun(job, ENCODER, grid, lambda _: None, lambda: False)
        return run._threads()

    assert threads() == 8
    monkeypatch.setattr(location_grid, "MEMORY", 1000)
    assert threads() == 1


def test_areas_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        Area.of_file(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no")
    with pytest.raises(SourceError, match="not a vector file"):
        Area.of_file(tmp_path / "text.gpkg")
    geopandas.GeoSeries([shapely.Point(0, 0)], crs=4326).to_file(tmp_path / "point.gpkg")
    with pytest.raises(SourceError, match="no polygon"):
        Area.of_file(tmp_path / "point.gpkg")
