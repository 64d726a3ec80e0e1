"""Dense vectors: where cells lie, what their vectors are, gaps, tiles, files, resuming."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import atomic, codec, dense, dense_store
from embeddings.dense import DenseEncoder, DenseGrid, Tile, dense_window, dense_windows, tile_side
from embeddings.dense_files import INT8_NODATA, read_dense, stride_name
from embeddings.dense_store import DenseReport, dense_bytes, embed_dense
from embeddings.encoding import SceneEncoding
from embeddings.errors import (
    CancelledError,
    InputError,
    ItemNotFoundError,
    SourceError,
    StorageFullError,
    StoreFormatError,
)
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.chips import ChipGrid, chip_layout
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading
from embeddings.spec import ChipLayout, EmbeddingSpec, Preprocessing
from embeddings.store import Collection, Scene
from embeddings.store.verify import verify
from embeddings.types import Bounds

Write = Callable[..., Path]
MakeSpec = Callable[..., EmbeddingSpec]

PRE = Preprocessing((1000.0, 1500.0), (500.0, 250.0), "bilinear", (1.0, 1.0))


class Moments:
    """Mean, deviation and first pixel of each band; counts the chips it has seen at most."""

    dim = 6
    most = 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.most = max(self.most, len(pixels))
        parts = pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3)), pixels[:, :, 0, 0]
        return np.concatenate(parts, axis=1).astype(np.float32)


class AtOnce(Moments):
    """The same, with a way to all chips of a window; counts the chips that ``encode`` got."""

    alone = 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.alone += len(pixels)
        return super().encode(pixels)

    def dense(self, pixels: np.ndarray, chip_px: Any, stride_px: Any) -> np.ndarray:
        assert np.isfinite(pixels).all()
        windows = np.lib.stride_tricks.sliding_window_view(pixels, chip_px, axis=(1, 2))
        windows = windows[:, :: stride_px[0], :: stride_px[1]]
        rows, cols = windows.shape[1:3]
        chips = windows.transpose(1, 2, 0, 3, 4).reshape(rows * cols, len(pixels), *chip_px)
        return Moments.encode(Moments(), chips).reshape(rows, cols, -1)


@pytest.fixture
def scene_file(tmp_path: Path, write_raster: Write, land: Any) -> Path:
    """40 x 53 pixels; three single pixels and the corner at the lower right have no data."""
    values = land(40, 53, bands=2)
    for row, col in ((10, 10), (30, 11), (20, 40)):
        values[:, row, col] = 0
    values[:, 34:, 40:] = 0
    return write_raster(tmp_path / "s.tif", values, nodata=0, descriptions=("B02", "B03"))


def opened(file: Path, **reading: Any) -> RasterScene:
    return RasterScene.open([str(file)], Reading(**reading))


def near(x: float, y: float) -> Any:
    """Coordinates in metres to a micrometre; a share of a northing would be metres."""
    return pytest.approx((x, y), rel=0, abs=1e-6)


def window_of(
    scene: RasterScene, chip: Any, stride: Any, encoder: Any = None, pre: Any = PRE
) -> dense.DenseWindow:
    grid = DenseGrid.of(scene, chip, stride)
    return dense_window(scene, encoder or Moments(), pre, chip, stride, 0, 0, grid.rows, grid.cols)


def expected(scene: RasterScene, chip: Any, stride: Any, pre: Preprocessing = PRE) -> np.ndarray:
    """Every cell's vector, worked out chip by chip from what the module says."""
    values, valid = scene.read(0, 0, scene.height, scene.width)
    (height, width), (down, right) = chip, stride
    shape = -(-scene.height // down), -(-scene.width // right)
    out = np.full((*shape, Moments.dim), np.nan, np.float32)
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (pre.mean, pre.std))
    for i, j in np.ndindex(shape):
        top = i * down + int(np.floor((down - height) / 2))
        left = j * right + int(np.floor((right - width) / 2))
        if min(top, left) < 0 or top + height > scene.height or left + width > scene.width:
            continue
        there = valid[top : top + height, left : left + width]
        if there.mean() < pre.min_valid or not there.any():
            continue
        pixels = values[:, top : top + height, left : left + width].copy()
        for band in pixels:
            band[~there] = band[there].mean(dtype=np.float64)
        out[i, j] = Moments().encode(((pixels - mean) / std)[None])[0]
    return out


def assert_equal(window: dense.DenseWindow, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(window.vectors, wanted, atol=1e-5, rtol=1e-5)
    assert (window.valid == np.isfinite(wanted).all(axis=2)).all()


LAYOUTS = [
    ((7, 7), (1, 1)),
    ((8, 8), (1, 1)),
    ((8, 8), (8, 8)),
    ((7, 7), (4, 4)),
    ((8, 6), (3, 5)),
    ((3, 4), (9, 10)),
    ((1, 1), (1, 1)),
    ((40, 53), (1, 1)),
]


@pytest.mark.parametrize(("chip", "stride"), LAYOUTS)
@pytest.mark.parametrize("min_valid", [1.0, 0.7])
def test_a_cell_has_the_vector_of_the_chip_centred_there(
    scene_file: Path, chip: Any, stride: Any, min_valid: float
) -> None:
    pre = Preprocessing(PRE.mean, PRE.std, "bilinear", PRE.scale, (), min_valid)
    with opened(scene_file) as scene:
        wanted = expected(scene, chip, stride, pre)
        assert np.isfinite(wanted).any() == (min_valid < 1 or chip != (40, 53))
        encoder = AtOnce()
        assert isinstance(encoder, DenseEncoder)
        assert not isinstance(Moments(), DenseEncoder)
        assert_equal(window_of(scene, chip, stride, Moments(), pre), wanted)
        assert_equal(window_of(scene, chip, stride, encoder, pre), wanted)


def test_gaps_are_nan_as_far_as_a_chip_reaches(scene_file: Path) -> None:
    with opened(scene_file) as scene:
        valid = window_of(scene, (5, 5), (1, 1)).valid
    assert not valid[8:13, 8:13].any()
    assert valid[7, 8:13].all()
    assert valid[13, 8:13].all()
    assert not valid[:2].any()
    assert not valid[:, -2:].any()
    assert valid[2, 2]
    assert valid[37, 37]
    assert not valid[37, 38]


def test_whole_data_is_encoded_at_once_and_chips_with_gaps_alone(
    scene_file: Path, tmp_path: Path, write_raster: Write, land: Any
) -> None:
    encoder = AtOnce()
    file = write_raster(tmp_path / "whole.tif", land(30, 30, bands=2))
    with opened(file) as scene:
        assert window_of(scene, (6, 6), (1, 1), encoder).valid.sum() == 25 * 25
    assert encoder.alone == 0
    pre = Preprocessing(PRE.mean, PRE.std, "bilinear", PRE.scale, (), 0.5)
    with opened(scene_file) as scene:
        window_of(scene, (6, 6), (1, 1), encoder, pre)
    assert encoder.alone > 0


def test_a_scene_without_data_has_no_vector(tmp_path: Path, write_raster: Write) -> None:
    file = write_raster(tmp_path / "e.tif", np.zeros((2, 20, 20), "uint16"), nodata=0)
    with opened(file) as scene:
        for encoder in (Moments(), AtOnce()):
            window = window_of(scene, (4, 4), (2, 2), encoder)
            assert not window.valid.any()
            assert np.isnan(window.vectors).all()


def test_with_the_stride_of_a_chip_the_cells_are_the_chips_of_the_grid(scene_file: Path) -> None:
    with opened(scene_file) as scene:
        plan = ChipGrid(scene, chip_layout(scene, "8", None))
        batch = plan.batches()[0]
        read = plan.read(batch)
        window = window_of(scene, (8, 8), (8, 8))
    assert (np.argwhere(window.valid) == read.place).all()
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (PRE.mean, PRE.std))
    assert (window.vectors[window.valid] == Moments().encode((read.pixels - mean) / std)).all()


@pytest.mark.parametrize(("chip", "stride"), LAYOUTS)
def test_the_centre_of_a_cell_is_the_centre_of_its_chip(
    scene_file: Path, chip: Any, stride: Any
) -> None:
    with opened(scene_file) as scene:
        grid = DenseGrid.of(scene, chip, stride)
        tile = Tile(2, 1, 2, 2) if grid.rows > 4 else Tile(0, 0, 1, 1)
        top, left = grid.chip_corner(tile.row, tile.col)
        x, y = scene.transform @ (left + chip[1] / 2, top + chip[0] / 2)
        assert grid.transform(scene.transform, tile) @ (0.5, 0.5) == near(x, y)
        # Half a pixel beside the cell's own centre where no chip of whole pixels fits there.
        middle = scene.transform @ ((tile.col + 0.5) * stride[1], (tile.row + 0.5) * stride[0])
        off = np.array([stride[1] - chip[1], stride[0] - chip[0]]) % 2 * 5.0
        assert (x, y) == near(middle[0] - off[0], middle[1] + off[1])


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_cells_cover_the_scene_and_inside_is_what_fits(
    size: Any, chip: Any, stride: Any, first: Any
) -> None:
    scene: Any = SimpleNamespace(height=size[0], width=size[1], first_px=first)
    grid = DenseGrid.of(scene, chip, stride)
    begin = [-(a % b) for a, b in zip(first, stride, strict=True)]
    assert begin[0] + grid.rows * stride[0] >= size[0] > begin[0] + (grid.rows - 1) * stride[0]
    assert begin[1] + grid.cols * stride[1] >= size[1] > begin[1] + (grid.cols - 1) * stride[1]
    fits = np.zeros((grid.rows, grid.cols), bool)
    for row, col in np.ndindex(fits.shape):
        top, left = grid.chip_corner(row, col)
        fits[row, col] = (
            min(top, left) >= 0 and top + chip[0] <= size[0] and left + chip[1] <= size[1]
        )
    said = np.zeros_like(fits)
    inside = grid.inside(grid.whole)
    if inside is not None:
        assert inside.cells > 0
        said[inside.row : inside.row + inside.height, inside.col : inside.col + inside.width] = True
    assert (said == fits).all()


def test_a_scene_that_was_cut_has_the_cells_of_the_whole(scene_file: Path) -> None:
    with opened(scene_file) as whole:
        lon, lat = whole.xy(np.array([13.0, 45.0]), np.array([31.0, 7.0]))
        box = (lon[0], lat[0], lon[1], lat[1])
        all_cells = window_of(whole, (5, 5), (4, 4))
    with opened(scene_file, bbox=box) as part:
        assert min(part.first_px) > 0
        some = window_of(part, (5, 5), (4, 4))
    col, row = ~all_cells.transform @ (some.transform.c, some.transform.f)
    assert (row, col) == pytest.approx((round(row), round(col)), abs=1e-6)
    row, col = round(row), round(col)
    same = np.s_[row : row + some.valid.shape[0], col : col + some.valid.shape[1]]
    assert some.valid.sum() > 20
    assert (all_cells.vectors[same][some.valid] == some.vectors[some.valid]).all()


def test_the_size_of_tiles_areas_and_blocks_changes_no_value(
    scene_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(scene_file) as scene:
        whole = window_of(scene, (6, 7), (2, 1))
        monkeypatch.setattr(dense, "AREA_BYTES", 4 * 2 * 12 * 20)
        monkeypatch.setattr(dense, "BLOCK_BYTES", 4 * 2 * 6 * 7 * 5)
        for encoder in (Moments(), AtOnce()):
            joined = np.zeros_like(whole.vectors)
            for tile in dense_windows(scene, encoder, PRE, (6, 7), (2, 1), side=16):
                rows, cols = tile.valid.shape
                joined[tile.row : tile.row + rows, tile.col : tile.col + cols] = tile.vectors
                x, y = whole.transform @ (tile.col, tile.row)
                assert (tile.transform.c, tile.transform.f) == near(x, y)
            assert encoder.most <= 5
            np.testing.assert_allclose(joined, whole.vectors, atol=1e-5)


def test_memory_does_not_grow_with_the_overlap_of_chips(
    tmp_path: Path, write_raster: Write, land: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_raster(tmp_path / "b.tif", land(150, 150, bands=2))
    monkeypatch.setattr(dense, "AREA_BYTES", 2**19)
    monkeypatch.setattr(dense, "BLOCK_BYTES", 2**20)
    with opened(file) as scene:
        tracemalloc.start()
        window = window_of(scene, (32, 32), (1, 1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    chips = int(window.valid.sum()) * 2 * 32 * 32 * 4
    assert chips > 100e6
    assert peak < window.vectors.nbytes + 12e6


@pytest.mark.parametrize(
    ("dim", "side"), [(1, 256), (256, 256), (512, 176), (1024, 128), (4096, 64), (10**6, 16)]
)
def test_tiles_of_long_vectors_are_smaller(dim: int, side: int) -> None:
    assert tile_side(dim) == side


@pytest.mark.parametrize("tile", [(-1, 0, 2, 2), (0, 0, 6, 1), (0, 5, 1, 3), (0, 0, 0, 1)])
def test_a_window_beside_the_grid_is_refused(scene_file: Path, tile: Any) -> None:
    with opened(scene_file) as scene, pytest.raises(InputError, match="of 5 x 7 cells"):
        dense_window(scene, Moments(), PRE, (8, 8), (8, 8), *tile)


# Files


@pytest.fixture
def stored(tmp_path: Path, scene_file: Path, make_spec: MakeSpec) -> Any:
    """Make a collection of the scene, and embed it densely; tiles of 16 x 16 cells."""

    def make(name: str = "c", stride: str = "1", chip: str = "5", **more: Any) -> Any:
        layout = ChipLayout(chip, chip, (int(chip),) * 2, (int(chip),) * 2)
        changes = {"dim": 6, "preprocessing": PRE, "layout": layout, "dtype": "float32"}
        spec = make_spec(**changes | more.pop("spec", {}))
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            known = Scene(
                "s", "mark", ("s.tif",), None, {}, (15.0, 46.0, 16.0, 47.0), 0, 0, True, (), ()
            )
            Collection(folder, name, spec, "CC0-1.0", (known,), "now", "now").save()
        with opened(more.pop("file", scene_file)) as scene:
            encoding = SceneEncoding(
                scene, ChipGrid(scene, layout), more.pop("encoder", Moments()), spec, "s", None
            )
            report = embed_dense(folder, encoding, stride, more.pop("mark", "mark"), **more)
        return Collection.load(folder), report

    return make


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_store, "tile_side", lambda _dim: 16)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "dense").rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("chip", "stride"), [("5", "1"), ("8", "1"), ("4", "3")])
def test_what_was_stored_is_read_back(
    stored: Any, scene_file: Path, chip: str, stride: str
) -> None:
    collection, report = stored(chip=chip, stride=stride)
    with opened(scene_file) as scene:
        whole = window_of(scene, (int(chip),) * 2, (int(stride),) * 2)
    back = read_dense(collection, "s")
    assert (back.valid == whole.valid).all()
    assert np.array_equal(back.vectors, whole.vectors, equal_nan=True)
    assert back.transform == whole.transform
    part = read_dense(collection, "s", window=Tile(5, 7, 8, 9))
    assert np.array_equal(part.vectors, whole.vectors[5:13, 7:16], equal_nan=True)
    assert part.transform @ (0, 0) == near(*whole.transform @ (7, 5))
    assert report.valid == whole.valid.sum()
    assert report.positions == whole.valid.size
    assert report.bytes == sum(
        len(data) for name, data in contents(collection.path).items() if name.endswith(".tif")
    )


def test_a_box_in_degrees_gives_the_cells_it_meets(stored: Any) -> None:
    collection, _ = stored()
    whole = read_dense(collection, "s")
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
    lon, lat = to_lonlat.transform([500_123, 500_256], [5_199_703, 5_199_814])
    part = read_dense(collection, "s", bounds=Bounds(lon[0], lat[0], lon[1], lat[1]))
    assert (part.row, part.col) == (18, 12)
    assert np.array_equal(part.vectors, whole.vectors[18:30, 12:26], equal_nan=True)
    with pytest.raises(InputError, match="does not meet"):
        read_dense(collection, "s", bounds=Bounds(20, 40, 21, 41))


def test_tiles_are_georeferenced_cogs_with_named_bands(stored: Any, scene_file: Path) -> None:
    collection, _ = stored(chip="8", stride="3")
    with (
        rasterio.open(scene_file) as scene,
        rasterio.open(collection.path / "dense/s-3/0_1.tif") as tile,
    ):
        assert tile.crs == scene.crs
        assert tile.descriptions == ("e0001", "e0002", "e0003", "e0004", "e0005", "e0006")
        offsets = [
            int(tile.get_tag_item(name, "TIFF", bidx=1))
            for name in ("IFD_OFFSET", "BLOCK_OFFSET_0_0")
        ]
        assert offsets[0] < 64 < offsets[1]  # the header before the pixels, as a COG has it
        assert tile.block_shapes[0] == (64, 64)
        assert tile.tags(ns="IMAGE_STRUCTURE")["INTERLEAVE"] == "PIXEL"
        assert (tile.dtypes[0], tile.shape) == ("float32", (14, 2))
        assert np.isnan(tile.nodata)
        # Cell (0, 16) has the chip from pixel (-3, 45), with its centre at (1, 49).
        assert tile.xy(0, 0) == near(*scene.transform @ (49, 1))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_types_stay_within_the_codecs_bound(
    stored: Any, scene_file: Path, dtype: str
) -> None:
    with opened(scene_file) as scene:
        whole = window_of(scene, (5, 5), (1, 1))
    sample = whole.vectors[whole.valid]
    scale = codec.fit_scale(sample) if dtype == "int8" else None
    collection, report = stored(spec={"dtype": dtype, "scale": scale})
    back = read_dense(collection, "s")
    assert (back.valid == whole.valid).all()
    said = codec.decode(codec.encode(sample, dtype, scale), dtype, scale)
    assert (back.vectors[back.valid] == said).all()
    with rasterio.open(collection.path / "dense/s-1/0_0.tif") as tile:
        if dtype == "int8":
            assert (tile.dtypes[0], tile.nodata) == ("int8", INT8_NODATA)
            assert tile.scales == pytest.approx(scale)
            error = np.abs(back.vectors[back.valid] - sample)
            assert (error <= np.array(scale) / 2 * 1.001).all()
        else:
            assert tile.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "16"
    _, full = stored("full")
    assert report.bytes < full.bytes


def test_the_index_lists_every_tile_with_its_place(stored: Any, scene_file: Path) -> None:
    collection, report = stored()
    index = pq.read_table(collection.path / "dense/s-1.parquet")
    rows = index.to_pylist()
    assert [(row["row"], row["col"], row["rows"], row["cols"]) for row in rows[:4]] == [
        (0, 0, 16, 16), (0, 16, 16, 16), (0, 32, 16, 16), (0, 48, 16, 5),
    ]  # fmt: skip
    assert len(rows) == 12 == report.tiles
    # The last tile has no cell with data: it is known, and has no file.
    assert [row["tile"] for row in rows if row["valid"] == 0] == [None]
    assert not (collection.path / "dense/s-1/2_3.tif").exists()
    assert report.files == 11
    valid = read_dense(collection, "s").valid
    for row in rows:
        cells = valid[row["row"] : row["row"] + 16, row["col"] : row["col"] + 16]
        assert row["valid"] == pytest.approx(cells.mean())
        if row["tile"]:
            content = (collection.path / row["tile"]).read_bytes()
            assert (row["bytes"], row["sha256"]) == (
                len(content),
                hashlib.sha256(content).hexdigest(),
            )
    with opened(scene_file) as scene:
        lon, lat = scene.xy(np.array([16.0, 32.0]), np.array([16.0, 0.0]))
        outline = shapely.Polygon(np.stack(scene.outline(), axis=1))
    shapes = [shapely.from_wkb(row["geometry"]) for row in rows]
    assert shapes[1].bounds == pytest.approx((lon[0], lat[0], lon[1], lat[1]), abs=1e-5)
    assert tuple(rows[1]["bbox"].values()) == pytest.approx(shapes[1].bounds)
    assert shapely.union_all(shapes).area == pytest.approx(outline.area, rel=1e-4)
    geo = json.loads(index.schema.metadata[b"geo"])
    emb = json.loads(index.schema.metadata[b"emb"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    assert EmbeddingSpec.from_json(emb["terrakin:spec"]) == collection.spec
    assert (emb["emb:type"], emb["terrakin:dense"]["chip_px"]) == ("pixel", [5, 5])


class StopError(Exception):
    pass


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(stored: Any, share: float) -> None:
    collection, _ = stored()
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done >= share * total:
            raise StopError

    with pytest.raises(StopError):
        stored("d", progress=stop)
    folder = collection.path.with_name("d")
    assert not (folder / "dense/s-1.parquet").exists()
    kept = len(contents(folder))
    (folder / "dense/s-1/.9_9.123.tmp.tif").write_bytes(b"half")  # left by a killed process
    atomic.sweep(folder)
    again, report = stored("d")
    assert report.resumed == kept > 0
    assert contents(again.path) == contents(collection.path)
    assert calls[0] == (14 * 14, 40 * 53)  # within the first tile
    assert calls == sorted(calls)


def test_footprints_of_cells_that_reach_over_the_edge_end_there(
    stored: Any, scene_file: Path
) -> None:
    collection, _ = stored(chip="8", stride="7")
    index = pq.read_table(collection.path / "dense/s-7.parquet")
    shapes = [shapely.from_wkb(wkb) for wkb in index["geometry"].to_pylist()]
    with opened(scene_file) as scene:
        outline = shapely.Polygon(np.stack(scene.outline(), axis=1))
    joined = shapely.union_all(shapes)
    assert joined.difference(outline.buffer(1e-6)).is_empty
    assert joined.area == pytest.approx(outline.area, rel=1e-4)


def test_a_finished_set_is_not_made_again(stored: Any) -> None:
    class Never(Moments):
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            raise AssertionError(f"encoded {len(pixels)} chips")

    _, first = stored()
    calls: list[tuple[int, int]] = []
    collection, second = stored(encoder=Never(), progress=lambda *args: calls.append(args))
    assert (second.resumed, second.bytes, second.valid) == (12, first.bytes, first.valid)
    assert calls == [(2120, 2120)]
    before = contents(collection.path)
    (collection.path / "dense/s-1/1_1.tif").unlink()
    with pytest.raises(StoreFormatError, match="run the embed command again"):
        read_dense(collection, "s")
    _, third = stored()
    assert third.resumed == 10  # the tile without a vector is looked at again
    assert contents(collection.path) == before


def test_a_damaged_tile_is_told_by_verify_and_made_anew(stored: Any) -> None:
    collection, _ = stored()
    dense_problems = [text for text in verify(collection) if text.startswith("dense/")]
    assert dense_problems == []
    before = contents(collection.path)
    cut, gone = (collection.path / "dense/s-1" / name for name in ("1_1.tif", "0_1.tif"))
    cut.write_bytes(cut.read_bytes()[:-200])  # its header is whole
    gone.unlink()
    assert set(verify(collection)) >= {
        "dense/s-1/1_1.tif: its content has changed since it was written",
        "dense/s-1/0_1.tif: is missing",
    }
    _, report = stored()
    assert report.resumed == 9
    assert contents(collection.path) == before


def test_tiles_of_another_scene_or_spec_are_made_anew(
    stored: Any, tmp_path: Path, write_raster: Write, land: Any
) -> None:
    collection, _ = stored(mark="an older file")
    before = contents(collection.path)
    assert stored()[1].resumed == 0
    assert contents(collection.path).keys() == before.keys()
    other = write_raster(tmp_path / "o.tif", land(20, 53, bands=2, seed=1))
    _, report = stored(file=other, mark="other")
    after = contents(collection.path)
    assert report.resumed == 0
    assert report.tiles == 8 == len(after) - 1
    assert all(after[name] != before.get(name) for name in after)
    # collection.json still says that the scene is the first one.
    with pytest.raises(ItemNotFoundError, match="Embed it with --dense"):
        read_dense(collection, "s")


def test_cancelling_within_a_tile_keeps_the_finished_ones(
    stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "BLOCK_BYTES", 4 * 2 * 5 * 5 * 16)
    calls: list[int] = []

    def check() -> None:
        if calls and calls[-1] > 600:
            raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        stored(check_cancelled=check, progress=lambda done, _total: calls.append(done))
    assert 600 < calls[-1] <= 616
    _, report = stored()
    assert report.resumed == 2


def test_too_little_space_is_said_before_anything_is_written(
    stored: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = SimpleNamespace(free=40 * 53 * 6 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free)
    with pytest.raises(StorageFullError, match="only"):
        stored()
    assert not (tmp_path / "c/dense").exists()
    free.free += 1
    assert stored()[1].files == 11


def test_a_tile_that_cannot_be_read_is_told_and_made_later(
    stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = stored()
    read = RasterScene.read

    def broken(self: RasterScene, row: int, col: int, height: int, width: int) -> Any:
        if row + height > 36:
            raise SourceError("The file ends early.")
        return read(self, row, col, height, width)

    monkeypatch.setattr(RasterScene, "read", broken)
    collection, report = stored("d")
    assert isinstance(report, DenseReport)
    assert len(report.failures) == 4
    assert "s-1/2_0.tif: The file ends early." in report.failures[0]
    assert not read_dense(collection, "s").valid[32:].any()
    assert read_dense(collection, "s").valid[:32].any()
    monkeypatch.setattr(RasterScene, "read", read)
    again, report = stored("d")
    assert (report.resumed, report.failures) == (8, ())
    assert contents(again.path) == contents(whole.path)

    def never(*_: object) -> Any:
        raise SourceError("The file ends early.")

    monkeypatch.setattr(RasterScene, "read", never)
    with pytest.raises(SourceError, match="ends early"):
        stored("e")


def test_two_strides_stand_side_by_side(stored: Any) -> None:
    stored(stride="4")
    collection, _ = stored(stride="0.02km")
    with pytest.raises(InputError, match="several strides: 20m, 4"):
        read_dense(collection, "s")
    assert read_dense(collection, "s", stride="4").valid.shape == (10, 14)
    assert read_dense(collection, "s", stride="20m").valid.shape == (20, 27)
    with pytest.raises(ItemNotFoundError, match="with stride 7; there: 20m, 4"):
        read_dense(collection, "s", stride="7")
    with pytest.raises(ItemNotFoundError, match="no dense vectors of scene 'x'"):
        read_dense(collection, "x")


def test_a_damaged_index_is_told(stored: Any) -> None:
    collection, _ = stored()
    (collection.path / "dense/s-4-1.parquet").write_bytes(b"of scene 's-4'")
    assert read_dense(collection, "s").valid.any()
    (collection.path / "dense/s-4-1.parquet").unlink()
    (collection.path / "dense/s-1.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(StoreFormatError, match="not a whole index"):
        read_dense(collection, "s")
    before = contents(stored("d")[0].path)
    assert contents(stored()[0].path) == before


@pytest.mark.parametrize(("text", "name"), [("1", "1"), (" 4 ", "4"), ("0.04km", "40m")])
def test_equal_strides_have_one_name(text: str, name: str) -> None:
    assert stride_name(text) == name


def test_the_size_is_known_before(scene_file: Path, make_spec: MakeSpec) -> None:
    with opened(scene_file) as scene:
        plan = ChipGrid(scene, chip_layout(scene, "8", None))
        encoding = SceneEncoding(scene, plan, Moments(), make_spec(dim=6), "s", None)
        assert dense_bytes(encoding, "2") == 20 * 27 * 6 * 2


def test_a_set_in_degrees_over_the_antimeridian(
    stored: Any, tmp_path: Path, write_raster: Write, land: Any
) -> None:
    file = write_raster(
        tmp_path / "f.tif",
        land(20, 40, bands=2),
        crs="EPSG:4326",
        transform=Affine(0.01, 0, 179.8, 0, -0.01, 10),
    )
    collection, _ = stored(file=file)
    rows = pq.read_table(collection.path / "dense/s-1.parquet").to_pylist()
    assert rows[1]["bbox"]["xmin"] > rows[1]["bbox"]["xmax"]
    assert shapely.from_wkb(rows[1]["geometry"]).geom_type == "MultiPolygon"
    part = read_dense(collection, "s", bounds=Bounds(179.95, 9.85, -179.95, 9.9))
    assert (part.row, part.col, part.valid.shape) == (10, 15, (5, 10))


def test_fragments_have_no_dense_vectors(tmp_path: Path, write_raster: Write, land: Any) -> None:
    file = str(write_raster(tmp_path / "s.tif", land(96, 96)))
    asked = RasterJob(tmp_path / "s", "c", (file,), chip="majortom:16", dense="8")
    with pytest.raises(InputError, match="needs a regular grid"):
        embed_raster(asked)
    embed_raster(replace(asked, dense=None))
    with pytest.raises(InputError, match="another --collection"):
        embed_raster(replace(asked, chip=None))
    assert not (tmp_path / "s/c/dense").exists()
