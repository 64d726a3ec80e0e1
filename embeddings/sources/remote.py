"""Files that are not on this machine: what GDAL calls them, and how they are told apart.

Whoever opens a raster takes its name from ``local_name`` and opens it inside ``gdal_env``:

    name = stack.enter_context(local_name(file))
    with gdal_env(name):
        dataset = stack.enter_context(rasterio.open(name))

GDAL takes its settings for HTTP over into the open file, so they need to hold while opening only.
(A rasterio.Env that outlives another takes the other's settings away.)
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio

from embeddings.errors import SourceError, SourceNotFoundError
from embeddings.sources.addresses import (
    MAJORTOM_ROW,
    address_of,
    is_remote,
    relative_to,
    shown,
    without_secrets,
)
from embeddings.sources.fetching import state_of
from embeddings.sources.reading import SceneFile

__all__ = [
    "fingerprint_of",
    "gdal_env",
    "gdal_name",
    "is_remote",
    "local_name",
    "shown",
    "without_secrets",
]

_GDAL_FOLDERS = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
    "abfs": "/vsiaz/",
}

_GDAL_OPTIONS = {
    # No listing of the folder, and so no look for files beside a remote one.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # The header of a tiled file in one request.
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "CPL_VSIL_CURL_CACHE_SIZE": "67108864",
}


def gdal_name(uri: str) -> str:
    """Return what GDAL calls a file: a path as it is, an address under its virtual folder."""
    scheme, separator, rest = uri.partition("://")
    folder = _GDAL_FOLDERS.get(scheme.lower())
    return folder + rest if separator and folder else uri


@contextmanager
def gdal_env(name: str) -> Iterator[None]:
    """Let GDAL read a remote file in as few and small requests as it can; no change for others.

    What the user set in the environment stays.
    """
    if not (is_remote(name) or name.startswith("/vsi")) or name.startswith("/vsimem/"):
        yield
        return
    options = {key: value for key, value in _GDAL_OPTIONS.items() if key not in os.environ}
    with rasterio.Env(**options):
        yield


@contextmanager
def local_name(file: SceneFile | str) -> Iterator[str]:
    """Give the name under which GDAL opens a file, for as long as the context lasts.

    Raises SourceError if a row of a Parquet file cannot be read.
    """
    uri = file if isinstance(file, str) else file.uri
    if uri.startswith(MAJORTOM_ROW):
        from embeddings.sources.majortom_images import opened

        with opened(uri) as name:
            yield name
    else:
        yield gdal_name(uri)


def fingerprint_of(file: SceneFile | str) -> str:
    """Hash what a file holds, hexadecimal; two that differ have different ones.

    Of local files (with their masks, and with what a VRT refers to) the content is hashed; of
    remote ones the address without its query, the length, ETag and time of change, which the
    server tells without sending the file. Raises SourceNotFoundError or SourceError.
    """
    digest = hashlib.sha256()
    _update(digest, file if isinstance(file, str) else file.uri, frozenset())
    return digest.hexdigest()


def _update(digest: Any, uri: str, seen: frozenset[str]) -> None:
    if uri in seen:
        raise SourceError(f"'{shown(uri)}' refers to itself. Make the VRT anew.")
    if uri.startswith(MAJORTOM_ROW):
        from embeddings.sources.majortom_images import state_of_row

        digest.update(state_of_row(uri))
        return
    address = address_of(uri)
    if is_remote(address):
        digest.update(state_of(address).encode())
        return
    content = _content(Path(uri))
    digest.update(content)
    mask = Path(f"{uri}.msk")
    if mask.is_file():
        digest.update(_content(mask))
    if uri.lower().endswith(".vrt"):
        for source in _sources_of(Path(uri)):
            _update(digest, source, seen | {uri})


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        raise SourceNotFoundError(
            f"There is no file '{path}'. Check the path and its spelling."
        ) from None
    except OSError as error:
        raise SourceError(
            f"'{path}' cannot be read ({error.strerror}). Check its permissions and those of its "
            "folder."
        ) from error


def _sources_of(vrt: Path) -> list[str]:
    """Return the files a VRT takes its pixels from, each once, in order."""
    text = vrt.read_text(encoding="utf-8", errors="replace")
    found = re.findall(
        r"<Source(?:Filename|Dataset)([^>]*)>([^<]*)</Source(?:Filename|Dataset)>", text
    )
    names = [
        relative_to(str(vrt), html.unescape(name).strip())
        if re.search(r"""relativeToVRT=["']1""", attributes)
        else html.unescape(name).strip()
        for attributes, name in found
    ]
    return list(dict.fromkeys(names))
