"""Which files make a scene, and how they are read: plain data that travels to any worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SceneFile:
    """A raster file and what is known of it from elsewhere (a STAC item, a table)."""

    uri: str
    """A path, an address (http, https, s3, gs, az) or a name that GDAL opens."""
    band_names: tuple[str, ...] | None = None
    """Names of its data bands in order; None: as the file says."""
    scale: float | None = None
    """What its numbers are multiplied with; None: as the file declares."""
    offset: float | None = None
    """What is added after the scale; None: as the file declares."""
    nodata: float | None = None
    """The number that means missing; None: as the file declares."""


@dataclass(frozen=True, slots=True)
class SceneRef:
    """One scene: files that share a place and a time."""

    id: str
    files: tuple[SceneFile, ...]
    datetime: str | None = None
    """ISO 8601 in UTC."""
    origin: str = ""
    """What the user gave: a file, a folder, the address of a STAC item."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of a scene are read."""

    nodata: float | None = None
    """Marks pixels that hold it in any band."""
    detect_nodata: bool = True
    """Look for an undeclared nodata value in the corners."""
    offset: float | None = None
    """Added to every number of the files, before their scale."""
    scale: float | None = None
    """What the numbers are multiplied with, in place of what the files declare."""
    bands: tuple[str, ...] | None = None
    """Which bands, in which order; or names for bands that have none."""
    mask: str | None = None
    """A band that says which pixels are missing: "SCL", "SCL=0,1,3,8,9,10", "QA=bit3,bit4"."""
    gsd_m: float | None = None
    """Resample the scene to pixels of this many metres."""
    bbox: tuple[float, float, float, float] | None = None
    """Only this part of the scene: west, south, east, north in degrees."""
