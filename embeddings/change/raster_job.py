"""What ``change raster`` is asked for: two dates, how they are read, what is written where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from embeddings.errors import InputError
from embeddings.probe.outputs import check_file
from embeddings.probe.predict_raster import sidecars
from embeddings.raster_job import nodata_rule
from embeddings.sources.reading import Reading
from embeddings.spec import parse_size
from embeddings.types import Bounds

THRESHOLD = "fdr=0.1"
CLICKS = "clicks"
"""The threshold that places labelled as changed and unchanged choose."""
HALF_TURN = 180.0
SMALLEST_OBJECT_PX = 4
"""Pixels of the smallest object where no area is asked for."""

_SUFFIXES = {
    "--out": (".tif", ".tiff"),
    "--classes": (".tif", ".tiff"),
    "--objects": (".gpkg",),
    "--report": (".html", ".json"),
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where change begins: by Otsu, by a false-discovery rate, at a score, or by clicks."""

    kind: Literal["otsu", "fdr", "value", "clicks"]
    number: float = 0.0

    @classmethod
    def parse(cls, text: str, *, clicks: bool = False) -> Self:
        """Read "otsu", "fdr=0.05", a score, or "clicks" where there are any. Raises InputError."""
        words = text.strip().lower()
        name, _, number = words.partition("=")
        if words == CLICKS and clicks:
            return cls("clicks")
        try:
            if words == "otsu":
                return cls("otsu")
            if name == "fdr" and 0 < float(number) < 1:
                return cls("fdr", float(number))
            if name != "fdr" and math.isfinite(float(words)):
                return cls("value", float(words))
        except ValueError:
            pass
        raise InputError(
            f"--threshold {text} cannot be used. Write otsu, fdr=0.05 (a rate between 0 and 1) or "
            "a score such as 3."
        )


def check_threshold(threshold: str | None, clicks: Path | None) -> None:
    """Raise InputError if a threshold cannot be read, or is to come of clicks that are not there.

    None is no threshold asked for.
    """
    if threshold is None:
        return
    if Threshold.parse(threshold, clicks=True).kind == "clicks" and clicks is None:
        raise InputError(
            "--threshold clicks needs --clicks: a file of places that changed and places that did "
            "not."
        )


@dataclass(frozen=True, slots=True)
class RasterChangeJob:
    """What to compare, and where to write it.

    ``before`` and ``after`` are what ``sources.scenes`` finds one scene in: the bands of a date as
    files, a folder, a STAC item, addresses. ``before_date`` and ``after_date`` are ISO 8601 or a
    strptime pattern of file names. ``nodata``, ``mask``, ``offset`` and ``scale`` hold for both.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    out: Path
    classes: Path | None = None
    objects: Path | None = None
    reports: tuple[Path, ...] = ()
    probability: bool = False
    """Add the probability of change as band 2."""
    threshold: str | None = None
    """None: by the clicks if these say what changed and what did not, else THRESHOLD."""
    clicks: Path | None = None
    """Points or polygons whose ``field`` says what changed, or what kind of change it was."""
    field: str | None = None
    min_area_m2: float | None = None
    """Of an object; None: SMALLEST_OBJECT_PX pixels."""
    before_date: str | None = None
    after_date: str | None = None
    bands: tuple[str, ...] | None = None
    mask: str | None = None
    nodata: str | float | None = None
    offset: float | None = None
    scale: float | None = None
    gsd: str | None = None
    bbox: Bounds | None = None
    register: bool = True

    def check(self) -> None:
        """Raise InputError or StoreError, before any work, if it cannot be done."""
        self._check_clicks()
        nodata_rule(self.nodata)
        self._gsd_m()
        check_box(self.bbox)
        if self.min_area_m2 is not None:
            check_min_area(self.min_area_m2)
        for name, side in (("--before", self.before), ("--after", self.after)):
            if not side:
                raise InputError(f"No file was given for {name}. Name the bands of that date.")
        for option, path in self._asked():
            _check_path(option, path)
        outputs = [path.resolve() for path in self.outputs]
        doubled = [path for path in outputs if outputs.count(path) > 1]
        if doubled:
            raise InputError(
                f"Two outputs would be the file '{doubled[0].name}'. Give each a name of its own; "
                f"'{self.coverage.name}' is the coverage of --out."
            )
        self._check_styles()

    def check_inputs(self, inputs: Sequence[Path]) -> None:
        """Raise InputError if an output would replace an input."""
        read = {path.resolve() for path in (*inputs, *([self.clicks] if self.clicks else []))}
        for path in self.outputs:
            if path.resolve() in read:
                raise InputError(
                    f"'{path}' is one of the inputs and would be replaced. Write to another file."
                )

    @property
    def coverage(self) -> Path:
        """Where it is written what could be compared, and why not."""
        return self.out.with_name(f"{self.out.stem}_coverage{self.out.suffix}")

    @property
    def outputs(self) -> list[Path]:
        """All files that are written."""
        return [path for _, path in self._asked()] + [self.coverage]

    def reading(self, *, first: bool) -> Reading:
        """Return how the files of a date are read; the second date follows the first one's grid."""
        nodata, detect = nodata_rule(self.nodata)
        box = self.bbox.west_south_east_north() if self.bbox is not None and first else None
        return Reading(
            nodata=nodata,
            detect_nodata=detect,
            offset=self.offset,
            scale=self.scale,
            bands=self.bands,
            mask=self.mask,
            gsd_m=self._gsd_m() if first else None,
            bbox=box,
        )

    def settings(self) -> dict[str, Any]:
        """Return what was asked for as JSON, paths as their names."""
        asked = asdict(self)
        box = self.bbox.west_south_east_north() if self.bbox is not None else None
        files = {name: getattr(self, name) for name in ("out", "classes", "objects", "clicks")}
        named = {name: path.name if path is not None else None for name, path in files.items()}
        return {**asked, **named, "bbox": box, "reports": [path.name for path in self.reports]}

    def _check_styles(self) -> None:
        """Raise InputError if two rasters would have one style: its name has not their ending."""
        found: dict[Path, Path] = {}
        for path in (self.out, self.coverage, *([self.classes] if self.classes else [])):
            style = sidecars(path.resolve())[1]
            if style in found:
                raise InputError(
                    f"'{found[style].name}' and '{path.name}' would both have the style "
                    f"'{style.name}'. Give them names that differ before the ending."
                )
            found[style] = path

    def _check_clicks(self) -> None:
        check_threshold(self.threshold, self.clicks)
        if self.field is not None and self.clicks is None:
            raise InputError("--field says what the places of --clicks are; give that file too.")

    def _asked(self) -> list[tuple[str, Path]]:
        more = (("--classes", self.classes), ("--objects", self.objects))
        found = [("--out", self.out), *((name, path) for name, path in more if path is not None)]
        return found + [("--report", path) for path in self.reports]

    def _gsd_m(self) -> float | None:
        if self.gsd is None:
            return None
        with suppress(InputError):
            value, _ = parse_size(self.gsd)
            if value > 0:
                return value
        raise InputError(f"--gsd {self.gsd} is no pixel size. Give a length, for example 20m.")


def check_box(box: Bounds | None) -> None:
    """Raise InputError for a box whose west and east are exchanged.

    It would run eastward round most of the Earth, and so take nearly all of a scene.
    """
    if box is not None and 0 < box.west - box.east < HALF_TURN:
        given = ",".join(f"{side:g}" for side in box.west_south_east_north())
        raise InputError(
            f"--bbox {given} has its west, {box.west:g}, east of its east, {box.east:g}. The order "
            "is W,S,E,N; west is the larger only in a box across the antimeridian that is less "
            "than 180 degrees wide, such as 179,-18,-179,-16."
        )


def check_min_area(m2: float) -> None:
    """Raise InputError if no object can have that area."""
    if not 0 <= m2 < math.inf:
        raise InputError(f"--min-area {m2:g} is no area. Give square metres, 0 or more.")


def _check_path(option: str, path: Path) -> None:
    suffixes = _SUFFIXES[option]
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path.name} must end in {' or '.join(suffixes)}.")
    check_file(path)
