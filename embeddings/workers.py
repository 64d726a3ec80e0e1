"""Where batches are encoded: here, in processes beside, or on a Dask cluster.

All give the same rows. Whoever encodes, the caller alone writes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from embeddings.encoding import SceneEncoding, SceneTask
from embeddings.errors import (
    ExtraMissingError,
    InputError,
    SourceError,
    SourceNotFoundError,
    TerrakinError,
)
from embeddings.sources.chips import Batch

Outcome = tuple[Batch, pa.Table | SourceError]

CONNECT_S = 20.0
_ADDRESS = re.compile(r"[a-z]+://[^\s/]+:\d+/?")
_THREAD = threading.local()
AHEAD = 2
"""Batches on their way for each worker, so that none waits and few are held in memory."""


@dataclass(frozen=True)
class Work:
    """A scene to be encoded: as a task that travels, and open in this process."""

    task: SceneTask
    here: SceneEncoding


class Workers(Protocol):
    """Encodes batches and yields them as they are done, in any order."""

    def encode(self, work: Work, batches: Sequence[Batch]) -> Iterator[Outcome]:
        """Yield each batch with its rows, or with the error of reading it."""

    def close(self) -> None:
        """Let the workers go."""


def make_workers(count: int, scheduler: str | None) -> Workers:
    """Return this process, processes of this machine, or the workers of a Dask scheduler."""
    if scheduler is not None:
        return DaskWorkers(scheduler)
    return Processes(count) if count > 1 else Here()


class Here:
    """This process, batch by batch."""

    def encode(self, work: Work, batches: Sequence[Batch]) -> Iterator[Outcome]:
        """Yield each batch in order."""
        for batch in batches:
            yield batch, _rows(work.here, batch)

    def close(self) -> None:
        """Nothing to let go."""


class Processes:
    """Processes of this machine, started afresh so that it works alike on every platform."""

    def __init__(self, count: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._count = count
        self._pool = ProcessPoolExecutor(
            count, get_context("spawn"), initializer=begin_process, initargs=(count,)
        )

    def encode(self, work: Work, batches: Sequence[Batch]) -> Iterator[Outcome]:
        """Yield batches as they are done. Raises TerrakinError if a process dies."""
        from concurrent.futures import FIRST_COMPLETED, wait
        from concurrent.futures.process import BrokenProcessPool

        waiting = list(reversed(batches))
        running: set[Any] = set()
        while waiting or running:
            while waiting and len(running) < AHEAD * self._count:
                running.add(self._pool.submit(encode_batch, work.task, waiting.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    raise TerrakinError(
                        "A worker process ended unexpectedly, perhaps for lack of memory. What "
                        "was finished is kept: run the same command again, with fewer --workers."
                    ) from error

    def close(self) -> None:
        """Stop what has not begun and end the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class DaskWorkers:
    """The workers of a Dask cluster that is already running (dask.distributed).

    The scene's files must be where the workers see them, under the same names. A worker that is
    lost takes nothing with it: its batches go to another.
    """

    def __init__(self, scheduler: str) -> None:
        self._client = connect(scheduler)

    def encode(self, work: Work, batches: Sequence[Batch]) -> Iterator[Outcome]:
        """Yield batches as they are done. Raises TerrakinError if the cluster is lost."""
        distributed = _distributed()
        assert isinstance(work.task.encoder, str)
        folder = Path(work.task.encoder)
        files = tuple((path.name, path.read_bytes()) for path in sorted(folder.glob("encoder.*")))
        shared = self._client.scatter(replace(work.task, encoder=files), broadcast=True, hash=False)
        waiting = list(reversed(batches))
        threads = sum(self._client.nthreads().values())
        first = [waiting.pop() for _ in range(min(len(waiting), AHEAD * max(1, threads)))]
        pending = distributed.as_completed(
            [self._submit(shared, batch) for batch in first], loop=self._client.loop
        )
        for future in pending:
            try:
                outcome: Outcome = future.result()
            except (distributed.KilledWorker, OSError) as error:
                raise TerrakinError(
                    f"The Dask cluster lost its work ({type(error).__name__}). What was finished "
                    "is kept: run the same command again."
                ) from error
            if waiting:
                pending.add(self._submit(shared, waiting.pop()))
            yield _from_afar(outcome)

    def _submit(self, task: Any, batch: Batch) -> Any:
        return self._client.submit(encode_batch, task, batch, pure=False)

    def close(self) -> None:
        """Leave the cluster; it goes on."""
        leave(self._client)


def connect(scheduler: str) -> Any:
    """Return a client of a Dask cluster that has workers. Raises InputError, ExtraMissingError."""
    distributed = _distributed()
    if not _ADDRESS.fullmatch(scheduler):
        raise InputError(
            f"'{scheduler}' is no address of a Dask scheduler. Give what 'dask scheduler' prints, "
            "for example tcp://192.168.1.5:8786."
        )
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {scheduler} ({str(error).splitlines()[0][:200]}). "
            "Give the address that 'dask scheduler' prints, for example "
            "tcp://192.168.1.5:8786."
        ) from error
    if not client.scheduler_info()["workers"]:
        leave(client)
        raise InputError(
            f"The Dask scheduler at {scheduler} has no workers. Start some: "
            f"dask worker {scheduler}."
        )
    return client


def leave(client: Any) -> None:
    """Leave a cluster; it goes on."""
    with suppress(OSError, TimeoutError):
        client.close()


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """Lend a client of a Dask cluster; see ``connect``."""
    client = connect(scheduler)
    try:
        yield client
    finally:
        leave(client)


def _distributed() -> Any:
    """Return dask.distributed, which has no types. Raises ExtraMissingError."""
    try:
        return import_module("distributed")
    except ImportError as error:
        raise ExtraMissingError(
            "--scheduler needs dask.distributed: pip install 'terrakin[dask]', here and on the "
            "workers."
        ) from error


def encode_batch(task: SceneTask, batch: Batch) -> Outcome:
    """Encode one batch in a worker, which keeps the scene open for the next."""
    try:
        return batch, _rows(_opened(task), batch)
    except SourceError as error:
        return batch, error


def _from_afar(outcome: Outcome) -> Outcome:
    batch, rows = outcome
    if isinstance(rows, SourceNotFoundError):
        return batch, SourceNotFoundError(
            f"A worker of the Dask cluster says: {rows} All workers need to see the files under "
            "the names that they have here."
        )
    return outcome


def _opened(task: SceneTask) -> SceneEncoding:
    """Return the scene as this thread has it open; a Dask worker may have several threads."""
    kept: tuple[SceneTask, SceneEncoding] | None = getattr(_THREAD, "kept", None)
    if kept is None or kept[0] != task:
        if kept is not None:
            _THREAD.kept = None
            kept[1].scene.__exit__()
        kept = _THREAD.kept = task, task.open()
    return kept[1]


def _rows(encoding: SceneEncoding, batch: Batch) -> pa.Table | SourceError:
    try:
        return encoding.rows(batch)
    except SourceError as error:
        return error


def begin_process(processes: int) -> None:
    """Make a process ready, and let it end with the one that started it, even if that is killed."""
    _use_cores(processes)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _use_cores(processes: int) -> None:
    """Share the processor's cores among the processes, in the libraries that look for this."""
    cores: Callable[[], int | None] = os.cpu_count
    share = str(max(1, (cores() or 1) // processes))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, share)
