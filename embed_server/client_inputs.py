"""Inputs of jobs as a program of this machine has them: paths may be relative to its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PathOrGeoJson = str | Path | Mapping[str, Any]
Paths = str | Path | Sequence[str | Path]

PATHS = (
    *("model", "labels", "within", "out", "report", "map", "sample"),
    *("before", "after", "classes", "objects", "probe", "clicks"),
)
"""Inputs of the processes of probes and of change that name files of this machine."""


def several(paths: Paths) -> list[str | Path]:
    """Return one path as a list of one."""
    return [paths] if isinstance(paths, str | Path) else list(paths)


def whole_paths(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with whole paths, since the server does not know the working folder."""
    return {name: _whole(value) if name in PATHS else value for name, value in inputs.items()}


def _whole(value: Any) -> Any:
    """Return a path, or each of several, as a whole one; an address and GeoJSON as they are."""
    if isinstance(value, list | tuple):
        return [_whole(each) for each in value]
    if isinstance(value, Path) or (isinstance(value, str) and "://" not in value):
        return str(Path(value).absolute())
    return value
