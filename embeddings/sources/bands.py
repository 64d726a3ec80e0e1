"""The bands of a scene: how they are named, brought onto one grid and turned into values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from embeddings.sources.files import data_indexes
from embeddings.sources.nodata import can_hold

BASELINE_OFFSET = -1000.0
"""Added to digital numbers of Sentinel-2 processing baseline 04.00 and later (ESA, 2022)."""


@dataclass(frozen=True, slots=True)
class Band:
    """One band: where it is read from and how its numbers become values."""

    name: str
    dataset: Any
    index: int
    scale: float
    offset: float
    nearest: Any
    """Where numbers stand unmixed: the file itself, or its nearest neighbours on the grid."""

    @property
    def resampled(self) -> bool:
        """Whether the band's values are interpolated."""
        return self.nearest is not self.dataset


def bands_of(
    source: Any, views: tuple[Any, ...], offset: float | None, *, several: bool
) -> list[Band]:
    """Describe the bands of a file; ``views`` are its values and its nearest neighbours."""
    bands = []
    indexes = data_indexes(source)
    stem = Path(source.name).stem
    for index in indexes:
        own = source.descriptions[index - 1] or f"B{index}"
        name = stem if len(indexes) == 1 else f"{stem}_{own}" if several else own
        scale, declared = float(source.scales[index - 1]), float(source.offsets[index - 1])
        added = offset if offset is not None else _baseline_offset(source, scale, declared)
        bands.append(Band(name, views[0], index, scale, declared + added * scale, views[1]))
    return bands


def baseline_notes(source: Any, offset: float | None) -> list[str]:
    """Tell of the offset that the file's own metadata asks for, if it is added."""
    if offset is not None or not any(
        _baseline_offset(source, source.scales[i - 1], source.offsets[i - 1])
        for i in data_indexes(source)
    ):
        return []
    return [
        f"{Path(source.name).name} is of Sentinel-2 processing baseline "
        f"{source.tags()['PROCESSING_BASELINE']}: {BASELINE_OFFSET:g} was added to its numbers. "
        "'--offset 0' leaves them."
    ]


def _baseline_offset(source: Any, scale: float, declared: float) -> float:
    """Return Sentinel-2's offset where the file's own metadata states baseline 04.00 or later."""
    baseline = source.tags().get("PROCESSING_BASELINE", "")
    try:
        recent = float(baseline) >= 4.0
    except ValueError:
        return 0.0
    return BASELINE_OFFSET if recent and (scale, declared) == (1.0, 0.0) else 0.0


def resampled(dataset: Any, grid: Any, resampling: str, nodata: float | None) -> Any:
    """Resample a file onto the finest grid; its mask says where it has no pixel to resample."""
    declared = dataset.nodata
    if declared is None and all(can_hold(dtype, nodata) for dtype in dataset.dtypes):
        declared = nodata
    has_alpha = len(data_indexes(dataset)) < dataset.count
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling[resampling],
        src_nodata=declared,
        nodata=declared,
        add_alpha=declared is None and not has_alpha,
    )


def pixel_ratio(dataset: Any, grid: Any) -> int:
    """Return how many pixels of the grid the side of a coarser file's pixel covers, or 0."""
    ratio = float(np.max(np.abs(dataset.res) / np.abs(grid.res)))
    return math.ceil(ratio - 1e-6) if ratio > 1 + 1e-6 else 0
