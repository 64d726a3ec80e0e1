"""Pixels of change that touch become objects: polygons with area, scores and dates.

The raster is labelled strip by strip, and labels that meet at the edge of two strips are one, so
memory does not grow with the raster. Pixels that touch at a corner are of one object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from embeddings.atomic import atomic_path
from embeddings.change.raster_scores import ScoreRaster, areas_of, pixel_m2
from embeddings.change.styles import STRENGTHS
from embeddings.probe.layer_file import write_layer
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.predict_raster import mapped
from embeddings.probe.predict_style import UNKNOWN_COLOUR, category_qml, colours, range_qml
from embeddings.sources.footprints import polygons
from embeddings.sources.grids import TargetGrid

LAYER = "changes"
TOUCHING = np.ones((3, 3), dtype=int)

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Least:
    """The smallest object."""

    pixels: int = 1
    m2: float = 0.0

    @property
    def text(self) -> str:
        """It in words."""
        return f"{self.m2:,.0f} m2" if self.m2 else f"{self.pixels:,} pixels"


@dataclass(frozen=True)
class ChangeObjects:
    """Objects by area, the largest first; all arrays ``(n,)``."""

    pixels: Ints
    area_m2: Doubles
    mean_score: Doubles
    max_score: Doubles
    box: Ints
    """``(n, 4)``: first row, first column, and those after the last"""
    labels: NDArray[np.int32]
    """``(rows, cols)``, 0 is no object, i + 1 is object i; valid as long as it is lent"""
    kind: tuple[str, ...] | None = None
    """The kind of change of most of its pixels, where kinds are known."""
    kind_share: Doubles | None = None
    """Of its pixels."""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass
class _Pieces:
    """What is known of the pieces of objects that strips were cut into."""

    pixels: list[Ints]
    area: list[Any]
    total: list[Any]
    top: list[Any]
    box: list[Any]
    count: int = 0

    def add(self, strip: NDArray[Any], n: int, score: Any, size: Any, first_row: int) -> None:
        where = strip > 0
        at = strip[where] - 1
        values = score[where].astype(np.float64)
        self.pixels.append(np.bincount(at, minlength=n))
        self.area.append(np.bincount(at, weights=size[where], minlength=n))
        self.total.append(np.bincount(at, weights=values, minlength=n))
        self.top.append(np.asarray(ndimage.maximum(score, strip, np.arange(1, n + 1)), np.float64))
        boxes = [
            (first_row + r.start, c.start, first_row + r.stop, c.stop)
            for r, c in ndimage.find_objects(strip)
        ]
        self.box.append(np.array(boxes, np.int64))
        self.count += n


def find_objects(
    raster: ScoreRaster, threshold: float, least: Least, labels: NDArray[np.int32]
) -> ChangeObjects:
    """Find what reaches the threshold and is large enough; fills ``labels`` (zeros) with it."""
    pieces = _Pieces([], [], [], [], [])
    joins: list[Ints] = []
    areas = areas_of(raster.grid)
    for rows in raster.strips():
        score = np.asarray(raster.score[rows])
        strip, n = ndimage.label(raster.changed(rows, threshold), TOUCHING)
        if n:
            size = np.broadcast_to(pixel_m2(areas, rows, raster.grid.width), score.shape)
            first = pieces.count
            pieces.add(strip, n, score, size, rows.start)
            strip = np.where(strip > 0, strip + first, 0)
        labels[rows] = strip
        if rows.start:
            joins.append(_meetings(labels[rows.start - 1], labels[rows.start]))
    found = _joined(pieces, joins, least)
    if found is None:
        labels[:] = 0
        none = np.zeros(0)
        return ChangeObjects(none.astype(int), none, none, none, np.zeros((0, 4), np.int64), labels)
    new_label, (pixels, area, mean, top, box) = found
    for rows in raster.strips():
        labels[rows] = new_label[labels[rows]]
    return ChangeObjects(pixels, area, mean, top, box, labels)


def with_kinds(
    found: ChangeObjects, raster: ScoreRaster, legend: Mapping[str, int]
) -> ChangeObjects:
    """Return the objects with the kind that most of their pixels are of."""
    assert raster.kinds is not None
    counts = np.zeros((len(found), len(legend)), np.int64)
    place = np.zeros(256, np.int64)
    place[list(legend.values())] = np.arange(len(legend))
    for rows in raster.strips():
        labels = np.asarray(found.labels[rows])
        where = labels > 0
        at = (labels[where] - 1) * len(legend) + place[raster.kinds[rows][where]]
        counts += np.bincount(at, minlength=counts.size).reshape(counts.shape)
    most = counts.argmax(axis=1)
    share = counts.max(axis=1, initial=0) / np.maximum(found.pixels, 1)
    names = list(legend)
    return replace(found, kind=tuple(names[i] for i in most.tolist()), kind_share=share)


def _meetings(above: Any, below: Any) -> Ints:
    """Return pairs ``(n, 2)`` of labels that touch across the edge of two strips."""
    pairs = []
    for step in (-1, 0, 1):
        one = above[max(0, step) : len(above) + min(0, step)]
        two = below[max(0, -step) : len(below) + min(0, -step)]
        both = (one > 0) & (two > 0)
        pairs.append(np.stack([one[both], two[both]], axis=1).astype(np.int64))
    return np.unique(np.concatenate(pairs), axis=0)


def _joined(pieces: _Pieces, joins: list[Ints], least: Least) -> Any:
    """Join pieces to objects; return the new label of each piece, and what is known of objects."""
    if not pieces.count:
        return None
    edges = np.concatenate([np.zeros((0, 2), np.int64), *joins]) - 1
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(pieces.count,) * 2)
    n, of = connected_components(graph, directed=False)
    pixels, area, total = (
        np.bincount(of, weights=np.concatenate(each), minlength=n)
        for each in (pieces.pixels, pieces.area, pieces.total)
    )
    top = np.full(n, -np.inf)
    np.maximum.at(top, of, np.concatenate(pieces.top))
    parts = np.concatenate(pieces.box)
    box = np.concatenate([np.full((n, 2), 2**40), np.zeros((n, 2), np.int64)], axis=1)
    np.minimum.at(box[:, :2], of, parts[:, :2])
    np.maximum.at(box[:, 2:], of, parts[:, 2:])
    kept = np.flatnonzero((area >= least.m2) & (pixels >= least.pixels))
    # Equal areas lie in the order of their places, so that a file does not depend on chance.
    kept = kept[np.lexsort((box[kept, 1], box[kept, 0], -area[kept]))]
    number = np.zeros(n, np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    new_label = np.concatenate([[0], number[of]]).astype(np.int32)
    known = (pixels[kept].astype(int), area[kept], (total / pixels)[kept], top[kept], box[kept])
    return new_label, known


def write_objects(
    path: Path,
    found: ChangeObjects,
    grid: TargetGrid,
    threshold: float,
    dates: tuple[str | None, str | None],
    said: Mapping[str, Any],
    legend: Sequence[str] = (),
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write a GeoPackage with a style, a MultiPolygon an object, in degrees. Raises StoreError.

    ``legend``: the kinds that objects may be of, in the order of their colours. ``check`` is
    called before each object and may raise.
    """
    outlines = []
    for number in range(len(found)):
        check()
        outlines.append(_outline(found, number, grid))
    geometry = pa.array(shapely.to_wkb(outlines, byte_order=1).tolist(), pa.binary())
    table = pa.table({**_columns(found, dates), "geometry": geometry})
    style = _style(found, threshold, legend)
    with atomic_path(path, IF_FULL) as temporary:
        write_layer(temporary, LAYER, table, said, qml=style, multi=True)


def _columns(found: ChangeObjects, dates: tuple[str | None, str | None]) -> dict[str, Any]:
    many = len(found)
    columns = {
        "object": pa.array(range(1, many + 1), pa.int64()),
        "area_m2": np.round(found.area_m2, 1),
        "pixels": found.pixels,
        "mean_score": np.round(found.mean_score, 4),
        "max_score": np.round(found.max_score, 4),
        "date_before": pa.array([dates[0]] * many, pa.string()),
        "date_after": pa.array([dates[1]] * many, pa.string()),
    }
    if found.kind is not None and found.kind_share is not None:
        columns["kind"] = pa.array(found.kind, pa.string())
        columns["kind_share"] = np.round(found.kind_share, 4)
    return columns


def _style(found: ChangeObjects, threshold: float, legend: Sequence[str]) -> str:
    if legend:
        return category_qml("kind", legend, [*colours(len(legend) - 1), UNKNOWN_COLOUR])
    low = threshold if len(found) else 0.0
    high = float(np.quantile(found.mean_score, 0.95)) if len(found) else 1.0
    return range_qml("mean_score", low, max(high, low + 0.1), STRENGTHS)


def _outline(found: ChangeObjects, number: int, grid: TargetGrid) -> Any:
    """Return the edges of an object's pixels as a polygon in degrees."""
    top, left, bottom, right = found.box[number].tolist()
    inside = np.asarray(found.labels[top:bottom, left:right]) == number + 1
    parts = [
        shapely.geometry.shape(shape)
        for shape, _ in shapes(inside.astype(np.uint8), mask=inside, transform=Affine.identity())
    ]
    placed = [_placed(part, grid, top, left) for part in parts]
    return placed[0] if len(placed) == 1 else shapely.union_all(placed)


def _placed(part: Any, grid: TargetGrid, top: int, left: int) -> Any:
    rings = [_degrees(ring, grid, top, left) for ring in (part.exterior, *part.interiors)]
    holes = shapely.union_all(rings[1:]) if len(rings) > 1 else None
    return rings[0] if holes is None else shapely.difference(rings[0], holes)


def _degrees(ring: Any, grid: TargetGrid, top: int, left: int) -> Any:
    at = shapely.get_coordinates(ring)[:-1]
    lon, lat = grid.xy(at[:, 0] + left, at[:, 1] + top)
    return polygons(lon[None], lat[None])[0][0]


def lent_labels(folder: Path, grid: TargetGrid) -> Any:
    """Lend an array for labels in a file that is never seen."""
    return mapped(folder.absolute(), (grid.height, grid.width), "int32")


def objects_told(found: ChangeObjects, least: Least, most: int = 10) -> dict[str, Any]:
    """Return what a report says of objects: how many, and the largest."""
    return {
        "count": len(found),
        "area_m2": float(found.area_m2.sum()),
        "least": least.text,
        "largest": [
            {
                "object": i + 1,
                "area_m2": round(float(found.area_m2[i]), 1),
                "mean_score": round(float(found.mean_score[i]), 3),
                "max_score": round(float(found.max_score[i]), 3),
                **({} if found.kind is None else {"kind": found.kind[i]}),
            }
            for i in range(min(most, len(found)))
        ],
    }
