"""Imagery in, a collection out: plan, fit, encode, stage, publish. Resumable and cancellable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import shapely
from numpy.typing import NDArray

from embeddings import codec, encoders
from embeddings.encoders import Encoder
from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    NoDataError,
    SpecMismatchError,
    TerrakinError,
)
from embeddings.grid import MajorTomGrid
from embeddings.raster_job import (
    Choices,
    EmbedReport,
    Progress,
    RasterJob,
    nodata_rule,
    scene_time,
)
from embeddings.sources.chips import Batch, ChipGrid, chip_layout, polygons
from embeddings.sources.files import RESAMPLING, fingerprint
from embeddings.sources.raster import RasterScene
from embeddings.spec import ChipLayout, Dtype, EmbeddingSpec, Preprocessing
from embeddings.store import Collection, Scene, Store
from embeddings.store.layout import (
    COLLECTION_FILE,
    check_name,
    check_scene,
    scene_from,
)
from embeddings.store.order import hilbert_index
from embeddings.store.schema import embedding_array, rows_per_part
from embeddings.store.writer import CollectionWriter, batch_table

__all__ = ["EmbedReport", "Progress", "RasterJob", "embed_raster"]

GRID_KM = 10.0
SAMPLE_CHIPS = 4096
SAMPLE_BYTES = 512 * 2**20
SAMPLE_ROWS = 64
SEED = 0


def embed_raster(
    job: RasterJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> EmbedReport:
    """Embed one scene into a collection, resuming what an earlier run left.

    Running it again with the same inputs does nothing. Raises TerrakinError with nothing left
    half-done; CancelledError when ``cancelled`` says so, after which the same call goes on.
    """
    check_name(job.collection)
    encoders.check_encoder(job.encoder)
    if not job.files:
        raise InputError("No file was given. Name the bands of the scene.")
    nodata, detect = nodata_rule(job.nodata)
    time = scene_time(job)
    choices = job.choices(_known_spec(job))
    if choices.dtype not in get_args(Dtype):
        raise InputError(
            f"'{choices.dtype}' is no storage type. Choose one of {', '.join(get_args(Dtype))}."
        )
    with RasterScene.open(
        job.files, nodata=nodata, detect_nodata=detect, offset=job.offset
    ) as scene:
        grid = ChipGrid(scene, chip_layout(scene, choices.chip, choices.stride))
        settings = [detect, time and time.isoformat(), SEED, scene.reading_rule()]
        mark = fingerprint(scene.files, json.dumps(settings))
        run = _Run(job, choices, scene, grid, time, mark, progress, cancelled)
        with Store.opened_or_made(job.store) as store:
            return run.into(store)


def _known_spec(job: RasterJob) -> EmbeddingSpec | None:
    """Return the spec of the collection that the job adds to, if there is one."""
    if job.replace:
        return None
    try:
        return Collection.load(job.store / job.collection).spec
    except CollectionNotFoundError:
        return None


@dataclass
class _Run:
    """One scene on its way into one collection."""

    job: RasterJob
    choices: Choices
    scene: RasterScene
    grid: ChipGrid
    time: datetime | None
    mark: str
    progress: Callable[[Progress], None]
    cancelled: Callable[[], bool]

    def into(self, store: Store) -> EmbedReport:
        if self.job.replace:
            return store.made_anew(self.job.collection, self._goes_on, self._embed)
        return self._embed(store.path / self.job.collection)

    def _goes_on(self, folder: Path) -> bool:
        try:
            collection = Collection.load(folder)
            self._continue(collection, self._scene_id())
        except TerrakinError:
            return False
        return collection.scene(self._scene_id()) is not None

    def _embed(self, folder: Path) -> EmbedReport:
        scene_id = self._scene_id()
        if (folder / COLLECTION_FILE).exists():
            spec, encoder = self._continue(Collection.load(folder), scene_id)
            writer = CollectionWriter.resume(folder)
        else:
            spec, encoder = self._fit()
            writer = CollectionWriter.begin(folder, spec, self.choices.licence, encoder.save)
        known = writer.collection.scene(scene_id)
        resumed = known.embedded if known else 0
        if known is None or not known.complete:
            writer.begin_scene(self._scene_record(scene_id))
            resumed += self._write(writer, scene_id, spec, encoder)
            writer.finish_scene(scene_id)
        done = writer.scene(scene_id)
        if not done.embedded:
            writer.drop_scene(scene_id)
            raise NoDataError(
                f"Scene '{scene_id}' has no chip whose pixels all have data; nothing "
                "was added. Choose a smaller --chip, or check --nodata."
            )
        return EmbedReport(
            self.job.collection,
            scene_id,
            done.planned,
            done.embedded,
            done.absent,
            resumed,
            done.notes,
        )

    def _scene_id(self) -> str:
        if self.job.scene is not None:
            return check_scene(self.job.scene)
        first = Path(self.job.files[0]).absolute()
        return scene_from(first.stem if len(self.job.files) == 1 else first.parent.name)

    def _continue(self, collection: Collection, scene_id: str) -> tuple[EmbeddingSpec, Encoder]:
        known = collection.scene(scene_id)
        if known is not None and known.fingerprint != self.mark:
            raise CollectionExistsError(
                f"Collection '{collection.id}' holds a scene '{scene_id}' made from other files or "
                "settings. Name this one with --scene, or make the collection anew with --replace."
            )
        for other in collection.scenes:
            if other.id != scene_id and other.id.lower() == scene_id.lower():
                # Windows and macOS would give both the same files.
                raise CollectionExistsError(
                    f"Collection '{collection.id}' holds a scene '{other.id}'; '{scene_id}' "
                    "differs only in upper and lower case. Name this one otherwise with --scene."
                )
        stored = collection.spec
        if stored.preprocessing is None:
            raise SpecMismatchError(
                f"Collection '{collection.id}' holds embeddings of places, not of imagery. Use "
                "another --collection, or make it anew with --replace."
            )
        encoder = encoders.load(collection.path)
        self.scene.pair(stored.bands)
        pre = replace(stored.preprocessing, scale=self.scene.scale)
        wanted = self._spec(encoder, stored.scale, pre)
        differences = stored.differences(wanted)
        if differences:
            raise SpecMismatchError(
                f"Collection '{collection.id}' has another spec: {'; '.join(differences)}. Use "
                "another --collection, or make it anew with --replace."
            )
        return stored, encoder

    def _fit(self) -> tuple[EmbeddingSpec, Encoder]:
        self.progress(Progress(0, self.grid.chips, "fitting the encoder on a sample"))
        chips = self._sample()
        mean = chips.mean(axis=(0, 2, 3), dtype=np.float64)
        std = np.maximum(chips.std(axis=(0, 2, 3), dtype=np.float64), 1e-6)
        pre = Preprocessing(
            tuple(map(float, mean)), tuple(map(float, std)), RESAMPLING, self.scene.scale
        )
        normalised = _normalise(chips, pre)
        encoder = encoders.fit(self.job.encoder, normalised, seed=SEED)
        scale = None
        if self.choices.dtype == "int8":
            scale = codec.fit_scale(encoder.encode(normalised))
        return self._spec(encoder, scale, pre), encoder

    def _sample(self) -> NDArray[np.float32]:
        """Return up to SAMPLE_CHIPS chips with data, spread over the scene, in a seeded choice.

        Large chips are fewer, so that the sample fits into memory.
        """
        rng = np.random.default_rng(SEED)
        height, width = self.grid.layout.chip_px
        most = min(
            SAMPLE_CHIPS, max(64, SAMPLE_BYTES // (4 * len(self.scene.bands) * height * width))
        )
        rows = list(self.grid.sample_rows(SAMPLE_ROWS))
        share = max(1, -(-most // len(rows)))
        found = []
        for batch in rows:
            self._check_cancelled()
            pixels, _ = self.grid.read(batch)
            # A few from every row, since the rows are spread over the scene.
            found.append(pixels[np.sort(rng.permutation(len(pixels))[: 2 * share])])
        chips = np.concatenate(found)
        if not len(chips):
            raise NoDataError(
                f"No chip of {self.choices.chip} in {', '.join(self.job.files)} has data in all "
                "its pixels. Choose a smaller --chip, or check the files and --nodata."
            )
        return chips[np.sort(rng.permutation(len(chips))[:most])]

    def _spec(
        self, encoder: Encoder, scale: tuple[float, ...] | None, pre: Preprocessing | None
    ) -> EmbeddingSpec:
        source = self.choices.source
        dtype: Any = self.choices.dtype
        layout: ChipLayout = self.grid.layout
        return EmbeddingSpec(
            product=f"{encoder.name} on {source}",
            model=encoder.name,
            model_version=encoder.version,
            weights_sha256=encoder.sha256,
            dim=encoder.dim,
            dtype=dtype,
            scale=scale,
            norm="none",
            bands=self.scene.bands,
            gsd_m=round(self.scene.gsd_m, 4),
            layout=layout,
            grid_km=GRID_KM,
            preprocessing=pre,
            source=source,
            licence=self.choices.licence,
        )

    def _scene_record(self, scene_id: str) -> Scene:
        lon, lat = self.scene.outline()
        shapes, boxes = polygons(lon[None], lat[None])
        west, south, east, north = boxes[0].tolist()
        return Scene(
            id=scene_id,
            fingerprint=self.mark,
            files=tuple(Path(file).name for file in self.job.files),
            datetime=self.time.isoformat() if self.time else None,
            footprint=json.loads(shapely.to_geojson(shapes[0])),
            bbox=(west, south, east, north),
            planned=self.grid.chips,
            absent=0,
            complete=False,
            parts=(),
            notes=tuple(self.scene.notes),
            pixels=self.scene.pixel_rule(),
            grid=self.grid.to_json(),
        )

    def _write(
        self, writer: CollectionWriter, scene_id: str, spec: EmbeddingSpec, encoder: Encoder
    ) -> int:
        """Encode what is missing; return how many chips of staged batches were found done."""
        done = resumed = 0
        encode = partial(self._encode, spec=spec, encoder=encoder, scene_id=scene_id)
        for part, batches in enumerate(_parts(self.grid.batches(), rows_per_part(spec))):
            planned = sum(batch.chips for batch in batches)
            if writer.is_published(scene_id, part):
                done += planned
                continue
            for batch in batches:
                self._check_cancelled()
                if writer.is_staged(scene_id, batch.number):
                    resumed += batch.chips
                else:
                    writer.stage(scene_id, batch.number, encode(batch))
                done += batch.chips
                self.progress(
                    Progress(done, self.grid.chips, f"{done:,} of {self.grid.chips:,} chips")
                )
            writer.publish(scene_id, part, [batch.number for batch in batches], planned)
        return resumed

    def _encode(self, batch: Batch, *, spec: EmbeddingSpec, encoder: Encoder, scene_id: str) -> Any:
        pixels, place = self.grid.read(batch)
        assert spec.preprocessing is not None
        vectors = encoder.encode(_normalise(pixels, spec.preprocessing))
        lon, lat = self.grid.centres(place)
        shapes, boxes = self.grid.footprints(place)
        bits = max(1, int(max(self.grid.rows, self.grid.cols) - 1).bit_length())
        box_names = ("xmin", "ymin", "xmax", "ymax")
        return batch_table(
            {
                "id": [f"{scene_id}_{row}_{col}" for row, col in place.tolist()],
                "grid_cell": _cells(spec.grid_km, lon, lat),
                "datetime": [self.time] * len(place),
                "lon": lon,
                "lat": lat,
                "bbox": [dict(zip(box_names, box, strict=True)) for box in boxes.tolist()],
                "geometry": shapely.to_wkb(shapes, byte_order=1).tolist(),
                "embedding": embedding_array(codec.encode(vectors, spec.dtype, spec.scale)),
                "order": hilbert_index(place[:, 0], place[:, 1], bits),
            },
            spec,
        )

    def _check_cancelled(self) -> None:
        if self.cancelled():
            raise CancelledError(
                "Stopped as asked. What was finished is kept; the same command goes on from there."
            )


def _cells(grid_km: float, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> list[str | None]:
    """Return the Major TOM cell of each place; None south of the grid's first row."""
    grid = MajorTomGrid(grid_km)
    names = np.full(len(lat), None, dtype=object)
    there = lat > grid.south_limit
    names[there] = grid.names(*grid.cells(lon[there], lat[there])).tolist()
    return list(names)


def _normalise(pixels: NDArray[np.float32], pre: Preprocessing) -> NDArray[np.float32]:
    mean = np.asarray(pre.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(pre.std, dtype=np.float32)[:, None, None]
    return (pixels - mean) / std


def _parts(batches: Sequence[Batch], rows: int) -> list[list[Batch]]:
    """Group consecutive batches so that a part holds about ``rows`` chips."""
    groups: list[list[Batch]] = [[]]
    for batch in batches:
        if groups[-1] and sum(b.chips for b in groups[-1]) + batch.chips > rows:
            groups.append([])
        groups[-1].append(batch)
    return groups
