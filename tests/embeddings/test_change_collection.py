"""Change between dates of a collection: places found, gaps kept apart, bad input refused."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest

from embeddings.analysis.change.coverage import Coverage
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_layers import write
from embeddings.change.collection_picture import map_uri
from embeddings.change.collection_report import collection_report, report_html, report_lines
from embeddings.change.collection_run import CollectionChange, measure
from embeddings.errors import (
    CancelledError,
    InputError,
    OutsideCoverageError,
    SpecMismatchError,
    TerrakinError,
)
from embeddings.store import Store
from embeddings.types import Bounds
from tests.embeddings.change_data import COLS, ROWS, job, kinds, make_years, stamp, vectors_of
from tests.embeddings.label_data import SIDE, square_chips

CHANGED = {30: 2019, 200: 2019, 201: 2019, 400: 2019, 555: 2019}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store whose collection 'years' has 2017 to 2020; some places change."""
    folder = tmp_path_factory.mktemp("change")
    make_years(folder / "store", (2017, 2018, 2019, 2020), CHANGED)
    return folder


def found_at(made: CollectionChange) -> list[int]:
    return np.flatnonzero(made.changed).tolist()


def test_places_that_changed_are_found_and_few_others(place: Path) -> None:
    made = measure(job(place, start="2018-07-01", end="2019-07-01"))
    assert made.dates.labels == ("2018-07-01", "2019-07-01")
    assert set(CHANGED) <= set(found_at(made))
    assert made.changed.sum() < 20
    assert (made.score > 1.645).mean() == pytest.approx(0.05, abs=0.03)
    assert (made.coverage == Coverage.COMPARED).all()
    assert made.hectares.sum() == pytest.approx(ROWS * COLS * 79.6, rel=0.02)


def test_dates_without_a_name_are_the_first_and_the_last(place: Path) -> None:
    assert measure(job(place)).dates.labels == ("2017-07-01", "2020-07-01")


def test_the_nearest_date_within_the_tolerance_is_taken(place: Path) -> None:
    made = measure(job(place, start="2018-07-20", end="2020-01-20", tolerance_days=200))
    assert made.dates.labels == ("2018-07-01", "2020-07-01")
    with pytest.raises(InputError, match=r"nothing within 10 days of 2018-07-20.*2017-07-01, 20"):
        measure(job(place, start="2018-07-20", end="2020-07-01", tolerance_days=10))


def test_a_table_has_a_row_a_place(place: Path) -> None:
    made = measure(job(place, "table.parquet", start="2018-07-01", end="2019-07-01"))
    assert write(made) == [place / "table.parquet"]
    rows = geopandas.read_parquet(place / "table.parquet")
    assert len(rows) == ROWS * COLS
    np.testing.assert_array_equal(rows["changed"], made.changed)
    np.testing.assert_allclose(rows["score"], made.score)
    assert set(rows["coverage"]) == {"compared"}
    assert {"probability", "cosine", "euclidean", "hectares", "date_before"} <= set(rows.columns)
    np.testing.assert_allclose(rows.geometry.centroid.x, rows["lon"], atol=1e-9)
    write(made)
    again = (place / "table.parquet").read_bytes()
    write(measure(made.job))
    assert (place / "table.parquet").read_bytes() == again


def test_a_geopackage_has_a_style_and_says_what_made_it(place: Path) -> None:
    made = measure(job(place, "layer.gpkg", start="2018-07-01", end="2019-07-01"))
    write(made)
    rows = geopandas.read_file(place / "layer.gpkg", layer="change")
    assert int(rows["changed"].sum()) == int(made.changed.sum())
    with closing(sqlite3.connect(place / "layer.gpkg")) as database:
        (style,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
        (said,) = database.execute("SELECT metadata FROM gpkg_metadata").fetchone()
    assert 'attr="&quot;score&quot;"' in style
    assert "2018-07-01" in said


def test_the_report_says_areas_and_settings(place: Path) -> None:
    reports = (place / "r.json", place / "r.html")
    made = measure(job(place, start="2018-07-01", end="2019-07-01", reports=reports))
    report = collection_report(made, [made.job.out])
    json.dumps(report, allow_nan=False)
    assert report["changed"]["places"] == int(made.changed.sum())
    assert sum(each["places"] for each in report["coverage"].values()) == ROWS * COLS
    assert sum(report["histogram"]["counts"]) == ROWS * COLS
    assert report["settings"]["metric"] == "euclidean"
    assert "576 of 576 places compared" in report_lines(report)[0]
    document = report_html(report, map_uri(made))
    assert "<svg" in document
    assert "2018-07-01 against 2019-07-01" in document


def test_two_collections_are_joined_by_place(tmp_path: Path) -> None:
    make_years(tmp_path / "store", (2018,))
    east = (10.0 + 6 * SIDE, 50.0)
    make_years(tmp_path / "store", (2019,), {0: 2019}, name="after", origin=east)
    made = measure(job(tmp_path, other="after"))
    counts = np.bincount(made.coverage, minlength=3).tolist()
    assert counts[:3] == [ROWS * (COLS - 6), ROWS * 6, ROWS * 6]
    assert np.isnan(made.score[made.coverage != Coverage.COMPARED]).all()
    lon, _ = made.dates.lonlat
    assert lon[made.coverage == Coverage.NO_DATA_BEFORE].min() > 10.0 + COLS * SIDE
    assert lon[made.coverage == Coverage.NO_DATA_AFTER].max() < east[0]


def test_history_leaves_out_the_date_under_test(place: Path) -> None:
    made = measure(job(place, start="2018-07-01", end="2019-07-01", history=True))
    assert made.history is not None
    named = made.dates.labels
    pairs = [tuple(named[i] for i in pair) for pair in made.found.scores]
    assert pairs[0] == ("2018-07-01", "2019-07-01")
    assert pairs[1:] == [("2017-07-01", "2018-07-01"), ("2018-07-01", "2020-07-01")]


def test_history_needs_more_dates_than_the_two(tmp_path: Path) -> None:
    make_years(tmp_path / "store", (2017, 2018))
    with pytest.raises(InputError, match="two dates or more beside"):
        measure(job(tmp_path, history=True))


def test_a_box_keeps_to_its_places(place: Path) -> None:
    box = Bounds(10.0, 49.8, 10.12, 50.0)
    made = measure(job(place, start="2018-07-01", end="2019-07-01", bbox=box))
    assert made.dates.count == 20 * 12
    with pytest.raises(OutsideCoverageError, match="no chip in 1,1,2,2"):
        measure(job(place, bbox=Bounds(1, 1, 2, 2)))


def test_a_stop_writes_nothing(place: Path) -> None:
    with pytest.raises(CancelledError):
        measure(job(place, "stopped.parquet"), cancelled=lambda: True)
    assert not (place / "stopped.parquet").exists()


def _location_only(folder: Path) -> CollectionChangeJob:
    known = make_years(folder / "store", (2018, 2019))
    replace(known, spec=replace(known.spec, source="longitude and latitude")).save()
    return job(folder)


def _no_dates(folder: Path) -> CollectionChangeJob:
    make_years(folder / "store", (2018,))
    square_chips(folder / "store" / "timeless")
    return replace(job(folder), collection="timeless")


def _other_spec(folder: Path) -> CollectionChangeJob:
    make_years(folder / "store", (2018,))
    other = make_years(folder / "store", (2019,), name="other")
    replace(other, spec=replace(other.spec, model_version="2")).save()
    return job(folder, other="other")


def _elsewhere(folder: Path, columns: float) -> CollectionChangeJob:
    make_years(folder / "store", (2018,))
    make_years(folder / "store", (2019,), name="other", origin=(10.0 + columns * SIDE, 50.0))
    return job(folder, other="other")


def _corner(folder: Path) -> CollectionChangeJob:
    make_years(folder / "store", (2018,))
    corner = (10.0 + (COLS - 2) * SIDE, 50.0 - (ROWS - 2) * SIDE)
    make_years(folder / "store", (2019,), name="other", origin=corner)
    return job(folder, other="other")


def _one_image(folder: Path) -> CollectionChangeJob:
    make_years(folder / "store", (2018,))
    same = np.tile(vectors_of(kinds(), 2018), (2, 1))
    square_chips(
        folder / "store" / "twice", ROWS, COLS, times=[stamp(2018), stamp(2019)], vectors=same
    )
    return replace(job(folder), collection="twice")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (_location_only, InputError, "longitude and latitude alone.*cannot show change"),
        (_no_dates, InputError, "have no dates.*--datetime"),
        (_other_spec, SpecMismatchError, "model_version"),
        (lambda f: _elsewhere(f, 100), OutsideCoverageError, "No place has data at both"),
        (lambda f: _elsewhere(f, 0.5), OutsideCoverageError, "on one grid"),
        (_corner, OutsideCoverageError, r"Only 4 places.*0\.69%.*1% is the least"),
        (_one_image, InputError, "the same image"),
    ],
    ids=["location", "timeless", "spec", "elsewhere", "between", "corner", "one image"],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, make: Any, error: type[TerrakinError], says: str
) -> None:
    with pytest.raises(error, match=says):
        measure(make(tmp_path))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"start": "2018-07-01", "end": "2018-07-01"}, "Both dates are 2018-07-01"),
        ({"start": "2019-07-01", "end": "2018-07-01"}, "later than --to"),
        ({"start": "yesterday"}, "not a date"),
        ({"out": Path("x.shp")}, "must end in"),
        ({"threshold": "much"}, "--threshold much"),
        ({"metric": "taxi"}, "no measure"),
        ({"tolerance_days": -1.0}, "tolerance"),
        ({"min_area_m2": float("inf")}, "--min-area inf is no area"),
        ({"bbox": Bounds(5, 46, 4, 47)}, "--bbox 5,46,4,47 has its west, 5, east of its east, 4"),
        ({"all_dates": True, "history": True}, "--history belongs to two dates"),
        ({"field": "kind"}, "--clicks"),
    ],
    ids=str,
)
def test_what_is_asked_for_is_checked(place: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        measure(replace(job(place), **asked))


def test_a_collection_of_one_date_is_refused(tmp_path: Path) -> None:
    make_years(tmp_path / "store", (2018,))
    with pytest.raises(InputError, match=r"has one date, 2018-07-01.*--with-collection"):
        measure(job(tmp_path))


def test_reading_changes_nothing_in_the_store(place: Path) -> None:
    before = Store.open(place / "store").collection("years").state
    measure(job(place))
    assert Store.open(place / "store").collection("years").state == before


def test_the_raw_cosine_is_measured_from_the_centre(tmp_path: Path) -> None:
    known = make_years(tmp_path / "store", (2018, 2019))
    plain = measure(job(tmp_path)).found
    centre = (3.0,) * known.spec.dim
    replace(known, spec=replace(known.spec, centre=centre)).save()
    centred = measure(job(tmp_path)).found
    one, two = (vectors_of(kinds(), year) - np.float32(3) for year in (2018, 2019))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    np.testing.assert_allclose(centred.cosine, 1 - (one * two).sum(axis=1) / lengths, atol=1e-5)
    assert np.abs(centred.cosine - plain.cosine).max() > 0.01
    np.testing.assert_allclose(centred.euclidean, plain.euclidean, atol=1e-5)
