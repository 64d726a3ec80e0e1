"""Files under an address of any kind that fsspec knows; its errors become ours, here alone.

Credentials are what fsspec and the libraries below it find in the environment and in their own
files. An address may carry a password; what is shown never does.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embeddings.errors import (
    ExtraMissingError,
    InputError,
    StoreError,
    StoreNotWritableError,
    TerrakinError,
)

PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "http": "aiohttp",
    "https": "aiohttp",
}
"""Which package speaks which protocol."""

_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"}
"""Where an object appears whole or not at all, and no folder needs to be made."""

_OVERWRITING: dict[str, dict[str, Any]] = {
    scheme: {"overwrite": True} for scheme in ("az", "abfs", "abfss")
}
"""What an upload needs to be told to take the place of an object."""

_CHANGES = {"be written", "be changed"}

_CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
"""How S3 says that an object is no longer what the writer saw."""

_UNCONDITIONAL = {"NotImplemented", "501", "ParamValidationError"}
"""How servers, and clients of before 2025, say that they know no condition on a write."""

_AT_ONCE = 64 * 2**20
"""Bytes of the largest file that goes to S3 in one request."""

_PROBE = ".terrakin-writing"

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SHOWN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)([^\s'\"<>]*)")


def is_address(text: str) -> bool:
    """Whether a text is an address, in contrast to a path."""
    return _ADDRESS.match(text) is not None


def shown(text: str) -> str:
    """Return a text with all addresses in it without user, password, query and fragment."""
    return _SHOWN.sub(_without_secrets, text)


def _without_secrets(found: re.Match[str]) -> str:
    plain = re.split(r"[?#]", found[2], maxsplit=1)[0]
    host, slash, path = plain.partition("/")
    return f"{found[1]}{host.rpartition('@')[2]}{slash}{path}"


class RemoteFolder:
    """A folder at an address. All names are relative to it, with forward slashes."""

    def __init__(self, url: str) -> None:
        """Raises InputError, ExtraMissingError or StoreError."""
        self.shown = shown(url).rstrip("/")
        self._scheme = url.partition("://")[0].lower()
        if not is_address(url) or "::" in url:
            raise InputError(
                f"'{self.shown}' is not the address of a store. Write one such as "
                "s3://bucket/folder, gs://bucket/folder or sftp://host/folder."
            )
        self._system, root = self._opened(url)
        self._root = root.rstrip("/")

    def _opened(self, url: str) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise ExtraMissingError(
                "Remote stores need the package fsspec. Run: pip install 'terrakin[remote]'"
            ) from None
        try:
            with self._errors("be opened"):
                system, root = url_to_fs(url, **self._options())
        except ValueError as error:
            raise InputError(
                f"'{self.shown}' cannot be used ({error}). Protocols that work: s3, gs, az, sftp, "
                "file and others that fsspec knows."
            ) from None
        except ImportError as error:
            package = PACKAGES.get(self._scheme)
            what = f"Run: pip install '{package}'" if package else f"{error}."
            raise ExtraMissingError(
                f"{self._scheme}:// addresses need a package that is not installed. {what}"
            ) from None
        return system, str(root)

    def _options(self) -> dict[str, Any]:
        """What the address's own library does not take from the environment by itself."""
        unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "ON", "1")
        return {"anon": True} if unsigned and self._scheme == "s3" else {}

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if there is none. Raises StoreError."""
        with self._errors("be read"):
            self._system.invalidate_cache()
            try:
                return bytes(self._system.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def names(self, folder: str = "") -> list[str]:
        """Return the names in a folder, sorted, without hidden ones; none if it is not there."""
        with self._errors("be listed"):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._path(folder).rstrip("/") or "/", detail=False)
            except FileNotFoundError:
                return []
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
        return sorted(name for name in names if name and not name.startswith("."))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; it appears whole or not at all. Raises StoreError."""
        with self._placed(name) as path:
            self._system.pipe_file(path, content)

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        """Write a small file if its content is still ``before``; None: if it is not there.

        S3 compares and writes in one step; elsewhere some milliseconds lie between. Return
        whether it was written. Raises StoreError.
        """
        if self._scheme not in ("s3", "s3a"):
            same = self.read(name) == before
            if same:
                self.write(name, after)
            return same
        path = self._path(name)
        found = self._exists(name)
        with self._errors("be read"):
            tag = self._system.info(path)["ETag"] if found else None
        if found != (before is not None) or (found and self.read(name) != before):
            return False
        condition = {"IfMatch": tag} if tag is not None else {"IfNoneMatch": "*"}
        with self._errors("be written"):
            try:
                self._system.pipe_file(path, after, **condition)
            except Exception as error:
                code = _s3_code(error)
                if code in _CHANGED:
                    return False
                if code not in _UNCONDITIONAL:
                    raise
                self._system.pipe_file(path, after)
        return True

    def create(self, name: str, source: Path) -> bool:
        """Copy a local file there unless something else is there; return whether it is there.

        For files of a moderate size S3 looks and writes in one step. Raises StoreError.
        """
        small = source.stat().st_size <= _AT_ONCE
        if small and self._scheme in ("s3", "s3a"):
            if self.swap(name, None, source.read_bytes()):
                return True
        elif not self._exists(name):
            self.upload(name, source)
            return True
        # Seldom: a killed run or another writer was here before.
        return self.read(name) == source.read_bytes()

    def _exists(self, name: str) -> bool:
        with self._errors("be read"):
            self._system.invalidate_cache()
            return bool(self._system.exists(self._path(name)))

    def upload(self, name: str, source: Path) -> None:
        """Copy a local file there; it appears whole or not at all. Raises StoreError."""
        with self._placed(name) as path:
            self._system.put_file(str(source), path, **_OVERWRITING.get(self._scheme, {}))

    def download(self, name: str, target: Path) -> bool:
        """Copy a file to ``target``; False if there is none. Raises StoreError, or OSError if
        ``target`` cannot be written.
        """
        target.touch()
        with self._errors("be copied"):
            try:
                self._system.get_file(self._path(name), str(target))
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises StoreError."""
        with self._errors("be changed"):
            try:
                self._system.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def check_writable(self) -> None:
        """Write a file of a few bytes and remove it. Raises StoreError."""
        self.write(_PROBE, b"terrakin\n")
        self.remove(_PROBE)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _placed(self, name: str) -> Iterator[str]:
        """Give the path to write to: of an object store the final one, else one beside it."""
        final = self._path(name)
        with self._errors("be written"):
            if self._scheme in _WHOLE:
                yield final
                return
            folder, _, file = final.rpartition("/")
            self._system.makedirs(folder or "/", exist_ok=True)
            temporary = f"{folder}/.{file}.tmp"
            yield temporary
            self._system.mv(temporary, final)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn whatever the libraries raise into one clear error.

        ValueError and ImportError while opening are the caller's to explain.
        """
        try:
            yield
        except TerrakinError:
            raise
        except Exception as error:
            if what == "be opened" and isinstance(error, (ValueError, ImportError)):
                raise
            if what == "be copied" and getattr(error, "errno", None) == errno.ENOSPC:
                raise  # it is the disk here that is full
            # The cause may repeat the address with its password.
            raise self._translated(error, what) from None

    def _translated(self, error: Exception, what: str) -> StoreError:
        kind = type(error).__name__
        reason = shown(str(error)).strip().partition("\n")[0][:200] or kind
        text = f"{self.shown} cannot {what}"
        lower = f"{kind} {reason}".lower()
        if isinstance(error, FileNotFoundError):
            return StoreError(
                f"{text}: the bucket or folder does not exist ({reason}). Make it first, or check "
                "its spelling."
            )
        if "credential" in lower or "defaultcredentials" in lower:
            return StoreError(
                f"{text}: there are no usable credentials ({reason}). Set them as its own tools "
                "expect them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if isinstance(error, PermissionError) or "forbidden" in lower or "denied" in lower:
            kind_of = StoreNotWritableError if what in _CHANGES else StoreError
            return kind_of(
                f"{text}: access is denied ({reason}). Check the credentials in the environment "
                "and what they may do there: list, read, write and delete."
            )
        if isinstance(error, (ConnectionError, TimeoutError)) or any(
            sign in lower for sign in ("connect", "timeout", "endpoint", "getaddrinfo", "dns")
        ):
            return StoreError(
                f"{text}: it does not answer ({reason}). Check the address, whether this machine "
                "is online, and settings such as AWS_ENDPOINT_URL."
            )
        return StoreError(f"{text} ({kind}: {reason}).")


def _s3_code(error: Exception) -> str:
    """Return the code of an error of S3, which s3fs keeps as the cause of its own."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return type(error).__name__
