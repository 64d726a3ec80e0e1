"""Clicks of a user on a map of change: which pixels were labelled, and as what."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.probe.label_classes import FieldOptions
from embeddings.probe.label_raster import LabelRaster
from embeddings.probe.labels import Drop, Kind, LabelLayer, LabelOptions, read_labels
from embeddings.sources.grids import TargetGrid

CHANGE, NO_CHANGE = "change", "no change"
YES = frozenset(("yes", "y", "1", "true", "t", "change", "changed"))
NO = frozenset(
    ("no", "n", "0", "false", "f", "nochange", "notchanged", "unchanged", "stable", "none")
)
"""What changed and unchanged places may be called, in any case and with any spaces."""
MOST_PIXELS = 200
"""Of one label, drawn evenly from all over it, so that no polygon outweighs all others."""
MOST_KINDS = 250
"""More values than these in a field are no kinds of change, but numbers of something else."""
CANDIDATES = 65_536
"""Pixels of a polygon's box that are looked at."""

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clicks:
    """Labelled pixels of a grid, each once; all arrays ``(n,) int64``.

    ``code`` is the position in ``classes``, the last of which is `NO_CHANGE` where such places
    were labelled. ``label`` is the feature that a pixel belongs to, counted from 0.
    """

    row: Ints
    col: Ints
    code: Ints
    label: Ints
    classes: tuple[str, ...]
    told: dict[str, Any]
    """File, field, how many labels, and how many of them could not be used and why."""
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Which pixels were labelled as any change."""
        return np.array([name != NO_CHANGE for name in self.classes])[self.code]

    @property
    def two_sided(self) -> bool:
        """Whether there are places that changed and places that did not."""
        return bool(self.changed.any() and not self.changed.all())

    @property
    def kinds(self) -> bool:
        """Whether kinds of change are told apart."""
        return any(name not in (CHANGE, NO_CHANGE) for name in self.classes)

    def lonlat(self, grid: TargetGrid) -> tuple[Doubles, Doubles]:
        """Return the degrees of the middle of each pixel."""
        col, row = (each.astype(np.float64) + 0.5 for each in (self.col, self.row))
        lon, lat = grid.xy(col, row)
        return lon, lat

    def take(self, keep: NDArray[np.bool_]) -> Clicks:
        """Return those pixels alone; what has no pixel any more is told as without data."""
        lost = len(np.unique(self.label)) - len(np.unique(self.label[keep]))
        told = {**self.told, "used": self.told["used"] - lost, "without_data": lost}
        told["pixels"] = int(keep.sum())
        row, col, code, label = (each[keep] for each in (self.row, self.col, self.code, self.label))
        return Clicks(row, col, code, label, self.classes, told, self.notes)


def read_clicks(path: Path, field: str | None, grid: TargetGrid) -> Clicks:
    """Put labels on the pixels of a grid. Raises SourceError, InputError or one of its kinds."""
    values = FieldOptions(task="classes", merge_classes=True)
    labels = read_labels(path, LabelOptions(field=field, values=values))
    if isinstance(labels, LabelRaster):
        raise InputError(
            f"'{path}' is a raster. Clicks are points or polygons: turn its pixels into such "
            "(gdal_polygonize), or draw some."
        )
    codes, classes, notes = meant(path, str(field), labels.targets.classes)
    code = np.full(len(labels), -1, np.int64)
    code[labels.targets.feature] = np.array(codes)[labels.targets.code]
    usable = np.flatnonzero((labels.drop < 0) & (code >= 0))
    pixels = _pixels(labels, usable, grid)
    label = np.repeat(usable, [len(each) for each in pixels])
    row, col = np.concatenate([np.empty((0, 2), np.int64), *pixels]).T
    keep, torn = _once(row * grid.width + col, code[label])
    if torn:
        notes += (f"{torn:,} pixels were labelled as different things, and left out.",)
    used = len(np.unique(label[keep]))
    told = {
        "file": path.name,
        "field": field,
        "labels": len(labels),
        "used": used,
        "covered": len(np.unique(label)) - used,
        "outside": sum(not len(each) for each in pixels),
        "without_data": 0,
        "unusable": _unusable(labels),
        "pixels": len(keep),
    }
    if not len(keep) and torn:
        raise InputError(
            f"All {torn:,} pixels that '{path}' labels are labelled as different things. Correct "
            "the labels that lie over each other."
        )
    if not len(keep):
        raise InputError(
            f"None of the {len(labels):,} labels of '{path}' lies on what is compared. Check that "
            "they show the same place."
        )
    found = row[keep], col[keep], code[label[keep]], label[keep]
    return Clicks(*found, classes, told, (*labels.notes, *notes))


def _unusable(labels: LabelLayer) -> dict[str, int]:
    """Count the labels that cannot be used, by the reason."""
    many = {drop.value: int((labels.drop == number).sum()) for number, drop in enumerate(Drop)}
    return {reason: count for reason, count in many.items() if count}


def meant(
    path: Path, field: str, names: tuple[str, ...]
) -> tuple[list[int], tuple[str, ...], tuple[str, ...]]:
    """Return which class each name of a field means, the classes, and what to note.

    Raises InputError if all are one kind of change.
    """
    words = [_folded(name) for name in names]
    if set(words) <= YES | NO:
        classes: tuple[str, ...] = (CHANGE, NO_CHANGE)
        return [int(word in NO) for word in words], classes, ()
    _check_words(path, field, names, words)
    kinds = [name for name, word in zip(names, words, strict=True) if word not in NO]
    calm = [name for name in names if name not in kinds]
    classes = (*kinds, NO_CHANGE) if calm else tuple(kinds)
    meant = [kinds.index(name) if name in kinds else len(kinds) for name in names]
    if len(classes) < 2:
        raise InputError(
            f"All labels of '{path}' are '{kinds[0]}' in '{field}': there is nothing to tell it "
            "from. Label another kind of change, or places that did not change as 'no change'."
        )
    notes = (f"{_listed(calm)} of '{field}' was taken for no change.",)
    return meant, classes, notes if calm and calm != [NO_CHANGE] else ()


def _check_words(path: Path, field: str, names: tuple[str, ...], words: list[str]) -> None:
    """Raise InputError if a field says both that places changed and how, or something else."""
    # A number is a code: 1 is as good a kind as 2.
    plain = [name for name, word in zip(names, words, strict=True) if word in YES - {"1"}]
    if plain:
        raise InputError(
            f"Field '{field}' of '{path}' holds {_listed(plain)} beside kinds of change, so it is "
            "not known of what kind those are. Name their kind, or only yes and no for all."
        )
    if len(names) > MOST_KINDS:
        raise InputError(
            f"Field '{field}' of '{path}' holds {len(names):,} different values; there may be "
            f"{MOST_KINDS} kinds of change. Is it the field that was meant?"
        )


def _folded(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in plain if letter not in "-_" and not letter.isspace())


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _pixels(labels: LabelLayer, usable: Ints, grid: TargetGrid) -> list[Ints]:
    """Return rows and columns ``(k, 2)`` of the pixels of each label; none for one outside."""
    way = pyproj.Transformer.from_crs(labels.crs, grid.crs, always_xy=True)

    def placed(xy: Doubles) -> Doubles:
        return np.stack(grid.pixels(*way.transform(xy[:, 0], xy[:, 1])), axis=1)

    shapes = shapely.transform(labels.geometry[usable], placed)
    kinds = list(Kind)
    return [
        _of_shape(shape, kinds[kind], grid)
        for shape, kind in zip(shapes, labels.kind[usable], strict=True)
    ]


def _of_shape(shape: Any, kind: Kind, grid: TargetGrid) -> Ints:
    """Return rows and columns ``(k, 2)`` of a shape in pixel coordinates, x the column."""
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        return np.empty((0, 2), np.int64)
    if kind is Kind.POLYGON:
        places = _within(shape, grid)
    elif kind is Kind.LINE:
        step = max(0.5, shapely.length(shape) / (4 * MOST_PIXELS))
        places = shapely.get_coordinates(shapely.segmentize(shape, step))
    else:
        places = shapely.get_coordinates(shape)
    found = np.floor(places[:, ::-1]).astype(np.int64)
    found = found[((found >= 0) & (found < (grid.height, grid.width))).all(axis=1)]
    found = np.unique(found, axis=0)
    if len(found) <= MOST_PIXELS:
        return found
    # At random, for every so manieth pixel of a box may lie in one column of it.
    drawn = np.random.default_rng(0).choice(len(found), MOST_PIXELS, replace=False)
    return np.asarray(found[np.sort(drawn)])


def _within(shape: Any, grid: TargetGrid) -> Doubles:
    """Return middles ``(k, 2)`` of pixels in a polygon, or the pixel it lies in if it is small."""
    left, top, right, bottom = shapely.bounds(shape)
    left, right = np.clip((np.floor(left), np.ceil(right)), 0, grid.width)
    top, bottom = np.clip((np.floor(top), np.ceil(bottom)), 0, grid.height)
    every = max(1, int(np.ceil(np.sqrt((right - left) * (bottom - top) / CANDIDATES))))
    cols = np.arange(left + every // 2, right, every) + 0.5
    rows = np.arange(top + every // 2, bottom, every) + 0.5
    x, y = (axis.ravel() for axis in np.meshgrid(cols, rows))
    shapely.prepare(shape)
    inside = shapely.contains_xy(shape, x, y)
    if inside.any():
        return np.stack([x[inside], y[inside]], axis=1)
    return np.asarray(shapely.get_coordinates(shapely.point_on_surface(shape)))


def _once(pixel: Ints, code: Ints) -> tuple[Ints, int]:
    """Return the positions of pixels, each once, without those of two codes; and their number."""
    order = np.lexsort((np.arange(len(pixel)), pixel))
    _, first, member = np.unique(pixel[order], return_index=True, return_inverse=True)
    low, high = np.full(len(first), np.iinfo(np.int64).max), np.full(len(first), -1)
    np.minimum.at(low, member, code[order])
    np.maximum.at(high, member, code[order])
    return np.sort(order[first[low == high]]), int((low < high).sum())
