"""Paths and addresses as texts: which kind they are, their parts, and how people are shown them.

An address may carry a password or a signature. Neither ever stands in a message or a collection:
whatever is shown goes through ``shown`` or ``without_secrets``.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

MAJORTOM_ROW = "majortom-row:"
"""Begins the name of an image in a Parquet file, majortom-row:FILE#GROUP.ROW#COLUMN: row group,
row in it (both from 0), column."""

_SCHEMES = {"http", "https", "s3", "gs", "az", "abfs"}
_GDAL_FOLDERS = {"/vsicurl/": "", "/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://"}
_ADDRESS = re.compile(r"\b(?:https?|s3|gs|az|abfs)://[^\s'\"<>]+", re.IGNORECASE)


def is_remote(uri: str) -> bool:
    """Whether a text is an address, in contrast to the path of a local file."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


def address_of(uri: str) -> str:
    """Return the address for one of GDAL's names of remote files; anything else as it is."""
    for folder, scheme in _GDAL_FOLDERS.items():
        if uri.startswith(folder):
            return scheme + uri.removeprefix(folder)
    return uri


def shown(uri: str) -> str:
    """Return an address without password, query and fragment; a path as it is."""
    if uri.startswith(MAJORTOM_ROW):
        file, group, row, column = row_parts(uri)
        return f"{shown(file)} (row group {group}, row {row}, {column})"
    if not is_remote(uri):
        return without_secrets(uri) if "://" in uri else uri
    scheme, _, rest = uri.partition("://")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def without_secrets(text: str) -> str:
    """Return a text, such as a message of GDAL, with every address in it as ``shown``."""
    return _ADDRESS.sub(lambda found: shown(found[0]), text)


def row_parts(uri: str) -> tuple[str, int, int, str]:
    """Split the name of an image in a Parquet file into file, row group, row in it and column."""
    file, place, column = uri.removeprefix(MAJORTOM_ROW).rsplit("#", 2)
    group, row = place.split(".")
    return file, int(group), int(row), column


def path_of(uri: str) -> PurePosixPath | Path:
    """Return a path to take names from: of an address, the part after the host."""
    address = address_of(uri)
    if is_remote(address):
        parts = urlsplit(shown(address))
        return PurePosixPath("/" + parts.netloc) / unquote(parts.path).lstrip("/")
    return Path(uri).absolute()


def relative_to(base: str, href: str) -> str:
    """Resolve a reference that stands in the file or address ``base``."""
    if is_remote(href) or href.startswith("/vsi"):
        return href
    if href.lower().startswith("file:"):
        return _local(href)
    if is_remote(base):
        scheme, _, rest = base.partition("://")
        # urljoin knows relative references of a few schemes only.
        joined = urljoin(f"http://{rest}", href)
        return f"{scheme}://{joined.removeprefix('http://')}"
    return str(Path(base).absolute().parent / href)


def _local(href: str) -> str:
    """Return the path of a file: address; on Windows file:///C:/a is C:/a."""
    path = unquote(urlsplit(href).path)
    return path[1:] if re.match(r"/[A-Za-z]:", path) else path
