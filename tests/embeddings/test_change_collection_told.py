"""What the change of collections says where little can be told, and what it refuses to replace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from embeddings.analysis.change.coverage import Coverage
from embeddings.change import collection_objects
from embeddings.change.collection_layers import STAYED, change_table, write
from embeddings.change.collection_objects import change_objects
from embeddings.change.collection_report import collection_report, report_lines
from embeddings.change.collection_run import CollectionChange, measure
from embeddings.errors import CancelledError, InputError, SpecMismatchError
from embeddings.store.collection import Collection
from tests.embeddings.change_data import job, make_years

CHIPS = 20
"""Of a scene, down and across."""
BESIDE = 4
"""Columns of chips that the second collection has east of the first."""


@pytest.fixture(scope="module")
def gaps(
    tmp_path_factory: pytest.TempPathFactory,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
) -> Path:
    """A store whose 'years' are 2018 to 2021; chip row 0 lacks 2019 and 2020, row 1 has 2021 not.

    A block of chips, rows 10 to 12, is another from 2020 on.
    """
    folder = tmp_path_factory.mktemp("gaps")
    first = land(8 * CHIPS, 8 * CHIPS, seed=1).astype(np.float32)
    rng = np.random.default_rng(2)
    block = rng.uniform(1, 8000, (3, 24, 24))
    for year in (2018, 2019, 2020, 2021):
        values = np.maximum(first * rng.normal(1, 0.02, first.shape), 1)
        if year >= 2020:
            values[:, 80:104, 80:104] = block
        if year in (2019, 2020):
            values[:, :8] = 0
        if year == 2021:
            values[:, 8:16] = 0
        path = write_raster(folder / f"{year}.tif", values.astype(np.uint16), nodata=0)
        embed(folder / "store", path, collection="years", datetime="%Y")
    return folder


@pytest.fixture(scope="module")
def since(gaps: Path) -> CollectionChange:
    return measure(job(gaps, "since.tif", all_dates=True))


def read(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read(1)


def test_two_dates_do_not_tell_that_a_place_stayed(gaps: Path, since: CollectionChange) -> None:
    files = write(since)
    coverage = gaps / "since_coverage.tif"
    assert coverage in files
    assert coverage in since.job.outputs
    codes, why = read(gaps / "since.tif"), read(coverage)
    assert (codes[0] == 0).all()
    assert (why[0] == Coverage.NO_DATA).all()
    assert (why[1:] == Coverage.COMPARED).all()
    assert (codes[11, 11], codes[1, 0]) == (2, STAYED)
    assert np.isnan(read(gaps / "since_score.tif")[0]).all()
    with rasterio.open(coverage) as source:
        assert source.tags()["CLASSES"] == '{"compared": 0, "no data at 3 dates": 3}'


def test_report_and_table_say_the_same_of_a_series(since: CollectionChange) -> None:
    report = collection_report(since, [])
    places = {name: each["places"] for name, each in report["coverage"].items()}
    assert places == {"compared": CHIPS * (CHIPS - 1), "no data at 3 dates": CHIPS}
    assert "Not compared: no data at 3 dates 20." in report_lines(report)
    table = change_table(since).to_pandas()
    assert table["coverage"].value_counts().to_dict() == places
    little = table[table["coverage"] == "no data at 3 dates"]
    assert little["since"].isna().all()
    assert little["score"].isna().all()
    assert set(little["dates"]) == {2}


def test_dates_that_end_early_tell_up_to_their_end(since: CollectionChange) -> None:
    table = change_table(since).to_pandas()
    early = table[table["last_date"] == "2020-01-01"]
    assert len(early) == CHIPS
    assert set(early["dates"]) == {3}
    assert (table["last_date"] == "2021-01-01").sum() == CHIPS * (CHIPS - 1)
    assert any("20 places have no data at 2021-01-01" in note for note in since.notes)


def test_scores_have_a_style_for_qgis(gaps: Path, since: CollectionChange) -> None:
    style = gaps / "since_score.qml"
    assert style in write(since)
    assert "change begins" in style.read_text(encoding="utf-8")
    made = measure(job(gaps, "score.tif", start="2018-01-01", end="2021-01-01"))
    assert gaps / "score.qml" in write(made)
    (gaps / "score.qml").write_text("<qgis>mine</qgis>", encoding="utf-8")
    assert gaps / "score.qml" not in write(made)
    assert (gaps / "score.qml").read_text(encoding="utf-8") == "<qgis>mine</qgis>"


def test_places_of_the_second_collection_alone_are_in_the_raster(
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
    tmp_path: Path,
) -> None:
    store, size = tmp_path / "store", 8 * CHIPS
    whole = land(size, size + 8 * BESIDE, seed=1)
    one = write_raster(tmp_path / "scene.tif", whole[:, :, :size])
    embed(store, one, collection="years", datetime="2018-01-01")
    # An encoder of rcf is fitted to the first input: a second collection with it is a copy.
    shutil.copytree(store / "years", store / "after")
    noisy = whole * np.random.default_rng(0).normal(1, 0.02, whole.shape)
    two = write_raster(tmp_path / "later" / "scene.tif", noisy[:, :, 8 * BESIDE :].astype("u2"),
                       origin=(500_000.0 + 80 * BESIDE, 5_200_000.0))  # fmt: skip
    both = embed(store, two, collection="after", datetime="2019-01-01", scene="later")
    replace(both, scenes=tuple(replace(each, id="scene") for each in both.scenes[1:])).save()
    made = measure(job(tmp_path, "score.tif", other="after"))
    write(made)
    coverage, score = read(tmp_path / "score_coverage.tif"), read(tmp_path / "score.tif")
    assert coverage.shape == (CHIPS, CHIPS + BESIDE)
    assert (coverage[:, :BESIDE] == Coverage.NO_DATA_AFTER).all()
    assert (coverage[:, -BESIDE:] == Coverage.NO_DATA_BEFORE).all()
    assert (np.isfinite(score) == (coverage == Coverage.COMPARED)).all()
    found = collection_report(made, [])["coverage"]
    counted = np.bincount(coverage.ravel(), minlength=5).tolist()
    assert [each["places"] for each in found.values()] == counted


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"clicks": "out.parquet"}, "is read for this and would be replaced"),
        ({"clicks": "c.gpkg", "field": "a", "objects": "c.gpkg"}, "c.gpkg' is read for this"),
        ({"probe": "m.safetensors", "reports": ("m.json",)}, "m.json' is read for this"),
        ({"probe": "m", "reports": ("m.json",)}, "m.json' is read for this"),
        ({"out": "store/years/out.parquet"}, "lies in the store"),
        ({"reports": ("store/r.html",)}, "lies in the store"),
        ({"out": "store/out.tif", "dense": "any"}, "lies in the store"),
    ],
    ids=str,
)
def test_what_is_read_is_never_replaced(gaps: Path, asked: dict[str, Any], says: str) -> None:
    def whole(value: Any) -> Any:
        return tuple(map(whole, value)) if isinstance(value, tuple) else gaps / value

    paths = {n: whole(v) for n, v in asked.items() if n not in ("field", "dense")}
    with pytest.raises(InputError, match=says):
        replace(job(gaps), **{**asked, **paths}).check()


def test_dates_that_fall_on_one_image_are_told_so(gaps: Path) -> None:
    says = (
        r"2018-12-20 and 2019-01-05 both fall on the image of 2019-01-01 in collection 'years'.*"
        r"2018-01-01, 2019-01-01.*: name two"
    )
    with pytest.raises(InputError, match=says):
        measure(job(gaps, start="2018-12-20", end="2019-01-05"))


def test_a_threshold_that_was_given_is_said_once(gaps: Path) -> None:
    def headline(threshold: str) -> str:
        made = measure(job(gaps, start="2018-01-01", end="2021-01-01", threshold=threshold))
        return report_lines(collection_report(made, []))[1]

    assert headline("2.326").startswith("Change begins at score 2.326: ")
    assert "(otsu): " in headline("otsu")


def test_objects_are_parted_at_once_and_until_a_stop(
    gaps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    plain = np.flatnonzero

    def counted(values: Any) -> Any:
        looked.append(1)
        return plain(values)

    monkeypatch.setattr(collection_objects.np, "flatnonzero", counted)
    spent, objects = [], []
    for threshold in ("0", "1.2"):
        made = measure(job(gaps, start="2018-01-01", end="2021-01-01", threshold=threshold))
        looked.clear()
        table = change_objects(made)
        spent.append(len(looked))
        objects.append(table.num_rows)
        assert sum(table["places"].to_pylist()) == made.changed.sum()
    assert objects[1] > 2 * objects[0]
    assert spent[0] == spent[1], "places are sought anew for each object"
    with pytest.raises(CancelledError):
        change_objects(made, lambda: True)


def test_collections_of_two_encoders_are_advised(tmp_path: Path) -> None:
    make_years(tmp_path / "store", (2018,))
    other = make_years(tmp_path / "store", (2019,), name="other")
    replace(other, spec=replace(other.spec, model_version="2")).save()
    with pytest.raises(SpecMismatchError, match="Embed both dates into one collection"):
        measure(job(tmp_path, other="other"))
