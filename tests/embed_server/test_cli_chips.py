"""``embed chips`` as a command, and its attributes through search, files and the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydantic import SecretStr

from embed_server.cli import terrakin as command
from embed_server.client import Client
from embed_server.settings import SecuritySettings, Settings
from embeddings.errors import InputError

TOKEN = "test-token-of-chips-0123"
CHIPS = 40

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run() -> Run:
    def call(*words: object) -> Any:
        return CliRunner().invoke(command, [str(word) for word in words])

    return call


def draw(folder: Path) -> Path:
    """Draw bright and dark images and list them."""
    lines = ["path,lon,lat,class,height"]
    for i in range(CHIPS):
        rng = np.random.default_rng(i)
        pixels = rng.normal((60, 190)[i % 2], (20, 5)[i % 2], (12, 12, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"chip{i}.jpg")
        height = f"{i / 4}" if i else ""
        lines.append(f"chip{i}.jpg,{10 + i % 8},{40 + i // 8},{('dark', 'bright')[i % 2]},{height}")
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def chips_store(run: Run, table: Path) -> Path:
    store = table.parent / "store"
    words = ("--store", store, "--collection", "pictures", "--chip-size", "1km")
    result = run("embed", "chips", table, *words, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["embedded"], report["missing"], report["absent"]) == (CHIPS, 0, 0)
    return store


def test_the_table_becomes_a_collection(run: Run, chips_store: Path, table: Path) -> None:
    words = ("--store", chips_store, "--collection", "pictures", "--chip-size", "1km")
    again = run("embed", "chips", table, *words)
    assert again.exit_code == 0, again.output
    assert (
        "40 of 40 chips of scene 'table' are in collection 'pictures', 40 of them" in again.stdout
    )


def test_attributes_are_in_results_and_files(run: Run, chips_store: Path, tmp_path: Path) -> None:
    words = ("--store", chips_store, "--collection", "pictures", "--at", "13,42", "-k", 5)
    found = run("search", *words, "--json")
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert answer["query"]["properties"]["class"] == "bright"
    assert [f["properties"]["class"] for f in answer["features"]] == ["bright"] * 5
    out = tmp_path / "places.gpkg"
    assert run("search", *words, "--out", out).exit_code == 0
    frame = geopandas.read_file(out)
    assert frame["class"].tolist() == ["bright"] * 5
    assert frame["height"].dtype == float


def test_attributes_come_through_the_server(chips_store: Path, running: Any) -> None:
    settings = Settings(store=chips_store, security=SecuritySettings(token=SecretStr(TOKEN)))
    with running(settings) as (settled, _), Client(settled.server.url, TOKEN) as client:
        item = client.item("pictures", "chip0")
        assert item["properties"]["class"] == "dark"
        assert item["properties"]["height"] is None
        assert item["properties"]["path"] == "chip0.jpg"
        answer = client.search("pictures", (13.0, 42.0), k=5)
        assert {f["properties"]["class"] for f in answer["features"]} == {"bright"}
        kinds = dict(answer["spec"]["attributes"])
        assert kinds == {"path": "string", "class": "string", "height": "float64"}


def test_images_that_cannot_be_read_make_it_exit_with_3(
    terrakin: Callable[..., Any], tmp_path: Path
) -> None:
    table = draw(tmp_path)
    broken = tmp_path / "chip5.jpg"
    broken.write_bytes(broken.read_bytes()[:-12])
    words = ("--store", tmp_path / "store", "--collection", "pictures", "--chip-size", "1km")
    done = terrakin("embed", "chips", table, *words)
    assert done.returncode == 3, done.stderr
    assert "row 6: " in done.stderr
    assert "39 of 40 chips" in done.stdout
    assert "1 could not be read" in done.stdout


def test_tables_go_to_a_remote_store_from_any_machine(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="remote stores need fsspec")
    url, caches = (tmp_path / "remote").as_uri(), tmp_path / "caches"
    tables = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tables.append(draw(tmp_path / name).rename(tmp_path / name / f"{name}.csv"))
    broken = tmp_path / "one" / "chip5.jpg"
    broken.write_bytes(broken.read_bytes()[:-12])
    words = ("--collection", "pictures", "--chip-size", "1km", "--store")
    for machine in ("a", "a", "b"):  # the third does nothing either
        monkeypatch.setenv("TERRAKIN_CACHE", str(caches / machine))
        done = run("embed", "chips", tables[0], *words, url)
        assert done.exit_code == 3, done.output
        assert "row 6: " in done.stderr
        assert "39 of 40 chips" in done.stdout
    monkeypatch.setenv("TERRAKIN_CACHE", str(caches / "c"))
    refused = run("embed", "chips", tables[1], *words, url)
    assert "has 39 chips of the same ids: chip0" in str(refused.exception)
    lines = tables[1].read_text().splitlines()
    named = [f"{lines[0]},id", *(f"{line},x{i}" for i, line in enumerate(lines[1:]))]
    tables[1].write_text("\n".join(named))
    for store in (url, tmp_path / "local"):
        for table in tables:
            assert run("embed", "chips", table, *words, store).exit_code in (0, 3)
    assert list(caches.rglob("*.parquet")) == []
    assert run("fetch", url, "--store", tmp_path / "here").exit_code == 0
    found = [
        {part.name: part.read_bytes() for part in (tmp_path / store).rglob("*.parquet")}
        for store in ("here", "local")
    ]
    assert found[0] == found[1]
    assert sorted(found[0]) == ["one-00000.parquet", "two-00000.parquet"]


def test_rows_that_cannot_be_used_stop_it(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,lon,lat\nnone.jpg,200000,3\n")
    result = run("embed", "chips", table, "--store", tmp_path / "s", "--collection", "c")
    assert isinstance(result.exception, InputError)
    assert "1 of 1 rows cannot be used" in str(result.exception)
    assert not (tmp_path / "s").exists()
