"""Vectors and cells of a table of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.encoders.location_file import load_location, save_location
from embeddings.errors import InputError, PlaceError, SourceError, SourceNotFoundError
from embeddings.locations import embed_points, location_encoder, name_cells


@pytest.fixture(scope="module")
def encoder() -> LocationEncoder:
    rng = np.random.default_rng(0)
    layers = (
        Layer(rng.normal(size=(12, 25)) / 20, rng.normal(size=12), 10.0),
        Layer(rng.normal(size=(6, 12)), rng.normal(size=6), 0.0),
    )
    return LocationEncoder("tiny", 5, "stable", layers, rng.normal(size=(6, 9)))


def points(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_points_keep_their_order_and_columns(encoder: LocationEncoder, tmp_path: Path) -> None:
    table = points(
        tmp_path / "p.csv", "name,code,lon,lat\nb,007,10,50\na,NA,-179.5,-10\nc,1,181,0\n"
    )
    assert embed_points(table, tmp_path / "v.parquet", encoder) == 3
    found = pq.read_table(tmp_path / "v.parquet")
    assert found.column_names == ["name", "code", "lon", "lat", "embedding"]
    assert found["name"].to_pylist() == ["b", "a", "c"]
    assert found["code"].to_pylist() == ["007", "NA", "1"]
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 6)
    vectors = np.array(found["embedding"].to_pylist())
    expected = encoder.encode([10, -179.5, -179], [50, -10, 0])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert encoder.sha256.encode() in found.schema.metadata[b"terrakin"]


def test_many_points_are_written_in_batches(encoder: LocationEncoder, tmp_path: Path) -> None:
    lon = np.linspace(-180, 180, 40_001)
    pq.write_table(pa.table({"lon": lon, "lat": lon / 4}), tmp_path / "p.parquet")
    seen: list[int] = []
    count = embed_points(
        tmp_path / "p.parquet", tmp_path / "v.parquet", encoder, lambda p: seen.append(p.done)
    )
    assert (count, seen[-1]) == (40_001, 40_001)
    assert pq.read_table(tmp_path / "v.parquet")["lon"].to_pylist() == lon.tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lon,lat\n0,0\n0,91\n1,95\n", "2 of 3 rows are no places: row 2 (0, 91)"),
        ("lon,lat\n10,100\n20,120\n", "swapped"),
        ("lon,lat\n0,nan\n", "no places"),
        ("lon,lat\n0,\n", "no places"),
        ("lon,lat\n600,0\n", "no places"),
        ("lon,lat\nx,0\n", "invalid value 'x'"),
        ("longitude,lat\n0,0\n", "no column lon"),
        ("lon,lon,lat\n0,0,0\n", "more than one column lon"),
        ("lon,lat,embedding\n0,0,1\n", "a column 'embedding' already"),
    ],
)
def test_one_bad_row_fails_the_file(
    encoder: LocationEncoder, tmp_path: Path, text: str, said: str
) -> None:
    out = tmp_path / "v.parquet"
    with pytest.raises((InputError, SourceError)) as raised:
        embed_points(points(tmp_path / "p.csv", text), out, encoder)
    assert said in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_only_the_first_five_bad_rows_are_listed(encoder: LocationEncoder, tmp_path: Path) -> None:
    table = points(tmp_path / "p.csv", "lon,lat\n" + "0,99\n" * 9)
    with pytest.raises(InputError, match="9 of 9 rows") as raised:
        embed_points(table, tmp_path / "v.parquet", encoder)
    assert str(raised.value).count("row ") == 5


def test_files_that_cannot_be_read(encoder: LocationEncoder, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        embed_points(tmp_path / "none.csv", tmp_path / "v.parquet", encoder)
    with pytest.raises(SourceError, match="cannot be read"):
        embed_points(points(tmp_path / "p.parquet", "no"), tmp_path / "v.parquet", encoder)
    with pytest.raises(InputError, match=r"must end in \.parquet"):
        embed_points(points(tmp_path / "p.csv", "lon,lat\n0,0\n"), tmp_path / "v.csv", encoder)
    with pytest.raises(InputError, match="no location encoder"):
        location_encoder("magic")


def test_cells_of_points(tmp_path: Path) -> None:
    table = points(tmp_path / "p.csv", "lon,lat\n-0.1278,51.5074\n180,10\n151.2093,-33.8688\n")
    assert name_cells(table, tmp_path / "c.csv", 10) == 3
    rows = pyarrow.csv.read_csv(tmp_path / "c.csv")
    assert rows.column_names == [
        "lon",
        "lat",
        "cell",
        "grid_row_u",
        "grid_col_r",
        "sw_lat",
        "sw_lon",
        "utm_epsg",
    ]
    assert rows["cell"].to_pylist() == ["573U_1L", "111U_1973R", "378D_1396R"]
    assert rows["utm_epsg"].to_pylist()[::2] == [32630, 32756]
    assert rows["grid_row_u"].to_pylist() == [573, 111, -378]
    south = points(tmp_path / "s.csv", "lon,lat\n0,-87\n")
    with pytest.raises(PlaceError):
        name_cells(south, tmp_path / "s-cells.csv", 10)
    name_cells(south, tmp_path / "s-cells.csv", 10, official=True)
    assert pyarrow.csv.read_csv(tmp_path / "s-cells.csv")["cell"][0].as_py().startswith("946U_")
    with pytest.raises(InputError, match="0"):
        name_cells(south, tmp_path / "x.csv", 0.0)


def test_models_of_our_own_round_trip(encoder: LocationEncoder, tmp_path: Path) -> None:
    save_location(encoder, tmp_path / "m.safetensors", {"trained_on": "x"})
    again = load_location(tmp_path / "m.safetensors")
    lon, lat = np.array([0.0, 33.0]), np.array([80.0, -20.0])
    np.testing.assert_allclose(again.encode(lon, lat), encoder.encode(lon, lat), atol=1e-4)
    fast = again.encode_row(again.fold(lat[1:])[0], lon)
    np.testing.assert_allclose(fast[1], again.encode(lon, lat)[1], atol=1e-4)
    described = (tmp_path / "m.json").read_text()
    for old, new in (
        ('"mode": "stable"', '"mode": "odd"'),
        ('"degrees": 5', '"degrees": -5'),
        ('"format_version": 1', '"format_version": 9'),
    ):
        assert old in described
        (tmp_path / "m.json").write_text(described.replace(old, new))
        with pytest.raises((SourceError, InputError)):
            load_location(tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text(described)
    weights = bytearray((tmp_path / "m.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(weights)
    with pytest.raises(SourceError, match="does not hold the weights"):
        load_location(tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text("[]")
    with pytest.raises(SourceError):
        load_location(tmp_path / "m.safetensors")
    (tmp_path / "m.json").unlink()
    with pytest.raises(SourceNotFoundError, match="two files"):
        load_location(tmp_path / "m.safetensors")


def test_layers_must_fit_together() -> None:
    layer = Layer(np.zeros((4, 9)), np.zeros(4), 0.0)
    with pytest.raises(InputError, match="gets 16"):
        LocationEncoder("x", 4, "stable", (layer,))
    with pytest.raises(InputError, match="skip"):
        LocationEncoder("x", 3, "stable", (layer,), np.zeros((3, 9)))
