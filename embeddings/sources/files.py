"""The files of a scene: opened and checked, told apart by their content, their faults in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window

from embeddings.errors import BandError, SourceError, SourceNotFoundError
from embeddings.sources.addresses import (
    MAJORTOM_ROW,
    is_remote,
    path_of,
    row_parts,
    shown,
    without_secrets,
)
from embeddings.sources.grids import TargetGrid
from embeddings.sources.nodata import can_hold
from embeddings.sources.reading import SceneFile
from embeddings.sources.remote import gdal_env, local_name

RESAMPLING = "bilinear"
"""How coarser bands get values on the finest grid."""


def content_files(file: OpenFile) -> list[str]:
    """Return the file and its mask. What other files beside it say is in ``reading_rule``.

    QGIS writes statistics beside every raster it shows (.aux.xml); they change no pixel.
    """
    masks = sorted(name for name in file.dataset.files if name.endswith(".msk"))
    return [file.given.uri, *([] if file.far else masks)]


@dataclass(frozen=True)
class OpenFile:
    """An open raster file and what is known of it from elsewhere."""

    given: SceneFile
    dataset: Any

    @property
    def far(self) -> bool:
        """Whether it is not a path on this machine."""
        return _is_far(self.given.uri)

    @property
    def shown(self) -> str:
        """Its name for people, without passwords."""
        return shown(self.given.uri)

    @property
    def stem(self) -> str:
        """Its name without folder and ending."""
        uri = self.given.uri
        if uri.startswith(MAJORTOM_ROW):
            return row_parts(uri)[3]
        return path_of(uri).stem if self.far else Path(uri).stem

    @property
    def nodata(self) -> float | None:
        """What means missing in place of what the file declares, if that is known to differ."""
        known = self.given.nodata
        if not all(can_hold(dtype, known) for dtype in self.dataset.dtypes):
            return None
        return None if known == self.dataset.nodata else known


def open_raster(file: SceneFile | str, stack: ExitStack) -> OpenFile:
    """Open a file that has bands of numbers and a place; ``stack`` closes it.

    Raises SourceError.
    """
    given = SceneFile(file) if isinstance(file, str) else file
    if not _is_far(given.uri):
        path = _check_file(given.uri)
        try:
            path.open("rb").close()  # GDAL says of a closed file that there is none.
        except OSError as error:
            raise _unreadable(given.uri, error) from error
    name = stack.enter_context(local_name(given))
    try:
        with gdal_env(name):
            dataset = stack.enter_context(rasterio.open(name))
    except RasterioIOError as error:
        raise _not_opened(given.uri, error) from None  # the cause may repeat a signed address
    found = OpenFile(given, dataset)
    _check_content(found)
    return found


def _is_far(uri: str) -> bool:
    return is_remote(uri) or uri.startswith(("/vsi", MAJORTOM_ROW))


def _not_opened(uri: str, error: Exception) -> SourceError:
    reason = without_secrets(str(error))
    if not _is_far(uri):
        return SourceError(
            f"'{uri}' is not a raster that GDAL can read ({reason}). Give GeoTIFF or COG files."
        )
    kind = SourceNotFoundError if re.search(r"\b40[34]\b|does not exist", reason) else SourceError
    return kind(
        f"'{shown(uri)}' cannot be opened ({reason}). Check the address and its spelling, whether "
        "this machine reaches it and may read it (a signature may have expired), and that it is "
        "a GeoTIFF or COG."
    )


def _check_content(file: OpenFile) -> None:
    dataset = file.dataset
    if dataset.crs is None:
        raise SourceError(
            f"'{file.shown}' has no CRS, so its place on Earth is unknown. Assign one first, for "
            "example: gdal_edit.py -a_srs EPSG:32617 FILE."
        )
    if dataset.transform.is_identity:
        raise SourceError(
            f"'{file.shown}' has a CRS but no georeference: where its pixels lie is unknown. Set "
            "its corners first, for example with gdal_edit.py -a_ullr."
        )
    if not (dataset.count and all(np.dtype(d).kind in "uif" for d in dataset.dtypes)):
        raise SourceError(f"'{file.shown}' has no bands of plain numbers; it cannot be embedded.")


def _check_file(name: str) -> Path:
    path = Path(name)
    try:
        there = path.is_file()
    except OSError as error:
        raise _unreadable(name, error) from error
    if not there:
        raise SourceNotFoundError(f"There is no file '{name}'. Check the path and its spelling.")
    return path


def _unreadable(name: str, error: OSError) -> SourceError:
    return SourceError(
        f"'{name}' cannot be read ({error.strerror}). Check its permissions and those of its "
        "folder."
    )


def check_alignment(files: Sequence[OpenFile], finest: OpenFile) -> list[str]:
    """Return notes on the files to be resampled onto the finest one's grid. Raises BandError."""
    notes = []
    grid = finest.dataset
    for file in files:
        dataset = file.dataset
        if dataset.crs != grid.crs:
            raise BandError(
                f"'{file.shown}' is in {dataset.crs.to_string()}, but '{finest.shown}' is in "
                f"{grid.crs.to_string()}. All bands of a scene share one CRS: warp them first, "
                "for example with gdalwarp -t_srs."
            )
        apart = np.abs(np.subtract(dataset.bounds, grid.bounds))
        pixel = np.maximum(np.abs(dataset.res), np.abs(grid.res))[[0, 1, 0, 1]]
        if (apart > pixel * 1.001).any():
            raise BandError(
                f"'{file.shown}' covers {_box(dataset)}, but '{finest.shown}' covers {_box(grid)}: "
                "they do not share a place. Give bands of one scene; edges may differ by one "
                "pixel of the coarser band."
            )
        if not same_grid(dataset, TargetGrid.of(grid)):
            notes.append(
                f"{Path(file.shown).name} was resampled ({RESAMPLING}) from "
                f"{dataset.res[0]:g} to {grid.res[0]:g} units a pixel."
            )
    return notes


def _box(dataset: Any) -> str:
    return "(" + ", ".join(f"{edge:.6g}" for edge in dataset.bounds) + ")"


def same_grid(dataset: Any, grid: TargetGrid) -> bool:
    """Whether the pixels of a file are those of the grid."""
    return bool(
        (dataset.width, dataset.height) == (grid.width, grid.height)
        and dataset.transform.almost_equals(grid.transform, precision=1e-9)
        and dataset.crs == grid.gdal_crs
    )


def data_indexes(dataset: Any) -> list[int]:
    """Return the numbers, from 1, of the bands that are no alpha band."""
    return [i for i in dataset.indexes if dataset.colorinterp[i - 1] != ColorInterp.alpha]


def declares_nodata(file: OpenFile) -> bool:
    """Whether a nodata tag, mask or alpha band says which pixels have data."""
    all_valid = [MaskFlags.all_valid]
    return (
        file.nodata is not None
        or len(data_indexes(file.dataset)) < file.dataset.count
        or any(flags != all_valid for flags in file.dataset.mask_flag_enums)
    )


def read_there(dataset: Any, index: int, window: Window | None = None) -> NDArray[np.bool_]:
    """Read where a band has data ``(h, w) bool``, by nodata, mask or alpha band.

    GDAL takes an alpha band for the mask only beside one or three others.
    """
    there = np.asarray(dataset.read_masks(index, window=window) > 0)
    if MaskFlags.all_valid in dataset.mask_flag_enums[index - 1]:
        for alpha in set(dataset.indexes) - set(data_indexes(dataset)):
            there &= dataset.read(alpha, window=window) > 0
    return there


@contextmanager
def reading_of(file: OpenFile) -> Iterator[None]:
    """Turn the errors of reading pixels into SourceError."""
    try:
        yield
    except RasterioError as error:
        _forget_error(file.dataset)
        advice = (
            "Check the connection and run it again; what was embedded so far is kept."
            if file.far
            else "Fetch the file again; what was embedded so far is kept."
        )
        reason = without_secrets(str(error.__cause__ or error)).rstrip(".")
        raise SourceError(f"'{file.shown}' is damaged: {reason}. {advice}") from None


def _forget_error(dataset: Any) -> None:
    """Let rasterio raise what GDAL still remembers of a failed read, so that no later call does."""
    with suppress(Exception):
        _ = dataset.colorinterp
