"""Jobs over HTTP: real embeddings of a seeded scene."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi import FastAPI

import embeddings.pipeline
from embed_server.client import Client, JobDismissedError, RemoteError
from embed_server.job import JobContext
from embed_server.processes import find_process
from embeddings.errors import CancelledError
from embeddings.index.files import building_folder
from embeddings.index.open import open_index
from embeddings.pipeline import RasterJob
from embeddings.report import EmbedReport
from embeddings.store import Collection, Store

Call = Callable[..., requests.Response]
EXECUTION = "/processes/embed-raster/execution"
WAIT_S = 60


@pytest.fixture
def held(app: FastAPI) -> Any:
    """A job that keeps the worker busy until the test is over."""
    started, release = threading.Event(), threading.Event()

    def work(context: JobContext) -> dict[str, Any]:
        started.set()
        while not release.wait(0.01):
            if context.cancelled():
                raise CancelledError("stopped")
        return {}

    job = app.state.jobs.submit("embed-raster", work)
    assert started.wait(WAIT_S)
    yield job.jobID
    release.set()


def test_a_process_is_listed_and_described(call: Call) -> None:
    listed, *_ = call("GET", "/processes").json()["processes"]
    described = call("GET", "/processes/embed-raster").json()
    assert listed.items() <= described.items()
    assert described["id"] == "embed-raster"
    required = {name for name, entry in described["inputs"].items() if entry["minOccurs"]}
    assert required == {"files", "collection"}
    assert described["outputs"]["report"]["schema"]["properties"]["planned"]["type"] == "integer"


def test_the_inputs_are_those_of_the_job(call: Call) -> None:
    inputs = call("GET", "/processes/embed-raster").json()["inputs"]
    assert set(inputs) == set(RasterJob.__dataclass_fields__) - {"store"}


def test_what_is_not_given_is_left_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the collection's own values, or the job's defaults, hold: none stands twice."""
    jobs: list[RasterJob] = []
    report = EmbedReport("a", ())

    def embed(job: RasterJob, **_: object) -> EmbedReport:
        jobs.append(job)
        return report

    monkeypatch.setattr(embeddings.pipeline, "embed_raster", embed)
    context = JobContext(report=lambda *_: None, cancelled=lambda: False)
    files = [str(Path("/a.tif").absolute())]
    process = find_process("embed-raster")
    for more in ({}, {"chip": None}, {"chip": "160m", "dtype": "int8", "replace": True}):
        process.work(Path("store"), {"files": files, "collection": "a", **more})(context)
        given = {name: value for name, value in more.items() if value is not None}
        assert jobs.pop() == RasterJob(Path("store"), "a", tuple(files), **given)


def test_every_default_of_the_inputs_is_the_jobs_or_open(call: Call) -> None:
    inputs = call("GET", "/processes/embed-raster").json()["inputs"]
    defaults = {name: field.default for name, field in RasterJob.__dataclass_fields__.items()}
    for name, entry in inputs.items():
        if not entry["minOccurs"]:
            assert entry["schema"]["default"] in (None, defaults[name]), name


@pytest.fixture
def copy(store: Path) -> Iterator[Collection]:
    """A copy of 'valley' that a test may index."""
    shutil.copytree(store / "valley", store / "copy")
    yield Store.open(store).collection("copy")
    shutil.rmtree(store / "copy")


def test_an_index_is_built_as_a_job_and_then_searched(
    client: Client, call: Call, copy: Collection, inside: tuple[float, float]
) -> None:
    before = client.search("copy", at=inside)
    job = client.execute("build-index", {"collection": "copy", "recall": 0.9})
    seen: list[dict[str, Any]] = []
    report = client.wait(job["jobID"], progress=seen.append)["report"]
    schema = call("GET", "/processes/build-index").json()["outputs"]["report"]["schema"]
    assert set(report) == set(schema["properties"])
    rows = copy.count
    told = (report["collection"], report["kind"], report["rows"], report["recall"])
    assert told == ("copy", "scan", rows, 1.0)
    assert report["bytes"] > 2 * rows * copy.spec.dim
    assert seen[-1]["progress"] == 100
    assert any("compares all rows" in line for line in seen[-1]["log"])
    assert open_index(copy) is not None
    ids = [[feature["id"] for feature in found["features"]] for found in (
        before, client.search("copy", at=inside)
    )]  # fmt: skip
    assert ids[0] == ids[1]


def test_an_index_of_no_collection_is_a_failed_job(client: Client) -> None:
    for name, code in (("none", "collection-not-found"), ("world", "store-not-writable")):
        job = client.execute("build-index", {"collection": name})
        with pytest.raises(RemoteError) as caught:
            client.wait(job["jobID"])
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "inputs.collection: field required"),
        ({"collection": "valley", "recall": 0.0}, "inputs.recall"),
        ({"collection": "valley", "recall": 1.5}, "inputs.recall"),
        ({"collection": "valley", "k": 10}, "inputs.k"),
    ],
)
def test_bad_inputs_of_an_index_are_refused(call: Call, inputs: dict[str, Any], says: str) -> None:
    problem = call("POST", "/processes/build-index/execution", json={"inputs": inputs}).json()
    assert (problem["status"], problem["code"]) == (400, "invalid-request")
    assert says in problem["detail"]


def test_a_dismissed_index_goes_on_where_it_stopped(
    copy: Collection,
) -> None:
    work = find_process("build-index").work(copy.path.parent, {"collection": "copy"})

    def run(stop_at: str | None) -> dict[str, Any]:
        stop = threading.Event()

        def report(*told: Any) -> None:
            if stop_at is not None and stop_at in told[-1]:
                stop.set()

        return work(JobContext(report=report, cancelled=stop.is_set))

    with pytest.raises(CancelledError):
        run("rows written")
    assert building_folder(copy).is_dir()
    assert run(None)["report"]["value"]["rows"] == copy.count
    assert not building_folder(copy).exists()
    assert open_index(copy) is not None


def test_an_unknown_process_is_named(call: Call) -> None:
    for method, path in (("GET", "/processes/paint"), ("POST", "/processes/paint/execution")):
        problem = call(
            method, path, **({"json": {"inputs": {}}} if method == "POST" else {})
        ).json()
        assert (problem["status"], problem["code"]) == (404, "process-not-found")
        assert "embed-raster" in problem["detail"]


def test_an_embedding_job_makes_a_collection_that_can_be_searched(
    client: Client, call: Call, scene: list[str]
) -> None:
    inputs = {"files": scene, "collection": "made", "chip": "160m", "datetime": "2018-10-13"}
    answer = call("POST", EXECUTION, json={"inputs": inputs})
    job = answer.json()
    assert answer.status_code == 201
    [here] = [link["href"] for link in job["links"] if link["rel"] == "self"]
    assert answer.headers["location"] == here == f"{client.url}/jobs/{job['jobID']}"
    assert job["status"] in ("accepted", "running")

    seen: list[dict[str, Any]] = []
    report = client.wait(job["jobID"], progress=seen.append)["report"]
    outputs = call("GET", f"/jobs/{job['jobID']}/results").json()
    assert outputs == {"report": {"value": report}}
    assert set(outputs) == set(call("GET", "/processes/embed-raster").json()["outputs"])
    assert set(report) == {
        "collection", "planned", "embedded", "absent", "missing", "resumed", "dense", "notes",
        "failures", "scenes",
    }  # fmt: skip
    assert [entry["scene"] for entry in report["scenes"]] == [Path(scene[0]).parent.name]
    assert report["planned"] == 256 == report["embedded"] + report["absent"]
    assert seen[-1]["status"] == "successful"
    assert seen[-1]["progress"] == 100
    assert seen[-1]["log"][-1].endswith("Done")

    place = client.items("made", limit=1)["features"][0]["properties"]
    assert client.search("made", at=(place["lon"], place["lat"]))["numberReturned"] == 10
    again = client.wait(client.execute("embed-raster", inputs)["jobID"])["report"]
    assert again["resumed"] == again["embedded"] == report["embedded"]
    assert {"made", "valley"} <= {entry["id"] for entry in client.collections()}


def test_a_failed_job_carries_its_problem(client: Client, call: Call, tmp_path: Any) -> None:
    missing = str(tmp_path / "B02.tif")
    job = client.execute("embed-raster", {"files": [missing], "collection": "none"})
    with pytest.raises(RemoteError) as caught:
        client.wait(job["jobID"])
    assert (caught.value.code, caught.value.status) == ("source-not-found", 400)
    status = client.job(job["jobID"])
    assert status["status"] == "failed"
    assert status["problem"]["detail"] == caught.value.detail == status["message"]
    assert missing in status["message"]
    answer = call("GET", f"/jobs/{job['jobID']}/results")
    assert (answer.status_code, answer.json()["code"]) == (404, "result-not-ready")


def test_the_log_of_a_job_names_the_scenes_that_failed(
    client: Client, scene: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no raster")
    inputs = {"files": [scene[0], str(bad)], "collection": "partly", "each": True, "chip": "160m"}
    job = client.execute("embed-raster", inputs)
    report = client.wait(job["jobID"])["report"]
    status = client.job(job["jobID"])
    assert status["status"] == "successful"
    (failure,) = report["failures"]
    assert "bad.tif" in failure
    assert any(line.endswith(f"Not done: {failure}") for line in status["log"])


def test_an_embedding_is_dismissed_while_it_runs(client: Client, scene: list[str]) -> None:
    # Every pixel a chip: far more work than the time until the dismissal.
    inputs = {"files": scene, "collection": "dense", "chip": "8", "stride": "1"}
    job = client.execute("embed-raster", inputs)

    def dismiss_once_running(status: dict[str, Any]) -> None:
        if status["status"] == "running":
            client.dismiss(status["jobID"])

    with pytest.raises(JobDismissedError):
        client.wait(job["jobID"], progress=dismiss_once_running)
    status = client.job(job["jobID"])
    assert (status["status"], status["problem"]) == ("dismissed", None)
    assert client.dismiss(job["jobID"])["status"] == "dismissed"
    with pytest.raises(RemoteError, match="no job"):
        client.job(job["jobID"])


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "inputs.files: field required"),
        ({"files": [], "collection": "a"}, "inputs.files"),
        ({"files": "/a.tif", "collection": "a"}, "inputs.files"),
        ({"files": [5], "collection": "a"}, "inputs.files.0"),
        ({"files": ["a.tif"], "collection": "a"}, "absolute"),
        ({"files": ["/a.tif"], "collection": "a", "weights": "w.pth"}, "inputs.weights: 'w.pth'"),
        ({"files": ["/a.tif"], "collection": "a", "bbox": [1.0, 2.0]}, "inputs.bbox"),
        ({"files": ["/a.tif"], "collection": "a", "workers": 0}, "inputs.workers"),
        ({"files": ["/a.tif"], "collection": "a", "chips": "32"}, "inputs.chips"),
        ({"files": ["/a.tif"], "collection": "a", "dtype": "float64"}, "float64"),
        ({"files": ["/a.tif"], "collection": "a", "replace": "yes"}, "inputs.replace"),
        ({"files": ["/a.tif"], "collection": "a", "nodata": "some"}, "inputs.nodata"),
    ],
)
def test_bad_inputs_are_refused_before_a_job_is_made(
    call: Call, inputs: dict[str, Any], says: str
) -> None:
    before = len(call("GET", "/jobs").json()["jobs"])
    problem = call("POST", EXECUTION, json={"inputs": inputs}).json()
    assert (problem["status"], problem["code"]) == (400, "invalid-request")
    assert says in problem["detail"]
    assert len(call("GET", "/jobs").json()["jobs"]) == before


def test_a_bad_execution_is_refused(call: Call) -> None:
    for body in ({}, {"inputs": []}, {"inputs": {}, "mode": "sync"}):
        problem = call("POST", EXECUTION, json=body).json()
        assert (problem["status"], problem["code"]) == (400, "invalid-request")


def test_an_unknown_job_is_named(call: Call) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/results")):
        problem = call(method, f"/jobs/no-such-job{path}").json()
        assert (problem["status"], problem["code"]) == (404, "job-not-found")
        assert "no-such-job" in problem["detail"]


def test_a_running_job_has_no_result_yet_and_does_not_block_a_search(
    call: Call, held: str, inside: tuple[float, float]
) -> None:
    answer = call("GET", f"/jobs/{held}/results")
    assert (answer.status_code, answer.json()["code"]) == (404, "result-not-ready")
    found = call("POST", "/collections/valley/search", json={"at": list(inside)})
    assert found.status_code == 200
    assert call("GET", f"/jobs/{held}").json()["status"] == "running"


def test_a_full_queue_is_429(call: Call, held: str) -> None:
    execution = {"inputs": {"files": ["/no/such/file.tif"], "collection": "a"}}
    waiting = [call("POST", EXECUTION, json=execution).json()["jobID"] for _ in range(2)]
    answer = call("POST", EXECUTION, json=execution)
    assert (answer.status_code, answer.json()["code"]) == (429, "too-many-jobs")
    listed = {job["jobID"]: job["status"] for job in call("GET", "/jobs").json()["jobs"]}
    assert listed[held] == "running"
    for job in waiting:
        assert listed[job] == "accepted"
        assert call("DELETE", f"/jobs/{job}").json()["status"] == "dismissed"
