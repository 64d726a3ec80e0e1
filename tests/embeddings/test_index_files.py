"""Building and opening an index: stopped, killed, damaged, stale, in several processes."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from filelock import FileLock

from embeddings.errors import (
    CancelledError,
    InputError,
    StorageFullError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
)
from embeddings.index import files, lists
from embeddings.index.build import build_index
from embeddings.index.ivf import IvfIndex
from embeddings.index.open import examine_index, index_problems, open_index
from embeddings.index.rows import ROW_FILES
from embeddings.index.sums import SUMS_FILE, IndexDamagedError
from embeddings.index.vectors import VectorFile
from embeddings.store.collection import Collection
from tests.embeddings.index_data import clustered, spec_of, write_collection

COUNT, DIM, PARTS = 6000, 32, 6


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, and lists that are used, in a collection as small as this."""
    monkeypatch.setattr("embeddings.index.build.BLOCK_BYTES", 1)
    monkeypatch.setattr("embeddings.index.build.ADD_ROWS", 1500)
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 100 * DIM)
    monkeypatch.setattr("embeddings.index.source.KEEP_SECONDS", 0.0)
    monkeypatch.setattr("embeddings.index.row_writer.KEEP_SECONDS", 0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A collection without an index; not to be changed."""
    pieces = np.array_split(clustered(COUNT, DIM), PARTS)
    path = tmp_path_factory.mktemp("files") / "c"
    return write_collection(path, spec_of(DIM), [lambda p=p: p for p in pieces])


@pytest.fixture
def plain(made: Collection, tmp_path: Path) -> Collection:
    """A copy of it."""
    return Collection.load(Path(shutil.copytree(made.path, tmp_path / "c")))


@pytest.fixture(scope="module")
def indexed(made: Collection, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A copy with an index; not to be changed."""
    path = tmp_path_factory.mktemp("indexed") / "c"
    copy = Collection.load(Path(shutil.copytree(made.path, path)))
    build_index(copy, ivf_rows=1)
    return copy


@pytest.fixture
def built(indexed: Collection, tmp_path: Path) -> Collection:
    """A copy with an index."""
    return Collection.load(Path(shutil.copytree(indexed.path, tmp_path / "c")))


def folder_of(collection: Collection) -> Path:
    (folder,) = files.finished_folders(collection)
    return folder


def answers(collection: Collection) -> list[list[int]]:
    index = open_index(collection)
    assert index is not None
    return [index.search(q, 10).rows.tolist() for q in clustered(20, DIM, seed=4)]


def test_an_index_holds_the_vectors_of_all_parts_in_their_order(built: Collection) -> None:
    index = open_index(built)
    assert isinstance(index, IvfIndex)
    true = clustered(COUNT, DIM)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    assert np.abs(index.vectors(np.arange(COUNT)) - true).max() < 1e-3
    assert np.abs(index.vector(4321) - true[4321]).max() < 1e-3
    assert {path.name for path in folder_of(built).iterdir()} == {
        *(files.MANIFEST_FILE, SUMS_FILE, files.VECTORS_FILE, lists.LISTS_FILE, *ROW_FILES)
    }


def test_the_lists_are_the_file_that_faiss_would_write(
    tmp_path: Path,
) -> None:
    vectors = clustered(3000, DIM)
    empty = lists.train(lists.Plan(DIM, 16, "SQ8"), vectors, lambda _: None)
    lists.save(empty, tmp_path / "empty")
    blocks = []
    for start in range(0, 3000, 1000):
        block = lists.load(tmp_path / "empty")
        block.add_with_ids(vectors[start : start + 1000], np.arange(start, start + 1000))
        blocks.append(tmp_path / f"block{start}")
        lists.save(block, blocks[-1])
    lists.merge(lists.load(tmp_path / "empty"), 3000, blocks, tmp_path / "merged")
    empty.add(vectors)
    faiss.write_index(empty, str(tmp_path / "whole"))
    # The shapes of the lists follow.
    assert (tmp_path / "merged").read_bytes().startswith((tmp_path / "whole").read_bytes())


def test_lists_that_cannot_be_mapped_are_read_into_memory(
    plain: Collection, indexed: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(faiss, "OnDiskInvertedLists")  # as on Windows
    build_index(plain, ivf_rows=1)
    assert answers(plain) == answers(indexed)
    assert open_index(indexed) is not None


def test_a_small_collection_gets_no_lists(plain: Collection) -> None:
    report = build_index(plain)
    assert (report.kind, report.count) == ("scan", COUNT)
    assert (report.folder / files.VECTORS_FILE).stat().st_size == COUNT * DIM * 2
    assert not (report.folder / lists.LISTS_FILE).exists()
    opened = examine_index(plain)
    assert isinstance(opened.index, VectorFile)
    found = opened.index.search(opened.index.vector(17), 5)
    assert (found.rows[0], found.considered, found.expected_recall) == (17, COUNT, 1.0)


def test_progress_grows_and_nothing_is_printed(
    plain: Collection, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[int, int, str]] = []
    report = build_index(plain, ivf_rows=1, progress=lambda *now: told.append(now))
    open_index(plain)
    assert capfd.readouterr() == ("", "")
    shares = [done for done, _, _ in told]
    assert shares == sorted(shares)
    assert {total for _, total, _ in told} == {1000}
    assert {"Joining the lists", "Fitting 64 lists"} <= {text for _, _, text in told}
    assert report.kind == "ivf"
    assert set(report.seconds) == {"vectors", "rows", "train", "lists", "measure", "sums"}
    there = {path.name: path.stat().st_size for path in folder_of(plain).iterdir()}
    assert report.bytes == sum(there.values()) - there[files.MANIFEST_FILE]


def test_a_build_stopped_anywhere_goes_on_and_ends_in_the_same_files(
    plain: Collection, indexed: Collection
) -> None:
    """Stopped at every report of progress in turn, each run goes on from the one before."""
    stops = 0
    while True:
        asked = itertools.count(-stops)
        try:
            build_index(plain, ivf_rows=1, cancelled=lambda asked=asked: next(asked) > 0)
            break
        except CancelledError:
            stops += 1
            assert open_index(plain) is None
    assert stops > 5
    for name in (files.VECTORS_FILE, lists.LISTS_FILE, *ROW_FILES):
        mine, whole = folder_of(plain) / name, folder_of(indexed) / name
        assert mine.read_bytes() == whole.read_bytes()
    assert answers(plain) == answers(indexed)


def test_what_was_finished_is_not_made_again(
    plain: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CancelledError, match="run it again"):
        build_index(plain, ivf_rows=1, cancelled=_at("Joining", told := []), progress=_to(told))
    monkeypatch.setattr("embeddings.index.source.part_units", _forbidden)
    monkeypatch.setattr("embeddings.index.row_writer.RowWriter._write_piece", _forbidden)
    monkeypatch.setattr("embeddings.index.build.sort_ids", _forbidden)
    monkeypatch.setattr("embeddings.index.build.train", _forbidden)
    build_index(plain, ivf_rows=1)
    assert open_index(plain) is not None


def test_vectors_that_lost_bytes_are_written_again(plain: Collection, indexed: Collection) -> None:
    told: list[str] = []
    with pytest.raises(CancelledError):
        build_index(plain, ivf_rows=1, cancelled=_at("Fitting", told), progress=_to(told))
    path = files.building_folder(plain) / files.VECTORS_FILE
    path.write_bytes(path.read_bytes()[:1000])
    told.clear()
    with pytest.raises(CancelledError):
        build_index(plain, ivf_rows=1, cancelled=_at("Reading", told), progress=_to(told))
    build_index(plain, ivf_rows=1)
    assert answers(plain) == answers(indexed)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_part_with_other_rows_than_recorded_is_told(plain: Collection, wrong: int) -> None:
    scene = plain.scenes[0]
    first = replace(scene.parts[0], rows=scene.parts[0].rows + wrong)
    other = replace(plain, scenes=(replace(scene, parts=(first, *scene.parts[1:])),))
    with pytest.raises(StoreFormatError, match=r"has 1,000 rows instead of"):
        build_index(other, ivf_rows=1)
    assert open_index(other) is None


def _to(told: list[str]) -> Callable[[int, int, str], None]:
    return lambda _done, _total, text: told.append(text)


def _at(word: str, told: list[str]) -> Callable[[], bool]:
    return lambda: bool(told) and told[-1].startswith(word)


def _forbidden(*_: object) -> Any:
    raise AssertionError("this was done before")


@pytest.mark.parametrize(
    "word",
    ["Reading", "1,000", "6,000 of 6,000 rows", "0 of", "Fitting", "1,500", "Joining", "Measuring"],
)
def test_a_killed_build_leaves_the_old_index_and_is_gone_on_with(
    built: Collection, indexed: Collection, word: str
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from embeddings.index import build, row_writer, source
from embeddings.store.collection import Collection
build.BLOCK_BYTES, build.ADD_ROWS, source.KEEP_SECONDS = 1, 1500, 0.0
row_writer.KEEP_SECONDS = 0.0
def told(done, total, text):
    if text.startswith({word!r}):
        os.kill(os.getpid(), {int(getattr(signal, "SIGKILL", signal.SIGTERM))})
build.build_index(Collection.load(Path({str(built.path)!r})), ivf_rows=1, progress=told)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode < 0 or os.name == "nt", ended.stderr
    assert answers(built) == answers(indexed)
    build_index(built, ivf_rows=1)
    assert answers(built) == answers(indexed)
    assert [p.name for p in files.index_root(built).iterdir() if p.is_dir()] == [
        f"{files.key_of(built)}-2"
    ]


def test_another_state_or_space_is_another_index(built: Collection) -> None:
    scene = built.scenes[0]
    fewer = replace(built, scenes=(replace(scene, parts=scene.parts[:-1]),))
    moved = replace(built, spec=replace(built.spec, centre=(0.1,) * DIM))
    for other in (fewer, moved):
        opened = examine_index(other)
        assert opened.index is None
        assert "of other rows" in opened.reason
    assert open_index(built) is not None
    build_index(fewer, ivf_rows=1)
    index = open_index(fewer)
    assert index is not None
    assert index.count == fewer.count
    assert open_index(built) is None  # the old one made room


def test_a_collection_without_an_index_says_so(plain: Collection) -> None:
    assert examine_index(plain).reason == "Collection 'c' has no index."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.update(format_version=2), "of version 2; this release reads 3"),
        (lambda data: data.update(format="other"), "it is other"),
        (lambda data: data.update(kind="hnsw"), "kind hnsw is not known"),
        (lambda data: data.update(count=5), "belongs to another collection"),
        (lambda data: data.update(key="0" * 24), "belongs to another collection"),
        (lambda data: data.update(more=1), "missing or damaged"),
        (lambda data: data.pop("curve"), "missing or damaged"),
        (lambda data: data.update(curve=None), "does not go with its kind"),
        (lambda data: data["curve"].pop("ks"), "missing or damaged"),
        (lambda data: data.update(files={}), "it names the files []"),
        (lambda data: data["curve"]["recall"].pop(), "without values"),
    ],
)
def test_a_manifest_that_is_not_ours_opens_nothing(
    built: Collection, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    path = folder_of(built) / files.MANIFEST_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    for told in ("its hash is that of another text", reason):
        path.write_text(json.dumps(data), encoding="utf-8")
        opened = examine_index(built)
        assert opened.index is None
        assert told in opened.reason or reason in opened.reason
        data.pop("sha256")
        data["sha256"] = files._digest(data)
    assert reason in opened.reason


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}'])
def test_a_damaged_manifest_opens_nothing(built: Collection, content: bytes) -> None:
    (folder_of(built) / files.MANIFEST_FILE).write_bytes(content)
    opened = examine_index(built)
    assert opened.index is None
    assert "missing or damaged" in opened.reason


@pytest.mark.parametrize(
    "name", [files.VECTORS_FILE, lists.LISTS_FILE, *ROW_FILES, files.MANIFEST_FILE, SUMS_FILE]
)
@pytest.mark.parametrize("damage", ["gone", "empty", "shorter", "longer", "head", "tail"])
def test_damaged_files_open_nothing_or_are_told(built: Collection, name: str, damage: str) -> None:
    path = folder_of(built) / name
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "shorter": content[:-3],
        "longer": content + b"?",
        "head": b"??" + content[2:],
        "tail": content[:-2] + b"??",
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    assert "uild the index again" in " ".join(index_problems(built))
    opened = examine_index(built)
    if damage in ("head", "tail") and opened.sums is not None:
        with pytest.raises(IndexDamagedError, match=f"{name} is damaged"):
            opened.sums.check()
    else:
        assert opened.index is None
        assert "uild the index again" in opened.reason
    if damage == "tail" and name in (files.MANIFEST_FILE, files.VECTORS_FILE):
        build_index(built, ivf_rows=1)
        assert open_index(built) is not None
        assert index_problems(built) == []


def test_lists_of_another_index_are_refused(built: Collection) -> None:
    """Even where the marks agree: the lists themselves say how many rows they hold."""
    plan = lists.Plan.of(COUNT, DIM)
    with pytest.raises(StoreFormatError, match="another index"):
        lists.Lists(folder_of(built), COUNT + 1, plan)
    (folder_of(built) / lists.LISTS_FILE).write_bytes(b"IxF2 nothing of the kind")
    with pytest.raises(StoreFormatError, match="cannot be read"):
        lists.Lists(folder_of(built), COUNT, plan)


def test_a_full_disk_is_told_before_anything_is_written(
    plain: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "embeddings.atomic.shutil.disk_usage", lambda _: type("Disk", (), {"free": 1000})
    )
    with pytest.raises(StorageFullError, match="would take about"):
        build_index(plain, ivf_rows=1)
    assert not files.building_folder(plain).exists()


def test_one_builder_at_a_time(plain: Collection) -> None:
    files.index_root(plain).mkdir()
    with (
        FileLock(files.index_root(plain) / files.LOCK_FILE),
        pytest.raises(StoreLockedError, match="Another process is building"),
    ):
        build_index(plain)
    build_index(plain)


def test_what_cannot_be_built_is_refused(plain: Collection) -> None:
    for target in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="recall asked for"):
            build_index(plain, target_recall=target)
    with pytest.raises(InputError, match="is empty"):
        build_index(replace(plain, scenes=()))


def test_a_damaged_part_is_told(plain: Collection) -> None:
    part = plain.part_paths[2]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(StoreFormatError, match="terrakin verify"):
        build_index(plain, ivf_rows=1)
    assert open_index(plain) is None


def test_a_folder_that_may_not_be_written_is_told(
    plain: Collection, closed: Callable[[Path], None]
) -> None:
    closed(plain.path)
    with pytest.raises(StoreError):
        build_index(plain)


def _search_on(path: Path, stop: Any, counted: Any) -> None:
    """Open and search again and again; count the answers that are right, wrong and missing."""
    collection = Collection.load(path)
    true = clustered(COUNT, DIM)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    held = open_index(collection)
    while not stop.is_set():
        for index in (open_index(collection), held):
            right = index is not None and index.search(true[50], 3).rows[0] == 50
            counted[0 if right else 1 if index is not None else 2] += 1


def test_processes_search_while_another_builds(built: Collection) -> None:
    context = multiprocessing.get_context("spawn")
    stop, counts = context.Event(), [context.Array("l", 3, lock=False) for _ in range(2)]
    others = [
        context.Process(target=_search_on, args=(built.path, stop, count)) for count in counts
    ]
    for other in others:
        other.start()
    deadline = time.monotonic() + 60
    while any(count[0] < 5 for count in counts) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(3):
        build_index(built, ivf_rows=1)
    stop.set()
    for other in others:
        other.join(30)
        assert other.exitcode == 0
    for count in counts:
        assert count[0] > 10
        assert count[1] == 0
