"""The only writer of collections: stages batches, publishes parts, and can be killed anywhere.

See docs/decisions/0001-staged-batches.md for why batches are staged.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from embeddings.atomic import atomic_path, sweep, writing_to
from embeddings.errors import StoreError, StoreFormatError
from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection, Part, Scene
from embeddings.store.coverage import write_coverage
from embeddings.store.layout import (
    DENSE_FOLDER,
    STAGING_FOLDER,
    coverage_file,
    part_file,
    staged_file,
)
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

    def take_back(self) -> None:
        """Remove a collection that was begun and got no scene."""
        shutil.rmtree(self.collection.path, ignore_errors=True)

    def begin_scene(self, scene: Scene) -> None:
        """Record a new scene, or go on with one begun before (same id and fingerprint).

        One begun with another fingerprint is dropped first.
        """
        known = self.collection.scene(scene.id)
        if known is not None and known.fingerprint != scene.fingerprint:
            self.drop_scene(scene.id)
            known = None
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

    def staged_rows(self, scene_id: str, batch: int) -> int:
        """Return how many rows a finished batch has. Raises StoreFormatError."""
        return int(_read_staged(staged_file(self.collection.path, scene_id, batch)).num_rows)

    def stage(self, scene_id: str, batch: int, rows: pa.Table) -> None:
        """Keep a finished batch. ``rows`` has the columns of a part and ``order`` (uint64)."""
        with (
            atomic_path(staged_file(self.collection.path, scene_id, batch)) as path,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, rows.schema) as writer,
        ):
            writer.write_table(rows)

    def publish(
        self, scene_id: str, part: int, batches: Sequence[int], planned: int, missing: int = 0
    ) -> Part:
        """Write the part of the staged ``batches``, record it, and drop the batches.

        ``planned`` is the number of the part's chips, of which ``missing`` could not be read: then
        the staged batches are kept, for the part to be made again. Others without a row are
        absent.
        """
        folder = self.collection.path
        staged = [staged_file(folder, scene_id, batch) for batch in batches]
        tables = [_read_staged(path) for path in staged]
        write_coverage(folder / coverage_file(scene_id, part), tables)
        schema = self._staged_schema()
        table = pa.concat_tables(
            [schema.empty_table(), *(table.replace_schema_metadata(None) for table in tables)]
        )
        table = table.sort_by(ORDER_COLUMN).drop_columns(ORDER_COLUMN)
        published = self.write_part(scene_id, part, table)
        self.record_part(scene_id, published, planned, missing)
        if not missing:
            for staged_path in staged:
                staged_path.unlink()
        return published

    def _staged_schema(self) -> pa.Schema:
        schema = arrow_schema(self.collection.spec)
        return schema.append(pa.field(ORDER_COLUMN, pa.uint64(), nullable=False))

    def fail(self, scene_id: str, batch: int) -> None:
        """Record that a batch could not be read."""
        scene = self.scene(scene_id)
        self._record(replace(scene, failed=tuple(sorted({*scene.failed, batch}))))

    def forget_failures(self, scene_id: str, batches: set[int]) -> None:
        """Take back that batches failed whose part is not published: they are tried again."""
        scene = self.scene(scene_id)
        failed = tuple(number for number in scene.failed if number not in batches)
        self._record(replace(scene, failed=failed))

    def reopen(self, scene_id: str, part: int, planned: int, failed: Mapping[int, int]) -> None:
        """Take a part whose batches ``failed`` (number: chips) back, for it to be made again."""
        scene = self.scene(scene_id)
        file, missing = part_file(scene_id, part), sum(failed.values())
        rows = sum(known.rows for known in scene.parts if known.file == file)
        self._record(
            replace(
                scene,
                parts=tuple(known for known in scene.parts if known.file != file),
                failed=tuple(number for number in scene.failed if number not in failed),
                missing=scene.missing - missing,
                absent=scene.absent - (planned - missing - rows),
            )
        )

    def write_part(self, scene_id: str, part: int, table: pa.Table) -> Part:
        """Write one part and describe it. May run in several threads, for different parts."""
        file = part_file(scene_id, part)
        target = self.collection.path / file
        with atomic_path(target) as path:
            write_part(path, table, self.collection.spec)
        content = target.read_bytes()
        return Part(file, table.num_rows, len(content), hashlib.sha256(content).hexdigest())

    def record_part(self, scene_id: str, part: Part, planned: int, missing: int = 0) -> None:
        """Make a written part belong to the collection; ``planned`` rows were looked for."""
        scene = self.scene(scene_id)
        parts = sorted((*scene.parts, part), key=lambda known: known.file)
        absent = scene.absent + planned - missing - part.rows
        self._record(
            replace(scene, parts=tuple(parts), absent=absent, missing=scene.missing + missing)
        )

    def finish_scene(self, scene_id: str) -> Scene:
        """Mark the scene complete and drop its staging, unless something could not be read."""
        scene = self.scene(scene_id)
        if not scene.failed:
            self._record(replace(scene, complete=True))
            self._forget_staging(scene_id)
        return self.scene(scene_id)

    def drop_scene(self, scene_id: str) -> None:
        """Take a scene without rows out of the collection again."""
        dropped = self.scene(scene_id)
        self.collection = self.collection.without_scene(scene_id)
        self.collection.save()
        for part in dropped.parts:
            (self.collection.path / part.file).unlink(missing_ok=True)
        for number in range(len(dropped.parts)):
            (self.collection.path / coverage_file(scene_id, number)).unlink(missing_ok=True)
        _drop_dense(self.collection.path / DENSE_FOLDER, scene_id)
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


def _drop_dense(folder: Path, scene_id: str) -> None:
    """Remove the dense vectors of a scene: SCENE-STRIDE/ and SCENE-STRIDE.parquet."""
    if folder.is_dir():
        for path in folder.iterdir():
            if re.fullmatch(rf"{re.escape(scene_id)}-\d+(\.parquet)?", path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


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
