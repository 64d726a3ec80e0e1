"""Build the requests to a server and read the outcome of sending them. No network, no Qt.

``core.transport`` sends what is built here. The contract is docs/api.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .errors import AnswerError, ApiVersionError, ProblemError, ServerError, UnauthorizedError
from .wire import API_VERSION, ReadyFile, SearchRequest

QUICK_TIMEOUT_S = 15.0
JOB_TIMEOUT_S = 60.0
"""The server's one process may be busy with the job itself."""
SEARCH_TIMEOUT_S = 300.0
"""The first search in a large collection builds its index, which may take minutes."""


@dataclass(frozen=True)
class Request:
    """A request, ready to be sent."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = b""
    timeout_s: float = QUICK_TIMEOUT_S


def health(server: ReadyFile) -> Request:
    """Ask who answers. The token is not sent: the address may belong to another program now."""
    return Request("GET", f"{server.url}/health", {"Accept": "application/json"})


def collections(server: ReadyFile) -> Request:
    """List the collections."""
    return Request("GET", f"{server.url}/collections", _headers(server))


def search(server: ReadyFile, request: SearchRequest) -> Request:
    """Search the places most like a place."""
    url = f"{server.url}/collections/{quote(request.collection, safe='')}/search"
    headers = {**_headers(server), "Content-Type": "application/json"}
    body = json.dumps(request.body()).encode("utf-8")
    return Request("POST", url, headers, body, SEARCH_TIMEOUT_S)


def execute(server: ReadyFile, process: str, inputs: dict[str, Any]) -> Request:
    """Queue a job that runs a process."""
    url = f"{server.url}/processes/{quote(process, safe='')}/execution"
    headers = {**_headers(server), "Content-Type": "application/json"}
    return Request(
        "POST",
        url,
        headers,
        json.dumps({"inputs": inputs}).encode("utf-8"),
        JOB_TIMEOUT_S,
    )


def job(server: ReadyFile, job_id: str) -> Request:
    """Ask how a job fares."""
    return Request("GET", _job_url(server, job_id), _headers(server), timeout_s=JOB_TIMEOUT_S)


def results(server: ReadyFile, job_id: str) -> Request:
    """Ask for what a successful job gave."""
    return Request(
        "GET", f"{_job_url(server, job_id)}/results", _headers(server), timeout_s=JOB_TIMEOUT_S
    )


def dismiss(server: ReadyFile, job_id: str) -> Request:
    """Ask a job to stop."""
    return Request("DELETE", _job_url(server, job_id), _headers(server), timeout_s=JOB_TIMEOUT_S)


def read_answer(status: int, body: bytes, url: str) -> Any:
    """Return the JSON of a good answer; raise the error that a bad one stands for.

    Raises UnauthorizedError, ApiVersionError, ProblemError or AnswerError.
    """
    try:
        data = json.loads(body.decode("utf-8"))
    except ValueError:
        raise AnswerError(
            f"{url} answered with status {status} and something that is not JSON. Is another "
            "program listening there? Start the Terrakin server again."
        ) from None
    if status in (200, 201):
        return data
    raise _problem(status, data if isinstance(data, dict) else {}, url)


def _problem(status: int, data: dict[str, Any], url: str) -> ServerError:
    detail = str(data.get("detail") or data.get("title") or f"{url} answered {status}.")
    code = str(data.get("code") or "")
    if status == 401:
        return UnauthorizedError(
            f"The server does not accept the token. {detail} Choose the ready file of the server "
            "that runs now.",
            status,
            code,
        )
    if status == 406:
        return ApiVersionError(
            f"Plugin and server do not fit: {detail} Update the older of the two.", status, code
        )
    return ProblemError(detail, status, code)


def _job_url(server: ReadyFile, job_id: str) -> str:
    return f"{server.url}/jobs/{quote(job_id, safe='')}"


def _headers(server: ReadyFile) -> dict[str, str]:
    return {
        "Accept": "application/geo+json, application/json, application/problem+json",
        "Authorization": f"Bearer {server.token}",
        "Terrakin-Api-Version": str(API_VERSION),
    }
