"""Tables of chips cut elsewhere: columns, rows that cannot be used, images, bands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from embeddings.errors import BandError, InputError, SourceError, SourceNotFoundError
from embeddings.sources.chip_images import image_kind, read_image
from embeddings.sources.chip_table import adapted, check_images, read_chip_table


def picture(path: Path, seed: int = 0, size: int = 12, bands: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size, bands) if bands > 1 else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def csv(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def test_a_table_is_read_with_all_that_it_says(csv: Callable[..., Path]) -> None:
    path = csv(
        "lon,class,path,lat,count,share,ok,seen,datetime,code",
        "10.5,town,a/x one.png,47.1,3,0.5,true,2020-01-02T03:04:05Z,2018-10-13,A1",
        "-170,sea,b/y.png,-12,,,false,,2018-10-13T10:00:00+02:00,B2",
        "181,sea,c/y.png,0,7,1,true,2020-01-02T03:04:05Z,,C3",
    )
    table = read_chip_table(path)
    assert table.rows == 3
    assert table.ids == ("x-one", "y_2", "y_3")
    assert [file.relative_to(path.parent).as_posix() for file in table.files] == [
        "a/x one.png",
        "b/y.png",
        "c/y.png",
    ]
    assert table.lon.tolist() == [10.5, -170, -179]
    assert table.lat.tolist() == [47.1, -12, 0]
    assert table.times == (
        datetime(2018, 10, 13, tzinfo=UTC),
        datetime(2018, 10, 13, 8, tzinfo=UTC),
        None,
    )
    assert table.kinds == (
        ("path", "string"),
        ("class", "string"),
        ("count", "int64"),
        ("share", "float64"),
        ("ok", "bool"),
        ("seen", "timestamp"),
        ("code", "string"),
    )
    assert table.attributes["count"].to_pylist() == [3, None, 7]
    assert table.attributes["seen"][0].as_py() == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert table.notes == ()


def test_a_type_is_found_over_the_whole_column(csv: Callable[..., Path]) -> None:
    rows = [f"{i}.png,0,0,{i}" for i in range(200_000)]
    table = read_chip_table(csv("path,lon,lat,value", *rows, "last.png,0,0,0.5"))
    assert dict(table.kinds)["value"] == "float64"
    assert table.attributes["value"][-1].as_py() == 0.5


def test_names_that_are_taken_are_changed_and_told(csv: Callable[..., Path]) -> None:
    table = read_chip_table(
        csv("path,lon,lat,rank,Similarity,geometry,rank_,,Path", "a.png,1,2,3,4,5,6,7,8")
    )
    assert [name for name, _ in table.kinds] == [
        "path",
        "rank_",
        "Similarity_",
        "geometry_",
        "rank__",
        "column_8",
        "Path_",
    ]
    assert len(table.notes) == 6
    assert "'rank' is kept as 'rank_'" in table.notes[0]


def test_parquet_with_types_of_its_own(tmp_path: Path) -> None:
    noon = datetime(2021, 5, 6, 12)
    table = pa.table(
        {
            "path": ["a.png", "b.png"],
            "id": [7, 8],
            "lon": pa.array([1, 2], pa.float32()),
            "lat": pa.array([3, 4], pa.int16()),
            "datetime": pa.array([noon, None], pa.timestamp("ms")),
            "class": pa.array(["x", "y"]).dictionary_encode(),
            "day": pa.array([noon.date(), None]),
            "small": pa.array([1, 2], pa.int8()),
            "half": pa.array([1.5, 2.5], pa.float32()),
            "nothing": pa.nulls(2),
            "list": [[1], [2]],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_chip_table(tmp_path / "t.parquet")
    assert read.ids == ("7", "8")
    assert read.times == (noon.replace(tzinfo=UTC), None)
    assert dict(read.kinds) == {
        "path": "string",
        "class": "string",
        "day": "timestamp",
        "small": "int64",
        "half": "float64",
        "nothing": "string",
    }
    assert read.attributes["class"].to_pylist() == ["x", "y"]
    assert read.notes == ("Column 'list' holds list<element: int64> and was left out.",)


def test_geoparquet_says_where_by_its_geometries(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(
        {"path": ["a.png"]}, geometry=[shapely.box(499_000, 0, 501_000, 2_000)], crs="EPSG:32633"
    )
    frame.to_parquet(tmp_path / "t.parquet", write_covering_bbox=True)
    table = read_chip_table(tmp_path / "t.parquet")
    assert table.lon[0] == pytest.approx(15, abs=1e-9)
    assert table.lat[0] == pytest.approx(0.009045, abs=1e-5)
    assert [name for name, _ in table.kinds] == ["path"]
    assert table.notes == ()


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (["path,lon", "a.png,1"], SourceError, "has no column lat; it has path, lon"),
        (["path,lon,lat,lat", "a,1,1,1"], SourceError, "more than one column 'lat'"),
        (["path,lon,lat"], InputError, "lists no chips"),
        (["path,lon,lat", "a.png,1"], SourceError, "cannot be read"),
    ],
)
def test_a_table_that_is_none(
    csv: Callable[..., Path], lines: list[str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        read_chip_table(csv(*lines))


@pytest.mark.parametrize("divider", [",", ";", "\t", ", "])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_dividers_and_ends_of_lines_are_those_of_the_file(
    tmp_path: Path, divider: str, ends: str
) -> None:
    rows = [("path", "lon", "lat", "n"), ("a.png", "1.5", "2", "7"), ("b.png", "3", "4", "8")]
    text = ends.join(divider.join(row) for row in rows)
    (tmp_path / "t.csv").write_bytes(f"\ufeff{text}{ends}".encode())
    table = read_chip_table(tmp_path / "t.csv")
    assert table.ids == ("a", "b")
    assert (table.lon.tolist(), table.lat.tolist()) == ([1.5, 3], [2, 4])
    assert table.attributes["n"].to_pylist() == [7, 8]
    assert table.notes == ()


def test_a_decimal_comma_is_shown(csv: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="row 1: lon '1,5' and lat '2' are no place"):
        read_chip_table(csv("path;lon;lat", "a.png;1,5;2"))


PARIS = "\na.png,1,2,Paris"


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("path,lon,lat,größe\na.png,1,2,3\n", "latin-1", "can't decode"),
        (
            f"path,lon,lat,town{PARIS * 999}\na.png,1,2,Zürich\n",
            "latin-1",
            "column 'town' is not UTF-8",
        ),
        ("path,lon,lat\na.png,1,2\n", "utf-16", "can't decode"),
    ],
)
def test_another_encoding_than_utf8_is_told(
    tmp_path: Path, text: str, encoding: str, said: str
) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    with pytest.raises(SourceError, match=said):
        read_chip_table(tmp_path / "t.csv")


@pytest.mark.parametrize("column", ["datetime", "seen"])
@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.date64()])
def test_times_that_are_no_dates_are_told(tmp_path: Path, column: str, kind: pa.DataType) -> None:
    far = pa.array([2**62, None]).cast(kind)
    table = pa.table({"path": ["a.png", "b.png"], "lon": [1, 2], "lat": [1, 2], column: far})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=f"'{column}' holds times beyond the years 1 to 9999"):
        read_chip_table(tmp_path / "t.parquet")


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="Check the path"):
        read_chip_table(tmp_path / "none.csv")


def test_rows_that_cannot_be_used_are_counted_and_the_first_five_shown(
    csv: Callable[..., Path],
) -> None:
    path = csv(
        "id,path,lon,lat,datetime",
        "a,1.png,0,0,",
        "b,,0,0,",
        "a,3.png,0,0,",
        "d,4.png,east,0,",
        "e,5.png,0,91,",
        ",6.png,0,0,",
        "g,7.png,0,0,yesterday",
        "h,8.png,,0,",
    )
    with pytest.raises(InputError) as error:
        read_chip_table(path)
    text = str(error.value)
    assert "7 of 8 rows cannot be used; nothing was written" in text
    assert "row 2: it has no path; row 3: row 1 has the id 'a' too; row 4: lon 'east'" in text
    assert "row 5: lon '0' and lat '91' are no place in degrees" in text
    assert "row 6: it has no id" in text
    assert "row 7" not in text


def test_ids_can_be_part_of_an_address(csv: Callable[..., Path]) -> None:
    names = ["a/b", "..", "c\\d", "ok 1.x"]
    with pytest.raises(InputError, match="3 of 4 rows") as error:
        read_chip_table(csv("id,path,lon,lat", *(f"{name},a.png,0,0" for name in names)))
    assert "row 1: its id 'a/b' cannot be part of an address" in str(error.value)


def test_ids_of_files_are_unique_whatever_they_are_called(csv: Callable[..., Path]) -> None:
    names = ["x/a.png", "y/a.png", "a_1.png", "日本.png", "a_2.png"]
    table = read_chip_table(csv("path,lon,lat", *(f"{name},0,0" for name in names)))
    assert len(set(table.ids)) == 5
    assert table.ids[2:] == ("a_1", "row_4", "a_2")


def test_images_are_alike_or_named(csv: Callable[..., Path], tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    picture(tmp_path / "large.png", size=13)
    picture(tmp_path / "grey.png", bands=1)
    (tmp_path / "text.png").write_text("no image")
    Image.open(good).quantize(4).save(tmp_path / "palette.png")
    names = ["good", "large", "grey", "text", "palette", "absent", "gone"]
    table = read_chip_table(csv("path,lon,lat", *(f"{name}.png,0,0" for name in names)))
    with pytest.raises(InputError) as error:
        check_images(table)
    text = str(error.value)
    assert "6 of 7 rows cannot be used" in text
    assert "13 x 13 pixels, the first one 12 x 12" in text
    assert "has 1 bands, the first one 3" in text
    assert "'text.png' not recognized" in text.replace(str(tmp_path) + "/", "")
    assert "has a palette" in text
    assert "there is no file" in text
    assert "row 7" not in text


def test_other_types_of_numbers_are_other_images(
    csv: Callable[..., Path], tmp_path: Path, write_raster: Any
) -> None:
    write_raster(tmp_path / "a.tif", np.ones((3, 8, 8), np.uint8))
    write_raster(tmp_path / "b.tif", np.ones((3, 8, 8), np.uint16))
    with pytest.raises(InputError, match="holds uint16, the first one uint8"):
        check_images(read_chip_table(csv("path,lon,lat", "a.tif,0,0", "b.tif,0,0")))


def test_the_hash_follows_every_image(csv: Callable[..., Path], tmp_path: Path) -> None:
    for seed in range(3):
        picture(tmp_path / f"{seed}.png", seed)
    table = read_chip_table(csv("path,lon,lat", *(f"{i}.png,0,0" for i in range(3))))
    told: list[int] = []
    first = check_images(table, told.append)
    assert told == [1, 2, 3]
    assert check_images(table) == first
    picture(tmp_path / "1.png", 9)
    assert check_images(table).sha256 != first.sha256


def test_bands_have_the_names_of_the_file_its_colours_or_numbers(
    tmp_path: Path, write_raster: Any
) -> None:
    assert image_kind(picture(tmp_path / "a.png")).bands == ("red", "green", "blue")
    assert image_kind(picture(tmp_path / "g.png", bands=1)).bands == ("B1",)
    four = picture(tmp_path / "alpha.png", bands=4)
    assert image_kind(four).bands == ("red", "green", "blue")
    plain = write_raster(tmp_path / "p.tif", np.ones((4, 8, 8), np.uint16))
    assert image_kind(plain).bands == ("B1", "B2", "B3", "B4")
    said = write_raster(
        tmp_path / "s.tif", np.ones((2, 8, 8), np.uint16), descriptions=("B04", "B08")
    )
    assert image_kind(said).bands == ("B04", "B08")


def test_bands_are_chosen_or_named(tmp_path: Path) -> None:
    kind = image_kind(picture(tmp_path / "a.png"))
    assert kind.chosen(None) == (("red", "green", "blue"), (0, 1, 2))
    assert kind.chosen(["blue", "red"]) == (("blue", "red"), (2, 0))
    assert kind.chosen(["B04", "B03", "B02"]) == (("B04", "B03", "B02"), (0, 1, 2))
    with pytest.raises(BandError, match="no band nir; they have red, green, blue"):
        kind.chosen(["red", "nir"])
    with pytest.raises(BandError, match="twice"):
        kind.chosen(["red", "red"])


def test_the_size_of_a_pixel_is_in_metres(tmp_path: Path, write_raster: Any) -> None:
    ones = np.ones((1, 8, 8), np.uint8)
    assert image_kind(picture(tmp_path / "a.png")).gsd_m is None
    assert image_kind(write_raster(tmp_path / "m.tif", ones, res=20)).gsd_m == pytest.approx(20)
    feet = write_raster(tmp_path / "f.tif", ones, crs="EPSG:2264", origin=(6e5, 2e5), res=100)
    assert image_kind(feet).gsd_m == pytest.approx(30.48, rel=1e-4)
    degrees = write_raster(tmp_path / "d.tif", ones, crs="EPSG:4326", origin=(10, 60), res=1e-4)
    assert image_kind(degrees).gsd_m == pytest.approx(11.12 * np.sqrt(0.5), rel=1e-3)


def test_pixels_and_which_of_them_have_data(tmp_path: Path, write_raster: Any) -> None:
    numbers = np.arange(2 * 4 * 4, dtype=np.uint16).reshape(2, 4, 4)
    plain = write_raster(tmp_path / "a.tif", numbers, scales=(0.5, 2), offsets=(1, 0), nodata=None)
    values, valid = read_image(plain, (1, 0))
    assert (values[0] == numbers[1] * 2).all()
    assert (values[1] == numbers[0] * 0.5 + 1).all()
    assert valid.all()
    values, valid = read_image(plain, (0, 1), nodata=20, scale=10)
    assert (values == numbers * 10).all()
    assert np.argwhere(~valid).tolist() == [[1, 0]]
    masked = write_raster(tmp_path / "b.tif", numbers, nodata=5)
    assert np.argwhere(~read_image(masked, (0,))[1]).tolist() == [[1, 1]]
    assert np.argwhere(~read_image(masked, (1,))[1]).tolist() == []
    mask = np.full((4, 4), 255, np.uint8)
    mask[2, 3] = 0
    masked = write_raster(tmp_path / "c.tif", numbers, mask=mask)
    assert np.argwhere(~read_image(masked, (0, 1))[1]).tolist() == [[2, 3]]
    real = numbers.astype(np.float32)
    real[1, 0, 0] = np.nan
    holed = write_raster(tmp_path / "d.tif", real)
    assert np.argwhere(~read_image(holed, (0, 1))[1]).tolist() == [[0, 0]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_file_cut_off_is_an_error_and_never_pixels(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}", size=64)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="no image that can be read"):
        read_image(path, (0, 1, 2))


def test_attributes_take_the_order_and_the_types_of_a_collection(
    csv: Callable[..., Path],
) -> None:
    table = read_chip_table(csv("path,lon,lat,a,b,c", "x.png,0,0,1,,t"))
    kinds = (("c", "string"), ("b", "float64"), ("a", "float64"), ("path", "string"))
    fitted = adapted(table, kinds)
    assert fitted.kinds == kinds
    assert fitted.attributes["a"].to_pylist() == [1.0]
    other = adapted(table, (("c", "int64"), ("b", "float64"), ("a", "int64"), ("path", "string")))
    assert dict(other.kinds)["c"] == "string"
    assert adapted(table, (("path", "string"),)) is table
