"""An image as an example: the vector that the collection stores for the same pixels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from embeddings.chip_job import ChipsJob
from embeddings.chip_run import embed_chips
from embeddings.errors import (
    BandError,
    InputError,
    NoDataError,
    SourceError,
    SourceNotFoundError,
    SpecMismatchError,
)
from embeddings.query.images import encode_image, image_encoder
from embeddings.sources.synthetic import BANDS, write_scene
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from tests.embeddings.model_files import describe, export, need, small_network

Embed = Callable[..., Collection]
Write = Callable[..., Path]


def stored(collection: Collection, item: str) -> np.ndarray[Any, Any]:
    """Return the vector of an item."""
    table = pa.concat_tables(
        [pq.read_table(path, columns=["id", "embedding"]) for path in collection.part_paths]
    )
    return np.asarray(table["embedding"][table["id"].to_pylist().index(item)].as_py(), np.float32)


def cosine(a: Any, b: Any) -> float:
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def cut_out(scene: Path, target: Path, row: int, col: int, size: int = 8) -> Path:
    """Clip a chip of the regular grid out of a scene, with all that the scene's file declares."""
    window = Window(col * size, row * size, size, size)
    with rasterio.open(scene) as source:
        profile = source.profile | {
            "width": size,
            "height": size,
            "transform": source.window_transform(window),
            "tiled": False,
        }
        for name in ("blockxsize", "blockysize"):
            profile.pop(name, None)
        with rasterio.open(target, "w", **profile) as file:
            file.write(source.read(window=window))
            file.descriptions, file.scales = source.descriptions, source.scales
            file.offsets = source.offsets
    return target


@pytest.fixture(scope="module")
def land_and_scene(
    tmp_path_factory: pytest.TempPathFactory, land: Callable[..., Any], write_raster: Write
) -> Any:
    folder = tmp_path_factory.mktemp("images")
    names = {"descriptions": ("red", "green", "nir")}
    return folder, write_raster(folder / "scene.tif", land(), **names)


@pytest.fixture(scope="module")
def collection(land_and_scene: Any, embed: Embed) -> Collection:
    folder, scene = land_and_scene
    return embed(folder / "store", scene, dtype="float32")


def test_a_chip_cut_out_of_a_scene_has_the_vector_stored_for_it(
    collection: Collection, land_and_scene: Any, tmp_path: Path
) -> None:
    chip = cut_out(land_and_scene[1], tmp_path / "chip.tif", 3, 5)
    vector = encode_image(collection, chip)
    assert (vector.shape, vector.dtype) == ((1, collection.spec.dim), np.float32)
    np.testing.assert_allclose(vector[0], stored(collection, "scene_3_5"), atol=1e-5)
    assert cosine(vector, stored(collection, "scene_3_6")) < 0.99


def test_the_synthetic_scene_with_a_file_for_each_band(tmp_path: Path, embed: Embed) -> None:
    files = write_scene(tmp_path / "scene", size=128)
    made = embed(tmp_path / "store", *files, chip="160m")
    folder = tmp_path / "chip"
    folder.mkdir()
    for file in files:
        cut_out(file, folder / file.name, 2, 4, 16)
    (item,) = [name for name in _ids(made) if name.endswith("_2_4")]
    assert cosine(encode_image(made, folder), stored(made, item)) > 0.99999
    assert len(BANDS) == len(files)


def _ids(collection: Collection) -> list[str]:
    reader = Reader(collection)
    return list(reader.rows(np.arange(collection.count))["id"].to_pylist())


def test_bands_without_names_are_taken_in_order_and_more_of_them_by_name(
    collection: Collection, land_and_scene: Any, tmp_path: Path, write_raster: Write
) -> None:
    with rasterio.open(land_and_scene[1]) as source:
        pixels = source.read(window=Window(8, 16, 8, 8))
    expected = stored(collection, "scene_2_1")
    nameless = write_raster(tmp_path / "nameless.tif", pixels)
    assert cosine(encode_image(collection, nameless), expected) > 0.99999
    mixed = write_raster(
        tmp_path / "more.tif",
        pixels[[2, 0, 0, 1]],
        descriptions=("nir", "swir16", "red", "green"),
    )
    assert cosine(encode_image(collection, mixed), expected) > 0.99999
    two = write_raster(tmp_path / "two.tif", pixels[:2], descriptions=("red", "nir"))
    with pytest.raises(BandError, match=r"two\.tif.*made from the bands red, green, nir"):
        encode_image(collection, two)


def test_a_finer_image_of_a_chip_is_resampled(
    collection: Collection, land_and_scene: Any, tmp_path: Path, write_raster: Write
) -> None:
    with rasterio.open(land_and_scene[1]) as source:
        pixels = source.read(window=Window(8, 16, 8, 8))
    finer = pixels.repeat(2, axis=1).repeat(2, axis=2)
    path = write_raster(tmp_path / "finer.tif", finer, res=5)
    assert cosine(encode_image(collection, path), stored(collection, "scene_2_1")) > 0.99999


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((16, 24), r"covers 24 x 16 pixels of 10 m; a chip of collection 'land' has 8 x 8, so it "
         r"holds 6 chips.*-srcwin 0 0 8 8"),
        ((9, 8), r"8 x 9 pixels.*more than one chip"),
        ((7, 8), r"8 x 7 pixels.*too small"),
    ],
)  # fmt: skip
def test_an_image_of_another_size_than_a_chip_is_refused(
    collection: Collection, tmp_path: Path, land: Any, write_raster: Write, size: Any, says: str
) -> None:
    path = write_raster(tmp_path / "wide.tif", land(*size))
    with pytest.raises(InputError, match=says):
        encode_image(collection, path)


def test_chips_of_metres_may_be_a_pixel_larger_or_smaller(
    tmp_path: Path, land: Any, write_raster: Write, embed: Embed
) -> None:
    scene = write_raster(tmp_path / "scene.tif", land())
    made = embed(tmp_path / "store", scene, chip="80m")
    for size in ((8, 9), (7, 8)):
        chip = write_raster(tmp_path / "chip.tif", land()[:, : size[0], : size[1]])
        assert cosine(encode_image(made, chip), stored(made, "scene_0_0")) > 0.5
    for size, says in (((8, 10), "more than one chip"), ((6, 8), "too small")):
        chip = write_raster(tmp_path / "chip.tif", land(*size))
        with pytest.raises(InputError, match=says):
            encode_image(made, chip)


def test_an_image_without_a_place_is_taken_pixel_by_pixel(
    tmp_path: Path, land: Any, write_raster: Write, embed: Embed
) -> None:
    pixels = land(32, 32, dtype="uint8")
    made = embed(tmp_path / "store", write_raster(tmp_path / "scene.tif", pixels))
    Image.fromarray(np.moveaxis(pixels[:, 8:16, 16:24], 0, -1)).save(tmp_path / "chip.png")
    assert cosine(encode_image(made, tmp_path / "chip.png"), stored(made, "scene_1_2")) > 0.99999
    Image.fromarray(np.moveaxis(pixels[:, :8, :9], 0, -1)).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"has 9 x 8 pixels; a chip .* has 8 x 8"):
        encode_image(made, tmp_path / "wide.png")


def test_an_image_of_a_table_has_the_vector_stored_for_it(tmp_path: Path, land: Any) -> None:
    pixels = np.moveaxis(land(16, 16 * 24, dtype="uint8"), 0, -1)
    rows = ["path,lon,lat"]
    for i in range(24):
        Image.fromarray(pixels[:, 16 * i : 16 * i + 16]).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i},45")
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    embed_chips(ChipsJob(tmp_path / "store", "chips", tmp_path / "table.csv", chip_size="160m"))
    made = Store.open(tmp_path / "store").collection("chips")
    encoder = image_encoder(made)
    for number, item in enumerate(_ids(made)[:3]):
        row = Reader(made).rows(np.array([number])).to_pylist()[0]
        vector = encode_image(made, tmp_path / row["path"], encoder=encoder)
        assert cosine(vector, stored(made, item)) > 0.99999


@pytest.fixture(scope="module")
def pretrained(
    tmp_path_factory: pytest.TempPathFactory, land: Any, write_raster: Write, embed: Embed
) -> Any:
    """A collection made with an encoder that wants red, green and blue, and its scene's pixels."""
    need("onnx", "onnxruntime", "torch")
    folder = tmp_path_factory.mktemp("pretrained")
    model = describe(export(small_network(), folder / "tiny.onnx"))
    names = ("B02", "B03", "B04", "B08")
    pixels = land(bands=4)
    scene = write_raster(folder / "scene.tif", pixels, descriptions=names)
    chosen = f"exported:{model}"
    return embed(folder / "store", scene, encoder=chosen, chip="16", dtype="float32"), pixels


@pytest.mark.parametrize(
    ("bands", "more"),
    [
        ((0, 1, 2, 3), {"descriptions": ("B02", "B03", "B04", "B08")}),
        ((2, 1, 0), {}),
        ((0, 1, 2), {"descriptions": ("blue", "green", "red")}),
        ((2, 1, 0), {"photometric": "RGB", "crs": None}),
        ((2, 1, 0), {"crs": None}),
    ],
    ids=["names", "no names", "common names", "colours", "no names and no place"],
)
def test_the_bands_that_an_encoder_wants_are_found_or_taken_in_its_order(
    pretrained: Any, tmp_path: Path, write_raster: Write, bands: Any, more: Any
) -> None:
    made, pixels = pretrained
    path = write_raster(tmp_path / "chip.tif", pixels[list(bands), 16:32, 32:48], **more)
    np.testing.assert_allclose(
        encode_image(made, path)[0], stored(made, "scene_1_2"), rtol=1e-4, atol=1e-5
    )


def test_a_band_taken_for_transparency_is_told(
    tmp_path: Path, land: Any, write_raster: Write, embed: Embed
) -> None:
    pixels = land(bands=4, dtype="uint8")
    bands = [write_raster(tmp_path / f"B0{i}.tif", band[None]) for i, band in enumerate(pixels)]
    made = embed(tmp_path / "store", *bands, scene="scene")
    plain = write_raster(tmp_path / "plain.tif", pixels[:, :8, 8:16])
    with pytest.raises(BandError, match=r"given: B1, B2, B3\..*colorinterp_4 undefined"):
        encode_image(made, plain)
    said = write_raster(tmp_path / "said.tif", pixels[:, :8, 8:16], photometric="MINISBLACK")
    with rasterio.open(said, "r+") as file:
        file.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * 3]
    assert cosine(encode_image(made, said), stored(made, "scene_0_1")) > 0.99999


def test_a_band_that_an_encoder_wants_and_the_image_lacks_is_named(
    pretrained: Any, tmp_path: Path, write_raster: Write
) -> None:
    made, pixels = pretrained
    for more in ({"crs": None}, {}):
        names = {"descriptions": ("B02", "B03", "B08")}
        chip = pixels[[0, 1, 3], :16, :16]
        path = write_raster(tmp_path / "chip.tif", chip, **names, **more)
        with pytest.raises(BandError, match=r"chip\.tif.*needs band B04.*has B02, B03, B08"):
            encode_image(made, path)


def test_numbers_that_declare_nothing_mean_what_those_of_the_scenes_do(
    tmp_path: Path, land: Any, write_raster: Write, embed: Embed
) -> None:
    pixels = land() + 1000
    scene = write_raster(tmp_path / "scene.tif", pixels)
    made = embed(tmp_path / "store", scene, offset=-1000.0, scale=1e-4)
    said: list[str] = []
    chip = write_raster(tmp_path / "chip.tif", pixels[:, 8:16, 8:16])
    vector = encode_image(made, chip, tell=said.append)
    assert cosine(vector, stored(made, "scene_1_1")) > 0.99999
    assert "times 0.0001, plus -0.1" in said[-1]
    same = {"scales": (1e-4,) * 3, "offsets": (-0.1,) * 3}
    chip = write_raster(tmp_path / "same.tif", pixels[:, 8:16, 8:16], **same)
    assert cosine(encode_image(made, chip), stored(made, "scene_1_1")) > 0.99999
    other = write_raster(tmp_path / "other.tif", pixels[:, 8:16, 8:16], scales=(0.5,) * 3)
    with pytest.raises(SpecMismatchError, match=r"multiplied with 0\.5; .* with 0\.0001"):
        encode_image(made, other)


def test_pixels_without_data_count_as_they_did_in_the_scenes(
    tmp_path: Path, land: Any, write_raster: Write, embed: Embed
) -> None:
    pixels = land()
    pixels[:, :20, :20] = 0
    scene = write_raster(tmp_path / "scene.tif", pixels)
    made = embed(tmp_path / "store", scene, min_valid=0.25)
    expected = stored(made, "scene_2_2")
    chip = write_raster(tmp_path / "chip.tif", pixels[:, 16:24, 16:24])
    assert cosine(encode_image(made, chip), expected) > 0.99999
    empty = write_raster(tmp_path / "empty.tif", pixels[:, :8, :8])
    with pytest.raises(NoDataError, match=r"only 0% of its pixels have data.*needs 25%"):
        encode_image(made, empty)


def test_numbers_of_another_kind_are_refused_or_told(
    collection: Collection, tmp_path: Path, land: Any, write_raster: Write
) -> None:
    share = write_raster(tmp_path / "share.tif", (land(8, 8) / 10_000).astype("float32"))
    with pytest.raises(InputError, match=r"no value is above 0\.\d+, but collection 'land'"):
        encode_image(collection, share)
    said: list[str] = []
    picture = write_raster(tmp_path / "picture.tif", land(8, 8, dtype="uint8"))
    encode_image(collection, picture, tell=said.append)
    assert any("8-bit picture" in text for text in said)


def test_files_that_are_no_image(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="There is no image"):
        encode_image(collection, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    with pytest.raises(SourceError, match=r"text\.png': it is no image that can be read"):
        encode_image(collection, tmp_path / "text.png")


def test_a_collection_without_an_encoder_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "chip.png")
    world = Store.open(Store.create(tmp_path / "store").path).collection("world")
    with pytest.raises(InputError, match="'world' has no encoder for images"):
        encode_image(world, tmp_path / "chip.png")


def test_a_collection_that_lost_its_encoder_says_so(
    collection: Collection, land_and_scene: Any, tmp_path: Path
) -> None:
    shutil.copytree(collection.path, tmp_path / "store" / "land")
    (tmp_path / "store" / "land" / "encoder.json").unlink()
    bare = Store(tmp_path / "store").collection("land")
    chip = cut_out(land_and_scene[1], tmp_path / "chip.tif", 3, 5)
    with pytest.raises(InputError, match="'land' came without the encoder that made its vectors"):
        encode_image(bare, chip)


@pytest.mark.parametrize("module", ["embeddings.search", "embed_server.app", "embed_server.runner"])
def test_searching_without_images_needs_neither_gdal_nor_torch(module: str) -> None:
    code = f"import sys, {module}; print({{'rasterio', 'torch'}} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
