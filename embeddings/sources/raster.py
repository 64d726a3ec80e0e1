"""A satellite scene in one or many GeoTIFFs: bands on one grid, read by window with their mask.

Bands of different resolutions are resampled (bilinear) onto the finest grid. A pixel is valid
where every band is: not masked by a nodata tag, mask or alpha band, finite, and not holding the
undeclared nodata value in all bands of the finest grid at once (see sources.nodata).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyproj
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from embeddings.errors import BandError, SourceError, SourceNotFoundError
from embeddings.sources.nodata import detect_corner_value

RESAMPLING = "bilinear"
BASELINE_OFFSET = -1000.0
"""Added to digital numbers of Sentinel-2 processing baseline 04.00 and later (ESA, 2022)."""

_SAMPLE_BYTES = 65_536
_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class Band:
    """One band: where it is read from and how its numbers become values."""

    name: str
    dataset: Any
    index: int
    scale: float
    offset: float
    resampled: bool


class RasterScene:
    """Aligned bands of one scene. Use as a context manager; not thread-safe.

    Attributes: ``bands`` names in order; ``height`` and ``width`` pixels; ``transform`` (affine,
    column and row to x and y) and ``crs`` of the finest grid; ``pixel_m`` (row, column) size of a
    pixel in metres at the centre; ``notes`` what the reader decided by itself.
    """

    def __init__(self, bands: Sequence[Band], grid: Any, nodata: float | None) -> None:
        self._bands = list(bands)
        self._nodata = nodata
        self._stack = ExitStack()
        self.bands = tuple(band.name for band in bands)
        self.height, self.width = int(grid.height), int(grid.width)
        self.transform = grid.transform
        self.crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
        self.to_lonlat = pyproj.Transformer.from_crs(self.crs, "OGC:CRS84", always_xy=True)
        self.pixel_m = self._pixel_metres()
        self.notes: list[str] = []

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

        ``nodata`` marks pixels that hold it in every band. Without it, and where no file declares
        any, the corners are looked at (``detect_nodata``). ``offset`` is added to every value.
        Raises SourceNotFoundError, SourceError or BandError.
        """
        with ExitStack() as stack:
            datasets = [stack.enter_context(_open(file)) for file in files]
            grid = min(datasets, key=lambda d: abs(d.transform.determinant))
            notes = _check_alignment(datasets, grid)
            if nodata is None and detect_nodata and not any(_declares_nodata(d) for d in datasets):
                nodata = _corner_value(datasets, grid)
                if nodata is not None:
                    notes.append(
                        f"No file declares nodata, but a corner holds {nodata:g} in every band: "
                        "taken as nodata. '--nodata none' embeds it."
                    )
            aligned = [
                dataset
                if _same_grid(dataset, grid)
                else stack.enter_context(_resampled(dataset, grid, nodata))
                for dataset in datasets
            ]
            bands = [
                band
                for source, dataset in zip(datasets, aligned, strict=True)
                for band in _bands_of(source, dataset, offset, single=source.count == 1)
            ]
            names = [band.name for band in bands]
            if len(set(names)) != len(names):
                raise BandError(
                    f"Two bands have the same name: {', '.join(names)}. Rename the files, or give "
                    "each band file once."
                )
            scene = cls(bands, grid, nodata)
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
            with _reading(band.dataset.name):
                raw = band.dataset.read(band.index, window=window)
                valid &= band.dataset.read_masks(band.index, window=window) > 0
            if self._nodata is not None and not band.resampled:
                held &= raw == self._nodata
            layer[:] = raw
            valid &= np.isfinite(layer)
            if (band.scale, band.offset) != (1.0, 0.0):
                layer *= band.scale
                layer += band.offset
        if self._nodata is not None:
            valid &= ~held
        return values, valid

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


def fingerprint(files: Sequence[str], extra: str) -> str:
    """Hash what the files hold: size, both ends and 14 blocks between of each, and ``extra``.

    Raises SourceNotFoundError.
    """
    digest = hashlib.sha256(extra.encode())
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise _missing(name)
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            for start in sorted(
                {int(s) for s in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES)}
            ):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _missing(name: str) -> SourceNotFoundError:
    return SourceNotFoundError(f"There is no file '{name}'. Check the path and its spelling.")


def _open(name: str) -> Any:
    if not Path(name).is_file():
        raise _missing(name)
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


def _check_alignment(datasets: Sequence[Any], grid: Any) -> list[str]:
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
        if not _same_grid(dataset, grid):
            notes.append(
                f"{Path(dataset.name).name} was resampled ({RESAMPLING}) from "
                f"{dataset.res[0]:g} to {grid.res[0]:g} units a pixel."
            )
    return notes


def _corner_value(datasets: Sequence[Any], grid: Any) -> float | None:
    """Look for an undeclared nodata value in decimated bands, before any is resampled."""
    step = max(1, max(grid.height, grid.width) // 1024)
    shape = len(range(0, grid.height, step)), len(range(0, grid.width, step))
    layers = []
    for dataset in datasets:
        with _reading(dataset.name):
            layers += [
                dataset.read(index, out_shape=shape, resampling=Resampling.nearest)
                for index in _data_indexes(dataset)
            ]
    return detect_corner_value(np.stack(layers), grid.dtypes[0])


def _box(dataset: Any) -> str:
    return "(" + ", ".join(f"{edge:.6g}" for edge in dataset.bounds) + ")"


def _same_grid(dataset: Any, grid: Any) -> bool:
    return bool(
        (dataset.width, dataset.height) == (grid.width, grid.height)
        and dataset.transform.almost_equals(grid.transform, precision=1e-9)
    )


def _resampled(dataset: Any, grid: Any, nodata: float | None) -> Any:
    """Resample a file onto the finest grid; its mask says where it has no pixel to resample."""
    declared = nodata if dataset.nodata is None else dataset.nodata
    has_alpha = len(_data_indexes(dataset)) < dataset.count
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling[RESAMPLING],
        src_nodata=declared,
        nodata=declared,
        add_alpha=declared is None and not has_alpha,
    )


def _bands_of(source: Any, dataset: Any, offset: float | None, *, single: bool) -> list[Band]:
    bands = []
    for index in _data_indexes(source):
        described = source.descriptions[index - 1]
        name = Path(source.name).stem if single else described or f"B{index}"
        scale, declared = source.scales[index - 1], source.offsets[index - 1]
        added = offset if offset is not None else _baseline_offset(source, scale, declared)
        resampled = dataset is not source
        bands.append(Band(name, dataset, index, float(scale), float(declared + added), resampled))
    return bands


def _data_indexes(dataset: Any) -> list[int]:
    return [i for i in dataset.indexes if dataset.colorinterp[i - 1] != ColorInterp.alpha]


def _baseline_offset(source: Any, scale: float, declared: float) -> float:
    """Return Sentinel-2's offset where the file's own metadata states baseline 04.00 or later."""
    baseline = source.tags().get("PROCESSING_BASELINE", "")
    try:
        recent = float(baseline) >= 4.0
    except ValueError:
        return 0.0
    return BASELINE_OFFSET if recent and (scale, declared) == (1.0, 0.0) else 0.0


def _declares_nodata(dataset: Any) -> bool:
    all_valid = [rasterio.enums.MaskFlags.all_valid]
    return any(flags != all_valid for flags in dataset.mask_flag_enums)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise SourceError(
            f"'{name}' is damaged: {error}. Fetch the file again; what was embedded so far is kept."
        ) from error
