"""The Major TOM grid at any distance, in closed form.

Definition: Francis and Czerkawski, "Major TOM: Expandable Datasets for Earth Observation"
(2024), and ESA-PhiLab/Major-TOM at f7078cd. On a sphere of radius 6378.137 km, rows lie
``distance_km`` apart or slightly less and are counted from the equator: 0U, 1U ... northward,
1D, 2D ... southward. Each row is cut into columns at most ``distance_km`` wide at its southern
edge, counted from Greenwich: 0R, 1R ... eastward, 1L, 2L ... westward. As integers, D and L are
negative.

A cell is named by its south-west corner and holds ``west < lon <= east``,
``south < lat <= north``: a point exactly on an edge belongs to the cell below or to the left,
so (0, 0) is in 1D_1L.

Edges are computed with the roundings of the official code, so that they equal it bit for bit,
and so do the cells of points that lie exactly on an edge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from embeddings.errors import InputError, PlaceError
from embeddings.places import Floats, Ints, checked_places, first_points, utm_epsg, wrap_lons
from embeddings.types import Bounds

EARTH_RADIUS_KM = 6378.137
MAX_LATITUDE = 85.0
"""Rows whose southern edge lies beyond this latitude, north or south, do not exist."""
MIN_DISTANCE_KM = 0.01
MAX_DISTANCE_KM = 1000.0
MAX_ENUMERATED = 100_000_000
"""The number of cells that may be asked for as arrays at once (24 bytes each)."""
TOUCH_DEGREES = 1e-9
"""A tenth of a millimetre: a box that overlaps a cell by less only touches it."""

_NAME = re.compile(r"(0U|[1-9][0-9]{0,6}[UD])_(0R|[1-9][0-9]{0,6}[RL])")
_SHOWN = 5


@dataclass(frozen=True)
class MajorTomGrid:
    """The grid with cells of about ``distance_km`` kilometres (10 for ESA's data sets).

    The same name at another distance is another place. Rows and columns are int32; longitudes
    and latitudes float64 degrees, OGC:CRS84. Array arguments broadcast; scalars give
    0-dimensional arrays. Raises InputError for a distance that is no number or out of range.
    """

    distance_km: float

    def __post_init__(self) -> None:
        distance = self.distance_km
        if not (math.isfinite(distance) and MIN_DISTANCE_KM <= distance <= MAX_DISTANCE_KM):
            raise InputError(
                f"A grid distance of {distance:g} km cannot be used. Give kilometres from "
                f"{MIN_DISTANCE_KM:g} to {MAX_DISTANCE_KM:g}; ESA's data sets use 10."
            )

    @cached_property
    def first_row(self) -> int:
        """The southernmost row (-946 at 10 km)."""
        row = -self._rows_to_max_latitude
        return row + int(self._row_south(row) < -MAX_LATITUDE)

    @cached_property
    def last_row(self) -> int:
        """The northernmost row (946 at 10 km)."""
        row = self._rows_to_max_latitude
        return row - int(self._row_south(row) > MAX_LATITUDE)

    @property
    def n_rows(self) -> int:
        """The number of rows (1,893 at 10 km)."""
        return self.last_row - self.first_row + 1

    @cached_property
    def n_cells(self) -> int:
        """The number of cells (5,094,350 at 10 km)."""
        return int(self.columns(self._all_rows())[1].sum(dtype=np.int64))

    @property
    def south_limit(self) -> float:
        """The grid's southern end in degrees (-84.97006 at 10 km); no cell holds it."""
        return float(self._row_south(self.first_row))

    @property
    def north_limit(self) -> float:
        """The northern edge of the northernmost row in degrees (85.05988 at 10 km)."""
        return float(self._row_north(self.last_row))

    def columns(self, rows: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Return the first column and the number of columns of each row.

        The columns of a row are ``first, first + 1 ... first + count - 1``. Raises InputError
        for rows that do not exist.
        """
        checked = self._existing_rows(rows)
        count = self._count(checked)
        return self._first_column(count), count

    def cells(
        self, lon: npt.ArrayLike, lat: npt.ArrayLike, *, official_wrap: bool = False
    ) -> tuple[Ints, Ints]:
        """Return (rows, cols) of the cells that hold the points.

        Longitudes beyond ±180 and up to ±540 are wrapped; 180 itself is the eastern end of a
        row and -180 is the same meridian. Points north of ``north_limit`` go to the northernmost
        row, as in the official code. Points at or south of ``south_limit`` raise PlaceError,
        unless ``official_wrap`` asks for the official answer, which is the northernmost row.

        Raises PlaceError for values that are not finite and for latitudes beyond ±90.
        """
        lon, lat = checked_places(lon, lat)
        south = lat <= self.south_limit
        if south.any() and not official_wrap:
            raise PlaceError(
                f"{first_points(lon, lat, south)} at or south of latitude "
                f"{self.south_limit:.5f}, where the {self.distance_km:g} km grid begins. Leave "
                "such points out. ESA's own code puts them into its northernmost row; "
                "official_wrap=True does the same."
            )
        rows = np.where(south, self.last_row, self._row_at(lat)).astype(np.int32)
        return rows, self._column_at(rows, lon)

    def names(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> npt.NDArray[np.str_]:
        """Return names such as "573U_1L". Raises InputError for cells that do not exist."""
        checked_rows, checked_cols = self._existing(rows, cols)
        row_names = np.strings.add(_labels(checked_rows, "U", "D"), "_")
        return np.strings.add(row_names, _labels(checked_cols, "R", "L"))

    def parse(self, names: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Return (rows, cols) of names, in their shape.

        Raises InputError for a malformed name or a cell that does not exist at this distance.
        """
        given = np.asarray(names, dtype=np.str_)
        found = [_NAME.fullmatch(name) for name in given.ravel().tolist()]
        bad = [str(given.ravel()[i]) for i, match in enumerate(found) if match is None]
        if bad:
            raise InputError(
                f"{len(bad)} of {len(found)} cell names are malformed: {bad[:_SHOWN]}. A name is "
                "a row (U up, D down) and a column (R right, L left), for example 573U_1L."
            )
        rows = [_signed(match[1], "U") for match in found if match]
        cols = [_signed(match[2], "R") for match in found if match]
        shape = given.shape
        return self._existing(np.reshape(rows, shape), np.reshape(cols, shape))

    def corner(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return (lon, lat) of the south-west corners, in degrees.

        Some rows end with a column that begins at 180, as in the official code: its longitude
        is 180 here and -180 in ``footprint``.
        """
        checked_rows, checked_cols = self._existing(rows, cols)
        west = self._column_west(self._count(checked_rows), checked_cols)
        return west, self._row_south(checked_rows)

    def footprint(
        self, rows: npt.ArrayLike, cols: npt.ArrayLike
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Return (west, south, east, north) of cells in degrees, each within ±180 and ±90.

        As in ``Bounds``, west > east means that the cell crosses the antimeridian, which the
        last column of a row does where the row's number of columns is odd.
        """
        checked_rows, checked_cols = self._existing(rows, cols)
        count = self._count(checked_rows)
        first = self._first_column(count)
        west = self._column_west(count, checked_cols)
        west = np.where(west == 180.0, -180.0, west)
        is_last = checked_cols == first + count - 1
        east = self._column_west(count, np.where(is_last, first, checked_cols + 1))
        east = np.where(is_last & (2 * first == -count), 180.0, east)
        return west, self._row_south(checked_rows), east, self._row_north(checked_rows)

    def centre(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return (lon, lat) of the middle of the footprints, in degrees."""
        west, south, east, north = self.footprint(rows, cols)
        lon = (west + np.where(east < west, east + 360.0, east)) / 2
        return wrap_lons(lon), (south + north) / 2

    def utm_epsg(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> Ints:
        """Return the EPSG codes of the UTM zones of the south-west corners, as officially."""
        return utm_epsg(*self.corner(rows, cols))

    def cells_in(self, bounds: Bounds) -> tuple[Ints, Ints]:
        """Return (rows, cols) of the cells that overlap the box, from the south-west on.

        Cells that only touch the box are left out, so that a cell's own footprint gives that
        cell alone. A box without width or height gives the cells that hold it.
        Parts of the box beyond the grid's southern or northern limit are ignored.
        """
        rows = self._rows_between(bounds.south, bounds.north)
        start, count = self._columns_between(rows, bounds.west, bounds.east)
        first, in_row = self.columns(rows)
        each_row, offset = self._expand(rows, count)
        cols = np.repeat(start, count) + offset
        beyond = cols >= np.repeat(first + in_row, count)
        return each_row, np.where(beyond, cols - np.repeat(in_row, count), cols)

    def all_cells(self) -> Iterator[tuple[int, Ints]]:
        """Yield (row, cols) for each row from the south on; memory for one row at a time."""
        for row in range(self.first_row, self.last_row + 1):
            first, count = self.columns(row)
            yield row, np.arange(int(first), int(first + count), dtype=np.int32)

    def enumerate_cells(self, bounds: Bounds | None = None) -> tuple[Ints, Ints, Floats, Floats]:
        """Return (rows, cols, sw_lon, sw_lat) of all cells, or of those that overlap a box.

        Raises InputError if there are more than ``MAX_ENUMERATED``; ``all_cells`` has no limit.
        """
        if bounds is not None:
            rows, cols = self.cells_in(bounds)
            return rows, cols, *self.corner(rows, cols)
        each = self._all_rows()
        first, count = self.columns(each)
        rows, offset = self._expand(each, count)
        cols = np.repeat(first, count) + offset
        lat = np.repeat(self._row_south(each), count)
        return rows, cols, self._column_west(np.repeat(count, count), cols), lat

    @cached_property
    def _rows_pole_to_pole(self) -> int:
        return math.ceil(math.pi * EARTH_RADIUS_KM / self.distance_km)

    @property
    def _rows_to_max_latitude(self) -> int:
        return int(MAX_LATITUDE * self._rows_pole_to_pole / 180)

    def _all_rows(self) -> Ints:
        return np.arange(self.first_row, self.last_row + 1, dtype=np.int32)

    def _row_south(self, rows: npt.ArrayLike) -> Floats:
        """Return the southern edges of rows: row * 180 / N, rounded as the official code does."""
        total = self._rows_pole_to_pole
        rows = np.asarray(rows)
        steps = np.where(rows < 0, rows + total, rows)
        return _turned(steps * (180.0 / total) - 90.0, 180.0)

    def _row_north(self, rows: npt.ArrayLike) -> Floats:
        north = self._row_south(np.asarray(rows) + 1)
        # Beyond the pole the edges start again in the south.
        return np.where(north > self._row_south(rows), north, 90.0)

    def _row_at(self, lat: Floats) -> Ints:
        """Return the row of each latitude; the first or last one beyond the grid's limits."""
        near = np.ceil(lat / (180.0 / self._rows_pole_to_pole)) - 1
        rows = np.clip(near, self.first_row, self.last_row).astype(np.int32)
        # The division may round across an edge; the edges themselves decide.
        rows = rows + (lat > self._row_north(rows)) - (lat <= self._row_south(rows))
        return np.asarray(np.clip(rows, self.first_row, self.last_row), np.int32)

    def _count(self, rows: Ints) -> Ints:
        radius = EARTH_RADIUS_KM * np.cos(self._row_south(rows) * math.pi / 180)
        return np.asarray(np.ceil(2 * math.pi * radius / self.distance_km), np.int32)

    def _first_column(self, count: Ints) -> Ints:
        """Return the first column of rows with so many columns.

        Column -count/2 of an even row begins at -180. In some rows the official code's rounding
        puts that edge at +180, and the column becomes the last one, +count/2.
        """
        half = count // 2
        moved = (count % 2 == 0) & (self._column_west(count, half) == 180.0)
        return np.where(moved, 1 - half, -half).astype(np.int32)

    def _column_west(self, count: Ints, cols: npt.ArrayLike) -> Floats:
        """Return the western edges of columns: col * 360 / count, rounded as officially."""
        cols = np.asarray(cols)
        steps = np.where(cols < 0, cols + count, cols)
        return _turned(steps * (360.0 / count) - 180.0, 360.0)

    def _column_at(self, rows: Ints, lon: Floats) -> Ints:
        """Return the column of each longitude (within ±180) in existing rows."""
        count = self._count(rows)
        first = self._first_column(count)
        last = first + count - 1
        cols = np.clip(np.ceil(lon * count / 360.0) - 1, first, last).astype(np.int32)
        # The product may round across an edge; the edges themselves decide.
        cols = cols + ((cols < last) & (lon > self._column_west(count, cols + 1)))
        cols = cols - (lon <= self._column_west(count, cols))
        return np.where(cols < first, last, cols).astype(np.int32)

    def _rows_between(self, south: float, north: float) -> Ints:
        low, high = south + TOUCH_DEGREES, north - TOUCH_DEGREES
        if low > high:
            low = high = (south + north) / 2
        if high <= self.south_limit or low > self.north_limit:
            return np.empty(0, np.int32)
        bottom, top = self._row_at(np.array([low, high]))
        return np.arange(bottom, top + 1, dtype=np.int32)

    def _columns_between(self, rows: Ints, west: float, east: float) -> tuple[Ints, Ints]:
        """Return the first column from ``west`` eastward, and how many there are to ``east``."""
        width = east - west if east >= west else east - west + 360.0
        inset = min(TOUCH_DEGREES, width / 2)
        ends = wrap_lons(np.array([west + inset, west + width - inset]))
        start, end = self._column_at(rows, ends[0]), self._column_at(rows, ends[1])
        in_row = self._count(rows)
        all_round = (start == end) & (width > 180.0)
        return start, np.where(all_round, in_row, (end - start) % in_row + 1).astype(np.int32)

    def _expand(self, rows: Ints, count: Ints) -> tuple[Ints, Ints]:
        """Repeat each row ``count`` times, and count from 0 within each row."""
        total = int(count.sum(dtype=np.int64))
        if total > MAX_ENUMERATED:
            raise InputError(
                f"{total:,} cells of {self.distance_km:g} km are more than the {MAX_ENUMERATED:,} "
                "that fit into memory at once. Give a smaller box or a larger grid distance."
            )
        before = np.repeat(np.cumsum(count) - count, count)
        return np.repeat(rows, count), (np.arange(total) - before).astype(np.int32)

    def _existing_rows(self, rows: npt.ArrayLike) -> Ints:
        given = _integers(rows)
        bad = (given < self.first_row) | (given > self.last_row)
        if bad.any():
            raise InputError(
                f"The {self.distance_km:g} km grid has rows {self.first_row} to {self.last_row}; "
                f"there is no row {given[bad].ravel()[:_SHOWN].tolist()}."
            )
        return given.astype(np.int32)

    def _existing(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> tuple[Ints, Ints]:
        given_rows, given_cols = np.broadcast_arrays(self._existing_rows(rows), _integers(cols))
        first, count = self.columns(given_rows)
        bad = (given_cols < first) | (given_cols >= first + count)
        if bad.any():
            row, col = int(given_rows[bad][0]), int(given_cols[bad][0])
            first, count = self.columns(row)
            raise InputError(
                f"{int(bad.sum())} of {bad.size} cells do not exist on the {self.distance_km:g} "
                f"km grid, first row {row}, column {col}: that row has columns {int(first)} to "
                f"{int(first + count - 1)}. Was the name made at another grid distance?"
            )
        return given_rows, given_cols.astype(np.int32)


def _turned(edges: Floats, span: float) -> Floats:
    """Turn edges in ±span/2 by half of it, so that an edge at -span/2 comes to lie on 0."""
    return np.asarray(np.mod(edges, span) - span / 2)


def _integers(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    given = np.asarray(values)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"Rows and columns are integers, not {given.dtype}: {given.ravel()[:3]}.")
    return given.astype(np.int64)


def _labels(values: Ints, positive: str, negative: str) -> npt.NDArray[np.str_]:
    """Return "5U" for 5 and "5D" for -5."""
    distinct, back = np.unique(values, return_inverse=True)
    labels = [f"{abs(v)}{negative if v < 0 else positive}" for v in distinct.tolist()]
    return np.array(labels, dtype=np.str_)[back].reshape(values.shape)


def _signed(label: str, positive: str) -> int:
    number = int(label[:-1])
    return number if label.endswith(positive) else -number
