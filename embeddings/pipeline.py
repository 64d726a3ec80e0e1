"""Imagery in, a collection out: find scenes, fit, encode, stage, publish; resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from embeddings import encoders
from embeddings.dense_store import embed_dense
from embeddings.encoders import EncoderChoice
from embeddings.encoders.base import Draft, Encoder, Wants
from embeddings.encoding import Scene, SceneEncoding, SceneTask, align, chip_plan, open_scene
from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    SourceError,
    SpecMismatchError,
    TerrakinError,
)
from embeddings.fitting import SEED, Fitted, check_resolution, fit
from embeddings.raster_job import CHIP, NATIVE, Choices, RasterJob
from embeddings.report import EmbedReport, Pace, Progress, SceneReport
from embeddings.scene_run import SceneRun, check_fits, stored_encoder
from embeddings.sources.chips import ChipPlan
from embeddings.sources.reading import Reading, SceneFile, SceneRef
from embeddings.sources.remote import fingerprint_of, is_remote, shown
from embeddings.sources.scenes import MosaicRef, find_scenes
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection, Store
from embeddings.store.layout import COLLECTION_FILE, check_scene
from embeddings.store.writer import CollectionWriter
from embeddings.types import parse_datetime
from embeddings.workers import Workers, make_workers

__all__ = ["EmbedReport", "Progress", "RasterJob", "embed_raster"]

AnyRef = SceneRef | MosaicRef

STOPPED = "Stopped as asked. What was finished is kept; the same command goes on from there."
SCENE_STEPS = 1000
"""Progress of several scenes, or stages, is counted in thousandths of one."""


def embed_raster(
    job: RasterJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    published: Callable[[Collection], None] = lambda _: None,
) -> EmbedReport:
    """Embed scenes into a collection, resuming what an earlier run left.

    Running it again with the same inputs does nothing. A scene, or a part of one, that cannot be
    read or does not fit is reported and the rest kept; if there is no rest, its error is raised.
    Raises TerrakinError with nothing left half-done; CancelledError when ``cancelled`` says so,
    after which the same call goes on. ``published`` hears of the collection after every part.
    """
    job.check()
    if job.encoder is not None:
        encoders.check_family(job.encoder)
    with Store.opened_or_made(job.store) as store:
        run = RasterRun(job, progress, cancelled, published)
        if job.replace:
            return store.made_anew(job.collection, run.goes_on, run.embed)
        return run.embed(store.path / job.collection)


@dataclass
class RasterRun:
    """All scenes of a job on their way into one collection."""

    job: RasterJob
    progress: Callable[[Progress], None]
    cancelled: Callable[[], bool]
    published: Callable[[Collection], None] = lambda _: None
    choices: Choices = field(init=False)
    reading: Reading = field(init=False)
    notes: tuple[str, ...] = ()
    failures: list[str] = field(default_factory=list)
    _marks: dict[str, str] = field(default_factory=dict)

    def embed(self, folder: Path) -> EmbedReport:
        known = load_known(folder)
        refs = self.find(known)
        if known is not None:
            encoder = self.encoder_of(known)
            self.check_first(known, refs, encoder)
            writer = CollectionWriter.resume(folder)
        else:
            fitted = self.fit(refs)
            encoder, licence = fitted.encoder, self.choices.licence
            writer = CollectionWriter.begin(folder, fitted.spec, licence, encoder.save)
        try:
            scenes = self._write_all(writer, refs, encoder)
        except InputError:
            if known is None and not writer.collection.scenes:
                writer.take_back()
            raise
        return EmbedReport(self.job.collection, scenes, tuple(self.failures))

    def goes_on(self, folder: Path) -> bool:
        """Whether what an earlier run left in ``folder`` is of this job."""
        try:
            collection = Collection.load(folder)
            refs = self.find(collection)
            self.check_first(collection, refs, self.encoder_of(collection))
        except TerrakinError:
            return False
        return collection.scene(refs[0].id) is not None

    def find(self, known: Collection | None) -> list[AnyRef]:
        """Settle the options and find the scenes; ``known`` is the collection appended to.

        What an interrupted run left of a collection to be made anew settles nothing.
        """
        job = self.job
        spec = known.spec if known is not None and not job.replace else None
        self.choices, self.reading = job.choices(spec), job.reading(spec)
        refs = find_scenes(
            job.files,
            datetime=job.datetime,
            scene=job.scene,
            each=job.each,
            mosaic=job.mosaic,
            assets=job.assets,
            mask=self.reading.mask,
        )
        for ref in refs:
            check_scene(ref.id)
        return refs

    def encoder_of(self, collection: Collection) -> Encoder:
        """Return the encoder a collection was made with. Raises SpecMismatchError."""
        encoder = stored_encoder(collection, self.job.weights)
        self._settle_chip(encoder.wants)
        return encoder

    def _settle_chip(self, wants: Wants) -> None:
        """Let the encoder choose the chip where nobody has."""
        if self.choices.chip is None:
            chip = str(wants.chip_px or CHIP)
            self.choices = replace(self.choices, chip=chip, stride=self.choices.stride or chip)

    def fit(self, refs: list[AnyRef]) -> Fitted:
        """Fit the encoder on a sample of the scenes."""
        job = self.job
        draft = encoders.draft(EncoderChoice(self.choices.encoder, job.weights, job.weights_sha256))
        self._settle_chip(draft.wants)
        self.progress(Progress(0, 1, "fitting the encoder on a sample"))
        first: list[tuple[str, ...]] = []
        fitted = fit(
            draft,
            self.choices,
            [partial(self._opened_draft, ref, draft, first) for ref in refs],
            mask=self.reading.mask,
            checked=job.scale is not None,
            cancelled=self._check_cancelled,
        )
        self.notes = fitted.notes
        return fitted

    @contextmanager
    def _opened_draft(
        self, ref: AnyRef, draft: Draft, first: list[tuple[str, ...]]
    ) -> Iterator[tuple[Scene, ChipPlan]]:
        """Open a scene for an encoder that is not fitted; ``first`` keeps the first one's bands."""
        with open_scene(ref, self.reading) as scene:
            align(scene, draft.wants, first[0] if first else None)
            check_resolution(scene, draft.wants, self.job.gsd == NATIVE)
            first[:] = first or [scene.bands]
            yield scene, self._plan(scene)

    def _plan(self, scene: Scene) -> ChipPlan:
        assert self.choices.chip is not None
        return chip_plan(scene, self.choices.chip, self.choices.stride)

    @contextmanager
    def opened(self, ref: AnyRef, encoder: Encoder, spec: EmbeddingSpec) -> Iterator[SceneEncoding]:
        """Open a scene for the encoder."""
        with open_scene(ref, self.reading) as scene:
            align(scene, encoder.wants, spec.bands)
            notes = check_resolution(scene, encoder.wants, self.job.gsd == NATIVE)
            scene.notes[:] = [*ref.notes, *scene.notes, *notes, *self.notes]
            time = parse_datetime(ref.datetime) if ref.datetime is not None else None
            yield SceneEncoding(scene, self._plan(scene), encoder, spec, ref.id, time)

    def _mark(self, ref: AnyRef, scene: Scene) -> str:
        """Return the scene's fingerprint: the content of its files and how they are read."""
        if ref.id not in self._marks:
            settings: list[Any] = [self.reading.detect_nodata, ref.datetime, SEED]
            settings += [scene.reading_rule(), self.reading.mask]
            digest = hashlib.sha256(json.dumps(settings).encode())
            for file in _files(ref):
                digest.update(f"{fingerprint_of(file)};".encode())
            self._marks[ref.id] = digest.hexdigest()
        return self._marks[ref.id]

    def check_first(self, collection: Collection, refs: list[AnyRef], encoder: Encoder) -> None:
        """Refuse another spec before anything is written; scenes that cannot be read wait."""
        for ref in refs:
            with suppress(SourceError), self.opened(ref, encoder, collection.spec) as found:
                mark = self._mark(ref, found.scene)
                check_fits(collection, ref.id, mark, encoding=found, wanted=self.choices)
                return

    def _write_all(
        self, writer: CollectionWriter, refs: list[AnyRef], encoder: Encoder
    ) -> tuple[SceneReport, ...]:
        reports: list[SceneReport] = []
        with ExitStack() as stack:
            workers = make_workers(self.job.workers, self.job.scheduler)
            stack.callback(workers.close)
            for number, ref in enumerate(refs):
                self._check_cancelled()
                stages = self._stages(number, len(refs), ref)
                try:
                    report = self._write(writer, ref, encoder, workers, stages, len(refs) > 1)
                    reports.append(report)
                except (InputError, SpecMismatchError, CollectionExistsError) as error:
                    if len(refs) == 1:
                        raise
                    self.failures.append(f"Scene '{ref.id}': {error}")
            if not reports:
                raise SourceError(
                    f"None of the {len(refs)} scenes could be embedded. {self.failures[0]}"
                )
        return tuple(reports)

    def _write(
        self,
        writer: CollectionWriter,
        ref: AnyRef,
        encoder: Encoder,
        workers: Workers,
        stages: list[Callable[[int, int], None]],
        keep_empty: bool,
    ) -> SceneReport:
        collection = writer.collection
        with self.opened(ref, encoder, collection.spec) as encoding:
            mark = self._mark(ref, encoding.scene)
            check_fits(collection, ref.id, mark, encoding=encoding, wanted=self.choices)
            assert self.choices.chip is not None
            task = SceneTask(
                ref,
                self.reading,
                self.choices.chip,
                self.choices.stride,
                ref.id,
                ref.datetime,
                json.dumps(collection.spec.to_json()),
                str(collection.path),
                str(self.job.weights) if self.job.weights is not None else None,
            )
            run = SceneRun(
                writer,
                task,
                encoding,
                mark,
                tuple(dict.fromkeys(_file_name(file) for file in _files(ref))),
                workers,
                stages[0],
                self._check_cancelled,
                self.published,
                keep_empty,
            )
            report = run.run()
            failures = list(run.failures)
            if self.job.dense is not None and report.embedded:
                dense = embed_dense(
                    collection.path,
                    encoding,
                    self.job.dense,
                    mark,
                    stages[1],
                    self._check_cancelled,
                )
                failures += dense.failures
                report = replace(report, dense=dense.valid)
        self.failures += [f"Scene '{ref.id}': {text}" for text in dict.fromkeys(failures)]
        return replace(report, notes=(*report.notes, *encoder.notes))

    def _stages(self, number: int, scenes: int, ref: AnyRef) -> list[Callable[[int, int], None]]:
        """Return what turns the progress of a scene's chips, then of its cells, into the run's."""
        units = ["chips"] if self.job.dense is None else ["chips", "dense vectors"]
        whose = f"scene {number + 1} of {scenes}, '{ref.id}': " if scenes > 1 else ""

        def stage(first: int, unit: str) -> Callable[[int, int], None]:
            pace: list[Pace] = []

            def tell(done: int, total: int) -> None:
                pace[:] = pace or [Pace(total, unit)]
                message = f"{whose}{pace[0].message(done)}"
                if scenes == len(units) == 1:
                    self.progress(Progress(done, total, message))
                    return
                share = SCENE_STEPS * done // max(total, 1)
                most = SCENE_STEPS * scenes * len(units)
                self.progress(Progress(SCENE_STEPS * first + share, most, message))

            return tell

        return [stage(number * len(units) + step, unit) for step, unit in enumerate(units)]

    def _check_cancelled(self) -> None:
        if self.cancelled():
            raise CancelledError(STOPPED)


def load_known(folder: Path) -> Collection | None:
    """Return the collection in a folder, or None if there is none."""
    if not (folder / COLLECTION_FILE).exists():
        return None
    try:
        return Collection.load(folder)
    except CollectionNotFoundError:
        return None


def _files(ref: AnyRef) -> list[SceneFile]:
    members = ref.members if isinstance(ref, MosaicRef) else (ref,)
    return [file for member in members for file in member.files]


def _file_name(file: SceneFile) -> str:
    return shown(file.uri) if is_remote(file.uri) else Path(file.uri).name
