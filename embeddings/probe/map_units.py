"""A map of classes as units that a sample can be drawn from: footprints, or pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.probe.lottery import Lottery
from embeddings.probe.map_areas import hectares
from embeddings.probe.predict_tables import LAYER, named

CLASS = "class"
BATCH = 65_536
CHECKED = 200
"""Footprints of which it is looked up whether others overlap them."""
NEAR = 0.9
"""Of a footprint's width: the centre of one that does not overlap is at least so far away."""


@dataclass
class Strata:
    """The classes of a map: how many units each has, and how large they are together."""

    names: list[str] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    area_ha: list[float] = field(default_factory=list)

    def add(self, name: str, units: int, area_ha: float) -> None:
        """Count units of a class."""
        if name not in self.names:
            self.names.append(name)
            self.units.append(0)
            self.area_ha.append(0.0)
        at = self.names.index(name)
        self.units[at] += units
        self.area_ha[at] += area_ha


class MapUnits(Protocol):
    """A map whose strata are known, and whose units can be drawn."""

    strata: Strata
    unknown: str | None
    """What the map calls a place whose class it does not name."""
    provenance: dict[str, Any]

    def draw(self, sizes: Mapping[str, int], seed: int) -> pa.Table:
        """Draw so many units of each class, each with a chance in proportion to its area.

        Columns ``unit``, ``map_class``, ``lon``, ``lat``, ``geometry`` (WKB, degrees).
        """


def open_map(path: Path) -> MapUnits:
    """Read a map that ``probe predict`` wrote, or one like it.

    Raises SourceNotFoundError, SourceError or InputError.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"There is no file '{path}'. Name a map of 'probe predict'.")
    if path.suffix.lower() in (".tif", ".tiff"):
        from embeddings.probe.map_pixels import PixelMap

        return PixelMap(path)
    if path.suffix.lower() in (".gpkg", ".parquet"):
        return FootprintMap(path)
    raise InputError(
        f"'{path.name}' has no suffix of a map. Give .tif, .gpkg or .parquet, as 'probe predict' "
        "writes them."
    )


def unknown_of(provenance: dict[str, Any]) -> str | None:
    """Return what a map of this provenance calls unknown; None if it never does."""
    classes = tuple(provenance.get("classes", ()))
    return named(classes)[-1] if provenance.get("task") == "classes" and classes else None


class FootprintMap:
    """Footprints in degrees with a class each, in GeoPackage or GeoParquet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.provenance = self._provenance()
        self.unknown = unknown_of(self.provenance)
        self.strata = Strata()
        centres: list[NDArray[np.float64]] = []
        for names, _, shapes in self._batches():
            area = hectares(shapes)
            for name in sorted(set(names)):
                mine = names == name
                self.strata.add(name, int(mine.sum()), float(area[mine].sum()))
            centres.append(_boxes(shapes))
        if not centres:
            raise InputError(f"'{path}' holds no chip. Predict an area with chips.")
        _check_apart(path, np.concatenate(centres))

    def draw(self, sizes: Mapping[str, int], seed: int) -> pa.Table:
        """Draw units; see ``MapUnits``."""
        lottery = Lottery(sizes, seed)
        for names, ids, shapes in self._batches():
            both, area = np.stack([ids, shapes], axis=1), hectares(shapes)
            for name in sorted(set(names)):
                mine = names == name
                lottery.offer(name, both[mine], area[mine])
        drawn, units = lottery.drawn()
        point = shapely.centroid(units[:, 1])
        return pa.table(
            {
                "unit": pa.array(units[:, 0], pa.string()),
                "map_class": pa.array(drawn, pa.string()),
                "lon": shapely.get_x(point),
                "lat": shapely.get_y(point),
                "geometry": pa.array(shapely.to_wkb(units[:, 1]), pa.binary()),
            }
        )

    def _provenance(self) -> dict[str, Any]:
        with _reading(self._path):
            if self._path.suffix.lower() == ".parquet":
                held = pq.read_metadata(self._path)
                names = held.schema.to_arrow_schema().names
                said = (held.metadata or {}).get(b"terrakin", b"{}")
            else:
                import pyogrio  # late: it takes a third of the server's start

                info = pyogrio.read_info(self._path, layer=LAYER)
                _check_degrees(self._path, info["crs"])
                names = list(info["fields"])
                said = (info["layer_metadata"] or {}).get("terrakin", "{}")
            found = json.loads(said)
        if CLASS not in names:
            raise InputError(
                f"'{self._path}' has no column '{CLASS}': it is no map of classes. A sample is "
                "drawn from a map of classes only."
            )
        return dict(found)

    def _batches(self) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """Yield classes, ids and footprints ``(n,)``."""
        with _reading(self._path):
            if self._path.suffix.lower() == ".parquet":
                with pq.ParquetFile(self._path) as file:
                    columns = ["id", CLASS, "geometry"]
                    for batch in file.iter_batches(BATCH, columns=columns):
                        yield _read(pa.table(batch), "geometry")
                return
            import pyogrio.raw

            with pyogrio.raw.open_arrow(
                self._path, layer=LAYER, columns=["id", CLASS], batch_size=BATCH, use_pyarrow=True
            ) as (meta, reader):
                shape = meta["geometry_name"] or "wkb_geometry"
                for batch in reader:
                    yield _read(pa.table(batch), shape)


def _check_degrees(path: Path, crs: str | None) -> None:
    if crs != "EPSG:4326":
        raise InputError(
            f"'{path}' has the CRS {crs}; a map of footprints is in EPSG:4326, as 'probe predict' "
            "writes it. Give that file."
        )


def _read(table: pa.Table, shape: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    names = table[CLASS].combine_chunks()
    if pa.types.is_dictionary(names.type):
        names = names.dictionary_decode()
    return (
        np.array(names.to_pylist(), dtype=object),
        np.array(table["id"].to_pylist(), dtype=object),
        shapely.from_wkb(table[shape].to_numpy(zero_copy_only=False)),
    )


def _boxes(shapes: NDArray[Any]) -> NDArray[np.float64]:
    """Return centres and sides ``(n, 4)`` in degrees."""
    west, south, east, north = shapely.bounds(shapes).T
    return np.stack([(west + east) / 2, (south + north) / 2, east - west, north - south], axis=1)


def _check_apart(path: Path, boxes: NDArray[np.float64]) -> None:
    """Refuse footprints that overlap, whose areas do not add up to that of the map."""
    some = np.linspace(0, len(boxes) - 1, min(CHECKED, len(boxes))).astype(np.int64)
    overlapping = 0
    for lon, lat, width, height in boxes[some]:
        near = (np.abs(boxes[:, 0] - lon) < NEAR * width) & (
            np.abs(boxes[:, 1] - lat) < NEAR * height
        )
        overlapping += int(near.sum() > 1)
    if overlapping > len(some) / 2:
        raise InputError(
            f"The footprints of '{path}' overlap, or several dates of one place are in it, so that "
            "their areas do not add up. Predict one date, or write the map as .tif, whose pixels "
            "do not overlap."
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        yield
    except (DataSourceError, DataLayerError, OSError, KeyError, ValueError) as error:
        raise SourceError(
            f"'{path}' cannot be read as a map of 'probe predict': {error}"
        ) from error
    except pa.ArrowException as error:
        raise SourceError(
            f"'{path}' cannot be read as a map of 'probe predict': {error}"
        ) from error
