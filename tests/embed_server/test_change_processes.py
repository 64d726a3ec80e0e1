"""Change over HTTP: what the commands write, jobs write too, and bad inputs are one clear error."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from pydantic import SecretStr
from pyproj import Transformer

from embed_server.cli import terrakin as command
from embed_server.client import Client, JobDismissedError, RemoteError
from embed_server.job import JobContext
from embed_server.processes import find_process
from embed_server.processes.change_runs import collection_to_files
from embed_server.settings import LimitSettings, SecuritySettings, Settings
from embeddings.change import report_files
from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.dense_run import DenseChange
from embeddings.change.output_lock import held
from embeddings.change.pairs import LOCATION_ONLY
from embeddings.change.raster_job import RasterChangeJob
from embeddings.errors import CancelledError, StoreLockedError
from embeddings.pipeline import RasterJob, embed_raster
from tests.embed_server.conftest import TOKEN, Running
from tests.embeddings.change_data import make_years
from tests.embeddings.change_scenes import CRS, LEFT, TOP, write_date

CHANGED = {30: 2018, 200: 2018, 201: 2018}
DATES = {"before_date": "2016-05-01", "after_date": "2017-05-01"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dates 'before', 'after' and 'far', and a store with 'years' and 'where'."""
    folder = tmp_path_factory.mktemp("place")
    write_date(folder / "before", seed=1)
    write_date(folder / "after", seed=2, changed=True)
    write_date(folder / "far", seed=3, size=(60, 60), origin=(50_000.0, 0.0))
    make_years(folder / "store", (2016, 2017, 2018), CHANGED)
    where = make_years(folder / "store", (2017, 2018), name="where")
    replace(where, spec=replace(where.spec, source=LOCATION_ONLY)).save()
    return folder


@pytest.fixture(scope="module")
def client(place: Path, running: Running) -> Iterator[Client]:
    """A client of a server over the store."""
    settings = Settings(
        store=place / "store",
        limits=LimitSettings(),
        security=SecuritySettings(token=SecretStr(TOKEN)),
    )
    with running(settings) as (settled, _), Client(settled.server.url, TOKEN) as made:
        yield made


def _run(*words: object) -> dict[str, Any]:
    """Run a command of change; return its report."""
    done = CliRunner().invoke(command, ["change", *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _lasting(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a run took, and what its files are called."""
    settings = report["settings"]
    names = {"before", "after", "out", "classes", "objects", "reports"}
    return {
        name: value
        for name, value in report.items()
        if name not in ("seconds", "elapsed_s", "peak_memory_bytes", "files", "settings")
    } | {"settings": {name: value for name, value in settings.items() if name not in names}}


def _content(path: Path) -> Any:
    """Return a file's bytes; of a GeoPackage, which counts how often it was written, its tables."""
    if path.suffix != ".gpkg":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def test_a_raster_as_a_job_is_that_of_the_command(
    client: Client, place: Path, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []
    job, other = tmp_path / "job", tmp_path / "command"
    job.mkdir()
    other.mkdir()
    done = client.change_raster(
        place / "before",
        sorted((place / "after").iterdir()),
        job / "score.tif",
        report=[job / "r.html", job / "r.json"],
        progress=seen.append,
        classes=job / "class.tif",
        objects=job / "changes.gpkg",
        probability=True,
        threshold="2",
        min_area_m2=1000.0,
        **DATES,
    )
    told = _run(
        "raster", "--before", place / "before", "--after", place / "after", "--out",
        other / "score.tif", "--report", other / "r.json", "--classes", other / "class.tif",
        "--objects", other / "changes.gpkg", "--probability", "--threshold", 2, "--min-area", 1000,
        "--before-date", "2016-05-01", "--after-date", "2017-05-01",
    )  # fmt: skip
    written = {path.name for path in job.iterdir()}
    assert {Path(file) for file in done["files"]} == set(job.iterdir())
    assert written == {path.name for path in other.iterdir()} | {"r.html"}
    for name in written - {"r.html", "r.json"}:
        assert _content(job / name) == _content(other / name), name
    assert _lasting(done["change"]) == _lasting(told)
    assert json.loads((job / "r.json").read_text()) == done["change"]
    assert seen[-1]["progress"] == 100
    assert any("Change begins at score 2.000 (2)" in line for line in seen[-1]["log"])


def _clicks(folder: Path) -> Path:
    """Write points of two kinds of change in the block that changed, and of none elsewhere."""
    at = Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True).transform
    places = {"roof": (50, 42), "road": (66, 42), "no change": (10, 90)}
    lines = ["lon,lat,what"]
    for what, (col, row) in places.items():
        for number in range(12):
            lon, lat = at(LEFT + 10 * (col + number) + 5, TOP - 10 * (row + number) - 5)
            lines.append(f"{lon},{lat},{what}")
    path = folder / "clicks.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_clicks_as_a_job_are_those_of_the_command(
    client: Client, place: Path, tmp_path: Path
) -> None:
    job, other = tmp_path / "job", tmp_path / "command"
    job.mkdir()
    other.mkdir()
    clicks = _clicks(tmp_path)
    done = client.change_raster(
        place / "before",
        place / "after",
        job / "score.tif",
        classes=job / "kinds.tif",
        objects=job / "changes.gpkg",
        clicks=clicks,
        field="what",
        **DATES,
    )
    told = _run(
        "raster", "--before", place / "before", "--after", place / "after", "--out",
        other / "score.tif", "--classes", other / "kinds.tif", "--objects", other / "changes.gpkg",
        "--clicks", clicks, "--field", "what",
        "--before-date", "2016-05-01", "--after-date", "2017-05-01",
    )  # fmt: skip
    for path in other.iterdir():
        assert _content(job / path.name) == _content(path), path.name
    assert _lasting(done["change"]) == _lasting(told)
    assert told["threshold"]["asked"] == "clicks"
    assert [each["kind"] for each in told["kinds"]["found"]] == ["road", "roof", "unknown"]
    with rasterio.open(other / "kinds.tif") as file:
        assert set(json.loads(file.tags()["CLASSES"])) == {"no change", "road", "roof", "unknown"}
    with pytest.raises(RemoteError, match=r"inputs\.clicks: 'clicks\.csv' is not the absolute"):
        client.run(
            "change-raster",
            {
                "before": [str(place / "before")],
                "after": [str(place / "after")],
                "out": str(job / "s.tif"),
                "clicks": "clicks.csv",
            },
        )


def test_what_another_process_makes_is_refused_by_both_commands(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "score.tif"
    dates = ["--before", str(place / "before"), "--after", str(place / "after")]
    where = ["--store", str(place / "store"), "--collection", "years"]
    with held(out):
        for words in (["raster", *dates], ["collection", *where]):
            done = CliRunner().invoke(command, ["change", *words, "--out", str(out)])
            assert done.exit_code == 1
            assert "Another process is making 'score.tif'. Wait for it" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_windows_that_a_stopped_run_left_outlast_a_run_of_a_collection(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "change.gpkg"
    with held(out) as folder:
        (folder / "0_0.npz").touch()
    _run("collection", "--store", place / "store", "--collection", "years", "--out", out)
    assert (folder / "0_0.npz").exists()
    (folder / "0_0.npz").unlink()
    _run("collection", "--store", place / "store", "--collection", "years", "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["change.gpkg"]


@pytest.mark.parametrize("name", ["change.gpkg", "change.parquet"])
def test_a_collection_as_a_job_is_that_of_the_command(
    client: Client, place: Path, tmp_path: Path, name: str
) -> None:
    job, other = tmp_path / "job", tmp_path / "command"
    job.mkdir()
    other.mkdir()
    dates = ("2017-07-01", "2018-07-10")
    done = client.change_collection(
        "years", job / name, dates, job / "r.html", tolerance_days=20.0, objects=job / "o.gpkg"
    )
    told = _run(
        "collection", "--store", place / "store", "--collection", "years", "--out", other / name,
        "--from", dates[0], "--to", dates[1], "--tolerance", 20, "--objects", other / "o.gpkg",
        "--report", other / "r.html",
    )  # fmt: skip
    assert done["change"]["dates"] == ["2017-07-01", "2018-07-01"]
    assert _lasting(done["change"]) == _lasting(told)
    assert done["files"] == [str(job / each) for each in (name, "o.gpkg", "r.html")]
    for each in (name, "o.gpkg"):
        assert _content(job / each) == _content(other / each), each


def test_since_when_over_http(client: Client, place: Path, tmp_path: Path) -> None:
    done = client.change_collection("years", tmp_path / "job.parquet", all_dates=True)
    where = ("--store", place / "store", "--collection", "years")
    told = _run("collection", *where, "--all-dates", "--out", tmp_path / "command.parquet")
    assert done["change"]["since"] == told["since"]
    assert [each["date"] for each in told["since"]] != []


@pytest.fixture(scope="module")
def cells(place: Path) -> None:
    """A collection 'cells' of dense vectors of two dates."""
    for number, day in enumerate(("2016-05-01", "2017-05-01")):
        files = write_date(place / day, seed=number, size=(80, 90), changed=bool(number))
        options = {"chip": "6", "datetime": day, "scene": f"d{number}", "dense": "2"}
        encoder = "rcf:features=16,dim=8"
        embed_raster(RasterJob(place / "store", "cells", tuple(files), encoder, **options))


@pytest.mark.usefixtures("cells")
def test_dense_vectors_over_http(client: Client, place: Path, tmp_path: Path) -> None:
    job, command = tmp_path / "job.tif", tmp_path / "command.tif"
    done = client.change_collection("cells", job, dense="any", report=tmp_path / "r.html")
    told = _run(
        "collection", "--store", place / "store", "--collection", "cells", "--dense", "2",
        "--out", command,
    )  # fmt: skip
    assert done["change"]["changed"] == told["changed"]
    assert done["change"]["dense"]["cells"] == [40, 45]
    assert str(tmp_path / "job_coverage.tif") in done["files"]
    with rasterio.open(job) as one, rasterio.open(command) as two:
        np.testing.assert_array_equal(one.read(), two.read())
    with pytest.raises(RemoteError, match="stand side by side: name each only once"):
        client.change_collection("cells", job, dense="2", **{"with": ["cells"]})


@pytest.mark.usefixtures("cells")
def test_dense_windows_outlast_a_report_that_was_not_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a second run is refused by the name of its --out, not of a file made beside it."""
    asked = CollectionChangeJob(
        place / "store", "cells", tmp_path / "out.tif", dense="2", reports=(tmp_path / "r.json",)
    )
    told: list[str] = []

    def killed(*_: object) -> NoReturn:
        with pytest.raises(StoreLockedError, match=r"Another process is making 'out\.tif'"):
            collection_to_files(asked, lambda _: None, lambda: False)
        told.append("refused")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report_files, "write_reports", killed)
        with pytest.raises(KeyboardInterrupt):
            collection_to_files(asked, lambda _: None, lambda: False)
    made, report, files = collection_to_files(asked, lambda _: None, lambda: False)
    assert told == ["refused"]
    assert isinstance(made, DenseChange)
    assert made.resumed == len(made.dates.tiles)
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert report["seconds"]["all"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"after": ["before"]}, "invalid-input", "The same content stands on both sides"),
        ({"after": ["far"]}, "outside-coverage", "The dates do not overlap"),
        ({"after": ["none"]}, "source-not-found", "none"),
        (
            {"before_date": "2018-05-01", "after_date": "2017-05-01"},
            "invalid-input",
            "in the wrong order",
        ),
        ({"threshold": "often"}, "invalid-input", "--threshold often cannot be used"),
        ({"out": "score.jpg"}, "invalid-input", "must end in .tif"),
        ({"out": "none/score.tif"}, "invalid-input", "none"),
        ({"classes": "score.tif"}, "invalid-input", "Two outputs would be the file"),
    ],
)
def test_a_bad_pair_is_one_error_and_writes_nothing(
    client: Client, place: Path, tmp_path: Path, changes: dict[str, Any], code: str, says: str
) -> None:
    inputs = {"before": ["before"], "after": ["after"], "out": "score.tif"} | changes
    for name in ("before", "after"):
        inputs[name] = [str(place / each) for each in inputs[name]]
    for name in ("out", "classes"):
        if name in inputs:
            inputs[name] = str(tmp_path / inputs[name])
    with pytest.raises(RemoteError) as caught:
        client.run("change-raster", inputs)
    assert (caught.value.code, caught.value.status < 500) == (code, True)
    assert says in caught.value.detail
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("collection", "more", "code", "says"),
    [
        ("years", {"dates": ("2017-07-01",) * 2}, "invalid-input", "Both dates are 2017-07-01"),
        ("years", {"dates": ("2018-07-01", "2016-07-01")}, "invalid-input", "is later than --to"),
        ("years", {"dates": ("1999-07-01", None)}, "invalid-input", "nothing within 30 days"),
        ("where", {}, "invalid-input", "holds location embeddings"),
        ("none", {}, "collection-not-found", "none"),
        ("years", {"dense": "any"}, "invalid-input", "dense vectors give a raster"),
        ("years", {"false_alarms": 2.0}, "invalid-input", "--false-alarms 2 is no share"),
    ],
)
def test_a_bad_collection_is_one_error_and_writes_nothing(
    client: Client, tmp_path: Path, collection: str, more: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        client.change_collection(collection, tmp_path / "out.gpkg", **more)
    assert (caught.value.code, caught.value.status < 500) == (code, True)
    assert says in caught.value.detail
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("process", "inputs", "says"),
    [
        ("raster", {"before": ["a.tif"]}, "inputs.before: 'a.tif' is neither the absolute path"),
        ("raster", {"before": []}, "inputs.before"),
        ("raster", {"after": "/a.tif"}, "inputs.after"),
        ("raster", {"out": "score.tif"}, "inputs.out: 'score.tif' is not the absolute path"),
        ("raster", {"objects": "STORE/o.gpkg"}, "lies in the store"),
        ("raster", {"report": ["STORE/years/r.html"]}, "inputs.report"),
        ("raster", {"bbox": [1.0, 2.0]}, "inputs.bbox"),
        ("raster", {"register": "no"}, "inputs.register"),
        ("raster", {"colour": "red"}, "inputs.colour"),
        ("collection", {"out": "STORE/change.tif"}, "lies in the store"),
        ("collection", {"out": "change.tif"}, "inputs.out: 'change.tif' is not the absolute path"),
        ("collection", {"objects": "o.gpkg"}, "inputs.objects: 'o.gpkg' is not the absolute path"),
        ("collection", {"report": ["r.html"]}, "inputs.report: 'r.html' is not the absolute path"),
        ("collection", {"clicks": "c.gpkg"}, "inputs.clicks: 'c.gpkg' is not the absolute path"),
        ("collection", {"probe": "model"}, "inputs.probe: 'model' is not the absolute path"),
        ("collection", {"metric": "taxi"}, "inputs.metric"),
        ("collection", {"start": "2017-07-01"}, "inputs.start"),
        ("collection", {"from": 2017}, "inputs.from"),
    ],
)
def test_bad_inputs_are_refused_before_a_job_is_made(
    client: Client, place: Path, process: str, inputs: dict[str, Any], says: str
) -> None:
    some = str(place / "some.tif")
    good = {
        "raster": {"before": [some], "after": [some], "out": some},
        "collection": {"collection": "years", "out": some},
    }[process]
    named = json.loads(json.dumps(good | inputs).replace("STORE", str(place / "store")))
    before = len(client.jobs())
    with pytest.raises(RemoteError) as caught:
        client.execute(f"change-{process}", named)
    assert (caught.value.status, caught.value.code) == (400, "invalid-request")
    assert says in caught.value.detail
    assert len(client.jobs()) == before


def _options(name: str) -> set[str]:
    """Return the options of a command of change as inputs are called."""
    group = command.commands["change"]
    options = group.commands[name].params  # type: ignore[attr-defined]
    found = {option.opts[0].lstrip("-").replace("-", "_") for option in options}
    return found - {"json", "store"}


@pytest.mark.parametrize(
    ("name", "job", "unlike"),
    [
        ("raster", RasterChangeJob, {"reports": "report"}),
        (
            "collection",
            CollectionChangeJob,
            {
                "start": "from",
                "end": "to",
                "other": "with_collection",
                "scales": "with",
                "reports": "report",
            },
        ),
    ],
)
def test_the_inputs_are_the_options_of_the_command(
    name: str, job: type, unlike: dict[str, str]
) -> None:
    inputs = find_process(f"change-{name}").describe("").inputs
    units = {"min_area_m2": "min_area", "tolerance_days": "tolerance"}
    assert {units.get(each, each) for each in inputs} == _options(name)
    fields = set(job.__dataclass_fields__) - {"store", "seed"}  # type: ignore[attr-defined]
    assert {unlike.get(each, each) for each in fields} == set(inputs)
    for each, entry in inputs.items():
        if not entry["minOccurs"]:
            assert entry["schema"]["default"] is None, each


def test_a_dismissed_raster_job_is_gone_on_with(place: Path, tmp_path: Path) -> None:
    inputs = {
        "before": [str(place / "before")],
        "after": [str(place / "after")],
        "out": str(tmp_path / "score.tif"),
    }
    told: list[Any] = []
    process = find_process("change-raster")

    def report(*progress: Any) -> None:
        told.append(progress)

    with pytest.raises(CancelledError):
        process.work(place / "store", inputs)(JobContext(report, lambda: len(told) > 1))
    assert not (tmp_path / "score.tif").exists()
    done = process.work(place / "store", inputs)(JobContext(report, lambda: False))
    assert done["report"]["value"]["change"]["coverage"]["compared"]["pixels"] == 16_800
    assert not list(tmp_path.glob(".*"))


def test_a_collection_job_is_dismissed_while_it_runs(client: Client, tmp_path: Path) -> None:
    def dismiss(status: dict[str, Any]) -> None:
        if status["status"] in ("accepted", "running"):
            client.dismiss(status["jobID"])

    with pytest.raises(JobDismissedError):
        client.change_collection("years", tmp_path / "out.gpkg", progress=dismiss)
    assert not list(tmp_path.iterdir())


def test_paths_may_be_relative_and_dates_left_out(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = client.change_collection("years", "out.parquet", report="r.json")
    assert done["files"] == [str(tmp_path / "out.parquet"), str(tmp_path / "r.json")]
    assert done["change"]["dates"] == ["2016-07-01", "2018-07-01"]
