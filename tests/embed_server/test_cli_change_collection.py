"""``terrakin change collection``: a map and its report from the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from embed_server.cli import terrakin as command
from embeddings.errors import InputError
from embeddings.pipeline import RasterJob, embed_raster
from tests.embeddings.change_data import COLS, ROWS, make_years
from tests.embeddings.change_scenes import write_date

Run = Callable[..., Any]
CHANGED = {30: 2018, 200: 2018, 201: 2018}


@pytest.fixture(scope="module")
def run() -> Run:
    def call(*words: object) -> Any:
        return CliRunner().invoke(command, ["change", "collection", *map(str, words)])

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store whose collection 'years' has 2016 to 2019."""
    folder = tmp_path_factory.mktemp("place")
    make_years(folder / "store", (2016, 2017, 2018, 2019), CHANGED)
    return folder


def _store(place: Path) -> tuple[object, ...]:
    return "--store", place / "store", "--collection", "years"


def test_two_dates_make_a_layer_and_reports(run: Run, place: Path) -> None:
    result = run(
        *_store(place), "--from", "2017-07-01", "--to", "2018-07-10",
        "--out", place / "change.gpkg", "--report", place / "r.html", place / "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "576 of 576 places compared" in result.stdout
    assert "2017-07-01 against 2018-07-01" in result.stdout
    assert f"Written: {place / 'change.gpkg'}" in result.stderr
    report = json.loads((place / "r.json").read_text())
    rows = geopandas.read_file(place / "change.gpkg", layer="change")
    assert len(rows) == ROWS * COLS
    assert int(rows["changed"].sum()) == report["changed"]["places"] >= len(CHANGED)
    assert "<!doctype html>" in (place / "r.html").read_text().lower()


def test_all_dates_say_since_when_as_json(run: Run, place: Path) -> None:
    result = run(*_store(place), "--all-dates", "--out", place / "since.parquet", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [each["date"] for each in report["since"]][1] == "2018-07-01"
    rows = geopandas.read_parquet(place / "since.parquet")
    assert rows["since"][list(CHANGED)].tolist() == ["2018-07-01"] * len(CHANGED)


def test_the_same_date_twice_is_an_error_that_names_the_dates(run: Run, place: Path) -> None:
    out = place / "same.parquet"
    result = run(*_store(place), "--from", "2017-07-01", "--to", "2017-07-01", "--out", out)
    assert isinstance(result.exception, InputError)
    assert "Both dates are 2017-07-01" in str(result.exception)
    assert not out.exists()


def test_a_wrong_measure_is_wrong_usage(run: Run, place: Path) -> None:
    result = run(*_store(place), "--out", place / "x.parquet", "--metric", "taxi")
    assert result.exit_code == 2


def test_dense_vectors_make_a_raster_of_cells(run: Run, tmp_path: Path) -> None:
    for day, more in (("2016-07-01", {}), ("2019-07-01", {"seed": 1, "changed": True})):
        files = write_date(tmp_path / day, size=(120, 140), **more)
        embed_raster(
            RasterJob(
                tmp_path / "store", "years", tuple(files), "rcf:features=16,dim=8", chip="6",
                datetime=day, scene=day, dense="2",
            )
        )  # fmt: skip
    where = "--store", tmp_path / "store", "--collection", "years"
    result = run(*where, "--dense", "--out", tmp_path / "one.tif", "--report", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "of 4,200 cells compared" in result.stdout
    assert json.loads((tmp_path / "r.json").read_text())["dense"]["cells"] == [60, 70]
    again = run(*where, "--dense", "2", "--out", tmp_path / "two.tif", "--json")
    assert json.loads(again.stdout)["settings"]["dense"] == "2"
    with rasterio.open(tmp_path / "one.tif") as one, rasterio.open(tmp_path / "two.tif") as two:
        np.testing.assert_array_equal(one.read(), two.read())
    refused = run(*where, "--dense", "--with", "wide", "--out", tmp_path / "three.tif")
    assert "There is no collection 'wide'" in str(refused.exception)
    assert not (tmp_path / "three.tif").exists()


def test_the_docs_store_the_stride_that_they_compare() -> None:
    text = (Path(__file__).parents[2] / "docs" / "change.md").read_text(encoding="utf-8")
    lines = text.split("### Cell by cell")[1].split("```")[1].replace("\\\n", " ").splitlines()
    embed, change = (shlex.split(line)[1:] for line in lines if line.strip())
    raster = command.commands["embed"].commands["raster"]  # type: ignore[attr-defined]
    given = raster.make_context("raster", embed[2:]).params
    assert given["files"] == ("2016/*.tif",)
    assert (given["dense"], given["dense_stride"]) == (True, "2")
    collection = command.commands["change"].commands["collection"]  # type: ignore[attr-defined]
    assert collection.make_context("collection", change[2:]).params["dense"] == "any"
