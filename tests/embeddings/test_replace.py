"""Making a collection anew: the old one serves until the new one stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import CancelledError, NoDataError
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.search import Searcher, SearchQuery
from embeddings.store import Collection, Store
from embeddings.store.verify import verify
from embeddings.types import LonLat

Embed = Callable[..., Collection]


@pytest.fixture
def scene(tmp_path: Path, land: Any, write_raster: Any) -> Path:
    return write_raster(tmp_path / "scene.tif", land(seed=3))


def names(store: Path) -> set[str]:
    return {path.name for path in store.iterdir()} - {".lock"}


def stop_after(calls: int) -> Callable[[], bool]:
    asked = itertools.count(1)
    return lambda: next(asked) > calls


def test_the_new_takes_the_place_of_the_old(tmp_path: Path, scene: Path, embed: Embed) -> None:
    embed(tmp_path / "store", scene)
    anew = embed(tmp_path / "store", scene, chip="16", replace=True)
    assert (anew.id, anew.count, anew.spec.layout.chip_px) == ("land", 36, (16, 16))
    assert anew.descriptor["id"] == "land"
    assert verify(anew) == []
    assert names(tmp_path / "store") == {"land", "terrakin.json"}


def test_replacing_nothing_makes_it(tmp_path: Path, scene: Path, embed: Embed) -> None:
    assert embed(tmp_path / "store", scene, replace=True).count == 144
    assert names(tmp_path / "store") == {"land", "terrakin.json"}


def test_the_old_serves_on_when_the_new_fails(
    tmp_path: Path, scene: Path, write_raster: Any, embed: Embed
) -> None:
    old = embed(tmp_path / "store", scene)
    empty = write_raster(tmp_path / "empty.tif", np.zeros((3, 96, 96), np.uint16), nodata=0)
    with pytest.raises(NoDataError):
        embed(tmp_path / "store", empty, replace=True)
    now = Store.open(tmp_path / "store").collection("land")
    assert now.descriptor == old.descriptor
    assert verify(now) == []
    assert names(tmp_path / "store") == {"land", "terrakin.json"}


def test_the_old_serves_while_the_new_is_made_and_the_rest_is_resumed(
    tmp_path: Path, scene: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    old = embed(tmp_path / "store", scene, chip="16")
    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8", replace=True)
    with pytest.raises(CancelledError):
        embed_raster(job, cancelled=stop_after(15))
    store = Store.open(tmp_path / "store")
    assert store.names() == ["land"]
    assert store.collection("land").descriptor == old.descriptor
    report = embed_raster(job)
    assert report.resumed == 72
    assert store.collection("land").count == 144
    assert names(tmp_path / "store") == {"land", "terrakin.json"}


def test_a_half_made_replacement_of_another_kind_is_begun_anew(
    tmp_path: Path, scene: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    embed(tmp_path / "store", scene, chip="16")
    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8", replace=True)
    with pytest.raises(CancelledError):
        embed_raster(job, cancelled=stop_after(15))
    anew = embed(tmp_path / "store", scene, chip="12", replace=True)
    assert (anew.count, anew.spec.layout.chip_px) == (64, (12, 12))
    assert names(tmp_path / "store") == {"land", "terrakin.json"}


def test_a_searcher_sees_the_new_collection(tmp_path: Path, scene: Path, embed: Embed) -> None:
    old = embed(tmp_path / "store", scene)
    searcher = Searcher(Store.open(tmp_path / "store"))
    bounds = old.bounds
    at = LonLat((bounds.west + bounds.east) / 2, (bounds.south + bounds.north) / 2)
    assert searcher.search("land", SearchQuery(at)).considered == 143
    embed(tmp_path / "store", scene, chip="16", replace=True)
    answer = searcher.search("land", SearchQuery(at))
    assert answer.considered == 35
    assert answer.collection.spec.layout.chip_px == (16, 16)


def test_what_an_interrupted_run_left_settles_no_option(
    tmp_path: Path, scene: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    embed(tmp_path / "store", scene, chip="16")
    job = RasterJob(
        tmp_path / "store", "land", (str(scene),), chip="8", source="Mars", replace=True
    )
    with pytest.raises(CancelledError):
        embed_raster(job, cancelled=stop_after(15))
    assert (tmp_path / "store" / ".replacing-land").exists()
    assert embed(tmp_path / "store", scene, replace=True).spec.source == "user imagery"
