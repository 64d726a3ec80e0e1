"""The pixels of a label raster and the chips they lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError, SourceError
from embeddings.probe.chip_blocks import ChipBlock, chip_blocks
from embeddings.probe.label_classes import MOST_CLASSES, Targets, check_largest
from embeddings.probe.label_places import Occupancy
from embeddings.probe.label_raster import LabelRaster
from embeddings.probe.matching import Pairs
from embeddings.probe.raster_matching import look
from embeddings.store.reader import Reader


@dataclass(frozen=True, eq=False)
class RasterMatched:
    """Chips and what a raster says of them; each pair is a label of its own."""

    pairs: Pairs
    targets: Targets
    little: NDArray[np.int64]
    """Rows that no class, or no numbers, cover by the least share."""


def raster_box(raster: LabelRaster) -> tuple[float, float, float, float]:
    """Return west, south, east, north of a raster in degrees; east beyond 180 where it crosses."""
    try:
        west, south, east, north = raster.grid.bounds
    except SourceError:
        # A corner of a map of the whole Earth may lie beyond it.
        return -180.0, -90.0, 180.0, 90.0
    return west, south, east + 360.0 * (east < west), north


def match_raster(
    raster: LabelRaster, reader: Reader, min_share: float | None, tick: Callable[[int], None]
) -> RasterMatched:
    """Look at the pixels under all chips, or at their centres if ``min_share`` is None.

    Raises InputError if there are more classes than can be told apart.
    """
    occupancy = Occupancy.of(np.array([raster_box(raster)]))
    rows, values, shares, little = [], [], [], []
    blocks = _near(reader, occupancy, tick)
    for seen in look(raster, blocks, centre=min_share is None):
        enough = seen.share >= (min_share or 0.0) - 1e-9
        rows.append(seen.row[enough])
        values.append(seen.value[enough])
        shares.append(seen.share[enough])
        little.append(np.setdiff1d(seen.row, seen.row[enough]))
    none = np.empty(0, np.int64)
    row = np.concatenate([none, *rows])
    pairs = Pairs(row, np.arange(len(row)), np.concatenate([np.empty(0), *shares]))
    targets = _targets(raster, np.concatenate([np.empty(0), *values]))
    return RasterMatched(pairs, targets, np.concatenate([none, *little]))


def _near(reader: Reader, occupancy: Occupancy, tick: Callable[[int], None]) -> Iterator[ChipBlock]:
    for block in chip_blocks(reader):
        yield block.take(occupancy.meets(*block.box.T))
        tick(len(block.rows))


def _targets(raster: LabelRaster, values: NDArray[np.float64]) -> Targets:
    count = len(values)
    each, none = np.arange(count), np.zeros(count, bool)
    if raster.task == "number":
        check_largest(f"'{raster.path}'", values)
        return Targets(
            "number", (), each, np.zeros(count, np.int64), values, none, none, raster.why
        )
    found, code = np.unique(values.astype(np.int64), return_inverse=True)
    if len(found) > MOST_CLASSES:
        raise InputError(
            f"'{raster.path}' holds {len(found):,} different values, of which at most "
            f"{MOST_CLASSES} can be told apart as classes. Is it a number (--task number)?"
        )
    classes = tuple(raster.names.get(value, str(value)) for value in found.tolist())
    if raster.task == "positive" and len(classes) > 1:
        raise InputError(
            f"'{raster.path}' holds {len(classes)} classes ({', '.join(classes[:5])}), but for the "
            "task positive all pixels are of one. Set the others to nodata."
        )
    return Targets(raster.task, classes, each, code, None, none, none, raster.why)
