"""Labels on places of a collection: where change begins, how far that errs, and kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import shapely.affinity

from embeddings.change.collection_layers import change_table, write
from embeddings.change.collection_picture import map_uri
from embeddings.change.collection_report import collection_report, report_html, report_lines
from embeddings.change.collection_run import CollectionChange, measure
from embeddings.errors import InputError
from tests.embeddings.change_data import COLS, KINDS, ROWS, job, kinds, make_years
from tests.embeddings.label_data import SIDE, write_labels

PLACES = np.random.default_rng(9).permutation(ROWS * COLS).tolist()
CHANGED, QUIET = PLACES[:90], PLACES[90:]


def centre(place: int) -> shapely.Point:
    row, col = divmod(place, COLS)
    return shapely.Point(10.0 + (col + 0.5) * SIDE, 50.0 - (row + 0.5) * SIDE)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store where 90 of 576 places change, each into the next kind."""
    folder = tmp_path_factory.mktemp("many")
    make_years(folder / "store", (2018, 2019), dict.fromkeys(CHANGED, 2019))
    return folder


def labels(folder: Path, name: str, *, yes: object = "Yes", no: object = "no") -> Path:
    """Label 40 places that changed and 60 that did not."""
    places, said = CHANGED[:40] + QUIET[:60], [yes] * 40 + [no] * 60
    return write_labels(folder / name, [centre(place) for place in places], moved=said)


def of_clicks(folder: Path, **more: object) -> CollectionChange:
    clicks = labels(folder, "clicks.gpkg")
    return measure(job(folder, clicks=clicks, field="moved", **more))


def test_labels_of_both_sides_choose_the_threshold(many: Path) -> None:
    made = of_clicks(many)
    assert made.asked == "clicks"
    quiet, changed = made.score[QUIET[:60]], made.score[CHANGED[:40]]

    def errors(least: float) -> float:
        return float((changed < least).mean() + (quiet >= least).mean())

    tried = np.linspace(made.score.min(), made.score.max(), 500)
    assert errors(made.threshold) <= min(map(errors, tried)) + 1e-6
    assert made.threshold != 2.326
    np.testing.assert_array_equal(made.changed, made.score >= made.threshold)
    assert "kind" not in made.classes


def test_the_report_says_how_far_a_threshold_of_labels_errs(many: Path) -> None:
    made = of_clicks(many)
    report = collection_report(made, [])
    json.dumps(report, allow_nan=False)
    told = report["clicks"]
    assert (told["labels"], told["used"], told["places"]) == (100, 100, 100)
    assert [(e["name"], e["places"]) for e in told["classes"]] == [
        ("change", 40), ("no change", 60)
    ]  # fmt: skip
    apart = told["left_out"]
    assert 0 <= apart["missed"] < 0.2
    assert 0 <= apart["false_alarms"] < 0.2
    assert "compact regions" in apart["split"]
    lines = "\n".join(report_lines(report))
    assert f"Change begins at score {made.threshold:.3f} (clicks): " in lines
    assert "Of labels left out" in lines
    assert "<h2>Labels</h2>" in report_html(report, map_uri(made))


def test_a_threshold_asked_for_is_judged_by_the_labels(many: Path) -> None:
    made = of_clicks(many, threshold="1.0")
    assert (made.asked, made.threshold) == ("1.0", 1.0)
    told = made.told["clicks"]
    assert told["at_threshold"]["false_alarms"] == (made.score[QUIET[:60]] >= 1).mean()
    assert "left_out" not in told
    line = report_lines(collection_report(made, []))[-1]
    assert line.startswith("At this threshold 0% of the changes")
    assert of_clicks(many, threshold="clicks").threshold == of_clicks(many).threshold


def test_numbers_are_yes_and_no_too(many: Path) -> None:
    clicks = labels(many, "numbers.gpkg", yes=1, no=0)
    made = measure(job(many, clicks=clicks, field="moved"))
    assert made.threshold == of_clicks(many).threshold
    assert made.notes == ()


def test_a_polygon_smaller_than_a_chip_labels_the_chip_it_lies_in(many: Path) -> None:
    places, said = CHANGED[:40] + QUIET[:60], ["Yes"] * 40 + ["no"] * 60
    corners = [shapely.affinity.translate(centre(n), SIDE / 4, SIDE / 4) for n in places]
    small = write_labels(many / "s.gpkg", [at.buffer(SIDE / 8) for at in corners], moved=said)
    made = measure(job(many, clicks=small, field="moved"))
    assert made.told["clicks"]["used"] == 100
    assert made.threshold == of_clicks(many).threshold


def test_no_change_among_kinds_chooses_and_denies(many: Path) -> None:
    first = kinds()
    said = [f"from {KINDS[first[place]]}" for place in CHANGED[:45]] + ["no change"] * 60
    at = [centre(place) for place in CHANGED[:45] + QUIET[:60]]
    clicks = write_labels(many / "kinds.gpkg", at, kind=said)
    made = measure(job(many, clicks=clicks, field="kind"))
    assert made.asked == "clicks"
    low = measure(replace(made.job, threshold="0.5"))
    assert low.denied is not None
    over = low.score >= 0.5
    assert 20 < low.denied.sum() < over.sum()
    assert not (low.denied & low.changed).any()
    assert low.changed[CHANGED[45:]].mean() > 0.8
    texts = change_table(low).to_pandas()
    assert (texts["kind"].notna() == low.changed).all()
    assert "no change" not in set(texts["kind"])
    found = collection_report(low, [])["kinds"]["found"]
    assert [each["kind"] for each in found[:-1]] == sorted(f"from {name}" for name in KINDS)
    assert sum(each["places"] for each in found) == low.changed.sum()


def test_labels_that_cannot_choose_are_refused(many: Path) -> None:
    with pytest.raises(InputError, match="--threshold clicks needs --clicks"):
        job(many, threshold="clicks").check()
    one = write_labels(many / "one.gpkg", [centre(3), centre(40)], moved=["yes", "yes"])
    with pytest.raises(InputError, match=r"No label of 'one\.gpkg'.* is of no change"):
        measure(job(many, clicks=one, field="moved"))
    with pytest.raises(InputError, match="Say with --field"):
        measure(job(many, clicks=one))


def test_labels_without_kinds_make_no_raster_of_kinds(
    tmp_path: Path, land: object, write_raster: object, embed: object
) -> None:
    first = land(160, 160, seed=1).astype(np.float32)  # type: ignore[operator]
    for year in (2018, 2019):
        values = np.maximum(first * np.random.default_rng(year).normal(1, 0.02, first.shape), 1)
        if year == 2019:
            values[:, 80:104, 80:104] = 5000
        path = write_raster(tmp_path / f"{year}.tif", values.astype("u2"))  # type: ignore[operator]
        embed(tmp_path / "store", path, collection="years", datetime="%Y")  # type: ignore[operator]
    plain = measure(job(tmp_path, "score.tif"))
    lon, lat = plain.dates.lonlat
    rank = np.argsort(plain.score)
    at = [shapely.Point(lon[n], lat[n]) for n in (*rank[-9:], *rank[:200:20])]
    clicks = write_labels(tmp_path / "c.gpkg", at, moved=["changed"] * 9 + ["stable"] * 10)
    made = measure(replace(plain.job, clicks=clicks, field="moved"))
    files = write(made)
    assert not (tmp_path / "score_kind.tif").exists()
    with rasterio.open(files[0]) as source:
        said = json.loads(source.tags()["TERRAKIN"])
    assert said["threshold"] == pytest.approx(made.threshold)
    assert made.told["clicks"]["used"] == 19
