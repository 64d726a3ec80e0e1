"""Places in files: what GeoPandas reads back, and what a failure leaves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely

from embeddings import __version__
from embeddings.errors import InputError, StoreNotWritableError
from embeddings.export import items_geojson, merged, result_geojson, write_places
from embeddings.search import Searcher, SearchQuery
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.types import LonLat

ATTRIBUTES = ["id", "rank", "similarity", "percentile", "datetime", "grid_cell", "lon", "lat"]


@pytest.fixture(scope="module")
def answer(small: Collection) -> dict[str, Any]:
    row = Reader(small).item("a_4_4").to_pylist()[0]
    query = SearchQuery(LonLat(row["lon"], row["lat"]), k=200, exclude_m=100)
    return result_geojson(Searcher(Store(small.path.parent)).search("land", query))


def provenance(path: Path) -> dict[str, Any]:
    if path.suffix == ".gpkg":
        text = pyogrio.read_info(path, layer="places")["layer_metadata"]["terrakin"]
    elif path.suffix == ".parquet":
        text = pq.read_schema(path).metadata[b"terrakin"]
    else:
        text = path.read_text()
    return json.loads(text)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet", ".GPKG"])
def test_geopandas_reads_the_places_back(
    tmp_path: Path, answer: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"places{suffix}"
    write_places(answer, path)
    read = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    frame = read(path)
    assert len(frame) == 200
    assert set(ATTRIBUTES) <= set(frame.columns)
    assert frame.crs in (pyproj.CRS("EPSG:4326"), pyproj.CRS("OGC:CRS84"))
    assert frame["rank"].tolist() == list(range(1, 201))
    expected = [f["properties"]["similarity"] for f in answer["features"]]
    assert np.allclose(frame["similarity"], expected, atol=1e-12)
    assert frame["id"].tolist() == [f["id"] for f in answer["features"]]
    shapes = [shapely.geometry.shape(f["geometry"]) for f in answer["features"]]
    assert shapely.equals(frame.geometry.values, shapes).all()
    dated = frame["id"].str.startswith("a_")
    assert dated.any()
    assert (~dated).any()
    assert frame["datetime"][~dated].isna().all()
    assert set(frame["datetime"][dated].astype(str).str[:19].str.replace(" ", "T")) == {
        "2018-10-13T10:00:00"
    }
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_the_file_says_where_it_comes_from(
    tmp_path: Path, answer: dict[str, Any], small: Collection, suffix: str
) -> None:
    path = tmp_path / f"places{suffix}"
    write_places(answer, path)
    told = provenance(path)
    assert told["collection"] == "land"
    assert told["query"]["id"] == "a_4_4"
    assert (told["k"], told["exclude_m"]) == (200, 100)
    assert told["spec"]["weights_sha256"] == small.spec.weights_sha256
    assert told["terrakin_version"] == __version__


def test_the_geojson_object_is_what_the_interface_says(answer: dict[str, Any]) -> None:
    assert answer["type"] == "FeatureCollection"
    assert (answer["numberReturned"], answer["considered"]) == (200, 283)
    first = answer["features"][0]
    assert list(first["properties"]) == [
        "rank",
        "similarity",
        "percentile",
        "lon",
        "lat",
        "datetime",
        "grid_cell",
    ]
    assert first["geometry"]["type"] == "Polygon"
    assert first["bbox"][0] < first["properties"]["lon"] < first["bbox"][2]
    assert json.loads(json.dumps(answer, allow_nan=False))["features"] == answer["features"]
    stages = {"open", "locate", "filter", "scan", "calibrate", "fetch", "format"}
    assert set(answer["timing_ms"]) == stages


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_no_places_are_a_file_too(tmp_path: Path, answer: dict[str, Any], suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    write_places({**answer, "features": [], "numberReturned": 0}, path)
    read = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    empty = read(path)
    assert len(empty) == 0
    if suffix == ".parquet":
        write_places(answer, tmp_path / "some.parquet")
        assert (empty.dtypes == read(tmp_path / "some.parquet").dtypes).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_a_file_is_replaced_whole(tmp_path: Path, answer: dict[str, Any], suffix: str) -> None:
    path = tmp_path / f"places{suffix}"
    path.write_text("old")
    write_places({**answer, "features": answer["features"][:3]}, path)
    read = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    assert len(read(path)) == 3


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, answer: dict[str, Any], suffix: str) -> None:
    path = tmp_path / f"places{suffix}"
    path.write_text("old")
    broken = {**answer, "features": [{**answer["features"][0], "geometry": object()}]}
    with pytest.raises((TypeError, AttributeError)):
        write_places(broken, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["places", "places.shp", "places.gpkg.zip", ".gpkg"])
def test_other_suffixes_are_refused(tmp_path: Path, answer: dict[str, Any], name: str) -> None:
    with pytest.raises(
        InputError, match="Use one of .gpkg, .geojson, .parquet".replace(".", r"\.")
    ):
        write_places(answer, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_a_place_that_cannot_be_written(
    tmp_path: Path, answer: dict[str, Any], suffix: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritableError, match="cannot be written"):
        write_places(answer, tmp_path / "file" / f"places{suffix}")


def test_items_over_the_antimeridian_are_multipolygons(
    tmp_path: Path, land: Any, write_raster: Any, embed: Any
) -> None:
    file = write_raster(
        tmp_path / "p.tif", land(64, 64), crs="EPSG:4326", origin=(179.965, 0.03), res=0.001
    )
    collection = embed(tmp_path / "s", file)
    features = items_geojson(Reader(collection).items(limit=100))
    over = [f for f in features if f["geometry"]["type"] == "MultiPolygon"]
    assert len(over) == 8
    assert all(f["bbox"][0] > f["bbox"][2] for f in over)
    query = SearchQuery(LonLat(179.967, 0.029), k=63)
    found = result_geojson(Searcher(Store(tmp_path / "s")).search("land", query))
    for suffix in (".gpkg", ".parquet"):
        write_places(found, tmp_path / f"p{suffix}")
    for frame in (
        geopandas.read_file(tmp_path / "p.gpkg"),
        geopandas.read_parquet(tmp_path / "p.parquet"),
    ):
        assert (frame.geom_type == "MultiPolygon").sum() == 8
        assert frame.total_bounds.tolist() == pytest.approx([-180, -0.034, 180, 0.03])


KINDS = [
    ["class", "string"],
    ["count", "int64"],
    ["share", "float64"],
    ["ok", "bool"],
    ["seen", "timestamp"],
]
VALUES = [
    {"class": "field", "count": 3, "share": 0.5, "ok": True, "seen": "2020-01-02T00:00:00Z"},
    {"class": None, "count": None, "share": None, "ok": None, "seen": None},
    {"class": "säe", "count": -(2**53), "share": -1.0, "ok": False, "seen": "2021-01-02T00:00:00Z"},
]


@pytest.fixture
def attributed(answer: dict[str, Any]) -> dict[str, Any]:
    """Three places with attributes, the second without values."""
    features = [
        {**feature, "properties": {**feature["properties"], **values}}
        for feature, values in zip(answer["features"], VALUES, strict=False)
    ]
    return {**answer, "features": features, "spec": {**answer["spec"], "attributes": KINDS}}


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_attributes_come_back_from_files(
    tmp_path: Path, attributed: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"places{suffix}"
    write_places(attributed, path)
    read = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    frame = read(path)
    assert frame["class"].isna().tolist() == [False, True, False]
    assert frame["class"].dropna().tolist() == ["field", "säe"]
    for name, kept in (("count", [3, -(2**53)]), ("share", [0.5, -1.0]), ("ok", [True, False])):
        assert frame[name].isna().tolist() == [False, True, False], name
        assert frame[name].dropna().tolist() == kept, name
    years = frame["seen"].astype(str).str[:4].tolist()
    assert (years[0], years[2]) == ("2020", "2021")


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_types_of_attributes_do_not_depend_on_the_rows(
    tmp_path: Path, attributed: dict[str, Any], suffix: str
) -> None:
    write_places(attributed, tmp_path / f"some{suffix}")
    write_places({**attributed, "features": []}, tmp_path / f"none{suffix}")
    if suffix == ".gpkg":
        some, none = (
            pyogrio.read_info(tmp_path / f"{name}.gpkg", layer="places")
            for name in ("some", "none")
        )
        assert dict(zip(some["fields"], some["dtypes"], strict=True)) == dict(
            zip(none["fields"], none["dtypes"], strict=True)
        )
        kinds = dict(zip(some["fields"], some["dtypes"], strict=True))
        assert (kinds["count"], kinds["ok"], kinds["share"]) == ("int64", "bool", "float64")
    else:
        schemas = [pq.read_schema(tmp_path / f"{name}.parquet") for name in ("some", "none")]
        assert schemas[0].equals(schemas[1])


def test_answers_of_collections_with_other_attributes_are_merged(
    tmp_path: Path, answer: dict[str, Any], attributed: dict[str, Any]
) -> None:
    text = {**attributed, "spec": {"attributes": [["count", "string"]]}, "features": []}
    both = merged({"plain": {**answer, "features": answer["features"][:2]}, "named": attributed})
    write_places(both, tmp_path / "both.parquet")
    frame = geopandas.read_parquet(tmp_path / "both.parquet")
    assert frame["query"].tolist() == ["plain"] * 2 + ["named"] * 3
    assert frame["class"].isna().tolist() == [True, True, False, True, False]
    write_places(merged({"named": attributed, "text": text}), tmp_path / "text.parquet")
    assert geopandas.read_parquet(tmp_path / "text.parquet")["count"].tolist()[0] == "3"


def test_attributes_are_properties_that_json_can_hold() -> None:
    square = shapely.to_wkb(shapely.box(0, 0, 1, 1))
    table = pa.table(
        {
            "id": ["a"],
            "grid_cell": ["0U_0R"],
            "datetime": pa.array([None], pa.timestamp("us", tz="UTC")),
            "lon": [0.5],
            "lat": [0.5],
            "bbox": [{"xmin": 0.0, "ymin": 0.0, "xmax": 1.0, "ymax": 1.0}],
            "geometry": [square],
            "share": [float("nan")],
            "most": [float("inf")],
            "seen": pa.array([datetime(2020, 1, 2, tzinfo=UTC)]),
            "ok": [True],
        }
    )
    (feature,) = items_geojson(table)
    assert feature["properties"] == {
        "lon": 0.5,
        "lat": 0.5,
        "datetime": None,
        "grid_cell": "0U_0R",
        "share": None,
        "most": None,
        "seen": "2020-01-02T00:00:00Z",
        "ok": True,
    }


@pytest.mark.parametrize(
    "shapes",
    [
        [shapely.box(0, 0, 1, 2), shapely.Point(5, 5).buffer(1)],
        [shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 4, 4)), shapely.box(0, 0, 1, 2)],
        [shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)])],
        [],
    ],
    ids=["rings", "a hole", "two parts", "none"],
)
def test_footprints_are_as_geos_writes_them(small: Collection, shapes: list[Any]) -> None:
    rows = Reader(small).items(limit=len(shapes))
    column = rows.schema.get_field_index("geometry")
    wkb = pa.array([shapely.to_wkb(shape) for shape in shapes], pa.binary())
    features = items_geojson(rows.set_column(column, "geometry", wkb))
    written = [json.loads(shapely.to_geojson(shape)) for shape in shapes]
    assert [feature["geometry"] for feature in features] == written
