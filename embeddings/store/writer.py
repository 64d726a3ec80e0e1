"""The only writer of collections: stages batches, publishes parts, and can be killed anywhere.

See docs/decisions/0001-staged-batches.md for why batches are staged.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from embeddings.atomic import atomic_path, sweep, writing_to
from embeddings.errors import StoreError, StoreFormatError
from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection, Part, Scene
from embeddings.store.layout import STAGING_FOLDER, part_file, staged_file
from embeddings.store.schema import arrow_schema, write_part

ORDER_COLUMN = "order"
"""Staged rows carry their place on the space-filling curve; parts are sorted by it."""


class CollectionWriter:
    """Writes one collection. Hold the store's lock while using it."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Go on with the collection at ``path``."""
        sweep(path)
        return cls(Collection.load(path))

    @classmethod
    def begin(
        cls, path: Path, spec: EmbeddingSpec, licence: str, save_encoder: Callable[[Path], None]
    ) -> Self:
        """Begin a collection at ``path``; ``collection.json`` comes last and makes it one."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        collection = Collection(path, path.name, spec, licence, (), now, now)
        try:
            sweep(path)
            save_encoder(path)
            collection.save()
        except StoreError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(collection)

    def begin_scene(self, scene: Scene) -> None:
        """Record a new scene, or go on with one begun before (same id and fingerprint)."""
        known = self.collection.scene(scene.id)
        if known is None:
            self._forget_staging(scene.id)
            self._record(scene)

    def scene(self, scene_id: str) -> Scene:
        """Return a scene that was begun."""
        scene = self.collection.scene(scene_id)
        if scene is None:
            raise KeyError(scene_id)
        return scene

    def is_published(self, scene_id: str, part: int) -> bool:
        """Whether the part stands whole in the collection."""
        return part_file(scene_id, part) in {p.file for p in self.scene(scene_id).parts}

    def is_staged(self, scene_id: str, batch: int) -> bool:
        """Whether the batch was finished in this or an earlier run."""
        return staged_file(self.collection.path, scene_id, batch).exists()

    def stage(self, scene_id: str, batch: int, rows: pa.Table) -> None:
        """Keep a finished batch. ``rows`` has the columns of a part and ``order`` (uint64)."""
        with (
            atomic_path(staged_file(self.collection.path, scene_id, batch)) as path,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, rows.schema) as writer,
        ):
            writer.write_table(rows)

    def publish(self, scene_id: str, part: int, batches: Sequence[int], planned: int) -> Part:
        """Write the part of the staged ``batches``, record it, and drop the batches.

        ``planned`` is the number of chips of these batches; those without a row are absent.
        """
        folder = self.collection.path
        staged = [staged_file(folder, scene_id, batch) for batch in batches]
        table = pa.concat_tables([_read_staged(path) for path in staged])
        table = table.sort_by(ORDER_COLUMN).drop_columns(ORDER_COLUMN)
        published = self.write_part(scene_id, part, table)
        self.record_part(scene_id, published, planned)
        for staged_path in staged:
            staged_path.unlink()
        return published

    def write_part(self, scene_id: str, part: int, table: pa.Table) -> Part:
        """Write one part and describe it. May run in several threads, for different parts."""
        file = part_file(scene_id, part)
        target = self.collection.path / file
        with atomic_path(target) as path:
            write_part(path, table, self.collection.spec)
        content = target.read_bytes()
        return Part(file, table.num_rows, len(content), hashlib.sha256(content).hexdigest())

    def record_part(self, scene_id: str, part: Part, planned: int) -> None:
        """Make a written part belong to the collection; ``planned`` rows were looked for."""
        scene = self.scene(scene_id)
        absent = scene.absent + planned - part.rows
        self._record(replace(scene, parts=(*scene.parts, part), absent=absent))

    def finish_scene(self, scene_id: str) -> Scene:
        """Mark the scene complete and drop its staging."""
        self._record(replace(self.scene(scene_id), complete=True))
        self._forget_staging(scene_id)
        return self.scene(scene_id)

    def drop_scene(self, scene_id: str) -> None:
        """Take a scene without rows out of the collection again."""
        dropped = self.scene(scene_id)
        self.collection = self.collection.without_scene(scene_id)
        self.collection.save()
        for part in dropped.parts:
            (self.collection.path / part.file).unlink(missing_ok=True)
        self._forget_staging(scene_id)

    def _record(self, scene: Scene) -> None:
        self.collection = self.collection.with_scene(scene)
        self.collection.save()

    def _forget_staging(self, scene_id: str) -> None:
        folder = self.collection.path / STAGING_FOLDER
        with writing_to(folder):
            shutil.rmtree(folder / scene_id, ignore_errors=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def batch_table(columns: dict[str, Any], spec: EmbeddingSpec) -> pa.Table:
    """Build the rows of a batch from arrays named as the columns of a part, and ``order``."""
    schema = arrow_schema(spec).append(pa.field(ORDER_COLUMN, pa.uint64(), nullable=False))
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _read_staged(path: Path) -> pa.Table:
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all().combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise StoreFormatError(
            f"The staged batch {path} is damaged ({error}). Delete it and run the same command "
            "again."
        ) from error
