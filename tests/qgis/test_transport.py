"""The client against the real server: proxies, tokens, timeouts, deaths, redirects."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

QUERY = {"lon": 13.914, "lat": 45.283, "k": 5, "exclude_m": 0.0}


@pytest.fixture
def core(terrakin):  # noqa: ARG001 - makes the package importable
    from terrakin.core import client, endpoints, errors, transport, wire

    class Core:
        pass

    Core.client, Core.endpoints, Core.errors = client, endpoints, errors
    Core.transport, Core.wire = transport, wire
    return Core


def client_of(core, running, is_cancelled=lambda: False):
    ready = core.wire.ReadyFile.read(str(running.ready_path))
    return core.client.Client(ready, is_cancelled)


def in_thread(work):
    """Run in a thread, as a task does; return the value or raise what it raised."""
    outcome = {}

    def run():
        try:
            outcome["value"] = work()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


@pytest.fixture
def dead_proxy_in_settings(qgis):  # noqa: ARG001
    from qgis.core import QgsNetworkAccessManager, QgsSettings

    settings = QgsSettings()
    values = {
        "proxyEnabled": True,
        "proxyType": "HttpProxy",
        "proxyHost": "127.0.0.1",
        "proxyPort": "9",
    }
    for key, value in values.items():
        settings.setValue(f"proxy/{key}", value)
    QgsNetworkAccessManager.instance().setupDefaultProxyAndCache()
    yield values
    for key in values:
        settings.remove(f"proxy/{key}")
    QgsNetworkAccessManager.instance().setupDefaultProxyAndCache()


@pytest.mark.parametrize("where", [in_thread, lambda work: work()], ids=["thread", "main"])
def test_dead_proxy_in_the_settings_is_passed_by(core, server, dead_proxy_in_settings, where):
    from qgis.core import QgsNetworkAccessManager, QgsSettings

    names = where(lambda: [c.id for c in client_of(core, server).collections()])
    assert {"dateline", "kin"} <= set(names)
    manager = QgsNetworkAccessManager.instance()
    assert manager.fallbackProxy().hostName() == "127.0.0.1"
    assert manager.noProxyList() == []
    settings = QgsSettings()
    assert settings.value("proxy/proxyHost") == dead_proxy_in_settings["proxyHost"]
    assert settings.value("proxy/noProxyUrls") is None


def test_dead_proxy_is_really_used_for_other_addresses(core, server, dead_proxy_in_settings):  # noqa: ARG001
    """The fixture would prove nothing if QGIS ignored that proxy."""
    from qgis.core import QgsBlockingNetworkRequest
    from qgis.PyQt.QtCore import QUrl
    from qgis.PyQt.QtNetwork import QNetworkRequest

    url = core.wire.ReadyFile.read(str(server.ready_path)).url
    request = QgsBlockingNetworkRequest()
    result = in_thread(lambda: request.get(QNetworkRequest(QUrl(f"{url}/health"))))
    assert result != QgsBlockingNetworkRequest.ErrorCode.NoError


def test_dead_proxy_of_the_system_is_passed_by(core, server, qgis, monkeypatch):  # noqa: ARG001
    """QGIS set to "use the system's proxy", and that one is dead."""
    from qgis.core import QgsBlockingNetworkRequest, QgsNetworkAccessManager, QgsSettings
    from qgis.PyQt.QtCore import QUrl
    from qgis.PyQt.QtNetwork import QNetworkRequest

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    settings = QgsSettings()
    settings.setValue("proxy/proxyEnabled", True)
    settings.setValue("proxy/proxyType", "DefaultProxy")
    QgsNetworkAccessManager.instance().setupDefaultProxyAndCache()
    try:
        url = core.wire.ReadyFile.read(str(server.ready_path)).url
        plain = QgsBlockingNetworkRequest()
        refused = in_thread(lambda: plain.get(QNetworkRequest(QUrl(f"{url}/health"))))
        assert refused != QgsBlockingNetworkRequest.ErrorCode.NoError, "the proxy is not in use"
        assert in_thread(lambda: client_of(core, server).check()).name == "terrakin"
    finally:
        settings.remove("proxy")
        QgsNetworkAccessManager.instance().setupDefaultProxyAndCache()


def test_search_answers_as_the_server_does(core, server, direct_search):
    request = core.wire.SearchRequest(collection="kin", **QUERY)
    answer = in_thread(lambda: client_of(core, server).search(request))
    expected = direct_search("kin", request.body())
    assert [place.id for place in answer.places] == [f["id"] for f in expected["features"]]
    assert answer.considered == expected["considered"]
    assert answer.query.id == expected["query"]["id"]


def test_problem_of_the_server_keeps_its_words_and_code(core, server):
    request = core.wire.SearchRequest(collection="nowhere", **QUERY)
    with pytest.raises(core.errors.ProblemError, match="nowhere") as caught:
        client_of(core, server).search(request)
    assert caught.value.status == 404
    assert caught.value.code == "collection-not-found"


def test_wrong_token(core, server):
    ready = core.wire.ReadyFile.read(str(server.ready_path))
    wrong = dataclasses.replace(ready, token="x" * 43)
    with pytest.raises(core.errors.UnauthorizedError, match="token"):
        core.client.Client(wrong).collections()


def test_version_mismatch(core, server, monkeypatch):
    monkeypatch.setattr(core.endpoints, "API_VERSION", 99)
    with pytest.raises(core.errors.ApiVersionError, match="99"):
        client_of(core, server).collections()


def test_server_not_running(core, own_server):
    client = client_of(core, own_server)
    own_server.process.kill()
    own_server.process.wait(30)
    with pytest.raises(core.errors.ServerNotRunningError, match="No Terrakin server runs"):
        client.check()


def test_server_killed_while_it_answers(core, own_server):
    client = client_of(core, own_server)
    client.check()
    os.kill(own_server.process.pid, signal.SIGSTOP)
    threading.Timer(1.0, own_server.process.kill).start()
    request = core.wire.SearchRequest(collection="kin", **QUERY)
    with pytest.raises(core.errors.ServerLostError, match="stopped while it was answering"):
        in_thread(lambda: client.search(request))


def test_cancel_and_timeout_end_a_hanging_request(core, own_server):
    client = client_of(core, own_server, is_cancelled=lambda: True)
    os.kill(own_server.process.pid, signal.SIGSTOP)
    with pytest.raises(core.errors.CancelledError):
        in_thread(client.check)
    request = core.endpoints.health(client.server)
    short = dataclasses.replace(request, timeout_s=0.5)
    with pytest.raises(core.errors.ServerTimeoutError, match="did not answer"):
        in_thread(lambda: core.transport.send(short, lambda: False))


class Redirecting(BaseHTTPRequestHandler):
    """Answers with a redirect, and counts whether anyone follows."""

    followed = 0

    def do_GET(self) -> None:
        if self.path == "/elsewhere":
            type(self).followed += 1
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        """Keep quiet."""


def test_redirects_are_not_followed_and_strangers_are_recognised(core, server):
    stranger = HTTPServer(("127.0.0.1", 0), Redirecting)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    ready = core.wire.ReadyFile.read(str(server.ready_path))
    wrong = dataclasses.replace(ready, url=f"http://127.0.0.1:{stranger.server_port}")
    with pytest.raises(core.errors.AnswerError, match="not JSON"):
        core.client.Client(wrong).check()
    stranger.shutdown()
    assert Redirecting.followed == 0


class Slow(BaseHTTPRequestHandler):
    """Says nothing for a while, then answers."""

    silence_s = 2.5

    def do_GET(self) -> None:
        time.sleep(self.silence_s)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"{}")

    def log_message(self, *_) -> None:
        """Keep quiet."""


def in_task(work):
    """Run as the plugin does: in a thread of QGIS's task manager, where Qt's timers work."""
    from qgis.core import QgsApplication
    from terrakin.core.tasks import Done, Job

    outcomes = []
    job = Job("test", lambda _job: work(), lambda _job, outcome: outcomes.append(outcome))
    QgsApplication.taskManager().addTask(job)
    deadline = time.monotonic() + 60
    while not outcomes and time.monotonic() < deadline:
        QgsApplication.processEvents()
    [outcome] = outcomes
    assert isinstance(outcome, Done), outcome
    return outcome.value


@pytest.mark.parametrize("where", [in_task, lambda work: work()], ids=["task", "main"])
def test_a_request_outlasts_the_timeout_of_qgis(core, qgis, where):  # noqa: ARG001
    from qgis.core import QgsBlockingNetworkRequest, QgsNetworkAccessManager
    from qgis.PyQt.QtCore import QUrl
    from qgis.PyQt.QtNetwork import QNetworkRequest

    slow = HTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{slow.server_port}/"
    before = QgsNetworkAccessManager.timeout()
    QgsNetworkAccessManager.setTimeout(1000)
    try:
        plain = QgsBlockingNetworkRequest()
        where(lambda: plain.get(QNetworkRequest(QUrl(url))))
        assert bytes(plain.reply().content()) == b"", "QGIS's timeout is not in use"
        request = core.endpoints.Request("GET", url, {}, timeout_s=20.0)
        assert where(lambda: core.transport.send(request, lambda: False)) == (200, b"{}")
        assert QgsNetworkAccessManager.timeout() == 1000
    finally:
        QgsNetworkAccessManager.setTimeout(before)
        slow.shutdown()
