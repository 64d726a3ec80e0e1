"""Two dates of a made-up landscape that is known between pixels too, so shifts have a truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import Transformer

CRS = "EPSG:32631"
LEFT, TOP = 500_000.0, 5_200_000.0
BANDS = ("B02", "B03", "B04", "B08")
BLOCK = (400.0, 600.0, 500.0, 800.0)
"""Metres that change: from and to south of TOP, from and to east of LEFT."""


def ground(east: Any, south: Any, band: int, changed: bool) -> np.ndarray:
    """Return values at metres east of LEFT and south of TOP, arrays of one shape."""
    rng = np.random.default_rng(100 + band)
    shape = np.shape(east)
    total = np.zeros(np.size(east))
    for length in (60.0, 25.0, 12.0):
        waves, phase = rng.normal(size=(60, 2)) / length, rng.uniform(0, 6.28, 60)
        at = np.stack([np.ravel(east), np.ravel(south)])
        total += np.cos(waves @ at + phase[:, None]).sum(axis=0)
    total = 2500 + 50 * total.reshape(shape)
    if changed:
        inside = (south >= BLOCK[0]) & (south < BLOCK[1]) & (east >= BLOCK[2]) & (east < BLOCK[3])
        total = np.where(inside, total + 1500, total)
    return total


def write_date(
    folder: Path,
    *,
    changed: bool = False,
    size: tuple[int, int] = (120, 140),
    origin: tuple[float, float] = (0.0, 0.0),
    pixel: float = 10.0,
    shift: tuple[float, float] = (0.0, 0.0),
    bands: Sequence[str] = BANDS,
    crs: str = CRS,
    seed: int = 0,
    prefix: str = "",
    holes: Sequence[tuple[slice, slice]] = (),
    gain: float = 1.0,
) -> list[str]:
    """Write a date as one file a band and return the files.

    ``size`` is rows and columns; ``origin`` metres east and south of LEFT, TOP where it begins;
    ``shift`` rows and columns that things lie beside where the georeference says; ``holes`` are
    rows and columns of nodata (0). In another ``crs`` pixels lie where they fall.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, cols = size
    transform = Affine(pixel, 0, LEFT + origin[0], 0, -pixel, TOP - origin[1])
    if crs != CRS:
        transform = _lonlat_grid(crs, transform, size)
    col, row = np.meshgrid(np.arange(cols) + 0.5, np.arange(rows) + 0.5)
    x, y = transform @ (col - shift[1], row - shift[0])
    if crs != CRS:
        x, y = Transformer.from_crs(crs, CRS, always_xy=True).transform(x, y)
    files = []
    for number, name in enumerate(bands):
        values = gain * ground(x - LEFT, TOP - y, number, changed)
        values += np.random.default_rng([seed, number]).normal(size=size) * 15
        values = values.clip(1, 65535)
        for at in holes:
            values[at] = 0
        files.append(str(folder / f"{prefix}{name}.tif"))
        with rasterio.open(
            files[-1],
            "w",
            driver="GTiff",
            width=cols,
            height=rows,
            count=1,
            dtype="uint16",
            crs=crs,
            transform=transform,
            nodata=0,
        ) as target:
            target.write(values.astype("uint16"), 1)
    return files


def write_mask(folder: Path, cloud: tuple[slice, slice], size: tuple[int, int] = (120, 140)) -> str:
    """Write an SCL band with high-probability cloud (9) over vegetation (4)."""
    values = np.full(size, 4, np.uint8)
    values[cloud] = 9
    path = folder / "SCL.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=size[1],
        height=size[0],
        count=1,
        dtype="uint8",
        crs=CRS,
        transform=Affine(10, 0, LEFT, 0, -10, TOP),
    ) as target:
        target.write(values, 1)
    return str(path)


def truth(path: Path) -> np.ndarray:
    """Return which pixels of a raster lie in the block that changed."""
    with rasterio.open(path) as found:
        col, row = np.meshgrid(np.arange(found.width) + 0.5, np.arange(found.height) + 0.5)
        x, y = found.transform @ (col, row)
        if found.crs.to_string() != CRS:
            x, y = Transformer.from_crs(found.crs, CRS, always_xy=True).transform(x, y)
    east, south = x - LEFT, TOP - y
    inside = (south >= BLOCK[0]) & (south < BLOCK[1]) & (east >= BLOCK[2]) & (east < BLOCK[3])
    return np.asarray(inside)


def _lonlat_grid(crs: str, metres: Affine, size: tuple[int, int]) -> Affine:
    """Return a grid in degrees over about the same place."""
    change = Transformer.from_crs(CRS, crs, always_xy=True)
    west, north = change.transform(metres.c, metres.f)
    east, south = change.transform(*(metres @ (size[1], size[0])))
    return Affine((east - west) / size[1], 0, west, 0, (south - north) / size[0], north)
