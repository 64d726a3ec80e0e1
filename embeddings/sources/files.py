"""The files of a scene: opened and checked, told apart by their content, their faults in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError, RasterioIOError

from embeddings.errors import BandError, SourceError, SourceNotFoundError

RESAMPLING = "bilinear"
"""How coarser bands get values on the finest grid."""


def fingerprint(files: Sequence[str], extra: str) -> str:
    """Hash the names and the whole content of files, and ``extra``.

    Raises SourceNotFoundError or SourceError.
    """
    digest = hashlib.sha256(extra.encode())
    for name in files:
        path = _check_file(name)
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(name, error) from error
        digest.update(f"{path.name}:{content};".encode())
    return digest.hexdigest()


def content_files(dataset: Any) -> list[str]:
    """Return the file and its mask. What other files beside it say is in ``reading_rule``.

    QGIS writes statistics beside every raster it shows (.aux.xml); they change no pixel.
    """
    return [dataset.name, *sorted(file for file in dataset.files if file.endswith(".msk"))]


def open_raster(name: str) -> Any:
    """Open a file that has bands of numbers and a place. Raises SourceError."""
    path = _check_file(name)
    try:
        path.open("rb").close()  # GDAL says of a closed file that there is none.
    except OSError as error:
        raise _unreadable(name, error) from error
    try:
        dataset = rasterio.open(name)
    except RasterioIOError as error:
        raise SourceError(
            f"'{name}' is not a raster that GDAL can read ({error}). Give GeoTIFF or COG files."
        ) from error
    if dataset.crs is None:
        dataset.close()
        raise SourceError(
            f"'{name}' has no CRS, so its place on Earth is unknown. Assign one first, for "
            "example: gdal_edit.py -a_srs EPSG:32617 FILE."
        )
    if dataset.transform.is_identity:
        dataset.close()
        raise SourceError(
            f"'{name}' has a CRS but no georeference: where its pixels lie is unknown. Set its "
            "corners first, for example with gdal_edit.py -a_ullr."
        )
    if not (dataset.count and all(np.dtype(d).kind in "uif" for d in dataset.dtypes)):
        dataset.close()
        raise SourceError(f"'{name}' has no bands of plain numbers; it cannot be embedded.")
    return dataset


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


def check_alignment(datasets: Sequence[Any], grid: Any) -> list[str]:
    """Return notes on the files to be resampled onto ``grid``. Raises BandError."""
    notes = []
    for dataset in datasets:
        if dataset.crs != grid.crs:
            raise BandError(
                f"'{dataset.name}' is in {dataset.crs.to_string()}, but '{grid.name}' is in "
                f"{grid.crs.to_string()}. All bands of a scene share one CRS: warp them first, "
                "for example with gdalwarp -t_srs."
            )
        apart = np.abs(np.subtract(dataset.bounds, grid.bounds))
        pixel = np.maximum(np.abs(dataset.res), np.abs(grid.res))[[0, 1, 0, 1]]
        if (apart > pixel * 1.001).any():
            raise BandError(
                f"'{dataset.name}' covers {_box(dataset)}, but '{grid.name}' covers {_box(grid)}: "
                "they do not share a place. Give bands of one scene; edges may differ by one "
                "pixel of the coarser band."
            )
        if not same_grid(dataset, grid):
            notes.append(
                f"{Path(dataset.name).name} was resampled ({RESAMPLING}) from "
                f"{dataset.res[0]:g} to {grid.res[0]:g} units a pixel."
            )
    return notes


def _box(dataset: Any) -> str:
    return "(" + ", ".join(f"{edge:.6g}" for edge in dataset.bounds) + ")"


def same_grid(dataset: Any, grid: Any) -> bool:
    """Whether the pixels of two files coincide."""
    return bool(
        (dataset.width, dataset.height) == (grid.width, grid.height)
        and dataset.transform.almost_equals(grid.transform, precision=1e-9)
    )


def data_indexes(dataset: Any) -> list[int]:
    """Return the numbers, from 1, of the bands that are no alpha band."""
    return [i for i in dataset.indexes if dataset.colorinterp[i - 1] != ColorInterp.alpha]


def declares_nodata(dataset: Any) -> bool:
    """Whether a nodata tag, mask or alpha band says which pixels have data."""
    all_valid = [rasterio.enums.MaskFlags.all_valid]
    return any(flags != all_valid for flags in dataset.mask_flag_enums)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the errors of reading pixels into SourceError."""
    try:
        yield
    except RasterioError as error:
        raise SourceError(
            f"'{name}' is damaged: {error}. Fetch the file again; what was embedded so far is kept."
        ) from error
