"""The queue itself, without HTTP: whatever work does, its job reaches an end."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from embed_server.errors import JobNotFoundError, ResultNotReadyError, TooManyJobsError
from embed_server.job import JobContext
from embed_server.jobs import JobQueue
from embed_server.models import JobStatus
from embed_server.settings import LimitSettings
from embeddings.errors import CancelledError, StoreLockedError

URL = "http://127.0.0.1:1"
WAIT_S = 60


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    queue = JobQueue(
        LimitSettings(max_queued_jobs=2, max_ended_jobs=3, max_log_lines=5, stop_wait_s=WAIT_S), URL
    )
    queue.start()
    yield queue
    queue.close()


class Held:
    """Work that runs until it is released or cancelled."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self, context: JobContext) -> dict[str, Any]:
        self.started.set()
        while not self.release.wait(0.01):
            if context.cancelled():
                raise CancelledError("stopped")
        return {"held": True}


def ended(queue: JobQueue, job: JobStatus) -> JobStatus:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        status = queue.status(job.jobID)
        if status.status in ("successful", "failed", "dismissed"):
            return status
        time.sleep(0.005)
    raise AssertionError(f"The job did not end: {status}")


def raising(error: BaseException) -> Callable[[JobContext], dict[str, Any]]:
    def work(_: JobContext) -> dict[str, Any]:
        raise error

    return work


def test_a_job_succeeds_and_keeps_its_result(queue: JobQueue) -> None:
    job = queue.submit("double", lambda _: {"answer": 42})
    assert (job.status, job.processID, job.started) == ("accepted", "double", None)
    status = ended(queue, job)
    assert (status.status, status.progress, status.problem) == ("successful", 100, None)
    assert status.created <= str(status.started) <= str(status.finished) == status.updated
    assert queue.result(job.jobID) == queue.result(job.jobID) == {"answer": 42}
    assert f"{URL}/jobs/{job.jobID}/results" in {link.href for link in status.links}


def test_an_expected_error_becomes_the_jobs_problem(queue: JobQueue) -> None:
    status = ended(queue, queue.submit("p", raising(StoreLockedError("Another writer."))))
    assert (status.status, status.message) == ("failed", "Another writer.")
    assert status.problem is not None
    assert (status.problem.code, status.problem.status) == ("store-locked", 409)


@pytest.mark.parametrize("error", [ZeroDivisionError("why"), MemoryError(), SystemExit(3)])
def test_any_error_ends_the_job_and_not_the_worker(
    queue: JobQueue, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    status = ended(queue, queue.submit("p", raising(error)))
    assert status.status == "failed"
    assert status.problem is not None
    assert status.problem.code == "internal"
    assert type(error).__name__ in caplog.text
    assert ended(queue, queue.submit("p", lambda _: {})).status == "successful"


def test_progress_is_shown_while_it_runs(queue: JobQueue) -> None:
    reported, go_on = threading.Event(), threading.Event()

    def work(context: JobContext) -> dict[str, Any]:
        context.report(42, 100, "42 of 100 chips")
        reported.set()
        assert go_on.wait(WAIT_S)
        return {}

    job = queue.submit("p", work)
    assert reported.wait(WAIT_S)
    status = queue.status(job.jobID)
    go_on.set()
    assert (status.status, status.progress, status.message) == ("running", 42, "42 of 100 chips")
    assert any(line.endswith("42 of 100 chips") for line in status.log)
    ended(queue, job)


@pytest.mark.parametrize(("done", "total"), [(0, 0), (5, 0), (-1, 10), (11, 10)])
def test_odd_progress_stays_between_0_and_100(queue: JobQueue, done: int, total: int) -> None:
    def work(context: JobContext) -> dict[str, Any]:
        context.report(done, total, "odd")
        raise CancelledError("stop here, so that the progress stays")

    assert 0 <= ended(queue, queue.submit("p", work)).progress <= 100


def test_the_log_is_bounded_and_keeps_the_latest(queue: JobQueue) -> None:
    def work(context: JobContext) -> dict[str, Any]:
        for done in range(100):
            context.report(done, 100, f"at {done}")
        return {}

    log = ended(queue, queue.submit("p", work)).log
    assert len(log) == 5
    assert log[-1].endswith("Done")
    assert log[-2].endswith("at 90")


def test_a_running_job_is_dismissed(queue: JobQueue) -> None:
    held = Held()
    job = queue.submit("p", held)
    assert held.started.wait(WAIT_S)
    assert queue.dismiss(job.jobID).status in ("running", "dismissed")
    status = ended(queue, job)
    assert (status.status, status.problem) == ("dismissed", None)
    with pytest.raises(ResultNotReadyError, match="dismissed"):
        queue.result(job.jobID)


def test_dismissing_twice_before_the_end_is_harmless(queue: JobQueue) -> None:
    stopping, may_stop = threading.Event(), threading.Event()

    def work(context: JobContext) -> dict[str, Any]:
        stopping.set()
        assert may_stop.wait(WAIT_S)
        assert context.cancelled()
        raise CancelledError("stopped")

    job = queue.submit("p", work)
    assert stopping.wait(WAIT_S)
    first, second = queue.dismiss(job.jobID), queue.dismiss(job.jobID)
    may_stop.set()
    assert first.status == second.status == "running"
    assert "stopping" in second.message
    assert ended(queue, job).status == "dismissed"


def test_a_waiting_job_is_dismissed_and_never_runs(queue: JobQueue) -> None:
    held, ran = Held(), threading.Event()
    first = queue.submit("p", held)
    assert held.started.wait(WAIT_S)
    second = queue.submit("p", lambda _: ran.set() or {})
    assert queue.dismiss(second.jobID).status == "dismissed"
    held.release.set()
    assert ended(queue, first).status == "successful"
    assert ended(queue, queue.submit("p", lambda _: {})).status == "successful"
    assert not ran.is_set()


def test_work_that_ends_well_despite_a_dismissal_is_successful(queue: JobQueue) -> None:
    started, release = threading.Event(), threading.Event()

    def work(_: JobContext) -> dict[str, Any]:
        started.set()
        assert release.wait(WAIT_S)
        return {"all": "done"}

    job = queue.submit("p", work)
    assert started.wait(WAIT_S)
    queue.dismiss(job.jobID)
    release.set()
    assert ended(queue, job).status == "successful"


def test_dismissing_an_ended_job_forgets_it(queue: JobQueue) -> None:
    job = queue.submit("p", lambda _: {})
    ended(queue, job)
    assert queue.dismiss(job.jobID).status == "successful"
    for ask in (queue.status, queue.result, queue.dismiss):
        with pytest.raises(JobNotFoundError, match=job.jobID):
            ask(job.jobID)


def test_a_result_is_not_ready_before_the_end_nor_after_a_failure(queue: JobQueue) -> None:
    held = Held()
    running = queue.submit("p", held)
    assert held.started.wait(WAIT_S)
    with pytest.raises(ResultNotReadyError, match="is running"):
        queue.result(running.jobID)
    held.release.set()
    failed = queue.submit("p", raising(StoreLockedError("Another writer.")))
    ended(queue, failed)
    with pytest.raises(ResultNotReadyError, match=r"Another writer\."):
        queue.result(failed.jobID)


def test_jobs_run_one_after_the_other_in_order(queue: JobQueue) -> None:
    seen: list[str] = []

    def work(name: str) -> Callable[[JobContext], dict[str, Any]]:
        def run(_: JobContext) -> dict[str, Any]:
            seen.append(f"{name} begins")
            time.sleep(0.01)
            seen.append(f"{name} ends")
            return {}

        return run

    first, second = queue.submit("p", work("a")), queue.submit("p", work("b"))
    ended(queue, first)
    ended(queue, second)
    assert seen == ["a begins", "a ends", "b begins", "b ends"]


def test_a_full_queue_refuses_and_recovers(queue: JobQueue) -> None:
    held = Held()
    jobs = [queue.submit("p", held)]
    assert held.started.wait(WAIT_S)
    jobs += [queue.submit("p", lambda _: {}) for _ in range(2)]
    with pytest.raises(TooManyJobsError, match="2 jobs are waiting"):
        queue.submit("p", lambda _: {})
    held.release.set()
    for job in jobs:
        assert ended(queue, job).status == "successful"
    assert ended(queue, queue.submit("p", lambda _: {})).status == "successful"


def test_only_the_latest_ended_jobs_are_remembered(queue: JobQueue) -> None:
    jobs = []
    for _ in range(6):
        jobs.append(queue.submit("p", lambda _: {}))
        ended(queue, jobs[-1])
    held = Held()
    last = queue.submit("p", held)
    assert held.started.wait(WAIT_S)
    remembered = [job.jobID for job in queue.listing().jobs]
    held.release.set()
    assert remembered == [job.jobID for job in (*jobs[-3:], last)]


def test_closing_stops_the_running_job_and_dismisses_the_waiting() -> None:
    queue = JobQueue(LimitSettings(stop_wait_s=WAIT_S), URL)
    queue.start()
    held = Held()
    running = queue.submit("p", held)
    assert held.started.wait(WAIT_S)
    waiting = queue.submit("p", lambda _: {})
    queue.close()
    late = queue.submit("p", lambda _: {})
    for job in (running, waiting, late):
        assert queue.status(job.jobID).status == "dismissed"


def test_closing_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    queue = JobQueue(LimitSettings(stop_wait_s=0.05), URL)
    queue.start()
    deaf, started = threading.Event(), threading.Event()

    def work(_: JobContext) -> dict[str, Any]:
        started.set()
        deaf.wait(WAIT_S)
        return {}

    queue.submit("p", work)
    assert started.wait(WAIT_S)
    queue.close()
    deaf.set()
    assert "did not stop" in caplog.text
