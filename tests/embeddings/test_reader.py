"""Reading by box, by time, by page, by row number, from several parts and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from embeddings.errors import ItemNotFoundError
from embeddings.store import Collection, Scene
from embeddings.store.reader import Reader, _embeddings
from embeddings.store.schema import ITEM_COLUMNS, embedding_array
from embeddings.store.writer import CollectionWriter, batch_table
from embeddings.types import Bounds, LonLat, TimeRange


@pytest.fixture(scope="module")
def dateline(
    tmp_path_factory: pytest.TempPathFactory,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
) -> Collection:
    """8 rows and 21 columns of chips of 0.1 degrees, the middle column over the antimeridian."""
    folder = tmp_path_factory.mktemp("dateline")
    file = write_raster(
        folder / "pacific.tif", land(64, 168), crs="EPSG:4326", origin=(178.95, -16.0), res=0.0125
    )
    return embed(folder / "store", file)


def ids(table: Any) -> set[str]:
    return set(table["id"].to_pylist())


def test_rows_come_in_file_order_over_all_parts(small: Collection) -> None:
    files = [pq.read_table(path, columns=["id"])["id"].to_pylist() for path in small.part_paths]
    assert len(files) == 2
    everything = Reader(small).items(limit=1000)
    assert everything["id"].to_pylist() == files[0] + files[1]
    assert "embedding" not in everything.column_names


def test_pages_are_stable_and_complete(small: Collection) -> None:
    reader = Reader(small)
    pages = [reader.items(limit=50, offset=start)["id"].to_pylist() for start in range(0, 300, 50)]
    assert [len(page) for page in pages] == [50, 50, 50, 50, 50, 38]
    assert [name for page in pages for name in page] == reader.items(limit=1000)["id"].to_pylist()
    assert reader.items(limit=10, offset=288).num_rows == 0


def test_a_box_finds_what_meets_it(small: Collection) -> None:
    reader = Reader(small)
    everything = reader.items(limit=1000)
    one = everything.slice(37, 1).to_pylist()[0]["bbox"]
    box = Bounds(one["xmin"] + 1e-7, one["ymin"] + 1e-7, one["xmax"] - 1e-7, one["ymax"] - 1e-7)
    expected = {
        row["id"]
        for row in everything.to_pylist()
        if row["bbox"]["xmin"] <= box.east
        and row["bbox"]["xmax"] >= box.west
        and row["bbox"]["ymin"] <= box.north
        and row["bbox"]["ymax"] >= box.south
    }
    assert ids(reader.items(box)) == expected
    assert reader.count(box) == len(expected) < 10
    assert reader.count(Bounds(0, 0, 1, 1)) == 0
    assert reader.count() == 288


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((178.96, -90, 179.04, 90), {0}),
        ((-179.04, -90, -178.96, 90), {20}),
        ((179.96, -90, -179.96, 90), {10}),
        ((179.99, -90, 180, 90), {10}),
        ((-180, -90, -179.99, 90), {10}),
        ((179.94, -90, -179.94, 90), {9, 10, 11}),
        ((-180, -90, 180, 90), set(range(21))),
        ((10, -90, 20, 90), set()),
        ((170, -90, 178, 90), set()),
    ],
)
def test_boxes_over_the_antimeridian(
    dateline: Collection, box: tuple[float, float, float, float], expected: set[int]
) -> None:
    found = Reader(dateline).items(Bounds(*box), limit=1000)
    assert {int(name.rsplit("_", 1)[1]) for name in ids(found)} == expected
    assert found.num_rows == 8 * len(expected)


def test_what_crosses_the_antimeridian_is_marked_as_such(dateline: Collection) -> None:
    assert dateline.bounds is not None
    assert dateline.bounds.crosses_antimeridian
    assert dateline.descriptor["extent"]["spatial"]["bbox"][0] == pytest.approx(
        [178.95, -16.8, -178.95, -16.0]
    )
    rows = Reader(dateline).items(limit=1000).to_pylist()
    over = [row for row in rows if row["bbox"]["xmin"] > row["bbox"]["xmax"]]
    assert {row["id"].rsplit("_", 1)[1] for row in over} == {"10"}
    assert all(abs(abs(row["lon"]) - 180) < 1e-9 for row in over)


def test_around_finds_a_chip_over_the_antimeridian_from_both_sides(dateline: Collection) -> None:
    reader = Reader(dateline)
    for lon in (179.999, -179.999, 180.0, -180.0):
        found = reader.around(LonLat(lon, -16.35))
        assert ids(found) == {"pacific_3_10"}
        position = found["position"][0].as_py()
        assert reader.rows([position])["id"].to_pylist() == ["pacific_3_10"]


@pytest.mark.parametrize(
    ("text", "scenes"),
    [
        ("2018-10-13T10:00:00Z", {"a"}),
        ("2018-10-13T12:00:00+02:00", {"a"}),
        ("2018-10-01/..", {"a"}),
        ("../2018-10-13T09:59:59Z", set()),
        ("2019-01-01/2020-01-01", set()),
        ("../..", {"a", "b"}),
    ],
)
def test_times_filter_what_has_one(small: Collection, text: str, scenes: set[str]) -> None:
    reader, time = Reader(small), TimeRange.parse(text)
    found = reader.items(time=time, limit=1000)
    assert {name.split("_")[0] for name in ids(found)} == scenes
    assert reader.count(time=time) == found.num_rows
    assert str(found["datetime"].type) == "timestamp[us, tz=UTC]"


def test_items_are_found_by_id_and_only_by_id(small: Collection) -> None:
    reader = Reader(small)
    assert reader.item("b_3_4")["id"].to_pylist() == ["b_3_4"]
    for name in ("b_99_99", "", "' OR 1=1 --", "b_3_%"):
        with pytest.raises(ItemNotFoundError, match="has no item"):
            reader.item(name)


def test_rows_come_in_the_order_asked_for(small: Collection) -> None:
    reader = Reader(small)
    everything = reader.items(limit=1000)
    wanted = [287, 0, 143, 144, 5, 287]
    expected = [everything["id"][i].as_py() for i in wanted]
    assert reader.rows(wanted)["id"].to_pylist() == expected
    assert reader.rows([]).num_rows == 0


def test_batches_give_all_vectors_in_row_order(small: Collection) -> None:
    reader = Reader(small)
    vectors = np.concatenate([values for _, values in reader.batches(rows=50)])
    stored = np.concatenate(
        [np.array(pq.read_table(p)["embedding"].to_pylist()) for p in small.part_paths]
    )
    assert vectors.dtype == np.float32
    assert (vectors == stored.astype(np.float32)).all()
    assert not np.array_equal(vectors[:144], vectors[144:])


def test_an_empty_collection_reads_as_nothing(small: Collection) -> None:
    reader = Reader(replace(small, scenes=()))
    assert reader.items(Bounds(-180, -90, 180, 90)).num_rows == 0
    assert reader.count() == reader.count(Bounds(-180, -90, 180, 90)) == 0
    with pytest.raises(ItemNotFoundError):
        reader.item("a_0_0")


def test_many_threads_share_a_reader(small: Collection) -> None:
    reader = Reader(small)
    everything = reader.items(limit=1000)["id"].to_pylist()

    def work(number: int) -> bool:
        name = everything[number * 7 % 288]
        return (
            reader.item(name)["id"].to_pylist() == [name]
            and reader.items(limit=20, offset=number)["id"].to_pylist()
            == everything[number : number + 20]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))


@pytest.fixture
def with_attributes(tmp_path: Path, make_spec: Callable[..., Any]) -> Collection:
    """Two parts of three unit squares of a hundredth of a degree, with attributes."""
    kinds = (("class", "string"), ('od"d.name', "int64"), ("lat.x", "float64"))
    spec = make_spec(attributes=(*kinds, ("filename", "string")))
    writer = CollectionWriter.begin(tmp_path / "named", spec, "CC0-1.0", lambda _: None)
    for scene in ("a", "b"):
        writer.begin_scene(Scene(scene, "", (), None, {}, (0, 0, 1, 1), 3, 0, False, (), ()))
        west = np.arange(3) * 0.01 + (scene == "b")
        squares = shapely.box(west, 0, west + 0.01, 0.01)
        sides = ("xmin", "ymin", "xmax", "ymax")
        rows = batch_table(
            {
                "id": [f"{scene}{i}" for i in range(3)],
                "grid_cell": [None] * 3,
                "datetime": [None] * 3,
                "lon": west + 0.005,
                "lat": np.full(3, 0.005),
                "bbox": [
                    dict(zip(sides, box, strict=True)) for box in shapely.bounds(squares).tolist()
                ],
                "geometry": shapely.to_wkb(squares, byte_order=1).tolist(),
                "class": ["field", None, scene],
                'od"d.name': [1, 2, None],
                "lat.x": [0.5, None, float("nan")],
                "filename": [f"{scene}{i}.png" for i in range(3)],
                "embedding": embedding_array(np.eye(3, 4, dtype=np.float16)),
                "order": [0, 1, 2],
            },
            spec,
        )
        writer.stage(scene, 0, rows)
        writer.publish(scene, 0, [0], 3)
        writer.finish_scene(scene)
    return writer.collection


def test_attributes_come_with_the_items(with_attributes: Collection) -> None:
    reader = Reader(with_attributes)
    names = [*ITEM_COLUMNS, "class", 'od"d.name', "lat.x", "filename"]
    for table in (reader.items(limit=10), reader.item("b2"), reader.rows([5, 0])):
        assert table.column_names == names
    assert reader.items(limit=10)["class"].to_pylist() == ["field", None, "a", "field", None, "b"]
    assert reader.rows([5, 0])["filename"].to_pylist() == ["b2.png", "a0.png"]
    here = reader.around(LonLat(1.025, 0.005))
    assert here.column_names == ["position", "id", "lon", "lat", "geometry"]
    assert here["position"].to_pylist() == [5]
    assert reader.rows([]).column_names[: len(names)] == names
    assert [len(vectors) for _, vectors in reader.batches()] == [3, 3]


def test_vectors_and_columns_come_in_row_order(small: Collection) -> None:
    reader = Reader(small)
    everything = np.concatenate([values for _, values in reader.batches()])
    wanted = [287, 0, 143, 144, 5, 287]
    assert reader.vectors(wanted).tolist() == everything[wanted].tolist()
    assert reader.vectors([]).shape == (0, small.spec.dim)
    names = reader.items(limit=1000)["id"].to_pylist()
    assert [n for table in reader.columns(("id", "lon")) for n in table["id"].to_pylist()] == names


def test_vectors_are_read_of_few_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "groups.parquet"
    values = np.arange(400, dtype=np.float32).reshape(100, 4)
    pq.write_table(pa.table({"embedding": embedding_array(values)}), path, row_group_size=7)
    for rows in ([99, 0, 50, 50, 13, 14], [41], [0], list(range(99, -1, -1))):
        assert _embeddings(str(path), np.array(rows)).tolist() == values[rows].tolist()


def test_conditions_and_ids_give_row_numbers(small: Collection) -> None:
    reader = Reader(small)
    names = reader.items(limit=1000)["id"].to_pylist()
    some = ["b_11_11", "a_0_0", "nowhere", "' OR 1=1 --"]
    expected = [row for row, name in enumerate(names) if name in some]
    assert reader.find(some).tolist() == expected
    assert len(expected) == 2
    assert reader.find([]).tolist() == []
    assert reader.matching("id LIKE $what", {"what": "b%"}).tolist() == list(range(144, 288))
    assert reader.matching("false", {}).dtype == np.int64
    empty = Reader(replace(small, scenes=()))
    assert empty.find(["a_0_0"]).tolist() == []
    assert list(empty.columns(("lon",))) == []
