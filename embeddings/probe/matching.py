"""Which label meets which chip: points in footprints, centres in polygons, shares, lengths.

Polygons and lines stay in the CRS of their file, where their edges are what was drawn; chips are
brought there. Points are brought into degrees, where footprints are. Each matcher is asked block
by block, so that the memory taken does not grow with the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.places import wrap_lons
from embeddings.probe.chip_blocks import NO_TIME, ChipBlock
from embeddings.probe.label_places import moved, to_degrees, turns
from embeddings.probe.pieces import in_pieces
from embeddings.spacing import distances_m

MANY_CORNERS = 64
"""Polygons with more corners are prepared: looked up faster, for more memory."""
NO_ROW = np.iinfo(np.int64).max
SAME_PLACE_M = 1e-3

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Chips and the labels they meet, ``(m,)`` each: row, label, weight.

    The weight is 1 for a point or a centre, the share of the chip's area for the rule share, and
    metres or degrees of length for lines.
    """

    row: Rows
    label: Rows
    weight: Floats

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """Return the pairs of all parts."""
        return cls(
            np.concatenate([np.empty(0, np.int64), *(p.row for p in parts)]),
            np.concatenate([np.empty(0, np.int64), *(p.label for p in parts)]),
            np.concatenate([np.empty(0), *(p.weight for p in parts)]),
        )

    def take(self, keep: NDArray[Any]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.row[keep], self.label[keep], self.weight[keep])


@dataclass(frozen=True, eq=False)
class Dates:
    """Times of labels ``(n,)``, and how far a chip's may be from them; microseconds."""

    time: NDArray[np.int64] | None
    tolerance: int
    met: NDArray[np.bool_]
    """``(n,)``: labels that met a chip of whatever time; filled while matching."""

    def gap(self, label: Rows, chip: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time between labels and chips ``(m,)``, 0 where one has none."""
        if self.time is None:
            return np.zeros(len(label), np.int64)
        there = (self.time[label] != NO_TIME) & (chip != NO_TIME)
        return np.where(there, np.abs(np.where(there, self.time[label] - chip, 0)), 0)

    def near(self, label: Rows, chip: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether labels and chips ``(m,)`` are of one time, or one has none; notes who met."""
        self.met[label] = True
        return np.asarray(self.gap(label, chip) <= self.tolerance)


class Shapes:
    """The footprints of a block, in degrees and in the CRS of the labels."""

    def __init__(self, block: ChipBlock, way: pyproj.Transformer | None) -> None:
        self.block = block
        self._way = way

    @cached_property
    def degrees(self) -> NDArray[Any]:
        """In degrees, cut at ±180."""
        return self.block.footprints()

    @cached_property
    def moved(self) -> NDArray[Any]:
        """In the CRS of the labels; None where it has no place for them."""
        if self._way is None:
            return self.degrees
        xy, index = shapely.get_coordinates(self.degrees, return_index=True)
        x, y = moved(self._way, xy[:, 0], xy[:, 1])
        bad = np.unique(index[~(np.isfinite(x) & np.isfinite(y))])
        there = np.isfinite(x) & np.isfinite(y)
        xy = np.stack([np.where(there, x, 0.0), np.where(there, y, 0.0)], axis=1)
        shapes = shapely.set_coordinates(self.degrees.copy(), xy)
        shapes[bad] = None
        shapes[~shapely.is_valid(shapes)] = None
        return np.asarray(shapes, dtype=object)

    @cached_property
    def centres(self) -> tuple[Floats, Floats]:
        """X and y of the centres in the CRS of the labels."""
        return moved(self._way, self.block.lon, self.block.lat)


class Matcher(Protocol):
    """Finds the labels of one kind that meet chips."""

    def meet(self, shapes: Shapes) -> Iterator[Pairs]:
        """Yield what meets a block of chips."""

    def rest(self) -> Pairs:
        """Return what is known only when all blocks were seen."""


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Points and chips that hold them ``(m,)``; ``centre (m, 2)`` of the chips in degrees."""

    point: Rows
    away: Floats
    gap: Rows
    row: Rows
    centre: Floats

    def take(self, at: Rows) -> _Candidates:
        """Return some of them."""
        return _Candidates(
            self.point[at], self.away[at], self.gap[at], self.row[at], self.centre[at]
        )


class PointsInChips:
    """Each point meets the chip whose footprint holds it; of several, the nearest centre's.

    Then the one nearest in time, then the first row, as a search does.
    """

    def __init__(self, lon: Floats, lat: Floats, label: Rows, dates: Dates) -> None:
        """Take places ``(p,)`` in degrees and the labels they belong to."""
        self._lon, self._lat = wrap_lons(lon), lat
        self._label = label
        self._dates = dates
        self._tree = shapely.STRtree(shapely.points(self._lon, self._lat))
        self._away = np.full(len(lon), np.inf)
        self._gap = np.full(len(lon), np.iinfo(np.int64).max)
        self._row = np.full(len(lon), NO_ROW)
        self._centre = np.full((len(lon), 2), np.nan)
        self.tied = np.zeros(len(lon), bool)
        """Points that lie in several chips with one centre."""

    def meet(self, shapes: Shapes) -> Iterator[Pairs]:
        """Remember the nearest chip of each point."""
        block = shapes.block
        chip, point = self._tree.query(shapes.degrees, predicate="intersects")
        near = self._dates.near(self._label[point], block.time[chip])
        chip, point = chip[near], point[near]
        away = distances_m(self._lon[point], self._lat[point], block.lon[chip], block.lat[chip])
        away = np.round(away / SAME_PLACE_M) * SAME_PLACE_M
        gap = self._dates.gap(self._label[point], block.time[chip])
        row = block.rows[chip]
        order = np.lexsort((row, gap, away, point))
        found = _Candidates(
            point[order],
            away[order],
            gap[order],
            row[order],
            np.stack([block.lon[chip], block.lat[chip]], axis=1)[order],
        )
        first = np.flatnonzero(np.diff(found.point, prepend=-1))
        self._keep(found.take(first))
        # What follows the first of a point may be as near in place and time.
        others = np.flatnonzero(np.diff(found.point, prepend=-1) == 0)
        self._tie(found.take(others))
        yield from ()

    def _keep(self, found: _Candidates) -> None:
        """Take what is nearer than what was known; blocks come in the order of their rows."""
        self._tie(found)
        at = found.point
        better = (found.away < self._away[at]) | (
            (found.away == self._away[at]) & (found.gap < self._gap[at])
        )
        found = found.take(np.flatnonzero(better))
        at = found.point
        self.tied[at] = False
        self._away[at], self._gap[at], self._row[at] = found.away, found.gap, found.row
        self._centre[at] = found.centre

    def _tie(self, found: _Candidates) -> None:
        """Note the points that have another chip of the very place and time of their first."""
        same = (self._centre[found.point] == found.centre).all(axis=1)
        same &= (self._gap[found.point] == found.gap) & (self._row[found.point] != found.row)
        self.tied[found.point[same]] = True

    def rest(self) -> Pairs:
        """Return the chip of each point that has one."""
        found = np.flatnonzero(self._row != NO_ROW)
        return Pairs(self._row[found], self._label[found], np.ones(len(found)))


class _Planar:
    """Lines or polygons in their own CRS, found by boxes; longitudes may go on beyond ±180."""

    def __init__(self, geometry: NDArray[Any], label: Rows, crs: pyproj.CRS, dates: Dates) -> None:
        """Take geometries ``(g,)`` and the labels they are."""
        self._geometry = geometry
        self._label = label
        self._dates = dates
        self._tree = shapely.STRtree(geometry)
        west, _, east, _ = shapely.total_bounds(geometry)
        self._turns = turns(crs, west, east)
        shapely.prepare(geometry[shapely.get_num_coordinates(geometry) > MANY_CORNERS])

    def _pairs(self, block: ChipBlock, chip: Rows, shape: Rows, weight: Floats) -> Pairs:
        near = self._dates.near(self._label[shape], block.time[chip])
        return Pairs(block.rows[chip[near]], self._label[shape[near]], weight[near])

    def rest(self) -> Pairs:
        """Return nothing: all is known block by block."""
        return Pairs.joined([])


class CentresInPolygons(_Planar):
    """A polygon meets the chips whose centre lies inside."""

    def meet(self, shapes: Shapes) -> Iterator[Pairs]:
        """Yield what meets a block of chips."""
        x, y = shapes.centres
        there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        for turn in self._turns:
            points = shapely.points(x[there] + turn, y[there])
            chip, shape = self._tree.query(points)
            chip = there[chip]
            inside = shapely.contains_xy(self._geometry[shape], x[chip] + turn, y[chip])
            chip, shape = chip[inside], shape[inside]
            yield self._pairs(shapes.block, chip, shape, np.ones(len(chip)))


class _InPieces(_Planar):
    """Geometries that chips are cut with: large ones in pieces."""

    def __init__(self, geometry: NDArray[Any], label: Rows, crs: pyproj.CRS, dates: Dates) -> None:
        """Take what the base takes."""
        super().__init__(geometry, label, crs, dates)
        self._pieces, self._owner = in_pieces(geometry)
        self._tree = shapely.STRtree(self._pieces)
        shapely.prepare(self._pieces[shapely.get_num_coordinates(self._pieces) > MANY_CORNERS])

    def _meeting(self, shapes: Shapes) -> Iterator[tuple[NDArray[Any], Rows, Rows]]:
        """Yield footprints, and pairs of positions in them and in the pieces."""
        for turn in self._turns:
            chips = _shifted(shapes.moved, turn) if turn else shapes.moved
            chip, piece = self._tree.query(chips, predicate="intersects")
            yield chips, chip, piece

    def _summed(self, chip: Rows, piece: Rows, weight: Floats) -> tuple[Rows, Rows, Floats]:
        """Return chips, geometries and what all pieces of one weigh there, where above 0."""
        count = len(self._geometry)
        key, which = np.unique(chip * count + self._owner[piece], return_inverse=True)
        total = np.bincount(which, weight, minlength=len(key)).astype(np.float64)
        chip, shape = np.divmod(key[total > 0], count)
        return chip, shape, total[total > 0]


class SharesOfChips(_InPieces):
    """A polygon meets the chips that it covers in part; the weight is the share of their area.

    Polygons of one class that overlap count once. ``code (n,)`` says which are of one class.
    """

    def __init__(
        self,
        geometry: NDArray[Any],
        label: Rows,
        crs: pyproj.CRS,
        dates: Dates,
        code: Rows,
        min_share: float,
    ) -> None:
        """Take what the base takes, and the class of each label."""
        super().__init__(geometry, label, crs, dates)
        self._code = code
        self._min_share = min_share

    def meet(self, shapes: Shapes) -> Iterator[Pairs]:
        """Yield what meets a block of chips."""
        whole = shapely.area(shapes.moved)
        for chips, chip, piece in self._meeting(shapes):
            share = np.ones(len(chip))
            cut = np.flatnonzero(~shapely.covers(self._pieces[piece], chips[chip]))
            parts = shapely.intersection(self._pieces[piece[cut]], chips[chip[cut]])
            share[cut] = shapely.area(parts) / whole[chip[cut]]
            chip, shape, share = self._summed(chip, piece, share)
            self._count_once(chip, shape, share, chips, whole)
            yield self._pairs(shapes.block, chip, shape, share)

    def _count_once(
        self, chip: Rows, shape: Rows, share: Floats, chips: NDArray[Any], whole: Floats
    ) -> None:
        """Lower the shares where several polygons of a class overlap, and it matters."""
        code = self._code[self._label[shape]]
        _, kin = np.unique(np.stack([chip, code], axis=1), axis=0, return_inverse=True)
        kin = kin.reshape(-1)
        total = np.bincount(kin, share)
        most = np.zeros(len(total))
        np.maximum.at(most, kin, share)
        doubtful = (np.bincount(kin) > 1) & (total >= self._min_share) & (most < self._min_share)
        order = np.argsort(kin, kind="stable")
        ends = np.append(0, np.cumsum(np.bincount(kin)))
        for each in np.flatnonzero(doubtful):
            at = order[ends[each] : ends[each + 1]]
            here = chips[chip[at[0]]]
            covered = shapely.union_all(shapely.intersection(self._geometry[shape[at]], here))
            share[at] *= covered.area / whole[chip[at[0]]] / total[each]


class LinesInChips(_InPieces):
    """A line meets the chips that it crosses; the weight is its length there."""

    def meet(self, shapes: Shapes) -> Iterator[Pairs]:
        """Yield what meets a block of chips."""
        for chips, chip, piece in self._meeting(shapes):
            length = shapely.length(shapely.intersection(self._pieces[piece], chips[chip]))
            yield self._pairs(shapes.block, *self._summed(chip, piece, length))


def _shifted(shapes: NDArray[Any], turn: float) -> NDArray[Any]:
    move = np.array([turn, 0.0])
    return np.asarray(shapely.transform(shapes, lambda xy: xy + move), dtype=object)


def points_of(geometry: NDArray[Any], crs: pyproj.CRS) -> tuple[Floats, Floats, Rows]:
    """Return the places ``(p,)`` in degrees of points and multipoints, and whose they are."""
    xy, index = shapely.get_coordinates(geometry, return_index=True)
    lon, lat = moved(to_degrees(crs), xy[:, 0], xy[:, 1])
    there = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90) & (np.abs(lon) <= 540)
    return lon[there], lat[there], index[there].astype(np.int64)
