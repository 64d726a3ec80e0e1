"""``embed locations``, ``grid``, ``train location`` and the world collection, as commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from embed_server.cli import terrakin as command
from embeddings.errors import OutsideCoverageError, StoreNotWritableError
from embeddings.store import Store

Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    def call(*words: object) -> Any:
        return CliRunner().invoke(command, [str(word) for word in words])

    return call


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    path.write_text("lon,lat,name\n-76.657,34.718,town\n10,-60,sea\n")
    return path


def test_points_get_vectors_from_the_shipped_encoder(run: Run, points: Path) -> None:
    out = points.with_name("vectors.parquet")
    result = run("embed", "locations", "--points", points, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["points"] == 2
    assert pq.read_table(out)["name"].to_pylist() == ["town", "sea"]


def test_a_grid_becomes_a_collection_that_can_be_searched(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ("--store", store, "--collection", "coarse")
    result = run("embed", "locations", "--grid-km", 500, "--bbox", "-20,30,40,60", *words)
    assert result.exit_code == 0, result.output
    assert "cells of the 500 km grid" in result.stdout
    found = run("search", "--at", "10,50", "-k", 3, "--json", *words)
    assert len(json.loads(found.stdout)["features"]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "either --points"),
        (("--points", "p.csv"), "--out"),
        (("--grid-km", "10"), "--store and --collection"),
        (("--points", "p.csv", "--grid-km", "10"), "either --points"),
        (("--points", "p.csv", "--out", "v.parquet", "--land"), "--land does not go with --points"),
        (("--grid-km", "10", "--out", "v.parquet"), "--out does not go with --grid-km"),
        (("--grid-km", "10", "--bbox", "5,5,0"), "W,S,E,N"),
    ],
)
def test_wrong_usage(
    run: Run, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERRAKIN_STORE", raising=False)
    result = run("embed", "locations", *words)
    assert result.exit_code == 2
    assert said in result.output


def test_cells_of_points(run: Run, points: Path) -> None:
    out = points.with_name("cells.csv")
    assert run("grid", "--km", 10, "--points", points, "--out", out).exit_code == 0
    assert out.read_text().splitlines()[1].split(",")[2] == "386U_702L"


def test_the_world_is_in_every_store_and_read_only(run: Run, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    listed = run("collections", "--store", store.path, "--json")
    assert [c["id"] for c in json.loads(listed.stdout)] == ["world"]
    found = run(
        "search", "--store", store.path, "--collection", "world", "--at", "8,46.5", "--json"
    )
    answer = json.loads(found.stdout)
    assert answer["considered"] > 200_000
    sea = run("search", "--store", store.path, "--collection", "world", "--at", "-30,30")
    assert isinstance(sea.exception, OutsideCoverageError)
    assert "no cells at sea" in str(sea.exception)
    for refused in (store.delete, lambda name: store.rename(name, "mine")):
        with pytest.raises(StoreNotWritableError, match="read-only"):
            refused("world")
    assert store.collection("world").count == answer["considered"] + 1


def test_the_demo_asks_the_planet(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert "Corn Belt" in result.output
    assert (tmp_path / "demo" / "map.png").read_bytes().startswith(b"\x89PNG")
    import geopandas

    places = geopandas.read_file(tmp_path / "demo" / "places.gpkg")
    assert places.groupby("query").size().to_dict() == {
        "corn_belt": 200,
        "sahara": 200,
        "taiga": 200,
    }
