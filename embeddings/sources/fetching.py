"""Bytes from http(s), s3, gs and az addresses, in whole or in part; errors in words.

http(s) goes through requests, so HTTP_PROXY, HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE hold.
Object stores go through Arrow's own clients, with the credentials of the environment.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import pyarrow as pa
import requests
from pyarrow import fs
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from embeddings.errors import ExtraMissingError, SourceError, SourceNotFoundError
from embeddings.sources.addresses import is_remote, shown, without_secrets

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and to wait for the next bytes."""

RETRIES = 3
DOCUMENT_LIMIT = 64 * 1024**2
"""Bytes of the largest document read whole."""

_TRY_AGAIN = (429, 500, 502, 503, 504)


@lru_cache(maxsize=1)
def session() -> requests.Session:
    """Return the session of this process: connections are kept, failed requests repeated."""
    made = requests.Session()
    retry = Retry(
        total=RETRIES,
        backoff_factor=0.3,
        status_forcelist=_TRY_AGAIN,
        allowed_methods=None,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        made.mount(scheme, HTTPAdapter(max_retries=retry))
    made.headers["User-Agent"] = "terrakin"
    return made


@contextmanager
def answered(method: str, address: str, **more: Any) -> Iterator[requests.Response]:
    """Send a request and give its answer, read as it is used.

    Raises SourceNotFoundError or SourceError, also for errors while the answer is read.
    """
    try:
        with session().request(method, address, timeout=TIMEOUT, stream=True, **more) as answer:
            _check(answer, address)
            yield answer
    except requests.RequestException as error:
        raise SourceError(
            f"'{shown(address)}' cannot be reached ({_reason(error)}). Check the address and "
            "whether this machine is online; behind a proxy set HTTPS_PROXY."
        ) from None  # the cause repeats the address with its signature


def _check(answer: requests.Response, address: str) -> None:
    if answer.ok:
        return
    status = f"{answer.status_code} {answer.reason}".strip()
    if answer.status_code in (404, 410):
        raise SourceNotFoundError(
            f"The server has no '{shown(address)}' ({status}). Check the address and its spelling."
        )
    if answer.status_code in (401, 403):
        raise SourceError(
            f"The server refuses '{shown(address)}' ({status}). Give an address that is public or "
            "signed; a signature may have expired."
        )
    raise SourceError(f"The server cannot give '{shown(address)}' ({status}). Try again later.")


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    text = str(error)
    for sign, words in (
        ("refused", "connection refused"),
        ("NameResolution", "its host name is unknown"),
        ("resolve", "its host name is unknown"),
        ("getaddrinfo", "its host name is unknown"),
        ("unreachable", "network unreachable"),
        ("too many", "the server keeps failing"),
    ):
        if sign in text:
            return words
    return type(error).__name__


def fetch(method: str, address: str, **more: Any) -> bytes:
    """Return the whole answer to a request for a document. Raises SourceError."""
    content = bytearray()
    with answered(method, address, **more) as answer:
        for piece in answer.iter_content(1 << 20):
            content += piece
            _check_size(content, address)
    return bytes(content)


def read_document(uri: str) -> bytes:
    """Read a document whole, from a path or an address. Raises SourceError."""
    if is_remote(uri) and not is_store(uri):
        return fetch("GET", uri)
    with open_binary(uri) as file:
        content = cast(bytes, file.read(DOCUMENT_LIMIT + 1))
    _check_size(content, uri)
    return content


def _check_size(content: bytes | bytearray, uri: str) -> None:
    if len(content) > DOCUMENT_LIMIT:
        raise SourceError(
            f"'{shown(uri)}' has more than {DOCUMENT_LIMIT // 1024**2} MB; that is no document of "
            "STAC."
        )


def is_store(uri: str) -> bool:
    """Whether an address is of an object store, in contrast to http(s)."""
    return is_remote(uri) and not uri.lower().startswith("http")


@contextmanager
def open_binary(uri: str) -> Iterator[Any]:
    """Open a path or an address as a seekable file that reads only what is asked for.

    Raises SourceNotFoundError or SourceError.
    """
    if is_store(uri):
        with _store_errors(uri):
            system, path = file_system(uri)
            file = system.open_input_file(path)
        with file:
            yield file
    elif is_remote(uri):
        with RangeFile(uri) as file:
            yield file
    else:
        try:
            file = pa.OSFile(uri, "rb")
        except FileNotFoundError:
            raise SourceNotFoundError(
                f"There is no file '{uri}'. Check the path and its spelling."
            ) from None
        except OSError as error:
            raise SourceError(
                f"'{uri}' cannot be read ({error.strerror or error}). Check its permissions."
            ) from error
        with file:
            yield file


class RangeFile(io.RawIOBase):
    """A file on an HTTP server that sends ranges. Raises SourceError."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._at = 0
        self._size = int(_head(address)["length"] or -1)
        if self._size < 0:
            raise SourceError(
                f"The server does not send parts of '{shown(address)}' (no range requests). "
                "Download the file first."
            )

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place, in bytes from the start."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fetch as many bytes as the buffer holds, in one request."""
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        wanted = {"Range": f"bytes={self._at}-{end - 1}", "Accept-Encoding": "identity"}
        with answered("GET", self._address, headers=wanted) as answer:
            content = answer.content
        if answer.status_code != 206 or len(content) != end - self._at:
            raise SourceError(
                f"The server sent other bytes of '{shown(self._address)}' than it was asked for. "
                "Try again, or download the file first."
            )
        buffer[: len(content)] = content
        self._at = end
        return len(content)


def _head(address: str) -> Mapping[str, str | None]:
    """Return length, etag and changed of what an address holds, by asking for its first byte.

    A signed address answers GET alone, so HEAD is not used. ``length`` is None where the server
    sends no ranges.
    """
    asked = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    with answered("GET", address, headers=asked) as answer:
        found = answer.headers
        total = found.get("Content-Range", "").rpartition("/")[2]
        ranged = answer.status_code == 206 and total.isdigit()
        return {
            "length": total if ranged else None,
            "whole": None if ranged else found.get("Content-Length"),
            "etag": found.get("ETag"),
            "changed": found.get("Last-Modified"),
        }


def state_of(address: str) -> str:
    """Return a text that changes when what a remote address holds does.

    Raises SourceNotFoundError or SourceError.
    """
    if not is_store(address):
        state = {"address": shown(address), **_head(address)}
        return repr(sorted(state.items(), key=lambda pair: pair[0]))
    with _store_errors(address):
        system, path = file_system(address)
        info = system.get_file_info(path)
    if info.type != fs.FileType.File:
        raise SourceNotFoundError(
            f"There is no '{shown(address)}'. Check the bucket, the key and their spelling."
        )
    return repr([shown(address), info.size, info.mtime_ns])


def file_system(address: str) -> tuple[Any, str]:
    """Return Arrow's file system for an s3, gs or az address, and the path on it."""
    scheme, _, path = address.partition("://")
    scheme = scheme.lower()
    if scheme == "s3":
        return _s3(path.partition("/")[0]), path
    try:
        if scheme == "gs":
            return fs.GcsFileSystem(), path
        account = os.environ.get("AZURE_STORAGE_ACCOUNT")
        if account is None:
            raise SourceError(
                f"'{shown(address)}' lies in an Azure account that is not named. Set "
                "AZURE_STORAGE_ACCOUNT, and AZURE_STORAGE_ACCESS_KEY unless it is public."
            )
        key = os.environ.get("AZURE_STORAGE_ACCESS_KEY")
        return fs.AzureFileSystem(account, account_key=key), path
    except (ImportError, AttributeError):
        raise ExtraMissingError(
            f"This build of Arrow cannot read {scheme}:// addresses. Give an https:// address."
        ) from None


@lru_cache(maxsize=16)
def _s3(bucket: str) -> Any:
    """Return the client for a bucket, set up by the variables that GDAL reads too."""
    env = os.environ
    options: dict[str, Any] = {"connect_timeout": 10, "request_timeout": 60}
    if env.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "ON", "1"):
        options["anonymous"] = True
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    endpoint = env.get("AWS_S3_ENDPOINT")
    if endpoint:
        options["endpoint_override"] = endpoint
        options["scheme"] = "http" if env.get("AWS_HTTPS", "").upper() == "NO" else "https"
        options["force_virtual_addressing"] = False
        region = region or "us-east-1"
    return fs.S3FileSystem(region=region or fs.resolve_s3_region(bucket), **options)


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceNotFoundError(
            f"There is no '{shown(uri)}'. Check the bucket, the key and their spelling."
        ) from None
    except OSError as error:
        reason = without_secrets(str(error)).splitlines()[0][:200]
        raise SourceError(
            f"'{shown(uri)}' cannot be read ({reason}). Check the address, the credentials in the "
            "environment (AWS_..., GOOGLE_..., AZURE_...; AWS_NO_SIGN_REQUEST=YES for public "
            "buckets) and whether this machine is online."
        ) from None
