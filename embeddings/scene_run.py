"""One scene on its way into one collection: staged batch by batch, published part by part."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import shapely

from embeddings import encoders
from embeddings.encoders import Encoder
from embeddings.encoding import SceneEncoding, SceneTask
from embeddings.errors import CollectionExistsError, NoDataError, SourceError, SpecMismatchError
from embeddings.raster_job import Choices
from embeddings.report import SceneReport
from embeddings.sources.chips import Batch
from embeddings.sources.footprints import polygons
from embeddings.sources.masks import MaskRule
from embeddings.spec import ChipLayout, EmbeddingSpec
from embeddings.store import Collection, Scene
from embeddings.store.schema import rows_per_part
from embeddings.store.writer import CollectionWriter
from embeddings.workers import Work, Workers


@dataclass
class SceneRun:
    """Writes one opened scene. ``tell(done, planned)`` hears of its progress, in chips."""

    writer: CollectionWriter
    task: SceneTask
    encoding: SceneEncoding
    mark: str
    """The scene's fingerprint."""
    files: tuple[str, ...]
    workers: Workers
    tell: Callable[[int, int], None]
    check_cancelled: Callable[[], None]
    published: Callable[[Collection], None]
    keep_empty: bool
    """Whether a scene without data is kept, as known to have none."""
    failures: list[str] = field(default_factory=list)

    def run(self) -> SceneReport:
        """Write what is missing. Raises NoDataError if the scene has no chip with data."""
        scene_id = self.task.scene_id
        known = self.writer.collection.scene(scene_id)
        if known is None or not known.complete:
            self.writer.begin_scene(self._record())
            resumed = self._write()
            self.writer.finish_scene(scene_id)
            self.published(self.writer.collection)
        else:
            resumed = known.embedded
            self.tell(known.planned, known.planned)
        done = self.writer.scene(scene_id)
        if not done.embedded and self.failures:
            self.writer.drop_scene(scene_id)
            raise SourceError(self.failures[0])
        if not done.embedded and not self.keep_empty:
            self.writer.drop_scene(scene_id)
            raise NoDataError(
                f"Scene '{scene_id}' has no chip with enough data; nothing was added. Choose a "
                "smaller --chip or --min-valid, or check --nodata."
            )
        return SceneReport.of(done, resumed)

    def _record(self) -> Scene:
        scene = self.encoding.scene
        lon, lat = scene.outline()
        shapes, boxes = polygons(lon[None], lat[None])
        west, south, east, north = boxes[0].tolist()
        time = self.encoding.time
        return Scene(
            id=self.task.scene_id,
            fingerprint=self.mark,
            files=self.files,
            datetime=time.isoformat() if time else None,
            footprint=json.loads(shapely.to_geojson(shapes[0])),
            bbox=(west, south, east, north),
            planned=self.encoding.plan.chips,
            absent=0,
            complete=False,
            parts=(),
            notes=tuple(dict.fromkeys(scene.notes)),
            pixels=scene.pixel_rule(),
            grid=self.encoding.plan.to_json(),
        )

    def _write(self) -> int:
        """Encode what is missing; return how many vectors an earlier run left."""
        scene_id = self.task.scene_id
        parts = _parts(self.encoding.plan.batches(), rows_per_part(self.encoding.spec))
        self._reopen(parts)
        left = [
            (number, batches)
            for number, batches in enumerate(parts)
            if not self.writer.is_published(scene_id, number)
        ]
        todo = [
            batch
            for _, batches in left
            for batch in batches
            if not self.writer.is_staged(scene_id, batch.number)
        ]
        total = self.encoding.plan.chips
        waiting = {batch.number for batch in todo}
        resumed = self.writer.scene(scene_id).embedded + sum(
            self.writer.staged_rows(scene_id, batch.number)
            for _, batches in left
            for batch in batches
            if batch.number not in waiting
        )
        done = total - sum(batch.chips for batch in todo)
        for batch, rows in self._encoded(todo):
            if isinstance(rows, SourceError):
                self.writer.fail(scene_id, batch.number)
                self.failures.append(str(rows))
            else:
                self.writer.stage(scene_id, batch.number, rows)
            waiting.discard(batch.number)
            done += batch.chips
            self.tell(done, total)
            left = self._publish(left, waiting)
        self._publish(left, waiting)
        return resumed

    def _encoded(self, todo: Sequence[Batch]) -> Any:
        for outcome in self.workers.encode(Work(self.task, self.encoding), todo):
            yield outcome
            self.check_cancelled()

    def _publish(
        self, left: list[tuple[int, list[Batch]]], waiting: set[int]
    ) -> list[tuple[int, list[Batch]]]:
        """Publish the leading parts whose batches are all done; return those that are not."""
        scene_id = self.task.scene_id
        while left and not waiting & {batch.number for batch in left[0][1]}:
            number, batches = left.pop(0)
            failed = set(self.writer.scene(scene_id).failed)
            kept = [batch.number for batch in batches if batch.number not in failed]
            planned = sum(batch.chips for batch in batches)
            missing = sum(batch.chips for batch in batches if batch.number in failed)
            self.writer.publish(scene_id, number, kept, planned, missing)
            self.published(self.writer.collection)
        return left

    def _reopen(self, parts: Sequence[Sequence[Batch]]) -> None:
        """Try again what could not be read in an earlier run."""
        scene_id = self.task.scene_id
        for number, batches in enumerate(parts):
            before = set(self.writer.scene(scene_id).failed)
            failed = {batch.number: batch.chips for batch in batches if batch.number in before}
            if failed and self.writer.is_published(scene_id, number):
                planned = sum(batch.chips for batch in batches)
                self.writer.reopen(scene_id, number, planned, failed)
            elif failed:
                self.writer.forget_failures(scene_id, set(failed))


def stored_encoder(collection: Collection, weights: Path | None) -> Encoder:
    """Return the encoder of a collection of imagery. Raises SpecMismatchError for places."""
    if collection.spec.preprocessing is None:
        raise SpecMismatchError(
            f"Collection '{collection.id}' holds embeddings of places, not of imagery. Use "
            "another --collection, or make it anew with --replace."
        )
    return encoders.load(collection.path, weights)


def check_fits(
    collection: Collection, scene_id: str, mark: str, *, encoding: SceneEncoding, wanted: Choices
) -> None:
    """Raise CollectionExistsError or SpecMismatchError if the scene cannot go in there."""
    known = collection.scene(scene_id)
    if known is not None and known.fingerprint != mark and not known.failed:
        raise CollectionExistsError(
            f"Collection '{collection.id}' holds a scene '{scene_id}' made from other files or "
            "settings. Name this one with --scene, or make the collection anew with --replace."
        )
    layout = encoding.plan.layout
    spec = asked(collection.spec, encoding.encoder, encoding.scene, layout, wanted)
    pre, mask = spec.preprocessing, encoding.scene.mask
    if pre is not None and mask != (MaskRule.parse(pre.mask).text if pre.mask else None):
        spec = replace(spec, preprocessing=replace(pre, mask=mask))
    check_joins(collection, scene_id, collection.spec.differences(spec))


def check_joins(collection: Collection, scene_id: str, differences: Sequence[str]) -> None:
    """Raise CollectionExistsError for a name like another's, SpecMismatchError for differences."""
    for other in collection.scenes:
        if other.id != scene_id and other.id.lower() == scene_id.lower():
            # Windows and macOS would give both the same files.
            raise CollectionExistsError(
                f"Collection '{collection.id}' holds a scene '{other.id}'; '{scene_id}' "
                "differs only in upper and lower case. Name this one otherwise with --scene."
            )
    if differences:
        raise SpecMismatchError(
            f"Collection '{collection.id}' has another spec: {'; '.join(differences)}. Use "
            "another --collection, or make it anew with --replace."
        )


class Images(Protocol):
    """A scene, or the images of a table."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the encoder's order."""

    @property
    def gsd_m(self) -> float:
        """Metres a pixel."""

    @property
    def scale(self) -> tuple[float, ...]:
        """What the numbers of each band are multiplied with."""


def asked(
    stored: EmbeddingSpec,
    encoder: Encoder,
    images: Images,
    layout: ChipLayout,
    wanted: Choices,
    attributes: tuple[tuple[str, str], ...] = (),
) -> EmbeddingSpec:
    """Return the stored spec with all that this run asks for or the images bring."""
    pre = stored.preprocessing
    dtype: Any = wanted.dtype
    assert pre is not None
    return replace(
        stored,
        model=wanted.encoder,
        weights_sha256=encoder.sha256,
        model_version=encoder.version,
        dtype=dtype,
        bands=images.bands,
        gsd_m=round(images.gsd_m, 4),
        layout=layout,
        preprocessing=replace(pre, scale=images.scale, min_valid=wanted.min_valid),
        source=wanted.source,
        licence=wanted.licence,
        attributes=attributes,
    )


def _parts(batches: Sequence[Batch], rows: int) -> list[list[Batch]]:
    """Group consecutive batches so that a part holds about ``rows`` chips."""
    groups: list[list[Batch]] = [[]]
    for batch in batches:
        if groups[-1] and sum(b.chips for b in groups[-1]) + batch.chips > rows:
            groups.append([])
        groups[-1].append(batch)
    return groups
