"""The images of a table become rows: staged batch by batch, published part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely

from embeddings import codec
from embeddings.chip_job import ReadChips, TablePlan
from embeddings.encoders import Encoder
from embeddings.encoding import cells, normalise
from embeddings.report import Pace, Progress
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection
from embeddings.store.coverage import absent_table, with_absent
from embeddings.store.layout import staged_file
from embeddings.store.schema import box_rows, embedding_array, rows_per_part
from embeddings.store.writer import CollectionWriter, batch_table

_UNREADABLE = b"terrakin:unreadable"
"""Key of a staged batch's schema: how many of its images could not be read."""


@dataclass
class ChipWriting:
    """Encodes what is missing of a table, batch by batch, part by part."""

    writer: CollectionWriter
    plan: TablePlan
    spec: EmbeddingSpec
    encoder: Encoder
    progress: Callable[[Progress], None]
    stop: Callable[[], None]
    published: Callable[[Collection], None]

    def run(self) -> int:
        """Return how many chips of staged batches were found done."""
        scene_id, total = self.plan.job.scene_id(), self.plan.table.rows
        pace = Pace(total)
        done = resumed = 0
        numbered = list(enumerate(self.plan.batches))
        per_part = max(1, rows_per_part(self.spec) // len(numbered[0][1]))
        for part, start in enumerate(range(0, len(numbered), per_part)):
            batches = numbered[start : start + per_part]
            planned = sum(len(rows) for _, rows in batches)
            if self.writer.is_published(scene_id, part):
                done += planned
                continue
            for number, rows in batches:
                self.stop()
                if self.writer.is_staged(scene_id, number):
                    resumed += len(rows)
                else:
                    self.writer.stage(scene_id, number, self._table(rows))
                done += len(rows)
                self.progress(Progress(done, total, pace.message(done)))
            staged = [number for number, _ in batches]
            missing = sum(self._unreadable(scene_id, number) for number in staged)
            self.writer.publish(scene_id, part, staged, planned, missing)
            self.published(self.writer.collection)
        return resumed

    def _unreadable(self, scene_id: str, batch: int) -> int:
        path = staged_file(self.writer.collection.path, scene_id, batch)
        with pa.OSFile(str(path)) as source:
            metadata = pa.ipc.open_file(source).schema.metadata or {}
        return int(metadata.get(_UNREADABLE, b"0"))

    def _table(self, rows: Sequence[int]) -> pa.Table:
        assert self.spec.preprocessing is not None
        read = self.plan.read(rows, self.spec.preprocessing.min_valid)
        table = with_absent(self._rows(read), self._absent(read))
        metadata = {**(table.schema.metadata or {}), _UNREADABLE: str(len(read.unreadable))}
        return table.replace_schema_metadata(metadata)

    def _rows(self, read: ReadChips) -> pa.Table:
        vectors = np.empty((0, self.spec.dim), np.float32)
        if len(read.pixels):
            assert self.spec.preprocessing is not None
            vectors = self.encoder.encode(normalise(read.pixels, self.spec.preprocessing))
        table, kept = self.plan.table, np.asarray(read.kept, dtype=np.int64)
        lon, lat = table.lon[kept], table.lat[kept]
        geometry, boxes = self._shapes(read.kept)
        attributes = table.attributes.take(pa.array(kept))
        return batch_table(
            {
                "id": [table.ids[row] for row in read.kept],
                "grid_cell": cells(self.spec.grid_km, lon, lat),
                "datetime": [table.times[row] for row in read.kept],
                "lon": lon,
                "lat": lat,
                "bbox": boxes,
                "geometry": geometry,
                "embedding": embedding_array(
                    codec.encode(vectors, self.spec.dtype, self.spec.scale)
                ),
                "order": self.plan.order(read.kept),
                **{name: attributes[name].combine_chunks() for name in attributes.column_names},
            },
            self.spec,
        )

    def _absent(self, read: ReadChips) -> pa.Table:
        table, rows = self.plan.table, np.asarray(read.absent, dtype=np.int64)
        geometry, boxes = self._shapes(read.absent)
        names = [table.ids[row] for row in read.absent]
        share = np.asarray(read.share, dtype=np.float32)
        return absent_table(names, table.lon[rows], table.lat[rows], share, boxes, geometry)

    def _shapes(self, rows: Sequence[int]) -> tuple[list[bytes], list[dict[str, float]]]:
        shapes, boxes = self.plan.footprints(rows)
        named = box_rows(boxes)
        return shapely.to_wkb(shapes, byte_order=1).tolist(), named
