"""Whole runs on imagery that is far away: the same collection, for the bytes that are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embeddings.errors import SourceNotFoundError
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Collection, Store
from embeddings.types import Bounds
from tests.embeddings.hashes import contents
from tests.embeddings.range_server import RangeServer


def run(store: Path, files: list[str], **more: Any) -> Collection:
    embed_raster(RasterJob(store, "land", tuple(files), scene="scene", **more))
    return Store.open(store).collection("land")


@pytest.fixture
def scene(tmp_path: Path, land: Any, write_raster: Any) -> Path:
    """Two tiled bands whose corner is filled with 255 without a tag, as of a rotated scene."""
    for seed, name in enumerate(("B02", "B03")):
        values = land(1536, 1536, 1, seed=seed, dtype="uint8")
        values[:, :96, :96] = 255
        tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
        write_raster(tmp_path / "scene" / f"{name}.tif", values, **tiles)
    return tmp_path / "scene"


@pytest.mark.parametrize(
    ("bbox", "share"), [(None, 1.3), (Bounds(15.0, 46.93, 15.025, 46.95), 0.15)]
)
def test_a_scene_over_http_gives_the_local_collection(
    tmp_path: Path, scene: Path, bbox: Bounds | None, share: float
) -> None:
    files = sorted(scene.iterdir())
    local = run(tmp_path / "local", [str(file) for file in files], chip="16", bbox=bbox)
    with RangeServer(scene) as server:
        urls = [server.url(file.name) for file in files]
        far = run(tmp_path / "far", urls, chip="16", bbox=bbox)
        sent = server.bytes_sent()
        assert run(tmp_path / "far", urls, chip="16", bbox=bbox).count == far.count
    assert 0 < far.count == local.count
    assert contents(far.path) == contents(local.path)
    assert sent < share * sum(file.stat().st_size for file in files)
    assert far.scenes[0].files == tuple(urls)


def test_what_is_not_on_the_server_is_one_clear_error(tmp_path: Path, scene: Path) -> None:
    with RangeServer(scene) as server, pytest.raises(SourceNotFoundError, match=r"B09\.tif"):
        run(tmp_path / "far", [server.url("B09.tif")], chip="16")
    assert not (tmp_path / "far").exists()
