"""Frozen value types. The axis order is in the name of every accessor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from embeddings.errors import InputError, PlaceError


@dataclass(frozen=True, slots=True)
class LonLat:
    """A place on Earth in degrees, OGC:CRS84. Longitudes beyond ±180 are wrapped.

    Raises PlaceError if a value is not finite, or the latitude lies beyond ±90.
    """

    lon: float
    lat: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lon) and math.isfinite(self.lat)):
            raise PlaceError(
                f"The place ({self.lon}, {self.lat}) is not a number. "
                "Give longitude and latitude in degrees."
            )
        if abs(self.lat) > 90:
            hint = " Are longitude and latitude swapped?" if abs(self.lon) <= 90 else ""
            raise PlaceError(
                f"Latitude {self.lat:g} lies beyond ±90 degrees.{hint} "
                "Places are given as longitude, latitude."
            )
        if abs(self.lon) > 540:
            raise PlaceError(
                f"Longitude {self.lon:g} lies beyond ±540 degrees. "
                "Give degrees, not metres of a projection."
            )
        object.__setattr__(self, "lon", wrap_lon(self.lon))

    @classmethod
    def parse(cls, text: str) -> LonLat:
        """Read ``"LON,LAT"`` in degrees."""
        lon, lat = _numbers(text, 2, "a place as LON,LAT, for example -76.657,34.718")
        return cls(lon, lat)

    def lonlat(self) -> tuple[float, float]:
        """Return (lon, lat) in degrees."""
        return self.lon, self.lat


@dataclass(frozen=True, slots=True)
class Bounds:
    """A box in degrees, OGC:CRS84. ``west > east`` means that it crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        values = (self.west, self.south, self.east, self.north)
        if not all(math.isfinite(v) for v in values):
            raise PlaceError(f"The box {values} holds a value that is not a number.")
        if (
            abs(self.south) > 90
            or abs(self.north) > 90
            or abs(self.west) > 180
            or abs(self.east) > 180
        ):
            raise PlaceError(
                f"The box {values} leaves the Earth: west, south, east, north must "
                "lie in ±180 and ±90 degrees."
            )
        if self.south > self.north:
            raise PlaceError(
                f"The box {values} has its south above its north. "
                "The order is west, south, east, north."
            )

    @classmethod
    def parse(cls, text: str) -> Bounds:
        """Read ``"W,S,E,N"`` in degrees."""
        west, south, east, north = _numbers(text, 4, "a box as W,S,E,N, for example -77,34,-76,35")
        return cls(west, south, east, north)

    @property
    def crosses_antimeridian(self) -> bool:
        """Whether the box runs eastward over ±180."""
        return self.west > self.east

    def west_south_east_north(self) -> tuple[float, float, float, float]:
        """Return the box as (west, south, east, north) in degrees."""
        return self.west, self.south, self.east, self.north


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A closed range of UTC times; an open end is None."""

    start: datetime | None
    end: datetime | None

    def __post_init__(self) -> None:
        if self.start and self.end and self.start > self.end:
            raise InputError(f"The time range {self.start} / {self.end} ends before it starts.")

    @classmethod
    def parse(cls, text: str) -> TimeRange:
        """Read an OGC ``datetime``: an instant, ``A/B``, ``../B`` or ``A/..`` (ISO 8601)."""
        if "/" not in text:
            instant = parse_datetime(text)
            return cls(instant, instant)
        start, _, end = text.partition("/")
        return cls(
            None if start in ("", "..") else parse_datetime(start),
            None if end in ("", "..") else parse_datetime(end),
        )


def parse_datetime(text: str) -> datetime:
    """Read ISO 8601 as UTC (a time without zone is taken as UTC). Raises InputError."""
    try:
        value = datetime.fromisoformat(text.strip())
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError):  # a zone can carry year 1 or 9999 out of range
        raise InputError(
            f"'{text}' is not a date. Give ISO 8601, for example 2018-10-13 or "
            "2018-10-13T15:40:00Z."
        ) from None


def wrap_lon(lon: float) -> float:
    """Bring a longitude into [-180, 180); 180 itself stays."""
    return lon if -180.0 <= lon <= 180.0 else (lon + 180.0) % 360.0 - 180.0


def _numbers(text: str, count: int, wanted: str) -> list[float]:
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != count:
        raise PlaceError(f"'{text}' is not {wanted}.")
    return values


def union_bounds(boxes: Sequence[Bounds]) -> Bounds | None:
    """Return the smallest box around all, over ±180 where that is shorter; None for no boxes."""
    if not boxes:
        return None
    arcs = sorted((box.west, box.east + 360.0 * box.crosses_antimeridian) for box in boxes)
    merged = [arcs[0]]
    for west, east in arcs[1:]:
        if west <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], east))
        else:
            merged.append((west, east))
    # An arc that runs over +180 covers the beginning of the list too.
    over = merged[-1][1] - 360.0
    while len(merged) > 1 and merged[0][0] <= over:
        over = max(over, merged.pop(0)[1])
        merged[-1] = (merged[-1][0], over + 360.0)
    # The widest gap between two neighbouring arcs stays outside the box.
    ends = [*merged[1:], (merged[0][0] + 360.0, 0.0)]
    gaps = [following[0] - arc[1] for arc, following in zip(merged, ends, strict=True)]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    south = min(box.south for box in boxes)
    north = max(box.north for box in boxes)
    if gaps[widest] <= 0:
        return Bounds(-180.0, south, 180.0, north)
    # Not the beginning plus a turn, which would round it off.
    west = wrap_lon(merged[(widest + 1) % len(merged)][0])
    east = wrap_lon(merged[widest][1])
    return Bounds(west, south, east, north)
