"""A store made of a seeded scene, and one live server over it, shared by the tests."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from embed_server.app import create_app
from embed_server.cli import main
from embed_server.client import Client
from embed_server.runner import bound_socket
from embed_server.settings import LimitSettings, SecuritySettings, Settings
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.synthetic import write_scene

TOKEN = "test-token-0123456789"
TIMEOUT_S = 60

Command = Callable[..., tuple[int, str, str]]
"""Arguments -> exit code, standard output, standard error."""
Running = Callable[[Settings], AbstractContextManager[tuple[Settings, FastAPI]]]


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith("TERRAKIN_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The bands of a scene of 256 x 256 pixels with a corner that has no data."""
    folder = tmp_path_factory.mktemp("scene")
    return [str(path) for path in write_scene(folder, seed=1, size=256)]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, scene: list[str]) -> Path:
    """A store with the collection 'valley': scene 'first', chips of 16 x 16 pixels."""
    path = tmp_path_factory.mktemp("store")
    time = "2018-10-13T10:00:00Z"
    embed_raster(RasterJob(path, "valley", tuple(scene), chip="16", datetime=time, scene="first"))
    return path


@pytest.fixture(scope="session")
def make_settings(store: Path) -> Callable[..., Settings]:
    """Settings over the store; keywords become limits."""

    def make(**limits: Any) -> Settings:
        return Settings(
            store=store,
            limits=LimitSettings(**limits),
            security=SecuritySettings(token=SecretStr(TOKEN)),
        )

    return make


@pytest.fixture(scope="session")
def running() -> Running:
    """Run a server in a thread for the length of a with block."""

    @contextmanager
    def run(settings: Settings) -> Iterator[tuple[Settings, FastAPI]]:
        with bound_socket(0) as listener:
            settled = settings.at_port(listener.getsockname()[1])
            app = create_app(settled)
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                # The socket listens already, so this waits for the start and no longer.
                requests.get(f"{settled.server.url}/health", timeout=TIMEOUT_S)
                yield settled, app
            finally:
                server.should_exit = True
                thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def live(running: Running, make_settings: Callable[..., Settings]) -> Iterator[tuple[str, FastAPI]]:
    """The URL and the application of the shared server."""
    with running(make_settings(max_body_bytes=10_000, max_queued_jobs=2)) as (settings, app):
        yield settings.server.url, app


@pytest.fixture(scope="session")
def app(live: tuple[str, FastAPI]) -> FastAPI:
    return live[1]


@pytest.fixture(scope="session")
def url(live: tuple[str, FastAPI]) -> str:
    return live[0]


@pytest.fixture(scope="session")
def call(url: str) -> Callable[..., requests.Response]:
    """Send a request to the shared server, with its token unless ``token`` says otherwise."""

    def send(
        method: str,
        path: str,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        given = dict(headers or {})
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, url + path, headers=given, timeout=TIMEOUT_S, **options)

    return send


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, TOKEN, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture(scope="session")
def inside(live: tuple[str, FastAPI]) -> tuple[float, float]:
    """The centre (lon, lat) of a chip of the collection."""
    with Client(live[0], TOKEN, timeout_s=TIMEOUT_S) as client:
        properties = client.item("valley", "first_8_8")["properties"]
    return properties["lon"], properties["lat"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; return exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["terrakin", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        return int(stopped.value.code or 0), output.out, output.err

    return call
