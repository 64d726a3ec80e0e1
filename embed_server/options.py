"""Types of the command's options. Click takes a value after a space even if it is negative."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from embeddings.errors import PlaceError
from embeddings.types import Bounds, LonLat

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


store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    required=True,
    envvar="TERRAKIN_STORE",
    help="Folder of collections (or set TERRAKIN_STORE).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
