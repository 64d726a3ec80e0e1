"""A satellite scene in one or many GeoTIFFs: bands on one grid, read by window with their mask.

Bands of different resolutions are resampled (bilinear) onto the finest grid. A pixel is valid
where every band is: not masked by a nodata tag, mask or alpha band, finite, and not holding the
nodata value that the user gave. A value that was found in the corners (see sources.nodata) is
nodata only where all bands hold it before any is resampled. A mask band (see sources.masks) is
read without interpolation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError
from embeddings.sources.band_names import find, missing
from embeddings.sources.bands import pixel_ratio, placed
from embeddings.sources.grids import TargetGrid
from embeddings.sources.opening import UNNAMED, Box, MaskBand, Opened, open_files
from embeddings.sources.placed import PlacedScene
from embeddings.sources.reading import Reading, SceneFile

DEFAULT = Reading()


class RasterScene(PlacedScene):
    """Aligned bands of one scene."""

    def __init__(self, opened: Opened, grid: TargetGrid, box: Box | None, stack: ExitStack) -> None:
        whole = (0, 0, grid.height, grid.width)
        super().__init__(grid if box is None else grid.part(*box))
        self._opened = opened
        self._whole = grid
        self.first_px = (box or whole)[:2]
        self._bands = placed(opened.bands, grid, opened.nodata, stack)
        self._mask: MaskBand | None = None
        if opened.mask is not None:
            band = placed([opened.mask.band], grid, None, stack)[0]
            self._mask = replace(opened.mask, band=band)
        self._reach = max(pixel_ratio(band.file, grid) for band in self._bands)
        self.bands = tuple(band.name for band in self._bands)
        self.notes = list(opened.notes)
        self.files = opened.files
        self._stack = stack.pop_all()

    @classmethod
    def open(
        cls,
        files: Sequence[SceneFile | str],
        reading: Reading = DEFAULT,
        grid: TargetGrid | None = None,
    ) -> Self:
        """Open the bands of one scene, on a ``grid`` if one is given (then whole, at its size).

        Without a nodata value in ``reading``, and where no file declares any, the corners of the
        part to be read are looked at. Raises SourceNotFoundError, SourceError, BandError or
        InputError.
        """
        with ExitStack() as stack:
            whole = replace(reading, bbox=None) if grid is not None else reading
            opened = open_files(files, whole, stack)
            own = opened.grid
            if grid is None and reading.gsd_m is not None:
                grid = own.with_pixels(reading.gsd_m)
                if grid is not own:
                    opened = replace(opened, notes=(*opened.notes, _resampled(own, grid)))
            grid = grid or own
            box = grid.window(whole.bbox) if whole.bbox is not None else None
            return cls(opened, grid, box, stack)

    def onto(self, grid: TargetGrid) -> RasterScene:
        """Return the scene, whole, on another grid. Close it before this one."""
        # What was chosen and named since it was opened stays so.
        with ExitStack() as stack:
            opened = replace(self._opened, bands=tuple(self._bands))
            return RasterScene(opened, grid, None, stack)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def known(self) -> list[str]:
        """Names of the bands, empty where a name is only a position in a file."""
        return [band.name if band.known else "" for band in self._bands]

    @property
    def resolutions_m(self) -> tuple[float, ...]:
        """The pixel size of each band in its file, metres; that of the grid where it is finer."""
        sizes = (pixel_ratio(band.file, self.grid) for band in self._bands)
        return tuple(self.gsd_m * max(1, size) for size in sizes)

    @property
    def nodata(self) -> float | None:
        """The undeclared nodata value in use: given by the user or found in the corners."""
        return self._opened.nodata

    @property
    def scale(self) -> tuple[float, ...]:
        """What the numbers of each band are multiplied with."""
        return tuple(band.scale for band in self._bands)

    @property
    def offset(self) -> tuple[float, ...]:
        """What is added to the numbers of each band after the scale."""
        return tuple(band.offset for band in self._bands)

    @property
    def mask(self) -> str | None:
        """The rule of the mask band, as the user may write it."""
        return self._mask.rule.text if self._mask is not None else None

    def pixel_rule(self) -> dict[str, Any]:
        """Return how the files' numbers become values, as JSON: value = number * scale + offset."""
        rule = {
            "scale": list(self.scale),
            "offset": list(self.offset),
            "nodata": self.nodata,
            "nodata_where": "all bands" if self._opened.in_all_bands else "any band",
        }
        return rule if self.mask is None else {**rule, "mask": self.mask}

    def reading_rule(self) -> str:
        """Return, as JSON, all that may change beside the pixels: place, masks, numbers."""
        declared = [
            [
                band.name,
                str(band.dataset.dtypes[band.index - 1]),
                repr(band.dataset.nodata if band.file.nodata is None else band.file.nodata),
            ]
            for band in self._bands
        ]
        place: list[Any] = [self.crs.to_wkt(), list(self.transform)[:6]]
        if self.grid is not self._opened.grid:
            place.append([self.height, self.width])
        return json.dumps([declared, place, {**self.pixel_rule(), "nodata": repr(self.nodata)}])

    def multiply(self, factor: float) -> None:
        """Multiply all values, for an encoder that was trained on another unit."""
        self._bands = [
            replace(band, scale=band.scale * factor, offset=band.offset * factor)
            for band in self._bands
        ]

    def choose(self, indexes: Sequence[int], names: Sequence[str]) -> None:
        """Keep the bands at ``indexes``, in that order, and name them so."""
        self._bands = [
            replace(self._bands[index], name=name, known=name)
            for index, name in zip(indexes, names, strict=True)
        ]
        self.bands = tuple(names)

    def take(self, wanted: Sequence[BandWant]) -> None:
        """Keep the bands that an encoder wants, in its order and under its names.

        Raises BandError naming the first that is missing.
        """
        self.choose(self.wanted(wanted), [want.name for want in wanted])

    def wanted(self, wanted: Sequence[BandWant]) -> list[int]:
        """Return which of the bands an encoder wants, in its order.

        Positions in a file are no names: B1 to B12 of a file that does not name its bands mean
        nothing to an encoder. Raises BandError.
        """
        known = [band.known or band.colour for band in self._bands]
        found = find(wanted, [band.name if band.known else "" for band in self._bands], known)
        for want, index in zip(wanted, found, strict=True):
            if index is None:
                raise missing(want, self.bands, "" if any(known) else UNNAMED)
        return [index for index in found if index is not None]

    def pair(self, names: Sequence[str]) -> None:
        """Put the bands into the order of ``names``: by name, or as they come where none is known.

        Raises BandError if their number differs, or if only some of the names agree.
        """
        order, notes = paired(self.bands, names, self.known)
        self.notes += notes
        self.choose(order, names)

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a window, as every scene does."""
        values, valid, _ = self.read_apart(row, col, height, width)
        return values, valid

    def read_apart(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Read a window; after validity, where there is data that the mask band hides."""
        row, col = row + self.first_px[0], col + self.first_px[1]
        window = Window(col, row, width, height)
        values = np.empty((len(self._bands), height, width), dtype=np.float32)
        valid = np.ones((height, width), dtype=bool)
        held = np.ones((height, width), dtype=bool)
        for layer, band in zip(values, self._bands, strict=True):
            raw, there = band.numbers(window)
            if self.nodata is not None:
                near = band.unmixed(window) if band.resampled else raw
                holds = near == self.nodata
                held &= holds
                if not self._opened.in_all_bands:
                    there &= ~holds
                elif band.resampled:
                    # Resampling leaves the value out; where this band alone has it, it is data.
                    raw = np.where(holds, near, raw)
                    there |= holds & band.unmixed_there(window)
            with np.errstate(over="ignore"):  # a fill of float64 becomes infinite, so invalid
                layer[:] = raw
            valid &= there & np.isfinite(layer)
            if (band.scale, band.offset) != (1.0, 0.0):
                layer *= band.scale
                layer += band.offset
        if self._opened.in_all_bands:
            valid &= ~(self._filled(row, col, height, width) if self._reach else held)
        hidden = np.zeros_like(valid)
        if self._mask is not None:
            hidden = valid & self._mask.rule.missing(self._mask.band.unmixed(window))
            valid &= ~hidden
        return values, valid, hidden

    def _filled(self, row: int, col: int, height: int, width: int) -> NDArray[np.bool_]:
        """Where all bands hold the nodata value found in the corners.

        The edge of a coarse band's fill lies up to one of its pixels beyond that of a fine band,
        so beside the common fill any band's value counts.
        """
        reach = self._reach
        top, left = max(0, row - reach), max(0, col - reach)
        bottom = min(self._whole.height, row + height + reach)
        right = min(self._whole.width, col + width + reach)
        window = Window(left, top, right - left, bottom - top)
        everywhere = np.ones((bottom - top, right - left), dtype=bool)
        somewhere = np.zeros_like(everywhere)
        for band in self._bands:
            holds = band.unmixed(window) == self.nodata
            everywhere &= holds
            somewhere |= holds
        filled = everywhere | (_grown(everywhere, reach) & somewhere)
        return filled[row - top : row - top + height, col - left : col - left + width]


def paired(
    bands: Sequence[str], names: Sequence[str], known: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return the order in which bands pair with a collection's ``names``, and notes on it.

    ``known`` are the bands' names too, empty where they are only positions. Raises BandError if
    their number differs, or if only some of the names agree.
    """
    if set(bands) == set(names):
        return [bands.index(name) for name in names], []
    with suppress(BandError):  # T32TPP_B02 of one date is T32TPP_2018_B02 of another
        found = find([BandWant(name) for name in names], known)
        order = [index for index in found if index is not None]
        if len(order) == len(names) == len(bands):
            return order, []
    if len(bands) == len(names) and not set(bands) & set(names):
        pairs = ", ".join(f"{a} as {b}" for a, b in zip(bands, names, strict=True))
        note = f"No band's name is known, so they are taken in order: {pairs}."
        return list(range(len(bands))), [note]
    raise BandError(
        f"The collection was made from the bands {', '.join(names)}; given: {', '.join(bands)}. "
        "Give the same bands, under the same names or, all named otherwise, in the same order."
    )


def _resampled(own: TargetGrid, grid: TargetGrid) -> str:
    return (
        f"The scene was resampled from pixels of {own.pixel_m[1]:.4g} x {own.pixel_m[0]:.4g} m to "
        f"{grid.pixel_m[1]:.4g} x {grid.pixel_m[0]:.4g} m."
    )


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Grow the True parts of ``(rows, cols)`` by a square of ``reach`` pixels each way."""
    if not reach or not mask.any():
        return mask
    windows = np.lib.stride_tricks.sliding_window_view
    down = windows(np.pad(mask, ((reach, reach), (0, 0))), 2 * reach + 1, axis=0).any(axis=-1)
    across = windows(np.pad(down, ((0, 0), (reach, reach))), 2 * reach + 1, axis=1)
    return np.asarray(across.any(axis=-1))
