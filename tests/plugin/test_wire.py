"""JSON to dataclasses: good answers are read, bad ones are refused in words."""

from __future__ import annotations

import copy
import json

import pytest
from terrakin.core import wire
from terrakin.core.errors import AnswerError, ReadyFileError, RequestError
from terrakin.core.provenance import Provenance, percent_text

READY = {"url": "http://127.0.0.1:8000", "token": "t" * 43, "pid": 7, "version": "0.1.0"}
SQUARE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
ANSWER = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": "scene_4_7",
            "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
            "properties": {
                "rank": 1,
                "similarity": 0.93,
                "lon": 0.5,
                "lat": 0.5,
                "datetime": None,
                "grid_cell": "0U_0R",
            },
        }
    ],
    "query": {
        "type": "Feature",
        "id": "scene_1_1",
        "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE, SQUARE]]},
        "properties": {"lon": 0.5, "lat": 0.5},
    },
    "collection": "carolina",
    "spec": {"model": "rcf", "dim": 256},
    "exclude_m": 300,
    "k": 10,
    "considered": 9862,
    "terrakin_version": "0.1.0",
}
COLLECTION = {
    "id": "carolina",
    "title": "Carolina",
    "license": "CC-BY-SA-3.0",
    "extent": {
        "spatial": {"bbox": [[179.5, -17.0, -179.5, -16.0]]},
        "temporal": {"interval": [["2018-10-13T00:00:00Z", None]]},
    },
    "itemCount": 9862,
    "spec": {"model": "rcf", "dim": 256},
}


def test_ready_file(tmp_path):
    path = tmp_path / "ready.json"
    path.write_text(json.dumps({**READY, "url": "http://127.0.0.1:8000/", "more": 1}))
    ready = wire.ReadyFile.read(str(path))
    assert ready == wire.ReadyFile("http://127.0.0.1:8000", "t" * 43, 7, "0.1.0")


def test_token_is_not_printed():
    assert "t" * 43 not in repr(wire.ReadyFile(**READY))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:8000",
        "https://127.0.0.1:8000",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1@example.org/",
        "file:///etc/passwd",
    ],
)
def test_token_is_never_sent_elsewhere(url):
    with pytest.raises(ReadyFileError, match="not on this machine"):
        wire.ReadyFile.parse(json.dumps({**READY, "url": url}), "ready.json")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"url": 1}', json.dumps({**READY, "pid": "x"}), '{"url": "a"}'],
)
def test_other_files_are_refused(text):
    with pytest.raises(ReadyFileError, match=r"'some\.json' is not the ready file"):
        wire.ReadyFile.parse(text, "some.json")


def test_ready_file_that_is_missing_or_binary(tmp_path):
    with pytest.raises(ReadyFileError, match="cannot be read"):
        wire.ReadyFile.read(str(tmp_path / "missing.json"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReadyFileError, match="not text"):
        wire.ReadyFile.read(str(tmp_path / "binary"))


def test_collections():
    [found] = wire.Collection.list_from_json({"collections": [COLLECTION]})
    assert found.bbox == (179.5, -17.0, -179.5, -16.0)
    assert found.interval == ("2018-10-13T00:00:00Z", None)
    assert (found.id, found.item_count, found.model, found.dim) == ("carolina", 9862, "rcf", 256)


def test_collection_may_lack_what_is_not_needed():
    found = wire.Collection.from_json({"id": "c", "itemCount": 0})
    assert (found.title, found.bbox, found.interval, found.dim) == ("c", None, (None, None), None)


@pytest.mark.parametrize("data", [None, [], {}, {"collections": [{}]}, {"collections": 3}])
def test_other_collections_are_refused(data):
    with pytest.raises(AnswerError, match="interface version 1"):
        wire.Collection.list_from_json(data)


def test_search_answer():
    answer = wire.SearchAnswer.from_json(ANSWER)
    [place] = answer.places
    assert (place.id, place.rank, place.similarity) == ("scene_4_7", 1, 0.93)
    assert place.polygons == ((tuple((x, y) for x, y in SQUARE),),)
    assert [len(polygon) for polygon in answer.query.polygons] == [1, 2]
    assert (answer.query.rank, answer.query.similarity) == (0, 1.0)


def test_what_older_servers_do_not_say_is_not_known():
    older = wire.SearchAnswer.from_json(ANSWER)
    assert (older.places[0].percentile, older.expected_recall, older.matched) == (None, None, None)
    data = copy.deepcopy(ANSWER)
    data.update(expected_recall=0.9964, numberMatched=20_000)
    data["features"][0]["properties"]["percentile"] = 99.8
    newer = wire.SearchAnswer.from_json(data)
    assert newer.places[0].percentile == 99.8
    assert (newer.expected_recall, newer.matched) == (0.9964, 20_000)
    data["features"][0]["properties"]["percentile"] = data["expected_recall"] = None
    nothing = wire.SearchAnswer.from_json(data)
    assert (nothing.places[0].percentile, nothing.expected_recall) == (None, None)


def broken(*path, value):
    data = copy.deepcopy(ANSWER)
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        broken("features", value=None),
        broken("features", 0, "geometry", "type", value="Point"),
        broken("features", 0, "geometry", "coordinates", value=[SQUARE[:2]]),
        broken("features", 0, "geometry", "coordinates", value=[[[0], [1], [2], [0]]]),
        broken("features", 0, "properties", "similarity", value=float("nan")),
        broken("features", 0, "properties", "lon", value="east"),
        broken("features", 0, "properties", "percentile", value="high"),
        broken("expected_recall", value="most"),
        broken("query", value={}),
        broken("spec", value=None),
        broken("k", value="many"),
    ],
)
def test_other_answers_are_refused(data):
    with pytest.raises(AnswerError, match="Update the plugin"):
        wire.SearchAnswer.from_json(data)


def test_search_request():
    request = wire.SearchRequest("carolina", -76.657, 34.718, 10, 300.0)
    assert request.body() == {"at": [-76.657, 34.718], "k": 10, "exclude_m": 300.0}


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (("", 0.0, 0.0, 1, 0.0), "No collection"),
        (("c", 0.0, 0.0, 0, 0.0), "1 to 10,000"),
        (("c", 0.0, 0.0, 10_001, 0.0), "10001 places"),
        (("c", 0.0, 0.0, 1, -1.0), "-1 m"),
        (("c", 0.0, 0.0, 1, float("inf")), "inf m"),
    ],
)
def test_search_request_out_of_range(values, part):
    with pytest.raises(RequestError, match=part):
        wire.SearchRequest(*values)


def test_provenance():
    request = wire.SearchRequest("carolina", -76.657, 34.718, 10, 300.0)
    answer = wire.SearchAnswer.from_json(ANSWER)
    provenance = Provenance.of(request, answer, "0.1.0", "3.22", "2026-11-23T12:00:00+00:00")
    assert Provenance.from_json(provenance.to_json()) == provenance
    assert provenance.title == "Places like -76.657, 34.718 (carolina)"
    assert "9,862 chips" in provenance.abstract
    assert "at=-76.657,34.718" in provenance.history


@pytest.mark.parametrize(
    ("recall", "matched", "says"),
    [
        (None, None, ""),
        (1.0, 20_000, ""),
        (0.9964, 20_000, "About 99.64 % of the true best are among them. An index chose 9,862 of "
         "20,000 chips to compare."),
        (0.99996, None, "About 99.99 % of the true best are among them. An index chose 9,862 "
         "chips to compare."),
    ],
)  # fmt: skip
def test_what_an_answer_may_miss_is_said_only_where_it_may(recall, matched, says):
    data = {**ANSWER, "expected_recall": recall, "numberMatched": matched}
    request = wire.SearchRequest("carolina", -76.657, 34.718, 10, 300.0)
    answer = wire.SearchAnswer.from_json(data)
    provenance = Provenance.of(request, answer, "0.1.0", "3.22", "2026-11-23T12:00:00+00:00")
    assert provenance.completeness == says
    assert ("true best" in provenance.abstract) == bool(says)
    assert Provenance.from_json(provenance.to_json()) == provenance


def test_provenance_of_an_older_plugin_is_read():
    request = wire.SearchRequest("carolina", -76.657, 34.718, 10, 300.0)
    answer = wire.SearchAnswer.from_json(ANSWER)
    made = Provenance.of(request, answer, "0.1.0", "3.22", "2026-11-23T12:00:00+00:00")
    older = json.loads(made.to_json())
    del older["expected_recall"], older["matched"]
    assert Provenance.from_json(json.dumps(older)) == made


@pytest.mark.parametrize(
    ("percent", "text"), [(99.999, "99.99"), (99.8, "99.8"), (100, "100"), (7.0, "7"), (0.5, "0.5")]
)
def test_only_all_of_it_is_a_hundred_percent(percent, text):
    assert percent_text(percent) == text


@pytest.mark.parametrize(
    ("there", "first", "only"),
    [
        ([], None, None),
        (["world"], "world", "world"),
        (["valley"], "valley", "valley"),
        (["world", "valley"], "valley", "valley"),
        (["valley", "world"], "valley", "valley"),
        (["a", "b", "world"], "a", None),
    ],
)
def test_the_users_own_collections_come_before_the_world(there, first, only):
    collections = [wire.Collection.from_json({**COLLECTION, "id": name}) for name in there]
    found = [choice(collections) for choice in (wire.first_choice, wire.only_choice)]
    assert [choice and choice.id for choice in found] == [first, only]
