"""Kinds of change of a pair of scenes, learned from clicks: a probe on the pixels of both dates.

A pixel is told by its bands at date 1, by how they moved and by how far, stretched and smoothed as
the detector has them. Smoothing at several widths told no kind better (docs/change.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.features import compared, multi_scale, radius
from embeddings.analysis.change.pixels import PixelChange
from embeddings.analysis.crossfit import crossfit
from embeddings.analysis.logistic import softmax
from embeddings.analysis.probes import UNKNOWN, LinearProbe, fit
from embeddings.analysis.samples import Samples
from embeddings.change.clicks import NO_CHANGE, Clicks
from embeddings.change.clicks_judged import FEW, LeftOut
from embeddings.change.label_reach import LabelReach
from embeddings.change.raster_pair import PairWindow, ScenePair
from embeddings.change.raster_scores import UNCHANGED, ScoreRaster, areas_of, pixel_m2
from embeddings.change.raster_staging import Staging
from embeddings.dense import Tile

SCALES = (1.0,)
"""Gaussian smoothings of the bands, pixels."""
HALO = radius(max(SCALES))
SURE = 0.5
"""A kind is named from this probability on."""
UNKNOWN_CODE = 255
UNKNOWN_NAME, ANOTHER_NAME = "unknown", "not recognised"
MOST_LEARNED = 20_000
"""Pixels that kinds are learned from; of more a seeded part is drawn, as many of each kind."""
BLOCK = 65_536
"""Pixels that the probe is asked of at once."""
METHOD = (
    "Kinds are told by the bands of date 1 and how they moved, learned from the labels, and named "
    "where change begins and nowhere else. What no label resembles, or no kind by half, is "
    "unknown. Pixels named no change count as no change."
)

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Kinds:
    """A probe of kinds of change; codes of pixels are those of the raster of classes.

    `UNCHANGED` is no change, 2 the first kind, UNKNOWN_CODE what no label resembles.
    """

    model: PixelChange
    probe: LinearProbe
    reach: LabelReach
    told: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds, in the order of their codes."""
        return tuple(name for name in self.probe.classes if name != NO_CHANGE)

    @property
    def legend(self) -> dict[str, int]:
        """The code of each name in the raster of classes."""
        unknown = ANOTHER_NAME if UNKNOWN_NAME in self.names else UNKNOWN_NAME
        codes = {name: number for number, name in enumerate(self.names, UNCHANGED + 1)}
        return {NO_CHANGE: UNCHANGED, **codes, unknown: UNKNOWN_CODE}

    @property
    def mark(self) -> str:
        """All that its answers depend on, beside the pixels."""
        probe, reach = self.probe, self.reach
        parts = [probe.weights, probe.bias, probe.mean, probe.scale, probe.thresholds]
        parts += [reach.mean, reach.scale, reach.centres, np.array(reach.far)]
        digest = hashlib.sha256("\n".join(probe.classes).encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def of(self, window: PairWindow, at: NDArray[np.bool_]) -> Codes:
        """Return the codes ``(n,)`` of the pixels of a window where ``at (h, w)`` is true."""
        vectors = features(self.model, window, at)
        legend = np.array([self.legend[name] for name in self.probe.classes], np.uint8)
        codes = np.empty(len(vectors), np.uint8)
        for first in range(0, len(vectors), BLOCK):
            part = vectors[first : first + BLOCK]
            found = self.probe.predict(part)
            known = (found != UNKNOWN) & self.reach.inside(part)
            codes[first : first + BLOCK] = np.where(known, legend[found], UNKNOWN_CODE)
        return codes


def features(model: PixelChange, window: PairWindow, at: NDArray[np.bool_]) -> Floats:
    """Return ``(n, 3 * scales * bands) float32`` of pixels with data: date 1, the move, its size.

    Without its size a kind that brightens some places and darkens others has no linear sign.
    """
    valid = compared(window.before, window.after)
    keep = at[valid]
    dates = []
    for scene, ends in zip((window.before, window.after), model.ends, strict=True):
        scales = multi_scale(scene, valid, ends, SCALES)
        dates.append(np.concatenate([scales[scale][:, keep] for scale in SCALES]))
    first, second = dates
    move = second - first
    return np.ascontiguousarray(np.concatenate([first, move, np.abs(move)]).T)


def learn_kinds(
    pair: ScenePair,
    model: PixelChange,
    clicks: Clicks,
    tiles: list[Tile],
    check: Callable[[], None],
) -> Kinds:
    """Fit a probe to clicks that all have data. Raises InputError if all are of one kind."""
    clicks, drawn = _drawn(clicks)
    vectors, order = _vectors(pair, model, clicks, tiles, check)
    lon, lat = (each[order] for each in clicks.lonlat(pair.grid))
    there, target = np.unique(clicks.code[order], return_inverse=True)
    classes = tuple(clicks.classes[code] for code in there.tolist())
    samples = Samples("classes", vectors, target, classes, lon, lat, clicks.label[order])
    check()
    probe = fit(samples)
    probe = replace(probe, thresholds=np.full(len(classes), SURE))
    cut = LeftOut.of(lon, lat, samples.group, target)
    labels = [len(np.unique(samples.group[target == code])) for code in range(len(classes))]
    kinds = zip(classes, labels, strict=True)
    few = [name for name, many in kinds if many < FEW and name != NO_CHANGE]
    note = f"Fewer than {FEW} labels each: {', '.join(few)}. What is called so is a guess."
    check()
    reach, near = LabelReach.fit(vectors, cut.splits)
    check()
    told = {
        "labels": dict(zip(classes, labels, strict=True)),
        "left_out": _left_out(samples, cut, near),
    }
    return Kinds(model, probe, reach, told, (*drawn, *([note] if few else [])))


def _drawn(clicks: Clicks) -> tuple[Clicks, tuple[str, ...]]:
    """Return at most MOST_LEARNED of the clicks, and a note where there were more."""
    count = len(clicks.code)
    if count <= MOST_LEARNED:
        return clicks, ()
    rng = np.random.default_rng(0)
    codes = np.unique(clicks.code)
    keep = np.zeros(count, bool)
    for code in codes:
        here = np.flatnonzero(clicks.code == code)
        keep[rng.permutation(here)[: MOST_LEARNED // len(codes)]] = True
    note = (
        f"Kinds were learned from {keep.sum():,} of the {count:,} labelled pixels, drawn by chance."
    )
    return clicks.take(keep), (note,)


def _vectors(
    pair: ScenePair,
    model: PixelChange,
    clicks: Clicks,
    tiles: list[Tile],
    check: Callable[[], None],
) -> tuple[Floats, NDArray[np.int64]]:
    """Return features of the clicks, window by window, and which click each row is of."""
    rows, order = [], []
    for tile in tiles:
        row, col = clicks.row - tile.row, clicks.col - tile.col
        inside = (row >= 0) & (row < tile.height) & (col >= 0) & (col < tile.width)
        here = np.flatnonzero(inside)
        if not len(here):
            continue
        check()
        # As a mask over the window has its pixels: row by row.
        here = here[np.lexsort((col[here], row[here]))]
        window, inner = pair.read_with_halo(tile, HALO)
        at = np.zeros(window.coverage.shape, bool)
        at[inner][row[here], col[here]] = True
        rows.append(features(model, window, at))
        order.append(here)
    return np.concatenate(rows), np.concatenate(order)


def _left_out(samples: Samples, cut: LeftOut, near: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Return how right the probe is on regions left out; None where a kind would be missing.

    ``near (n,)`` says which samples are like those they were left out from. What is called no
    change is no kind.
    """
    many = len(samples.classes)
    splits = [s for s in cut.splits if len(np.unique(samples.target[s[0]])) == many]
    if not splits:
        return None
    found = crossfit(samples, splits)
    likely = softmax(found.honest[found.tested])
    target = samples.target[found.tested]
    best = likely.argmax(axis=1)
    kinds = np.array([name != NO_CHANGE for name in samples.classes])
    named = (likely[np.arange(len(best)), best] >= SURE) & near[found.tested] & kinds[best]
    right = named & (best == target)
    return {
        "pixels": len(target),
        "named": float(named.mean()),
        "right_of_named": float(right.sum() / max(int(named.sum()), 1)),
        "found": {
            name: float(right[target == code].mean()) if (target == code).any() else None
            for code, name in enumerate(samples.classes)
            if kinds[code]
        },
        "split": cut.text,
    }


def name_kinds(
    pair: ScenePair,
    kinds: Kinds,
    threshold: float,
    raster: ScoreRaster,
    staging: Staging,
    tiles: list[Tile],
    tell: Callable[[int], None],
) -> None:
    """Fill ``raster.kinds`` (zeros) window by window; what is done is kept if this is stopped.

    ``tell`` hears how many windows are done and may raise.
    """
    assert raster.kinds is not None
    staging.begin_kinds(f"{threshold!r} {kinds.mark}")
    for done, tile in enumerate(tiles):
        tell(done)
        at = np.s_[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
        score = np.asarray(raster.score[at])
        over = score >= threshold
        codes = np.where(np.isfinite(score), UNCHANGED, 0).astype(np.uint8)
        if over.any():
            codes[over] = _codes(pair, kinds, over, staging, tile)
        raster.kinds[at] = codes


def _codes(
    pair: ScenePair, kinds: Kinds, over: NDArray[np.bool_], staging: Staging, tile: Tile
) -> Codes:
    """Return the codes of a window's pixels over the threshold, from an earlier run if it can."""
    known = staging.kinds(tile)
    if known is None:
        window, inner = pair.read_with_halo(tile, HALO)
        at = np.zeros(window.coverage.shape, bool)
        at[inner] = over
        known = kinds.of(window, at)
        staging.keep_kinds(tile, known)
    return known


def kinds_counted(kinds: Kinds, raster: ScoreRaster) -> dict[str, Any]:
    """Return what the report says of kinds: labels, pixels and areas, and how sure it is."""
    assert raster.kinds is not None
    pixels, m2 = np.zeros(256, np.int64), np.zeros(256)
    areas = areas_of(raster.grid)
    for rows in raster.strips():
        codes = np.asarray(raster.kinds[rows])
        size = np.broadcast_to(pixel_m2(areas, rows, raster.grid.width), codes.shape)
        pixels += np.bincount(codes.ravel(), minlength=256)
        m2 += np.bincount(codes.ravel(), weights=size.ravel(), minlength=256)
    found = [
        {
            "kind": name,
            "labels": kinds.told["labels"].get(name, 0),
            "pixels": int(pixels[code]),
            "area_m2": float(m2[code]),
        }
        for name, code in kinds.legend.items()
        if code != UNCHANGED
    ]
    return {"found": found, "left_out": kinds.told["left_out"], "method": METHOD}
