"""Dense vectors in files: tiles as Cloud Optimized GeoTIFF, and an index of them as GeoParquet.

COLLECTION/dense/SCENE-STRIDE/ROW_COL.tif   a tile; a band per dimension, e0001 first
COLLECTION/dense/SCENE-STRIDE.parquet       the index; it comes last and makes the set whole

A tile without any vector has no file, but stands in the index with a valid share of 0. float16 is
written as 16-bit floats (NBITS=16), int8 with -128 for no data and the spec's scales as those of
the bands. A tile's bytes depend on the scene, the spec, the stride and the libraries alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from embeddings import codec
from embeddings.dense import DenseGrid, DenseWindow, Tile
from embeddings.errors import InputError, ItemNotFoundError, StoreFormatError
from embeddings.sources.grids import TargetGrid
from embeddings.spec import EmbeddingSpec, parse_size
from embeddings.store.collection import Collection
from embeddings.store.layout import DENSE_FOLDER
from embeddings.store.schema import BBOX, geo_metadata
from embeddings.types import Bounds

BLOCK_SIDE = 64
INT8_NODATA = -128
"""The codec uses -127 to 127."""

_SET = "terrakin:dense"
_MARK = "terrakin:dense_mark"

INDEX = pa.schema(
    [
        pa.field("tile", pa.string()),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("col", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("cols", pa.int32(), nullable=False),
        pa.field("valid", pa.float64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("bbox", BBOX, nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""The file relative to the collection (null: no vector there), the tile's first cell and how many
it has, the share of cells with a vector (0 to 1), the file's size and hash, the footprint."""


@dataclass(frozen=True, slots=True)
class DenseSet:
    """What the index's footer says: where the cells lie and what they were made from."""

    scene: str
    stride: str
    fingerprint: str
    """Of the scene, as in collection.json."""
    crs: str
    """WKT"""
    transform: tuple[float, ...]
    """a, b, c, d, e, f: column and row of a cell (0, 0 is the first corner) to x and y."""
    scene_px: tuple[int, int]
    start_px: tuple[int, int]
    chip_px: tuple[int, int]
    stride_px: tuple[int, int]
    side: int
    """Cells a side of a tile."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore it."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)

    @property
    def grid(self) -> DenseGrid:
        """Where the cells lie in the scene's pixels."""
        return DenseGrid(self.scene_px, self.chip_px, self.stride_px, self.start_px)

    @property
    def tiles(self) -> list[Tile]:
        """All tiles, row by row."""
        return list(self.grid.whole.split((self.side, self.side)))

    @property
    def index_file(self) -> str:
        """The index relative to the collection."""
        return f"{DENSE_FOLDER}/{self.scene}-{self.stride}.parquet"

    def tile_file(self, tile: Tile) -> str:
        """Return the path of a tile relative to the collection, with forward slashes."""
        name = f"{tile.row // self.side}_{tile.col // self.side}.tif"
        return f"{DENSE_FOLDER}/{self.scene}-{self.stride}/{name}"

    def mark(self, spec: EmbeddingSpec) -> str:
        """Return a hash of all that the tiles depend on."""
        content = json.dumps([asdict(self), spec.to_json()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def stride_name(stride: str) -> str:
    """Return one name for equal strides: "40m" for "0.04km"."""
    value, unit = parse_size(stride)
    return f"{value:.12g}m" if unit == "m" else f"{value:.12g}"


def write_index(
    path: Path, rows: Sequence[Mapping[str, Any]], dense: DenseSet, spec: EmbeddingSpec
) -> None:
    """Write the index; its footer carries the spec and the set."""
    table = pa.Table.from_pylist(list(rows), schema=INDEX)
    descriptor = {
        **spec.to_stac(),
        "emb:type": "pixel",
        "terrakin:spec": spec.to_json(),
        _SET: asdict(dense),
        _MARK: dense.mark(spec),
    }
    text = json.dumps(descriptor, sort_keys=True, separators=(",", ":"))
    table = table.replace_schema_metadata({b"geo": geo_metadata(table), b"emb": text.encode()})
    pq.write_table(table, path, compression="zstd")


def index_mark(index: pa.Table) -> str | None:
    """Return the hash of what an index's tiles were made from."""
    footer = json.loads((index.schema.metadata or {}).get(b"emb", b"{}"))
    return footer.get(_MARK) if isinstance(footer, dict) else None


def encode_tile(window: DenseWindow, crs: str, spec: EmbeddingSpec, mark: str) -> bytes:
    """Return a tile as the bytes of a Cloud Optimized GeoTIFF in the spec's stored form."""
    height, width, dim = window.vectors.shape
    int8 = spec.dtype == "int8"
    # GDAL has no half-precision type before 3.11; NBITS stores its values and reads as float32.
    dtype, nodata = ("int8", INT8_NODATA) if int8 else ("float32", np.nan)
    bands = np.full((dim, height, width), nodata, dtype=dtype)
    bands[:, window.valid] = codec.encode(window.vectors[window.valid], spec.dtype, spec.scale).T
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=height,
            width=width,
            count=dim,
            dtype=dtype,
            nodata=nodata,
            crs=rasterio.CRS.from_wkt(crs),
            transform=window.transform,
            tiled=True,
            blockxsize=BLOCK_SIDE,
            blockysize=BLOCK_SIDE,
            interleave="pixel",
            photometric="MINISBLACK",
            compress="DEFLATE",
            predictor=2 if int8 else 3,
            **({"nbits": 16} if spec.dtype == "float16" else {}),
        ) as dataset:
            # All that the header says is set before any pixel, so that it stands before them.
            dataset.descriptions = [f"e{number:04d}" for number in range(1, dim + 1)]
            if int8:
                dataset.scales = spec.scale
            dataset.update_tags(TERRAKIN_DENSE=mark, TERRAKIN_VALID=str(int(window.valid.sum())))
            dataset.write(bands)
        return bytes(memory.getbuffer())


def tile_valid(path: Path, mark: str) -> int | None:
    """Return how many cells of a tile have a vector; None if it is not there or of another mark."""
    if not path.is_file():
        return None
    try:
        with rasterio.open(path) as dataset:
            tags = dataset.tags()
    except RasterioError:
        return None
    return int(tags["TERRAKIN_VALID"]) if tags.get("TERRAKIN_DENSE") == mark else None


@dataclass(frozen=True, eq=False)
class StoredDense:
    """The stored dense vectors of a scene: where the cells lie, and the index of their tiles."""

    collection: Collection
    dense: DenseSet
    index: pa.Table

    @property
    def valid(self) -> int:
        """How many cells have a vector."""
        rows = self.index.select(["valid", "rows", "cols"]).to_pylist()
        return sum(round(row["valid"] * row["rows"] * row["cols"]) for row in rows)

    def read(self, window: Tile) -> DenseWindow:
        """Read a window of cells. Raises InputError or StoreFormatError."""
        self.dense.grid.check(window)
        shape = window.height, window.width, self.collection.spec.dim
        vectors = np.full(shape, np.nan, dtype=np.float32)
        for row in self._tiles:
            tile = Tile(row["row"], row["col"], row["rows"], row["cols"])
            common = tile.common(window)
            if common is not None:
                r, c = common.row - window.row, common.col - window.col
                here = np.s_[r : r + common.height, c : c + common.width]
                vectors[here] = _read_tile(self.collection.path / row["tile"], tile, common)
        moved = Affine(*self.dense.transform) @ Affine.translation(window.col, window.row)
        return DenseWindow(vectors, np.isfinite(vectors[:, :, 0]), moved, window.row, window.col)

    @cached_property
    def _tiles(self) -> list[dict[str, Any]]:
        rows = self.index.select(["tile", "row", "col", "rows", "cols"]).to_pylist()
        return [row for row in rows if row["tile"] is not None]


def read_dense(
    collection: Collection,
    scene_id: str,
    *,
    stride: str | None = None,
    bounds: Bounds | None = None,
    window: Tile | None = None,
) -> DenseWindow:
    """Read stored dense vectors of a scene: the cells that a box meets, a window of cells, or all.

    ``stride`` is needed where vectors of several are stored. Raises ItemNotFoundError if there
    are none of this scene, InputError if the box or the window is not on its grid,
    StoreFormatError if a file is missing or damaged.
    """
    stored = open_dense(collection, scene_id, stride)
    dense, grid = stored.dense, stored.dense.grid
    if bounds is not None:
        cells = TargetGrid(dense.crs, Affine(*dense.transform), grid.cols, grid.rows)
        window = Tile(*cells.window(bounds.west_south_east_north()))
    return stored.read(window or grid.whole)


def open_dense(collection: Collection, scene_id: str, stride: str | None = None) -> StoredDense:
    """Return what is stored of a scene; raises as ``read_dense`` does."""
    scene = collection.scene(scene_id)
    found: dict[str, StoredDense] = {}
    for path in sorted((collection.path / DENSE_FOLDER).glob(f"{scene_id}-*.parquet")):
        if "-" in path.stem.removeprefix(f"{scene_id}-"):  # of a scene whose id begins like this
            continue
        try:
            index = pq.read_table(path)
            dense = DenseSet.from_json(json.loads(index.schema.metadata[b"emb"])[_SET])
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise StoreFormatError(
                f"{path} is not a whole index of dense vectors ({error}). Delete the file and run "
                "the embed command again."
            ) from error
        if scene is not None and (dense.scene, dense.fingerprint) == (scene_id, scene.fingerprint):
            found[dense.stride] = StoredDense(collection, dense, index)
    if stride is None and len(found) > 1:
        raise InputError(
            f"Scene '{scene_id}' has dense vectors of several strides: {', '.join(found)}. Name "
            "one of them."
        )
    wanted = stride_name(stride) if stride is not None else next(iter(found), "")
    if wanted not in found:
        raise ItemNotFoundError(
            f"Collection '{collection.id}' has no dense vectors of scene '{scene_id}'"
            + (f" with stride {wanted}; there: {', '.join(found) or 'none'}" if wanted else "")
            + ". Embed it with --dense."
        )
    return found[wanted]


def _read_tile(path: Path, tile: Tile, part: Tile) -> NDArray[np.float32]:
    """Return the vectors ``(rows, cols, dim)`` of a part of a tile."""
    window = Window(part.col - tile.col, part.row - tile.row, part.width, part.height)
    try:
        with rasterio.open(path) as dataset:
            stored = dataset.read(window=window)
            scales = np.asarray(dataset.scales, dtype=np.float32)
    except RasterioError as error:
        raise StoreFormatError(
            f"The tile {path} is missing or damaged ({error}). Delete it and run the embed command "
            "again; it makes the tile anew."
        ) from error
    values = stored.astype(np.float32) * scales[:, None, None]
    if stored.dtype == np.int8:
        values[stored == INT8_NODATA] = np.nan
    return np.moveaxis(values, 0, 2)
