"""Image files of Major TOM: rows as scenes, read one by one."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.sources.addresses import row_parts
from embeddings.sources.majortom_images import image_scenes, opened
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading
from embeddings.sources.remote import fingerprint_of, local_name
from embeddings.sources.scenes import find_scenes
from tests.embeddings.range_server import RangeServer

BANDS = ("B02", "B03", "B04")


@pytest.fixture
def images(
    tmp_path: Path, write_raster: Callable[..., Path], land: Callable[..., Any]
) -> Callable[..., Path]:
    """Write a file of the layout of Core-S2L2A; keywords are further or other columns."""

    def write(
        rows: int = 3, *, group: int = 1, size: int = 64, name: str = "part_00001", **more: Any
    ) -> Path:
        columns: dict[str, Any] = {
            "product_id": [f"S2A_MSIL2A_{i}" for i in range(rows)],
            "grid_cell": [f"{i}U_{i}L" for i in range(rows)],
            "product_datetime": [f"2020010{i + 1}T101500" for i in range(rows)],
            "thumbnail": [{"bytes": b"png", "path": None}] * rows,
        }
        for order, band in enumerate((*BANDS, "cloud_mask")):
            files = []
            for i in range(rows):
                values = land(size, size, 1, seed=10 * i + order)
                if band == "cloud_mask":
                    values = (values > 1500).astype("uint8")
                file = write_raster(
                    tmp_path / "one.tif", values, origin=(500_000 + 640 * i, 5_200_000)
                )
                files.append(file.read_bytes())
            columns[band] = files
        columns |= more
        path = tmp_path / "images" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = pa.table({key: value for key, value in columns.items() if value is not None})
        pq.write_table(table, path, row_group_size=group, compression="none")
        return path

    return write


def test_every_row_is_a_scene(images: Callable[..., Path], land: Callable[..., Any]) -> None:
    scenes = image_scenes(str(images()))
    assert [scene.id for scene in scenes] == [
        "0U_0L_20200101T101500",
        "1U_1L_20200102T101500",
        "2U_2L_20200103T101500",
    ]
    assert scenes[1].datetime == "2020-01-02T10:15:00+00:00"
    assert [file.band_names for file in scenes[1].files] == [(band,) for band in BANDS]
    for order, file in enumerate(scenes[1].files):
        with local_name(file) as name, rasterio.open(name) as dataset:
            assert np.array_equal(dataset.read(), land(64, 64, 1, seed=10 + order))
            assert dataset.crs.to_epsg() == 32633


def test_a_row_is_read_as_a_scene_with_its_clouds_masked(
    images: Callable[..., Path], land: Callable[..., Any]
) -> None:
    (first, _) = find_scenes([str(images(2))], mask="cloud_mask=1")
    sent = pickle.loads(pickle.dumps(first))
    with RasterScene.open(sent.files, Reading(mask="cloud_mask=1")) as scene:
        assert scene.bands == BANDS
        values, valid = scene.read(0, 0, 64, 64)
    assert np.array_equal(valid, land(64, 64, 1, seed=3)[0] <= 1500)
    assert np.array_equal(values[1][valid], land(64, 64, 1, seed=1)[0][valid])


def test_names_are_gone_once_the_context_ends(images: Callable[..., Path]) -> None:
    uri = image_scenes(str(images(1)))[0].files[0].uri
    with opened(uri) as name, rasterio.open(name):
        pass
    with pytest.raises(rasterio.RasterioIOError):
        rasterio.open(name)


def test_row_groups_of_several_rows(images: Callable[..., Path], land: Callable[..., Any]) -> None:
    scenes = image_scenes(str(images(5, group=2)))
    assert [row_parts(scene.files[0].uri)[1:3] for scene in scenes] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
    ]
    with local_name(scenes[3].files[1]) as name, rasterio.open(name) as dataset:
        assert np.array_equal(dataset.read(), land(64, 64, 1, seed=31))


def test_bands_and_mask_are_chosen(images: Callable[..., Path]) -> None:
    file = str(images(1))
    (scene,) = image_scenes(file, columns=("B04", "B02"), mask="cloud_mask")
    assert [f.band_names for f in scene.files] == [("B04",), ("B02",), ("cloud_mask",)]
    with pytest.raises(InputError, match="no column of images B05") as caught:
        image_scenes(file, columns=("B05",))
    assert "B02, B03, B04, cloud_mask" in str(caught.value)


def test_only_the_row_and_the_column_are_fetched(images: Callable[..., Path]) -> None:
    path = images(6, size=160)
    with RangeServer(path.parent) as server:
        scenes = image_scenes(server.url(path.name))
        listed = server.bytes_sent()
        with local_name(scenes[4].files[2]) as name, rasterio.open(name) as dataset:
            over_http = dataset.read()
        read = server.bytes_sent() - listed
    with local_name(image_scenes(str(path))[4].files[2]) as name, rasterio.open(name) as dataset:
        assert np.array_equal(over_http, dataset.read())
    whole, cell = path.stat().st_size, 160 * 160 * 2
    assert listed < whole / 6, "finding scenes reads texts and the footer"
    assert cell <= read < 1.1 * cell


def test_a_server_without_ranges_is_refused(images: Callable[..., Path]) -> None:
    path = images(1)
    with (
        RangeServer(path.parent, ranges=False) as server,
        pytest.raises(SourceError, match="no range requests"),
    ):
        image_scenes(server.url(path.name))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20200101T101500", "2020-01-01T10:15:00+00:00"),
        ("2020-01-01 10:15:00", "2020-01-01T10:15:00+00:00"),
        ("2020-01-01T10:15:00.024Z", "2020-01-01T10:15:00.024000+00:00"),
        ("20200101", "2020-01-01T00:00:00+00:00"),
    ],
)
def test_times_are_read(images: Callable[..., Path], value: str, expected: str) -> None:
    (scene,) = image_scenes(str(images(1, product_datetime=[value])))
    assert scene.datetime == expected


def test_times_of_arrow_and_none(images: Callable[..., Path]) -> None:
    when = datetime.datetime(2020, 1, 1, 10, 15)
    (scene,) = image_scenes(str(images(1, product_datetime=None, timestamp=[when])))
    assert scene.datetime == "2020-01-01T10:15:00+00:00"
    (scene,) = image_scenes(str(images(1, product_datetime=["long ago"])))
    assert scene.datetime is None
    assert scene.id == "0U_0L_S2A_MSIL2A_0"
    assert "no time of 0U_0L ('long ago')" in scene.notes[0]


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    pq.write_table(pa.table({"grid_cell": ["0U_0L"], "embedding": [[1.0]]}), path)
    with pytest.raises(InputError, match=r"no images of Major TOM.*grid_cell, embedding"):
        image_scenes(str(path))
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(SourceError, match="no Parquet file"):
        image_scenes(str(path))
    with pytest.raises(SourceNotFoundError, match="no file"):
        image_scenes(str(tmp_path / "none.parquet"))


def test_damaged_cells_are_told(images: Callable[..., Path]) -> None:
    (scene,) = image_scenes(str(images(1, B03=[b""])))
    with (
        pytest.raises(SourceError, match=r"row group 0, row 0, B03\) is empty"),
        opened(scene.files[1].uri),
    ):
        pass
    gone = scene.files[0].uri.replace("#0.0#", "#7.0#")
    with pytest.raises(SourceError, match="not there any more"), opened(gone):
        pass


def test_a_folder_of_parts(images: Callable[..., Path]) -> None:
    images(2, name="part_00001")
    folder = images(1, name="part_00002").parent
    scenes = find_scenes([str(folder)])
    # The cell of the second file has the same name and time as one of the first.
    assert [scene.id for scene in scenes] == [
        "0U_0L_20200101T101500",
        "1U_1L_20200102T101500",
        "0U_0L_20200101T101500-2",
    ]
    assert len({fingerprint_of(file) for scene in scenes[:2] for file in scene.files}) == 6


def test_fingerprints_follow_the_bytes_of_the_row(images: Callable[..., Path]) -> None:
    before = image_scenes(str(images(2)))
    marks = [fingerprint_of(scene.files[0]) for scene in before]
    images(2, product_datetime=["20210101T000000"] * 2)
    assert [fingerprint_of(scene.files[0]) for scene in before] == marks
    images(2, B02=[b"other", b"bytes"])
    assert not set(marks) & {fingerprint_of(scene.files[0]) for scene in before}
