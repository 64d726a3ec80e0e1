"""What ``change collection`` is asked for: whose vectors, which dates, what is written where."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embeddings.analysis.change.noise import Metric, NoiseSettings
from embeddings.change.raster_job import check_box, check_min_area, check_threshold
from embeddings.errors import InputError
from embeddings.probe.model import model_files
from embeddings.probe.outputs import check_file, check_spared
from embeddings.spec import parse_size
from embeddings.types import Bounds

RASTERS = (".tif", ".tiff")
SUFFIXES = (*RASTERS, ".gpkg", ".parquet")
REPORTS = (".json", ".html")
TOLERANCE_DAYS = 30.0
THRESHOLD = "2.326"
"""A score that 1 % of unchanged places exceed."""
FALSE_ALARMS = 0.05
SIDES_APART = 3.0
"""What lies nearer than so many chips to a place is no look-alike of it."""
ANY_STRIDE = "any"
"""The stride of dense vectors where only one is stored."""


@dataclass(frozen=True, slots=True)
class CollectionChangeJob:
    """Two dates of a collection, or all of them, and where their change is written.

    ``start`` and ``end`` are ISO 8601; None is the first or the last date there is. ``other`` is
    the collection of date 2, of the same vector space. ``all_dates`` asks since when instead of
    whether; ``false_alarms`` is the share of unchanged places that it may name. ``history`` adds
    the score against what the place itself did at other dates. ``probe`` is a model of land cover;
    ``clicks`` are labels whose ``field`` says what changed and what did not, or names kinds of
    change.

    ``dense`` compares stored dense vectors, cell by cell: their stride ("2", "40m"), or ANY_STRIDE.
    ``scales`` are collections of the same scenes with other chip sizes, whose scores count as much.
    """

    store: Path
    collection: str
    out: Path
    start: str | None = None
    end: str | None = None
    other: str | None = None
    dense: str | None = None
    scales: tuple[str, ...] = ()
    all_dates: bool = False
    tolerance_days: float = TOLERANCE_DAYS
    metric: Metric = "euclidean"
    threshold: str | None = None
    """None: by the clicks if these say what changed and what did not, else THRESHOLD."""
    false_alarms: float = FALSE_ALARMS
    history: bool = False
    probe: Path | None = None
    clicks: Path | None = None
    field: str | None = None
    clicks_from: str = "both"
    bbox: Bounds | None = None
    objects: Path | None = None
    """A GeoPackage of chips that changed together, as polygons of ``min_area_m2`` or more."""
    min_area_m2: float = 0.0
    reports: tuple[Path, ...] = ()
    seed: int = 0

    def check(self) -> None:
        """Raise InputError or StoreError, before any work, if it cannot be done."""
        check_threshold(self.threshold, self.clicks)
        NoiseSettings(self.metric)
        if not self.tolerance_days >= 0:
            raise InputError(f"A tolerance of {self.tolerance_days:g} days is not 0 or more.")
        if not 0 < self.false_alarms < 1:
            raise InputError(
                f"--false-alarms {self.false_alarms:g} is no share. Give one between 0 and 1: 0.05."
            )
        _check_suffix("--out", self.out, SUFFIXES)
        for path in self.reports:
            _check_suffix("--report", path, REPORTS)
        if self.objects is not None:
            _check_suffix("--objects", self.objects, (".gpkg",))
        check_min_area(self.min_area_m2)
        check_box(self.bbox)
        for path in self.outputs:
            check_file(path)
        if len({path.resolve() for path in self.outputs}) < len(self.outputs):
            raise InputError("Two outputs would be the same file. Give each a name of its own.")
        probe = () if self.probe is None else model_files(self.probe)
        check_spared(self.outputs, [self.clicks, *probe], self.store)
        self._check_dense()
        self._check_together()

    def _check_dense(self) -> None:
        if self.dense is None:
            if self.scales:
                raise InputError(
                    "--with puts dense vectors of several chip sizes side by side: give --dense "
                    "too."
                )
            return
        if self.dense != ANY_STRIDE:
            parse_size(self.dense)
        if not self.is_raster:
            raise InputError(
                f"--out {self.out.name}: dense vectors give a raster, since a polygon for each of "
                "millions of cells is of no use. Name a .tif, and --objects for polygons of what "
                "changed."
            )
        given = {"--probe": self.probe, "--clicks": self.clicks, "--history": self.history or None}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} is for chips. Leave --dense out, or {name}.")
        if self.all_dates and self.objects is not None:
            raise InputError(
                "--objects of --all-dates are of chips. Leave --dense out, or --objects."
            )
        if self.scales and self.other is not None:
            raise InputError(
                "--with and --with-collection cannot be used together: put both dates into one "
                "collection for each chip size."
            )

    def _check_together(self) -> None:
        if self.all_dates:
            given = {
                "--with-collection": self.other,
                "--probe": self.probe,
                "--clicks": self.clicks,
                "--history": self.history or None,
            }
            for name, value in given.items():
                if value is not None:
                    raise InputError(
                        f"{name} belongs to two dates; --all-dates asks since when. Leave one out."
                    )
        if self.field is not None and self.clicks is None:
            raise InputError("--field says what the places of --clicks are; give that file too.")
        if self.clicks_from not in ("both", "after", "move"):
            raise InputError(
                f"'{self.clicks_from}' is not both, after or move (what the clicks learn from)."
            )

    @property
    def is_raster(self) -> bool:
        """Whether the change is written as rasters."""
        return self.out.suffix.lower() in RASTERS

    def beside(self, what: str) -> Path:
        """Return the raster of something else beside the first."""
        return self.out.with_name(f"{self.out.stem}_{what}{self.out.suffix}")

    @property
    def outputs(self) -> list[Path]:
        """All files but what GDAL and QGIS read beside them."""
        first = [self.out]
        if self.is_raster:
            named = [] if self.probe is None else ["class_before", "class_after"]
            named += [] if self.clicks is None else ["kind"]
            named += ["score", "coverage"] if self.all_dates else ["coverage"]
            first += [self.beside(name) for name in named]
        objects = [] if self.objects is None else [self.objects]
        return [*first, *objects, *self.reports]

    def noise(self, side_m: float, references: int) -> NoiseSettings:
        """Return how noise is measured among chips of that side."""
        return NoiseSettings(self.metric, references=references, apart_m=SIDES_APART * side_m)

    def settings(self) -> dict[str, Any]:
        """Return all that was asked for, as JSON has it."""
        found = asdict(self)
        box = None if self.bbox is None else list(self.bbox.west_south_east_north())
        files = {
            n: v.name for n in ("out", "probe", "clicks", "objects") if (v := getattr(self, n))
        }
        del found["store"]
        return {**found, **files, "bbox": box, "reports": [path.name for path in self.reports]}


def _check_suffix(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path.name} must end in {', '.join(suffixes)}.")
