"""Jobs: one worker thread runs them one after the other; each always reaches an end.

A job ends as ``successful``, ``failed`` or ``dismissed``, whatever its work raises. Ended jobs are
remembered until there are more of them than ``max_ended_jobs``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from embed_server.errors import (
    JobNotFoundError,
    ResultNotReadyError,
    TooManyJobsError,
    problem_of,
)
from embed_server.job import ENDED, Job, JobContext, Work
from embed_server.models import Jobs, JobState, JobStatus, Link, Problem
from embed_server.settings import LimitSettings
from embeddings.errors import CancelledError, TerrakinError

logger = logging.getLogger(__name__)

LOG_STEP = 10
"""Percent between two lines of progress in a job's log."""


class JobQueue:
    """The jobs of one server and the thread that runs them."""

    def __init__(self, limits: LimitSettings, base_url: str) -> None:
        self._limits = limits
        self._base_url = base_url
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closing = False
        # A daemon: work that ignores the wish to stop must not keep the process alive for ever.
        self._worker = threading.Thread(target=self._work, name="terrakin-jobs", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._worker.start()

    def close(self) -> None:
        """Dismiss what waits, ask the running job to stop and give it ``stop_wait_s`` seconds."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                self._ask_to_stop(job, "The server is stopping")
            self._changed.notify_all()
        self._worker.join(self._limits.stop_wait_s)
        if self._worker.is_alive():
            logger.warning(
                "A job did not stop within %g s and is cut off.", self._limits.stop_wait_s
            )

    def submit(self, process: str, work: Work) -> JobStatus:
        """Queue a job. Raises TooManyJobsError."""
        with self._changed:
            self._forget_oldest()
            waiting = sum(job.state == "accepted" for job in self._jobs.values())
            if waiting >= self._limits.max_queued_jobs:
                raise TooManyJobsError(
                    f"{waiting} jobs are waiting already, and {self._limits.max_queued_jobs} may. "
                    "Wait until one has ended, or dismiss one with DELETE /jobs/ID."
                )
            job = Job(process, work, deque(maxlen=self._limits.max_log_lines))
            job.say("Waiting for its turn")
            if self._closing:
                self._ask_to_stop(job, "The server is stopping")
            self._jobs[job.id] = job
            self._changed.notify_all()
            return job.status(self._base_url)

    def listing(self) -> Jobs:
        """Return every remembered job, oldest first."""
        links = [Link(rel="self", href=f"{self._base_url}/jobs")]
        with self._changed:
            jobs = [job.status(self._base_url) for job in self._jobs.values()]
        return Jobs(jobs=jobs, links=links)

    def status(self, job_id: str) -> JobStatus:
        """Return one job. Raises JobNotFoundError."""
        with self._changed:
            return self._find(job_id).status(self._base_url)

    def result(self, job_id: str) -> dict[str, Any]:
        """Return what a successful job gave. Raises JobNotFoundError or ResultNotReadyError."""
        with self._changed:
            job = self._find(job_id)
            if job.result is None:
                raise ResultNotReadyError(job.why_no_result())
            return job.result

    def dismiss(self, job_id: str) -> JobStatus:
        """Ask a waiting or running job to stop; forget an ended one. Raises JobNotFoundError."""
        with self._changed:
            job = self._find(job_id)
            if job.state in ENDED:
                del self._jobs[job_id]
            else:
                self._ask_to_stop(job, "Dismissed on request")
            return job.status(self._base_url)

    def _find(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFoundError(
                f"There is no job '{job_id}'. It was dismissed after its end, or another run of "
                f"the server had it; this one remembers its last {self._limits.max_ended_jobs} "
                "ended jobs. GET /jobs lists them."
            ) from None

    @staticmethod
    def _ask_to_stop(job: Job, why: str) -> None:
        if job.state == "accepted":
            job.enter("dismissed", f"{why}, before it started.")
        elif job.state == "running" and not job.stop.is_set():
            job.stop.set()
            job.say(f"{why}: stopping.")

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._run(job)
            with self._changed:
                self._forget_oldest()

    def _next(self) -> Job | None:
        """Wait for a job and mark it as running; None when the queue is closed."""
        with self._changed:
            while not self._closing:
                for job in self._jobs.values():
                    if job.state == "accepted":
                        job.enter("running", "Started")
                        return job
                self._changed.wait()
            return None

    def _run(self, job: Job) -> None:
        context = JobContext(
            lambda *args: self._progress(job, *args),
            job.stop.is_set,
            lambda text: self._log(job, text),
        )
        try:
            result = job.work(context)
        except CancelledError:
            self._end(job, "dismissed", "Stopped on request. What was done is kept.")
        except TerrakinError as error:
            logger.warning("Job %s failed: %s", job.id, error)
            self._end(job, "failed", str(error), problem=problem_of(error))
        except BaseException as error:  # Even SystemExit must not end the only worker.
            logger.exception("Job %s failed unexpectedly.", job.id)
            problem = problem_of(error)
            self._end(job, "failed", problem.detail, problem=problem)
        else:
            self._end(job, "successful", "Done", result=result)

    def _end(
        self,
        job: Job,
        state: JobState,
        message: str,
        result: dict[str, Any] | None = None,
        problem: Problem | None = None,
    ) -> None:
        with self._changed:
            job.result, job.problem = result, problem
            job.progress = 100 if state == "successful" else job.progress
            job.enter(state, message)

    def _progress(self, job: Job, done: int, total: int, message: str) -> None:
        percent = min(100, max(0, 100 * done // total)) if total > 0 else 0
        with self._changed:
            next_step = percent // LOG_STEP > job.progress // LOG_STEP
            job.progress = percent
            if not job.stop.is_set():
                job.say(message, log=next_step)

    def _log(self, job: Job, text: str) -> None:
        with self._changed:
            job.say(text)

    def _forget_oldest(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.state in ENDED]
        for job_id in ended[: max(0, len(ended) - self._limits.max_ended_jobs)]:
            del self._jobs[job_id]
