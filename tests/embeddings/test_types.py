"""Places, boxes and times: the axis order, the antimeridian and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.errors import InputError, PlaceError
from embeddings.types import Bounds, LonLat, TimeRange, parse_datetime, union_bounds, wrap_lon

LONS = st.floats(-180, 180, allow_nan=False)
LATS = st.floats(-90, 90, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-76.657,34.718", (-76.657, 34.718)),
        (" 15 , 47 ", (15.0, 47.0)),
        ("180,0", (180.0, 0.0)),
        ("-180,0", (-180.0, 0.0)),
        ("190,10", (-170.0, 10.0)),
        ("-190,10", (170.0, 10.0)),
        ("540,-90", (-180.0, -90.0)),
    ],
)
def test_places_are_longitude_then_latitude_and_wrapped(text: str, expected: tuple) -> None:
    assert LonLat.parse(text).lonlat() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("34.718,-176.657", "Are longitude and latitude swapped"),
        ("200,91", "beyond ±90"),
        ("541,0", "not metres of a projection"),
        ("nan,0", "not a number"),
        ("0,inf", "not a number"),
        ("1e999,0", "not a number"),
        ("1", "is not a place as LON,LAT"),
        ("1,2,3", "is not a place as LON,LAT"),
        ("", "is not a place as LON,LAT"),
        ("15°E,47°N", "is not a place as LON,LAT"),
    ],
)
def test_what_is_no_place_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(PlaceError, match=message):
        LonLat.parse(text)


def test_boxes_are_west_south_east_north() -> None:
    box = Bounds.parse("-77,34,-76,35")
    assert (box.west, box.south, box.east, box.north) == (-77, 34, -76, 35)
    assert box.west_south_east_north() == (-77, 34, -76, 35)
    assert not box.crosses_antimeridian
    assert Bounds(170, -10, -170, 10).crosses_antimeridian


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-77,35,-76,34", "south above its north"),
        ("-181,0,0,1", "leaves the Earth"),
        ("0,0,1,90.1", "leaves the Earth"),
        ("0,nan,1,1", "not a number"),
        ("0,0,1", "is not a box"),
    ],
)
def test_what_is_no_box_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(PlaceError, match=message):
        Bounds.parse(text)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], None),
        ([(1, 2, 3, 4)], (1, 2, 3, 4)),
        ([(1, 2, 3, 4), (10, -5, 11, 0)], (1, -5, 11, 4)),
        ([(170, 0, 179, 1), (-179, 0, -170, 1)], (170, 0, -170, 1)),
        ([(170, 0, -170, 1)], (170, 0, -170, 1)),
        ([(170, 0, -160, 1), (-175, 0, -165, 1)], (170, 0, -160, 1)),
        ([(170, 0, -160, 1), (-165, 0, -150, 1)], (170, 0, -150, 1)),
        ([(170, 0, -160, 1), (-175, 0, -165, 1), (-155, 0, -150, 1)], (170, 0, -150, 1)),
        ([(-180, 0, 0, 1), (0, 0, 180, 1)], (-180, 0, 180, 1)),
        ([(179.99999999999997, 0, 0, 1)], (179.99999999999997, 0, 0, 1)),
        ([(100, 0, -100, 1), (-110, 0, 110, 1)], (-180, 0, 180, 1)),
    ],
)
def test_the_union_takes_the_short_way_round(boxes: list, expected: tuple | None) -> None:
    union = union_bounds([Bounds(*box) for box in boxes])
    assert (union and union.west_south_east_north()) == expected


def _covers(box: Bounds, lon: float) -> bool:
    if box.crosses_antimeridian:
        return lon >= box.west - 1e-9 or lon <= box.east + 1e-9
    return box.west - 1e-9 <= lon <= box.east + 1e-9


def _covers_meridian(box: Bounds, lon: float) -> bool:
    return any(_covers(box, same) for same in ([-180.0, 180.0] if abs(lon) == 180 else [lon]))


@given(st.lists(st.tuples(LONS, LONS), min_size=1, max_size=6))
def test_the_union_holds_every_box_whole(spans: list[tuple[float, float]]) -> None:
    boxes = [Bounds(west, 0, east, 1) for west, east in spans]
    union = union_bounds(boxes)
    assert union is not None
    for box in boxes:
        width = (box.east - box.west) % 360.0
        for step in range(21):
            # The sum may round to a place just beyond the box.
            lon = box.east if step == 20 else wrap_lon(box.west + width * step / 20)
            assert _covers_meridian(union, lon)


@given(st.floats(-540, 540), LATS)
def test_a_wrapped_longitude_is_the_same_meridian(lon: float, lat: float) -> None:
    wrapped = LonLat(lon, lat).lon
    assert -180 <= wrapped <= 180
    assert abs((wrapped - lon + 180) % 360 - 180) < 1e-9


def test_times_are_utc() -> None:
    noon = datetime(2018, 10, 13, 12, tzinfo=UTC)
    assert parse_datetime("2018-10-13T12:00:00") == noon
    assert parse_datetime("2018-10-13T14:00:00+02:00") == noon
    assert parse_datetime("2018-10-13T12:00:00Z").tzinfo is UTC
    assert TimeRange.parse("2018-10-13T12:00Z") == TimeRange(noon, noon)
    assert TimeRange.parse("../2018-10-13T12:00Z") == TimeRange(None, noon)
    assert TimeRange.parse("2018-10-13T12:00Z/..") == TimeRange(noon, None)
    assert TimeRange.parse("/") == TimeRange(None, None)


@pytest.mark.parametrize(
    "text",
    ["yesterday", "", "2018-13-01", "0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00-05:00"],
)
def test_what_is_no_time_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError, match="is not a date"):
        parse_datetime(text)


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InputError, match="ends before it starts"):
        TimeRange.parse("2019-01-01/2018-01-01")
