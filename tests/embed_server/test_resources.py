import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from fastapi import FastAPI
from pydantic import SecretStr

from embed_server.settings import SecuritySettings, Settings
from embeddings import __version__
from embeddings.errors import StoreError

Call = Callable[..., requests.Response]
TOKEN = "test-token-0123456789"


def test_health_names_the_program_and_its_versions(call: Call) -> None:
    assert call("GET", "/health", token=None).json() == {
        "status": "ok",
        "name": "terrakin",
        "version": __version__,
        "api_version": 1,
    }


def test_every_link_of_the_landing_page_leads_somewhere(call: Call, url: str) -> None:
    page = call("GET", "/").json()
    assert {"self", "service-desc", "conformance", "data"} <= {
        link["rel"] for link in page["links"]
    }
    for link in page["links"]:
        assert link["href"].startswith(f"{url}/")
        assert call("GET", urlsplit(link["href"]).path).status_code == 200


def test_conformance_lists_uris(call: Call) -> None:
    classes = call("GET", "/conformance").json()["conformsTo"]
    assert classes
    assert all(uri.startswith("http://www.opengis.net/spec/") for uri in classes)


def test_the_openapi_description_names_our_errors_and_the_token(call: Call) -> None:
    description = call("GET", "/api").json()
    assert description["openapi"].startswith("3.1")
    for path, methods in description["paths"].items():
        for method in methods.values():
            answers = method["responses"]
            assert "422" not in answers, path
            assert "application/problem+json" in answers["default"]["content"], path
            assert ("security" in method) == (path != "/health"), path


def test_there_are_no_pages_that_load_scripts_from_elsewhere(call: Call) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert call("GET", path).status_code == 404


def test_collections_and_collection_agree(call: Call) -> None:
    answer = call("GET", "/collections").json()
    assert answer["links"][0]["rel"] == "self"
    assert "valley" in {listed["id"] for listed in answer["collections"]}
    for listed in answer["collections"]:
        assert call("GET", f"/collections/{listed['id']}").json() == listed


def test_a_collection_is_described(call: Call, url: str) -> None:
    collection = call("GET", "/collections/valley").json()
    assert collection["id"] == "valley"
    assert collection["license"] == "proprietary"
    assert collection["spec"]["model"] == "rcf"
    assert collection["spec"]["layout"]["chip_px"] == [16, 16]
    time = "2018-10-13T10:00:00Z"
    assert collection["extent"]["temporal"] == {"interval": [[time, time]]}
    ((west, south, east, north),) = collection["extent"]["spatial"]["bbox"]
    assert 13 < west < east < 15
    assert 45 < south < north < 46
    items = {"rel": "items", "href": f"{url}/collections/valley/items"}
    assert {**items, "type": "application/geo+json"} in collection["links"]


@pytest.mark.parametrize("name", ["nowhere", "Valley", "valley%00", "ünknown", "%20"])
def test_an_unknown_collection_is_named_with_those_there_are(call: Call, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/items"), ("GET", "/items/x"), ("POST", "/search")):
        body = {"json": {"at": [0, 0]}} if method == "POST" else {}
        problem = call(method, f"/collections/{name}{path}", **body).json()
        assert (problem["status"], problem["code"]) == (404, "collection-not-found")
        assert "valley" in problem["detail"]


@pytest.mark.parametrize("name", ["..", "%2e%2e", ".", "..%5c..", "%2e%2e%5cvalley"])
def test_a_path_does_not_leave_the_store(url: str, name: str) -> None:
    # http.client sends paths as they are; requests would tidy the dots away.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", f"/collections/{name}", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["code"]) == (404, "collection-not-found")
    connection.close()


def test_an_unknown_path_and_an_unknown_method(call: Call) -> None:
    problem = call("GET", "/nothing/here").json()
    assert (problem["status"], problem["code"]) == (404, "not-found")
    assert "/nothing/here" in problem["detail"]
    answer = call("PUT", "/collections")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (405, "method-not-allowed")
    assert "PUT" in problem["detail"]
    assert answer.headers["allow"] == "GET"


def test_an_unexpected_error_is_500_without_its_reason_but_in_the_log(
    call: Call, app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(app.state.service, "collections", broken)
    answer = call("GET", "/collections")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    deadline = time.monotonic() + 60  # uvicorn logs after the answer has gone out
    while "a secret of the inside" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "a secret of the inside" in caplog.text


def test_a_damaged_collection_hides_no_other(
    running: Any, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    shutil.copytree(copy / "valley", copy / "broken")
    (copy / "broken" / "collection.json").write_text("{", encoding="utf-8")
    settings = Settings(store=copy, security=SecuritySettings(token=SecretStr(TOKEN)))
    with running(settings) as (settled, _):
        base = f"{settled.server.url}/collections"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        listed = requests.get(base, headers=headers, timeout=60).json()["collections"]
        asked = requests.get(f"{base}/broken", headers=headers, timeout=60)
    names = {collection["id"] for collection in listed}
    assert "valley" in names
    assert "broken" not in names
    assert (asked.status_code, asked.json()["code"]) == (500, "store-format")
    assert "'broken' is left out" in caplog.text


def test_a_folder_that_is_no_store_is_refused_at_the_start(running: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(StoreError, match=r"no Terrakin store"), running(Settings(store=tmp_path)):
        pass
