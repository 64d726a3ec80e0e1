"""Two dates of one place, opened: the second on the grid of the first, read window by window."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray

from embeddings.analysis.change.coverage import coverage_of
from embeddings.analysis.change.features import BandFacts
from embeddings.analysis.change.registration import Shift
from embeddings.change.raster_job import RasterChangeJob
from embeddings.dense import Tile
from embeddings.encoding import Scene, open_scene
from embeddings.errors import BandError, InputError, OutsideCoverageError
from embeddings.sources.addresses import is_remote, path_of
from embeddings.sources.band_names import tokens, wavelengths
from embeddings.sources.grids import EDGE_POINTS, TargetGrid, applied
from embeddings.sources.reading import SceneFile, SceneRef
from embeddings.sources.remote import fingerprint_of
from embeddings.sources.scene_dates import scene_time
from embeddings.sources.scenes import MosaicRef, describe, find_scenes

Floats = NDArray[np.float32]
AnyRef = SceneRef | MosaicRef

MIN_OVERLAP = 0.01
MOST_RATIO = 4.0
"""Pixels of one date may be so many times as large as those of the other."""
_BAND = re.compile(
    r"b(?:and)?0?\d{1,2}a?|coastal|blue|green|red|nir(?:0\d)?|rededge\d*|swir\d*|lwir\d*|pan|cirrus"
)
_DATES = ("%Y%m%d", "%Y-%m-%d", "%Y_%m_%d")


@dataclass(frozen=True, slots=True)
class PairWindow:
    """The same pixels at both dates, ``(bands, h, w)``; NaN where there is no data or a mask."""

    before: Floats
    after: Floats
    coverage: NDArray[np.uint8]
    """``(h, w)``, codes of `Coverage`"""


@dataclass
class ScenePair:
    """Both dates, open. Use as a context manager; not thread-safe."""

    before: Scene
    after: Scene
    """On its own grid."""
    refs: tuple[AnyRef, AnyRef]
    marks: tuple[tuple[str, ...], tuple[str, ...]]
    """A hash of the content of each file."""
    notes: list[str]
    stack: ExitStack
    _known: list[str]
    """Names of the bands, empty where a name is only a position in a file."""
    _moved: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def open(cls, job: RasterChangeJob) -> Self:
        """Find, open and pair both dates; raise the InputError of what keeps them apart."""
        refs = _one_scene(job, first=True), _one_scene(job, first=False)
        _check_dates(job, *refs)
        job.check_inputs([path for ref in refs for path in _paths(ref)])
        marks = _marks(refs[0]), _marks(refs[1])
        _check_files(refs, marks)
        with ExitStack() as stack:
            before = _entered(stack, open_scene(refs[0], job.reading(first=True)))
            after = _entered(stack, open_scene(refs[1], job.reading(first=False)))
            known = before.known
            notes = [*_told(1, before.notes), *_told(2, after.notes)]
            notes += _check_overlap(before.grid, after.grid)
            notes += _pair_bands(before, after)
            notes += _check_resolution(before, after)
            pair = cls(before, after, refs, marks, notes, stack.pop_all(), known)
        pair.move(None)
        return pair

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._moved.close()
        self.stack.close()

    @property
    def grid(self) -> TargetGrid:
        """The pixels that are compared."""
        return self.before.grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, of date 1."""
        return self.before.bands

    def move(self, shift: Shift | None) -> None:
        """Read the second date where the shift says that things lie."""
        self._moved.close()
        grid = self.grid
        if shift is not None:
            moved = grid.transform @ Affine.translation(shift.col, shift.row)
            grid = TargetGrid(grid.crs_wkt, moved, grid.width, grid.height)
        self._second = _entered(self._moved, self.after.onto(grid))

    def read(self, row: int, col: int, height: int, width: int) -> PairWindow:
        """Read a window of both dates. Raises SourceError if a file is damaged there."""
        one, here, hidden = self.before.read_apart(row, col, height, width)
        two, there, masked = self._second.read_apart(row, col, height, width)
        one[:, ~here] = np.nan
        two[:, ~there] = np.nan
        return PairWindow(one, two, coverage_of(here | hidden, there | masked, hidden, masked))

    def read_with_halo(self, tile: Tile, halo: int) -> tuple[PairWindow, tuple[slice, slice]]:
        """Read a window and what lies round it; return it, and where the window lies in that."""
        top, left = max(0, tile.row - halo), max(0, tile.col - halo)
        bottom = min(self.grid.height, tile.row + tile.height + halo)
        right = min(self.grid.width, tile.col + tile.width + halo)
        window = self.read(top, left, bottom - top, right - left)
        row, col = tile.row - top, tile.col - left
        return window, (slice(row, row + tile.height), slice(col, col + tile.width))

    def facts(self) -> list[BandFacts]:
        """Return what is known of each band."""
        unknown = float("nan")
        sizes = zip(self.before.resolutions_m, self.after.resolutions_m, strict=True)
        return [
            BandFacts(um if um is not None else unknown, max(both))
            for um, both in zip(wavelengths(self._known), sizes, strict=True)
        ]

    @property
    def named_dates(self) -> tuple[str | None, str | None]:
        """Dates that only the names of the files tell; none if these tell one date for both."""
        one, two = (None if ref.datetime else _named_date(ref) for ref in self.refs)
        return (None, None) if one == two else (one, two)

    @property
    def dates(self) -> tuple[str | None, str | None]:
        """When the dates were taken, in ISO 8601: as stated, or as the names of the files tell."""
        one, two = self.named_dates
        return self.refs[0].datetime or one, self.refs[1].datetime or two

    def told(self) -> dict[str, Any]:
        """Return what a report says of both dates and their grid, as JSON."""
        grid = self.grid
        return {
            **{
                side: {
                    "files": [path_of(file.uri).name for file in files_of(ref)],
                    "datetime": ref.datetime,
                    "named_date": named,
                }
                for side, ref, named in zip(
                    ("before", "after"), self.refs, self.named_dates, strict=True
                )
            },
            "bands": list(self.bands),
            "grid": {
                "crs": grid.crs.name,
                "transform": list(grid.transform)[:6],
                "width": grid.width,
                "height": grid.height,
                "pixel_m": list(grid.pixel_m),
            },
        }

    def rule(self) -> list[str]:
        """Return all that changes what is read beside the content of the files."""
        return [self.before.reading_rule(), self.after.reading_rule()]


def _entered(stack: ExitStack, scene: Scene) -> Scene:
    stack.enter_context(scene)
    return scene


def _one_scene(job: RasterChangeJob, *, first: bool) -> AnyRef:
    """Find the scene of a date. Raises InputError if there are several."""
    option, files, date = (
        ("--before", job.before, job.before_date)
        if first
        else ("--after", job.after, job.after_date)
    )
    refs = find_scenes(files, datetime=date, mosaic=True, mask=job.mask)
    refs = [member for ref in refs for member in _by_day(ref)]
    if len(refs) > 1:
        names = ", ".join(describe(ref) for ref in refs[:4])
        raise InputError(
            f"{option} holds scenes of several days: {names}. Give the files of one date; scenes "
            "of one day become a mosaic."
        )
    return refs[0]


def _by_day(ref: AnyRef) -> list[AnyRef]:
    """Return the members of a mosaic of no known date if their names tell several days."""
    if isinstance(ref, MosaicRef) and ref.datetime is None:
        days = {_named_date(member) for member in ref.members}
        return list(ref.members) if len(days) > 1 else [ref]
    return [ref]


def files_of(ref: AnyRef) -> list[SceneFile]:
    """Return the files of a scene or of all scenes of a mosaic."""
    members = ref.members if isinstance(ref, MosaicRef) else (ref,)
    return [file for member in members for file in member.files]


def _paths(ref: AnyRef) -> list[Path]:
    return [Path(file.uri) for file in files_of(ref) if not is_remote(file.uri)]


def _marks(ref: AnyRef) -> tuple[str, ...]:
    return tuple(fingerprint_of(file) for file in files_of(ref))


def _check_files(
    refs: tuple[AnyRef, AnyRef], marks: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    for file, mark in zip(files_of(refs[0]), marks[0], strict=True):
        if mark in marks[1]:
            other = files_of(refs[1])[marks[1].index(mark)]
            raise InputError(
                f"The same content stands on both sides: {path_of(file.uri).name} of --before is "
                f"{path_of(other.uri).name} of --after. Give files of two dates."
            )


def _check_dates(job: RasterChangeJob, before: AnyRef, after: AnyRef) -> None:
    """Raise InputError if the dates that are known, or that names tell, are not in order."""
    one, two = before.datetime, after.datetime
    told = "--before is of {}, --after of {}"
    if one is None or two is None:
        one, two = one or _named_date(before), two or _named_date(after)
        told = "By the names of the files " + told
    if one is None or two is None or one < two:
        return
    if one != two and one.startswith(two):  # a day, and the year that it is in
        return
    days = told.format(one[:10], two[:10])
    known = job.before_date is not None and job.after_date is not None
    if one == two and before.datetime and after.datetime:
        raise InputError(f"{days}: the same date twice. Give files of two dates.")
    if one > two:
        advice = "Exchange them" if known else "Exchange them, or state --before-date and "
        advice += "." if known else "--after-date."
        raise InputError(f"{days}: the dates are in the wrong order. {advice}")


def _named_date(ref: AnyRef) -> str | None:
    """Return the date that the name of the first file or its folder tells: ISO 8601, or a year."""
    path = path_of(files_of(ref)[0].uri)
    names = [path.stem, path.parent.name]
    for pattern in _DATES:
        try:
            found = scene_time(pattern, names)
        except InputError:
            continue
        if found is not None and found[:2] in ("19", "20"):
            return found
    years = [name for name in names if re.fullmatch(r"(19|20)\d\d", name)]
    return years[0] if years else None


def _pair_bands(before: Scene, after: Scene) -> list[str]:
    """Put the second date's bands into the first one's order. Raises BandError."""
    theirs, held = after.bands, len(after.notes)
    meant = _tell_bands(before) and _tell_bands(after)
    try:
        after.pair(before.bands)
    except BandError:
        raise _other_bands(before.bands, theirs) from None
    notes = after.notes[held:]
    if notes and meant:
        raise _other_bands(before.bands, theirs)
    return _told(2, notes)


def _told(date: int, notes: Sequence[str]) -> list[str]:
    """Say of which date notes are; those on coarse bands are one, however many there are."""
    coarse = [note for note in notes if " was resampled (" in note]
    others = [note for note in notes if note not in coarse]
    if len(coarse) > 1:
        others.append(f"{len(coarse)} coarser bands were resampled onto the finest (bilinear).")
    else:
        others += coarse
    return [f"Date {date}: {note}" for note in others]


def _tell_bands(scene: Scene) -> bool:
    """Whether the names of the bands say which they are."""
    return all(any(_BAND.fullmatch(word) for word in tokens(name)) for name in scene.known)


def _other_bands(one: Sequence[str], two: Sequence[str]) -> BandError:
    short, other = short_names(one), short_names(two)
    both = [name for name in short if name in other]
    way = (
        f"choose those that both have with --bands {','.join(both)}"
        if both
        else "or name the bands of both in order with --bands"
    )
    return BandError(
        f"The dates have different bands: {', '.join(short)} before, {', '.join(other)} after. "
        f"Give the same bands, {'or ' if both else ''}{way}."
    )


def short_names(names: Sequence[str]) -> list[str]:
    """Return the words of long names that say which band each is, where they tell them apart."""
    words = [[w for w in tokens(name) if _BAND.fullmatch(w)] for name in names]
    found = [each[-1].upper() if each else name for each, name in zip(words, names, strict=True)]
    return found if len(set(found)) == len(names) else list(names)


def _check_resolution(before: Scene, after: Scene) -> list[str]:
    one, two = before.gsd_m, after.gsd_m
    ratio = two / one
    if not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        coarse = max(one, two)
        raise InputError(
            f"The pixels of the dates differ too much: {one:.4g} m before, {two:.4g} m after. Up "
            f"to {MOST_RATIO:g} times is allowed; --gsd {coarse:.0f}m compares both at the coarser."
        )
    if abs(ratio - 1) <= 0.02:
        return []
    return [
        f"The pixels of date 2 have {two:.4g} m; they were resampled to the {one:.4g} m of date 1."
    ]


def _check_overlap(one: TargetGrid, two: TargetGrid) -> list[str]:
    """Raise OutsideCoverageError if less than MIN_OVERLAP of the first grid lies in the second."""
    x, y = applied(two.transform, *two.edge(EDGE_POINTS))
    change = pyproj.Transformer.from_crs(two.crs, one.crs, always_xy=True)
    col, row = one.pixels(*change.transform(x, y))
    if not (np.isfinite(col).all() and np.isfinite(row).all()):
        return []
    outline = shapely.polygons(np.stack([col, row], axis=1))
    shape = shapely.make_valid(outline, method="structure", keep_collapsed=False)
    box = shapely.box(0, 0, one.width, one.height)
    share = float(shapely.area(shapely.intersection(shape, box))) / (one.width * one.height)
    if share < MIN_OVERLAP:
        west, south, east, north = two.bounds
        what = "do not overlap" if share <= 0 else f"overlap in {share:.2%} of date 1"
        raise OutsideCoverageError(
            f"The dates {what}; {MIN_OVERLAP:.0%} is the least. Date 1 covers "
            f"{_box(one.bounds)}, date 2 {_box((west, south, east, north))} (west, south, east, "
            "north). Give scenes of one place, or the part both show with --bbox."
        )
    return [f"Date 2 covers {share:.0%} of date 1."] if share < 0.99 else []


def _box(bounds: Sequence[float]) -> str:
    return ", ".join(f"{side:.5g}" for side in bounds)
