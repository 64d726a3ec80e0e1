"""Images of chips cut elsewhere: no CRS needed. What they are, and their pixels with a mask."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from embeddings.errors import BandError, SourceError
from embeddings.sources.files import data_indexes, read_there

METRES_PER_DEGREE = 111_195.0
_COLOURS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}

Stamp = tuple[int, int]
"""A file's size and when it was last changed."""

# Left alone, GDAL gives grey or noise for what a cut-off JPEG or PNG lacks, and no error.
_STRICT = {
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,
    "GDAL_PAM_ENABLED": False,
}


@dataclass(frozen=True, slots=True)
class ImageKind:
    """What all images of a table have in common with the first one."""

    height: int
    width: int
    dtype: str
    bands: tuple[str, ...]
    """Names of its data bands: as the file describes them, its colours, or B1, B2 ..."""
    named: bool
    """Whether the file itself says so."""
    scale: tuple[float, ...]
    gsd_m: float | None
    """Metres a pixel, where the image has a CRS; geometric mean of both sides."""

    def unlike(self, first: ImageKind) -> str | None:
        """Say how this image differs from the first one, or return None."""
        if (self.height, self.width) != (first.height, first.width):
            return (
                f"has {self.width} x {self.height} pixels, the first one "
                f"{first.width} x {first.height}"
            )
        if len(self.bands) != len(first.bands):
            return f"has {len(self.bands)} bands, the first one {len(first.bands)}"
        if self.dtype != first.dtype:
            return f"holds {self.dtype}, the first one {first.dtype}"
        return None

    def chosen(self, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the names and places, from 0, of the bands that the user wants.

        ``wanted`` chooses by name and order; where it has a name for every band and none of them
        is known, it names them. Raises BandError.
        """
        if wanted is None:
            return self.bands, tuple(range(len(self.bands)))
        if len(set(wanted)) != len(wanted):
            raise BandError(f"--bands names a band twice: {', '.join(wanted)}.")
        if set(wanted) <= set(self.bands):
            return tuple(wanted), tuple(self.bands.index(name) for name in wanted)
        if len(wanted) == len(self.bands) and not set(wanted) & set(self.bands):
            return tuple(wanted), tuple(range(len(wanted)))
        missing = ", ".join(name for name in wanted if name not in self.bands)
        raise BandError(
            f"The images have no band {missing}; they have {', '.join(self.bands)}. Choose among "
            f"these with --bands, or give {len(self.bands)} names of your own in their order."
        )


def sha256_of(path: Path) -> str:
    """Hash the whole content of a file. Raises SourceError, a clause about the file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"cannot be read ({error.strerror})") from error


def stamp_of(path: Path) -> Stamp:
    """Return what tells that a file was replaced. Raises SourceError, a clause about the file."""
    try:
        state = path.stat()
    except OSError as error:
        raise SourceError(f"cannot be read ({error.strerror})") from error
    return state.st_size, state.st_mtime_ns


def image_kind(path: Path) -> ImageKind:
    """Describe an image without reading its pixels. Raises SourceError, a clause about the file."""
    with _opened(path) as dataset:
        indexes = data_indexes(dataset)
        if not indexes or not all(np.dtype(d).kind in "uif" for d in dataset.dtypes):
            raise SourceError("has no bands of plain numbers")
        if dataset.colorinterp[0] == ColorInterp.palette:
            raise SourceError("has a palette, so its numbers are no brightness; save it as RGB")
        names = _band_names(dataset, indexes)
        return ImageKind(
            height=int(dataset.height),
            width=int(dataset.width),
            dtype=str(dataset.dtypes[0]),
            bands=names or tuple(f"B{number}" for number in range(1, len(indexes) + 1)),
            named=names is not None,
            scale=tuple(float(dataset.scales[i - 1]) for i in indexes),
            gsd_m=_gsd_m(dataset),
        )


def read_image(
    path: Path, bands: Sequence[int], nodata: float | None = None, scale: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read the pixels of an image.

    Returns values ``(bands, height, width) float32`` of the data bands at ``bands``, from 0, and
    which pixels have data ``(height, width)``: those masked in no band, that hold ``nodata`` in
    none, and are finite. Value = number * scale + offset, as the file declares
    them; ``scale`` takes the place of both. Raises SourceError, a clause about the file.
    """
    with _opened(path) as dataset:
        every = data_indexes(dataset)
        if max(bands) >= len(every):
            raise SourceError(f"has only {len(every)} bands")
        indexes = [every[band] for band in bands]
        numbers = dataset.read(indexes)
        valid = np.logical_and.reduce([read_there(dataset, index) for index in indexes])
        factor = np.array([dataset.scales[i - 1] for i in indexes])[:, None, None]
        offset = np.array([dataset.offsets[i - 1] for i in indexes])[:, None, None]
    if scale is not None:
        factor, offset = np.full_like(factor, scale), np.zeros_like(offset)
    if nodata is not None:
        valid &= (numbers != nodata).all(axis=0)
    values = np.asarray(numbers * factor + offset, dtype=np.float32)
    valid &= np.isfinite(values).all(axis=0)
    return values, valid


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image; its errors become SourceError.

    Files that were cut off are errors; see ``_STRICT``.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.Env(**_STRICT),
            rasterio.open(path) as dataset,
        ):
            yield dataset
    except RasterioError as error:
        raise SourceError(f"is no image that can be read ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().split("\n", maxsplit=1)[0]


def _band_names(dataset: Any, indexes: Sequence[int]) -> tuple[str, ...] | None:
    described = [dataset.descriptions[i - 1] for i in indexes]
    coloured = [_COLOURS.get(dataset.colorinterp[i - 1]) for i in indexes]
    for names in (described, coloured):
        if all(names) and len(set(names)) == len(names):
            return tuple(str(name) for name in names)
    return None


def _gsd_m(dataset: Any) -> float | None:
    """Return metres a pixel; None where the image does not say where it lies."""
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    side = math.sqrt(abs(dataset.transform.determinant))
    if not dataset.crs.is_geographic:
        return float(side * dataset.crs.linear_units_factor[1])
    latitude = (dataset.bounds.bottom + dataset.bounds.top) / 2
    return side * METRES_PER_DEGREE * math.sqrt(math.cos(math.radians(latitude)))
