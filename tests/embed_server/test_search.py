from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from embeddings import __version__

Call = Callable[..., requests.Response]
PATH = "/collections/valley/search"
JSON = {"Content-Type": "application/json"}


def test_the_answer_is_the_contract(call: Call, inside: tuple[float, float]) -> None:
    answer = call("POST", PATH, json={"at": list(inside), "k": 5, "exclude_m": 300})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/geo+json"
    found = answer.json()
    assert found["type"] == "FeatureCollection"
    assert found["collection"] == "valley"
    assert (found["k"], found["exclude_m"]) == (5, 300)
    assert found["numberReturned"] == len(found["features"]) == 5
    assert found["query"]["id"] == "first_8_8"
    assert found["at"] == list(inside)
    assert found["spec"]["model"] == "rcf"
    rows = call("GET", "/collections/valley").json()["itemCount"]
    assert found["numberMatched"] == found["considered"] < rows
    assert found["expected_recall"] == 1
    assert {"locate", "filter", "scan", "fetch"} <= set(found["timing_ms"])
    assert found["terrakin_version"] == __version__
    properties = [feature["properties"] for feature in found["features"]]
    assert [entry["rank"] for entry in properties] == [1, 2, 3, 4, 5]
    percentile = [entry["percentile"] for entry in properties]
    assert percentile == sorted(percentile, reverse=True)
    assert all(0 <= value <= 100 for value in percentile)
    similarity = [entry["similarity"] for entry in properties]
    assert similarity == sorted(similarity, reverse=True)
    assert all(-1 <= value <= 1 for value in similarity)


def test_the_defaults_are_ten_places_and_no_exclusion(
    call: Call, inside: tuple[float, float]
) -> None:
    found = call("POST", PATH, json={"at": list(inside)}).json()
    assert (found["k"], found["exclude_m"], found["numberReturned"]) == (10, 0, 10)
    rows = call("GET", "/collections/valley").json()["itemCount"]
    assert found["numberMatched"] == found["considered"] == rows - 1
    assert found["query"]["id"] not in {feature["id"] for feature in found["features"]}


def test_the_answer_matches_its_own_description(call: Call, inside: tuple[float, float]) -> None:
    found = call("POST", PATH, json={"at": list(inside)}).json()
    schema = call("GET", "/api").json()["components"]["schemas"]["SearchAnswer"]
    assert set(schema["required"]) <= set(found) <= set(schema["properties"])


def test_k_may_exceed_what_there_is(call: Call, inside: tuple[float, float]) -> None:
    found = call("POST", PATH, json={"at": list(inside), "k": 10_000}).json()
    rows = call("GET", "/collections/valley").json()["itemCount"]
    assert found["numberReturned"] == found["numberMatched"] == rows - 1


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"k": 0}, "invalid-request", "k: "),
        ({"k": -3}, "invalid-request", "-3"),
        ({"k": 50_001}, "invalid-request", "50,001"),
        ({"k": 10**30}, "invalid-request", "k is"),
        ({"k": 2.5}, "invalid-request", "2.5"),
        ({"k": "5"}, "invalid-request", "'5'"),
        ({"k": True}, "invalid-request", "True"),
        ({"k": None}, "invalid-request", "None"),
        ({"at": [14.0, 91.0]}, "invalid-place", "91"),
        ({"at": [14.0, -90.001]}, "invalid-place", "90"),
        ({"at": [5_000_000.0, 45.0]}, "invalid-place", "metres"),
        ({"at": [14.0]}, "invalid-request", "at: "),
        ({"at": [14.0, 45.0, 0.0]}, "invalid-request", "at: "),
        ({"at": ["14", "45"]}, "invalid-request", "at.0"),
        ({"at": "14,45"}, "invalid-request", "14,45"),
        ({"at": {"lon": 14, "lat": 45}}, "invalid-request", "at: "),
        ({"exclude_m": -1}, "invalid-request", "exclude_m"),
        ({"exclude_m": "300m"}, "invalid-request", "300m"),
        ({"exclude": 300}, "invalid-request", "exclude"),
    ],
)
def test_a_bad_value_is_named(
    call: Call, inside: tuple[float, float], change: dict[str, Any], code: str, says: str
) -> None:
    answer = call("POST", PATH, json={"at": list(inside), **change})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, code), problem
    assert says in problem["detail"]


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", "invalid-request", "the body"),
        (b"{", "invalid-request", "not JSON"),
        (b"\xff\xfe", "invalid-request", "body"),
        (b"[]", "invalid-request", "the body"),
        (b"null", "invalid-request", "the body"),
        (b"{}", "invalid-input", "Nothing to search for"),
        (b'{"at": [NaN, 45]}', "invalid-place", "not a number"),
        (b'{"at": [14, Infinity]}', "invalid-place", "not a number"),
        (b'{"at": [14, 45], "exclude_m": NaN}', "invalid-request", "exclude_m"),
        (b'{"at": [14, 45], "exclude_m": Infinity}', "invalid-request", "exclude_m"),
        (b"[" * 5000, "invalid-request", "body"),
    ],
)
def test_a_bad_body_is_explained(call: Call, body: bytes, code: str, says: str) -> None:
    answer = call("POST", PATH, data=body, headers=JSON)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, code), problem
    assert says in problem["detail"]


def test_a_body_that_is_not_called_json_gets_the_advice(call: Call) -> None:
    problem = call("POST", PATH, data='{"at": [14, 45]}').json()
    assert problem["code"] == "invalid-request"
    assert "Content-Type: application/json" in problem["detail"]


def test_a_place_outside_names_the_nearest_chip(call: Call) -> None:
    answer = call("POST", PATH, json={"at": [0, 0]})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (404, "outside-coverage")
    assert "first_" in problem["detail"]
    assert " km " in problem["detail"]


def test_a_place_without_data_says_so(call: Call) -> None:
    page = call("GET", "/collections/valley/items", params={"limit": 10_000}).json()
    there = {feature["id"]: feature["properties"] for feature in page["features"]}
    row, col = next(
        (row, col)
        for row in range(1, 15)
        for col in range(1, 15)
        if f"first_{row}_{col}" not in there
    )
    # Chips are 160 m; step from a chip of the same scene that has data.
    known = next(iter(there))
    known_row, known_col = (int(part) for part in known.split("_")[1:])
    step = 160 / 111_320
    lat = there[known]["lat"] - (row - known_row) * step
    lon = there[known]["lon"] + (col - known_col) * step * 1.42
    problem = call("POST", PATH, json={"at": [lon, lat]}).json()
    assert (problem["status"], problem["code"]) == (404, "no-data-at-place"), problem


def test_a_longitude_beyond_180_is_wrapped(call: Call, inside: tuple[float, float]) -> None:
    lon, lat = inside
    found = call("POST", PATH, json={"at": [lon + 360, lat]}).json()
    assert found["query"]["id"] == "first_8_8"


def test_searches_at_the_same_time_agree(call: Call, inside: tuple[float, float]) -> None:
    def search(_: int) -> list[str]:
        found = call("POST", PATH, json={"at": list(inside)}).json()
        return [feature["id"] for feature in found["features"]]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(search, range(12)))
    assert all(answer == answers[0] for answer in answers)


def test_examples_filters_and_spacing(call: Call, inside: tuple[float, float]) -> None:
    first = call("POST", PATH, json={"at": list(inside), "k": 20}).json()
    ids = [feature["id"] for feature in first["features"]]
    lon, lat = inside
    box = [lon - 0.005, lat - 0.005, lon + 0.005, lat + 0.005]
    body = {
        "positive": {"places": [list(inside)], "ids": ids[:2]},
        "negative": {"ids": ids[-1:]},
        "filter": {"bbox": box, "where": "lon > -180"},
        "apart_m": 300,
        "k": 5,
    }
    found = call("POST", PATH, json=body).json()
    assert found["query"] is None
    assert found["at"] is None
    got = [feature["id"] for feature in found["features"]]
    assert got
    assert not set(got) & {*ids[:2], ids[-1]}
    for feature in found["features"]:
        at = feature["properties"]
        assert box[0] <= at["lon"] <= box[2]
        assert box[1] <= at["lat"] <= box[3]
    ring = [
        [box[0], box[1]],
        [box[2], box[1]],
        [box[2], box[3]],
        [box[0], box[3]],
        [box[0], box[1]],
    ]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    same = call("POST", PATH, json={**body, "filter": {"polygons": polygon}}).json()
    assert [feature["id"] for feature in same["features"]] == got
    nothing = call("POST", PATH, json={"at": list(inside), "filter": {"ids": ["none"]}}).json()
    assert (nothing["numberReturned"], nothing["numberMatched"]) == (0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"filter": {"where": "1=1; DROP TABLE x"}}, "DROP"),
        ({"filter": {"polygons": {"type": "Point", "coordinates": [0, 0]}}}, "olygon"),
        ({"positive": {"vectors": [[1.0, 2.0]]}}, "has 2 dimensions"),
        ({"filter": {"bbox": [0.0, 1.0]}}, "bbox"),
        ({"apart_m": -1.0}, "apart_m"),
    ],
)
def test_bad_queries_are_one_clear_error(
    call: Call, inside: tuple[float, float], change: dict, says: str
) -> None:
    answer = call("POST", PATH, json={"at": list(inside), **change})
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["detail"]


def test_an_item_that_is_not_there_is_named(call: Call) -> None:
    answer = call("POST", PATH, json={"positive": {"ids": ["nobody"]}})
    assert (answer.status_code, answer.json()["code"]) == (404, "item-not-found")


def test_sql_is_answered_and_only_reads(call: Call) -> None:
    query = "SELECT count(*) AS n FROM valley"
    answer = call("POST", "/sql", json={"query": query}).json()
    rows = call("GET", "/collections/valley").json()["itemCount"]
    assert (answer["columns"], answer["rows"], answer["truncated"]) == (["n"], [[rows]], False)
    assert 0 < answer["seconds"] < 60
    odd = "SELECT 'nan'::FLOAT AS a, DATE '290000-01-01' AS a, encode('é') AS b"
    answer = call("POST", "/sql", json={"query": odd})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["columns"] == ["a", "a", "b"]
    assert answer.json()["rows"] == [[None, "290000-01-01", "w6k="]]
    refused = call("POST", "/sql", json={"query": "COPY valley TO 'x.csv'"})
    assert refused.status_code == 400
    assert refused.json()["code"] == "invalid-input"
