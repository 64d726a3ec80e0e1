"""Probes over HTTP: what the commands write, jobs write too, and bad inputs are one clear error."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import requests
import shapely
from click.testing import CliRunner
from pydantic import SecretStr

from embed_server.cli import terrakin as command
from embed_server.client import Client, JobDismissedError, RemoteError
from embed_server.errors import InvalidRequestError
from embed_server.job import JobContext
from embed_server.processes import find_process
from embed_server.settings import LimitSettings, SecuritySettings, Settings
from embeddings.errors import CancelledError
from embeddings.probe.fit_job import ProbeJob
from embeddings.probe.model import ProbeModel
from embeddings.store import Store
from tests.embed_server.conftest import TOKEN, Running
from tests.embeddings.label_data import square_chips, write_labels
from tests.embeddings.probe_data import CLASSES, centre, fill, make_store, some_chips, write_points

SOME = 250
OPTIONS = {"folds": 5, "curve": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels and a store: 'land', its copy 'again', and 'sea', vectors of another product."""
    folder = tmp_path_factory.mktemp("place")
    make_store(folder / "store", noise=1.5)
    shutil.copytree(folder / "store" / "land", folder / "store" / "again")
    vectors = np.ones((16, 4), np.float32)
    square_chips(Store.open(folder / "store").path / "sea", 4, 4, vectors=vectors)
    write_points(folder / "points.gpkg")
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


@pytest.fixture(scope="module")
def fitted(client: Client, place: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report of a fit, and the states of its job."""
    seen: list[dict[str, Any]] = []
    out = place / "job"
    more = {**OPTIONS, "report": place / "job.html"}
    points = place / "points.gpkg"
    return client.fit_probe("land", points, "class", out, seen.append, **more), seen


@pytest.fixture(scope="module")
def by_command(place: Path) -> Path:
    """The model that the command fits to the same labels."""
    _run(
        "fit", "--store", place / "store", "--collection", "land", "--labels",
        place / "points.gpkg", "--field", "class", "--folds", 5, "--no-curve", "--out",
        place / "command",
    )  # fmt: skip
    return place / "command"


def _run(*words: object) -> str:
    done = CliRunner().invoke(command, ["probe", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def _same(one: Path, other: Path) -> bool:
    return hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def test_a_fit_as_a_job_gives_the_model_of_the_command(
    fitted: tuple[dict[str, Any], list[dict[str, Any]]], by_command: Path, place: Path
) -> None:
    report, seen = fitted
    assert report["files"] == [
        str(place / name) for name in ("job.safetensors", "job.json", "job.html")
    ]
    assert report["model"] == report["files"][0]
    assert report["judged"] is True
    assert _same(place / "job.safetensors", by_command.with_suffix(".safetensors"))
    assert ProbeModel.load(place / "job").sha256 == ProbeModel.load(by_command).sha256
    told = json.loads(_run("info", by_command, "--json"))
    for key in ("model", "trained_on", "labels", "validation"):
        assert report["probe"][key] == told[key]
    assert seen[-1]["progress"] == 100
    assert any("Calibration error" in line for line in seen[-1]["log"])
    assert "<!DOCTYPE html>" in (place / "job.html").read_text(encoding="utf-8")


def test_labels_as_geojson_give_the_same_probe(
    client: Client, place: Path, by_command: Path, tmp_path: Path
) -> None:
    _, _, shapes, (names,) = pyogrio.raw.read(place / "points.gpkg", columns=["class"])
    features = [
        {
            "type": "Feature",
            "properties": {"class": name},
            "geometry": json.loads(shapely.to_geojson(shapely.from_wkb(shape))),
        }
        for name, shape in zip(names, shapes, strict=True)
    ]
    labels = {"type": "FeatureCollection", "features": features}
    made = client.fit_probe("land", labels, "class", tmp_path / "model", **OPTIONS)
    assert _same(Path(made["model"]), by_command.with_suffix(".safetensors"))
    assert made["probe"]["labels"]["source"] == "labels.geojson"
    with pytest.raises(RemoteError, match=r"^The GeoJSON has no field 'colour'") as caught:
        client.fit_probe("land", labels, "colour", tmp_path / "other", **OPTIONS)
    assert caught.value.code == "invalid-input"


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_a_map_as_a_job_is_the_file_of_the_command(
    client: Client, place: Path, by_command: Path, tmp_path: Path, suffix: str
) -> None:
    area = {
        "type": "Polygon",
        "coordinates": [[[10.0, 49.9], [10.1, 49.9], [10.1, 50.0], [10.0, 50.0], [10.0, 49.9]]],
    }
    within = tmp_path / "area.geojson"
    feature = {"type": "Feature", "properties": {}, "geometry": area}
    within.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    out, other = tmp_path / f"job{suffix}", tmp_path / f"command{suffix}"
    made = client.predict_probe(by_command, "land", out, within=area, per_class=True)
    told = _run(
        "predict", "--model", by_command, "--store", place / "store", "--collection", "land",
        "--within", within, "--per-class", "--out", other, "--json",
    )  # fmt: skip
    assert 0 < made["rows"] < 576
    assert {**made, "files": [str(other)]} == json.loads(told)
    if suffix == ".parquet":
        # The area's fingerprint is that of its file, so only the rows can be compared.
        import pyarrow.parquet as pq

        assert pq.read_table(out).equals(pq.read_table(other))
    else:
        rows = [pyogrio.raw.read(path, layer="predictions")[2:] for path in (out, other)]
        for a, b in zip(rows[0][1], rows[1][1], strict=True):
            assert a.tolist() == b.tolist()


def test_a_map_of_all_is_the_same_to_the_byte(
    client: Client, place: Path, by_command: Path, tmp_path: Path
) -> None:
    client.predict_probe(by_command, "land", tmp_path / "a.gpkg")
    where = ("--store", place / "store", "--collection", "land")
    _run("predict", "--model", by_command, *where, "--out", tmp_path / "b.gpkg")
    assert _same(tmp_path / "a.gpkg", tmp_path / "b.gpkg")


def test_a_probe_of_two_collections_is_fitted_and_used_over_http_too(
    client: Client, place: Path, tmp_path: Path
) -> None:
    two = {"others": ["again"]}
    points = place / "points.gpkg"
    made = client.fit_probe("land", points, "class", tmp_path / "two", **OPTIONS, **two)
    assert [each["collection"] for each in made["probe"]["trained_on"]] == ["land", "again"]
    client.predict_probe(made["model"], "land", tmp_path / "job.gpkg", **two)
    where = ("--store", place / "store", "--collection", "land", "--with", "again")
    _run(
        "fit", *where, "--labels", points, "--field", "class", "--folds", 5, "--no-curve",
        "--out", tmp_path / "command",
    )  # fmt: skip
    assert _same(tmp_path / "two.safetensors", tmp_path / "command.safetensors")
    _run("predict", *where, "--model", tmp_path / "command", "--out", tmp_path / "command.gpkg")
    assert _same(tmp_path / "job.gpkg", tmp_path / "command.gpkg")
    with pytest.raises(RemoteError, match="side by side"):
        client.predict_probe(made["model"], "land", tmp_path / "one.gpkg")


def test_from_a_map_to_its_accuracy(
    client: Client, by_command: Path, place: Path, tmp_path: Path
) -> None:
    known = {"labels": place / "points.gpkg", "field": "class", "model": by_command}
    queued = client.queue_places("land", tmp_path / "queue.gpkg", many=15, **known)
    assert (queued["labelled"], queued["candidates"]) == (250, 326)
    assert [each["rank"] for each in queued["places"]] == list(range(1, 16))
    with pytest.raises(RemoteError, match="is there already"):
        client.queue_places("land", tmp_path / "queue.gpkg")
    client.predict_probe(by_command, "land", tmp_path / "map.gpkg")
    sample = tmp_path / "sample.gpkg"
    drawn = client.sample_map(tmp_path / "map.gpkg", sample, total=100, minimum=10)
    assert drawn["places"] == sum(each["sampled"] for each in drawn["strata"]) == 100
    fill(sample, lambda name, number: CLASSES[number % 3] if name == "unknown" else name)
    found = client.assess_map(sample, out=tmp_path / "accuracy.html")
    told = _run("accuracy", "--sample", sample, "--json")
    assert found["accuracy"] == json.loads(told)
    assert found["file"] == str(tmp_path / "accuracy.html")
    assert (tmp_path / "accuracy.html").exists()


def _no_crs(folder: Path) -> Path:
    write_labels(
        folder / "plain.gpkg", [centre(1, 1), centre(5, 5)], crs=None, **{"class": ["a", "b"]}
    )
    return folder / "plain.gpkg"


def _one_class(folder: Path) -> Path:
    places = [centre(*chip) for chip in some_chips(20).tolist()]
    return write_labels(folder / "one.gpkg", places, **{"class": ["wood"] * 20})


@pytest.mark.parametrize(
    ("labels", "changes", "code", "says"),
    [
        (_no_crs, {}, "invalid-source", "has no CRS"),
        (_one_class, {}, "invalid-input", "wood"),
        (None, {"field": "absent"}, "invalid-input", "has no field 'absent'"),
        (None, {"collection": "none"}, "collection-not-found", "none"),
        (None, {"out": "no/model"}, "invalid-input", "in a folder that exists"),
        (None, {"report": "model.json"}, "invalid-input", "a file of the model itself"),
        (None, {"labels": "none.gpkg"}, "source-not-found", "none.gpkg"),
        (None, {"labels": {"type": "Point"}}, "invalid-source", "The GeoJSON"),
    ],
)
def test_a_bad_fit_is_one_error_and_writes_nothing(
    client: Client,
    place: Path,
    tmp_path: Path,
    labels: Callable[[Path], Path] | None,
    changes: dict[str, Any],
    code: str,
    says: str,
) -> None:
    made = labels(tmp_path) if labels is not None else place / "points.gpkg"
    before = set(tmp_path.iterdir())
    inputs = {"collection": "land", "labels": str(made), "field": "class", "out": "model"} | changes
    for name in ("labels", "out", "report"):
        if isinstance(inputs.get(name), str):
            inputs[name] = str(tmp_path / inputs[name])
    with pytest.raises(RemoteError) as caught:
        client.run("probe-fit", inputs)
    assert (caught.value.code, caught.value.status < 500) == (code, True)
    assert says in caught.value.detail
    assert set(tmp_path.iterdir()) == before


def test_a_model_of_other_vectors_predicts_nothing(
    client: Client, by_command: Path, tmp_path: Path
) -> None:
    with pytest.raises(RemoteError, match="fitted to other vectors") as caught:
        client.predict_probe(by_command, "sea", tmp_path / "map.gpkg")
    assert caught.value.code == "spec-mismatch"
    with pytest.raises(RemoteError, match="There is no file"):
        client.predict_probe(tmp_path / "none", "land", tmp_path / "map.gpkg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("process", "inputs", "says"),
    [
        ("probe-fit", {"labels": "a.gpkg"}, "inputs.labels: 'a.gpkg' is neither the absolute path"),
        ("probe-fit", {"out": "model"}, "inputs.out: 'model' is not the absolute path"),
        ("probe-fit", {"out": "STORE/land/collection"}, "lies in the store"),
        ("probe-fit", {"report": "STORE/../store/report.html"}, "lies in the store"),
        ("probe-fit", {"labels": 5}, "inputs.labels"),
        ("probe-fit", {"kind": "tree"}, "inputs.kind"),
        ("probe-fit", {"colour": "red"}, "inputs.colour"),
        ("probe-predict", {"model": "m"}, "inputs.model: 'm' is not the absolute path"),
        ("probe-predict", {"within": "a.gpkg"}, "nor GeoJSON"),
        ("probe-queue", {"field": "class"}, "go with inputs.labels"),
        ("probe-queue", {"out": "STORE/queue.gpkg"}, "lies in the store"),
        ("probe-sample", {}, "either inputs.total or inputs.standard_error"),
        ("probe-sample", {"total": 5, "standard_error": 0.1}, "either inputs.total"),
        ("probe-accuracy", {"confidence": 1.5}, "inputs.confidence"),
    ],
)
def test_bad_inputs_are_refused_before_a_job_is_made(
    client: Client, place: Path, process: str, inputs: dict[str, Any], says: str
) -> None:
    some = str(place / "some")
    good = {
        "probe-fit": {"collection": "land", "labels": some, "out": some},
        "probe-predict": {"collection": "land", "model": some, "out": some},
        "probe-queue": {"collection": "land", "out": some},
        "probe-sample": {"map": some, "out": some},
        "probe-accuracy": {"sample": some},
    }[process]
    named = {
        name: value.replace("STORE", str(place / "store")) if isinstance(value, str) else value
        for name, value in inputs.items()
    }
    before = len(client.jobs())
    with pytest.raises(RemoteError) as caught:
        client.execute(process, good | named)
    assert (caught.value.status, caught.value.code) == (400, "invalid-request")
    assert says in caught.value.detail
    assert len(client.jobs()) == before


def test_what_json_cannot_hold_is_told_as_such(client: Client, place: Path) -> None:
    with pytest.raises(InvalidRequestError, match="Give finite numbers"):
        client.fit_probe("land", place / "points.gpkg", "class", "m", strength=float("nan"))


def test_a_map_never_replaces_the_area_it_was_asked_for(
    client: Client, by_command: Path, tmp_path: Path
) -> None:
    area = write_labels(tmp_path / "area.gpkg", [centre(1, 1).buffer(1)], name=["here"])
    before = area.read_bytes()
    with pytest.raises(RemoteError, match="would be replaced"):
        client.predict_probe(by_command, "land", area, within=area)
    assert area.read_bytes() == before


def test_the_inputs_of_a_fit_are_those_of_the_job() -> None:
    inputs = find_process("probe-fit").describe("")
    assert set(inputs.inputs) == set(ProbeJob.__dataclass_fields__) - {"store"} | {"report"}
    for name, entry in inputs.inputs.items():
        if not entry["minOccurs"]:
            assert entry["schema"]["default"] is None, name


@pytest.mark.parametrize("process", ["probe-fit", "probe-predict", "probe-queue"])
def test_a_dismissed_job_writes_nothing(
    process: str, place: Path, by_command: Path, tmp_path: Path
) -> None:
    inputs: dict[str, Any] = {"collection": "land", "out": str(tmp_path / "out.gpkg")}
    if process == "probe-fit":
        inputs |= {"labels": str(place / "points.gpkg"), "field": "class"}
    else:
        inputs |= {"model": str(by_command)}
    told: list[tuple[int, int, str]] = []

    def report(*progress: Any) -> None:
        told.append(progress)

    work = find_process(process).work(place / "store", inputs)
    with pytest.raises(CancelledError):
        work(JobContext(report=report, cancelled=lambda: bool(told) or process != "probe-fit"))
    assert not list(tmp_path.iterdir())


def test_a_fit_is_dismissed_while_it_runs(client: Client, place: Path, tmp_path: Path) -> None:
    def dismiss(status: dict[str, Any]) -> None:
        if status["status"] in ("accepted", "running"):
            client.dismiss(status["jobID"])

    with pytest.raises(JobDismissedError):
        client.fit_probe("land", place / "points.gpkg", "class", tmp_path / "m", dismiss)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_dismisses_the_job_that_is_waited_for(
    client: Client, place: Path, tmp_path: Path
) -> None:
    def interrupt(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    points = place / "points.gpkg"
    with pytest.raises(KeyboardInterrupt):
        client.fit_probe("land", points, "class", tmp_path / "m", interrupt)
    job = client.jobs()[-1]["jobID"]
    with pytest.raises(JobDismissedError):
        client.wait(job)
    assert not list(tmp_path.iterdir())


def test_descriptions_name_every_process(client: Client) -> None:
    listed = [each["id"] for each in client.processes()]
    probes = [f"probe-{name}" for name in ("fit", "predict", "queue", "sample", "accuracy")]
    assert listed[2:] == [*probes, "change-raster", "change-collection"]
    with requests.Session() as session:
        session.trust_env = False
        for name in listed:
            answer = session.get(
                f"{client.url}/processes/{name}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=60,
            )
            assert answer.json()["inputs"], name
