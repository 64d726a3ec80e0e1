"""The parts as others read them: GeoPandas, plain DuckDB, pyarrow; and what the footer says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely

from embeddings import codec
from embeddings.errors import StoreFormatError
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection
from embeddings.store.reader import Reader
from embeddings.store.schema import (
    ITEM_COLUMNS,
    arrow_schema,
    attribute_fields,
    read_footer_spec,
    write_part,
)

MakeSpec = Callable[..., EmbeddingSpec]


def rows(spec: EmbeddingSpec, count: int, west: float = 10.0, seed: int = 0) -> pa.Table:
    """Rows of unit squares going north-east from ``west``; every row knows its number."""
    lon, lat = west + 0.01 * np.arange(count), 0.01 * np.arange(count) % 80
    squares = shapely.box(lon, lat, lon + 0.01, lat + 0.01)
    vectors = np.random.default_rng(seed).normal(size=(count, spec.dim)).astype(np.float32)
    stored = codec.encode(vectors, spec.dtype, spec.scale)
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), shapely.bounds(squares).T, strict=True))
    columns = {
        "id": [f"s_{i}_0" for i in range(count)],
        "grid_cell": ["0U_0R"] * count,
        "datetime": [None] * count,
        "lon": lon + 0.005,
        "lat": lat + 0.005,
        "bbox": pa.StructArray.from_arrays([pa.array(v) for v in sides.values()], list(sides)),
        "geometry": shapely.to_wkb(squares, byte_order=1).tolist(),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), spec.dim),
    }
    schema = arrow_schema(spec)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def part_of(collection: Collection, scene: str = "a") -> Path:
    found = collection.scene(scene)
    assert found is not None
    return collection.path / found.parts[0].file


def test_geopandas_reads_a_part(small: Collection) -> None:
    frame = geopandas.read_parquet(part_of(small))
    # GeoPandas takes the covering column as an index of the geometry and leaves it out.
    assert {*frame.columns, "bbox"} == {*ITEM_COLUMNS, "embedding"}
    assert len(frame) == 144
    assert frame.crs == pyproj.CRS("OGC:CRS84")
    assert (frame.geom_type == "Polygon").all()
    assert frame.is_valid.all()
    assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry.values)).all()
    assert str(frame["datetime"].dtype) == "datetime64[us, UTC]"
    assert len(frame["embedding"][0]) == small.spec.dim
    inside = frame.contains(geopandas.GeoSeries.from_xy(frame["lon"], frame["lat"], crs=frame.crs))
    assert inside.all()
    boxes = [tuple(box.values()) for box in pq.read_table(part_of(small))["bbox"].to_pylist()]
    assert np.array(boxes).tolist() == frame.bounds.values.tolist()


def test_geopandas_filters_by_the_covering(small: Collection) -> None:
    whole = geopandas.read_parquet(part_of(small))
    box = shapely.box(*whole.geometry[40].bounds).buffer(-1e-6)
    found = geopandas.read_parquet(part_of(small), bbox=box.bounds)
    assert set(found["id"]) == set(whole["id"][whole.intersects(box)])
    assert 0 < len(found) < 10


def test_plain_duckdb_reads_a_part(small: Collection) -> None:
    dim = small.spec.dim
    found = duckdb.sql(
        f"SELECT id, lon, bbox.xmin AS west, embedding::FLOAT[{dim}] AS v, datetime "
        f"FROM read_parquet('{part_of(small).as_posix()}') ORDER BY id"
    ).to_arrow_table()
    expected = pq.read_table(part_of(small)).sort_by("id")
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    vectors = np.array(found["v"].to_pylist(), np.float32)
    assert (vectors == np.array(expected["embedding"].to_pylist(), np.float32)).all()
    best = duckdb.sql(
        f"SELECT array_cosine_similarity(embedding::FLOAT[{dim}], embedding::FLOAT[{dim}]) "
        f"FROM read_parquet('{part_of(small).as_posix()}') LIMIT 1"
    ).fetchall()
    assert best == [(pytest.approx(1.0),)]


def test_the_ways_to_read_that_the_docs_show(small: Collection) -> None:
    parts = small.path / "parts"
    assert len(geopandas.read_parquet(parts)) == 288
    found = geopandas.read_parquet(parts, bbox=(15.0, 46.9, 15.05, 47.0))
    assert {name[0] for name in found["id"]} == {"a"}
    files, vector = f"'{parts.as_posix()}/*.parquet'", f"embedding::FLOAT[{small.spec.dim}]"
    rows = duckdb.sql(
        f"SELECT id, array_cosine_similarity({vector}, (SELECT {vector} FROM {files} "
        f"WHERE id = 'a_4_4')) AS cosine FROM {files} ORDER BY cosine DESC LIMIT 10"
    ).fetchall()
    assert rows[0] == ("a_4_4", pytest.approx(1))


@pytest.mark.skipif(
    "Parquet" not in pyogrio.list_drivers(), reason="this GDAL has no Parquet driver"
)
def test_gdal_reads_a_part(small: Collection) -> None:
    info = pyogrio.read_info(part_of(small))
    assert info["features"] == 144
    assert info["geometry_type"] == "Polygon"


def test_the_footer_is_geoparquet_with_the_spec(small: Collection) -> None:
    metadata = pq.read_schema(part_of(small)).metadata
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert pyproj.CRS.from_json_dict(column["crs"]) == pyproj.CRS("OGC:CRS84")
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    frame = geopandas.read_parquet(part_of(small))
    assert column["bbox"] == frame.total_bounds.tolist()
    emb = json.loads(metadata[b"emb"])
    assert emb["emb:type"] == "chip"
    assert emb["emb:dimensions"] == small.spec.dim
    assert EmbeddingSpec.from_json(emb["terrakin:spec"]) == small.spec
    assert read_footer_spec(part_of(small)) == small.spec


def test_row_groups_have_statistics_and_are_compressed(small: Collection) -> None:
    group = pq.ParquetFile(part_of(small)).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for side in ("xmin", "ymin", "xmax", "ymax"):
        assert columns[f"bbox.{side}"].statistics.has_min_max
    assert columns["embedding.list.element"].statistics is None
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_neighbours_in_the_file_are_neighbours_on_the_ground(small: Collection) -> None:
    ids = pq.read_table(part_of(small), columns=["id"])["id"].to_pylist()
    place = np.array([[int(number) for number in name.split("_")[1:]] for name in ids])
    steps = np.abs(np.diff(place, axis=0)).sum(axis=1)
    # Row by row, each end of a row would be a jump of 11 columns and a row.
    assert steps.mean() < 1.3


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_every_dtype_comes_back_from_pyarrow_and_duckdb(
    make_spec: MakeSpec, tmp_path: Path, dtype: str
) -> None:
    spec = make_spec(dtype=dtype, scale=(0.05,) * 4 if dtype == "int8" else None)
    table = rows(spec, 300)
    write_part(tmp_path / "part.parquet", table, spec)
    assert pq.read_table(tmp_path / "part.parquet")["embedding"].equals(table["embedding"])
    path = (tmp_path / "part.parquet").as_posix()
    found = duckdb.sql(f"SELECT embedding::FLOAT[4] FROM read_parquet('{path}')").fetchall()
    assert np.allclose([v for (v,) in found], np.array(table["embedding"].to_pylist(), float))


def test_the_bytes_depend_on_the_rows_alone(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    chunked = pa.concat_tables([rows(spec, 50).slice(0, 20), rows(spec, 50).slice(20)])
    write_part(tmp_path / "one.parquet", rows(spec, 50), spec)
    write_part(tmp_path / "two.parquet", chunked.combine_chunks(), spec)
    hashes = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    assert len(hashes) == 1


def test_a_part_without_rows_is_whole_too(make_spec: MakeSpec, tmp_path: Path) -> None:
    write_part(tmp_path / "none.parquet", rows(make_spec(), 0), make_spec())
    assert geopandas.read_parquet(tmp_path / "none.parquet").empty
    assert read_footer_spec(tmp_path / "none.parquet") == make_spec()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _garbage(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"\x00" * 200 + b"PAR1")


def _other_parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _garbage, _other_parquet, _empty, Path.unlink])
def test_a_damaged_part_is_an_error_in_words(
    tmp_path: Path, write_raster: Any, land: Any, embed: Any, damage: Callable[[Path], None]
) -> None:
    collection = embed(tmp_path / "store", write_raster(tmp_path / "a.tif", land()))
    damage(part_of(collection))
    with pytest.raises(StoreFormatError, match="is not a whole Terrakin part"):
        read_footer_spec(part_of(collection))
    reader = Reader(collection)
    calls = (
        reader.items,
        lambda: reader.item("a_0_0"),
        lambda: reader.rows([0]),
        lambda: list(reader.batches()),
    )
    for call in calls:
        with pytest.raises(StoreFormatError, match="terrakin verify"):
            call()


ATTRIBUTES = (
    ("class", "string"),
    ('od"d.name', "int64"),
    ("lat.x", "float64"),
    ("filename", "string"),
    ("ok", "bool"),
    ("seen", "timestamp"),
)


def attributed(spec: EmbeddingSpec, count: int) -> pa.Table:
    """Rows with attributes; every third value of each is missing."""
    table = rows(replace(spec, attributes=()), count)
    seen = datetime(2020, 1, 2, tzinfo=UTC)
    values = (
        [f"class {i % 2}" for i in range(count)],
        list(range(count)),
        [i / 2 for i in range(count)],
        [f"{i}.png" for i in range(count)],
        [i % 2 == 0 for i in range(count)],
        [seen + timedelta(days=i) for i in range(count)],
    )
    for field, column in zip(attribute_fields(spec), values, strict=True):
        gaps = [None if i % 3 == 2 else value for i, value in enumerate(column)]
        table = table.append_column(field, pa.array(gaps, field.type))
    return table.select(arrow_schema(spec).names)


def test_attributes_are_columns_that_everyone_reads(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(attributes=ATTRIBUTES)
    table, path = attributed(spec, 30), tmp_path / "part.parquet"
    write_part(path, table, spec)
    names = [name for name, _ in ATTRIBUTES]
    assert pq.read_schema(path).names == [*ITEM_COLUMNS, *names, "embedding"]
    assert pq.read_table(path).select(names).equals(table.select(names))
    frame = geopandas.read_parquet(path)
    assert frame["class"][:2].tolist() == ["class 0", "class 1"]
    assert frame["class"].isna().sum() == 10
    found = duckdb.sql(
        f"SELECT count(*) FROM read_parquet('{path.as_posix()}') WHERE \"lat.x\" > 10"
    ).fetchall()
    assert found == [(6,)]
    assert read_footer_spec(path) == spec
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["class"].statistics.max == "class 1"
    assert "RLE_DICTIONARY" in columns["class"].encodings


def test_a_spec_without_attributes_is_as_ever(make_spec: MakeSpec) -> None:
    data = make_spec().to_json()
    assert data.pop("attributes") == ()
    assert EmbeddingSpec.from_json(data) == make_spec()
    some = make_spec(attributes=ATTRIBUTES)
    assert EmbeddingSpec.from_json(json.loads(json.dumps(some.to_json()))) == some


def test_specs_of_other_attributes_differ(make_spec: MakeSpec) -> None:
    some = make_spec(attributes=(("a", "int64"), ("b", "string")))
    assert some.differences(some) == []
    other = make_spec(attributes=(("b", "bool"), ("c", "string")))
    assert some.differences(other) == [
        "attribute 'a' (collection: int64, asked: none)",
        "attribute 'b' (collection: string, asked: bool)",
        "attribute 'c' (collection: none, asked: string)",
    ]
    turned = make_spec(attributes=(("b", "string"), ("a", "int64")))
    assert some.differences(turned) == ["order of the attributes"]
