"""The bands of a scene: how they are named, brought onto one grid and turned into values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from embeddings.errors import BandError
from embeddings.sources.files import (
    RESAMPLING,
    OpenFile,
    data_indexes,
    read_there,
    reading_of,
    same_grid,
)
from embeddings.sources.grids import TargetGrid
from embeddings.sources.nodata import can_hold
from embeddings.sources.reading import Reading

BASELINE_OFFSET = -1000.0
"""Added to digital numbers of Sentinel-2 processing baseline 04.00 and later (ESA, 2022)."""
MUCH_COARSER = 2.0 - 1e-3
"""Onto pixels this many times larger values are averaged, so that no pixel is passed over."""

_COLOURS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}


@dataclass(frozen=True, slots=True)
class Band:
    """One band: where it is read from and how its numbers become values."""

    name: str
    known: str
    """By what words it may be recognised; none where its name is only its position in a file."""
    file: OpenFile
    index: int
    scale: float
    offset: float
    colour: str
    """Red, green or blue, where the file says so, which many do of their first three bands."""
    dataset: Any
    """Where values are read: the file itself, or the file on the scene's grid."""
    nearest: Any
    """Where numbers stand unmixed: the file itself, or its nearest neighbours on the grid."""

    @property
    def resampled(self) -> bool:
        """Whether the band's values are interpolated."""
        return self.nearest is not self.dataset

    def numbers(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read numbers as they stand in the file, or interpolated, and where there are any."""
        with reading_of(self.file):
            raw = self.dataset.read(self.index, window=window)
            nodata = self.dataset.nodatavals[self.index - 1]
            if self.file.nodata is not None and not self.resampled:
                return raw, np.asarray(raw != self.file.nodata)
            if self.resampled and can_hold(str(raw.dtype), nodata):
                # The mask that GDAL would make, for which it would warp once more.
                return raw, np.asarray(raw != raw.dtype.type(nodata))
            return raw, read_there(self.dataset, self.index, window)

    def unmixed(self, window: Window) -> NDArray[Any]:
        """Read numbers without interpolation."""
        with reading_of(self.file):
            return np.asarray(self.nearest.read(self.index, window=window))

    def unmixed_there(self, window: Window) -> NDArray[np.bool_]:
        """Read where there are numbers without interpolation."""
        with reading_of(self.file):
            return read_there(self.nearest, self.index, window)


def bands_of(file: OpenFile, reading: Reading, *, several: bool) -> list[Band]:
    """Describe the bands of a file on its own grid. Raises BandError."""
    source, given = file.dataset, file.given.band_names
    indexes = data_indexes(source)
    if given is not None and len(given) != len(indexes):
        raise BandError(
            f"'{file.shown}' has {len(indexes)} bands, but {len(given)} names are known for it: "
            f"{', '.join(given)}. Give one name for each band."
        )
    bands = []
    described = Counter(source.descriptions[i - 1] for i in indexes)
    for position, index in enumerate(indexes):
        own = source.descriptions[index - 1]
        if own is not None and described[own] > 1:
            own = None  # what all bands are called names none of them
        if given is not None:
            name = known = given[position]
        elif len(indexes) == 1:
            name, known = file.stem, file.stem
        else:
            known = own or ""
            name = own or f"B{index}"
            name = f"{file.stem}_{name}" if several else name
        scale, declared = _declared(file, index, reading)
        added = reading.offset
        if added is None:
            added = _baseline_offset(file, scale, declared)
        bands.append(
            Band(
                name,
                known,
                file,
                index,
                scale,
                declared + added * scale,
                _COLOURS.get(source.colorinterp[index - 1], ""),
                source,
                source,
            )
        )
    return bands


def _declared(file: OpenFile, index: int, reading: Reading) -> tuple[float, float]:
    """Return scale and offset: as the user says, else as is known of the file, else as it says."""
    scale, offset = file.dataset.scales[index - 1], file.dataset.offsets[index - 1]
    if file.given.scale is not None:
        scale = file.given.scale
    if file.given.offset is not None:
        offset = file.given.offset
    return float(scale if reading.scale is None else reading.scale), float(offset)


def baseline_note(file: OpenFile, reading: Reading) -> list[str]:
    """Tell of the offset that the file's own metadata asks for, if it is added."""
    if reading.offset is not None or not any(
        _baseline_offset(file, *_declared(file, i, reading)) for i in data_indexes(file.dataset)
    ):
        return []
    return [
        f"{Path(file.shown).name} is of Sentinel-2 processing baseline "
        f"{file.dataset.tags()['PROCESSING_BASELINE']}: {BASELINE_OFFSET:g} was added to its "
        "numbers. '--offset 0' leaves them."
    ]


def _baseline_offset(file: OpenFile, scale: float, declared: float) -> float:
    """Return Sentinel-2's offset where the file's own metadata states baseline 04.00 or later."""
    baseline = file.dataset.tags().get("PROCESSING_BASELINE", "")
    try:
        recent = float(baseline) >= 4.0
    except ValueError:
        return 0.0
    told = file.given.offset is not None
    return BASELINE_OFFSET if recent and not told and (scale, declared) == (1.0, 0.0) else 0.0


def placed(
    bands: Sequence[Band], grid: TargetGrid, undeclared: float | None, stack: ExitStack
) -> list[Band]:
    """Bring bands onto a grid; what is opened for that is closed with ``stack``."""
    views: dict[int, tuple[Any, Any]] = {}
    for band in bands:
        file = band.file
        if id(file) not in views:
            views[id(file)] = file.dataset, file.dataset
            if not same_grid(file.dataset, grid):
                how = "average" if _grid_ratio(file, grid) >= MUCH_COARSER else RESAMPLING
                views[id(file)] = (
                    stack.enter_context(resampled(file, grid, how, undeclared)),
                    stack.enter_context(resampled(file, grid, "nearest", None)),
                )
    return [
        replace(band, dataset=views[id(band.file)][0], nearest=views[id(band.file)][1])
        for band in bands
    ]


def resampled(file: OpenFile, grid: TargetGrid, resampling: str, nodata: float | None) -> Any:
    """Resample a file onto a grid; its mask says where it has no pixel to resample."""
    dataset = file.dataset
    declared = dataset.nodata if file.nodata is None else file.nodata
    if declared is None and all(can_hold(dtype, nodata) for dtype in dataset.dtypes):
        declared = nodata
    has_alpha = len(data_indexes(dataset)) < dataset.count
    return WarpedVRT(
        dataset,
        crs=grid.gdal_crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling[resampling],
        src_nodata=declared,
        nodata=declared,
        add_alpha=declared is None and not has_alpha,
    )


def pixel_ratio(file: OpenFile, grid: TargetGrid) -> int:
    """Return how many pixels of the grid the side of a coarser file's pixel covers, or 0."""
    ratio = 1 / _grid_ratio(file, grid, smallest=True)
    return math.ceil(ratio - 1e-6) if ratio > 1 + 1e-6 else 0


def _grid_ratio(file: OpenFile, grid: TargetGrid, *, smallest: bool = False) -> float:
    """Return how many of the file's pixels the side of a pixel of the grid covers."""
    sides = np.abs(grid.res), np.abs(file.dataset.res)
    if file.dataset.crs != grid.gdal_crs:
        sides = np.array(grid.pixel_m), np.array(TargetGrid.of(file.dataset).pixel_m)
    ratio = sides[0] / sides[1]
    return float(ratio.min() if smallest else np.sqrt(ratio[0] * ratio[1]))
