"""Splits of labelled places: spatial folds of whole regions, and random ones beside them.

A spatial fold is left out as whole compact regions, for neighbours resemble each other: a probe
that has seen a chip's neighbour is not tested on that chip (Roberts et al. 2017, "Cross-validation
strategies for data with temporal, spatial, hierarchical, or phylogenetic structure"). One region
a fold tells best what a probe does in a region of that width held out altogether
(tests/bench/probe_quality); blocks dealt singly among folds have what was trained on all around
them and flatter by up to 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.autocorrelation import chord, correlogram, unit_points
from embeddings.analysis.clusters import kmeans
from embeddings.errors import InputError
from embeddings.spacing import EARTH_RADIUS_M

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Split = tuple[Codes, Codes]

LEAST_BLOCKS = 40
"""Blocks are made smaller than the labels' range where fewer than these would remain."""

BUFFER_SHARE = 0.125
"""The buffer in blocks: what is nearer to a region left out is not trained on either."""

LEVELS = 5
"""Equal parts of a number's range that folds are balanced by."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Where samples belong: ``block``, ``region`` and ``fold``, each ``(n,) int64`` from 0.

    Blocks are cells as wide as labels resemble each other; regions are compact sets of blocks;
    a fold is one region, or several where more regions than folds were asked for. Samples of one
    group share all three.
    """

    block: Codes
    region: Codes
    fold: Codes
    block_m: float
    buffer_m: float

    def splits(self, lon: Floats, lat: Floats) -> list[Split]:
        """Return (train, test) rows of each fold, the buffer left out of train."""
        points = unit_points(lon, lat)
        return [_split(points, self.fold == k, self.buffer_m) for k in np.unique(self.fold)]


def block_size(
    lon: Floats,
    lat: Floats,
    target: NDArray[Any],
    *,
    group: Codes | None = None,
    seed: int = 0,
) -> float:
    """Return the width of a block in metres: the range of the labels' own autocorrelation.

    As Valavi et al. (2019, blockCV) take it, but of the labels; see ``correlogram``. Bounded
    from above so that LEAST_BLOCKS blocks hold labels, or half as many as there are label
    features ``group (n,)`` where these are few.
    """
    group = np.arange(len(lon)) if group is None else group
    least = min(LEAST_BLOCKS, max(2, len(np.unique(group)) // 2))
    low, high = 0.0, max(correlogram(lon, lat, target, seed=seed).range_m, 1.0)
    if _count(lon, lat, group, high, seed) >= least:
        return high
    for _ in range(20):
        middle = (low + high) / 2
        if _count(lon, lat, group, middle, seed) >= least:
            low = middle
        else:
            high = middle
    return low or high


def _count(lon: Floats, lat: Floats, group: Codes, block_m: float, seed: int) -> int:
    return int(spatial_blocks(lon, lat, group, block_m, seed=seed).max()) + 1


def spatial_blocks(
    lon: Floats, lat: Floats, group: Codes, block_m: float, *, seed: int = 0
) -> Codes:
    """Return the block ``(n,)`` of each place: a cell of nearly equal area all over the Earth.

    Bands of latitude as high as a block, cut into as many cells as fit around the Earth there;
    where bands and cells begin is drawn. A group lies in the block of its mean place.
    """
    rng = np.random.default_rng(seed)
    _, member = np.unique(group, return_inverse=True)
    points = unit_points(lon, lat)
    x, y, z = (np.bincount(member, column) for column in points.T)
    centre_lon = np.degrees(np.arctan2(y, x))
    centre_lat = np.degrees(np.arctan2(z, np.hypot(x, y)))
    height = np.degrees(block_m / EARTH_RADIUS_M)
    shift = rng.random()
    band = np.floor((centre_lat + 90) / height + shift)
    middle = np.clip((band + 0.5 - shift) * height - 90, -90, 90)
    around = np.maximum(1, np.round(360 * np.cos(np.radians(middle)) / height))
    column = np.floor(((centre_lon + 180) / 360 + rng.random()) % 1 * around)
    _, block = np.unique(np.stack([band, column], axis=1), axis=0, return_inverse=True)
    return np.asarray(block.reshape(-1)[member], np.int64)


def spatial_plan(
    lon: Floats,
    lat: Floats,
    group: Codes,
    target: NDArray[Any],
    *,
    folds: int = 10,
    regions: int | None = None,
    block_m: float | None = None,
    buffer_m: float | None = None,
    seed: int = 0,
) -> Blocks:
    """Return blocks, regions and folds; what is None is taken from the labels.

    A fold is one compact region unless more ``regions`` than folds are asked for, which are then
    dealt so that folds get equal shares of the classes. That is easier: most of what is left out
    is then surrounded by what was trained on, and a class of one part of the map is seen.
    Raises InputError where all labels lie in one block.
    """
    if block_m is None:
        block_m = block_size(lon, lat, target, group=group, seed=seed)
    block = spatial_blocks(lon, lat, group, block_m, seed=seed)
    count = int(block.max(initial=-1)) + 1
    if count < 2:
        raise InputError(
            f"All {len(lon)} labels lie within one block of {max(block_m, 1):,.0f} m or belong to "
            "one feature; no region can be held out. Add labels elsewhere, or give a smaller block."
        )
    mass = np.bincount(block).astype(np.float64)
    centres = np.stack([np.bincount(block, c) for c in unit_points(lon, lat).T], 1) / mass[:, None]
    # Around their mean, for float32 does not tell places of one town apart.
    centres -= centres.mean(axis=0)
    centres /= max(float(np.abs(centres).max()), 1e-12)
    wanted = min(count, max(folds, regions or 0))
    _, region = kmeans(centres.astype(np.float32), wanted, seed=seed, weight=mass)
    fold = _deal(region[block], classes_of(target), min(folds, int(region.max()) + 1), seed)
    buffer_m = BUFFER_SHARE * block_m if buffer_m is None else buffer_m
    return Blocks(block, region[block], fold[region[block]], block_m, buffer_m)


def spatial_folds(
    lon: Floats,
    lat: Floats,
    group: Codes,
    block_m: float,
    folds: int,
    buffer_m: float,
    seed: int,
    *,
    target: NDArray[Any] | None = None,
) -> list[Split]:
    """Return (train, test) rows of spatial folds; balanced by ``target`` where one is given."""
    target = np.zeros(len(lon), np.int64) if target is None else target
    plan = spatial_plan(
        lon, lat, group, target, folds=folds, block_m=block_m, buffer_m=buffer_m, seed=seed
    )
    return plan.splits(lon, lat)


def random_folds(target: NDArray[Any], folds: int, seed: int) -> list[Split]:
    """Return (train, test) rows of folds drawn without regard to place, balanced by class.

    Groups are split, as who draws samples at random does: the figure to compare with.
    """
    table = classes_of(target)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(table)), table.argmax(axis=1)))
    fold = np.empty(len(table), np.int64)
    fold[order] = np.arange(len(table)) % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]


def classes_of(target: NDArray[Any]) -> NDArray[np.bool_]:
    """Return membership ``(n, c)``: of classes, or of LEVELS equal parts of a number's range."""
    if target.ndim == 2:
        return target.astype(bool)
    if np.issubdtype(target.dtype, np.floating):
        edges = np.quantile(target, np.linspace(0, 1, LEVELS + 1)[1:-1])
        target = np.searchsorted(edges, target)
    return np.asarray(target[:, None] == np.unique(target))


def _deal(region: Codes, table: NDArray[np.bool_], folds: int, seed: int) -> Codes:
    """Return the fold of each region, largest first, so that folds get equal shares of classes."""
    count = int(region.max()) + 1
    held = np.stack([np.bincount(region, column, count) for column in table.T], axis=1)
    share = held / np.maximum(held.sum(axis=0), 1)
    size = np.bincount(region, minlength=count) / len(region)
    share = np.concatenate([share / share.shape[1], size[:, None]], axis=1)
    filled = np.zeros((folds, share.shape[1]))
    fold = np.empty(count, np.int64)
    ties = np.random.default_rng(seed).random(folds) * 1e-9
    for number in np.argsort(-size, kind="stable"):
        cost = ((filled + share[number]) ** 2 - filled**2).sum(axis=1) + ties
        fold[number] = int(cost.argmin())
        filled[fold[number]] += share[number]
    return fold


def _split(points: Floats, test: NDArray[np.bool_], buffer_m: float) -> Split:
    from scipy.spatial import cKDTree

    rows, others = np.flatnonzero(test), np.flatnonzero(~test)
    if buffer_m > 0:
        reach = chord(buffer_m)
        near, _ = cKDTree(points[rows]).query(points[others], distance_upper_bound=reach)
        others = others[~np.isfinite(near)]
    return others, rows
