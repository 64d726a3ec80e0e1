"""Bands of the sensors that pre-trained encoders know: names, centres and widths.

Centres and widths: Sentinel-2 User Handbook (ESA); Landsat 4-7 and 8-9 Collection 2 data format
control books (USGS). Common names: the electro-optical extension of STAC.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from embeddings.encoders.base import BandWant

Table = dict[str, tuple[str | None, float | None, float | None]]
"""Name of a band to its common name, centre and width in micrometres (None: radar)."""

SENTINEL2: Table = {
    "B01": ("coastal", 0.443, 0.020),
    "B02": ("blue", 0.490, 0.065),
    "B03": ("green", 0.560, 0.035),
    "B04": ("red", 0.665, 0.030),
    "B05": ("rededge071", 0.705, 0.015),
    "B06": ("rededge075", 0.740, 0.015),
    "B07": ("rededge078", 0.783, 0.020),
    "B08": ("nir", 0.842, 0.115),
    "B8A": ("nir08", 0.865, 0.020),
    "B09": ("nir09", 0.945, 0.020),
    "B10": ("cirrus", 1.375, 0.030),
    "B11": ("swir16", 1.610, 0.090),
    "B12": ("swir22", 2.190, 0.180),
}
SENTINEL1: Table = {"VV": (None, None, None), "VH": (None, None, None)}
OLI: Table = {
    "B1": ("coastal", 0.443, 0.016),
    "B2": ("blue", 0.482, 0.060),
    "B3": ("green", 0.561, 0.057),
    "B4": ("red", 0.655, 0.037),
    "B5": ("nir08", 0.865, 0.028),
    "B6": ("swir16", 1.609, 0.085),
    "B7": ("swir22", 2.201, 0.187),
    "B8": ("pan", 0.590, 0.172),
    "B9": ("cirrus", 1.373, 0.020),
    "B10": ("lwir11", 10.895, 0.590),
    "B11": ("lwir12", 12.005, 1.010),
}
TM: Table = {
    "B1": ("blue", 0.485, 0.070),
    "B2": ("green", 0.560, 0.080),
    "B3": ("red", 0.660, 0.060),
    "B4": ("nir08", 0.835, 0.130),
    "B5": ("swir16", 1.650, 0.200),
    "B6": ("lwir", 11.450, 2.100),
    "B6_VCID_1": ("lwir", 11.450, 2.100),
    "B6_VCID_2": ("lwir", 11.450, 2.100),
    "B7": ("swir22", 2.220, 0.270),
    "B8": ("pan", 0.710, 0.380),
}
PICTURE: Table = {
    "R": ("red", 0.650, None),
    "G": ("green", 0.550, None),
    "B": ("blue", 0.470, None),
    "NIR": ("nir", 0.840, None),
}
RGB = ("R", "G", "B")
SENTINEL2_RGB = ("B04", "B03", "B02")


@dataclass(frozen=True, slots=True)
class Sensor:
    """What a set of bands was taken with."""

    table: Table
    gsd_m: float | None


def sensor_of(weights: str, bands: Sequence[str]) -> Sensor:
    """Tell the sensor of weights named like "LANDSAT_TM_TOA_MOCO" from their name and bands."""
    upper = weights.upper()
    if "SENTINEL2" in upper:
        return Sensor(SENTINEL2, 10.0)
    if "SENTINEL1" in upper:
        return Sensor(SENTINEL1, 10.0)
    if "LANDSAT" in upper:
        return Sensor(TM if re.search(r"_E?TM_", upper) else OLI, 30.0)
    if "NAIP" in upper:
        return Sensor(PICTURE, 1.0)
    return Sensor(SENTINEL2, 10.0) if _known(bands, SENTINEL2) else Sensor(PICTURE, None)


def band_wants(sensor: Sensor, bands: Sequence[str]) -> tuple[BandWant, ...]:
    """Describe bands by the names that the weights' publisher gives them.

    Sentinel-2's are written as ESA writes them ("B2" and "B8a" are B02 and B8A).
    """
    found = []
    for band in bands:
        name = _esa(band) if sensor.table is SENTINEL2 else band
        key = name if name in sensor.table else re.sub(r"^(SR_)?B0?", "B", name)
        common, centre, _ = sensor.table.get(key, (None, None, None))
        found.append(BandWant(name, common, centre))
    return tuple(found)


def widths_um(bands: Sequence[BandWant]) -> list[float] | None:
    """Return the widths of Sentinel-2 bands, micrometres; None if any is of another sensor."""
    widths = [SENTINEL2[band.name][2] for band in bands if band.name in SENTINEL2]
    known = [width for width in widths if width is not None]
    return known if len(known) == len(bands) else None


def _known(bands: Sequence[str], table: Table) -> bool:
    return bool(bands) and all(_esa(band) in table for band in bands)


def _esa(band: str) -> str:
    match = re.fullmatch(r"[Bb](\d+)([Aa]?)", band)
    if not match:
        return band
    return f"B{int(match[1])}A" if match[2] else f"B{int(match[1]):02d}"
