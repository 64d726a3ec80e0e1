"""A Python client of the server, for notebooks, scripts and tests.

>>> client = Client.from_ready_file("ready.json")
>>> found = client.search("carolina", at=(-76.657, 34.718), k=20)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import orjson
import requests

from embed_server.client_inputs import PathOrGeoJson, Paths, several, whole_paths
from embed_server.errors import InvalidRequestError, ServerError
from embed_server.models import API_VERSION
from embed_server.ready_file import ReadyFile

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 300.0
"""The first search in a large collection builds its index, which may take minutes."""
POLL_S = 0.2

Json = dict[str, Any]


class UnreachableError(ServerError):
    """No server answers, or it went away while it was answering."""

    code = "server-unreachable"


class RemoteError(ServerError):
    """The server refused, or a job failed; ``code``, ``status`` and ``detail`` are its own."""

    def __init__(self, code: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc]  # here it is the server's, not the class's
        self.status = status
        self.detail = detail

    @classmethod
    def of(cls, problem: Mapping[str, Any]) -> Self:
        """Make one of a problem object."""
        return cls(str(problem["code"]), int(problem["status"]), str(problem["detail"]))


class JobDismissedError(ServerError):
    """The job that was waited for has been dismissed."""

    code = "job-dismissed"


class Client:
    """Blocking calls to one server. Answers are the JSON objects of docs/api.md.

    Every method raises RemoteError if the server refuses, UnreachableError if it does not answer
    and InvalidRequestError for what cannot be sent. Not to be shared between threads.
    """

    def __init__(self, url: str, token: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._timeout = (CONNECT_TIMEOUT_S, timeout_s)
        self._session = requests.Session()
        self._session.trust_env = False  # A proxy cannot reach this machine's loopback.
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Terrakin-Api-Version": str(API_VERSION),
        }

    @classmethod
    def from_ready_file(cls, path: str | Path, timeout_s: float = ANSWER_TIMEOUT_S) -> Self:
        """Connect to the server that wrote ``path``. Raises ReadyFileError, UnreachableError."""
        ready = ReadyFile.read(Path(path))
        client = cls(ready.url, ready.token, timeout_s)
        try:
            client.check()
        except UnreachableError as error:
            raise UnreachableError(
                f"{error} The ready file {path} was left behind by process {ready.pid}."
            ) from error
        return client

    def check(self) -> Json:
        """Make sure that a Terrakin server answers. The token is not sent."""
        health = self._send("GET", "/health", headers={})
        if health.get("name") != "terrakin":
            raise UnreachableError(
                f"Another program answers at {self.url}, not a Terrakin server. Start the server "
                "again and use its present ready file."
            )
        return health

    def collections(self) -> list[Json]:
        """List the collections."""
        found: list[Json] = self._send("GET", "/collections")["collections"]
        return found

    def collection(self, collection: str) -> Json:
        """Describe one collection."""
        return self._send("GET", f"/collections/{_id(collection)}")

    def items(
        self,
        collection: str,
        bbox: tuple[float, float, float, float] | None = None,
        datetime: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Json:
        """Return one page of items. ``bbox`` is (west, south, east, north) in degrees."""
        params: Json = {"limit": limit, "offset": offset}
        if bbox is not None:
            params["bbox"] = ",".join(repr(float(value)) for value in bbox)
        if datetime is not None:
            params["datetime"] = datetime
        return self._send("GET", f"/collections/{_id(collection)}/items", params=params)

    def item(self, collection: str, item: str) -> Json:
        """Return one item."""
        return self._send("GET", f"/collections/{_id(collection)}/items/{_id(item)}")

    def search(
        self,
        collection: str,
        at: tuple[float, float] | None = None,
        k: int = 10,
        exclude_m: float = 0.0,
        **more: Any,
    ) -> Json:
        """Find the ``k`` places most like the one ``at`` (longitude, latitude) in degrees.

        ``more`` is what else a search takes (docs/api.md): ``positive``, ``negative``,
        ``filter``, ``apart_m``, ``limit``, ``offset``, ``state``, ``confirmed``, ``rejected``.
        """
        place = None if at is None else list(at)
        body = {"at": place, "k": k, "exclude_m": exclude_m, **more}
        return self._send("POST", f"/collections/{_id(collection)}/search", json=body)

    def search_fused(
        self,
        collections: Mapping[str, float],
        at: tuple[float, float] | None = None,
        k: int = 10,
        exclude_m: float = 0.0,
        **more: Any,
    ) -> Json:
        """Search several collections on one grid as one; ``collections`` gives their weights."""
        named = [{"id": name, "weight": weight} for name, weight in collections.items()]
        place = None if at is None else list(at)
        body = {"collections": named, "at": place, "k": k, "exclude_m": exclude_m, **more}
        return self._send("POST", "/search", json=body)

    def pages(self, answer: Json) -> Iterator[Json]:
        """Yield ``answer``, the first page of a search, and then the pages that follow it.

        Raises RemoteError (``collection-changed``) if the rows are others meanwhile.
        """
        several = "collections" in answer
        path = "/search" if several else f"/collections/{_id(answer['collection'])}/search"
        yield answer
        while answer["links"]:
            (following,) = answer["links"]
            answer = self._send("POST", path, json=following["body"])
            yield answer

    def sql(self, query: str, limit: int = 1_000, timeout_s: float = 30.0) -> Json:
        """Answer one read-only SELECT over the collections, each a table of its name."""
        body = {"query": query, "limit": limit, "timeout_s": timeout_s}
        return self._send("POST", "/sql", json=body)

    def processes(self) -> list[Json]:
        """List what can run as a job."""
        found: list[Json] = self._send("GET", "/processes")["processes"]
        return found

    def execute(self, process: str, inputs: Mapping[str, Any]) -> Json:
        """Queue a job; return its status, with its id in ``jobID``."""
        body = {"inputs": dict(inputs)}
        return self._send("POST", f"/processes/{_id(process)}/execution", json=body)

    def jobs(self) -> list[Json]:
        """List the jobs of the server."""
        found: list[Json] = self._send("GET", "/jobs")["jobs"]
        return found

    def job(self, job_id: str) -> Json:
        """Say how a job fares."""
        return self._send("GET", f"/jobs/{_id(job_id)}")

    def results(self, job_id: str) -> Json:
        """Return what a successful job gave: the values of its outputs by their ids."""
        outputs = self._send("GET", f"/jobs/{_id(job_id)}/results")
        return {name: output["value"] for name, output in outputs.items()}

    def dismiss(self, job_id: str) -> Json:
        """Ask a job to stop, or forget an ended one; return its status."""
        return self._send("DELETE", f"/jobs/{_id(job_id)}")

    def wait(self, job_id: str, progress: Callable[[Json], None] | None = None) -> Json:
        """Wait until a job has ended and return its results.

        ``progress`` is called with each new status. Raises RemoteError with the job's problem if
        it failed, JobDismissedError if it was dismissed.
        """
        updated = None
        while True:
            job = self.job(job_id)
            if progress is not None and job["updated"] != updated:
                progress(job)
            updated = job["updated"]
            if job["status"] == "successful":
                return self.results(job_id)
            if job["status"] == "failed":
                raise RemoteError.of(job["problem"])
            if job["status"] == "dismissed":
                raise JobDismissedError(f"Job '{job_id}' was dismissed: {job['message']}")
            time.sleep(POLL_S)

    def run(
        self,
        process: str,
        inputs: Mapping[str, Any],
        progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Execute a process, wait for its end and return its report; Ctrl-C dismisses the job.

        Raises RemoteError with the job's problem if it failed.
        """
        job = self.execute(process, inputs)["jobID"]
        try:
            report: Json = self.wait(job, progress)["report"]
        except KeyboardInterrupt:
            self.dismiss(job)
            raise
        return report

    def fit_probe(
        self,
        collection: str,
        labels: PathOrGeoJson,
        field: str | None,
        out: str | Path,
        progress: Callable[[Json], None] | None = None,
        **more: Any,
    ) -> Json:
        """Fit a probe to labels and write it to ``out``; ``more`` as in docs/api.md.

        Paths of this and the next methods may be relative to the working folder.
        """
        inputs = {"collection": collection, "labels": labels, "field": field, "out": out, **more}
        return self.run("probe-fit", whole_paths(inputs), progress)

    def predict_probe(
        self,
        model: str | Path,
        collection: str,
        out: str | Path,
        progress: Callable[[Json], None] | None = None,
        **more: Any,
    ) -> Json:
        """Map a collection with a probe to ``out``: .tif, .gpkg or .parquet."""
        inputs = {"model": model, "collection": collection, "out": out, **more}
        return self.run("probe-predict", whole_paths(inputs), progress)

    def queue_places(
        self,
        collection: str,
        out: str | Path,
        progress: Callable[[Json], None] | None = None,
        **more: Any,
    ) -> Json:
        """List the places to label next, in a new GeoPackage."""
        inputs = {"collection": collection, "out": out, **more}
        return self.run("probe-queue", whole_paths(inputs), progress)

    def sample_map(self, source: str | Path, out: str | Path, **more: Any) -> Json:
        """Draw a sample of a map, ``total`` places or to a ``standard_error``."""
        return self.run("probe-sample", whole_paths({"map": source, "out": out, **more}))

    def assess_map(self, sample: str | Path, **more: Any) -> Json:
        """Estimate accuracy and areas from a sample that was filled in."""
        return self.run("probe-accuracy", whole_paths({"sample": sample, **more}))

    def change_raster(
        self,
        before: Paths,
        after: Paths,
        out: str | Path,
        report: Paths = (),
        progress: Callable[[Json], None] | None = None,
        **more: Any,
    ) -> Json:
        """Map what changed between two dates of imagery, each of one file or of several."""
        dates = {"before": several(before), "after": several(after)}
        inputs = {**dates, "out": out, "report": several(report), **more}
        return self.run("change-raster", whole_paths(inputs), progress)

    def change_collection(
        self,
        collection: str,
        out: str | Path,
        dates: tuple[str | None, str | None] = (None, None),
        report: Paths = (),
        progress: Callable[[Json], None] | None = None,
        **more: Any,
    ) -> Json:
        """Map what changed in a collection between two ``dates``, its first and last by default."""
        when = {"from": dates[0], "to": dates[1]}
        inputs = {"collection": collection, **when, "out": out, "report": several(report), **more}
        return self.run("change-collection", whole_paths(inputs), progress)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        params: Json | None = None,
        json: Json | None = None,
    ) -> Json:
        try:
            response = self._session.request(
                method,
                self.url + path,
                headers=self._headers if headers is None else headers,
                params=params,
                json=json,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.exceptions.InvalidJSONError as error:
            raise InvalidRequestError(
                f"The request was not sent: it holds a number that JSON does not know ({error}). "
                "Give finite numbers."
            ) from error
        except requests.Timeout as error:
            raise UnreachableError(
                f"The server at {self.url} did not answer within {self._timeout[1]:g} s. It may "
                "be busy; try again, or allow more time."
            ) from error
        except requests.RequestException as error:
            raise UnreachableError(self._why_lost(error)) from error
        return self._read(response)

    def _read(self, response: requests.Response) -> Json:
        try:
            data = orjson.loads(response.content)
            if response.ok and isinstance(data, dict):
                return data
            problem = RemoteError.of(data)
        except (ValueError, KeyError, TypeError) as error:
            raise UnreachableError(
                f"{response.url} answered with status {response.status_code} and something that "
                "is not Terrakin's. Is another program listening there? Start the server again."
            ) from error
        raise problem

    def _why_lost(self, error: requests.RequestException) -> str:
        if "NewConnectionError" in repr(error):
            return (
                f"No server runs at {self.url}. Start one with 'terrakin serve --store DIR' and "
                "use its present ready file."
            )
        return (
            f"The server at {self.url} went away before it had answered ({error}). Its last "
            "messages are on its standard error; start it again."
        )


def _id(text: str) -> str:
    return quote(text, safe="")
