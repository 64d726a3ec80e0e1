"""The batches of one scene become rows: what every worker does, in this process or far away."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from embeddings import codec, encoders
from embeddings.encoders import Encoder, Wants
from embeddings.errors import InputError
from embeddings.grid import MajorTomGrid
from embeddings.sources.chips import Batch, ChipGrid, ChipPlan, ChipsRead, chip_layout
from embeddings.sources.fragments import FragmentPlan, parse_fragment
from embeddings.sources.mosaic import MosaicScene
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading, SceneRef
from embeddings.sources.scenes import MosaicRef
from embeddings.spec import EmbeddingSpec, Preprocessing
from embeddings.store.coverage import absent_table, with_absent
from embeddings.store.schema import box_rows, embedding_array
from embeddings.store.writer import batch_table
from embeddings.types import parse_datetime

Scene = RasterScene | MosaicScene


def open_scene(ref: SceneRef | MosaicRef, reading: Reading) -> Scene:
    """Open a scene, or the mosaic of several. Raises SourceError and its kin."""
    if isinstance(ref, MosaicRef):
        return MosaicScene.open([member.files for member in ref.members], reading)
    return RasterScene.open(ref.files, reading)


def align(scene: Scene, wants: Wants, stored: tuple[str, ...] | None) -> None:
    """Bring the scene's bands into the encoder's order, or that of the collection.

    Reflectance that is declared as hundredths of a percent (scale 0.0001) is given back as these
    numbers to an encoder trained on them. Raises BandError, naming the band that lacks and those
    that are there.
    """
    if wants.bands is not None:
        scene.take(wants.bands)
        hundredths = all(math.isclose(scale, 1e-4) for scale in scene.scale)
        if wants.values == "reflectance-10000" and hundredths:
            scene.multiply(10_000)
            scene.notes.append(
                "The files declare reflectance (scale 0.0001); its values were multiplied by "
                "10,000, as the encoder was trained."
            )
    elif stored is not None:
        scene.pair(stored)


def chip_plan(scene: Scene, chip: str, stride: str | None) -> ChipPlan:
    """Return where the chips of a scene lie: a regular grid, or Major TOM's fragments."""
    fragment = parse_fragment(chip)
    if fragment is not None:
        if stride is not None and stride.strip().lower() != chip.strip().lower():
            raise InputError(
                f"--stride {stride} cannot be: the Major TOM grid says where its fragments lie. "
                "Leave --stride out."
            )
        return FragmentPlan(scene, fragment)
    return ChipGrid(scene, chip_layout(scene, chip, stride))


def normalise(pixels: NDArray[np.float32], pre: Preprocessing) -> NDArray[np.float32]:
    """Standardise chips ``(n, bands, height, width)`` where the encoder wants it so."""
    if not pre.mean:
        return pixels
    mean = np.asarray(pre.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(pre.std, dtype=np.float32)[:, None, None]
    return (pixels - mean) / std


def cells(grid_km: float, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> list[str | None]:
    """Return the Major TOM cell of each place; None south of the grid's first row."""
    grid = MajorTomGrid(grid_km)
    names = np.full(len(lat), None, dtype=object)
    there = lat > grid.south_limit
    names[there] = grid.names(*grid.cells(lon[there], lat[there])).tolist()
    return list(names)


@dataclass(frozen=True, slots=True)
class SceneTask:
    """All that a worker needs to encode batches of one scene. Plain data: it travels."""

    ref: SceneRef | MosaicRef
    reading: Reading
    chip: str
    stride: str | None
    scene_id: str
    time: str | None
    spec: str
    """The collection's spec as JSON."""
    encoder: str | tuple[tuple[str, bytes], ...]
    """The collection's folder, or the encoder's files by name for workers that do not see it."""
    weights: str | None

    def open(self) -> SceneEncoding:
        """Open the scene and load the encoder."""
        spec = EmbeddingSpec.from_json(json.loads(self.spec))
        weights = Path(self.weights) if self.weights is not None else None
        if isinstance(self.encoder, str):
            encoder = encoders.load(Path(self.encoder), weights)
        else:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in self.encoder:
                    (Path(folder) / name).write_bytes(content)
                encoder = encoders.load(Path(folder), weights)
        scene = open_scene(self.ref, self.reading)
        align(scene, encoder.wants, spec.bands)
        plan = chip_plan(scene, self.chip, self.stride)
        time = parse_datetime(self.time) if self.time is not None else None
        return SceneEncoding(scene, plan, encoder, spec, self.scene_id, time)


@dataclass
class SceneEncoding:
    """An open scene, its chips and the encoder. Who opened the scene closes it; not thread-safe."""

    scene: Scene
    plan: ChipPlan
    encoder: Encoder
    spec: EmbeddingSpec
    scene_id: str
    time: datetime | None

    def rows(self, batch: Batch) -> pa.Table:
        """Return the rows of a batch; its absent chips are attached (store.coverage).

        Raises SourceError if the files cannot be read there.
        """
        pre = self.spec.preprocessing
        assert pre is not None
        read = self.plan.read(batch, pre.min_valid)
        vectors = self.encoder.encode(normalise(read.pixels, pre))
        lon, lat, geometry, boxes = self._places(read.place)
        rows = batch_table(
            {
                "id": self.plan.names(self.scene_id, read.place),
                "grid_cell": cells(self.spec.grid_km, lon, lat),
                "datetime": [self.time] * len(read.place),
                "lon": lon,
                "lat": lat,
                "bbox": boxes,
                "geometry": geometry,
                "embedding": embedding_array(
                    codec.encode(vectors, self.spec.dtype, self.spec.scale)
                ),
                "order": self.plan.order(read.place),
            },
            self.spec,
        )
        return with_absent(rows, self._absent(read))

    def _absent(self, read: ChipsRead) -> pa.Table:
        lon, lat, geometry, boxes = self._places(read.absent_place)
        names = self.plan.names(self.scene_id, read.absent_place)
        return absent_table(names, lon, lat, read.absent_share, boxes, geometry)

    def _places(
        self, place: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[bytes], list[dict[str, float]]]:
        lon, lat = self.plan.centres(place)
        shapes, boxes = self.plan.footprints(place)
        named = box_rows(boxes)
        return lon, lat, shapely.to_wkb(shapes, byte_order=1).tolist(), named
