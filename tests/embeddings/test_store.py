"""Stores and collections as folders: made, listed, renamed, deleted, locked, checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddings import atomic
from embeddings.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    StorageFullError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StoreNotWritableError,
)
from embeddings.store import Collection, Store
from embeddings.store.verify import verify

HOLD = """
import sys, time
from pathlib import Path
from embeddings.store import Store
with Store.open(Path(sys.argv[1])).writing():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path, small: Collection) -> Store:
    """A copy of the small store, to be changed."""
    shutil.copytree(small.path.parent, tmp_path / "store")
    return Store.open(tmp_path / "store")


def edit(path: Path, change: Callable[[dict], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_store_is_made_where_there_is_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a" / "b")
    assert store.names() == []
    marker = json.loads((tmp_path / "a" / "b" / "terrakin.json").read_text())
    assert marker == {"format": "terrakin-store", "format_version": 1}
    assert Store.create(tmp_path / "a" / "b").names() == []


def test_folders_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").touch()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a folder, but no Terrakin store"):
        Store.open(tmp_path / "photos")
    with pytest.raises(StoreError, match="holds other files"):
        Store.create(tmp_path / "photos")
    for missing in ("nowhere", "file", "file/below"):
        with pytest.raises(StoreError, match="does not exist"):
            Store.open(tmp_path / missing)
    with pytest.raises(StoreError):
        Store.create(tmp_path / "file")
    with pytest.raises(StoreNotWritableError, match="cannot be written"):
        Store.create(tmp_path / "file" / "below")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "file"}


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 2}', "\udcff"])
def test_a_store_of_another_format_is_not_guessed_at(tmp_path: Path, text: str) -> None:
    (tmp_path / "terrakin.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for make in (Store.open, Store.create):
        with pytest.raises(StoreFormatError):
            make(tmp_path)


def test_collection_json_is_a_stac_collection(small: Collection) -> None:
    data = json.loads((small.path / "collection.json").read_text())
    assert (data["type"], data["stac_version"], data["id"]) == ("Collection", "1.1.0", "land")
    assert data["emb:dimensions"] == small.spec.dim
    west, south, east, north = data["extent"]["spatial"]["bbox"][0]
    assert west < 15.01 < 15.26 < east
    assert south < north
    assert data["extent"]["temporal"]["interval"] == [["2018-10-13T10:00:00+00:00"] * 2]
    assert Collection.load(small.path) == small


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update({"terrakin:format_version": 2}), "format version 2; this release"),
        (lambda d: d.pop("terrakin:format_version"), "format version None"),
        (lambda d: d.pop("terrakin:spec"), "lacks or misnames"),
        (lambda d: d["terrakin:spec"].update({"new": 1}), r"unknown \['new'\]"),
        (lambda d: d["terrakin:scenes"][0].pop("parts"), "lacks or misnames"),
        (lambda d: d["terrakin:scenes"][0].update({"new": 1}), "lacks or misnames"),
        (lambda d: d.update({"terrakin:scenes": None}), "lacks or misnames"),
    ],
)
def test_a_collection_of_another_format_is_not_guessed_at(
    store: Store, change: Callable, message: str
) -> None:
    edit(store.path / "land" / "collection.json", change)
    with pytest.raises(StoreFormatError, match=message):
        store.collection("land")


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_collection_json_is_an_error_in_words(store: Store, text: str) -> None:
    (store.path / "land" / "collection.json").write_text(text)
    with pytest.raises(StoreFormatError):
        store.collection("land")


def test_an_unknown_collection_names_those_there_are(store: Store, tmp_path: Path) -> None:
    for name in ("sea", "", "..", "/", "LAND"):
        with pytest.raises(CollectionNotFoundError, match="There: land"):
            store.collection(name)
    with pytest.raises(CollectionNotFoundError, match="There: world"):
        Store.create(tmp_path / "new").collection("sea")


def test_renaming(store: Store) -> None:
    before = store.collection("land")
    renamed = store.rename("land", "valley")
    assert store.names() == ["valley"]
    assert (renamed.id, renamed.descriptor["id"]) == ("valley", "valley")
    assert verify(renamed) == []
    assert renamed.parts == before.parts
    with pytest.raises(CollectionNotFoundError):
        store.rename("land", "x")
    with pytest.raises(InputError):
        store.rename("valley", "../x")
    with pytest.raises(CollectionExistsError, match="There is a collection 'valley'"):
        store.rename("valley", "valley")


def test_what_comes_with_terrakin_is_not_renamed(store: Store) -> None:
    with pytest.raises(StoreNotWritableError, match="read-only"):
        store.rename("world", "mine")
    assert store.shipped() == ["world"]


def test_a_store_that_was_moved_away(store: Store) -> None:
    store.path.rename(store.path.with_name("moved"))
    with pytest.raises(StoreError, match="cannot be read"):
        store.names()
    with pytest.raises(StoreError, match="cannot be read"):
        store.collection("land")


def test_a_collection_json_that_cannot_be_read(store: Store) -> None:
    path = store.path / "land" / "collection.json"
    path.unlink()
    path.mkdir()
    assert store.names() == ["land"]
    with pytest.raises(StoreFormatError, match="cannot be read"):
        store.collection("land")


def test_closed_folders(store: Store, closed: Callable[[Path], None]) -> None:
    shutil.copytree(store.path / "land", store.path / "shut")
    closed(store.path / "shut")
    assert store.names() == ["land", "shut"]
    assert store.collection("land").count
    with pytest.raises(StoreFormatError, match="Permission denied"):
        store.collection("shut")
    closed(store.path)
    for work in (Store.open, lambda path: Store(path).names()):
        with pytest.raises(StoreError, match="cannot be read"):
            work(store.path)
    with pytest.raises(StoreNotWritableError, match="Permission denied"):
        Store.create(store.path / "below")


def test_a_store_is_taken_back_when_the_work_fails(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"

    def fail(*folders: str) -> None:
        with Store.opened_or_made(place) as made:
            for folder in folders:
                (made.path / folder).mkdir()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        fail("land")
    with pytest.raises(KeyError):
        fail()
    assert Store.open(place).names() == []
    assert (place / "land").is_dir()


def test_what_was_half_done_is_finished_or_swept(store: Store) -> None:
    before = store.collection("land")
    shutil.copytree(before.path, store.path / ".replacing-land")
    (store.path / ".deleted-x").mkdir()
    with store.writing():  # the old one serves: what is being made anew is kept
        assert (store.path / ".replacing-land").exists()
        assert not (store.path / ".deleted-x").exists()
    shutil.rmtree(before.path)
    with store.writing():  # killed between the two renames
        assert store.collection("land").parts == before.parts
    assert not (store.path / ".replacing-land").exists()
    half = store.path / ".replacing-sea"
    shutil.copytree(before.path, half)
    edit(half / "collection.json", lambda d: d["terrakin:scenes"][0].update(complete=False))
    with store.writing():
        assert store.names() == ["land"]
    assert not half.exists()


@pytest.mark.parametrize("change", [lambda s: s.delete("land"), lambda s: s.rename("land", "x")])
def test_nothing_made_anew_outlives_its_collection(store: Store, change: Callable) -> None:
    shutil.copytree(store.path / "land", store.path / ".replacing-land")
    change(store)
    with store.writing():
        assert "land" not in store.names()
    assert not (store.path / ".replacing-land").exists()


def test_deleting(store: Store) -> None:
    store.delete("land")
    assert store.names() == []
    assert {path.name for path in store.path.iterdir()} <= {"terrakin.json", ".lock"}
    with pytest.raises(CollectionNotFoundError):
        store.delete("land")


def test_one_writer_and_its_lock_dies_with_it(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match="Another process is writing"):
            store.delete("land")
        assert store.collection("land").count == 288
        holder.kill()
    store.rename("land", "valley")
    with store.writing(), pytest.raises(StoreLockedError), store.writing():
        raise AssertionError("two writers in one process")


def test_a_whole_collection_verifies(small: Collection) -> None:
    steps: list[tuple[int, int]] = []
    assert verify(small, lambda done, total: steps.append((done, total))) == []
    assert steps == [(1, 2), (2, 2)]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_finds_what_is_wrong(store: Store) -> None:
    land = store.collection("land")
    first, second = land.part_paths
    _flip(first)
    assert verify(land) == ["parts/a-00000.parquet: its content has changed since it was written"]
    second.unlink()
    assert len(verify(land)) == 2
    assert "parts/b-00000.parquet: is missing" in verify(land)
    (land.path / "encoder.safetensors").unlink()
    assert "encoder" in verify(land)[0]
    edit(land.path / "collection.json", lambda d: d["terrakin:scenes"][1].update(complete=False))
    assert "scene 'b' is not finished" in verify(store.collection("land"))[-1]


def test_verify_looks_into_the_rows(store: Store) -> None:
    import hashlib

    land = store.collection("land")
    table = pq.read_table(land.part_paths[0])
    metadata = table.schema.metadata
    twice = pa.concat_tables([table, table.slice(0, 1)]).replace_schema_metadata(metadata)
    pq.write_table(twice, land.part_paths[0])
    hashed = hashlib.sha256(land.part_paths[0].read_bytes()).hexdigest()
    edit(
        land.path / "collection.json",
        lambda d: d["terrakin:scenes"][0]["parts"][0].update(sha256=hashed),
    )
    problems = verify(store.collection("land"))
    assert "parts/a-00000.parquet: 145 rows, 144 recorded" in problems
    assert "parts/a-00000.parquet: holds an id twice" in problems


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    atomic.write_text(target, "old\n")

    def fail() -> None:
        with atomic.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_bytes() == b"old\n"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), StorageFullError),
        (
            OSError("[Errno 28] Error writing bytes to file: No space left on device"),
            StorageFullError,
        ),
        (PermissionError(13, "Permission denied"), StoreNotWritableError),
        (OSError(30, "Read-only file system"), StoreNotWritableError),
        (NotADirectoryError(20, "Not a directory"), StoreNotWritableError),
        (OSError(5, "Input/output error"), StoreError),
    ],
)
def test_refusals_of_the_file_system_are_told_in_words(
    tmp_path: Path, error: OSError, kind: type[StoreError]
) -> None:
    with pytest.raises(kind) as caught, atomic.atomic_path(tmp_path / "a"):
        raise error
    assert type(caught.value) is kind
    assert str(tmp_path / "a") in str(caught.value)
    assert list(tmp_path.iterdir()) == []
