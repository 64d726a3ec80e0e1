"""Stores the dense vectors of a scene tile by tile; can be killed anywhere. See dense_files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from embeddings.atomic import atomic_path, check_space, writing_to
from embeddings.dense import DenseGrid, Tile, dense_window, tile_side
from embeddings.dense_files import (
    DenseSet,
    encode_tile,
    index_mark,
    stride_name,
    tile_valid,
    write_index,
)
from embeddings.encoding import SceneEncoding
from embeddings.errors import SourceError
from embeddings.sources.chips import chip_layout
from embeddings.sources.footprints import polygons
from embeddings.store.schema import box_rows

_BYTES = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class DenseReport:
    """What a set of dense vectors holds. ``failures`` says which tiles could not be read, and why.

    ``resumed`` of the ``tiles`` were there before this run. Tiles without a vector have no file.
    """

    scene: str
    stride: str
    tiles: int
    files: int
    positions: int
    valid: int
    bytes: int
    resumed: int
    failures: tuple[str, ...] = ()


def dense_set(encoding: SceneEncoding, stride: str, fingerprint: str) -> DenseSet:
    """Return what is to be stored of a scene; ``stride`` is "1" (pixels) or "40m".

    Raises InputError if the stride cannot be used.
    """
    scene = encoding.scene
    step = chip_layout(scene, "1", stride).stride_px
    grid = DenseGrid.of(scene, encoding.plan.layout.chip_px, step)
    return DenseSet(
        encoding.scene_id,
        stride_name(stride),
        fingerprint,
        scene.crs.to_wkt(),
        tuple(grid.transform(scene.transform, grid.whole))[:6],
        grid.scene_px,
        grid.start_px,
        grid.chip_px,
        grid.stride_px,
        tile_side(encoding.spec.dim),
    )


def dense_bytes(encoding: SceneEncoding, stride: str) -> int:
    """Return what the dense vectors of a scene take, uncompressed and all cells having one."""
    cells = dense_set(encoding, stride, "").grid.whole.cells
    return cells * encoding.spec.dim * _BYTES[encoding.spec.dtype]


def embed_dense(
    folder: Path,
    encoding: SceneEncoding,
    stride: str,
    fingerprint: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> DenseReport:
    """Store the dense vectors of an open scene in the collection at ``folder``.

    ``stride`` is "1" (every pixel), "4" or "40m"; ``fingerprint`` is the scene's in
    collection.json. ``progress(done, total)`` counts cells. Tiles that an earlier run finished
    are kept. A tile that cannot be read is reported and the rest kept; if there is no rest, its
    SourceError is raised. Raises StorageFullError, before anything is written, if the vectors may
    not fit on the disk. Hold the store's lock.
    """
    writer = _DenseWriter(folder, encoding, dense_set(encoding, stride, fingerprint))
    dense = writer.dense
    pace = _Pace(dense.grid.whole.cells, progress, check_cancelled)
    known = writer.finished()
    if known is not None:
        pace.reach(pace.total)
        return writer.report(known, len(known))
    check_space(folder / dense.index_file, writer.bytes_missing())
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    resumed = done = 0
    for tile in dense.tiles:
        check_cancelled()
        row = writer.kept(tile)
        resumed += row is not None
        try:
            rows.append(row or writer.write(tile, pace.add))
        except SourceError as error:
            failures.append(f"Tile {dense.tile_file(tile)}: {error}")
        done += tile.cells
        pace.reach(done)
    if not rows:
        raise SourceError(failures[0])
    writer.finish(rows)
    return writer.report(rows, resumed, tuple(failures))


@dataclass
class _Pace:
    """How many cells are done; within a tile too, since a slow encoder takes long for one."""

    total: int
    progress: Callable[[int, int], None]
    check_cancelled: Callable[[], None]
    done: int = 0

    def add(self, cells: int) -> None:
        self.check_cancelled()
        self.reach(self.done + cells)

    def reach(self, done: int) -> None:
        self.done = done
        self.progress(done, self.total)


class _DenseWriter:
    """Writes the tiles of one set and its index."""

    def __init__(self, folder: Path, encoding: SceneEncoding, dense: DenseSet) -> None:
        self.dense = dense
        self._folder = folder
        self._encoding = encoding
        self._mark = dense.mark(encoding.spec)
        self._known = self._listed()

    def _listed(self) -> list[dict[str, Any]]:
        """Return the rows of an index made of the same, if there is one."""
        try:
            index = pq.read_table(self._folder / self.dense.index_file)
        except (OSError, pa.ArrowException):
            return []
        return index.to_pylist() if index_mark(index) == self._mark else []

    def finished(self) -> list[dict[str, Any]] | None:
        """Return the rows of a whole index made of the same, if all its files are there."""
        if len(self._known) != len(self.dense.tiles):
            return None
        paths = {self._folder / row["tile"]: row["bytes"] for row in self._known if row["tile"]}
        there = all(path.is_file() and path.stat().st_size == n for path, n in paths.items())
        return self._known if there else None

    def bytes_missing(self) -> int:
        """Return what tiles without a file take, uncompressed and all cells having a vector."""
        spec = self._encoding.spec
        missing = [tile for tile in self.dense.tiles if not self._path(tile).exists()]
        return sum(tile.cells for tile in missing) * spec.dim * _BYTES[spec.dtype]

    def kept(self, tile: Tile) -> dict[str, Any] | None:
        """Return the row of a tile that an earlier run finished, or None.

        A tile that is no longer what the index says is damaged: it is made anew.
        """
        path = self._path(tile)
        count = tile_valid(path, self._mark)
        if not count:
            return None
        found = self._row(tile, count, path.read_bytes())
        listed = {row["tile"]: row["sha256"] for row in self._known}
        return found if listed.get(found["tile"]) in (None, found["sha256"]) else None

    def write(self, tile: Tile, encoded: Callable[[int], None]) -> dict[str, Any]:
        """Compute a tile and write it; return its row of the index. Raises SourceError."""
        encoding, dense = self._encoding, self.dense
        pre = encoding.spec.preprocessing
        assert pre is not None
        window = dense_window(
            encoding.scene,
            encoding.encoder,
            pre,
            dense.chip_px,
            dense.stride_px,
            tile.row,
            tile.col,
            tile.height,
            tile.width,
            encoded,
        )
        path, count, content = self._path(tile), int(window.valid.sum()), b""
        if count:
            content = encode_tile(window, dense.crs, encoding.spec, self._mark)
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        return self._row(tile, count, content)

    def finish(self, rows: list[dict[str, Any]]) -> None:
        """Write the index, and remove tiles that an earlier set of this name left."""
        index = self._folder / self.dense.index_file
        with atomic_path(index) as temporary:
            write_index(temporary, rows, self.dense, self._encoding.spec)
        listed = {self._folder / row["tile"] for row in rows if row["tile"]}
        with writing_to(index):
            for path in index.with_name(index.stem).glob("*.tif"):
                if path not in listed:
                    path.unlink()

    def report(
        self, rows: list[dict[str, Any]], resumed: int, failures: tuple[str, ...] = ()
    ) -> DenseReport:
        """Return what the rows of the index come to."""
        return DenseReport(
            self.dense.scene,
            self.dense.stride,
            len(self.dense.tiles),
            sum(row["tile"] is not None for row in rows),
            self.dense.grid.whole.cells,
            sum(round(row["valid"] * row["rows"] * row["cols"]) for row in rows),
            sum(row["bytes"] for row in rows),
            resumed,
            failures,
        )

    def _path(self, tile: Tile) -> Path:
        return self._folder / self.dense.tile_file(tile)

    def _row(self, tile: Tile, count: int, content: bytes) -> dict[str, Any]:
        top, left, bottom, right = self.dense.grid.edges(tile)
        height, width = self.dense.scene_px
        # Cells at the edge may reach out of the scene, to where there is no longitude.
        col = np.clip([left, left, right, right], 0, width)
        row = np.clip([top, bottom, bottom, top], 0, height)
        lon, lat = self._encoding.scene.xy(col, row)
        shapes, boxes = polygons(lon[None], lat[None])
        return {
            "tile": self.dense.tile_file(tile) if count else None,
            "row": tile.row,
            "col": tile.col,
            "rows": tile.height,
            "cols": tile.width,
            "valid": count / tile.cells,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest() if count else None,
            "bbox": box_rows(boxes[:1])[0],
            "geometry": shapely.to_wkb(shapes[0], byte_order=1),
        }
