"""Talk to a server: endpoints build, transport sends, wire reads."""

from __future__ import annotations

import time
from typing import Any, Callable

from . import endpoints
from .errors import CancelledError, ProblemError, ServerError, ServerNotRunningError
from .transport import send
from .wire import (
    Collection,
    Health,
    JobStatus,
    ReadyFile,
    SearchAnswer,
    SearchRequest,
    report_of,
)

POLL_S = 0.2
STOP_WITHIN_S = 15.0
"""How long a job that was asked to stop is waited for: it may still read files of ours."""


def never_cancelled() -> bool:
    """Return False: for callers that have no cancel button."""
    return False


class Client:
    """Blocking calls to one server. Call them from a task or a Processing thread.

    Every method raises a ServerError, or CancelledError once ``is_cancelled`` returns True.
    """

    def __init__(
        self, server: ReadyFile, is_cancelled: Callable[[], bool] = never_cancelled
    ) -> None:
        self.server = server
        self._is_cancelled = is_cancelled

    def check(self) -> Health:
        """Make sure that a Terrakin server answers, before the token is sent there."""
        health = Health.from_json(self._ask(endpoints.health(self.server)))
        if health.name != "terrakin":
            raise ServerNotRunningError(
                f"'{health.name}' answers at {self.server.url}, not a Terrakin server. The ready "
                "file is an old one: start the server again."
            )
        return health

    def collections(self) -> list[Collection]:
        """List the collections of the server."""
        return Collection.list_from_json(self._ask(endpoints.collections(self.server)))

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Search the places most like a place."""
        return SearchAnswer.from_json(self._ask(endpoints.search(self.server, request)))

    def run(
        self,
        process: str,
        inputs: dict[str, Any],
        on_status: Callable[[JobStatus], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Run a process as a job and return its report.

        ``on_status`` is called with each state that is asked for. Raises ProblemError if the job
        failed; a cancel dismisses it and waits for its end.
        """
        # Not to be cancelled on its way: the server could have taken the job already.
        job = self._job(endpoints.execute(self.server, process, inputs), never_cancelled)
        try:
            while not job.has_ended:
                time.sleep(POLL_S)
                if self._is_cancelled():
                    raise CancelledError("Cancelled. Nothing was written.")
                job = self._job(endpoints.job(self.server, job.id))
                on_status(job)
        except CancelledError:
            self._dismiss(job)
            raise
        if job.error is not None:
            status, code, detail = job.error
            raise ProblemError(detail, status, code)
        if job.status != "successful":
            raise ServerError(f"The job was stopped by someone else: {job.message}")
        return report_of(self._ask(endpoints.results(self.server, job.id)))

    def _dismiss(self, job: JobStatus) -> None:
        """Ask a job to stop and wait for its end, if that comes soon."""
        deadline = time.monotonic() + STOP_WITHIN_S
        job = self._job(endpoints.dismiss(self.server, job.id), never_cancelled)
        while not job.has_ended and time.monotonic() < deadline:
            time.sleep(POLL_S)
            job = self._job(endpoints.job(self.server, job.id), never_cancelled)

    def _job(
        self, request: endpoints.Request, is_cancelled: Callable[[], bool] | None = None
    ) -> JobStatus:
        return JobStatus.from_json(self._ask(request, is_cancelled))

    def _ask(
        self, request: endpoints.Request, is_cancelled: Callable[[], bool] | None = None
    ) -> Any:
        status, body = send(request, is_cancelled or self._is_cancelled)
        return endpoints.read_answer(status, body, request.url)
