"""A damaged index never gives a wrong answer: it is dropped where the damage would be used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddings.errors import CollectionChangedError, InputError
from embeddings.index import files, lists
from embeddings.index.build import build_index
from embeddings.index.ids import IdFile, hashes_of
from embeddings.index.open import examine_index, index_problems
from embeddings.index.rows import IDS_FILE, PLACES_FILE, ROW_FILES, ROWS_FILE, TIMES_FILE
from embeddings.index.shapes import tail_bytes
from embeddings.index.sums import PIECE_BYTES, SUMS_FILE, Guard, IndexDamagedError, Sums, write_sums
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.search import Searcher, SearchQuery, SearchResult, Weighted
from embeddings.store import Collection, Store
from embeddings.store.verify import verify
from embeddings.types import Bounds, LonLat, TimeRange
from tests.embeddings.index_data import clustered, spec_of, write_collection

COUNT, DIM, PARTS = 6000, 32, 3
YEARS = (datetime(2018, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC))
FILES = (files.VECTORS_FILE, lists.LISTS_FILE, *ROW_FILES, files.MANIFEST_FILE, SUMS_FILE)

Told = list[tuple[list[str], list[float], str | None]]


@pytest.fixture(autouse=True)
def _lists_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 100 * DIM)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one collection with an index of lists; not to be changed for good."""
    store = Store.create(tmp_path_factory.mktemp("damage") / "store").path
    pieces = np.array_split(clustered(COUNT, DIM), PARTS)
    build_index(
        write_collection(store / "c", spec_of(DIM), [lambda p=p: p for p in pieces], YEARS),
        ivf_rows=1,
    )
    return store


@pytest.fixture(scope="module")
def right(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Told]:
    """What is answered with the index, and what without one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embeddings.index.ivf.SCAN_VALUES", 100 * DIM)
        indexed = answers(made)
    plain = Path(shutil.copytree(made, tmp_path_factory.mktemp("plain") / "store"))
    shutil.rmtree(plain / "c" / "index")
    return indexed, answers(plain)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def folder_of(store: Path) -> Path:
    (folder,) = files.finished_folders(Collection.load(store / "c"))
    return folder


def asked(store: Path) -> list[SearchQuery]:
    """Ask in all ways that use an index."""
    table = pq.read_table(store / "c/parts/s-00001.parquet", columns=["lon", "lat"])
    place = LonLat(table["lon"][40].as_py(), table["lat"][40].as_py())
    some = Examples(ids=("s_0_5", "s_1_7"))
    box = Bounds(10.0, -40.0, 40.0, 40.0)
    ids = tuple(f"s_2_{row}" for row in range(0, 2000, 7))
    return [
        SearchQuery(at=place, k=20),
        SearchQuery(k=150, positive=some, negative=Examples(ids=("s_2_99",))),
        SearchQuery(k=30, positive=some, filter=Filter(bounds=box)),
        SearchQuery(
            at=place,
            k=10,
            filter=Filter(time=TimeRange(YEARS[0], datetime(2019, 1, 1, tzinfo=UTC))),
        ),
        SearchQuery(k=10, positive=some, filter=Filter(ids=ids), exclude_m=50_000.0),
        SearchQuery(at=place, k=5, apart_m=100_000.0),
    ]


def told(found: SearchResult) -> tuple[list[str], list[float], str | None]:
    """Return rows with all their columns, similarities, and the note on the index."""
    note = next((note for note in found.notes if "index" in note), None)
    rows = [str(row) for row in found.matches.to_pylist()]
    return rows, found.similarity.round(3).tolist(), note


def answers(store: Path) -> Told:
    searcher = Searcher(Store.open(store))
    return [told(searcher.search("c", query)) for query in asked(store)]


@contextmanager
def changed(path: Path, place: int, content: bytes) -> Iterator[None]:
    """Write bytes over those of a file for the length of a with block."""
    before = path.read_bytes()
    with path.open("rb+") as file:
        file.seek(place)
        file.write(content[: len(before) - place])
    try:
        yield
    finally:
        path.write_bytes(before)


def check(store: Path, right: tuple[Told, Told], name: str) -> bool:
    """Check that all answers are right; return whether the index was dropped."""
    indexed, plain = right
    dropped = False
    for now, whole, scanned in zip(answers(store), indexed, plain, strict=True):
        if now == whole:
            assert not dropped
            continue
        dropped = True
        assert now[:2] == scanned[:2]
        assert now[2] is not None
        assert f"{name} is" in now[2] or "index.json" in now[2]
        assert "terrakin index --collection c" in now[2]
    return dropped


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_never_makes_a_wrong_answer(
    made: Path, right: tuple[Told, Told], name: str
) -> None:
    path = folder_of(made) / name
    content = path.read_bytes()
    rng = np.random.default_rng(FILES.index(name))
    for place in rng.choice(len(content), 3, replace=False).tolist():
        with changed(path, place, bytes([content[place] ^ 1 << int(rng.integers(8))])):
            dropped = check(made, right, name)
            if name != files.MANIFEST_FILE:
                assert index_problems(Collection.load(made / "c"))
        assert dropped or name not in (SUMS_FILE, files.MANIFEST_FILE)
    assert answers(made) == right[0]


@pytest.mark.parametrize("name", [files.VECTORS_FILE, lists.LISTS_FILE, *ROW_FILES])
def test_a_file_of_zeros_is_dropped(made: Path, right: tuple[Told, Told], name: str) -> None:
    """Behind its first piece, which is looked at when the index is opened."""
    path = folder_of(made) / name
    with changed(path, PIECE_BYTES, bytes(path.stat().st_size)):
        assert check(made, right, name)


def test_another_target_than_was_written_is_not_believed(made: Path) -> None:
    path = folder_of(made) / files.MANIFEST_FILE
    text = path.read_bytes()
    assert b'"target_recall": 0.99,' in text
    with changed(path, text.index(b'"target_recall"'), b'"target_recall": 0.19,'):
        opened = examine_index(Collection.load(made / "c"))
        assert opened.index is None
        assert "its hash is that of another text" in opened.reason


def homes_at(folder: Path) -> int:
    """Return where the lists of the rows begin: two bytes each, behind all lists."""
    whole = (folder / lists.LISTS_FILE).stat().st_size
    return whole - tail_bytes(COUNT, lists.Plan.of(COUNT, DIM).lists, DIM)


@pytest.fixture
def fine(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an index with a checksum of every 256 bytes."""
    monkeypatch.setattr("embeddings.index.sums.PIECE_BYTES", 256)
    monkeypatch.setattr("embeddings.index.sums._SHIFT", 8)
    folder = folder_of(store)
    digest = write_sums(folder, files.named_files("ivf"), lambda _: None)
    replace(files.Manifest.load(folder), sums=digest).save(folder)
    return folder


FAR = COUNT - 1


@pytest.mark.parametrize(
    ("name", "place", "used", "other"),
    [
        (PLACES_FILE, 8 * 5, lambda o: o.rows.lon[[5]], lambda o: o.rows.lon[[FAR]]),
        (PLACES_FILE, 8 * 5, lambda o: o.rows.lon[:], lambda o: o.rows.lat[:]),
        (PLACES_FILE, 8 * 5, lambda o: o.rows.lon[np.arange(2000)], lambda o: o.rows.time[5]),
        (PLACES_FILE, 8 * (COUNT + FAR), lambda o: o.rows.lat[FAR], lambda o: o.rows.lat[[0]]),
        (TIMES_FILE, 8 * 5, lambda o: o.rows.time[:], lambda o: o.rows.time[[FAR]]),
        (TIMES_FILE, 8 * 5, lambda o: o.rows.rows([5]), lambda o: o.rows.rows([FAR])),
        (
            PLACES_FILE,
            16 * COUNT + 32 * 600,
            lambda o: o.rows.rows([600]),
            lambda o: o.rows.rows([FAR]),
        ),
        (ROWS_FILE, 9000, lambda o: o.rows.rows([0]), lambda o: o.rows.rows([FAR])),
        (files.VECTORS_FILE, 0, lambda o: o.index.vector(0), lambda o: o.index.vector(FAR)),
        (lists.LISTS_FILE, -1, lambda o: through(o, True), lambda o: through(o, False)),
    ],
)
def test_what_is_used_is_checked_and_nothing_else(
    fine: Path, name: str, place: int, used: Callable[[Any], Any], other: Callable[[Any], Any]
) -> None:
    path = fine / name
    content = bytearray(path.read_bytes())
    content[homes_at(fine) + 2 * 3000 if place < 0 else place] ^= 64
    path.write_bytes(content)
    opened = examine_index(Collection.load(fine.parents[1]))
    assert opened.sums is not None
    other(opened)
    assert opened.sums.damage is None
    for _ in range(2):
        with pytest.raises(IndexDamagedError, match=f"{name} is damaged"):
            used(opened)
    assert str(opened.sums.damage).startswith(str(path))


def through(opened: Any, filtered: bool) -> None:
    """Search through a list, with a filter or without."""
    mask = np.arange(COUNT) % 2 == 0
    opened.index.search(clustered(1, DIM, seed=3)[0], 1, mask=mask if filtered else None)


def test_lists_that_are_read_into_memory_are_checked_then(
    made: Path, right: tuple[Told, Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(faiss, "OnDiskInvertedLists")  # as on Windows
    assert answers(made) == right[0]
    path = folder_of(made) / lists.LISTS_FILE
    with changed(path, path.stat().st_size // 3, b"?"):
        opened = examine_index(Collection.load(made / "c"))
        assert (opened.index, opened.reason.count("ivf.faiss is damaged")) == (None, 1)
        assert check(made, right, lists.LISTS_FILE)


def test_several_collections_of_which_one_is_damaged(store: Path) -> None:
    shutil.copytree(store / "c", store / "d")
    text = (store / "d/collection.json").read_text(encoding="utf-8")
    (store / "d/collection.json").write_text(text.replace('"id": "c"', '"id": "d"'))
    both = (Weighted("c", 2.0), Weighted("d"))
    query = asked(store)[1]
    path = store / "d" / folder_of(store).relative_to(store / "c") / files.VECTORS_FILE
    path.write_bytes(bytes(path.stat().st_size))
    searcher = Searcher(Store.open(store))
    found = told(searcher.search_fused(both, query))
    assert searcher._held.get("c").loaded.sums is not None
    assert searcher._held.get("d").loaded.sums is None
    shutil.rmtree(store / "d/index")
    assert found[:2] == told(Searcher(Store.open(store)).search_fused(both, query))[:2]


def test_what_is_damaged_is_dropped_until_it_is_built_again(
    store: Path, right: tuple[Told, Told]
) -> None:
    (query, *_) = asked(store)
    first = Searcher(Store.open(store)).search("c", query)
    assert told(first) == right[0][0]
    path = folder_of(store) / files.VECTORS_FILE
    path.write_bytes(bytes(path.stat().st_size))
    searcher = Searcher(Store.open(store))
    other = SearchQuery(k=150, positive=Examples(ids=("s_0_5", "s_1_7")), state=first.state)
    with pytest.raises(CollectionChangedError, match=r"vectors\.f16 is damaged"):
        searcher.search("c", other)
    found = searcher.search("c", query)
    assert (told(found)[:2], found.expected_recall) == (right[1][0][:2], 1.0)
    assert "vectors.f16 is damaged (bytes " in found.notes[0]
    held = searcher._held.get("c").loaded
    assert searcher._held.get("c").loaded is held
    problems = verify(Collection.load(store / "c"))
    assert any("vectors.f16 is damaged" in problem for problem in problems)
    build_index(Collection.load(store / "c"))
    assert told(searcher.search("c", query))[2] is None
    assert searcher._held.get("c").loaded.sums is not None


def test_a_file_that_shrinks_while_it_is_mapped_is_no_crash(
    store: Path, right: tuple[Told, Told]
) -> None:
    searcher = Searcher(Store.open(store))
    assert searcher._held.get("c").loaded.sums is not None
    for name in (files.VECTORS_FILE, PLACES_FILE, TIMES_FILE, IDS_FILE):
        os.truncate(folder_of(store) / name, PIECE_BYTES)
    for query, (rows, cosines, _) in zip(asked(store), right[1], strict=True):
        found = told(searcher.search("c", query))
        assert found[:2] == (rows, cosines)


def test_a_collection_too_large_for_memory_says_what_is_damaged(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.search.loaded.IN_MEMORY_BYTES", 1)
    searcher = Searcher(Store.open(store))
    path = folder_of(store) / ROWS_FILE
    with changed(path, PIECE_BYTES, bytes(path.stat().st_size)):
        for query in asked(store)[:2]:
            with pytest.raises(InputError, match=r"rows.arrow is damaged .*Build the index again"):
                searcher.search("c", query)


def guarded(path: Path, size: int) -> tuple[Guard, bytearray]:
    """Write a file of random bytes with its checksums."""
    content = bytearray(np.random.default_rng(size).bytes(size))
    path.write_bytes(content)
    digest = write_sums(path.parent, [path.name], lambda _: None)
    return Sums(path.parent, {path.name: size}, digest).guard(path.name), content


@pytest.mark.parametrize("wide", [1, 8, 32, 48, 512, 1000, PIECE_BYTES, 5 * PIECE_BYTES // 2])
def test_a_guard_tells_the_pieces_that_are_used_and_no_others(tmp_path: Path, wide: int) -> None:
    path, size = tmp_path / "f", 40 * PIECE_BYTES + 77
    _, content = guarded(path, size)
    rng = np.random.default_rng(wide)
    for _ in range(25):
        place = int(rng.integers(size))
        path.write_bytes(content)
        guard, _ = guarded(path, size)
        with path.open("rb+") as file:
            file.seek(place)
            file.write(bytes([content[place] ^ 255]))
        starts = wide * rng.integers(0, size // wide, 3)
        touched = np.concatenate([np.arange(at, at + wide) // PIECE_BYTES for at in starts])
        for _ in range(2):
            if place // PIECE_BYTES in touched:
                with pytest.raises(IndexDamagedError, match="f is damaged"):
                    guard.spans(starts, wide)
            else:
                guard.spans(starts, wide)
        with pytest.raises(IndexDamagedError):
            guard.all()
        path.write_bytes(content)
        guard.all()


def test_a_disk_that_fails_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, _ = guarded(tmp_path / "f", 100)

    def failing(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("embeddings.index.sums.os.read", failing)
    with pytest.raises(IndexDamagedError, match="Input/output error"):
        guard.span(0, 1)


def test_a_hash_that_leads_astray_is_noticed(made: Path) -> None:
    """The search jumps through hashes that are not checked; where it ends is."""
    source = folder_of(made) / IDS_FILE
    content = source.read_bytes()
    hashes = np.frombuffer(content, "<u8", COUNT)
    manifest = files.Manifest.load(source.parent)
    ids = pa.array([f"s_{row % 4}_{row}" for row in range(0, 2500, 83)])
    true = IdFile(content, COUNT, Guard.trusting(source)).candidates(ids)
    assert len(true[0]) > 10
    assert np.isin(hashes_of(ids), hashes).sum() == len(true[0])
    noticed = 0
    for row in (COUNT // 2, COUNT // 4, 3 * COUNT // 4, 17):
        with changed(source, 8 * row, bytes(8)):
            guard = manifest.checked(source.parent).guard(IDS_FILE)
            try:
                found = IdFile(source.read_bytes(), COUNT, guard).candidates(ids)
            except IndexDamagedError:
                noticed += 1
            else:
                assert [each.tolist() for each in found] == [each.tolist() for each in true]
    assert noticed
