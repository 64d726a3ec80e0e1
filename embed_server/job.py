"""The state of one job and what its work is given."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from embed_server.models import JobState, JobStatus, Link, Problem

ENDED: frozenset[JobState] = frozenset({"successful", "failed", "dismissed"})

RESULTS_REL = "http://www.opengis.net/def/rel/ogc/1.0/results"


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a running job's work is given: where to report, and when to stop."""

    report: Callable[[int, int, str], None]
    """``report(done, total, message)``."""
    cancelled: Callable[[], bool]
    log: Callable[[str], None] = lambda _: None
    """What the job's log is to keep, however many steps of progress it shows."""


Work = Callable[[JobContext], dict[str, Any]]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Job:
    """The state of one job. Every access holds the queue's lock."""

    process: str
    work: Work
    log: deque[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: JobState = "accepted"
    progress: int = 0
    message: str = ""
    created: str = field(default_factory=_now)
    updated: str = ""
    started: str | None = None
    finished: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    result: dict[str, Any] | None = None
    problem: Problem | None = None

    def say(self, message: str, log: bool = True) -> None:
        """Set the message and the time of the last change."""
        self.message, self.updated = message, _now()
        if log:
            self.log.append(f"{self.updated} {message}")

    def enter(self, state: JobState, message: str) -> None:
        """Change the state."""
        self.state = state
        self.say(message)
        if state == "running":
            self.started = self.updated
        if state in ENDED:
            self.finished = self.updated

    def status(self, base_url: str) -> JobStatus:
        """Return the job as clients see it."""
        here = f"{base_url}/jobs/{self.id}"
        links = [Link(rel="self", href=here)]
        if self.state == "successful":
            links.append(Link(rel=RESULTS_REL, href=f"{here}/results"))
        return JobStatus(
            jobID=self.id,
            processID=self.process,
            status=self.state,
            progress=self.progress,
            message=self.message,
            created=self.created,
            started=self.started,
            finished=self.finished,
            updated=self.updated,
            log=list(self.log),
            problem=self.problem,
            links=links,
        )

    def why_no_result(self) -> str:
        """Say for people why there is no result."""
        if self.state == "failed":
            return f"Job '{self.id}' failed and has no result: {self.message}"
        if self.state == "dismissed":
            return f"Job '{self.id}' was dismissed and has no result. Execute the process again."
        return (
            f"Job '{self.id}' is {self.state} ({self.progress} %). Ask again when "
            f"GET /jobs/{self.id} says successful."
        )
