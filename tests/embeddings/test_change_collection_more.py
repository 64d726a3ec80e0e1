"""Change of a collection as rasters, since when, from what into what, and kinds from clicks."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image

from embeddings.analysis.change.coverage import Coverage
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_layers import STAYED, change_table, write
from embeddings.change.collection_objects import change_objects, write_objects
from embeddings.change.collection_picture import map_uri
from embeddings.change.collection_report import collection_report, report_html, report_lines
from embeddings.change.collection_run import measure
from embeddings.change.thumbnails import NOTHING
from embeddings.errors import InputError, NoDataError
from embeddings.probe.fit import fit_probe
from embeddings.probe.fit_job import ProbeJob
from embeddings.store import Store
from embeddings.types import Bounds
from tests.embeddings.change_data import COLS, KINDS, ROWS, job, kinds, make_years
from tests.embeddings.label_data import SIDE, square_chips, write_labels

SIDE_PX = 8
YEARS = (2016, 2017, 2018, 2019, 2020)


def centre(place: int) -> shapely.Point:
    row, col = divmod(place, COLS)
    return shapely.Point(10.0 + (col + 0.5) * SIDE, 50.0 - (row + 0.5) * SIDE)


@pytest.fixture(scope="module")
def scenes(
    tmp_path_factory: pytest.TempPathFactory,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Any],
) -> Path:
    """A store with a collection 'years' of real scenes; a block changes, a corner lacks data."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(2)
    first = land(160, 160, seed=1).astype(np.float32)
    for year in (2018, 2019, 2020):
        values = np.maximum(first * rng.normal(1, 0.02, first.shape), 1)
        if year > 2018:
            values[:, 80:96, 80:96] = rng.uniform(1, 8000, (3, 16, 16))
        if year == 2019:
            values[:, :16, :8] = 0
        path = write_raster(folder / f"{year}.tif", values.astype(np.uint16), nodata=0)
        embed(folder / "store", path, collection="years", datetime="%Y")
    cloudy = np.zeros_like(first, np.uint16)
    cloudy[:, -8:, -8:] = first[:, -8:, -8:]
    blank = write_raster(folder / "2021.tif", cloudy, nodata=0)
    embed(folder / "store", blank, collection="years", datetime="%Y")
    return folder


def test_rasters_have_a_pixel_a_chip_and_gaps_are_no_change(scenes: Path) -> None:
    made = measure(job(scenes, "score.tif", start="2018-01-01", end="2019-01-01"))
    files = write(made)
    assert [path.name for path in files][:2] == ["score.tif", "score_coverage.tif"]
    with rasterio.open(files[0]) as score, rasterio.open(files[1]) as coverage:
        assert score.shape == coverage.shape == (20, 20)
        assert score.transform.a == pytest.approx(SIDE_PX * 10)
        assert score.descriptions[:2] == ("score", "probability")
        values, codes = score.read(1), coverage.read(1)
    assert (codes[:2, 0] == Coverage.NO_DATA_AFTER).all()
    assert (codes == Coverage.COMPARED).sum() == 398
    np.testing.assert_array_equal(np.isnan(values), codes != Coverage.COMPARED)
    others = np.delete(values.ravel(), [10 * 20 + 10, 10 * 20 + 11, 11 * 20 + 10, 11 * 20 + 11])
    assert values[10:12, 10:12].min() > np.nanquantile(others, 0.98)


def test_kinds_and_classes_are_rasters_with_names(scenes: Path) -> None:
    asked = job(scenes, "named.tif", start="2018-01-01", end="2019-01-01", threshold="1.645")
    first = measure(asked)
    lon, lat = first.dates.lonlat
    changed = np.flatnonzero(first.changed)
    quiet = np.flatnonzero(~first.changed & (first.coverage == Coverage.COMPARED))[::6]
    at = [shapely.Point(lon[n], lat[n]) for n in (*changed, *quiet)]
    names = ["built"] * len(changed) + ["field"] * len(quiet)
    clicks = write_labels(scenes / "kinds.gpkg", at, kind=names)
    day = ["2019-01-01"] * len(at)
    land = write_labels(scenes / "land.gpkg", at, **{"class": names, "date": day})
    fit_probe(
        ProbeJob(scenes / "store", "years", land, field="class", date_field="date", folds=3,
                 curve=False, out=scenes / "land")
    )  # fmt: skip
    made = measure(replace(asked, clicks=clicks, field="kind", probe=scenes / "land"))
    files = write(made)
    for name, texts in made.classes.items():
        path = scenes / f"named_{name}.tif"
        assert path in files
        assert path in made.job.outputs
        with rasterio.open(path) as source:
            codes, legend = source.read(1), json.loads(source.tags()["CLASSES"])
            assert len({source.colormap(1)[code] for code in legend.values()}) == len(legend)
        named = legend if name != "kind" else {k: c for k, c in legend.items() if c > 1}
        assert {"built", "field"} <= set(named)
        for text, code in named.items():
            assert (codes == code).sum() == (texts == text).sum()
    with rasterio.open(scenes / "named_kind.tif") as source:
        unchanged = ~made.changed & (made.coverage == Coverage.COMPARED)
        assert (source.read(1) == 1).sum() == unchanged.sum()


def test_a_date_without_any_data_is_refused(scenes: Path) -> None:
    known = Store.open(scenes / "store").collection("years").bounds
    assert known is not None
    middle = (known.west + known.east) / 2
    box = Bounds(known.west, known.south, middle, known.north)
    with pytest.raises(NoDataError, match=r"All \d+ chips.*2021-01-01.*without data"):
        measure(job(scenes, start="2018-01-01", end="2021-01-01", bbox=box))


def test_chips_without_a_grid_have_no_raster(tmp_path: Path) -> None:
    make_years(tmp_path / "store", (2018, 2019))
    with pytest.raises(InputError, match=r"gpkg or \.parquet"):
        write(measure(job(tmp_path, "score.tif")))
    assert not list(tmp_path.glob("*.tif"))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    make_years(folder / "store", YEARS, {50: 2018, 51: 2018, 300: 2019, 400: 2020})
    return folder


def test_since_when_names_the_first_lasting_date(series: Path) -> None:
    made = measure(job(series, all_dates=True))
    assert made.since is not None
    assert made.since.date[[50, 51, 300]].tolist() == [2, 2, 3]
    # Changed at the last date alone: nobody knows yet whether it lasts.
    assert made.since.date[400] == -1
    assert (made.since.date > 0).mean() < 0.08
    table = change_table(made).to_pydict()
    assert table["since"][50] == "2018-07-01"
    assert table["dates_since"][50] == 3
    assert table["since"][400] is None
    report = collection_report(made, [])
    assert sum(each["places"] for each in report["since"]) == int(made.changed.sum())
    assert any(line.startswith("2018-07-01") for line in report_lines(report))
    assert "Since when" in report_html(report, map_uri(made))


def test_a_part_of_the_dates_is_a_series_too(series: Path) -> None:
    made = measure(job(series, all_dates=True, start="2017-01-01", end="2020-12-31"))
    assert made.dates.labels[0] == "2017-07-01"
    assert made.since is not None
    assert made.since.date[50] == 1
    with pytest.raises(InputError, match="3 dates or more"):
        measure(job(series, all_dates=True, start="2019-01-01"))


def test_since_when_as_a_raster_has_a_code_a_date(scenes: Path) -> None:
    asked = job(scenes, "since.tif", all_dates=True, end="2020-12-31")
    made = measure(asked)
    files = write(made)
    with rasterio.open(files[0]) as since:
        codes = since.read(1)
        assert since.colormap(1)[1][3] == 255
    assert set(np.unique(codes)) <= {0, 1, STAYED}
    assert (codes[10:12, 10:12] == 1).all()
    assert made.since is not None
    assert (codes == 1).sum() == (made.since.date == 1).sum()


@pytest.fixture(scope="module")
def probe(series: Path) -> Path:
    """A probe of the first year's kinds."""
    first = kinds()
    places = np.random.default_rng(0).permutation(ROWS * COLS)[:150].tolist()
    labels = write_labels(
        series / "land.gpkg",
        [centre(place) for place in places],
        **{
            "class": [KINDS[first[place]] for place in places],
            "date": ["2016-07-01"] * len(places),
        },
    )
    fit_probe(
        ProbeJob(
            series / "store", "years", labels, field="class", date_field="date", folds=4,
            curve=False, out=series / "land",
        )
    )  # fmt: skip
    return series / "land"


def test_a_probe_says_from_what_into_what(series: Path, probe: Path) -> None:
    made = measure(job(series, start="2016-07-01", end="2019-07-01", probe=probe))
    first, table = kinds(), change_table(made).to_pydict()
    sure = [place for place in (50, 51, 300) if table["class_after"][place] != "unknown"]
    assert sure
    for place in sure:
        assert table["class_before"][place] == KINDS[first[place]]
        assert table["class_after"][place] == KINDS[(first[place] + 1) % len(KINDS)]
    report = collection_report(made, [])
    found = report["transitions"]
    whole = np.array(found["mapped_ha"])
    assert whole.sum() == pytest.approx(made.hectares.sum())
    # The matrix is what the table holds.
    where = {name: number for number, name in enumerate(found["classes"])}
    recounted = np.zeros_like(whole)
    kept = 0
    for before, after, changed, hectares in zip(
        *(table[name] for name in ("class_before", "class_after", "changed", "hectares")),
        strict=True,
    ):
        recounted[where[before], where[after]] += hectares
        kept += before == after and not changed
    np.testing.assert_allclose(recounted, whole, rtol=1e-6)
    assert kept == (~np.array(table["changed"])).sum()
    off = whole.sum() - np.trace(whole)
    assert 0 < off < 0.1 * whole.sum()
    assert "Changed into what" in report_html(report, map_uri(made))
    with pytest.raises(InputError, match="--probe belongs to two dates"):
        measure(job(series, all_dates=True, probe=probe))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store where 90 places change, each into the next kind; and labels of 45 of them."""
    folder = tmp_path_factory.mktemp("many")
    places = np.random.default_rng(9).permutation(ROWS * COLS)[:90].tolist()
    make_years(folder / "store", (2018, 2019), dict.fromkeys(places, 2019))
    first = kinds()
    write_labels(
        folder / "clicks.gpkg",
        [centre(place) for place in places[:45]],
        kind=[f"from {KINDS[first[place]]}" for place in places[:45]],
    )
    np.save(folder / "places.npy", places)
    return folder


@pytest.mark.parametrize("learn_from", ["both", "after", "move"])
def test_clicks_name_the_kinds_of_change(many: Path, learn_from: str) -> None:
    clicks = many / "clicks.gpkg"
    made = measure(job(many, clicks=clicks, field="kind", clicks_from=learn_from))
    fresh, first = np.load(many / "places.npy")[45:], kinds()
    named = made.classes["kind"][fresh]
    right = [named[i] == f"from {KINDS[first[place]]}" for i, place in enumerate(fresh.tolist())]
    assert np.mean(right) > (0.5 if learn_from == "move" else 0.7)
    assert all(text is None for text in made.classes["kind"][~made.changed])
    report = collection_report(made, [])
    assert sum(each["places"] for each in report["kinds"]["found"]) == int(made.changed.sum())


def test_clicks_that_teach_nothing_are_refused(many: Path) -> None:
    asked: CollectionChangeJob = job(many, clicks=many / "clicks.gpkg")
    with pytest.raises(InputError, match="--field"):
        measure(asked)
    one = write_labels(many / "one.gpkg", [centre(3), centre(40)], kind=["loss", "loss"])
    with pytest.raises(InputError, match="are 'loss' in 'kind'"):
        measure(replace(asked, clicks=one, field="kind"))


def test_places_of_fewer_dates_are_known(tmp_path: Path) -> None:
    """Chips twice as large at the other date lie on no place of the first."""
    make_years(tmp_path / "store", (2018,))
    square_chips(tmp_path / "store" / "large", 12, 12, side=2 * SIDE, times=[1_560_000_000],
                 vectors=np.zeros((144, 8), np.float32))  # fmt: skip
    with pytest.raises(InputError, match="No place has data at both"):
        measure(job(tmp_path, other="large"))


def test_the_map_of_the_report_shows_where_change_is(scenes: Path) -> None:
    made = measure(job(scenes, start="2018-01-01", end="2019-01-01"))
    uri = map_uri(made)
    kind, content = uri.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(BytesIO(b64decode(content))) as image:
        colours = np.asarray(image.convert("RGB")).astype(int)
    high, wide = colours.shape[:2]
    at = colours[int(high * 0.55), int(wide * 0.55)]
    assert at[0] - at[1] > 60, "the block that changed is red"
    assert colours[2, 2].tolist() == NOTHING.tolist(), "the corner without data is grey"
    quiet = colours[int(high * 0.8), int(wide * 0.8)]
    assert quiet[0] - quiet[1] < at[0] - at[1]


def test_overlapping_chips_count_their_step(
    tmp_path: Path,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Any],
) -> None:
    first = land(96, 96, seed=4).astype(np.float32)
    for year in (2018, 2019):
        noisy = first * np.random.default_rng(year).normal(1, 0.02, first.shape)
        path = write_raster(tmp_path / f"{year}.tif", np.maximum(noisy, 1).astype(np.uint16))
        embed(tmp_path / "store", path, collection="years", datetime="%Y", stride="4")
    made = measure(job(tmp_path))
    assert made.dates.count == 23**2
    # Steps of 40 m: 0.16 ha each.
    assert made.hectares == pytest.approx(0.16, rel=0.01)


def test_chips_that_changed_together_are_one_object(scenes: Path) -> None:
    whole = job(scenes, start="2018-01-01", end="2019-01-01", objects=scenes / "objects.gpkg")
    made = measure(whole)
    write_objects(made, change_objects(made), scenes / "objects.gpkg")
    rows = geopandas.read_file(scenes / "objects.gpkg", layer="objects")
    assert int(rows["places"].sum()) == int(made.changed.sum())
    assert rows["hectares"].is_monotonic_decreasing
    first = rows.iloc[0]
    block = [10 * 20 + 10, 10 * 20 + 11, 11 * 20 + 10, 11 * 20 + 11]
    assert first["places"] >= len(block)
    assert first["hectares"] == pytest.approx(0.64 * first["places"], rel=0.01)
    lon, lat = made.dates.lonlat
    ids = made.dates.items()["id"].to_pylist()
    middle = ids.index("2018_10_10")
    assert first.geometry.contains(shapely.Point(lon[middle], lat[middle]))
    large = change_objects(replace(made, job=replace(whole, min_area_m2=20_000.0)))
    assert min(large["hectares"].to_pylist()) >= 2
    assert 0 < large.num_rows < len(rows)
    none = change_objects(replace(made, job=replace(whole, min_area_m2=1e9)))
    assert none.num_rows == 0


def test_objects_of_a_series_have_one_date(series: Path) -> None:
    made = measure(job(series, all_dates=True))
    table = change_objects(made).to_pydict()
    assert sum(table["places"]) == int(made.changed.sum())
    assert {"2018-07-01", "2019-07-01"} <= set(table["since"])
