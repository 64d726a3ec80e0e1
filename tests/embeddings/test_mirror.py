"""A store at an address: always whole there, gone on with from anywhere, never overwritten."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    CollectionNotFoundError,
    ExtraMissingError,
    InputError,
    SourceError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StoreNotWritableError,
)
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Collection, Store
from embeddings.store.fetch import fetch
from embeddings.store.mirror import Mirror, mirrored, work_folder, work_store
from embeddings.store.objects import RemoteFolder, shown
from embeddings.store.snapshot import FILES
from embeddings.store.verify import verify

fsspec = pytest.importorskip("fsspec", reason="remote stores need fsspec")

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
COLLECTION = "land"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server on this machine that speaks S3, with a bucket 'terrakin'."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    pytest.importorskip("moto", reason="moto plays S3 in these tests")
    server = pytest.importorskip("moto.server", reason="moto[server] plays S3 in these tests")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment that leads to that server; gives a fresh s3:// address."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    if not system.exists("terrakin"):
        system.mkdir("terrakin")
    return f"s3://terrakin/{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a place that is empty."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    if request.param == "file":
        return (tmp_path / "remote").as_uri()
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Be another machine: one with its own cache. Tests begin on the first."""

    def be(name: str) -> Path:
        monkeypatch.setenv("TERRAKIN_CACHE", str(tmp_path / name))
        return tmp_path / name

    be("first-machine")
    return be


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few dozen rows, so that a small scene has several."""
    monkeypatch.setattr("embeddings.scene_run.rows_per_part", lambda _: 40)
    monkeypatch.setattr("embeddings.sources.chips.BATCH_BYTES", 20_000)


@pytest.fixture(scope="session")
def scenes(
    tmp_path_factory: pytest.TempPathFactory,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
) -> dict[str, Path]:
    """Two scenes with a hole each, and a third for another model."""
    folder = tmp_path_factory.mktemp("scenes")
    made = {}
    for seed, name in enumerate(("a", "b", "c")):
        pixels = land(seed=seed)
        pixels[:, 20:44, 30:60] = 0
        origin = (500_000.0 + 20_000 * seed, 5_200_000.0)
        made[name] = write_raster(
            folder / f"{name}.tif", pixels, origin=origin, nodata=0, tiled=True,
            blockxsize=16, blockysize=16,
        )  # fmt: skip
    return made


class Killed(BaseException):
    """The process ends here."""


def embed(
    url: str | Path, *files: Path, stop: Callable[[], bool] = lambda: False, **more: Any
) -> None:
    with work_store(url, COLLECTION) as (folder, published):
        job = RasterJob(folder, COLLECTION, tuple(map(str, files)), **{"chip": "8", **more})
        embed_raster(job, cancelled=stop, published=published)


def fetched(url: str, store: Path, **more: Any) -> Collection:
    fetch(url, store, **more)
    return Store.open(store).collection(COLLECTION)


def files_of(collection: Collection) -> dict[str, bytes]:
    """All files but collection.json, which holds times."""
    return {
        path.relative_to(collection.path).as_posix(): path.read_bytes()
        for path in sorted(collection.path.rglob("*"))
        if path.is_file() and path.name != "collection.json"
    }


def whole(url: str, folder: Path) -> Collection | None:
    """Copy what stands at an address and check every byte; None if nothing stands yet."""
    if RemoteFolder(url).read(f"{COLLECTION}/collection.json") is None:
        return None
    if RemoteFolder(url).read("terrakin.json") is None:
        RemoteFolder(url).write("terrakin.json", b'{"format_version": 1}')
    shutil.rmtree(folder, ignore_errors=True)
    collection = fetched(url, folder)
    problems = [text for text in verify(collection) if "is not finished" not in text]
    assert problems == []
    return collection


def test_a_remote_store_ends_as_a_local_one(
    url: str, scenes: dict[str, Path], tmp_path: Path, machine: Callable[[str], Path]
) -> None:
    files = (scenes["a"], scenes["b"])
    embed(tmp_path / "local", *files)
    local = Store.open(tmp_path / "local").collection(COLLECTION)
    assert len(local.parts) > 4
    embed(url, *files)
    copied = fetched(url, tmp_path / "copy")
    assert files_of(copied) == files_of(local)
    assert any(name.startswith("coverage/") for name in files_of(copied))
    assert copied.scenes == local.scenes
    assert verify(copied) == []
    # Nothing large stays on the machine that embedded.
    assert list(machine("first-machine").rglob("*.parquet")) == []


def test_going_on_elsewhere_makes_only_what_is_missing(
    url: str, scenes: dict[str, Path], tmp_path: Path, machine: Callable[[str], Path]
) -> None:
    embed(url, scenes["a"])
    before = {part.sha256 for part in fetched(url, tmp_path / "one").parts}
    machine("second-machine")
    told = []
    with work_store(url, COLLECTION) as (folder, published):
        job = RasterJob(folder, COLLECTION, (str(scenes["a"]), str(scenes["b"])), chip="8")
        report = embed_raster(
            job, published=lambda made: (told.append(len(made.parts)), published(made))
        )
    assert report.scenes[0].resumed == report.scenes[0].embedded
    assert told  # the second scene was published from here
    both = fetched(url, tmp_path / "two")
    assert [scene.id for scene in both.scenes] == ["a", "b"]
    assert before < {part.sha256 for part in both.parts}
    assert verify(both) == []
    # The first machine notices that its copy is older.
    machine("first-machine")
    embed(url, scenes["c"])
    assert [s.id for s in fetched(url, tmp_path / "two").scenes] == ["a", "b", "c"]


def test_killed_anywhere_the_store_is_whole_and_the_next_run_ends_it(
    scenes: dict[str, Path],
    tmp_path: Path,
    machine: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before every single change of the remote store in turn, once each."""
    monkeypatch.setattr("embeddings.scene_run.rows_per_part", lambda _: 90)
    embed(tmp_path / "local", scenes["a"])
    wanted = Store.open(tmp_path / "local").collection(COLLECTION)
    assert len(wanted.parts) == 2
    allowed, finished = 0, False
    while not finished:
        url = f"memory://{uuid.uuid4().hex}"
        machine(f"first-{allowed}")
        with monkeypatch.context() as patch:
            _kill_after(patch, allowed)
            try:
                embed(url, scenes["a"])
                finished = True
            except Killed:
                pass
        whole(url, tmp_path / "seen")
        if allowed % 2:
            machine(f"second-{allowed}")
        embed(url, scenes["a"])
        assert files_of(fetched(url, tmp_path / f"end-{allowed}")) == files_of(wanted)
        allowed += 1
    assert allowed > 10


def test_killed_anywhere_in_a_replacement_the_old_or_the_new_collection_stands(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, cache = tmp_path / "remote", work_folder((tmp_path / "remote").as_uri())
    embed(remote.as_uri(), scenes["a"])
    embed(tmp_path / "new", scenes["b"], scene="a")
    new = Store.open(tmp_path / "new").collection(COLLECTION)
    old = fetched(remote.as_uri(), tmp_path / "old")
    shutil.copytree(remote, tmp_path / "remote-before")
    shutil.copytree(cache, tmp_path / "cache-before")
    allowed, stood = 0, []
    while stood[-1:] != ["finished"]:
        for folder, before in ((remote, "remote-before"), (cache, "cache-before")):
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / before, folder)
        with mirrored(remote.as_uri()) as (folder, mirror), monkeypatch.context() as patch:
            mirror.pull(COLLECTION)
            shutil.rmtree(folder / COLLECTION)
            shutil.copytree(new.path, folder / COLLECTION)
            _kill_after(patch, allowed)
            try:
                mirror.push_left(COLLECTION)
                stood.append("finished")
            except Killed:
                pass
        seen = whole(remote.as_uri(), tmp_path / "seen")
        assert seen is not None
        if stood[-1:] != ["finished"]:
            stood.append("old" if files_of(seen) == files_of(old) else "new")
        assert files_of(seen) == files_of(old if stood[-1] == "old" else new)
        with mirrored(remote.as_uri()) as (folder, mirror):
            mirror.pull(COLLECTION)
            mirror.push_left(COLLECTION)
        assert files_of(fetched(remote.as_uri(), tmp_path / f"end-{allowed}")) == files_of(new)
        allowed += 1
    assert stood.count("old") > 5
    assert stood.count("new") > 5


def _kill_after(patch: pytest.MonkeyPatch, allowed: int) -> None:
    """Let so many changes of a remote store happen; the next one never does."""
    left = [allowed]

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def wrapper(self: RemoteFolder, name: str, *more: Any) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            change(self, name, *more)

        return wrapper

    for name in ("write", "upload", "remove"):
        patch.setattr(RemoteFolder, name, counted(getattr(RemoteFolder, name)))


def test_a_run_that_is_stopped_goes_on(url: str, scenes: dict[str, Path], tmp_path: Path) -> None:
    calls = iter(range(10_000))
    with pytest.raises(CancelledError):
        embed(url, scenes["a"], scenes["b"], stop=lambda: next(calls) > 6)
    embed(url, scenes["a"], scenes["b"])
    embed(tmp_path / "local", scenes["a"], scenes["b"])
    local = Store.open(tmp_path / "local").collection(COLLECTION)
    assert files_of(fetched(url, tmp_path / "copy")) == files_of(local)


def test_of_two_writers_the_second_is_told_and_nothing_is_lost(
    url: str, scenes: dict[str, Path], tmp_path: Path, machine: Callable[[str], Path]
) -> None:
    embed(url, scenes["a"])
    with pytest.raises(StoreLockedError, match="Another process has written") as told:
        _embed_while_another_does(url, scenes, machine)
    assert "Run the same command again" in str(told.value)
    after_one = fetched(url, tmp_path / "copy")
    assert [scene.id for scene in after_one.scenes] == ["a", "c"]
    assert verify(after_one) == []
    machine("first-machine")
    embed(url, scenes["b"])
    after_both = fetched(url, tmp_path / "copy")
    assert sorted(scene.id for scene in after_both.scenes) == ["a", "b", "c"]
    assert verify(after_both) == []


def _embed_while_another_does(
    url: str, scenes: dict[str, Path], machine: Callable[[str], Path]
) -> None:
    with work_store(url, COLLECTION) as (folder, published):
        machine("second-machine")
        embed(url, scenes["c"])
        job = RasterJob(folder, COLLECTION, (str(scenes["b"]),), chip="8")
        embed_raster(job, published=published)


@pytest.mark.parametrize("first", [True, False])
def test_s3_compares_and_writes_in_one_step(
    s3: str, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Another writer comes in after the comparison and before the write."""
    remote, other = RemoteFolder(s3), RemoteFolder(s3)
    if not first:
        remote.write("a.json", b"old")
    before = None if first else b"old"
    assert not remote.swap("a.json", b"another", b"new")
    pipe_file = remote._system.pipe_file

    def overtaken(path: str, content: bytes, **more: Any) -> None:
        patch.undo()
        other.write("a.json", b"theirs")
        pipe_file(path, content, **more)

    with monkeypatch.context() as patch:
        patch.setattr(remote._system, "pipe_file", overtaken)
        assert not remote.swap("a.json", before, b"mine")
    assert remote.read("a.json") == b"theirs"
    assert remote.swap("a.json", b"theirs", b"mine")
    assert remote.read("a.json") == b"mine"


def test_two_writers_that_begin_at_once_do_not_mix_their_files(
    url: str, scenes: dict[str, Path], tmp_path: Path, machine: Callable[[str], Path]
) -> None:
    """Each has an encoder of its own under the same name; so have their scenes."""
    swap = RemoteFolder.swap
    with pytest.MonkeyPatch.context() as patch:

        def late(self: RemoteFolder, name: str, before: bytes | None, after: bytes) -> bool:
            if name.endswith("collection.json"):
                patch.undo()
                machine("second-machine")
                embed(url, scenes["c"], scene="same")
                machine("first-machine")
            return swap(self, name, before, after)

        patch.setenv("TERRAKIN_CACHE", str(machine("first-machine")))
        patch.setattr(RemoteFolder, "swap", late)
        with pytest.raises(StoreLockedError):
            embed(url, scenes["a"], scene="same")
    embed(tmp_path / "local", scenes["c"], scene="same")
    local = Store.open(tmp_path / "local").collection(COLLECTION)
    assert files_of(fetched(url, tmp_path / "copy")) == files_of(local)
    with pytest.raises(CollectionExistsError):
        embed(url, scenes["a"], scene="same")


def test_one_machine_writes_once_at_a_time(url: str, scenes: dict[str, Path]) -> None:
    with mirrored(url), pytest.raises(StoreLockedError, match="on this machine"):
        embed(url, scenes["a"])


def test_a_replaced_collection_takes_new_names_and_leaves_no_old_files(
    url: str, scenes: dict[str, Path], tmp_path: Path
) -> None:
    embed(url, scenes["a"], chip="8")
    embed(url, scenes["b"], scene="a", chip="16", replace=True)
    remote = RemoteFolder(url)
    content = json.loads(remote.read(f"{COLLECTION}/collection.json") or b"")
    named = {stored["object"] for stored in content[FILES].values()}
    assert any(len(name.split(".")) == 3 for name in named)
    there = {f"parts/{name}" for name in remote.names(f"{COLLECTION}/parts")}
    assert there == {name for name in named if name.startswith("parts/")}
    assert {part["file"] for s in content["terrakin:scenes"] for part in s["parts"]} == there
    embed(tmp_path / "local", scenes["b"], scene="a", chip="16")
    local = Store.open(tmp_path / "local").collection(COLLECTION)
    assert files_of(fetched(url, tmp_path / "copy")) == files_of(local)


def test_a_store_that_was_deleted_there_is_begun_anew(
    scenes: dict[str, Path], tmp_path: Path
) -> None:
    url = (tmp_path / "remote").as_uri()
    embed(url, scenes["a"])
    shutil.rmtree(tmp_path / "remote")
    embed(url, scenes["a"])
    assert verify(fetched(url, tmp_path / "copy")) == []


def test_a_store_copied_there_by_hand_is_appended_to_and_fetched(
    scenes: dict[str, Path], tmp_path: Path, machine: Callable[[str], Path]
) -> None:
    embed(tmp_path / "remote", scenes["a"])
    url = (tmp_path / "remote").as_uri()
    local = Store.open(tmp_path / "remote").collection(COLLECTION)
    assert files_of(fetched(url, tmp_path / "copy")) == files_of(local)
    embed(url, scenes["b"])
    machine("second-machine")
    embed(url, scenes["b"], chip="16", replace=True)
    assert [scene.id for scene in fetched(url, tmp_path / "new").scenes] == ["b"]
    assert verify(fetched(url, tmp_path / "new")) == []


def test_a_scene_without_data_leaves_nothing_there(
    scenes: dict[str, Path], tmp_path: Path, land: Any, write_raster: Any
) -> None:
    url = (tmp_path / "remote").as_uri()
    embed(url, scenes["a"])
    empty = write_raster(tmp_path / "empty.tif", 0 * land(), nodata=0)
    with pytest.raises(SourceError):
        embed(url, empty)
    assert [scene.id for scene in fetched(url, tmp_path / "copy").scenes] == ["a"]


def test_fetch_keeps_what_is_here_and_repairs_what_is_not(
    url: str, scenes: dict[str, Path], tmp_path: Path
) -> None:
    embed(url, scenes["a"])
    first = fetch(url, tmp_path / "copy")[0]
    assert (first.collection, first.kept) == (COLLECTION, 0)
    collection = Store.open(tmp_path / "copy").collection(COLLECTION)
    part = collection.part_paths[0]
    good = part.read_bytes()
    part.write_bytes(b"x" + good[1:])
    second = fetch(url, tmp_path / "copy")[0]
    assert second.files - second.kept == 1
    assert part.read_bytes() == good
    embed(url, scenes["b"])
    third = fetch(url, tmp_path / "copy")[0]
    assert third.kept == first.files  # only what is new was copied
    assert verify(Store.open(tmp_path / "copy").collection(COLLECTION)) == []


def test_fetch_reports_damaged_and_missing_parts_and_then_goes_on(
    scenes: dict[str, Path], tmp_path: Path
) -> None:
    embed((tmp_path / "remote").as_uri(), scenes["a"])
    parts = sorted((tmp_path / "remote").rglob("parts/*.parquet"))
    good = [part.read_bytes() for part in parts]
    parts[0].write_bytes(good[0][:-1])
    parts[1].unlink()
    url = (tmp_path / "remote").as_uri()
    with pytest.raises(StoreFormatError, match=r"is damaged.*is missing") as told:
        fetch(url, tmp_path / "copy")
    assert parts[0].name in str(told.value)
    assert Store.open(tmp_path / "copy").names() == []
    for part, content in zip(parts, good, strict=True):
        part.write_bytes(content)
    done = fetch(url, tmp_path / "copy")[0]
    assert done.files - done.kept == 2
    assert verify(Store.open(tmp_path / "copy").collection(COLLECTION)) == []


def test_fetch_leaves_another_collection_alone(scenes: dict[str, Path], tmp_path: Path) -> None:
    url = (tmp_path / "remote").as_uri()
    embed(url, scenes["a"])
    embed(tmp_path / "mine", scenes["b"])
    mine = files_of(Store.open(tmp_path / "mine").collection(COLLECTION))
    with pytest.raises(CollectionExistsError, match="--replace"):
        fetch(url, tmp_path / "mine")
    assert files_of(Store.open(tmp_path / "mine").collection(COLLECTION)) == mine
    assert [s.id for s in fetched(url, tmp_path / "mine", replace=True).scenes] == ["a"]
    # A scene of one's own in a fetched collection is not thrown away either.
    embed(tmp_path / "mine", scenes["c"])
    with pytest.raises(CollectionExistsError):
        fetch(url, tmp_path / "mine")


def test_fetch_stops_and_goes_on(scenes: dict[str, Path], tmp_path: Path) -> None:
    url = (tmp_path / "remote").as_uri()
    embed(url, scenes["a"])
    calls = iter(range(1000))
    with pytest.raises(CancelledError):
        fetch(url, tmp_path / "copy", cancelled=lambda: next(calls) == 3)
    assert fetch(url, tmp_path / "copy")[0].kept == 3


def test_fetch_notices_that_the_collection_changes_meanwhile(
    scenes: dict[str, Path], tmp_path: Path
) -> None:
    url = (tmp_path / "remote").as_uri()
    embed(url, scenes["a"])
    begun: list[int] = []

    def replace_it(done: int, *_: object) -> None:
        if done and not begun:
            begun.append(done)
            embed(url, scenes["b"], replace=True)

    with pytest.raises(StoreError, match="was changed while it was being copied"):
        fetch(url, tmp_path / "copy", tell=replace_it)
    collection = fetched(url, tmp_path / "copy")
    assert [scene.id for scene in collection.scenes] == ["b"]
    assert verify(collection) == []
    assert list((tmp_path / "copy").glob(".fetching-*")) == []


def test_fetch_says_what_is_there(scenes: dict[str, Path], tmp_path: Path) -> None:
    url = (tmp_path / "remote").as_uri()
    with pytest.raises(StoreError, match="There is no Terrakin store at"):
        fetch(url, tmp_path / "copy")
    embed(url, scenes["a"])
    with pytest.raises(CollectionNotFoundError, match=f"There: {COLLECTION}"):
        fetch(url, tmp_path / "copy", ["sea"])
    assert not (tmp_path / "copy").exists()


def test_a_remote_store_cannot_write_elsewhere(scenes: dict[str, Path], tmp_path: Path) -> None:
    embed((tmp_path / "remote").as_uri(), scenes["a"])
    path = tmp_path / "remote" / COLLECTION / "collection.json"
    content = json.loads(path.read_text())
    name = next(iter(content[FILES]))
    content[FILES]["../../evil"] = content[FILES][name]
    path.write_text(json.dumps(content))
    with pytest.raises(StoreFormatError, match="evil"):
        fetch((tmp_path / "remote").as_uri(), tmp_path / "copy")


def test_other_files_are_refused(scenes: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "holiday.jpg").write_bytes(b"1")
    with pytest.raises(StoreError, match=r"holiday\.jpg"):
        embed((tmp_path / "remote").as_uri(), scenes["a"])


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there(scenes: dict[str, Path]) -> None:
    with pytest.raises(StoreError, match="bucket or folder does not exist"):
        embed("s3://no-such-bucket/embeddings", scenes["a"])


def test_an_endpoint_that_does_not_answer(
    s3: str, scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="does not answer"):
        embed(s3, scenes["a"])


def test_no_credentials(s3: str, scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="no usable credentials"):
        embed(s3, scenes["a"])


@contextmanager
def answering(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on this machine; gives its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request as S3 does to a key that may do nothing."""

    def do_GET(self) -> None:
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_PUT = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_bucket_that_refuses(
    s3: str, scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(Refusing) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(StoreError, match="access is denied"):
            embed(s3, scenes["a"])
        with pytest.raises(StoreNotWritableError, match="list, read, write and delete"):
            RemoteFolder(s3).check_writable()


def test_fetch_from_a_web_server(scenes: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    embed((tmp_path / "remote").as_uri(), scenes["a"])

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(partial(Quiet, directory=str(tmp_path))) as address:
        assert verify(fetched(f"{address}/remote", tmp_path / "copy")) == []
        with pytest.raises(StoreError, match="cannot be written"):
            embed(f"{address}/remote", scenes["b"])


def test_a_folder_that_is_closed(
    scenes: dict[str, Path], tmp_path: Path, closed: Callable[[Path], None]
) -> None:
    (tmp_path / "remote").mkdir()
    closed(tmp_path / "remote")
    with pytest.raises(StoreError, match="cannot be read: access is denied"):
        embed((tmp_path / "remote").as_uri(), scenes["a"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    sys.modules["fsspec.registry"]._registry.pop("gs", None)  # a class that was found stays found
    with pytest.raises(ExtraMissingError, match="pip install 'gcsfs'"):
        RemoteFolder("gs://bucket/folder")


@pytest.mark.parametrize("url", ["bucket/folder", "nosuch://bucket", "zip://a.zip::s3://b/c"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError):
        RemoteFolder(url)


def test_no_secret_is_shown_and_none_names_the_cache(tmp_path: Path) -> None:
    secret = "sftp://user:pass@host/folder?signature=abc"  # pragma: allowlist secret
    assert shown(f"cannot open '{secret}'") == "cannot open 'sftp://host/folder'"
    assert work_folder(secret) == work_folder("sftp://host/folder/")
    mirror = Mirror(f"{(tmp_path / 'x').as_uri()}?signature=abc", tmp_path)
    assert "abc" not in mirror.remote.shown


def test_a_part_made_again_does_not_touch_the_one_that_stands(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is told of a collection whose part has the same name and another content."""
    url = (tmp_path / "remote").as_uri()
    embed(url, scenes["a"])
    before = fetched(url, tmp_path / "before")
    with mirrored(url) as (folder, mirror):
        mirror.pull(COLLECTION)
        embed(tmp_path / "other", scenes["b"], scene="a")
        other = Store.open(tmp_path / "other").collection(COLLECTION)
        shutil.rmtree(folder / COLLECTION)
        shutil.copytree(other.path, folder / COLLECTION)
        uploads: list[str] = []
        upload = mirror.remote.upload

        def noted(name: str, path: Path) -> None:
            uploads.append(name)
            upload(name, path)

        monkeypatch.setattr(mirror.remote, "upload", noted)
        mirror.push(Collection.load(folder / COLLECTION))
    old_names = {f"{COLLECTION}/{name}" for name in files_of(before)}
    assert uploads
    assert not old_names & set(uploads)
