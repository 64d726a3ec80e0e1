"""Jobs of the server as the plugin asks for them and reads them."""

from __future__ import annotations

import json

import pytest
from terrakin.core import endpoints
from terrakin.core.errors import AnswerError
from terrakin.core.wire import JobStatus, ReadyFile, report_of

SERVER = ReadyFile("http://127.0.0.1:8000", "s" * 43, 7, "0.1.0")
STATUS = {
    "jobID": "a-b",
    "status": "running",
    "progress": 42,
    "message": "validating",
    "log": ["2026-01-01T00:00:00Z Started"],
    "problem": None,
}


def test_a_job_is_asked_for():
    request = endpoints.execute(SERVER, "probe-fit", {"field": "class"})
    assert (request.method, request.url.partition("8000")[2]) == (
        "POST",
        "/processes/probe-fit/execution",
    )
    assert json.loads(request.body) == {"inputs": {"field": "class"}}
    assert endpoints.read_answer(201, b'{"jobID": "a"}', request.url) == {"jobID": "a"}


@pytest.mark.parametrize(
    ("make", "method", "path"),
    [
        (endpoints.job, "GET", "/jobs/a%2Fb"),
        (endpoints.results, "GET", "/jobs/a%2Fb/results"),
        (endpoints.dismiss, "DELETE", "/jobs/a%2Fb"),
    ],
)
def test_a_job_is_followed_and_stopped(make, method, path):
    request = make(SERVER, "a/b")
    assert (request.method, request.url) == (method, f"{SERVER.url}{path}")
    assert request.headers["Authorization"] == f"Bearer {SERVER.token}"


def test_a_state_is_read():
    job = JobStatus.from_json(STATUS)
    assert (job.id, job.progress, job.has_ended, job.error) == ("a-b", 42, False, None)
    for state in ("successful", "failed", "dismissed"):
        assert JobStatus.from_json({**STATUS, "status": state}).has_ended
    problem = {"status": 400, "code": "invalid-input", "detail": "No.", "title": "", "type": ""}
    failed = JobStatus.from_json({**STATUS, "status": "failed", "problem": problem})
    assert failed.error == (400, "invalid-input", "No.")


@pytest.mark.parametrize("change", [{"jobID": ""}, {"status": None}, {"progress": "much"}])
def test_what_is_no_state_is_refused(change):
    with pytest.raises(AnswerError, match="job answer"):
        JobStatus.from_json({**STATUS, **change})


def test_a_report_is_read():
    assert report_of({"report": {"value": {"rows": 3}}}) == {"rows": 3}
    with pytest.raises(AnswerError, match="results answer"):
        report_of({"report": None})
