"""The index as commands and jobs ask for it, and the advice to build one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import embeddings.indexing
from embed_server.cli import terrakin as command
from embeddings.errors import StoreNotWritableError
from embeddings.index.build import build_index
from embeddings.index.files import MANIFEST_FILE
from embeddings.index.open import open_index
from embeddings.indexing import Indexed, index_advice, index_collection
from embeddings.store import Collection, Store
from tests.embeddings.index_data import clustered, spec_of, write_collection


@pytest.fixture
def made(
    tmp_path: Path, land: Callable[..., Any], write_raster: Any, embed: Callable[..., Collection]
) -> Collection:
    return embed(tmp_path / "store", write_raster(tmp_path / "scene.tif", land()))


def test_a_small_index_compares_all_rows(made: Collection) -> None:
    told = index_collection(made.path.parent, "land")
    assert (told.kind, told.rows, told.recall) == ("scan", made.count, 1.0)
    assert (told.considered, told.lists) == (made.count, 0)
    assert any("compares all rows" in line for line in told.lines)


def test_what_is_told_of_an_index_of_lists_is_what_its_searches_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings.indexing, "build_index", partial(build_index, ivf_rows=1))
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 3200)
    store = Store.create(tmp_path / "store").path
    many = write_collection(store / "many", spec_of(32), [lambda: clustered(6000, 32)])
    told = index_collection(store, "many", 0.9)
    assert (told.kind, told.rows) == ("ivf", 6000)
    assert 0.85 < told.recall <= 1
    assert 100 <= told.considered < 6000
    assert f"compares about {told.considered:,} rows in a few of {told.lists} " in told.lines[1]
    index = open_index(many)
    assert index is not None
    found = index.search(index.vector(17), 100)
    assert (found.considered < 6000, found.expected_recall <= 1) == (True, True)
    # A search that can only scan says so, lists or not.
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 10**9)
    told = index_collection(store, "many", 0.9)
    assert (told.considered, told.recall) == (6000, 1.0)
    assert "compares all rows" in told.lines[1]


def test_the_shipped_collection_needs_no_index(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with pytest.raises(StoreNotWritableError, match="'world' comes with Terrakin"):
        index_collection(tmp_path / "store", "world")


def test_a_large_collection_without_an_index_of_its_rows_is_told(
    made: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index_advice(made) is None
    monkeypatch.setattr(embeddings.indexing, "IVF_ROWS", made.count)
    advice = index_advice(made)
    assert advice is not None
    assert f"has {made.count:,} rows" in advice
    assert f'terrakin index --store "{made.path.parent}" --collection land' in advice
    report = build_index(made)
    assert index_advice(made) is None
    (report.folder / MANIFEST_FILE).write_text('{"format": "terrakin-index", "format_version": 2}')
    assert index_advice(made) == advice
    assert index_collection(made.path.parent, "land").rows == made.count
    assert index_advice(made) is None


def test_the_commands_end_with_the_advice(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings.indexing, "IVF_ROWS", 100)
    store = str(made.path.parent)
    again = ["embed", "raster", str(tmp_path / "scene.tif"), "--store", store]
    grid = ["embed", "locations", "--grid-km", "1000", "--store", store, "--collection", "cells"]
    for arguments in ([*again, "--collection", "land"], grid):
        answer = CliRunner().invoke(command, arguments)
        assert answer.exit_code == 0, answer.output
        assert "no index of them" in answer.stderr
    answer = CliRunner().invoke(command, ["index", "--store", store, "--collection", "land"])
    assert answer.stdout.startswith(f"{made.count:,} rows of 'land' are indexed (scan, ")
    answer = CliRunner().invoke(command, [*again, "--collection", "land"])
    assert "no index of them" not in answer.stderr


def test_recall_is_cut_not_rounded() -> None:
    told = Indexed("a", "ivf", 5000, 10, {"train": 1.0, "lists": 2.5}, 0.99996, 300, 9)
    assert told.lines[0].endswith("in 3.5 s.")
    assert "finds 99.99 % of the true best" in told.lines[1]
    assert told.to_json()["seconds"] == {"train": 1.0, "lists": 2.5}
