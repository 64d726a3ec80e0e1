import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embed_server.client import Client, RemoteError, UnreachableError
from embed_server.errors import ReadyFileError
from embed_server.ready_file import ReadyFile
from embed_server.runner import bound_socket

Handler = http.server.BaseHTTPRequestHandler


@contextmanager
def other_program(answer: Callable[[Handler], None]) -> Iterator[str]:
    """Another program that listens on the loopback; ``answer`` is what it does."""

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def answer_with(status: int, body: bytes) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_the_whole_interface_is_there(client: Client, inside: tuple[float, float]) -> None:
    assert client.check()["name"] == "terrakin"
    assert client.collection("valley")["id"] == "valley"
    assert client.processes()[0]["id"] == "embed-raster"
    assert isinstance(client.jobs(), list)
    west, south = inside[0] - 0.001, inside[1] - 0.001
    page = client.items("valley", bbox=(west, south, *inside), datetime="2018-10-13/..", limit=2)
    assert page["numberReturned"] == 2
    assert client.items("valley", limit=2, offset=2)["features"] != page["features"]
    assert client.search("valley", at=inside, k=3, exclude_m=200)["numberReturned"] == 3


def test_a_refusal_carries_code_status_and_detail(client: Client) -> None:
    with pytest.raises(RemoteError) as caught:
        client.search("valley", at=(14.0, 91.0))
    assert (caught.value.code, caught.value.status) == ("invalid-place", 400)
    assert "91" in caught.value.detail
    assert str(caught.value) == caught.value.detail


def test_ids_are_escaped(client: Client) -> None:
    for name in ("a/../valley", "a?b#c", "ü"):
        with pytest.raises(RemoteError) as caught:
            client.collection(name)
        assert caught.value.status == 404


def test_a_wrong_token_is_refused(url: str) -> None:
    with Client(url, "wrong") as client, pytest.raises(RemoteError) as caught:
        client.collections()
    assert caught.value.code == "unauthorized"


def test_a_proxy_of_the_environment_is_not_used(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert client.collections()


def test_no_ready_file(tmp_path: Path) -> None:
    with pytest.raises(ReadyFileError, match="There is no ready file"):
        Client.from_ready_file(tmp_path / "none.json")


def test_no_server(tmp_path: Path) -> None:
    with bound_socket(0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    path = tmp_path / "ready.json"
    ReadyFile(url, "token", 4242, "0.1.0").write(path)
    with pytest.raises(UnreachableError, match=r"No server runs at .*process 4242"):
        Client.from_ready_file(path)


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b"[]"), (200, b'{"name": "other"}'), (404, b"gone"), (302, b"{}")],
)
def test_another_program_never_sees_the_token(tmp_path: Path, status: int, body: bytes) -> None:
    seen: list[str | None] = []

    def answer(handler: Handler) -> None:
        seen.append(handler.headers.get("Authorization"))
        answer_with(status, body)(handler)

    path = tmp_path / "ready.json"
    with other_program(answer) as url:
        ReadyFile(url, "the-token", 4242, "0.1.0").write(path)
        with pytest.raises(UnreachableError, match="nother program"):
            Client.from_ready_file(path)
    assert seen == [None]


def test_a_server_that_dies_while_it_answers() -> None:
    def die(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"collections": [')
        handler.wfile.flush()
        handler.connection.close()

    for answer in (die, lambda handler: handler.connection.close()):
        with (
            other_program(answer) as url,
            Client(url, "token") as client,
            pytest.raises(UnreachableError, match="went away"),
        ):
            client.collections()


def test_a_server_that_hangs_is_given_up() -> None:
    release = threading.Event()
    with (
        other_program(lambda _: release.wait(60) and None) as url,
        Client(url, "token", timeout_s=0.2) as client,
    ):
        with pytest.raises(UnreachableError, match=r"did not answer within 0\.2 s"):
            client.collections()
        release.set()
