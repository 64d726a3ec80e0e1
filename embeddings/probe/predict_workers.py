"""Where row groups are scored: in threads here, in processes beside, or on a Dask cluster.

All say the same of a row. Whoever scores, the calling process alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from embeddings.errors import InputError, TerrakinError
from embeddings.probe.predict_scoring import Chunk, Group, Partners, Scoring

MOST_THREADS = 4

_scoring: Scoring | None = None
"""Of a worker process: what it scores with."""


class Pool(Protocol):
    """Scores row groups; what is submitted first is asked for first."""

    count: int
    """How many are scored at once."""

    def submit(self, group: Group, partners: Partners) -> Any:
        """Begin to score a row group; the answer has ``cancel``."""

    def result(self, made: Any) -> Chunk | None:
        """Wait for what was submitted. Raises TerrakinError if a worker is lost."""


@dataclass(frozen=True, slots=True)
class WorkersWanted:
    """Processes of this machine, 1 for threads of this one; or the address of a Dask scheduler."""

    count: int = 1
    scheduler: str | None = None

    def check(self) -> None:
        """Raise InputError if both, or fewer than one, are asked for."""
        if self.count < 1:
            raise InputError(f"{self.count} workers were asked for; give 1 or more.")
        if self.count > 1 and self.scheduler is not None:
            raise InputError(
                f"{self.count} workers here and a scheduler were asked for; give one of the two."
            )

    @contextmanager
    def started(self, scoring: Scoring) -> Iterator[Pool]:
        """Lend workers that score with ``scoring``."""
        if self.scheduler is not None:
            with _dask(self.scheduler, scoring) as pool:
                yield pool
        elif self.count > 1:
            with _processes(self.count, scoring) as pool:
                yield pool
        else:
            count = min(MOST_THREADS, os.cpu_count() or 1)
            with threadpool_limits(1), ThreadPoolExecutor(count) as threads:
                yield _Threads(threads, count, scoring)


class _Threads:
    def __init__(self, pool: ThreadPoolExecutor, count: int, scoring: Scoring) -> None:
        self._pool, self.count, self._scoring = pool, count, scoring

    def submit(self, group: Group, partners: Partners) -> Any:
        return self._pool.submit(self._scoring.chunk, group, partners)

    def result(self, made: Any) -> Chunk | None:
        chunk: Chunk | None = made.result()
        return chunk


class _Processes:
    def __init__(self, pool: Any, count: int) -> None:
        self._pool, self.count = pool, count

    def submit(self, group: Group, partners: Partners) -> Any:
        return self._pool.submit(_score_here, group, partners)

    def result(self, made: Any) -> Chunk | None:
        from concurrent.futures.process import BrokenProcessPool

        try:
            chunk: Chunk | None = made.result()
        except BrokenProcessPool as error:
            raise TerrakinError(
                "A worker process ended unexpectedly, perhaps for lack of memory. Nothing was "
                "written: run the same command again, with fewer --workers."
            ) from error
        return chunk


@contextmanager
def _processes(count: int, scoring: Scoring) -> Iterator[_Processes]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Started afresh, so that it works alike on every platform.
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin, initargs=(count, scoring)
    )
    try:
        yield _Processes(pool, count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Dask:
    def __init__(self, client: Any, scoring: Scoring) -> None:
        self._client = client
        self.count = max(1, sum(client.nthreads().values()))
        self._scoring = client.scatter(scoring, broadcast=True, hash=False)

    def submit(self, group: Group, partners: Partners) -> Any:
        return self._client.submit(_score, self._scoring, group, partners, pure=False)

    def result(self, made: Any) -> Chunk | None:
        from distributed import KilledWorker

        try:
            chunk: Chunk | None = made.result()
        except (KilledWorker, OSError) as error:
            raise TerrakinError(
                f"The Dask cluster lost its work ({type(error).__name__}). Nothing was written: "
                "run the same command again."
            ) from error
        return chunk


@contextmanager
def _dask(scheduler: str, scoring: Scoring) -> Iterator[_Dask]:
    from embeddings.workers import connected

    with connected(scheduler) as client:
        yield _Dask(client, scoring)


def _score(scoring: Scoring, group: Group, partners: Partners) -> Chunk | None:
    """Score a row group in a worker of a cluster, on one processor core."""
    with threadpool_limits(1):
        return scoring.chunk(group, partners)


def _begin(count: int, scoring: Scoring) -> None:
    from embeddings.workers import begin_process

    global _scoring
    begin_process(count)
    threadpool_limits(1)
    _scoring = scoring


def _score_here(group: Group, partners: Partners) -> Chunk | None:
    assert _scoring is not None  # _begin has run
    return _scoring.chunk(group, partners)
