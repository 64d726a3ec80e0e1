"""A raster of classes or numbers as labels: its band, grid, nodata, names of classes."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError

from embeddings.analysis.samples import TASKS, Task
from embeddings.errors import InputError, SourceError
from embeddings.probe.label_file import named_crs
from embeddings.sources.grids import TargetGrid

NAME_COLUMNS = ("class_name", "classname", "class_names", "class", "name", "label", "land_cover")
"""Columns of an attribute table that hold the names where no column says that it does."""
VALUE_COLUMNS = ("value", "val")


@dataclass(frozen=True)
class LabelRaster:
    """One band of a raster as labels; its pixels are read where chips lie."""

    path: Path
    band: int
    grid: TargetGrid
    dtype: str
    nodata: float | None
    task: Task
    names: dict[int, str]
    """Names of values, as far as the file or the tables beside it have any."""
    why: str
    notes: tuple[str, ...]


def read_raster(
    path: Path,
    band: str | None,
    crs: str | None,
    nodata: float | None,
    task: Task | None,
) -> LabelRaster:
    """Open a raster of labels. Raises SourceError or InputError."""
    try:
        with rasterio.open(path) as file:
            index = _band(path, file, band)
            grid = _grid(path, file, crs)
            dtype = file.dtypes[index - 1]
            declared = file.nodatavals[index - 1]
            masked = rasterio.enums.MaskFlags.all_valid not in file.mask_flag_enums[index - 1]
            names = class_names(path, file, index)
    except RasterioError as error:
        raise SourceError(
            f"'{path}' is neither a vector file nor a raster that GDAL reads. Give for example "
            "GeoPackage, GeoJSON, GeoParquet, CSV with columns lon and lat, or GeoTIFF."
        ) from error
    chosen, why = _task(dtype, task)
    if chosen == "number":
        names = {}
    notes: tuple[str, ...] = ()
    if not masked and nodata is None:
        notes = (
            "The raster declares no nodata value, so every number in it is a label, 0 too. Name "
            "one with --labels-nodata if there is any.",
        )
    return LabelRaster(
        path, index, grid, dtype, nodata if declared is None else None, chosen, names, why, notes
    )


def _band(path: Path, file: Any, wanted: str | None) -> int:
    if wanted is None:
        if file.count > 1:
            raise InputError(
                f"'{path}' has {file.count} bands. Say which holds the labels with --field, by "
                "its number or name. A picture in colours cannot be labels; give the raster of "
                "classes it was made of."
            )
        return 1
    names = {str(name): i for i, name in enumerate(file.descriptions, start=1) if name}
    numbers = {str(i): i for i in range(1, file.count + 1)}
    found = {**numbers, **names}.get(wanted)
    if found is None:
        named = f" named {', '.join(names)}" if names else ""
        raise InputError(
            f"'{path}' has no band '{wanted}'. It has {file.count} band(s){named}; --field gives "
            "the number or name of one."
        )
    return found


def _grid(path: Path, file: Any, crs: str | None) -> TargetGrid:
    if file.transform.is_identity:
        raise SourceError(f"'{path}' has no georeference: nobody knows where its pixels lie.")
    if file.crs is None:
        if crs is None:
            raise SourceError(
                f"'{path}' has no CRS, so that nobody knows where its pixels lie. Give it with "
                "--labels-crs, for example --labels-crs EPSG:32618."
            )
        return TargetGrid(named_crs(crs).to_wkt(), file.transform, file.width, file.height)
    grid = TargetGrid.of(file)
    if crs is not None and not grid.crs.equals(named_crs(crs), ignore_axis_order=True):
        raise InputError(
            f"'{path}' has the CRS {grid.crs.name}, but --labels-crs says {crs}. Leave the option "
            "out, or correct the file's CRS."
        )
    return grid


def _task(dtype: str, task: Task | None) -> tuple[Task, str]:
    whole = np.issubdtype(np.dtype(dtype), np.integer)
    if task is not None and task not in TASKS:
        raise InputError(f"'{task}' is not a task. Give {', '.join(TASKS[:-1])} or {TASKS[-1]}.")
    if task not in (None, "number") and not whole:
        raise InputError(
            f"The raster holds {dtype}, which are no classes. Use --task number, or give a raster "
            "of whole numbers."
        )
    if task is not None:
        return task, f"The raster was taken as {task}, as asked for."
    if whole:
        return "classes", f"The raster holds whole numbers ({dtype}): taken as classes."
    return "number", f"The raster holds decimal numbers ({dtype}): taken as a number."


def class_names(path: Path, file: Any, band: int) -> dict[int, str]:
    """Return the names of values: from an attribute table, else from the list of categories.

    GDAL's attribute table (``.aux.xml``), Esri's (``.vat.dbf``), and the category names of any
    format. What two values share is no name of either.
    """
    names = _of_aux(Path(f"{path}.aux.xml"), band) or _of_vat(path) or _categories(file, band)
    once = list(names.values())
    return {
        value: name if once.count(name) == 1 else f"{name} ({value})"
        for value, name in names.items()
    }


def _of_aux(path: Path, band: int) -> dict[int, str]:
    """Read the names in GDAL's attribute table; usage 2 is a name, 5 a value."""
    if not path.is_file():
        return {}
    with suppress(ElementTree.ParseError, OSError):
        table = ElementTree.parse(path).find(
            f"./PAMRasterBand[@band='{band}']/GDALRasterAttributeTable"
        )
        if table is None:
            return {}
        usage = [field.findtext("Usage", "0").strip() for field in table.findall("FieldDefn")]
        title = [field.findtext("Name", "").strip() for field in table.findall("FieldDefn")]
        rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
        value = usage.index("5") if "5" in usage else _column(title, VALUE_COLUMNS)
        name = usage.index("2") if "2" in usage else _column(title, NAME_COLUMNS)
        if value is not None and name is not None:
            return _named((row[value], row[name]) for row in rows if len(row) == len(title))
    return {}


def _of_vat(path: Path) -> dict[int, str]:
    """Read the names in Esri's attribute table beside a raster."""
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

    for file in (Path(f"{path}.vat.dbf"), path.with_suffix(".vat.dbf")):
        if not file.is_file():
            continue
        with suppress(DataSourceError, DataLayerError, ValueError):
            _, table = pyogrio.raw.read_arrow(file, read_geometry=False)
            value = _column(table.column_names, VALUE_COLUMNS)
            name = _column(table.column_names, NAME_COLUMNS)
            if value is not None and name is not None:
                columns = (table.column(value).to_pylist(), table.column(name).to_pylist())
                return _named(zip(*columns, strict=True))
    return {}


def _categories(file: Any, band: int) -> dict[int, str]:
    """Read the category names, which GDAL writes out with a VRT of any raster."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "names.vrt"
        rasterio.shutil.copy(file, copy, driver="VRT")
        root = ElementTree.parse(copy).getroot()
    found = root.findall(f"./VRTRasterBand[@band='{band}']/CategoryNames/Category")
    return _named((str(i), each.text or "") for i, each in enumerate(found))


def _column(titles: list[str], wanted: tuple[str, ...]) -> int | None:
    folded = [title.casefold() for title in titles]
    return next((folded.index(name) for name in wanted if name in folded), None)


def _named(pairs: Any) -> dict[int, str]:
    """Return the names of whole values, without those that are empty."""
    names = {}
    for value, name in pairs:
        text = "" if name is None else str(name).strip()
        with suppress(TypeError, ValueError):
            if text and float(value).is_integer():
                names[int(float(value))] = text
    return names
