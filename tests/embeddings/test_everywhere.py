"""The whole path on scenes that lie awkwardly: round a pole, round the globe, turned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from embeddings.grid import MajorTomGrid
from embeddings.search import Searcher, SearchQuery
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.store.verify import verify
from embeddings.types import Bounds, LonLat

Embed = Callable[..., Collection]

SCENES = {
    "arctic": {"crs": "EPSG:3413", "origin": (-500_100.0, 470_300.0), "res": 10_000.0},
    "antarctic": {"crs": "EPSG:3031", "origin": (-500_100.0, 470_300.0), "res": 10_000.0},
    "globe": {"crs": "EPSG:4326", "origin": (-180.0, 90.0), "res": 1.875, "rows": 96, "cols": 192},
    "pacific globe": {"crs": "EPSG:4326", "origin": (0.0, 90.0), "res": 1.875, "cols": 192},
    "fiji": {"crs": "EPSG:32701", "origin": (160_000.0, 8_100_000.0), "res": 100.0},
    "mercator": {"crs": "EPSG:3857", "origin": (1_670_000.0, 8_399_738.0), "res": 20.0},
    "turned": {"transform": Affine(8, 6, 500_000, 6, -8, 5_200_000)},
    "upside down": {"transform": Affine(10, 0, 500_000, 0, 10, 5_200_000)},
}


@pytest.mark.parametrize("name", SCENES)
def test_every_chip_is_found_where_it_lies(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed, name: str
) -> None:
    options: dict[str, Any] = dict(SCENES[name])
    size = {"rows": options.pop("rows", 96), "cols": options.pop("cols", 96)}
    file = write_raster(tmp_path / "scene.tif", land(**size), **options)
    collection = embed(tmp_path / "store", file)
    assert verify(collection) == []
    count = size["rows"] * size["cols"] // 64
    rows = Reader(collection).items(limit=1000).to_pylist()
    assert len(rows) == count
    shapes = shapely.from_wkb([row["geometry"] for row in rows])
    assert shapely.is_valid(shapes).all()
    limit = MajorTomGrid(10).south_limit
    assert all((row["grid_cell"] is None) == (row["lat"] <= limit) for row in rows)
    footprint = shapely.geometry.shape(collection.scenes[0].footprint)
    assert footprint.is_valid
    searcher = Searcher(Store(tmp_path / "store"))
    for row, shape in list(zip(rows, shapes, strict=True))[:: count // 12]:
        at = LonLat(row["lon"], row["lat"])
        assert shape.buffer(1e-9).contains(shapely.Point(row["lon"], row["lat"]))
        assert footprint.buffer(0.01).contains(shapely.Point(row["lon"], row["lat"]))
        found = searcher.search("land", SearchQuery(at, k=3))
        assert found.query_item["id"].to_pylist() == [row["id"]]
        assert -1 <= found.similarity[0] <= 1
        tiny = Bounds(row["lon"], row["lat"], row["lon"], row["lat"])
        assert row["id"] in Reader(collection).items(tiny)["id"].to_pylist()


@pytest.mark.parametrize(("name", "pole"), [("arctic", 90.0), ("antarctic", -90.0)])
def test_the_chip_at_a_pole_is_found_from_every_side(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed, name: str, pole: float
) -> None:
    file = write_raster(tmp_path / "scene.tif", land(), **SCENES[name])
    collection = embed(tmp_path / "store", file)
    searcher = Searcher(Store(tmp_path / "store"))
    # The pole lies 50.01 pixels right of and 47.03 below the first corner: chip (5, 6).
    for lon in (-179.0, -90.0, 0.0, 33.0, 90.0, 179.5):
        for lat in (pole, pole * 0.9999):
            found = searcher.search("land", SearchQuery(LonLat(lon, lat), k=1))
            assert found.query_item["id"].to_pylist() == ["scene_5_6"]
    bounds = collection.bounds
    assert bounds is not None
    assert (bounds.west, bounds.east) == (-180, 180)
    assert pole in (bounds.south, bounds.north)


def test_chips_of_a_scene_in_degrees_are_nearly_square_in_metres(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    file = write_raster(
        tmp_path / "a.tif", land(96, 192), crs="EPSG:4326", origin=(15.0, 60.1), res=0.0001
    )
    collection = embed(tmp_path / "store", file, chip="90m")
    assert collection.spec.layout is not None
    assert collection.spec.layout.chip_px == (8, 16)
    rows = Reader(collection).items(limit=1000).to_pylist()
    geod = pyproj.Geod(ellps="WGS84")
    box = rows[0]["bbox"]
    _, _, wide = geod.inv(box["xmin"], box["ymin"], box["xmax"], box["ymin"])
    _, _, high = geod.inv(box["xmin"], box["ymin"], box["xmin"], box["ymax"])
    assert np.allclose([wide, high], 90, rtol=0.04)
