"""Arrays of places in degrees: checks, wrapping and UTM zones. ``LonLat`` is the type for one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embeddings.errors import PlaceError

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_SHOWN = 5


def checked_places(lon: npt.ArrayLike, lat: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return (lon, lat) as float64 degrees in one shape, longitudes wrapped into ±180.

    Raises PlaceError for values that are not finite, latitudes beyond ±90 and longitudes
    beyond ±540.
    """
    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    for bad, problem in (
        (~(np.isfinite(lon) & np.isfinite(lat)), "are not numbers"),
        (np.abs(lat) > 90, "lie beyond latitude ±90"),
        (np.abs(lon) > 540, "lie beyond longitude ±540"),
    ):
        if bad.any():
            raise PlaceError(
                f"{first_points(lon, lat, bad)} {problem}. Give longitude and latitude in "
                "degrees, in this order."
            )
    return wrap_lons(lon), lat


def first_points(lon: Floats, lat: Floats, bad: npt.NDArray[np.bool_]) -> str:
    """Say how many points are bad, and which come first, for an error text."""
    pairs = [f"({x:g}, {y:g})" for x, y in zip(lon[bad][:_SHOWN], lat[bad][:_SHOWN], strict=True)]
    return f"{int(bad.sum())} of {bad.size} points (lon, lat), first {', '.join(pairs)},"


def wrap_lons(lon: Floats) -> Floats:
    """Bring longitudes in degrees into ±180; ±180 stay as they are."""
    return np.where(np.abs(lon) <= 180.0, lon, np.mod(lon + 180.0, 360.0) - 180.0)


def utm_epsg(lon: npt.ArrayLike, lat: npt.ArrayLike) -> Ints:
    """Return the EPSG code of the UTM zone of each point, with Norway's and Svalbard's zones.

    326zz in the northern hemisphere with the equator, 327zz in the southern. Raises PlaceError
    as ``checked_places`` does.
    """
    lon, lat = checked_places(lon, lat)
    zone = np.floor((lon + 180.0) / 6.0) % 60 + 1
    norway = (lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12)
    svalbard = (lat >= 72) & (lat < 84)
    zone = np.where(norway, 32, zone)
    for special, west, east in ((31, 0, 9), (33, 9, 21), (35, 21, 33), (37, 33, 42)):
        zone = np.where(svalbard & (lon >= west) & (lon < east), special, zone)
    return np.asarray(np.where(lat < 0, 32700, 32600) + zone, np.int32)
