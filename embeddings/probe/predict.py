"""A map of what a probe says of a collection, or of a part of it, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import __version__
from embeddings.analysis.probes import UNKNOWN
from embeddings.atomic import atomic_path
from embeddings.errors import InputError, NoDataError, OutsideCoverageError
from embeddings.probe.beside import Beside
from embeddings.probe.model import ProbeModel
from embeddings.probe.outputs import IF_FULL, check_file
from embeddings.probe.predict_grids import pixels_of
from embeddings.probe.predict_raster import (
    Drawn,
    is_users,
    main_sheet,
    measure_sheet,
    sidecars,
    write_rasters,
)
from embeddings.probe.predict_rows import Rows
from embeddings.probe.predict_scores import Scorer
from embeddings.probe.predict_scoring import Chunk, Wanted
from embeddings.probe.predict_tables import Table, write_geopackage, write_parquet
from embeddings.probe.predict_workers import WorkersWanted
from embeddings.report import Pace, Progress
from embeddings.sources.areas import Area
from embeddings.store.collection import Collection
from embeddings.store.schema import ITEM_COLUMNS
from embeddings.types import TimeRange

RASTERS = (".tif", ".tiff")
SUFFIXES = (".parquet", ".gpkg", *RASTERS)


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What a prediction holds beside the class.

    ``per_class``: the probability of each class; of .tif in the second file. ``applicability``:
    the distance to the training data, where the probe knows it. ``measures``: of .tif, a second
    file NAME_probability.tif with all that is not the class. ``name_all``: the likeliest class
    everywhere, never unknown. ``scenes``: only these; none: all. ``workers`` processes compute, or
    those of the Dask cluster at ``scheduler``, which see the store under the same name.
    """

    per_class: bool = False
    applicability: bool = True
    measures: bool = False
    name_all: bool = False
    scenes: tuple[str, ...] = ()
    workers: int = 1
    scheduler: str | None = None

    @property
    def workers_wanted(self) -> WorkersWanted:
        """Where to compute."""
        return WorkersWanted(self.workers, self.scheduler)


@dataclass(frozen=True)
class PredictReport:
    """What a prediction wrote: rows by class, rows of no class, rows without data."""

    collection: str
    files: tuple[str, ...]
    rows: int
    """Rows that were predicted, unknown ones among them."""
    classes: dict[str, int]
    unknown: int
    no_data: int
    """Rows asked for whose vectors hold a value that is not a number; they have no prediction."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)


@dataclass
class _Tally:
    """Counts rows as they pass."""

    scorer: Scorer
    rows: int = 0
    no_data: int = 0
    codes: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = np.zeros(len(self.scorer.names) + 1, np.int64)

    def counted(self, chunks: Iterator[Chunk], collection: Collection) -> Iterator[Chunk]:
        """Pass chunks on. Raises OutsideCoverageError or NoDataError if no row was predicted."""
        for chunk in chunks:
            self.no_data += chunk.left_out
            if chunk.rows.num_rows:
                self.rows += chunk.rows.num_rows
                # The first place counts those of no class.
                self.codes += (
                    np.bincount(chunk.scored.codes - UNKNOWN, minlength=len(self.codes))
                    if self.scorer.names
                    else 0
                )
                yield chunk
        if not self.rows and self.no_data:
            raise NoDataError(
                f"All {self.no_data:,} vectors asked for hold values that are not numbers. Nothing "
                "was written: embed their chips again."
            )
        if not self.rows:
            raise _nothing_there(collection)


def predict(
    model: ProbeModel,
    collection: Collection,
    out: Path,
    *,
    others: Sequence[Collection] = (),
    within: Area | None = None,
    time: TimeRange | None = None,
    options: PredictOptions | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> PredictReport:
    """Predict the chips whose centre lies ``within`` and whose time lies in ``time``.

    The suffix of ``out`` chooses: ``.parquet`` (GeoParquet 1.1), ``.gpkg`` (footprints with a
    style), ``.tif`` (Cloud-Optimised GeoTIFF, a pixel a chip; of several scenes at one place the
    latest stands). Files that are there are replaced, once the new ones are whole. The bytes
    depend on the model, the collection and what is asked for, not on the time or who computes.
    ``others`` are the collections whose vectors stand beside, in the order of the fit; chips
    without a partner of the same id in them have no prediction.

    Raises SpecMismatchError if the probe understands other vectors, OutsideCoverageError if no
    chip is asked for, CancelledError, InputError, StoreError, or TerrakinError if workers are lost.
    """
    options = options or PredictOptions()
    check_out(out, options)
    options.workers_wanted.check()
    if options.name_all and model.probe.task != "classes":
        raise InputError(
            "Only a map of classes says unknown, so only there --name-all means anything. Leave it "
            "out."
        )
    model.check_beside([(each.id, each.spec) for each in (collection, *others)])
    beside = Beside.of((collection, *others))
    wanted = Wanted(within, time, options.scenes)
    return _Run(model, beside, out, wanted, options, progress, cancelled).write()


class _Run:
    """One prediction."""

    def __init__(
        self,
        model: ProbeModel,
        beside: Beside,
        out: Path,
        wanted: Wanted,
        options: PredictOptions,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        collection = beside.first
        self.collection = collection
        self.beside = beside
        self.out = out
        self.wanted = wanted
        self.options = options
        # Vectors side by side are put together as they are, not as they are stored.
        scale = collection.spec.scale if len(beside.collections) == 1 else None
        self.scorer = Scorer(
            model.probe,
            scale,
            applicability=options.applicability,
            per_class=options.per_class,
            name_all=options.name_all,
        )
        self.is_raster = out.suffix.lower() in RASTERS
        self.rows = Rows(beside, wanted, oldest_first=self.is_raster)
        self.said = _provenance(model, beside, wanted, options)
        self.tally = _Tally(self.scorer)
        self.progress = progress
        self.cancelled = cancelled

    def write(self) -> PredictReport:
        """Write the files and say what is in them."""
        if not self.rows.count:
            raise _nothing_there(self.collection)
        files, notes = self._rasters() if self.is_raster else self._table()
        if self.tally.no_data:
            notes.append(
                f"{self.tally.no_data:,} vectors hold values that are not numbers; they have no "
                "prediction."
            )
        if self.beside.alone:
            notes.append(
                f"{self.beside.alone:,} of {self.collection.count:,} chips of "
                f"'{self.collection.id}' have no partner of their id in the collections beside; "
                "they have no prediction."
            )
        return PredictReport(
            self.collection.id,
            tuple(map(str, files)),
            self.tally.rows,
            dict(zip(self.scorer.names, self.tally.codes[1:].tolist(), strict=True)),
            int(self.tally.codes[0]),
            self.tally.no_data,
            tuple(notes),
        )

    def _chunks(self, columns: tuple[str, ...]) -> Iterator[Chunk]:
        total = self.rows.count
        pace = Pace(total)

        def tell(done: int) -> None:
            self.progress(Progress(done, total, pace.message(done)))

        workers = self.options.workers_wanted
        chunks = self.rows.scored(self.scorer, columns, workers, tell, self.cancelled)
        return self.tally.counted(chunks, self.collection)

    def _table(self) -> tuple[list[Path], list[str]]:
        table = Table(self.scorer, self.said)
        with atomic_path(self.out, IF_FULL) as temporary:
            if self.out.suffix.lower() == ".parquet":
                write_parquet(self._chunks(ITEM_COLUMNS), table, temporary)
            else:
                kinds = self.rows.geometry_types
                write_geopackage(self._chunks(ITEM_COLUMNS), table, temporary, kinds)
        return [self.out], []

    def _rasters(self) -> tuple[list[Path], list[str]]:
        out = self.out
        pixels = pixels_of(self.collection, self.rows.scenes)
        sheets = {out: main_sheet(self.scorer)}
        more = self.options.measures or self.options.per_class
        beside = measure_sheet(self.scorer) if more else None
        if beside is not None:
            sheets[measures_file(out)] = beside
        texts = sheets[out].beside(out)
        with ExitStack() as stack:
            # What was entered last gets its name first; ``out`` comes when all else is there.
            paths = {path: stack.enter_context(atomic_path(path, IF_FULL)) for path in sheets}
            drawn = write_rasters(
                self._chunks(pixels.columns),
                pixels,
                {paths[path]: sheet for path, sheet in sheets.items()},
                self.said,
                crop=self.wanted.within is not None or not pixels.whole,
            )
            for path, text in texts.items():
                temporary = stack.enter_context(atomic_path(path, IF_FULL))
                temporary.write_text(text, encoding="utf-8", newline="\n")
        if not texts:
            _without_legend(out)
        return [*sheets, *texts], _overlaid(drawn, self.rows)


def _without_legend(out: Path) -> None:
    """Remove what says how a raster of classes of the same name was to be read."""
    pam, style = sidecars(out)
    pam.unlink(missing_ok=True)
    if not is_users(style):
        style.unlink(missing_ok=True)


def _overlaid(drawn: Drawn, rows: Rows) -> list[str]:
    if not drawn.overlaid:
        return []
    times = sorted({scene.datetime or "no time" for scene in rows.scenes})
    return [
        f"{drawn.overlaid:,} pixels have chips of several scenes ({', '.join(times[:5])}"
        f"{' ...' if len(times) > 5 else ''}); the latest with data stands. Give a time or scenes "
        "to choose others."
    ]


def measures_file(out: Path) -> Path:
    """Return where the second raster is written."""
    return out.with_name(f"{out.stem}_probability{out.suffix}")


def check_out(out: Path, options: PredictOptions | None = None) -> None:
    """Raise InputError or StoreError, before any work, if ``predict`` cannot write there."""
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"'{out.name}' has no suffix of a prediction. Use one of {', '.join(SUFFIXES)}."
        )
    check_file(out)
    if options is not None and options.measures and out.suffix.lower() not in RASTERS:
        raise InputError(
            f"A second raster belongs to .tif; '{out.name}' holds probabilities by itself."
        )


def _provenance(
    model: ProbeModel, beside: Beside, wanted: Wanted, options: PredictOptions
) -> dict[str, Any]:
    """Say what the prediction was made of; no time of running, so that equal maps are equal."""
    area, time = wanted.within, wanted.time
    collection, *others = beside.collections
    said: dict[str, Any] = {
        "terrakin": __version__,
        "task": model.probe.task,
        "classes": list(model.probe.classes),
        "model_sha256": model.sha256,
        "trained_on": [each.collection for each in model.trained_on],
        "collection": collection.id,
        "collection_state": collection.state,
        "product": collection.spec.product,
        "source": collection.spec.source,
        "licence": collection.licence,
    }
    if others:
        said["beside"] = [
            {
                "collection": each.id,
                "collection_state": each.state,
                "product": each.spec.product,
                "source": each.spec.source,
                "licence": each.licence,
            }
            for each in others
        ]
    if area is not None:
        bounds = [round(side, 7) for side in area.bounds.west_south_east_north()]
        said |= {"within_bounds": bounds, "within_sha256": area.fingerprint}
    if time is not None:
        said["time"] = [each and each.isoformat() for each in (time.start, time.end)]
    if wanted.scenes:
        said["scenes"] = list(wanted.scenes)
    if options.name_all:
        said["name_all"] = True
    return said


def _nothing_there(collection: Collection) -> OutsideCoverageError:
    bounds, time = collection.bounds, collection.time
    box = (
        "nothing"
        if bounds is None
        else "{:g},{:g},{:g},{:g}".format(*bounds.west_south_east_north())
    )
    days = (
        ""
        if time.start is None or time.end is None
        else (f", from {time.start:%Y-%m-%d} to {time.end:%Y-%m-%d}")
    )
    return OutsideCoverageError(
        f"No chip of collection '{collection.id}' has its centre in the area and its time in the "
        f"range asked for; nothing was written. The collection covers {box}{days}."
    )
