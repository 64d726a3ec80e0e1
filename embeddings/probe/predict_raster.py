"""Predictions as Cloud-Optimised GeoTIFFs: classes with a colour table, measures beside them."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what copy raises has no public name
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from embeddings.analysis.probes import UNKNOWN
from embeddings.atomic import check_space
from embeddings.errors import StorageFullError, StoreError
from embeddings.probe.predict_grids import Frame, Pixels
from embeddings.probe.predict_scores import Scorer
from embeddings.probe.predict_scoring import Chunk
from embeddings.probe.predict_style import (
    ORIGIN,
    UNKNOWN_COLOUR,
    Colour,
    category_pam,
    colours,
    paletted_qml,
)
from embeddings.probe.predict_tables import named

MOST_IN_A_BYTE = 250
"""More classes are written as uint16."""
STRIP_ROWS = 512

NODATA = 0
ABSENT, PRESENT = 1, 2
"""The codes of several labels a place; 0 is no data there too."""


@dataclass(frozen=True)
class Sheet:
    """One raster file: its bands, what stands where there is no data, what its codes mean."""

    bands: tuple[str, ...]
    dtype: str
    nodata: float
    codes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    faint: tuple[int, ...] = ()
    """Codes that a map below shows through in QGIS."""

    @property
    def resampling(self) -> str:
        """How overviews are made: codes have no mean."""
        return "AVERAGE" if self.dtype == "float32" else "MODE"

    def beside(self, out: Path) -> dict[Path, str]:
        """Return what says how the codes of ``out`` look: for GDAL and for QGIS, by file.

        A style that the user has saved there is left alone.
        """
        if not self.codes:
            return {}
        legend = self.codes, self.names, self.palette
        pam, style = sidecars(out)
        texts = {pam: category_pam(*legend)}
        return texts if is_users(style) else texts | {style: paletted_qml(*legend, self.faint)}


def sidecars(out: Path) -> tuple[Path, Path]:
    """Return the files beside a raster that GDAL and QGIS read with it."""
    return out.with_name(f"{out.name}.aux.xml"), out.with_suffix(".qml")


def is_users(style: Path) -> bool:
    """Whether a style is there that was not written here."""
    return style.exists() and f'origin="{ORIGIN}"' not in style.read_text(errors="replace")


def main_sheet(scorer: Scorer) -> Sheet:
    """Return the raster of classes (1 to n, unknown the largest code), labels or values."""
    task = scorer.probe.task
    if task == "number":
        return Sheet(("value",), "float32", float("nan"))
    if task == "multilabel":
        bands = tuple(name for name, kind in scorer.measures.items() if kind is bool)
        return Sheet(bands, "uint8", NODATA)
    count = len(scorer.names)
    dtype = "uint8" if count <= MOST_IN_A_BYTE else "uint16"
    unknown = int(np.iinfo(dtype).max)
    codes = (*range(1, count + 1), unknown)
    palette = (*colours(count), UNKNOWN_COLOUR)
    return Sheet(("class",), dtype, NODATA, codes, named(scorer.names), palette)


def measure_sheet(scorer: Scorer) -> Sheet | None:
    """Return the raster of the float32 measures beside ``main_sheet``; None without any."""
    bands = [name for name, kind in scorer.measures.items() if kind is float and name != "value"]
    return Sheet(tuple(bands), "float32", float("nan")) if bands else None


@dataclass
class Drawn:
    """What was noticed while pixels were filled."""

    overlaid: int = 0
    """Pixels that more than one chip filled; the last one stands."""
    top: int = field(default=2**62)
    bottom: int = 0
    left: int = field(default=2**62)
    right: int = 0

    def add(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> None:
        """Widen the box of filled pixels."""
        self.top, self.bottom = min(self.top, int(row.min())), max(self.bottom, int(row.max()) + 1)
        self.left, self.right = min(self.left, int(col.min())), max(self.right, int(col.max()) + 1)


def write_rasters(
    chunks: Iterator[Chunk],
    pixels: Pixels,
    files: Mapping[Path, Sheet],
    provenance: Mapping[str, Any],
    *,
    crop: bool,
) -> Drawn:
    """Write one file for each sheet, all on one grid; ``crop``: no larger than what is filled.

    Pixels are gathered in files that are never seen, so memory does not grow with the raster.
    Raises StorageFullError or StoreError.
    """
    frame, drawn = pixels.frame, Drawn()
    with ExitStack() as stack:
        maps = {path: _map(stack, path.parent, sheet, frame) for path, sheet in files.items()}
        folder = next(iter(files)).parent
        seen = stack.enter_context(mapped(folder, (frame.height * frame.width,), "uint8"))
        for chunk in chunks:
            rows, where = pixels.of(chunk)
            drawn.overlaid += int(seen[where].sum())
            seen[where] = 1
            drawn.add(where // frame.width, where % frame.width)
            for path, sheet in files.items():
                for number, band in enumerate(sheet.bands):
                    maps[path][number, where] = _values(chunk, sheet, band)[rows]
        window = Window(0, 0, frame.width, frame.height)
        if crop:
            window = Window(
                drawn.left, drawn.top, drawn.right - drawn.left, drawn.bottom - drawn.top
            )
        for path, sheet in files.items():
            bands = maps[path].reshape(len(sheet.bands), frame.height, frame.width)
            write_cog(path, sheet, bands, frame, provenance, window)
    return drawn


def _values(chunk: Chunk, sheet: Sheet, band: str) -> NDArray[Any]:
    """Return the numbers ``(n,)`` of a chunk for a band."""
    scored = chunk.scored
    if band == "class":
        return np.where(scored.codes == UNKNOWN, sheet.codes[-1], scored.codes + 1)
    values = scored.measures[band]
    return np.where(values, PRESENT, ABSENT) if values.dtype == bool else values


def _map(stack: ExitStack, folder: Path, sheet: Sheet, frame: Frame) -> NDArray[Any]:
    shape = (len(sheet.bands), frame.height * frame.width)
    values = stack.enter_context(mapped(folder, shape, sheet.dtype))
    if sheet.nodata != 0:
        values[:] = sheet.nodata
    return values


@contextmanager
def mapped(folder: Path, shape: tuple[int, ...], dtype: str) -> Iterator[NDArray[Any]]:
    """Lend zeros in a file without a name, which the system removes however this ends."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    check_space(folder, size)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            # A disk that fills up later would end the process, not raise an error.
            os.posix_fallocate(file.fileno(), 0, size)
        yield np.memmap(file, dtype, "w+", shape=shape)


def write_cog(
    path: Path,
    sheet: Sheet,
    bands: NDArray[Any],
    frame: Frame,
    provenance: Mapping[str, Any],
    window: Window | None = None,
) -> None:
    """Write ``bands (b, height, width)``, or a window, through a file that GDAL arranges anew.

    Raises StorageFullError or StoreError.
    """
    window = window or Window(0, 0, frame.width, frame.height)
    plain = path.with_suffix(".plain.tif")
    try:
        _write_plain(plain, sheet, bands, frame, window, provenance)
        rasterio.shutil.copy(
            plain,
            path,
            driver="COG",
            compress="DEFLATE",
            predictor="YES" if sheet.dtype == "float32" else "NO",
            bigtiff="IF_SAFER",
            overview_resampling=sheet.resampling,
            num_threads="1",
        )
    except (RasterioError, CPLE_BaseError, OSError) as error:
        if _is_full(error, path.parent, bands[:, :1, :1].nbytes * window.width * window.height):
            raise StorageFullError(
                f"The disk is full: '{path.parent}'. Free some space, or write to another disk."
            ) from error
        raise StoreError(f"'{path.name}' could not be written: {error}") from error
    finally:
        for left_over in (plain, plain.with_name(f"{plain.name}.aux.xml")):
            left_over.unlink(missing_ok=True)


def _is_full(error: BaseException | None, folder: Path, needed: int) -> bool:
    """Whether writing so many bytes failed for want of space, which GDAL does not always say."""
    while error is not None:
        if "No space" in str(error) or "disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return shutil.disk_usage(folder).free < needed


def _write_plain(
    plain: Path,
    sheet: Sheet,
    bands: NDArray[Any],
    frame: Frame,
    window: Window,
    provenance: Mapping[str, Any],
) -> None:
    top, left = int(window.row_off), int(window.col_off)
    bottom, right = top + int(window.height), left + int(window.width)
    part = frame.part(top, bottom, left, right)
    with rasterio.open(
        plain,
        "w",
        driver="GTiff",
        width=part.width,
        height=part.height,
        count=len(sheet.bands),
        dtype=sheet.dtype,
        crs=rasterio.crs.CRS.from_user_input(part.crs),
        transform=part.transform,
        nodata=sheet.nodata,
        photometric="PALETTE" if sheet.codes else "MINISBLACK",
        bigtiff="IF_SAFER",
        interleave="band",
    ) as target:
        _describe(target, sheet, provenance)
        for first in range(0, part.height, STRIP_ROWS):
            rows = min(STRIP_ROWS, part.height - first)
            strip = bands[:, top + first : top + first + rows, left:right]
            target.write(np.asarray(strip), window=Window(0, first, part.width, rows))


def _describe(target: Any, sheet: Sheet, provenance: Mapping[str, Any]) -> None:
    classes = dict(zip(sheet.names, sheet.codes, strict=True))
    target.update_tags(
        TERRAKIN=json.dumps(provenance, sort_keys=True),
        **({"CLASSES": json.dumps(classes)} if classes else {}),
    )
    for number, name in enumerate(sheet.bands, start=1):
        target.set_band_description(number, name)
    if sheet.codes:
        table = dict.fromkeys(range(np.iinfo(sheet.dtype).max + 1), (0, 0, 0, 0))
        table |= {c: (*rgb, 255) for c, rgb in zip(sheet.codes, sheet.palette, strict=True)}
        target.write_colormap(1, table)
    else:
        target.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(sheet.bands) - 1)
