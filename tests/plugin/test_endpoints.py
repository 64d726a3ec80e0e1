"""Requests as docs/api.md wants them, and what statuses mean."""

from __future__ import annotations

import json

import pytest
from terrakin.core import endpoints
from terrakin.core.errors import AnswerError, ApiVersionError, ProblemError, UnauthorizedError
from terrakin.core.wire import ReadyFile, SearchRequest

SERVER = ReadyFile("http://127.0.0.1:8000", "s" * 43, 7, "0.1.0")


def test_health_goes_without_the_token():
    request = endpoints.health(SERVER)
    assert (request.method, request.url) == ("GET", "http://127.0.0.1:8000/health")
    assert "s" * 43 not in str(request.headers)


def test_collections():
    request = endpoints.collections(SERVER)
    assert (request.method, request.url) == ("GET", "http://127.0.0.1:8000/collections")
    assert request.headers["Authorization"] == f"Bearer {SERVER.token}"
    assert request.headers["Terrakin-Api-Version"] == "1"


def test_search():
    request = endpoints.search(SERVER, SearchRequest("a b/c", 1.5, -2.5, 3, 0.0))
    assert request.method == "POST"
    assert request.url == "http://127.0.0.1:8000/collections/a%20b%2Fc/search"
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {"at": [1.5, -2.5], "k": 3, "exclude_m": 0.0}


def test_headers_are_not_shared_between_requests():
    first, second = endpoints.collections(SERVER), endpoints.collections(SERVER)
    assert first.headers is not second.headers


def test_token_is_not_printed():
    assert SERVER.token not in repr(endpoints.collections(SERVER))


def test_good_answer():
    assert endpoints.read_answer(200, b'{"a": 1}', "url") == {"a": 1}


@pytest.mark.parametrize(
    ("status", "kind", "part"),
    [
        (401, UnauthorizedError, "does not accept the token"),
        (406, ApiVersionError, "do not fit"),
        (404, ProblemError, "words of the server"),
        (500, ProblemError, "words of the server"),
    ],
)
def test_problems_keep_the_servers_words(status, kind, part):
    problem = {"status": status, "detail": "The words of the server.", "code": "some-code"}
    with pytest.raises(kind, match=part) as caught:
        endpoints.read_answer(status, json.dumps(problem).encode(), "url")
    assert "words of the server" in str(caught.value)
    assert (caught.value.status, caught.value.code) == (status, "some-code")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null"])
def test_problem_without_words_names_the_status(body):
    with pytest.raises(ProblemError, match="url answered 503"):
        endpoints.read_answer(503, body, "url")


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff"])
def test_what_is_not_json_comes_from_another_program(body):
    with pytest.raises(AnswerError, match="another program"):
        endpoints.read_answer(200, body, "url")
