"""From files to the bands of a scene: opened, named, chosen, their mask band set apart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError, InputError, SourceError
from embeddings.sources.band_names import find
from embeddings.sources.bands import Band, bands_of, baseline_note
from embeddings.sources.files import (
    OpenFile,
    check_alignment,
    content_files,
    data_indexes,
    declares_nodata,
    open_raster,
    reading_of,
)
from embeddings.sources.grids import TargetGrid
from embeddings.sources.masks import MaskRule
from embeddings.sources.nodata import corner_fill, detect_corner_value
from embeddings.sources.reading import Reading, SceneFile
from embeddings.sources.remote import is_remote

Box = tuple[int, int, int, int]
"""A window of pixels: row, column, height, width."""

UNNAMED = (
    "The scene's bands have no names, only positions: name them in order with --bands, for "
    "example --bands B02,B03,B04."
)


NOT_LOOKED = (
    "No file declares nodata, and the corners were not looked at for it, since a file is damaged. "
    "Name it with --nodata if there is any."
)

FAR_CORNER_PX = 256
"""Side of the corners that are looked at of a remote scene without overviews."""


@dataclass(frozen=True, slots=True)
class MaskBand:
    """The band that says which pixels are missing."""

    rule: MaskRule
    band: Band


@dataclass(frozen=True, slots=True)
class Opened:
    """The bands of a scene on their files' own grids, and what is to be done with them."""

    bands: tuple[Band, ...]
    mask: MaskBand | None
    grid: TargetGrid
    """Of the finest band."""
    nodata: float | None
    in_all_bands: bool
    """Whether ``nodata`` was found in the corners: only where all bands hold it is it nodata."""
    files: tuple[str, ...]
    notes: tuple[str, ...]


def open_files(files: Sequence[SceneFile | str], reading: Reading, stack: ExitStack) -> Opened:
    """Open files and sort out their bands; ``stack`` closes them.

    Raises SourceNotFoundError, SourceError, BandError or InputError.
    """
    if not files:
        raise InputError("No file was given. Name the files of the scene.")
    opened = [open_raster(file, stack) for file in files]
    bands: list[Band] = []
    for file in opened:
        bands += bands_of(file, reading, several=len(opened) > 1)
    _check_names(bands)
    bands, mask, notes = _sorted_out(bands, reading)
    used = [file for file in opened if any(band.file is file for band in bands)]
    finest = min(used, key=lambda file: abs(file.dataset.transform.determinant))
    grid = TargetGrid.of(finest.dataset)
    alignment = check_alignment(used, finest)
    if mask is not None:
        check_alignment([mask.band.file], finest)
        used += [mask.band.file] if mask.band.file not in used else []
    nodata, found, looked = _nodata(bands, grid, reading)
    return Opened(
        tuple(bands),
        mask,
        grid,
        nodata,
        found,
        tuple(name for file in opened if file in used for name in content_files(file)),
        (
            *alignment,
            *looked,
            *notes,
            *(note for file in used for note in baseline_note(file, reading)),
        ),
    )


def _check_names(bands: Sequence[Band]) -> None:
    names = [band.name for band in bands]
    if len(set(names)) != len(names):
        raise BandError(
            f"Two bands have the same name: {', '.join(names)}. Rename the files, or give each "
            "band file once."
        )


def _sorted_out(
    bands: list[Band], reading: Reading
) -> tuple[list[Band], MaskBand | None, list[str]]:
    """Set the mask band apart and choose or name the others."""
    if reading.mask is None:
        bands, notes = _chosen(bands, reading.bands)
        return bands, None, notes
    rule = MaskRule.parse(reading.mask)
    at = rule.locate([band.name for band in bands])
    if at is None:  # perhaps --bands gives the bands their names, the mask among them
        bands, notes = _chosen(bands, reading.bands)
        at = rule.locate([band.name for band in bands])
        if at is None:
            raise rule.unknown([band.name for band in bands])
        mask = bands.pop(at)
    else:
        mask = bands.pop(at)
        names = {mask.name.lower(), rule.band.lower()}
        asked = tuple(name for name in reading.bands or () if name.lower() not in names)
        bands, notes = _chosen(bands, asked or None)
    if not bands:
        raise BandError(f"The scene has only the mask band {mask.name}. Give its other bands too.")
    return bands, MaskBand(rule, mask), notes


def _chosen(bands: list[Band], asked: Sequence[str] | None) -> tuple[list[Band], list[str]]:
    """Choose bands by name and order; or name them, where none of the names is known."""
    if asked is None:
        return bands, []
    if len({name.lower() for name in asked}) != len(asked):
        raise BandError(f"A band is asked for twice: {', '.join(asked)}. Name each band once.")
    names = [band.name for band in bands]
    found = find([BandWant(name) for name in asked], names, [band.known for band in bands])
    nameless = not any(band.known for band in bands)
    known = [index for index in found if index is not None]
    if len(known) == len(asked):
        # A band keeps the name that was asked for, so that B4 and B04 make one collection.
        return [
            replace(bands[index], name=name) if bands[index].known else bands[index]
            for index, name in zip(known, asked, strict=True)
        ], []
    if len(asked) == len(bands) and (nameless or not known):
        pairs = ", ".join(f"{a} as {b}" for a, b in zip(names, asked, strict=True))
        named = [replace(band, name=n, known=n) for band, n in zip(bands, asked, strict=True)]
        return named, [f"The bands were named in order: {pairs}."]
    missing = ", ".join(n for n, index in zip(asked, found, strict=True) if index is None)
    raise BandError(
        f"The scene has no band {missing}; it has {', '.join(names)}. Ask for those with --bands, "
        f"or give one name for each of the {len(names)} bands, in order."
    )


def _nodata(
    bands: Sequence[Band], grid: TargetGrid, reading: Reading
) -> tuple[float | None, bool, list[str]]:
    """Return the nodata value, whether it was found in the corners, and notes."""
    files = list({id(band.file): band.file for band in bands}.values())
    if reading.nodata is not None or not reading.detect_nodata:
        return reading.nodata, False, []
    if any(declares_nodata(file) for file in files):
        return None, False, []
    box = grid.window(reading.bbox) if reading.bbox is not None else None
    far = any(is_remote(file.given.uri) and not file.dataset.overviews(1) for file in files)
    look = _far_corner_value if far else _corner_value
    try:
        value = look(files, grid, box or (0, 0, grid.height, grid.width))
    except SourceError:  # What can be read of it is embedded; the rest is reported then.
        return None, False, [NOT_LOOKED]
    if value is None:
        return None, False, []
    return (
        value,
        True,
        [
            f"No file declares nodata, but a corner holds {value:g} in every band: taken as "
            "nodata. '--nodata none' embeds it."
        ],
    )


def _far_corner_value(files: Sequence[OpenFile], grid: TargetGrid, box: Box) -> float | None:
    """Look for an undeclared nodata value in the corners alone, as the rest is dear to read."""
    row, col, height, width = box
    side = min(FAR_CORNER_PX, height, width)
    for top in (row, row + height - side):
        for left in (col, col + width - side):
            layers = _layers(files, grid, (top, left, side, side), (side, side))
            inner = layers[:, :: 1 if top == row else -1, :: 1 if left == col else -1]
            dtype = str(_finest(files).dataset.dtypes[0])
            value = corner_fill(inner, dtype, height * width)
            if value is not None:
                return value
    return None


def _corner_value(files: Sequence[OpenFile], grid: TargetGrid, box: Box) -> float | None:
    """Look for an undeclared nodata value in decimated bands, before any is resampled.

    Only the part of the files in the window is read.
    """
    _, _, height, width = box
    step = max(1, max(height, width) // 1024)
    shape = len(range(0, height, step)), len(range(0, width, step))
    layers = _layers(files, grid, box, shape)
    return detect_corner_value(layers, str(_finest(files).dataset.dtypes[0]))


def _finest(files: Sequence[OpenFile]) -> OpenFile:
    return min(files, key=lambda file: abs(file.dataset.transform.determinant))


def _layers(
    files: Sequence[OpenFile], grid: TargetGrid, box: Box, shape: tuple[int, int]
) -> NDArray[Any]:
    """Read a window of all bands, decimated to ``shape`` without interpolation."""
    row, col, height, width = box
    layers: list[Any] = []
    for file in files:
        down, across = file.dataset.height / grid.height, file.dataset.width / grid.width
        window = Window(col * across, row * down, width * across, height * down)
        with reading_of(file):
            layers += [
                file.dataset.read(
                    index, out_shape=shape, window=window, resampling=Resampling.nearest
                )
                for index in data_indexes(file.dataset)
            ]
    return np.stack(layers)
