"""Images listed in a table become a collection: check, fit, encode, stage, publish. Resumable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import encoders
from embeddings.chip_job import ChipsJob, TablePlan
from embeddings.chip_rows import ChipWriting
from embeddings.encoders import Draft, Encoder, EncoderChoice
from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    NoDataError,
    TerrakinError,
)
from embeddings.fitting import (
    FEW_CHIPS,
    SAMPLE_BYTES,
    SAMPLE_CHIPS,
    SEED,
    check_resolution,
    check_values,
    fit_on,
)
from embeddings.pipeline import STOPPED, load_known
from embeddings.raster_job import Choices
from embeddings.report import EmbedReport, Progress, SceneReport
from embeddings.scene_run import asked, check_joins, stored_encoder
from embeddings.sources.chip_table import SHOWN, adapted, check_images, read_chip_table
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection, Scene, Store
from embeddings.store.layout import COLLECTION_FILE
from embeddings.store.writer import CollectionWriter
from embeddings.types import Bounds, union_bounds

READ_AT_ONCE = 64
"""Images of the sample that are read between two looks at whether to stop."""


def embed_chips(
    job: ChipsJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    published: Callable[[Collection], None] = lambda _: None,
) -> EmbedReport:
    """Embed the images of a table into a collection, resuming what an earlier run left.

    All rows are checked before anything is written. Images whose pixels turn out to be unreadable
    are left out, counted as missing and named in the report's ``failures``. Running it again with
    the same inputs does nothing. Raises TerrakinError; CancelledError when ``cancelled`` says so,
    after which the same call goes on. ``published`` hears of the collection after every part.
    """
    job.check()
    known = None if job.replace else load_known(job.store / job.collection)
    choices = job.choices(known.spec if known is not None else None)
    draft = None
    if known is None:
        choice = EncoderChoice(choices.encoder, job.weights, job.weights_sha256)
        draft = encoders.draft(choice)
    stop = _Stop(cancelled)
    table = read_chip_table(job.table)

    def tick(done: int) -> None:
        stop()
        progress(Progress(0, table.rows, f"{done:,} of {table.rows:,} images checked"))

    images = check_images(table, tick)
    plan = TablePlan.of(job, table, images)
    run = _Run(job, choices, plan, draft, progress, stop, published)
    with Store.opened_or_made(job.store) as store:
        return run.into(store)


@dataclass(frozen=True)
class _Stop:
    """Raises CancelledError when it is called and the caller has asked to stop."""

    cancelled: Callable[[], bool]

    def __call__(self) -> None:
        if self.cancelled():
            raise CancelledError(STOPPED)


@dataclass
class _Run:
    """One table on its way into one collection."""

    job: ChipsJob
    choices: Choices
    plan: TablePlan
    draft: Draft | None
    """None where the collection has its encoder."""
    progress: Callable[[Progress], None]
    stop: _Stop
    published: Callable[[Collection], None]

    def into(self, store: Store) -> EmbedReport:
        if self.job.replace:
            return store.made_anew(self.job.collection, self._goes_on, self._embed)
        return self._embed(store.path / self.job.collection)

    def _goes_on(self, folder: Path) -> bool:
        """Whether an unfinished collection in ``folder`` is of this same table and settings."""
        try:
            collection = Collection.load(folder)
            self._continue(collection)
        except TerrakinError:
            return False
        return collection.scene(self.job.scene_id()) is not None

    def _embed(self, folder: Path) -> EmbedReport:
        scene_id = self.job.scene_id()
        notes: tuple[str, ...] = ()
        if (folder / COLLECTION_FILE).exists():
            spec, encoder, plan = self._continue(Collection.load(folder))
            writer = CollectionWriter.resume(folder)
        else:
            spec, encoder, plan, notes = self._fit()
            writer = CollectionWriter.begin(folder, spec, self.choices.licence, encoder.save)
        known = writer.collection.scene(scene_id)
        if known is not None and known.fingerprint != plan.fingerprint:
            known = None  # begun anew, since images that could not be read have changed
        resumed = known.embedded if known else 0
        if known is None or not known.complete:
            self._check_ids(writer.collection)
            writer.begin_scene(_record(plan, (*_notes(plan), *notes)))
            resumed += ChipWriting(
                writer, plan, spec, encoder, self.progress, self.stop, self.published
            ).run()
            writer.finish_scene(scene_id)
            self.published(writer.collection)
        done = writer.scene(scene_id)
        failures = self._failures(done, plan)
        if not done.embedded:
            writer.drop_scene(scene_id)
            text = failures[0] if failures else f"No image of '{self.job.table}' has data."
            raise NoDataError(f"{text} Nothing was added.")
        return EmbedReport(self.job.collection, (SceneReport.of(done, resumed),), failures)

    def _continue(self, collection: Collection) -> tuple[EmbeddingSpec, Encoder, TablePlan]:
        """Return spec and encoder of the collection, and the plan with its order of bands.

        Raises CollectionExistsError or SpecMismatchError if the table cannot go in there.
        """
        scene_id = self.job.scene_id()
        stored = collection.spec
        encoder = stored_encoder(collection, self.job.weights)
        table = adapted(self.plan.table, stored.attributes)
        plan = replace(self.plan, table=table).sized(stored.layout)
        plan = plan.aligned(encoder.wants, stored.bands)
        _check_same(collection, scene_id, plan)
        kinds = plan.table.kinds
        spec = asked(stored, encoder, plan, plan.layout, self.choices, kinds)
        differences = stored.differences(spec)
        if stored.layout is not None and stored.layout.chip_px != plan.layout.chip_px:
            sizes = [f"{w} x {h} pixels" for h, w in (stored.layout.chip_px, plan.layout.chip_px)]
            differences.append(f"images (collection: {sizes[0]}, asked: {sizes[1]})")
        check_joins(collection, scene_id, differences)
        return stored, encoder, plan

    def _check_ids(self, collection: Collection) -> None:
        """Raise CollectionExistsError if another table has chips of the same ids."""
        others = [s for s in collection.scenes if s.id != self.job.scene_id()]
        taken = {name for scene in others for name in _ids(collection, scene)}
        both = [name for name in self.plan.table.ids if name in taken]
        if both:
            raise CollectionExistsError(
                f"Collection '{collection.id}' has {len(both):,} chips of the same ids: "
                f"{', '.join(both[:SHOWN])}. Give the table a column id with other ones."
            )

    def _fit(self) -> tuple[EmbeddingSpec, Encoder, TablePlan, tuple[str, ...]]:
        """Fit the encoder on a sample of the images and describe the collection."""
        assert self.draft is not None
        wants = self.draft.wants
        plan = self.plan.aligned(wants, None)
        self.progress(Progress(0, plan.table.rows, "fitting the encoder on a sample"))
        chips = self._sample(plan, SAMPLE_CHIPS if wants.standardised else FEW_CHIPS)
        notes = check_values(chips, wants) if self.job.scale is None else ()
        if plan.knows_size:
            notes += check_resolution(plan, wants, native=True)
        spec, encoder = fit_on(chips, self.draft, self.choices, plan, plan)
        return replace(spec, attributes=plan.table.kinds), encoder, plan, notes

    def _sample(self, plan: TablePlan, chips: int) -> NDArray[np.float32]:
        """Return up to ``chips`` chips with data, in a seeded choice; large ones are fewer."""
        shape = (len(plan.bands), plan.kind.height, plan.kind.width)
        rows = np.random.default_rng(SEED).permutation(plan.table.rows).tolist()
        most = min(chips, max(64, SAMPLE_BYTES // (4 * math.prod(shape))), len(rows))
        sample, count = np.empty((most, *shape), np.float32), 0
        for start in range(0, len(rows), READ_AT_ONCE):
            self.stop()
            here = rows[start : start + READ_AT_ONCE]
            found = plan.read(here, self.choices.min_valid).pixels[: most - count]
            sample[count : count + len(found)] = found
            count += len(found)
            if count == most:
                break
        if not count:
            raise NoDataError(
                f"No image of '{self.job.table}' can be read and has data. Check the files and "
                "--nodata."
            )
        return sample[:count]

    def _failures(self, scene: Scene, plan: TablePlan) -> tuple[str, ...]:
        """Name the first images that could not be read, with the reason.

        They are read once more, since this may be another run than the one that met them.
        """
        if not scene.missing:
            return ()
        found: dict[int, str] = {}
        for start in range(0, plan.table.rows, READ_AT_ONCE):
            self.stop()
            rows = range(start, min(start + READ_AT_ONCE, plan.table.rows))
            found |= plan.read(rows, self.choices.min_valid).unreadable
            if len(found) >= min(SHOWN, scene.missing):
                break
        shown = "; ".join(
            f"row {row + 1}: '{plan.table.files[row]}' {found[row]}" for row in list(found)[:SHOWN]
        )
        return (f"{scene.missing:,} of {scene.planned:,} images could not be read: {shown}.",)


def _notes(plan: TablePlan) -> tuple[str, ...]:
    """Return what the user should know of the table."""
    if plan.knows_size:
        return plan.table.notes
    return (
        *plan.table.notes,
        f"Nothing says how large the chips are on the ground: their footprints are squares of "
        f"{plan.side_m:g} m around the centres. --chip-size sets it.",
    )


def _check_same(collection: Collection, scene_id: str, plan: TablePlan) -> None:
    """Raise CollectionExistsError if there is such a scene, of another table or other images.

    Images may change as long as some could not be read.
    """
    known = collection.scene(scene_id)
    if known is None or known.fingerprint == plan.fingerprint:
        return
    table = known.fingerprint[:32] != plan.fingerprint[:32]
    if not table and known.missing:
        return
    changed = "the table or the settings are not those" if table else "images are not those"
    raise CollectionExistsError(
        f"Collection '{collection.id}' holds '{scene_id}' already, but {changed} it was made of. "
        "Name this one with --scene, or make the collection anew with --replace."
    )


def _record(plan: TablePlan, notes: tuple[str, ...]) -> Scene:
    """Describe the table. Only the chips themselves say where it has data: no footprint."""
    _, boxes = plan.footprints(range(plan.table.rows))
    bounds = union_bounds([Bounds(*box) for box in boxes.tolist()])
    assert bounds is not None
    times = set(plan.table.times)
    time = times.pop() if len(times) == 1 else None
    return Scene(
        id=plan.job.scene_id(),
        fingerprint=plan.fingerprint,
        files=(plan.table.path.name,),
        datetime=time.isoformat() if time else None,
        footprint={"type": "MultiPolygon", "coordinates": []},
        bbox=bounds.west_south_east_north(),
        planned=plan.table.rows,
        absent=0,
        complete=False,
        parts=(),
        notes=notes,
    )


def _ids(collection: Collection, scene: Scene) -> list[str]:
    found: list[str] = []
    for part in scene.parts:
        table = pq.read_table(collection.path / part.file, columns=["id"], partitioning=None)
        found += table["id"].to_pylist()
    return found
