"""The panel's server, lent to the algorithms of the toolbox: no store needs two servers."""

from __future__ import annotations

from pathlib import Path

from .wire import ReadyFile

_lent: dict[str, ReadyFile] = {}
"""At most one. The panel replaces it whole, so that other threads may read it at any time."""


def lend(store: str, server: ReadyFile) -> None:
    """Let algorithms take a server that was started on a store."""
    global _lent
    _lent = {_whole(store): server}


def take_back() -> None:
    """Let no algorithm begin with the panel's server any more."""
    global _lent
    _lent = {}


def lent_on(store: str) -> ReadyFile | None:
    """Return the panel's server if it runs on this store."""
    return _lent.get(_whole(store))


def _whole(store: str) -> str:
    return str(Path(store).resolve())
