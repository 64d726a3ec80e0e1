"""The labels of a vector layer and the chips they meet, by a rule, in one pass over the chips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.probe.chip_blocks import NO_TIME, chip_blocks
from embeddings.probe.label_places import Occupancy, from_degrees, moved, to_degrees
from embeddings.probe.labels import Drop, Kind, LabelLayer
from embeddings.probe.matching import (
    CentresInPolygons,
    Dates,
    LinesInChips,
    Matcher,
    Pairs,
    PointsInChips,
    Shapes,
    SharesOfChips,
    points_of,
)
from embeddings.probe.resolving import Conflicts, Terms
from embeddings.store.reader import Reader

Rule = Literal["centre", "share", "contains"]
DAY = 86_400 * 1_000_000
"""Microseconds."""
SAMPLED = 200
"""Polygons of which is measured how much of their chip they cover."""
GEOD = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True)
class JoinOptions:
    """How labels are joined to chips; None leaves a choice to the kind of labels.

    ``rule``: "centre" (polygons: chips whose centre lies inside; a raster: the pixel at the
    centre), "share" (polygons and rasters: chips of which a class covers ``min_share``),
    "contains" (as centre; a polygon that holds no centre labels the chip that contains it). Points
    label the chip that contains them, lines the chips they cross, by any rule. ``conflicts``: a
    chip of several classes is dropped, or gets the class of most weight. Labels and chips that
    both have a date must lie at most ``tolerance_days`` apart. ``any_date``: places are labelled,
    whatever the dates of their chips, so that which chip was taken is not worth a note.
    """

    rule: Rule | None = None
    min_share: float = 0.5
    conflicts: Conflicts | None = None
    tolerance_days: float = 30.0
    any_date: bool = False


@dataclass(frozen=True, eq=False)
class Matched:
    """Pairs of chips and labels, and why the other labels have none."""

    pairs: Pairs
    drop: NDArray[np.int8]
    terms: Terms
    notes: tuple[str, ...]


def match_layer(
    layer: LabelLayer,
    reader: Reader,
    rule: Rule,
    options: JoinOptions,
    tick: Callable[[int], None],
) -> Matched:
    """Find the chips of each label that can be used; ``tick`` hears how many chips were seen."""
    dates = Dates(layer.time, int(options.tolerance_days * DAY), np.zeros(len(layer), bool))
    drop = layer.drop.copy()
    kept = drop < 0
    points = _points(layer, kept, dates)
    matchers = [*([points] if points else []), *_planar(layer, kept, rule, options, dates)]
    pairs = _pass(layer, reader, kept, matchers, tick)
    notes = [] if options.any_date else _notes(dates, kept, points)
    alone = kept.copy()
    alone[pairs.label] = False
    small = alone & (layer.kind == _position(Kind.POLYGON)) & ~dates.met
    if rule != "share" and small.any():
        held = _held(layer, reader, small, dates)
        notes += _held_notes(layer, reader, held, rule)
        if rule == "contains":
            pairs = Pairs.joined([pairs, held])
            alone[held.label] = False
        else:
            _mark(drop, held.label, Drop.NO_CENTRE)
    _mark(drop, np.flatnonzero(alone & dates.met & (drop < 0)), Drop.NO_DATE)
    _mark(drop, np.flatnonzero(alone & (drop < 0)), Drop.OUTSIDE)
    pairs, terms = _weighed(layer, pairs, rule, options)
    return Matched(pairs, drop, terms, tuple(notes))


def _weighed(
    layer: LabelLayer, pairs: Pairs, rule: Rule, options: JoinOptions
) -> tuple[Pairs, Terms]:
    """Weigh lines by their share of the length of all in a chip; they go by majority.

    Only polygons are held to the least share: points and lines have no area.
    """
    kind = layer.kind[pairs.label]
    lines = kind == _position(Kind.LINE)
    weight = pairs.weight.copy()
    if lines.any():
        _, chip = np.unique(pairs.row[lines], return_inverse=True)
        weight[lines] /= np.bincount(chip, weight[lines])[chip]
    majority = lines | (options.conflicts == "majority")
    areas = (kind == _position(Kind.POLYGON)) & (rule == "share")
    terms = Terms(np.asarray(majority), np.where(areas, options.min_share, 0.0))
    return Pairs(pairs.row, pairs.label, weight), terms


def _position(kind: Kind) -> int:
    return list(Kind).index(kind)


def _mark(drop: NDArray[np.int8], labels: NDArray[np.int64], reason: Drop) -> None:
    drop[labels] = list(Drop).index(reason)


def _points(layer: LabelLayer, kept: NDArray[np.bool_], dates: Dates) -> PointsInChips | None:
    label = np.flatnonzero(kept & (layer.kind == _position(Kind.POINT)))
    if not len(label):
        return None
    lon, lat, index = points_of(layer.geometry[label], layer.crs)
    return PointsInChips(lon, lat, label[index], dates)


def _planar(
    layer: LabelLayer,
    kept: NDArray[np.bool_],
    rule: Rule,
    options: JoinOptions,
    dates: Dates,
) -> list[Matcher]:
    found: list[Matcher] = []
    lines = np.flatnonzero(kept & (layer.kind == _position(Kind.LINE)))
    if len(lines):
        found.append(LinesInChips(layer.geometry[lines], lines, layer.crs, dates))
    areas = np.flatnonzero(kept & (layer.kind == _position(Kind.POLYGON)))
    if not len(areas):
        return found
    shapes = layer.geometry[areas]
    if rule == "share":
        code = _code(layer)
        matcher = SharesOfChips(shapes, areas, layer.crs, dates, code, options.min_share)
        return [*found, matcher]
    return [*found, CentresInPolygons(shapes, areas, layer.crs, dates)]


def _code(layer: LabelLayer) -> NDArray[np.int64]:
    """Return a number for each label that those of one class have in common."""
    if layer.targets.task == "multilabel":
        return np.arange(len(layer))
    code = np.full(len(layer), -1, np.int64)
    code[layer.targets.feature] = layer.targets.code
    return code


def _pass(
    layer: LabelLayer,
    reader: Reader,
    which: NDArray[np.bool_],
    matchers: list[Matcher],
    tick: Callable[[int], None],
) -> Pairs:
    """Show all chips that some labels may meet to matchers."""
    found: list[Pairs] = []
    if not matchers:
        return Pairs.joined(found)
    occupancy = Occupancy.of(layer.boxes[which])
    way = from_degrees(layer.crs)
    for block in chip_blocks(reader):
        near = block.take(occupancy.meets(*block.box.T))
        if len(near.rows):
            shapes = Shapes(near, way)
            for matcher in matchers:
                found.extend(matcher.meet(shapes))
        tick(len(block.rows))
    return Pairs.joined([*found, *(matcher.rest() for matcher in matchers)])


def _held(layer: LabelLayer, reader: Reader, small: NDArray[np.bool_], dates: Dates) -> Pairs:
    """Return the chip that contains each of some polygons: that holds a point inside it."""
    label = np.flatnonzero(small)
    inner = shapely.point_on_surface(layer.geometry[label])
    lon, lat, index = points_of(inner, layer.crs)
    matcher = PointsInChips(lon, lat, label[index], dates)
    return _pass(layer, reader, small, [matcher], lambda _: None)


def _covered_share(layer: LabelLayer, reader: Reader, held: Pairs) -> float | None:
    """Return the median share of their chip that polygons cover, of a sample of them."""
    if not len(held.row):
        return None
    at = np.linspace(0, len(held.row) - 1, min(SAMPLED, len(held.row))).astype(np.int64)
    chips = shapely.from_wkb(reader.rows(held.row[at])["geometry"].to_pylist())
    own = [_area(layer.geometry[i], layer.crs) for i in held.label[at]]
    whole = [_area(chip, None) for chip in chips]
    return float(np.median(np.array(own) / np.array(whole)))


def _area(shape: Any, crs: pyproj.CRS | None) -> float:
    """Return the area on the ground of a shape in a CRS, or in degrees; square metres."""
    way = None if crs is None else to_degrees(crs)
    xy = shapely.get_coordinates(shape)
    lon, lat = moved(way, xy[:, 0], xy[:, 1])
    placed = shapely.set_coordinates(shapely.from_wkb(shapely.to_wkb(shape)), np.c_[lon, lat])
    return abs(float(GEOD.geometry_area_perimeter(placed)[0]))


def _held_notes(layer: LabelLayer, reader: Reader, held: Pairs, rule: Rule) -> list[str]:
    """Say how much of their chip polygons cover that hold no chip's centre."""
    share = _covered_share(layer, reader, held)
    if share is None:
        return []
    many = f"{len(held.row):,} polygons hold no centre of a chip"
    covered = f"of which they cover {share:.2%} (median)"
    if rule == "contains":
        return [
            f"{many} and label the chip that contains them, {covered}. A vector describes its "
            "whole chip: where the rest is of another class, embed smaller chips."
        ]
    return [
        f"{many}, but lie in chips, {covered}. Embed smaller chips (--chip), or use --rule "
        "contains, by which a polygon labels the chip that contains it."
    ]


def _notes(dates: Dates, kept: NDArray[np.bool_], points: PointsInChips | None) -> list[str]:
    """Say what was chosen where labels or chips have no date."""
    notes = []
    if points is not None and dates.time is None and points.tied.any():
        notes.append(
            f"{int(points.tied.sum()):,} points lie in several chips that have one centre (scenes "
            "of several dates, say); the first was taken. Name the labels' dates with "
            "--date-field to choose by them."
        )
    if dates.time is not None:
        undated = int((dates.time[kept] == NO_TIME).sum())
        if undated:
            notes.append(f"{undated:,} labels have no date and were joined to chips of any time.")
    return notes
