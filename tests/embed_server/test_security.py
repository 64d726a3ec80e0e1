import json
import secrets
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests
from starlette.datastructures import Headers

from embed_server.errors import (
    ApiVersionError,
    BadHostError,
    InvalidRequestError,
    UnauthorizedError,
)
from embed_server.security import check_host, check_text, check_token, check_version

Call = Callable[..., requests.Response]

JSON = {"Content-Type": "application/json"}
LIMIT = 10_000
"""max_body_bytes of the shared server."""


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.lower().encode(), value.encode("latin-1")) for name, value in pairs])


def refused(response: requests.Response, status: int, code: str) -> str:
    """Check that a response is this problem; return its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (status, code)
    return str(problem["detail"])


# --- token


def test_health_needs_no_token_and_nothing_else_goes_without(call: Call) -> None:
    assert call("GET", "/health", token=None).status_code == 200
    for path in ("/", "/api", "/collections", "/jobs", "/health/", "/Health", "/no-such-thing"):
        refused(call("GET", path, token=None), 401, "unauthorized")


@pytest.mark.parametrize("token", ["wrong", "", "test-token-012345678", "test-token-01234567890"])
def test_a_wrong_token_is_refused(call: Call, token: str) -> None:
    response = call("GET", "/collections", token=token)
    refused(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


def test_other_schemes_are_refused(call: Call) -> None:
    token = "test-token-0123456789"
    for value in (token, f"Basic {token}", f"Bearer{token}"):
        answer = call("GET", "/jobs", token=None, headers={"Authorization": value})
        refused(answer, 401, "unauthorized")


def test_the_scheme_is_not_case_sensitive(call: Call) -> None:
    value = "bearer test-token-0123456789"
    assert call("GET", "/jobs", token=None, headers={"Authorization": value}).status_code == 200


def test_a_token_in_the_query_is_no_token(call: Call) -> None:
    path = "/collections?token=test-token-0123456789&access_token=test-token-0123456789"
    refused(call("GET", path, token=None), 401, "unauthorized")


def test_two_tokens_are_none() -> None:
    twice = headers(("Authorization", "Bearer right"), ("Authorization", "Bearer wrong"))
    with pytest.raises(UnauthorizedError):
        check_token(twice, b"right")


def test_a_token_of_odd_bytes_is_refused_not_an_error() -> None:
    with pytest.raises(UnauthorizedError):
        check_token(headers(("Authorization", "Bearer \xff\xfe")), b"right")


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = secrets.compare_digest

    def watched(received: bytes, token: bytes) -> bool:
        compared.append((received, token))
        return real(received, token)

    monkeypatch.setattr(secrets, "compare_digest", watched)
    check_token(headers(("Authorization", "Bearer right")), b"right")
    with pytest.raises(UnauthorizedError):
        check_token(headers(("Authorization", "Bearer wrong")), b"right")
    assert compared == [(b"right", b"right"), (b"wrong", b"right")]


# --- host


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_the_names_of_the_loopback_are_let_in(call: Call, url: str, name: str) -> None:
    host = f"{name}:{urlsplit(url).port}"
    assert call("GET", "/collections", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "localhost.:{port}",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "0.0.0.0:{port}",
        "[::1]evil:{port}",
        "user@127.0.0.1:{port}",
    ],
)
def test_a_rebound_page_gets_nothing_even_with_the_token(call: Call, url: str, host: str) -> None:
    given = host.format(port=urlsplit(url).port)
    for path in ("/collections", "/health"):
        detail = refused(call("GET", path, headers={"Host": given}), 400, "bad-host")
        assert given in detail


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_without_a_port_the_host_means_port_80(host: str) -> None:
    check_host(headers(("Host", host)), 80)
    with pytest.raises(BadHostError):
        check_host(headers(("Host", host)), 8080)


def test_no_host_and_two_hosts_are_refused() -> None:
    for given in (headers(), headers(("Host", "localhost:1"), ("Host", "localhost:1"))):
        with pytest.raises(BadHostError):
            check_host(given, 1)


def test_other_pages_are_not_invited(call: Call) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "GET"}
    for answer in (
        call("OPTIONS", "/collections", token=None, headers=asked),
        call("GET", "/collections", headers={"Origin": "http://evil.example"}),
    ):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# --- interface version


@pytest.mark.parametrize("version", ["2", "0", "1.0", "one", ""])
def test_another_version_of_the_interface_is_refused(call: Call, version: str) -> None:
    answer = call("GET", "/collections", headers={"Terrakin-Api-Version": version})
    detail = refused(answer, 406, "api-version")
    assert f"version {version} " in detail
    assert "version 1" in detail


def test_our_version_or_none_is_let_in(call: Call) -> None:
    assert call("GET", "/collections").status_code == 200
    answer = call("GET", "/collections", headers={"Terrakin-Api-Version": "1"})
    assert answer.status_code == 200
    with pytest.raises(ApiVersionError):
        check_version(headers(("Terrakin-Api-Version", "1"), ("Terrakin-Api-Version", "2")))


def test_health_tells_its_version_to_any_client(call: Call) -> None:
    answer = call("GET", "/health", token=None, headers={"Terrakin-Api-Version": "99"})
    assert answer.json()["api_version"] == 1


# --- size of the body


def padded(size: int) -> bytes:
    """A search of exactly ``size`` bytes."""
    body = b'{"at": [0, 0]}'
    return body + b" " * (size - len(body))


def pieces(body: bytes) -> Iterator[bytes]:
    yield from (body[start : start + 1000] for start in range(0, len(body), 1000))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_up_to_the_limit_is_read(call: Call, chunked: bool) -> None:
    body = padded(LIMIT)
    data = pieces(body) if chunked else body
    answer = call("POST", "/collections/valley/search", data=data, headers=JSON)
    refused(answer, 404, "outside-coverage")


@pytest.mark.parametrize("chunked", [False, True])
def test_one_byte_more_is_refused(call: Call, chunked: bool) -> None:
    body = padded(LIMIT + 1)
    data = pieces(body) if chunked else body
    answer = call("POST", "/collections/valley/search", data=data)
    assert "10,000" in refused(answer, 413, "request-too-large")


def test_an_announced_giant_is_refused_before_it_is_sent(url: str) -> None:
    parts = urlsplit(url)
    head = (
        f"POST /collections/valley/search HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Authorization: Bearer test-token-0123456789\r\nContent-Length: 99999999999\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096)


# --- characters of the body

HALVES = [
    r"\ud800",
    r"\udfff",
    r"\uD83D",
    r"x\ude00\ud83d",
    r"\ud83d\ud83d\ude00",
    r"\\\ud800 \\ud83d",
]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/processes/build-index/execution", '{"inputs": {"collection": "%s"}}'),
        ("/processes/build-index/execution", '{"inputs": {"%s": 1}}'),
        ("/collections/valley/search", '{"positive": {"ids": ["%s"]}}'),
        ("/collections/valley/search", '{"at": [0, 0], "filter": {"ids": ["%s"]}}'),
        ("/collections/valley/search", '{"at": [0, 0], "filter": {"where": "id = \'%s\'"}}'),
        ("/collections/valley/search", '{"at": [0, 0], "filter": {"datetime": "%s"}}'),
        ("/collections/valley/search", '{"at": [0, 0], "filter": {"crs": "%s"}}'),
        ("/collections/valley/search", '{"at": [0, 0], "confirmed": ["%s"]}'),
        ("/collections/valley/search", '{"at": [0, 0], "state": "%s"}'),
        ("/search", '{"at": [0, 0], "collections": [{"id": "%s"}, {"id": "valley"}]}'),
        ("/sql", '{"query": "SELECT \'%s\'"}'),
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(
    call: Call, path: str, body: str, half: str
) -> None:
    detail = refused(call("POST", path, data=body % half, headers=JSON), 400, "invalid-request")
    assert "half of a character" in detail
    assert call("GET", "/jobs").status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32-be"])
def test_half_a_character_in_bytes_is_refused(call: Call, encoding: str) -> None:
    body = '{"query": "SELECT \ud880"}'.encode(encoding, "surrogatepass")
    detail = refused(call("POST", "/sql", data=body, headers=JSON), 400, "invalid-request")
    assert "UTF-8" in detail


@pytest.mark.parametrize(
    "text",
    [
        "é",
        "\U0001f600",
        r"\ud83d\ude00",
        r"\uD83D\uDE00\ud83d\udE00",
        r"\\ud800",
        r"\\\\ud800 \u0041",
    ],
)
def test_whole_characters_are_let_in(call: Call, text: str) -> None:
    body = f'{{"query": "SELECT \'{text}\'"}}'.encode()
    answer = call("POST", "/sql", data=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"] == [[json.loads(f'"{text}"')]]


def test_halves_are_found_in_a_long_body() -> None:
    check_text(b'["' + rb"\\" * 400_000 + rb"\ud83d\ude00" * 20_000 + b'"]')
    with pytest.raises(InvalidRequestError):
        check_text(b'["' + rb"\\" * 400_000 + rb"\ud83d\ude00" * 20_000 + rb"\ude00" + b'"]')
