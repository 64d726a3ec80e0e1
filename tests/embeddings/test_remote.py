"""Files on servers: the same pixels for few bytes, fingerprints, faults in words, no secrets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from embeddings.errors import SourceError, SourceNotFoundError
from embeddings.sources import fetching
from embeddings.sources.addresses import path_of, relative_to, shown, without_secrets
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import SceneFile
from embeddings.sources.remote import fingerprint_of, gdal_env, gdal_name, is_remote, local_name
from embeddings.sources.scenes import find_scenes
from tests.embeddings.range_server import RangeServer

COG = {"tiled": True, "blockxsize": 128, "blockysize": 128, "nodata": 0}
"""With nodata declared: to look for an undeclared one, the whole file is read where it has no
overviews."""


@pytest.fixture
def scene_folder(
    tmp_path: Path, write_raster: Callable[..., Path], land: Callable[..., Any]
) -> Path:
    """Two bands of 1024 x 1024 pixels, tiled, in a folder."""
    for seed, name in enumerate(("B02", "B03")):
        write_raster(tmp_path / "scene" / f"{name}.tif", land(1024, 1024, 1, seed=seed), **COG)
    return tmp_path / "scene"


@pytest.fixture
def closed_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def pixels(*files: str | SceneFile, window: tuple[int, int, int, int]) -> np.ndarray:
    with RasterScene.open(list(files)) as scene:
        values, valid = scene.read(*window)
        assert valid.all()
        return values


def test_a_window_over_http_equals_the_local_one_and_reads_its_blocks_only(
    scene_folder: Path,
) -> None:
    window = (256, 512, 256, 256)  # 1/16 of the scene: 4 of 64 blocks a band
    files = sorted(scene_folder.iterdir())
    local = pixels(*map(str, files), window=window)
    with RangeServer(scene_folder) as server:
        scene = find_scenes([server.url(file.name) for file in files])[0]
        headers = server.bytes_sent()
        with RasterScene.open(scene.files) as opened:
            assert opened.bands == ("B02", "B03")
            over_http = opened.read(*window)[0]
        sent = server.bytes_sent()
        whole = sum(file.stat().st_size for file in files)
        names = {path.lstrip("/") for _, path in server.requests}
    assert np.array_equal(over_http, local)
    assert headers < whole * 0.05
    assert sent < whole * 0.25
    assert names == {"B02.tif", "B03.tif"}, "nothing beside the files is asked for"


def test_gdal_reads_the_blocks_of_the_window(scene_folder: Path) -> None:
    with RangeServer(scene_folder) as server:
        name = gdal_name(server.url("B02.tif"))
        with gdal_env(name):
            dataset = rasterio.open(name)
        with dataset:
            opened = server.bytes_sent()
            dataset.read(1, window=Window(512, 256, 256, 256))
        read = server.bytes_sent() - opened
    blocks = 4 * 128 * 128 * 2
    assert opened <= 64 * 1024
    # GDAL fetches in pieces of 16 KiB, so up to one more at either end of each run of blocks.
    assert blocks <= read <= blocks * 1.6


def test_one_file_at_an_address_is_a_scene(scene_folder: Path) -> None:
    with RangeServer(scene_folder, signature="s3cret") as server:
        (scene,) = find_scenes([server.url("B02.tif")], datetime="2020-07-01")
        assert scene.id == "B02"
        assert "s3cret" not in scene.origin
        over_http = pixels(*scene.files, window=(0, 0, 64, 64))
    assert np.array_equal(over_http, pixels(str(scene_folder / "B02.tif"), window=(0, 0, 64, 64)))


def test_failed_requests_are_repeated(scene_folder: Path) -> None:
    with RangeServer(scene_folder, fail=[503, 503]) as server:
        mark = fingerprint_of(server.url("B02.tif"))
        assert [method for method, _ in server.requests] == ["GET"] * 3
        assert mark == fingerprint_of(server.url("B02.tif"))


def test_fingerprints_of_remote_files_follow_their_state(scene_folder: Path) -> None:
    with RangeServer(scene_folder) as server:
        url = server.url("B02.tif")
        first = fingerprint_of(SceneFile(url))
        assert fingerprint_of(f"{url}?sig=1") == first, "signatures change, files do not"
        assert fingerprint_of(gdal_name(url)) == first
        assert fingerprint_of(server.url("B03.tif")) != first
        assert server.bytes_sent() <= 4
        content = (scene_folder / "B02.tif").read_bytes()
        (scene_folder / "B02.tif").write_bytes(content + b"\0")
        assert fingerprint_of(url) != first


def test_fingerprints_of_local_files_follow_content_masks_and_vrt(
    tmp_path: Path, write_raster: Callable[..., Path], land: Callable[..., Any]
) -> None:
    file = write_raster(tmp_path / "a.tif", land(32, 32, 1))
    first = fingerprint_of(str(file))
    copy = write_raster(tmp_path / "b.tif", land(32, 32, 1))
    assert fingerprint_of(str(copy)) == first
    (tmp_path / "b.tif.msk").write_bytes(b"mask")
    assert fingerprint_of(str(copy)) != first

    vrt = tmp_path / "all.vrt"
    source = '<SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
    vrt.write_text(f"<VRTDataset><VRTRasterBand>{source}</VRTRasterBand></VRTDataset>")
    before = fingerprint_of(str(vrt))
    write_raster(file, land(32, 32, 1, seed=5))
    assert fingerprint_of(str(vrt)) != before
    vrt.write_text(vrt.read_text().replace("a.tif", "all.vrt"))
    with pytest.raises(SourceError, match="refers to itself"):
        fingerprint_of(str(vrt))
    with pytest.raises(SourceNotFoundError, match="no file"):
        fingerprint_of(str(tmp_path / "none.tif"))


def test_a_closed_port_is_told(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetching, "RETRIES", 0)
    fetching.session.cache_clear()
    address = f"http://me:pass@127.0.0.1:{closed_port}/B02.tif?sig=s3cret"
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        fingerprint_of(address)
    fetching.session.cache_clear()
    text = str(caught.value)
    assert f"http://127.0.0.1:{closed_port}/B02.tif" in text
    assert "connection refused" in text
    assert "HTTPS_PROXY" in text
    assert "s3cret" not in text
    assert "pass" not in text
    assert caught.value.__suppress_context__


def test_statuses_are_told(scene_folder: Path) -> None:
    with RangeServer(scene_folder, signature="s3cret") as server:
        with pytest.raises(SourceNotFoundError, match="404") as caught:
            fingerprint_of(server.url("B99.tif"))
        assert "s3cret" not in str(caught.value)
        with pytest.raises(SourceError, match="refuses"):
            fingerprint_of(f"{server.root}/B02.tif")
        server.fail = [500] * 9
        with pytest.raises(SourceError, match="500"):
            fingerprint_of(server.url("B02.tif"))


def test_headers_that_cannot_be_read_are_told(scene_folder: Path, closed_port: int) -> None:
    (scene_folder / "text.tif").write_text("no raster")
    with RangeServer(scene_folder, signature="s3cret") as server:
        for name, message in (("gone.tif", r"has no '.*/gone\.tif'"), ("text.tif", "not a raster")):
            with pytest.raises(SourceError, match=message) as caught:
                find_scenes([server.url("B02.tif"), server.url(name)])
            assert "s3cret" not in str(caught.value)
    address = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(SourceError, match=r"B02\.tif' cannot be reached \(connection refused\)"):
        find_scenes([f"{address}/B02.tif", f"{address}/B03.tif"])


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://a.org/b/c.tif?x=1", "/vsicurl/https://a.org/b/c.tif?x=1"),
        ("S3://bucket/key.tif", "/vsis3/bucket/key.tif"),
        ("gs://bucket/key.tif", "/vsigs/bucket/key.tif"),
        ("az://container/key.tif", "/vsiaz/container/key.tif"),
        ("abfs://container/key.tif", "/vsiaz/container/key.tif"),
        ("folder/c.tif", "folder/c.tif"),
        (r"C:\data\c.tif", r"C:\data\c.tif"),
    ],
)
def test_names_for_gdal(uri: str, name: str) -> None:
    assert gdal_name(uri) == name
    assert is_remote(uri) == (name != uri)
    with local_name(SceneFile(uri)) as given:
        assert given == name


def test_the_settings_of_gdal_hold_for_remote_files_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "7")
    with gdal_env("/vsicurl/http://a.org/b.tif"):
        options = rasterio.env.getenv()
        assert options["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
        assert "GDAL_HTTP_TIMEOUT" not in options, "what the user set stays"
    with gdal_env(str(tmp_path / "b.tif")):
        assert not rasterio.env.hasenv()


def test_secrets_are_never_shown() -> None:
    signed = "https://me:pa55@a.org:8080/b/c.tif?X-Amz-Signature=s3cret#x"
    assert shown(signed) == "https://a.org:8080/b/c.tif"
    message = f"HTTP 403: /vsicurl/{signed} and '{signed}'."
    told = without_secrets(message)
    assert "s3cret" not in told
    assert "pa55" not in told
    assert told.count("https://a.org:8080/b/c.tif") == 2
    row = shown(f"majortom-row:{signed}#3.0#B02")
    assert row == "https://a.org:8080/b/c.tif (row group 3, row 0, B02)"
    assert path_of(signed).stem == "c"


@pytest.mark.parametrize(
    ("base", "href", "expected"),
    [
        ("https://a.org/x/item.json?sig=1", "./B02.tif", "https://a.org/x/B02.tif"),
        ("https://a.org/x/item.json", "/B02.tif", "https://a.org/B02.tif"),
        ("s3://bucket/x/item.json", "../B02.tif", "s3://bucket/B02.tif"),
        ("https://a.org/x/item.json", "s3://bucket/B02.tif", "s3://bucket/B02.tif"),
    ],
)
def test_references_are_resolved(base: str, href: str, expected: str) -> None:
    assert relative_to(base, href) == expected


@pytest.fixture(scope="module")
def bucket() -> Iterator[Callable[[Path], str]]:
    """Put a file into a bucket of a local S3 server, and return its address."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    patch = pytest.MonkeyPatch()
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    for name, value in {
        "AWS_S3_ENDPOINT": f"{host}:{port}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    fetching._s3.cache_clear()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="imagery")

    def put(file: Path) -> str:
        client.upload_file(str(file), "imagery", f"scene/{file.name}")
        return f"s3://imagery/scene/{file.name}"

    yield put
    moto.stop()
    patch.undo()
    fetching._s3.cache_clear()


def test_s3_gives_the_same_pixels(bucket: Callable[[Path], str], scene_folder: Path) -> None:
    files = sorted(scene_folder.iterdir())
    (scene,) = find_scenes([bucket(file) for file in files])
    assert scene.id == "scene"
    window = (300, 300, 200, 200)
    local = pixels(*map(str, files), window=window)
    assert np.array_equal(pixels(*scene.files, window=window), local)


def test_fingerprints_of_s3(bucket: Callable[[Path], str], scene_folder: Path) -> None:
    file = scene_folder / "B02.tif"
    address = bucket(file)
    first = fingerprint_of(address)
    assert fingerprint_of(address) == first
    file.write_bytes(file.read_bytes() + b"\0")
    assert fingerprint_of(bucket(file)) != first
    with pytest.raises(SourceNotFoundError, match=r"s3://imagery/scene/none\.tif"):
        fingerprint_of("s3://imagery/scene/none.tif")


def test_documents_on_s3(bucket: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "item.json").write_text("{}")
    assert fetching.read_document(bucket(tmp_path / "item.json")) == b"{}"
    with pytest.raises(SourceNotFoundError, match=r"none\.json"):
        fetching.read_document("s3://imagery/scene/none.json")


def test_azure_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    assert "AZURE_STORAGE_ACCOUNT" not in os.environ
    with pytest.raises(SourceError, match="AZURE_STORAGE_ACCOUNT"):
        fingerprint_of("az://container/key.tif")
