"""A small HTTP server that sends ranges of files, and counts what it sends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class RangeServer:
    """Serves a folder on 127.0.0.1, at a port of its own choice, while it is entered.

    ``sent`` counts the bytes of bodies by file name, ``requests`` lists (method, path with query).
    ``ranges=False`` sends files whole; ``signature`` is what the query must carry as sig=;
    ``fail`` statuses are answered first, one a request. ``answers`` maps paths to functions from
    (query, body) to bytes of JSON.

    It runs in a thread of the test: a call of GDAL that keeps Python's lock while it waits for an
    answer (listing a folder, as with GDAL_DISABLE_READDIR_ON_OPEN=FALSE) waits for ever.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ranges: bool = True,
        signature: str | None = None,
        fail: list[int] | None = None,
    ) -> None:
        self.folder = folder
        self.ranges = ranges
        self.signature = signature
        self.fail = list(fail or ())
        self.sent: dict[str, int] = {}
        self.requests: list[tuple[str, str]] = []
        self.answers: dict[str, Callable[[dict[str, str], bytes], bytes]] = {}
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def url(self, name: str) -> str:
        query = "" if self.signature is None else f"?sig={self.signature}"
        return f"{self.root}/{name}{query}"

    def bytes_sent(self) -> int:
        with self.lock:
            return sum(self.sent.values())

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    owner: RangeServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients may hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        owner = self.server.owner
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with owner.lock:
            owner.requests.append((self.command, self.path))
            status = owner.fail.pop(0) if owner.fail else 0
        file = owner.folder / parts.path.lstrip("/")
        if status:
            self._send(status, b"", {})
        elif owner.signature is not None and query.get("sig") != owner.signature:
            self._send(403, b"", {})
        elif parts.path in owner.answers:
            answer = owner.answers[parts.path](query, content)
            self._send(200, answer, {"Content-Type": "application/json"})
        elif not file.is_file():
            self._send(404, b"", {})
        else:
            self._send_file(file, body=body)

    def _send_file(self, file: Path, *, body: bool) -> None:
        owner = self.server.owner
        data, stat = file.read_bytes(), file.stat()
        headers = {"ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'}
        wanted = self.headers.get("Range", "")
        status = 200
        if owner.ranges:
            headers["Accept-Ranges"] = "bytes"
            if wanted.startswith("bytes="):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                size = len(data)
                start = int(first) if first else size - int(last)
                stop = min(int(last) + 1 if first and last else size, size)
                data, status = data[start:stop], 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with owner.lock:
            owner.sent[file.name] = owner.sent.get(file.name, 0) + len(data) * body
        self._send(status, data, headers, body=body)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
