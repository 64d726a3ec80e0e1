"""Types of the command's options. Click takes a value after a space even if it is negative."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from embeddings.errors import PlaceError
from embeddings.store.objects import is_address, shown
from embeddings.types import Bounds, LonLat

Command = TypeVar("Command", bound=Callable[..., Any])

_METRES = re.compile(r"(\d+(?:\.\d+)?)\s*(m|km)?")


class PlaceType(click.ParamType[LonLat]):
    """LON,LAT in degrees."""

    name = "lon,lat"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a LonLat, or fail with the reason."""
        try:
            return value if isinstance(value, LonLat) else LonLat.parse(value)
        except PlaceError as error:
            self.fail(str(error), param, ctx)


class BoundsType(click.ParamType[Bounds]):
    """W,S,E,N in degrees."""

    name = "w,s,e,n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return Bounds, or fail with the reason."""
        try:
            return value if isinstance(value, Bounds) else Bounds.parse(value)
        except PlaceError as error:
            self.fail(str(error), param, ctx)


class NamesType(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "a,b,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a tuple of names, or fail with the reason."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"'{value}' has an empty name. Write B04,B03,B02.", param, ctx)
        return names


class MetresType(click.ParamType[float]):
    """A length: 300m, 1.5km; a bare number is metres."""

    name = "metres"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return metres as a float, or fail with the reason."""
        if isinstance(value, float):
            return value
        match = _METRES.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"'{value}' is not a length. Write 300m or 1.5km.", param, ctx)
        return float(match[1]) * (1000.0 if match[2] == "km" else 1.0)


class StoreType(click.Path):
    """A folder; where ``remote`` allows it, the address of one, which stays a text."""

    def __init__(self, *, remote: bool = False) -> None:
        super().__init__(path_type=Path)
        self.remote = remote

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path or an address, or fail with the reason."""
        if isinstance(value, Path) or not is_address(value):
            return super().convert(value, param, ctx)
        if not self.remote:
            self.fail(
                f"{shown(value)} is not on this machine. Copy it first: terrakin fetch "
                f"{shown(value)} --store DIR",
                param,
                ctx,
            )
        return value


def _store_option(kind: StoreType, text: str) -> Callable[[Command], Command]:
    return click.option("--store", type=kind, required=True, envvar="TERRAKIN_STORE", help=text)


store_option = _store_option(StoreType(), "Folder of collections (or set TERRAKIN_STORE).")
any_store_option = _store_option(
    StoreType(remote=True),
    "Folder of collections, or the address of one: s3://bucket/folder (or set TERRAKIN_STORE).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
