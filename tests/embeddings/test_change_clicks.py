"""Clicks on a change map: which pixels they are, what threshold they choose, how it is judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from embeddings.change.clicks import MOST_PIXELS, read_clicks
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_run import RasterChange, change_raster
from embeddings.errors import InputError
from embeddings.sources.grids import TargetGrid
from tests.embeddings.change_scenes import BANDS, CRS, LEFT, TOP, truth, write_date

GRID = TargetGrid(pyproj.CRS(CRS).to_wkt(), Affine(10, 0, LEFT, 0, -10, TOP), 140, 120)
DEGREES = Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dates, in 'before' and 'after'; rows 100 and on have no data after."""
    folder = tmp_path_factory.mktemp("place")
    write_date(folder / "before", seed=1)
    write_date(folder / "after", seed=2, changed=True, holes=[np.s_[100:, :]])
    return folder


@pytest.fixture
def job(place: Path, tmp_path: Path) -> RasterChangeJob:
    before, after = (tuple(str(place / s / f"{b}.tif") for b in BANDS) for s in ("before", "after"))
    return RasterChangeJob(before, after, tmp_path / "score.tif", field="what")


def lonlat(row: float, col: float) -> tuple[float, float]:
    lon, lat = DEGREES.transform(LEFT + 10 * col, TOP - 10 * row)
    return float(lon), float(lat)


def points(folder: Path, places: Sequence[tuple[float, float, Any]]) -> Path:
    """Write a table of points at rows and columns of GRID."""
    path = folder / "clicks.csv"
    lines = [",".join(map(str, (*lonlat(row + 0.5, col + 0.5), what))) for row, col, what in places]
    path.write_text("\n".join(["lon,lat,what", *lines]) + "\n", encoding="utf-8")
    return path


def shapes(folder: Path, found: Sequence[tuple[str, Any, Any]]) -> Path:
    """Write GeoJSON of geometries (type, coordinates of rows and columns) with what they are."""

    def placed(at: Any) -> Any:
        return lonlat(*at) if isinstance(at, tuple) else [placed(each) for each in at]

    features = [
        {
            "type": "Feature",
            "properties": {"what": what},
            "geometry": {"type": kind, "coordinates": placed(at)},
        }
        for kind, at, what in found
    ]
    path = folder / "clicks.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def box(top: float, left: float, bottom: float, right: float) -> list[Any]:
    return [[(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]]


def block(place: Path) -> np.ndarray:
    return truth(place / "before" / "B02.tif")


def spread(where: np.ndarray, what: str, many: int) -> list[tuple[float, float, str]]:
    """Return so many pixels of a mask, evenly from all over it."""
    row, col = np.nonzero(where)
    taken = np.linspace(0, len(row) - 1, many).astype(int)
    return [(int(row[i]), int(col[i]), what) for i in taken]


def clicked(place: Path, many: int = 20) -> list[tuple[float, float, str]]:
    """Return places of the block that changed, and of the rest that has data."""
    inside = block(place)
    rest = ~inside
    rest[96:] = False
    return spread(inside, "Yes", many) + spread(rest, "no", many)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("yes", "no"), [True, False]),
        (("YES", " no "), [True, False]),
        (("1", "0"), [True, False]),
        (("true", "false"), [True, False]),
        (("Changed", "un-changed"), [True, False]),
        (("change", "No Change"), [True, False]),
    ],
)
def test_many_words_say_changed_or_not(
    tmp_path: Path, words: tuple[str, str], changed: list[bool]
) -> None:
    path = points(tmp_path, [(5, 5, words[0]), (9, 9, words[1])])
    found = read_clicks(path, "what", GRID)
    assert found.changed.tolist() == changed
    assert found.two_sided
    assert not found.kinds


def test_other_words_are_kinds_of_change(tmp_path: Path) -> None:
    path = points(tmp_path, [(5, 5, "built"), (9, 9, "felled"), (11, 9, "0"), (12, 9, "felled")])
    found = read_clicks(path, "what", GRID)
    assert found.classes == ("built", "felled", "no change")
    assert found.changed.tolist() == [True, True, False, True]
    assert found.kinds
    assert found.two_sided
    assert found.notes == ("'0' of 'what' was taken for no change.",)
    path = points(tmp_path, [(5, 5, "1"), (9, 9, "2"), (11, 9, "0")])
    assert read_clicks(path, "what", GRID).classes == ("1", "2", "no change")


def test_a_field_of_kinds_does_not_say_yes_too(tmp_path: Path) -> None:
    path = points(tmp_path, [(5, 5, "yes"), (9, 9, "felled"), (11, 9, "Changed"), (12, 9, "no")])
    with pytest.raises(InputError, match=r"holds 'Changed', 'yes' beside kinds.*Name their kind"):
        read_clicks(path, "what", GRID)


def test_a_number_for_each_label_is_no_kind(tmp_path: Path) -> None:
    path = points(tmp_path, [(n // 20, n % 20, f"{n + 2}") for n in range(251)])
    with pytest.raises(InputError, match=r"holds 251 different values; there may be 250 kinds"):
        read_clicks(path, "what", GRID)


def test_labels_over_each_other_are_told(tmp_path: Path) -> None:
    whole = box(10, 10, 30, 30)
    path = shapes(tmp_path, [("Polygon", whole, "yes"), ("Polygon", whole, "no")])
    with pytest.raises(InputError, match="lie over each other"):
        read_clicks(path, "what", GRID)


@pytest.mark.parametrize("size", [(100, 70), (80, 99), (100, 120)])
def test_pixels_come_from_all_over_a_polygon(tmp_path: Path, size: tuple[int, int]) -> None:
    """Whatever its width is: on a strip of it, such as its edge, all may be mixed pixels."""
    height, width = size
    path = shapes(
        tmp_path,
        [("Polygon", box(5, 5, 5 + height, 5 + width), "yes"), ("Point", (2, 2), "no")],
    )
    found = read_clicks(path, "what", GRID)
    row, col = found.row[found.changed], found.col[found.changed]
    assert len(row) == 200
    for place, side in ((row - 5, height), (col - 5, width)):
        assert len(np.unique(place)) > 0.6 * side
        assert np.histogram(place, 4, (0, side))[0].min() > 25
    assert abs(np.corrcoef(row, col)[0, 1]) < 0.3


def test_points_lines_and_polygons_are_the_pixels_they_lie_on(tmp_path: Path) -> None:
    path = shapes(
        tmp_path,
        [
            ("Point", (3.2, 4.9), 1),
            ("LineString", [(7.5, 10.5), (7.5, 13.5)], 1),
            ("Polygon", box(20.4, 30.4, 22.6, 33.6), 0),
            ("Polygon", box(40.6, 50.1, 40.9, 50.2), 0),
            ("Polygon", box(60, 60, 110, 110), 0),
        ],
    )
    found = read_clicks(path, "what", GRID)
    rows = np.stack([found.row, found.col], axis=1)

    def of(label: int) -> list[list[int]]:
        return sorted(rows[found.label == label].tolist())

    assert of(0) == [[3, 4]]
    assert of(1) == [[7, col] for col in range(10, 14)]
    # Pixels are of a polygon whose middle they lie in ...
    assert of(2) == [[row, col] for row in (20, 21, 22) for col in (30, 31, 32, 33)][:12]
    # ... or that lies in them.
    assert of(3) == [[40, 50]]
    many = np.array(of(4))
    assert len(many) == MOST_PIXELS
    assert (many.min(axis=0) <= 62).all()
    assert (many.max(axis=0) >= 107).all()
    assert found.told["labels"] == found.told["used"] == 5


def test_what_lies_outside_or_says_two_things_is_told(tmp_path: Path) -> None:
    places = [(5, 5, "yes"), (5.2, 5.1, "no"), (9, 9, "no"), (9, 9, "no"), (500, 5, "no")]
    path = points(tmp_path, [*places, (7, 7, "")])
    found = read_clicks(path, "what", GRID)
    assert found.row.tolist() == [9]
    assert (found.told["outside"], found.told["used"], found.told["covered"]) == (1, 1, 3)
    assert found.told["unusable"] == {"its field is null or empty": 1}
    assert found.notes == ("1 pixels were labelled as different things, and left out.",)


def test_clicks_choose_the_threshold_and_are_judged_left_out(
    job: RasterChangeJob, place: Path, tmp_path: Path
) -> None:
    places = [*clicked(place), (110, 30, "no"), (400, 30, "no")]
    made = change_raster(replace(job, clicks=points(tmp_path, places)))
    told = made.decided.told
    assert made.decided.asked == "clicks"
    assert told is not None
    assert (told["labels"], told["used"], told["outside"]) == (42, 40, 1)
    assert told["without_data"] == 1
    with rasterio.open(job.out) as file:
        score = file.read(1)
        assert json.loads(file.tags()["TERRAKIN"])["threshold"] == {
            "asked": "clicks",
            "score": pytest.approx(made.threshold),
        }
    inside = block(place)
    assert (score[:96] >= made.threshold)[inside[:96]].mean() > 0.8
    assert (score[:96] >= made.threshold)[~inside[:96]].mean() < 0.1
    apart = told["left_out"]
    assert apart["pixels"] == 40
    assert 0 <= apart["missed"] <= 0.3
    assert 0 <= apart["false_alarms"] <= 0.2
    assert "compact regions of whole labels" in apart["split"]


def test_labels_that_say_nothing_are_seen_to_say_nothing(
    job: RasterChangeJob, place: Path, tmp_path: Path
) -> None:
    """The threshold fits them by chance; those left out tell, and the note says so."""
    rest = ~block(place)
    rest[96:] = False
    some = [
        (row, col, ("yes", "no")[i % 2]) for i, (row, col, _) in enumerate(spread(rest, "", 60))
    ]
    made = change_raster(replace(job, clicks=points(tmp_path, some)))
    told = made.decided.told
    assert told is not None
    here, apart = told["at_threshold"], told["left_out"]
    assert here["missed"] + here["false_alarms"] < apart["missed"] + apart["false_alarms"]
    assert apart["missed"] + apart["false_alarms"] > 0.7
    assert any("The score hardly tells your labels" in note for note in made.notes)


def test_pixels_of_one_polygon_are_never_on_both_sides_of_a_split(
    job: RasterChangeJob, tmp_path: Path
) -> None:
    """Two polygons are all there is: without one of them no threshold can be chosen."""
    path = shapes(
        tmp_path, [("Polygon", box(45, 55, 55, 75), 1), ("Polygon", box(5, 5, 20, 40), 0)]
    )
    made = change_raster(replace(job, clicks=path))
    told = made.decided.told
    assert told is not None
    assert told["left_out"]["pixels"] == 0
    assert np.isnan(told["left_out"]["missed"])
    assert any("1 labels of change and 1 of no change" in note for note in made.notes)
    assert np.isfinite(made.threshold)


def test_a_threshold_that_is_asked_for_stays_and_the_clicks_judge_it(
    job: RasterChangeJob, place: Path, tmp_path: Path
) -> None:
    asked = replace(job, clicks=points(tmp_path, clicked(place)), threshold="9")
    made = change_raster(asked)
    told = made.decided.told
    assert told is not None
    assert made.threshold == 9
    assert "left_out" not in told
    with rasterio.open(job.out) as file:
        score = file.read(1)
    rows = [(r, c) for r, c, what in clicked(place) if what == "Yes"]
    missed = np.mean([score[int(r), int(c)] < 9 for r, c in rows])
    assert told["at_threshold"]["missed"] == pytest.approx(missed)


REFUSED = [
    ([(5, 5, "yes"), (6, 6, "Yes")], {}, "is of no change; a threshold needs"),
    ([(5, 5, "no")], {}, "is of change; a threshold needs"),
    ([(5, 5, "felled"), (6, 6, "felled")], {}, "All labels of '.*' are 'felled' in 'what'"),
    ([(5, 5, "a"), (6, 6, "b")], {"threshold": "clicks"}, "is of no change; a threshold needs"),
    ([(500, 5, "yes"), (600, 6, "no")], {}, "None of the 2 labels .* lies on what is compared"),
    ([(110, 5, "yes"), (115, 6, "no")], {}, "lies on a pixel with data at both dates"),
    ([(5, 5, "yes")], {"field": "where"}, "has no field 'where'"),
    ([(5, 5, "yes")], {"field": None}, "Say which field holds the labels with --field"),
    ([(5, 5, "yes")], {"threshold": "often"}, "--threshold often cannot be used"),
    ([(5, 5, "yes")], {"clicks": None}, "--field says what the places of --clicks are"),
    (
        [(5, 5, "yes")],
        {"clicks": None, "field": None, "threshold": "clicks"},
        "--threshold clicks needs --clicks",
    ),
]


@pytest.mark.parametrize(("places", "more", "says"), REFUSED, ids=[each[2] for each in REFUSED])
def test_clicks_that_cannot_serve_are_one_error(
    job: RasterChangeJob, tmp_path: Path, places: Any, more: dict[str, Any], says: str
) -> None:
    asked = replace(job, **{"clicks": points(tmp_path, places), **more})
    with pytest.raises(InputError, match=says):
        change_raster(asked)
    assert not job.out.exists()


def test_clicks_are_an_input_that_is_not_replaced(job: RasterChangeJob, tmp_path: Path) -> None:
    clicks = shapes(tmp_path, [("Point", (3.2, 4.9), 1)]).rename(tmp_path / "clicks.gpkg")
    with pytest.raises(InputError, match="is one of the inputs and would be replaced"):
        change_raster(replace(job, clicks=clicks, objects=clicks))


def report_of(made: RasterChange) -> dict[str, Any]:
    from embeddings.change.raster_report import change_report

    return change_report(made)


def test_the_report_says_what_became_of_the_labels(
    job: RasterChangeJob, place: Path, tmp_path: Path
) -> None:
    from embeddings.change.raster_report import report_lines

    places = [*clicked(place), (110, 30, "no"), (400, 30, "no"), (3, 3, "")]
    report = report_of(change_raster(replace(job, clicks=points(tmp_path, places))))
    text = "\n".join(report_lines(report))
    assert "40 of 43 labels of clicks.csv used (1 outside, 1 without data, 1 not usable" in text
    assert "Of labels left out" in text
    assert report["clicks"]["classes"][0] == {"name": "change", "labels": 20, "pixels": 20}
    json.dumps(report, allow_nan=False)
