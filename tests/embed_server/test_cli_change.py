"""``terrakin change raster``: the words of the command, its report, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import rasterio
from click.testing import CliRunner
from pyproj import Transformer

from embed_server.cli import terrakin as command
from embed_server.commands.change import _repeated
from embeddings.change import report_files
from embeddings.errors import StorageFullError
from tests.embeddings.change_scenes import BANDS, CRS, LEFT, TOP, write_date

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dates, in 'before' and 'after'."""
    folder = tmp_path_factory.mktemp("place")
    write_date(folder / "before", seed=1)
    write_date(folder / "after", seed=2, changed=True)
    return folder


@pytest.fixture(scope="module")
def run() -> Run:
    def call(*words: object) -> Any:
        return CliRunner().invoke(command, ["change", "raster", *map(str, words)])

    return call


def dates(place: Path) -> list[object]:
    before, after = ([place / side / f"{b}.tif" for b in BANDS] for side in ("before", "after"))
    return ["--before", *before, "--after", *after]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--a x y --n 1", "--a x --a y --n 1"),
        ("--a x --b y z --n", "--a x --b y --b z --n"),
        ("--a=x y --n -1", "--a=x --a y --n -1"),
        ("--a x --a y z", "--a x --a y --a z"),
        ("--n 1 --a x", "--n 1 --a x"),
    ],
)
def test_files_follow_their_option_one_after_another(given: str, read: str) -> None:
    assert _repeated(given.split(), {"--a", "--b"}) == read.split()


def test_a_map_with_everything(run: Run, place: Path, tmp_path: Path) -> None:
    names = ("report.html", "report.json", "class.tif", "changes.gpkg", "score.tif")
    html, data, classes, objects, out = (tmp_path / name for name in names)
    result = run(
        *dates(place), "--out", out, "--report", html, data, "--classes", classes,
        "--objects", objects, "--threshold", 2, "--min-area", 1000,
        "--before-date", "2016-05-01", "--after-date", "2017-05-01",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"^16,800 of 16,800 pixels compared \(100.0%\): 168\.\d ha", result.stdout)
    assert "Change begins at score 2.000 (2):" in result.stdout
    assert re.search(r"[\d,]+ objects of 1,000 m2 or more", result.stdout)
    assert re.search(
        r"s \(of the work: fitting \d+%, reading \d+%, features \d+%, scoring \d+%", result.stdout
    )
    for path in (out, tmp_path / "score_coverage.tif", classes, objects, html, data):
        assert path.exists()
        assert path.name in result.stderr
    _check_report(json.loads(data.read_text()))
    text = html.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "Change from 2016-05-01 to 2017-05-01" in text
    assert text.count("data:image/png;base64,") == 4
    assert "threshold 2.00" in text
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)


def _check_report(report: dict[str, Any]) -> None:
    assert sum(kind["share"] for kind in report["coverage"].values()) == pytest.approx(1)
    assert sum(report["histogram"]["counts"]) == 16_800
    assert report["threshold"] == {"asked": "2", "score": 2.0}
    assert report["changed"]["area_m2"] == pytest.approx(
        report["changed"]["pixels"] * 100, rel=2e-3
    )
    assert report["before"]["datetime"].startswith("2016-05-01")
    assert report["objects"]["count"] >= 1
    assert report["settings"]["min_area_m2"] == 1000
    assert sum(each["share"] for each in report["seconds"].values()) == pytest.approx(1, abs=1e-3)
    assert report["registration"]["tried"] >= 3


def test_json_is_what_the_report_says(run: Run, place: Path, tmp_path: Path) -> None:
    result = run(
        *dates(place), "--out", tmp_path / "s.tif", "--json", "--threshold", 2,
        "--report", tmp_path / "r.json", "--no-register",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "r.json").read_text())
    assert told["registration"]["applied"] is False
    assert told["registration"]["tried"] == 0


def test_a_threshold_that_nothing_reaches_is_told(run: Run, place: Path, tmp_path: Path) -> None:
    """As when no score stands out as far as a rate of false discovery asks."""
    result = run(
        *dates(place), "--out", tmp_path / "s.tif", "--threshold", "fdr=1e-300", "--objects",
        tmp_path / "o.gpkg", "--report", tmp_path / "r.json", tmp_path / "r.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Nothing stands out so far as fdr=1e-300 asks (otsu or a score" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["threshold"]["score"] is None
    assert report["objects"]["count"] == 0


def test_clicks_are_told_in_lines_and_in_the_report(run: Run, place: Path, tmp_path: Path) -> None:
    at = Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True).transform
    lines = ["lon,lat,what"]
    for what, col, row in (("roof", 50, 42), ("road", 66, 42), ("no", 10, 90)):
        for step in range(12):
            lon, lat = at(LEFT + 10 * (col + step) + 5, TOP - 10 * (row + step) - 5)
            lines.append(f"{lon},{lat},{what}")
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("\n".join(lines))
    result = run(
        *dates(place), "--out", tmp_path / "s.tif", "--clicks", clicks, "--field", "what",
        "--report", tmp_path / "r.html", "--objects", tmp_path / "o.gpkg",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"Change begins at score -?\d\.\d+ \(clicks\): [\d,]+ pixels", result.stdout)
    assert "36 of 36 labels of clicks.csv used." in result.stdout
    assert re.search(r"^roof +12 +[\d,]+ +[\d.]+ ha", result.stdout, re.MULTILINE)
    assert "'no' of 'what' was taken for no change." in result.stderr
    text = (tmp_path / "r.html").read_text()
    for part in ("<h2>Labels</h2>", "<h2>Kinds of change</h2>", "Kinds of change over date 2:"):
        assert part in text
    assert text.count('class="swatch"') == 3


def test_a_run_that_ends_at_its_report_goes_on(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed again for want of a report."""

    def full(*_: object) -> NoReturn:
        raise StorageFullError("The disk is full.")

    words = [*dates(place), "--out", tmp_path / "s.tif", "--report", tmp_path / "r.json", "--json"]
    with monkeypatch.context() as broken:
        broken.setattr(report_files, "write_text", full)
        assert isinstance(run(*words).exception, StorageFullError)
    assert json.loads(run(*words).stdout)["windows"] == {"all": 1, "of_an_earlier_run": 1}
    assert (tmp_path / "r.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_folders_stand_for_their_files(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.tif"
    result = run(
        "--before", place / "before", "--after", place / "after", "--out", out, "--threshold", 2,
        "--bands", "B08,B02",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    with rasterio.open(out) as found:
        assert json.loads(found.tags()["TERRAKIN"])["bands"] == ["B08", "B02"]


def test_an_error_is_one_line_and_exit_code_1(
    terrakin: Callable[..., Any], place: Path, tmp_path: Path
) -> None:
    twice = ["--before", place / "before", "--after", place / "before"]
    done = terrakin("change", "raster", *twice, "--out", tmp_path / "s.tif")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("Error: The same content stands on both sides")
    assert not list(tmp_path.iterdir())


def test_a_missing_side_is_wrong_usage(terrakin: Callable[..., Any], tmp_path: Path) -> None:
    done = terrakin("change", "raster", "--before", "a.tif", "--out", tmp_path / "s.tif")
    assert done.returncode == 2
    assert "--after" in done.stderr
