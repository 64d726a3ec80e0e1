"""Location embeddings of grid cells: the right cells, the right vectors, resumable."""

from __future__ import annotations

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


def test_areas_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        Area.of_file(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no")
    with pytest.raises(SourceError, match="not a vector file"):
        Area.of_file(tmp_path / "text.gpkg")
    geopandas.GeoSeries([shapely.Point(0, 0)], crs=4326).to_file(tmp_path / "point.gpkg")
    with pytest.raises(SourceError, match="no polygon"):
        Area.of_file(tmp_path / "point.gpkg")
