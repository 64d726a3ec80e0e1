"""The ready file: how clients find a running server and its token."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from platformdirs import user_state_path

from embed_server.errors import ReadyFileError


@dataclass(frozen=True)
class ReadyFile:
    """What a server tells its clients. The token is a secret and stays out of ``repr``."""

    url: str
    token: str = field(repr=False)
    pid: int
    version: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ready file. Raises ReadyFileError."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(data["url"]), str(data["token"]), int(data["pid"]), str(data["version"]))
        except FileNotFoundError:
            raise ReadyFileError(
                f"There is no ready file {path}: the server has stopped or has not started yet. "
                "Start one with 'terrakin serve --store DIR --ready-file FILE'."
            ) from None
        except OSError as error:
            raise ReadyFileError(f"The ready file {path} cannot be read: {error}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ReadyFileError(
                f"{path} is not the ready file of a Terrakin server ({error!r}). Name the file "
                "given to 'terrakin serve --ready-file'."
            ) from error

    def write(self, path: Path) -> None:
        """Write the file atomically, readable by its owner only. Raises ReadyFileError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # mkstemp opens with O_EXCL and mode 0600: the token is never readable by others.
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(self.announcement(path) | {"token": self.token}, file)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ReadyFileError(
                f"The ready file {path} cannot be written: {error}. Name another with --ready-file."
            ) from error

    def remove(self, path: Path) -> None:
        """Remove the file if it is still this server's."""
        try:
            if type(self).read(path) == self:
                path.unlink()
        except (ReadyFileError, FileNotFoundError):
            return  # Gone, or overwritten by something else: not ours to remove.

    def announcement(self, path: Path) -> dict[str, Any]:
        """Return what the server prints when it is ready: all but the token."""
        return {"url": self.url, "pid": self.pid, "version": self.version, "ready_file": str(path)}


def default_path(port: int) -> Path:
    """Return where the ready file of the server on ``port`` stands if no place is named."""
    return user_state_path("terrakin", appauthor=False) / "servers" / f"{port}.json"
