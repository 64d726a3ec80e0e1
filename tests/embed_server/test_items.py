from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

Call = Callable[..., requests.Response]
PATH = "/collections/valley/items"


def ids(page: dict[str, Any]) -> list[str]:
    return [feature["id"] for feature in page["features"]]


def link(page: dict[str, Any], rel: str) -> str | None:
    """Return path and query of a link."""
    for entry in page["links"]:
        if entry["rel"] == rel:
            parts = urlsplit(entry["href"])
            return f"{parts.path}?{parts.query}"
    return None


def test_a_page_is_geojson(call: Call) -> None:
    answer = call("GET", PATH, params={"limit": 3})
    assert answer.headers["content-type"] == "application/geo+json"
    page = answer.json()
    assert page["type"] == "FeatureCollection"
    assert page["numberReturned"] == len(page["features"]) == 3
    assert page["numberMatched"] == call("GET", "/collections/valley").json()["itemCount"]
    feature = page["features"][0]
    assert feature["geometry"]["type"] == "Polygon"
    assert set(feature["properties"]) == {"lon", "lat", "datetime", "grid_cell"}
    assert feature["properties"]["datetime"] == "2018-10-13T10:00:00Z"
    west, south, east, north = feature["bbox"]
    assert west < feature["properties"]["lon"] < east
    assert south < feature["properties"]["lat"] < north


def test_the_default_page_has_100(call: Call) -> None:
    assert call("GET", PATH).json()["numberReturned"] == 100


def test_following_next_gives_every_item_once(call: Call) -> None:
    page = call("GET", PATH, params={"limit": 50}).json()
    found = ids(page)
    while (following := link(page, "next")) is not None:
        page = call("GET", following).json()
        found += ids(page)
    assert len(found) == len(set(found)) == page["numberMatched"] > 100


def test_a_page_links_to_itself(call: Call) -> None:
    page = call("GET", PATH, params={"limit": 5, "offset": 7}).json()
    itself = link(page, "self")
    assert itself is not None
    assert ids(call("GET", itself).json()) == ids(page)


def test_a_page_beyond_the_end_is_empty(call: Call) -> None:
    page = call("GET", PATH, params={"offset": 2**53 - 1}).json()
    assert page["features"] == []
    assert page["numberReturned"] == 0
    assert page["numberMatched"] > 100
    assert link(page, "next") is None


def test_bbox_and_datetime_choose(call: Call) -> None:
    everything = call("GET", PATH, params={"limit": 10_000}).json()
    west, south, east, north = everything["features"][0]["bbox"]
    centre = f"{(west + east) / 2},{(south + north) / 2}"
    page = call("GET", PATH, params={"bbox": f"{centre},{centre}", "limit": 1}).json()
    assert ids(page) == [everything["features"][0]["id"]]
    assert page["numberMatched"] == 1

    matched = {
        text: call("GET", PATH, params={"datetime": text, "limit": 1}).json()["numberMatched"]
        for text in ("2018-10-13T10:00:00Z", "2018-10-01/..", "../2018-10-01", "2019-01-01/..")
    }
    all_of_them = everything["numberMatched"]
    assert list(matched.values()) == [all_of_them, all_of_them, 0, 0]


def test_the_links_of_a_chosen_page_choose_too(call: Call) -> None:
    whole = call("GET", PATH, params={"limit": 10_000}).json()
    west, south, east, north = whole["features"][0]["bbox"]
    box = f"{west - 0.005},{south - 0.005},{east + 0.005},{north + 0.005}"
    asked = {"bbox": box, "datetime": "2018-10-13T10:00:00Z", "limit": 2}
    first = call("GET", PATH, params=asked).json()
    following = link(first, "next")
    assert following is not None
    second = call("GET", following).json()
    assert 2 < second["numberMatched"] == first["numberMatched"] < whole["numberMatched"]
    assert not set(ids(first)) & set(ids(second))


@pytest.mark.parametrize(
    ("params", "code", "says"),
    [
        ({"limit": 0}, "invalid-request", "limit"),
        ({"limit": 10_001}, "invalid-request", "10,001"),
        ({"limit": "many"}, "invalid-request", "many"),
        ({"offset": -1}, "invalid-request", "offset"),
        ({"offset": 2**53}, "invalid-request", "offset"),
        ({"bbox": "1,2,3"}, "invalid-place", "1,2,3"),
        ({"bbox": ""}, "invalid-place", "W,S,E,N"),
        ({"bbox": "0,80,1,91"}, "invalid-place", "91"),
        ({"bbox": "0,1,1,0"}, "invalid-place", "south"),
        ({"bbox": "nan,0,1,1"}, "invalid-place", "not a number"),
        ({"datetime": "yesterday"}, "invalid-input", "yesterday"),
        ({"datetime": "2019-01-01/2018-01-01"}, "invalid-input", "before"),
        ({"boxb": "0,0,1,1"}, "invalid-request", "boxb"),
    ],
)
def test_a_bad_parameter_is_named(call: Call, params: dict[str, Any], code: str, says: str) -> None:
    answer = call("GET", PATH, params=params)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, code)
    assert says in problem["detail"]


def test_one_item_is_the_feature_of_the_list_with_links(call: Call) -> None:
    listed = call("GET", PATH, params={"limit": 1}).json()["features"][0]
    answer = call("GET", f"{PATH}/{listed['id']}")
    assert answer.headers["content-type"] == "application/geo+json"
    item = answer.json()
    links = item.pop("links")
    assert item == listed
    for entry in links:
        assert call("GET", urlsplit(entry["href"]).path).status_code == 200


@pytest.mark.parametrize("item", ["first_999_0", "' OR 1=1 --", "%00", "ü"])
def test_an_unknown_item_is_named(call: Call, item: str) -> None:
    answer = call("GET", f"{PATH}/{item}")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (404, "item-not-found")
