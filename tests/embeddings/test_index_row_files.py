"""Writing and opening an index's row files: stopped, damaged, replaced, used by others."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import (
    CancelledError,
    CollectionChangedError,
    StorageFullError,
    StoreError,
    StoreFormatError,
)
from embeddings.index import files
from embeddings.index.build import build_index
from embeddings.index.ids import ids_bytes
from embeddings.index.open import examine_index
from embeddings.index.row_writer import KEPT_FILE, RowWriter, rows_bytes
from embeddings.index.rows import (
    BATCH_ROWS,
    IDS_FILE,
    PLACES_FILE,
    ROW_FILES,
    ROWS_FILE,
    RowFiles,
)
from embeddings.index.sums import SUMS_FILE
from embeddings.query.examples import Examples
from embeddings.query.items import ItemTable
from embeddings.search import Searcher, SearchQuery
from embeddings.search.loaded import Loaded, load
from embeddings.store import Store
from embeddings.store.collection import Collection
from embeddings.types import LonLat
from tests.embeddings.index_data import clustered, spec_of, write_collection
from tests.embeddings.index_rows_data import COUNT, SPECIAL, awkward_collection

SOME = np.arange(0, COUNT, 11)
WRITTEN = tuple(name for name in ROW_FILES if name != IDS_FILE)


@pytest.fixture(autouse=True)
def _often_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note after every batch how far it came."""
    monkeypatch.setattr("embeddings.index.row_writer.KEEP_SECONDS", 0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A collection without an index; not to be changed."""
    return awkward_collection(tmp_path_factory.mktemp("made") / "c")


@pytest.fixture(scope="module")
def whole(made: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The row files of it, written without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    RowWriter(made, folder).write(lambda _: None)
    return folder


@pytest.fixture
def built(made: Collection, tmp_path: Path) -> Collection:
    """A copy with an index."""
    copy = Collection.load(Path(shutil.copytree(made.path, tmp_path / "c")))
    build_index(copy)
    return copy


def folder_of(collection: Collection) -> Path:
    (folder,) = files.finished_folders(collection)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def stopping(after: int) -> Callable[[int], None]:
    """Stop at the report of that number."""
    asked = itertools.count()

    def check(_: int) -> None:
        if next(asked) == after:
            raise CancelledError("stopped")

    return check


@pytest.mark.parametrize("after", [0, 1, 2])
def test_writing_goes_on_where_it_stopped(
    made: Collection, whole: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CancelledError):
        RowWriter(made, tmp_path).write(stopping(after))
    # What a killed process wrote beyond what it had noted.
    with (tmp_path / ROWS_FILE).open("ab") as file:
        file.write(b"half a batch")
    written: list[int] = []
    write = RowWriter._write_piece
    monkeypatch.setattr(
        RowWriter, "_write_piece", lambda self, piece: (written.append(1), write(self, piece))
    )
    RowWriter(made, tmp_path).write(lambda _: None)
    assert len(written) == 3 - (after + 1)
    assert bytes_of(tmp_path) == bytes_of(whole)
    RowWriter(made, tmp_path).write(lambda _: None)
    assert len(written) == 3 - (after + 1)
    assert bytes_of(tmp_path) == bytes_of(whole)


@pytest.mark.parametrize("name", [ROWS_FILE, PLACES_FILE, KEPT_FILE])
@pytest.mark.parametrize("damage", ["shorter", "gone", "empty", "other"])
def test_what_lost_bytes_is_written_again(
    made: Collection, whole: Path, tmp_path: Path, name: str, damage: str
) -> None:
    with pytest.raises(CancelledError):
        RowWriter(made, tmp_path).write(stopping(1))
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage != "other":
        path.write_bytes(content[: len(content) // 2] if damage == "shorter" else b"")
    elif name == KEPT_FILE:
        path.write_text('{"offsets": ["?"]}', encoding="utf-8")
    RowWriter(made, tmp_path).write(lambda _: None)
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_a_build_stopped_anywhere_ends_in_the_same_files(
    made: Collection, built: Collection, tmp_path: Path
) -> None:
    plain = Collection.load(Path(shutil.copytree(made.path, tmp_path / "plain" / "c")))
    stops = 0
    while True:
        asked = itertools.count(-stops)
        try:
            build_index(plain, cancelled=lambda asked=asked: next(asked) > 0)
            break
        except CancelledError:
            stops += 1
            assert examine_index(plain).rows is None
    assert stops >= 3
    assert bytes_of(folder_of(plain)) == bytes_of(folder_of(built))
    assert load(plain, "").rows(SOME).equals(load(built, "").rows(SOME))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("ivf_rows", [1, COUNT + 1])
def test_all_files_are_closed_when_the_folder_gets_its_name(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ivf_rows: int
) -> None:
    """Windows renames no folder in which one is open or mapped."""
    copy = Collection.load(Path(shutil.copytree(made.path, tmp_path / "c")))
    name, opened = files.next_folder, []

    def looking(collection: Collection) -> Path:
        links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        opened.append([each for each in (*links, *lines) if files.BUILDING in each])
        return name(collection)

    monkeypatch.setattr("embeddings.index.files.next_folder", looking)
    build_index(copy, ivf_rows=ivf_rows)
    assert opened == [[]]


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_part_with_other_rows_than_recorded_is_told(
    made: Collection, tmp_path: Path, wrong: int
) -> None:
    scene = made.scenes[0]
    first = replace(scene.parts[1], rows=scene.parts[1].rows + wrong)
    other = replace(made, scenes=(replace(scene, parts=(scene.parts[0], first)),))
    with pytest.raises(StoreFormatError, match=r"has 20,000 rows instead of"):
        RowWriter(other, tmp_path).write(lambda _: None)


def test_a_damaged_part_is_told(made: Collection, tmp_path: Path) -> None:
    copy = Collection.load(Path(shutil.copytree(made.path, tmp_path / "c")))
    part = copy.part_paths[1]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(StoreFormatError, match="terrakin verify"):
        RowWriter(copy, tmp_path).write(lambda _: None)


def test_the_space_for_rows_is_asked_for(
    made: Collection, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(map(len, bytes_of(whole).values())) + ids_bytes(COUNT)
    assert needed < rows_bytes(made) < 1.5 * needed
    copy = Collection.load(Path(shutil.copytree(made.path, tmp_path / "c")))
    monkeypatch.setattr("embeddings.index.build.SPARE_BYTES", 0)
    monkeypatch.setattr(
        "embeddings.atomic.shutil.disk_usage", lambda _: type("Disk", (), {"free": needed})
    )
    with pytest.raises(StorageFullError):
        build_index(copy)
    assert not files.building_folder(copy).exists()


def test_an_index_of_an_older_release_is_ignored_and_swept(built: Collection) -> None:
    """One without checksums, as version 2 was; and one that version 2 had begun."""
    old = folder_of(built)
    path = old / files.MANIFEST_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    (old / SUMS_FILE).unlink()
    del data["sums"], data["sha256"]
    path.write_text(json.dumps({**data, "format_version": 2}), encoding="utf-8")
    begun = old.parent / f"{files.BUILDING}{files.key_of(built)}-v2"
    begun.mkdir()
    opened = examine_index(built)
    assert (opened.index, opened.rows) == (None, None)
    assert "of version 2; this release reads 3" in opened.reason
    loaded = load(built, "")
    assert loaded.table is not None
    assert "of version 2; this release reads 3" in loaded.notes[0]
    build_index(built)
    assert [each.name for each in old.parent.iterdir() if each.is_dir()] == [folder_of(built).name]
    assert load(built, "").table is None
    assert load(built, "").notes == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:100], "offsets are wrong|too short"),
        (lambda content: content[:-8], "offsets are wrong"),
        (lambda content: content + b"12345678", "offsets are wrong"),
        (lambda content: content[:-16] + bytes(8) + content[-8:], "offsets are wrong"),
        (lambda content: content.replace(b"grid_cell", b"grid_sell"), "other columns"),
        (lambda content: b"\0" * 64 + content[64:], "cannot be read"),
        (lambda _: b"short", "too short"),
        (lambda _: b"", "has 0 bytes"),
    ],
)
def test_rows_of_another_index_are_refused(
    built: Collection, change: Callable[[bytes], bytes], reason: str
) -> None:
    """Even where the marks agree."""
    path = folder_of(built) / ROWS_FILE
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoreFormatError, match=reason):
        RowFiles(folder_of(built), built.spec, COUNT)


@pytest.mark.parametrize("name", [name for name in ROW_FILES if name != ROWS_FILE])
def test_files_of_another_count_are_refused(built: Collection, name: str) -> None:
    path = folder_of(built) / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreFormatError, match=f"{name} has .* bytes, which is not what"):
        RowFiles(folder_of(built), built.spec, COUNT)


@pytest.mark.parametrize("damage", ["head", "far", "falling", "below", "swapped"])
def test_a_batch_that_cannot_be_read_is_told(built: Collection, damage: str) -> None:
    path = folder_of(built) / ROWS_FILE
    content = bytearray(path.read_bytes())
    table = len(content) - 8 * (-(-COUNT // BATCH_ROWS) + 1)
    start, *_, second, third, end = np.frombuffer(content[table:], "<u8").tolist()
    if damage == "head":
        content[start : start + 64] = bytes(64)
    elif damage == "swapped":
        # The last batch, which is shorter, in the place of the one before.
        content[second:end] = content[third:end] + content[second:third]
        content[-16:-8] = np.array(second + end - third, "<u8").tobytes()
    else:
        ends = np.cumsum([0, *(len(each.encode()) for each in SPECIAL)])
        place = content.index(ends.astype("<i4").tobytes(), start)
        wrong = {"far": [0, 0, 2**31 - 1], "falling": [0, 0, 5, 2], "below": [-9]}[damage]
        content[place : place + 4 * len(wrong)] = np.array(wrong, "<i4").tobytes()
    path.write_bytes(content)
    rows = RowFiles(folder_of(built), built.spec, COUNT)
    with pytest.raises(StoreFormatError, match="Build the index again"):
        rows.rows([COUNT - BATCH_ROWS if damage == "swapped" else 5])
    if damage != "swapped":
        assert rows.rows([COUNT - 1]).num_rows == 1


def answers(loaded: Loaded) -> list[Any]:
    place = LonLat(float(loaded.items.lon[500]), float(loaded.items.lat[500]))
    return [
        loaded.rows(SOME).to_pylist(),
        loaded.around(place).to_pylist(),
        loaded.find(["s_1_3", "ü", "none"]).tolist(),
        loaded.items.nearest(place),
        loaded.index.search(np.ones(4, np.float32), 5).rows.tolist(),
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is mapped")
@pytest.mark.parametrize("what", ["index", "collection", "replaced"])
def test_what_was_opened_answers_though_its_files_are_gone(built: Collection, what: str) -> None:
    opened = load(built, "")
    expected = answers(opened)
    opened = load(built, "")  # which has looked at nothing yet
    shutil.rmtree(built.path / "index" if what == "index" else built.path)
    if what == "replaced":
        awkward_collection(built.path, seed=1)
    assert answers(opened) == expected
    if what == "index":
        assert len(opened.items.meeting("lon > 0")) > 1000
    else:
        # The Parquet files are read for that, and are not those of the index.
        with pytest.raises((CollectionChangedError, StoreFormatError)):
            opened.items.meeting("lon > 0")
    if what == "replaced":
        assert examine_index(built).index is None
        now = Collection.load(built.path)
        assert examine_index(now).reason.endswith("has no index.")
        assert load(now, "").rows(SOME).to_pylist() != expected[0]


def test_rows_of_another_state_are_never_taken_for_these(
    built: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an index, rows are read from files that another collection may have by now."""
    shutil.rmtree(built.path / "index")
    monkeypatch.setattr("embeddings.search.loaded.MOST_ROWS_HELD", 10)
    opened = load(built, "")
    place = LonLat(float(opened.items.lon[500]), float(opened.items.lat[500]))
    assert opened.rows(SOME).num_rows == len(SOME)
    shutil.rmtree(built.path)
    awkward_collection(built.path, seed=1)
    for ask in (
        lambda: opened.rows(SOME),
        lambda: opened.around(place),
        lambda: opened.find(["s_1_3"]),
        lambda: opened.items.meeting("lon > 0"),
    ):
        with pytest.raises(CollectionChangedError, match="Try again"):
            ask()


def test_a_collection_replaced_while_it_is_opened_is_told(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Collection.load(Path(shutil.copytree(made.path, tmp_path / "c")))
    read = ItemTable.load

    def replacing(reader: Any) -> ItemTable:
        shutil.rmtree(copy.path)
        awkward_collection(copy.path, seed=1)
        return read(reader)

    monkeypatch.setattr(ItemTable, "load", replacing)
    with pytest.raises(CollectionChangedError, match="Try again"):
        load(copy, "")


def test_a_collection_that_grew_is_still_whole(built: Collection) -> None:
    """Its older state reads the same parts as before."""
    opened = load(built, "")
    before = opened.items.meeting("lon > 0").tolist()
    scene = built.scenes[0]
    more = replace(scene, id="t", parts=(replace(scene.parts[0], sha256="9" * 64),))
    built.with_scene(more).save()
    assert load(built, "").items.meeting("lon > 0").tolist() == before


EXAMPLES = Examples(ids=("s_0_5", "s_1_7"))


def _search_on(path: Path, stop: Any, counted: Any, expected: list[list[str]]) -> None:
    """Search again and again; count the answers that are right, wrong and refused."""
    searcher = Searcher(Store.open(path))
    while not stop.is_set():
        try:
            found = searcher.search("c", SearchQuery(at=None, k=20, positive=EXAMPLES))
            right = found.matches["id"].to_pylist() in expected
            counted[0 if right else 1] += 1
        except StoreError:
            counted[2] += 1


def test_two_servers_search_while_an_index_is_built(tmp_path: Path) -> None:
    """Their answers are those of the rows before, while and after one is made, and made again."""
    store = Store.create(tmp_path / "store")
    pieces = [lambda i=i: clustered(3000, 16, seed=i) for i in range(3)]
    made = write_collection(store.path / "c", spec_of(16), pieces)
    query = SearchQuery(at=None, k=20, positive=EXAMPLES)
    # An index has float16, so that rows that are almost as like may change places.
    other = Store.create(tmp_path / "other")
    build_index(Collection.load(Path(shutil.copytree(made.path, other.path / "c"))))
    expected = [
        Searcher(each).search("c", query).matches["id"].to_pylist() for each in (store, other)
    ]
    context = multiprocessing.get_context("spawn")
    stop, counts = context.Event(), [context.Array("l", 3, lock=False) for _ in range(2)]
    others = [
        context.Process(target=_search_on, args=(store.path, stop, count, expected))
        for count in counts
    ]
    for other in others:
        other.start()
    try:
        for _ in range(4):
            _wait_for_more(counts)
            build_index(made)
        shutil.rmtree(made.path / "index")
        _wait_for_more(counts)
    finally:
        stop.set()
        for other in others:
            other.join(30)
    assert [other.exitcode for other in others] == [0, 0]
    assert [list(count)[1:] for count in counts] == [[0, 0], [0, 0]]


def _wait_for_more(counts: list[Any], more: int = 5) -> None:
    before = [sum(count) for count in counts]
    deadline = time.monotonic() + 60
    while any(sum(c) < b + more for c, b in zip(counts, before, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
