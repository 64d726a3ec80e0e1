"""Filters keep the rows that a plain test of every row keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.query.filters import Filter, barred, rows
from embeddings.query.items import NO_TIME, ItemTable, _boxes
from embeddings.query.polygons import read_polygons
from embeddings.spacing import distance_m
from embeddings.store import Collection
from embeddings.store.reader import Reader
from embeddings.types import Bounds, LonLat, TimeRange

Ring = list[tuple[float, float]]


def table(lon: NDArray[np.float64], lat: NDArray[np.float64], time: Any = None) -> ItemTable:
    """Items at places, without a collection behind them."""
    times = np.full(len(lon), NO_TIME) if time is None else np.asarray(time, np.int64)
    reader: Any = None
    return ItemTable(reader, lon, lat, times, _boxes(lon, lat))


@pytest.fixture
def everywhere(rng: np.random.Generator) -> ItemTable:
    lon, lat = rng.uniform(-180, 180, 30_000), rng.uniform(-90, 90, 30_000)
    order = np.lexsort((lat, np.floor(lon / 10)))
    lon, lat = lon[order], lat[order]
    lon[:4], lat[:4] = (180, -180, 179.5, 0), (0, 0, 90, -90)
    return table(lon, lat, rng.integers(0, 2_000_000_000_000_000, 30_000))


def polygon(*ring: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


BOX = ((0, 40), (20, 40), (20, 50), (0, 50))


@pytest.mark.parametrize(
    "bounds",
    [
        (-180, -90, 180, 90), (0, 0, 10, 10), (170, -20, -170, 20), (5, 5, 5, 5),
        (179.9, -90, 180, 90), (-60, 89, 60, 90), (10, -90, 9, 90),
    ],
)  # fmt: skip
def test_boxes(everywhere: ItemTable, bounds: tuple[float, float, float, float]) -> None:
    west, south, east, north = bounds
    lon, lat = everywhere.lon, everywhere.lat
    inside = (lat >= south) & (lat <= north)
    across = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
    found = rows(everywhere, Filter(bounds=Bounds(*bounds)))
    assert found is not None
    assert found.tolist() == np.flatnonzero(inside & across).tolist()


@settings(max_examples=60, deadline=None)
@given(
    lon=st.floats(-180, 180), lat=st.floats(-90, 90), metres=st.sampled_from([1.0, 5e4, 3e6, 2.5e7])
)
def test_what_is_near_a_place(lon: float, lat: float, metres: float) -> None:
    rng = np.random.default_rng(1)
    items = table(rng.uniform(-180, 180, 9000), rng.uniform(-90, 90, 9000))
    place = LonLat(lon, lat)
    near = distance_m(place, items.lon, items.lat) <= metres
    assert items.near(place, metres).tolist() == np.flatnonzero(near).tolist()
    kept = rows(items, Filter(exclude=((place, metres),)))
    assert kept is not None
    assert kept.tolist() == np.flatnonzero(~near).tolist()
    close = barred(items, Filter(exclude=((place, metres),)))
    assert close is not None
    assert close.tolist() == np.flatnonzero(near).tolist()


def test_no_wish_is_no_filter_and_no_row_is_an_answer(everywhere: ItemTable) -> None:
    assert rows(everywhere, Filter()) is None
    assert barred(everywhere, Filter()) is None
    assert Filter(where=" ", time=TimeRange(None, None)).only_excludes
    assert rows(everywhere, Filter(where="  ", time=TimeRange(None, None))) is None
    assert rows(everywhere, Filter(exclude=((LonLat(0, 0), 0.0),))) is None
    nothing = Filter(bounds=Bounds(0, 0, 10, 10), time=TimeRange.parse("1900-01-01/1950-01-01"))
    found = rows(everywhere, nothing)
    assert found is not None
    assert (found.dtype, len(found)) == (np.int64, 0)
    empty = table(np.empty(0), np.empty(0))
    found = rows(empty, Filter(bounds=Bounds(-180, -90, 180, 90)))
    assert found is not None
    assert found.tolist() == []


def test_times_are_compared_to_the_microsecond() -> None:
    moments = [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), datetime(2020, 1, 1, tzinfo=UTC)]
    stamps = [-1, 1_577_836_800_000_000, NO_TIME]
    items = table(np.zeros(3), np.zeros(3), stamps)
    for start, end, expected in (
        (moments[0], None, [0, 1]),
        (None, moments[0], [0]),
        (moments[1], moments[1], [1]),
        (datetime(2020, 1, 1, 0, 0, 0, 1, UTC), None, []),
        (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), [0, 1]),
    ):
        found = rows(items, Filter(time=TimeRange(start, end)))
        assert found is not None
        assert found.tolist() == expected


def test_polygons_hold_the_centres_inside(everywhere: ItemTable) -> None:
    ring: Ring = [(0, 0), (30, 10), (10, 20), (5, 40)]
    read = read_polygons(json.dumps(polygon(*ring)))
    shape = shapely.Polygon(ring)
    expected = shapely.contains_xy(shape, everywhere.lon, everywhere.lat)
    found = rows(everywhere, Filter(polygons=(read.area,)))
    assert read.notes == ()
    assert found is not None
    assert found.tolist() == np.flatnonzero(expected).tolist()
    other = read_polygons(polygon((2, 1), (4, 1), (4, 3), (2, 3))).area
    assert rows(everywhere, Filter(polygons=(read.area, other))) is not None
    half = rows(everywhere, Filter(polygons=(read.area, other), bounds=Bounds(-1, -1, 10, 90)))
    both = expected | shapely.contains_xy(shapely.box(2, 1, 4, 3), everywhere.lon, everywhere.lat)
    assert half is not None
    assert half.tolist() == np.flatnonzero(both & (everywhere.lon <= 10)).tolist()


def test_a_polygon_over_the_antimeridian(everywhere: ItemTable) -> None:
    expected = (np.abs(everywhere.lon) > 170) & (np.abs(everywhere.lat) < 20)
    beyond = polygon((170, -20), (190, -20), (190, 20), (170, 20))
    west = polygon((170, -20), (180, -20), (180, 20), (170, 20))["coordinates"]
    east = polygon((-180, -20), (-170, -20), (-170, 20), (-180, 20))["coordinates"]
    for source in (beyond, {"type": "MultiPolygon", "coordinates": [west, east]}):
        read = read_polygons(source)
        assert read.notes == ()
        found = rows(everywhere, Filter(polygons=(read.area,)))
        assert found is not None
        # A centre at ±180 itself may lie on an edge.
        there = everywhere.lon[found]
        assert set(np.flatnonzero(expected & (np.abs(everywhere.lon) < 180))) <= set(found)
        assert (np.abs(there) > 170).all()
    drawn = read_polygons(polygon((170, -20), (-170, -20), (-170, 20), (170, 20)))
    assert "antimeridian" in drawn.notes[0]


def test_a_polygon_that_crosses_itself_is_made_valid(everywhere: ItemTable) -> None:
    read = read_polygons(polygon((0, 0), (20, 20), (20, 0), (0, 20)))
    assert "Self-intersection" in read.notes[0]
    found = rows(everywhere, Filter(polygons=(read.area,)))
    assert found is not None
    lon, lat = everywhere.lon[found] - 10, everywhere.lat[found] - 10
    assert len(found) > 20
    assert (np.abs(lat) <= np.abs(lon)).all()


@pytest.mark.parametrize(
    "geojson",
    [
        {
            "type": "MultiPolygon",
            "coordinates": [
                polygon((0, 0), (20, 0), (20, 20), (0, 20))["coordinates"],
                polygon((10, 10), (40, 10), (40, 40), (10, 40))["coordinates"],
            ],
        },
        # Two loops that go around the square from (10, 10) to (20, 20) both.
        polygon(
            (0, 0), (20, 0), (20, 20), (10, 20), (10, 10), (40, 10), (40, 40), (10, 40), (10, 20),
            (0, 20),
        ),
    ],
)  # fmt: skip
def test_what_polygons_cover_twice_is_not_lost(geojson: Any, everywhere: ItemTable) -> None:
    read = read_polygons(geojson)
    assert "made valid" in read.notes[0]
    found = rows(everywhere, Filter(polygons=(read.area,)))
    assert found is not None
    parts = shapely.box(0, 0, 20, 20), shapely.box(10, 10, 40, 40)
    inside = shapely.contains_xy(shapely.union_all(parts), everywhere.lon, everywhere.lat)
    assert found.tolist() == np.flatnonzero(inside).tolist()
    assert shapely.contains_xy(shapely.intersection(*parts), everywhere.lon, everywhere.lat).any()


def test_loops_count_by_how_often_they_go_around_a_place() -> None:
    ring = np.random.default_rng(7).uniform(0, 60, (60, 2))
    area = read_polygons(polygon(*map(tuple, ring.tolist()))).area
    lon, lat = np.random.default_rng(8).uniform(0, 60, (2, 3_000))
    x, y = (np.append(ring[:, i], ring[0, i])[:, None] for i in (0, 1))
    left = (x[1:] - x[:-1]) * (lat - y[:-1]) - (y[1:] - y[:-1]) * (lon - x[:-1])
    up, down = (y[:-1] <= lat) & (y[1:] > lat), (y[:-1] > lat) & (y[1:] <= lat)
    turns = (up & (left > 0)).sum(axis=0) - (down & (left < 0)).sum(axis=0)
    assert set(np.abs(turns)) >= {0, 1, 2}
    np.testing.assert_array_equal(area.contains(lon, lat), turns != 0)


def test_a_tangle_of_edges_is_refused_before_it_takes_minutes() -> None:
    ring = np.random.default_rng(3).uniform(0, 60, (3_000, 2)).round(2)
    tangle = polygon(*map(tuple, ring.tolist()))
    with pytest.raises(InputError, match=r"about 1,\d{3},\d{3} times; up to 100,000"):
        read_polygons(tangle)
    corners = np.random.default_rng(4).uniform(0, 60, (900, 2, 2)).round(2)
    slivers = [polygon(tuple(a), tuple(b), tuple(a + 0.01)) for a, b in corners]
    features = [{"type": "Feature", "geometry": each} for each in slivers]
    with pytest.raises(InputError, match=r"about [34]\d\d,\d{3} times; up to 100,000"):
        read_polygons({"type": "FeatureCollection", "features": features})
    turn = np.linspace(0, 2 * np.pi, 20_000)[:-1]
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1) * 10
    circle[[500, 501]] = circle[[501, 500]]
    read = read_polygons(polygon(*map(tuple, circle.tolist())))
    assert "Self-intersection" in read.notes[0]


def test_polygons_in_another_crs(everywhere: ItemTable) -> None:
    square = polygon((300_000, 4_500_000), (700_000, 4_500_000), (700_000, 5e6), (300_000, 5e6))
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    collection = {
        "type": "FeatureCollection",
        "crs": named,
        "features": [{"type": "Feature", "properties": {"a": 1}, "geometry": square}],
    }
    answers = [read_polygons(square, crs="EPSG:32633"), read_polygons(collection)]
    found = [rows(everywhere, Filter(polygons=(each.area,))) for each in answers]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].tolist() == found[1].tolist()
    assert len(found[0]) > 5
    assert ((everywhere.lon[found[0]] > 12) & (everywhere.lon[found[0]] < 18)).all()


def test_polygons_of_a_file(tmp_path: Path, everywhere: ItemTable) -> None:
    path = tmp_path / "area.gpkg"
    wkb = shapely.to_wkb([shapely.Polygon(BOX)])
    pyogrio.raw.write(path, np.array(wkb, object), [], [], geometry_type="Polygon", crs="EPSG:4326")
    from_file = rows(everywhere, Filter(polygons=(read_polygons(path).area,)))
    from_json = rows(everywhere, Filter(polygons=(read_polygons(polygon(*BOX)).area,)))
    assert from_file is not None
    assert from_json is not None
    assert from_file.tolist() == from_json.tolist()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{", "cannot be read"),
        ("{" * 100_000, "cannot be read"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "FeatureCollection"}, "no list of features"),
        ({"type": "Point", "coordinates": [0, 0]}, "holds a Point"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "cannot be read"),
        ({"type": "Polygon", "coordinates": []}, "no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}, "no polygon"),
        ({"type": "Nonsense"}, "cannot be read"),
        ({}, "holds no polygon"),
    ],
)
def test_what_is_no_polygon_is_refused(source: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_polygons(source)


def test_wrong_crs_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CRS"):
        read_polygons(polygon(*BOX), crs="EPSG:none")
    with pytest.raises(InputError, match=r"Vertical CRS \(EGM96 height\)"):
        read_polygons(polygon(*BOX), crs="EPSG:5773")
    with pytest.raises(InputError, match="for GeoJSON only"):
        read_polygons(tmp_path / "a.gpkg", crs="EPSG:4326")
    with pytest.raises(SourceNotFoundError):
        read_polygons(tmp_path / "a.gpkg")
    (tmp_path / "b.gpkg").write_text("no")
    with pytest.raises(SourceError):
        read_polygons(tmp_path / "b.gpkg")


def named(name: Any) -> dict[str, Any]:
    return {"type": "name", "properties": {"name": name}}


@pytest.mark.parametrize(
    ("crs", "told"),
    [
        (
            {"type": "link", "properties": {"href": "http://127.0.0.1:9/crs", "type": "proj4"}},
            "may",
        ),
        ({"type": "EPSG", "properties": {"code": 32633}}, "may be a name"),
        (named("urn:ogc:def:crs:EPSG::999999"), "no CRS that PROJ knows"),
        (named("foo"), "no CRS that PROJ knows"),
        (named("EPSG:5773"), "Vertical CRS"),
        (named("EPSG:4978"), "Geocentric CRS"),
        (named(5), "may be a name"),
        ({"type": "name"}, "may be a name"),
        (5, "crs is 5; it may be a name"),
        ("EPSG:3857", "may be a name"),
        (None, "crs is null"),
    ],
)
def test_a_crs_member_is_the_name_of_a_crs_of_maps(crs: Any, told: str) -> None:
    square = polygon(*BOX)
    feature = {"type": "Feature", "properties": {}, "geometry": square}
    everything = {"type": "FeatureCollection", "features": [feature]}
    for source in (square, feature, everything):
        with pytest.raises(InputError, match=told):
            read_polygons({**source, "crs": crs})
    for inner in ({**feature, "crs": crs}, {**feature, "geometry": {**square, "crs": crs}}):
        with pytest.raises(InputError, match="CRS of its own"):
            read_polygons({**everything, "features": [inner]})


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326", "EPSG:4979"])
def test_degrees_have_many_names(name: str, everywhere: ItemTable) -> None:
    plain, same = read_polygons(polygon(*BOX)), read_polygons({**polygon(*BOX), "crs": named(name)})
    found = [rows(everywhere, Filter(polygons=(each.area,))) for each in (plain, same)]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("south", [91, -120])
def test_polygons_beyond_the_poles_are_told(south: float) -> None:
    ring = (35, south), (36, south), (36, south + 1)
    with pytest.raises(InputError, match=rf"^The GeoJSON has its polygons at latitude {south} to"):
        read_polygons(polygon(*ring))


def test_a_collections_rows(small: Collection) -> None:
    reader = Reader(small)
    items = ItemTable.load(reader)
    everything = reader.items(limit=1000)
    assert items.lon.tolist() == everything["lon"].to_pylist()
    assert items.count == small.count == 288
    ids = everything["id"].to_pylist()

    def found(wanted: Filter) -> list[str]:
        kept = rows(items, wanted)
        assert kept is not None
        assert (np.diff(kept) > 0).all()
        return [ids[row] for row in kept]

    assert found(Filter(ids=("b_3_4", "a_0_0", "none"))) == sorted(("a_0_0", "b_3_4"))
    assert found(Filter(ids=())) == []
    dated = Filter(time=TimeRange.parse("2018-10-13"), where="id LIKE '%\\_1' OR lon < 0")
    assert found(dated) == []
    dated = replace(dated, time=TimeRange.parse("2018-10-01/.."), where="id LIKE 'a%' OR lon < 0")
    assert found(dated) == [name for name in ids if name.startswith("a")]
    assert found(replace(dated, ids=("a_1_1", "b_1_1"))) == ["a_1_1"]
    with pytest.raises(InputError, match="no column"):
        rows(items, Filter(where="cloud < 2"))
    for number in range(20):
        assert found(Filter(where=f"lon > {number} AND id = 'a_0_0'")) == ["a_0_0"] * (number < 16)


def test_an_empty_collection_has_no_rows(small: Collection) -> None:
    items = ItemTable.load(Reader(replace(small, scenes=())))
    wanted = Filter(where="lon < 0", ids=("a",), bounds=Bounds(-1, -1, 1, 1))
    found = rows(items, wanted)
    assert found is not None
    assert found.tolist() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Filter(ids=("a",) * 60_000),
        lambda: Filter(exclude=((LonLat(0, 0), -1.0),)),
        lambda: Filter(exclude=((LonLat(0, 0), float("nan")),)),
    ],
)
def test_wishes_out_of_bounds_are_refused(make: Callable[[], Filter]) -> None:
    with pytest.raises(InputError):
        make()
