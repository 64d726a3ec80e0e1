"""``terrakin probe``: from labels to a map, to places to label, to an accuracy for the report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from click.testing import CliRunner

from embed_server.cli import main
from embed_server.cli import terrakin as command
from embed_server.commands.probe import _prediction_lines, predict_command
from embeddings.errors import CancelledError, InputError, TerrakinError
from embeddings.probe.predict import PredictReport
from embeddings.probe.report import columns
from embeddings.store import Store
from embeddings.store.reader import Reader
from tests.embeddings.probe_data import CLASSES, fill, make_store, write_points

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run() -> Run:
    def call(*words: object) -> Any:
        return CliRunner().invoke(command, [str(word) for word in words])

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of the collection 'land', and labels of it."""
    folder = tmp_path_factory.mktemp("place")
    make_store(folder / "store", noise=1.5)
    write_points(folder / "points.gpkg")
    return folder


@pytest.fixture(scope="module")
def fitted(run: Run, place: Path) -> Any:
    """What a fit prints."""
    result = run(
        "probe", "fit", *_store(place), "--labels", place / "points.gpkg", "--field", "class",
        "--folds", 5, "--out", place / "model", "--report", place / "report.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def model(fitted: Any, place: Path) -> Path:
    """The model that a fit wrote."""
    assert str(place / "model.safetensors") in fitted.stderr
    return place / "model"


def _store(place: Path) -> tuple[object, ...]:
    return "--store", place / "store", "--collection", "land"


def test_a_fit_says_what_it_is_worth(fitted: Any, place: Path) -> None:
    told = fitted.stdout
    for text in (
        "250 labels read, 250 used",
        "left-out regions (95 %)",
        "random split",
        "coordinates only",
        "commonest answer",
        "kappa",
        "Calibration error",
        "Unknown at 10% errors",
        *CLASSES,
    ):
        assert text in told
    assert "Fitted to 250 vectors" in fitted.stderr
    assert {"model.safetensors", "model.json", "report.html"} <= {p.name for p in place.iterdir()}


def test_json_is_the_report(run: Run, fitted: Any, place: Path, tmp_path: Path) -> None:
    result = run("probe", "info", place / "model", "--json", "--report", tmp_path / "again.html")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["format"] == "terrakin-probe-report"
    assert report["labels"]["chips_used"] == 250
    assert report["validation"]["spatial"]["confusion"]
    assert (tmp_path / "again.html").read_bytes() == (place / "report.html").read_bytes()
    assert run("probe", "info", place / "model.json").stdout == fitted.stdout


def test_predict_prints_what_it_wrote(run: Run, model: Path, place: Path, tmp_path: Path) -> None:
    words = ("probe", "predict", "--model", model, *_store(place))
    result = run(*words, "--out", tmp_path / "map.parquet", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["rows"] == 576
    assert sum(report["classes"].values()) + report["unknown"] == 576
    table = [
        line.split() for line in run(*words, "--out", tmp_path / "map.gpkg").stdout.splitlines()
    ]
    share = f"{report['unknown'] / 576:.1%}"
    assert ["unknown", str(report["unknown"]), share] in table
    assert pyogrio.read_info(tmp_path / "map.gpkg", layer="predictions")["features"] == 576


def test_the_whole_way_to_an_accuracy(run: Run, model: Path, place: Path, tmp_path: Path) -> None:
    area, sample = tmp_path / "map.gpkg", tmp_path / "sample.gpkg"
    words = ("probe", "predict", "--model", model, *_store(place), "--out", area)
    assert run(*words).exit_code == 0
    drawn = run("probe", "sample", "--map", area, "-n", 100, "--minimum", 10, "--out", sample)
    assert drawn.exit_code == 0, drawn.output
    assert "100 places drawn" in drawn.stdout
    empty = run("probe", "accuracy", "--sample", sample)
    assert "No place of" in str(empty.exception)
    fill(sample, lambda name, number: CLASSES[number % 3] if name == "unknown" else name)
    said = run("probe", "accuracy", "--sample", sample, "--out", tmp_path / "accuracy.html")
    assert said.exit_code == 0, said.output
    assert "100 of 100 sampled places" in said.stdout
    assert "estimated ha" in said.stdout
    assert "1.000 ± 0.000" in said.stdout
    assert "<!DOCTYPE html>" in (tmp_path / "accuracy.html").read_text(encoding="utf-8")
    told = run("probe", "accuracy", "--sample", sample, "--json", "--out", tmp_path / "a.json")
    assert json.loads(told.stdout) == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert json.loads(told.stdout)["overall_accuracy"]["value"] < 1


def test_queue_leaves_out_what_is_labelled(
    run: Run, model: Path, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "queue.gpkg"
    labels = ("--labels", place / "points.gpkg", "--field", "class")
    result = run(
        "probe", "queue", "--model", model, *_store(place), *labels, "-n", 15,
        "--out", out, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["labelled"], told["candidates"]) == (250, 326)
    assert [each["rank"] for each in told["places"]] == list(range(1, 16))
    assert pyogrio.read_info(out, layer="queue")["features"] == 15
    again = run("probe", "queue", *_store(place), "-n", 12, "--out", out)
    assert "is there already" in str(again.exception)
    shown = run("probe", "queue", *_store(place), "-n", 12, "--out", tmp_path / "other.gpkg")
    assert "12 of 576 chips: places that stand for others" in shown.stdout
    assert "... and 2 more" in shown.stdout


def test_a_raster_of_labels_and_a_map_of_it(run: Run, store: Path, tmp_path: Path) -> None:
    """Labels as a raster, on a collection of a scene: the map comes back as a raster."""
    collection = Store.open(store).collection("valley")
    west, south, east, north = collection.bounds.west_south_east_north()  # type: ignore[union-attr]
    values = rasterio.transform.from_bounds(west, south, east, north, 64, 64)
    with rasterio.open(
        tmp_path / "classes.tif",
        "w",
        driver="GTiff",
        width=64,
        height=64,
        count=1,
        dtype="uint8",
        crs="EPSG:4326",
        transform=values,
    ) as file:
        halves = np.ones((64, 64), np.uint8)
        halves[:, ::32] = 2
        halves[20:40, 10:50] = 2
        file.write(halves, 1)
    where = ("--store", store, "--collection", "valley")
    made = run(
        "probe", "fit", *where, "--labels", tmp_path / "classes.tif", "--out", tmp_path / "m",
        "--unknown-error", "off", "--no-curve", "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)["model"]
    assert (said["unknown_by_probability"], said["unknown_by_applicability"]) == (False, True)
    words = ("probe", "predict", "--model", tmp_path / "m", *where)
    done = run(*words, "--out", tmp_path / "map.tif", "--measures", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["rows"] == len(list(Reader(collection).items(limit=10_000)["id"]))
    sample = run("probe", "sample", "--map", tmp_path / "map.tif", "-n", 40, "--minimum", 5,
                 "--out", tmp_path / "s.gpkg")  # fmt: skip
    assert sample.exit_code == 0, sample.output


BAD = [
    (("--labels", "none.gpkg"), "none.gpkg"),
    (("--field", "absent"), "absent"),
    (("--task", "number"), "class"),
    (("--min-share", "2"), "least share of 2"),
    (("--tolerance", "-1"), "tolerance of -1"),
    (("--unknown-error", "3"), "error rate of unknown is 3"),
    (("--out", "no/model"), "in a folder that exists"),
    (("--report", "report.pdf"), "no suffix of a report"),
    (("--report", "model.json"), "a file of the model itself"),
    (("--collection", "sea"), "sea"),
    (("--layer", "roads"), "roads"),
    (("--seed", "-1"), "The seed is -1"),
    (("--strength", "1e300"), "The strength is 1e+300"),
    (("--labels-nodata", "0"), "is no raster"),
    # Options that would change nothing are not passed over in silence.
    (("--min-share", "0.8"), "rule 'centre', which uses none"),
    (("--tolerance", "5"), "no field of dates"),
    (("--prevalence", "0.2"), "A prevalence was asked for"),
    (("--background", "50"), "A number of background places was asked for"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(each[0]) for each in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    message: str,
) -> None:
    options = {
        "--store": str(place / "store"),
        "--collection": "land",
        "--labels": str(place / "points.gpkg"),
        "--field": "class",
        "--out": "model",
    } | {words[0]: words[1]}
    monkeypatch.chdir(tmp_path)
    given = ["terrakin", "probe", "fit", *(word for pair in options.items() for word in pair)]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_no_file_that_is_read_is_replaced(
    run: Run, model: Path, place: Path, tmp_path: Path
) -> None:
    labels, area = tmp_path / "labels.json", tmp_path / "area.gpkg"
    labels.write_text('{"type": "FeatureCollection", "features": []}')
    shutil.copy(place / "points.gpkg", area)
    (tmp_path / "link.json").symlink_to(labels)
    before = {path: path.read_bytes() for path in (labels, area)}
    fit = ("probe", "fit", *_store(place), "--labels", labels, "--out", tmp_path / "m")
    for report in ("labels.json", "link.json"):
        refused = run(*fit, "--report", tmp_path / report)
        assert "is read for this and would be replaced" in str(refused.exception)
    words = ("probe", "predict", "--model", model, *_store(place), "--within", _square(tmp_path))
    refused = run(*words, "--out", tmp_path / "square.gpkg")
    assert "is read for this and would be replaced" in str(refused.exception)
    assert {path: path.read_bytes() for path in before} == before
    assert "square" in [name for name, _ in pyogrio.list_layers(tmp_path / "square.gpkg")]


def _square(folder: Path) -> Path:
    """Write a polygon around everything."""
    around = shapely.to_wkb(np.array([shapely.box(-179, -80, 179, 80)]))
    pyogrio.raw.write(
        folder / "square.gpkg", around, [], [], geometry_type="Polygon", crs="EPSG:4326"
    )
    return folder / "square.gpkg"


def test_no_file_of_the_store_is_replaced(run: Run, model: Path, place: Path) -> None:
    land = place / "store" / "land"
    before = {path: path.read_bytes() for path in land.rglob("*") if path.is_file()}
    part = next(path for path in before if path.suffix == ".parquet")
    fit = ("probe", "fit", *_store(place), "--labels", place / "points.gpkg", "--field", "class")
    for words in (
        (*fit, "--out", land / "collection"),
        (*fit, "--out", place / "other", "--report", land / "collection.json"),
        ("probe", "predict", "--model", model, *_store(place), "--out", part),
        ("probe", "queue", *_store(place), "--out", land / "queue.gpkg"),
    ):
        refused = run(*words)
        assert isinstance(refused.exception, InputError), refused.output
        assert str(refused.exception).startswith(f"'{land}")
    assert {path: path.read_bytes() for path in land.rglob("*") if path.is_file()} == before


def test_seeds_that_draw_nothing_are_refused(run: Run, place: Path, tmp_path: Path) -> None:
    queue = ("probe", "queue", *_store(place), "--out", tmp_path / "q.gpkg", "--seed", 2**32)
    sample = ("probe", "sample", "--map", "m", "-n", 9, "--out", tmp_path / "s.gpkg", "--seed", -1)
    for words in (queue, sample):
        assert "give a whole number from 0 to 4294967295" in str(run(*words).exception)


def test_a_class_called_unknown_keeps_its_own_count() -> None:
    done = PredictReport("land", (), 10, {"sea": 3, "unknown": 2}, 5, 0)
    rows = [line.split("  ") for line in _prediction_lines(done, "classes")]
    counted = {cells[0]: cells[-2].strip() for cells in rows if len(cells) > 2}
    assert counted == {"class": "chips", "sea": "3", "unknown": "2", "not recognised": "5"}


def test_tables_hold_names_of_any_kind() -> None:
    lines = columns([["class", "chips"], ["new\nline\tand \x1b[31m", "1"], ["x" * 3000, "22"]])
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 60 for line in lines)


def test_a_model_of_other_vectors_predicts_nothing(
    run: Run, model: Path, store: Path, tmp_path: Path
) -> None:
    where = ("--store", store, "--collection", "valley", "--out", tmp_path / "map.gpkg")
    result = run("probe", "predict", "--model", model, *where)
    assert isinstance(result.exception, TerrakinError)
    assert "fitted to other vectors" in str(result.exception)
    missing = run("probe", "predict", "--model", tmp_path / "none", *where)
    assert "There is no file" in str(missing.exception)
    assert not list(tmp_path.iterdir())


def test_no_accuracy_is_known_of_labels_in_one_block(run: Run, place: Path, tmp_path: Path) -> None:
    words = ("--labels", place / "points.gpkg", "--field", "class", "--block", "9000km")
    result = run("probe", "fit", *_store(place), *words, "--out", tmp_path / "model")
    assert result.exit_code == 3
    assert "No accuracy is known" in result.stdout
    assert (tmp_path / "model.safetensors").exists()


def test_wrong_usage_is_told_at_once(run: Run, place: Path) -> None:
    both = ("-n", 10, "--standard-error", 0.1)
    for words in ((), both):
        result = run("probe", "sample", "--map", "map.tif", *words, "--out", "s.gpkg")
        assert result.exit_code == 2
        assert "either -n or --standard-error" in result.output
    result = run("probe", "queue", *_store(place), "--field", "class", "--out", "q.gpkg")
    assert result.exit_code == 2
    result = run("probe", "fit", *_store(place), "--unknown-error", "never")
    assert result.exit_code == 2
    assert "Write 0.1, or off" in result.output
    result = run("probe", "fit", *_store(place), "--unknown-error", "nan")
    assert result.exit_code == 2
    assert "'nan' is not a share" in result.output


def test_a_stopped_prediction_leaves_nothing(
    model: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import embed_server.commands.probe as module

    stopped = module.interruptible

    class _Stopped:
        def __enter__(self) -> Any:
            self.inner = stopped()
            event = self.inner.__enter__()
            event.set()
            return event

        def __exit__(self, *reason: Any) -> Any:
            return self.inner.__exit__(*reason)

    monkeypatch.setattr(module, "interruptible", _Stopped)
    words = ("--model", model, *_store(place), "--out", tmp_path / "map.gpkg")
    result = CliRunner().invoke(predict_command, [str(word) for word in words])
    assert isinstance(result.exception, CancelledError)
    assert not list(tmp_path.iterdir())


def test_other_commands_start_without_the_probes_libraries() -> None:
    code = "import sys, embed_server.cli; print({'sklearn', 'scipy', 'pyogrio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
