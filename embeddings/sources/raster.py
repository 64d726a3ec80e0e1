"""A satellite scene in one or many GeoTIFFs: bands on one grid, read by window with their mask.

Bands of different resolutions are resampled (bilinear) onto the finest grid. A pixel is valid
where every band is: not masked by a nodata tag, mask or alpha band, finite, and not holding the
nodata value that the user gave. A value that was found in the corners (see sources.nodata) is
nodata only where all bands hold it before any is resampled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import pyproj
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from embeddings.errors import BandError, SourceError
from embeddings.sources.bands import (
    Band,
    bands_of,
    baseline_notes,
    pixel_ratio,
    resampled,
)
from embeddings.sources.files import (
    RESAMPLING,
    check_alignment,
    content_files,
    data_indexes,
    declares_nodata,
    open_raster,
    reading,
    same_grid,
)
from embeddings.sources.nodata import detect_corner_value


class RasterScene:
    """Aligned bands of one scene. Use as a context manager; not thread-safe.

    Attributes: ``bands`` names in order; ``height`` and ``width`` pixels; ``transform`` (affine,
    column and row to x and y) and ``crs`` of the finest grid; ``pixel_m`` (row, column) size of a
    pixel in metres at the centre; ``notes`` what the reader decided by itself; ``files`` those
    that hold the pixels and masks.
    """

    def __init__(
        self, bands: Sequence[Band], grid: Any, nodata: float | None, *, in_all_bands: bool
    ) -> None:
        self._bands = list(bands)
        self._nodata = nodata
        self._in_all_bands = in_all_bands
        self._reach = 0
        self._stack = ExitStack()
        self.bands = tuple(band.name for band in bands)
        self.height, self.width = int(grid.height), int(grid.width)
        self.transform = grid.transform
        self.crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
        self.to_lonlat = pyproj.Transformer.from_crs(self.crs, "OGC:CRS84", always_xy=True)
        self.pixel_m = self._pixel_metres()
        self.notes: list[str] = []
        self.files: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        files: Sequence[str],
        *,
        nodata: float | None = None,
        detect_nodata: bool = True,
        offset: float | None = None,
    ) -> Self:
        """Open the bands of one scene.

        ``nodata`` marks pixels that hold it in any band. Without it, and where no file declares
        any, the corners are looked at (``detect_nodata``). ``offset`` is added to every number
        of the files, before their own scale. Raises SourceNotFoundError, SourceError or BandError.
        """
        with ExitStack() as stack:
            datasets = [stack.enter_context(open_raster(file)) for file in files]
            grid = min(datasets, key=lambda d: abs(d.transform.determinant))
            notes = check_alignment(datasets, grid)
            found = None
            if nodata is None and detect_nodata and not any(declares_nodata(d) for d in datasets):
                found = _corner_value(datasets, grid)
                if found is not None:
                    notes.append(
                        f"No file declares nodata, but a corner holds {found:g} in every band: "
                        "taken as nodata. '--nodata none' embeds it."
                    )
            undeclared = nodata if found is None else found
            bands = []
            for dataset in datasets:
                views = dataset, dataset
                if not same_grid(dataset, grid):
                    views = tuple(
                        stack.enter_context(resampled(dataset, grid, *how))
                        for how in ((RESAMPLING, undeclared), ("nearest", None))
                    )
                bands += bands_of(dataset, views, offset, several=len(datasets) > 1)
                notes += baseline_notes(dataset, offset)
            names = [band.name for band in bands]
            if len(set(names)) != len(names):
                raise BandError(
                    f"Two bands have the same name: {', '.join(names)}. Rename the files, or give "
                    "each band file once."
                )
            scene = cls(bands, grid, undeclared, in_all_bands=found is not None)
            scene._reach = max(pixel_ratio(dataset, grid) for dataset in datasets)
            scene.files = tuple(file for dataset in datasets for file in content_files(dataset))
            scene.notes += notes
            scene._stack = stack.pop_all()
            return scene

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def gsd_m(self) -> float:
        """Ground sampling distance in metres: geometric mean of both pixel sides."""
        return float(np.sqrt(self.pixel_m[0] * self.pixel_m[1]))

    @property
    def nodata(self) -> float | None:
        """The undeclared nodata value in use: given by the user or found in the corners."""
        return self._nodata

    @property
    def scale(self) -> tuple[float, ...]:
        """What the numbers of each band are multiplied with."""
        return tuple(band.scale for band in self._bands)

    def pixel_rule(self) -> dict[str, Any]:
        """Return how the files' numbers become values, as JSON: value = number * scale + offset."""
        return {
            "scale": list(self.scale),
            "offset": [band.offset for band in self._bands],
            "nodata": self._nodata,
            "nodata_where": "all bands" if self._in_all_bands else "any band",
        }

    def reading_rule(self) -> str:
        """Return, as JSON, all that files beside the pixels may change: place, masks, numbers."""
        declared = [
            [band.name, str(band.dataset.dtypes[band.index - 1]), repr(band.dataset.nodata)]
            for band in self._bands
        ]
        grid = [self.crs.to_wkt(), list(self.transform)[:6]]
        return json.dumps([declared, grid, {**self.pixel_rule(), "nodata": repr(self._nodata)}])

    def pair(self, names: Sequence[str]) -> None:
        """Put the bands into the order of ``names``: by name, or as they come where none is known.

        Raises BandError if their number differs, or if only some of the names agree.
        """
        mine = dict(zip(self.bands, self._bands, strict=True))
        if set(mine) == set(names):
            self._bands = [mine[name] for name in names]
        elif len(mine) == len(names) and not set(mine) & set(names):
            pairs = ", ".join(f"{a} as {b}" for a, b in zip(self.bands, names, strict=True))
            self.notes.append(f"No band's name is known, so they are taken in order: {pairs}.")
        else:
            raise BandError(
                f"The collection was made from the bands {', '.join(names)}; given: "
                f"{', '.join(self.bands)}. Give the same bands, under the same names or, all "
                "named otherwise, in the same order."
            )
        self.bands = tuple(names)

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a window: values ``(bands, height, width) float32``, validity ``(height, width)``.

        Raises SourceError if a file is damaged there.
        """
        window = Window(col, row, width, height)
        values = np.empty((len(self._bands), height, width), dtype=np.float32)
        valid = np.ones((height, width), dtype=bool)
        held = np.ones((height, width), dtype=bool)
        for layer, band in zip(values, self._bands, strict=True):
            with reading(band.dataset.name):
                raw = band.dataset.read(band.index, window=window)
                there = band.dataset.read_masks(band.index, window=window) > 0
                if self._nodata is not None:
                    near = raw
                    if band.resampled:
                        near = band.nearest.read(band.index, window=window)
                    holds = near == self._nodata
                    held &= holds
                    if not self._in_all_bands:
                        there &= ~holds
                    elif band.resampled:
                        # Resampling leaves the value out; where this band alone has it, it is data.
                        raw = np.where(holds, near, raw)
                        there |= holds & (band.nearest.read_masks(band.index, window=window) > 0)
            with np.errstate(over="ignore"):  # a fill of float64 becomes infinite, so invalid
                layer[:] = raw
            valid &= there & np.isfinite(layer)
            if (band.scale, band.offset) != (1.0, 0.0):
                layer *= band.scale
                layer += band.offset
        if self._in_all_bands:
            valid &= ~(self._filled(row, col, height, width) if self._reach else held)
        return values, valid

    def _filled(self, row: int, col: int, height: int, width: int) -> NDArray[np.bool_]:
        """Where all bands hold the nodata value found in the corners.

        The edge of a coarse band's fill lies up to one of its pixels beyond that of a fine band,
        so beside the common fill any band's value counts.
        """
        reach = self._reach
        top, left = max(0, row - reach), max(0, col - reach)
        bottom = min(self.height, row + height + reach)
        right = min(self.width, col + width + reach)
        window = Window(left, top, right - left, bottom - top)
        everywhere = np.ones((bottom - top, right - left), dtype=bool)
        somewhere = np.zeros_like(everywhere)
        for band in self._bands:
            with reading(band.dataset.name):
                holds = band.nearest.read(band.index, window=window) == self._nodata
            everywhere &= holds
            somewhere |= holds
        filled = everywhere | (_grown(everywhere, reach) & somewhere)
        return filled[row - top : row - top + height, col - left : col - left + width]

    def xy(self, col: NDArray[np.float64], row: NDArray[np.float64]) -> tuple[Any, Any]:
        """Turn pixel coordinates (column, row; 0, 0 is the first corner) into lon, lat degrees.

        Raises SourceError where a point has no longitude and latitude.
        """
        t = self.transform
        lon, lat = self.to_lonlat.transform(
            t.c + col * t.a + row * t.b, t.f + col * t.d + row * t.e
        )
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise SourceError(
                f"Parts of the scene have no longitude and latitude in {self.crs.name}: its "
                "georeference is wrong. Check it with 'gdalinfo'."
            )
        return (np.asarray(lon) + 180.0) % 360.0 - 180.0, np.asarray(lat)

    def outline(self, points: int = 16) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the scene's edge as lon, lat ``(4 * points,)``, going round once."""
        side = np.arange(points) / points
        zero, one = np.zeros(points), np.ones(points)
        col = np.concatenate([side, one, 1 - side, zero]) * self.width
        row = np.concatenate([zero, side, one, 1 - side]) * self.height
        return self.xy(col, row)

    def _pixel_metres(self) -> tuple[float, float]:
        col = np.array([0.0, 0.5, 0.0]) + self.width / 2
        row = np.array([0.0, 0.0, 0.5]) + self.height / 2
        lon, lat = self.xy(col, row)
        geod = pyproj.Geod(ellps="WGS84")
        _, _, metres = geod.inv(lon[[0, 0]], lat[[0, 0]], lon[[2, 1]], lat[[2, 1]])
        return float(metres[0] * 2), float(metres[1] * 2)


def _corner_value(datasets: Sequence[Any], grid: Any) -> float | None:
    """Look for an undeclared nodata value in decimated bands, before any is resampled."""
    step = max(1, max(grid.height, grid.width) // 1024)
    shape = len(range(0, grid.height, step)), len(range(0, grid.width, step))
    layers = []
    for dataset in datasets:
        with reading(dataset.name):
            layers += [
                dataset.read(index, out_shape=shape, resampling=Resampling.nearest)
                for index in data_indexes(dataset)
            ]
    return detect_corner_value(np.stack(layers), grid.dtypes[0])


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Grow the True parts of ``(rows, cols)`` by a square of ``reach`` pixels each way."""
    if not reach or not mask.any():
        return mask
    windows = np.lib.stride_tricks.sliding_window_view
    down = windows(np.pad(mask, ((reach, reach), (0, 0))), 2 * reach + 1, axis=0).any(axis=-1)
    across = windows(np.pad(down, ((0, 0), (reach, reach))), 2 * reach + 1, axis=1)
    return np.asarray(across.any(axis=-1))
