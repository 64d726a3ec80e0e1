"""The rows in an index are those of the Parquet files, whatever is asked of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.index import ids as ids_module
from embeddings.index.build import build_index
from embeddings.index.columns import Column
from embeddings.index.ids import hashes_of, sort_ids
from embeddings.index.rows import BATCH_ROWS, NO_TIME, ROWS_FILE, IndexedReader
from embeddings.query.filters import Filter, rows
from embeddings.query.items import ItemTable, _boxes
from embeddings.search.loaded import Loaded, load
from embeddings.spacing import distance_m
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader
from embeddings.store.schema import item_columns
from embeddings.types import Bounds, LonLat, TimeRange
from tests.embeddings.index_data import clustered, spec_of, write_collection
from tests.embeddings.index_rows_data import COUNT, EDGES, SPECIAL, awkward_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A collection with an index; not to be changed."""
    return awkward_collection(tmp_path_factory.mktemp("rows") / "c")


@pytest.fixture(scope="module")
def plain(collection: Collection) -> Loaded:
    """It, held in memory: opened before there is an index."""
    return load(collection, "without")


@pytest.fixture(scope="module")
def indexed(collection: Collection, plain: Loaded) -> Loaded:
    """It, with an index."""
    assert plain.index.count == COUNT
    build_index(collection)
    return load(collection, "with")


@pytest.fixture(scope="module")
def table(collection: Collection) -> pa.Table:
    """All rows, straight from the Parquet files."""
    return pa.concat_tables(Reader(collection).columns(item_columns(collection.spec)))


def test_both_ways_are_tested(plain: Loaded, indexed: Loaded) -> None:
    assert isinstance(indexed.reader, IndexedReader)
    assert indexed.table is None
    assert not isinstance(plain.reader, IndexedReader)
    assert plain.table is not None
    assert COUNT > 2 * BATCH_ROWS
    assert isinstance(indexed.items.lon, Column)  # mapped, not copied
    assert indexed.items.lon.values.base is not None


@pytest.mark.parametrize(
    "positions",
    [
        [0],
        [COUNT - 1],
        [5, 5, 3, 5],
        [BATCH_ROWS, BATCH_ROWS - 1, 0, 2 * BATCH_ROWS, 2 * BATCH_ROWS - 1],
        [20_099, 20_100, 20_101, 100, 99],
        [],
    ],
)
def test_rows_are_those_of_the_files(plain: Loaded, indexed: Loaded, positions: list[int]) -> None:
    wanted = np.array(positions, np.int64)
    for other in (plain.rows(wanted), plain.reader.rows(wanted)):
        assert indexed.rows(wanted).equals(other, check_metadata=True)


def test_all_rows_in_another_order(indexed: Loaded, table: pa.Table) -> None:
    order = np.random.default_rng(2).permutation(COUNT)
    assert indexed.rows(order).equals(table.take(order), check_metadata=False)
    assert indexed.reader.rows(order[:50].tolist()).num_rows == 50


def test_rows_around_a_place(plain: Loaded, indexed: Loaded, collection: Collection) -> None:
    rng = np.random.default_rng(4)
    chosen = rng.integers(0, COUNT, 60)
    places = [LonLat(float(plain.items.lon[i]), float(plain.items.lat[i])) for i in chosen]
    scan, sizes, across = Reader(collection), [], 0
    for place in (*EDGES, *places):
        found = indexed.around(place)
        assert found.to_pylist() == plain.around(place).to_pylist()
        read = scan.around(place).to_pylist()
        assert sorted(read, key=lambda row: row["position"]) == found.to_pylist()
        sizes.append(found.num_rows)
        boxes = plain.rows(found["position"].to_numpy())["bbox"]
        across += sum(box["xmin"] > box["xmax"] for box in boxes.to_pylist())
    assert sum(sizes) > 150
    assert min(sizes) == 0
    assert across > 20


@pytest.mark.parametrize("same", [False, True])
def test_ids_are_found(
    collection: Collection, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    same: bool,
) -> None:  # fmt: skip
    """Even if the hashes of most are the same."""
    if same:
        awkward = awkward_collection(tmp_path / "c")
        for module in ("ids", "row_writer"):
            monkeypatch.setattr(
                f"embeddings.index.{module}.hashes_of", lambda ids: hashes_of(ids) % np.uint64(9)
            )
        build_index(awkward)
        indexed = load(awkward, "")
    else:
        indexed = load(collection, "")
    names = np.array(table["id"].to_pylist(), object)
    asked = [*SPECIAL, "s_1_7", "s_1_7", "none", "s_1_7 ", "S_1_7", "s_3_16383", "s_4_2999"]
    for ids in (asked, asked[:1], asked[4:5], ["none"], [], tuple(names[::50])):
        found = indexed.find(ids)
        assert found.tolist() == np.flatnonzero(np.isin(names, list(ids))).tolist()
        assert found.dtype == np.int64
        assert indexed.items.reader.find(ids).tolist() == found.tolist()
        assert Reader(collection).find(ids).tolist() == found.tolist()


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(bounds=Bounds(-20, -10, 5, 30)),
        Filter(bounds=Bounds(170, -90, -170, 90)),
        Filter(time=TimeRange.parse("1990-01-01/2000-01-01")),
        Filter(time=TimeRange.parse("../1960-01-01"), bounds=Bounds(0, 0, 90, 90)),
        Filter(where="\"an string\" = 'meadow' AND lon > 0"),
        Filter(ids=(*SPECIAL, "s_1_3", "none")),
        Filter(exclude=((LonLat(180, 0), 3e6),)),
    ],
)
def test_filters_keep_the_same_rows(plain: Loaded, indexed: Loaded, wanted: Filter) -> None:
    kept, other = rows(indexed.items, wanted), rows(plain.items, wanted)
    assert kept is not None
    assert other is not None
    assert kept.tolist() == other.tolist()
    assert 0 < len(kept) < COUNT


def test_the_columns_are_the_same(plain: Loaded, indexed: Loaded) -> None:
    for name in ("lon", "lat", "time", "boxes"):
        assert np.array_equal(getattr(indexed.items, name), getattr(plain.items, name)), name
    assert (indexed.items.time[:] == NO_TIME).any()
    assert indexed.items.count == COUNT


@pytest.mark.parametrize("times", ["none", "one", "several"])
def test_times_that_are_all_the_same_take_no_memory(tmp_path: Path, times: str) -> None:
    first = datetime(2020, 5, 1, tzinfo=UTC)
    span = {
        "none": None,
        "one": (first, first + timedelta(microseconds=1)),
        "several": (first, first + timedelta(days=9)),
    }[times]
    made = write_collection(tmp_path / "c", spec_of(8), [lambda: clustered(3000, 8)], span)
    build_index(made)
    held = load(made, "").items.time
    assert (held[:].strides == (0,)) == (times != "several")
    assert np.array_equal(held[:], ItemTable.load(Reader(made)).time)


@given(st.floats(-180, 180), st.floats(-90, 90))
def test_the_nearest_centre(indexed: Loaded, lon: float, lat: float) -> None:
    items, place = indexed.items, LonLat(lon, lat)
    away = distance_m(place, items.lon[:], items.lat[:])
    row, metres = items.nearest(place)
    assert (row, metres) == (int(np.argmin(away)), pytest.approx(float(away.min())))


def test_the_nearest_centre_among_few_blocks() -> None:
    """Of rows along a line, far from the place."""
    lon = np.linspace(-170, 170, 5000)
    reader: Any = None
    lat = np.full(5000, -30.0)
    items = ItemTable(reader, lon, lat, np.zeros(5000, np.int64), _boxes(lon, lat))
    for place in (LonLat(12.0, 60.0), LonLat(180.0, -30.0), LonLat(0.0, 90.0)):
        assert items.nearest(place)[0] == int(np.argmin(distance_m(place, lon, lat)))


def test_pages_that_are_let_go_come_back(
    plain: Loaded, collection: Collection, indexed: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.index.rows._RESIDENT_BYTES", 1)
    some = np.arange(0, COUNT, 7)
    assert load(collection, "").rows(some).equals(plain.rows(some))
    assert indexed.find(["ü"]).tolist() == plain.find(["ü"]).tolist()


def test_the_stream_can_be_read_with_arrow_alone(indexed: Loaded, table: pa.Table) -> None:
    folder = next(indexed.reader.collection.path.glob("index/*-1"))
    with pa.ipc.open_stream(folder / ROWS_FILE) as stream:
        whole = stream.read_all()
    assert whole.equals(table.select(whole.column_names))
    assert len(whole["id"].chunks) == -(-COUNT // BATCH_ROWS)


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(0, 5))
def test_hashes_are_the_polynomial(texts: list[str], skipped: int) -> None:
    array = pa.array(texts, pa.string())[skipped:]
    expected = []
    for text in texts[skipped:]:
        value, power = 0, 1
        for byte in text.encode():
            power = power * 0x9E3779B97F4A7C15 % 2**64
            value = (value + (byte + 1) * power) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        expected.append(value ^ value >> 31)
    assert hashes_of(array).tolist() == expected


def test_hashes_of_many_ids_differ() -> None:
    names = pa.array([f"scene_{row // 300}_{row % 300}" for row in range(200_000)])
    assert len(np.unique(hashes_of(names))) == 200_000


@pytest.mark.parametrize("bucket", [1000, 40, 3])
def test_sorting_in_buckets_is_sorting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    monkeypatch.setattr(ids_module, "BUCKET_ROWS", bucket)
    monkeypatch.setattr(ids_module, "BLOCK_ROWS", 64)
    hashes = np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64)
    hashes[:3], hashes[500:600] = (0, 2**64 - 1, 2**63), hashes[7]
    hashes.tofile(tmp_path / "hashes")
    done: list[int] = []
    sort_ids(tmp_path / "hashes", tmp_path / "ids", 1000, done.append)
    order = np.argsort(hashes, kind="stable")
    expected = hashes[order].tobytes() + order.astype("<u4").tobytes()
    assert (tmp_path / "ids").read_bytes() == expected
    assert done == sorted(done)
    assert len(done) >= 1000 / bucket
