"""The process of one SQL query: a task as JSON in, an Arrow stream or an error as JSON out."""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import pyarrow as pa

from embeddings.errors import InputError, TerrakinError
from embeddings.store.reader import Sandbox
from embeddings.store.sql import GRACE_SECONDS, REFUSED, too_long

BATCH_ROWS = 1_024
MEGABYTE = 2**20
HEADROOM = 2**31
"""Bytes beside DuckDB's own limit: threads, Arrow, and vectors that DuckDB does not count."""

_ended = threading.Lock()
"""Held by the thread that answers; any other waits until the process is gone."""


def main() -> None:
    """Answer the task on standard input; this process ends in time whatever the query does."""
    task = json.load(sys.stdin)
    limits = task["limits"]
    _limit_memory(limits["memory_mb"])
    _end_after(limits["seconds"] + GRACE_SECONDS, too_long(limits["seconds"]))
    try:
        sink = pa.BufferOutputStream()
        table = _answer(task, limits)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        code, answer = 0, sink.getvalue().to_pybytes()
    except TerrakinError as error:
        code, answer = REFUSED, _message(str(error))
    except MemoryError:
        code, answer = REFUSED, _message("The query needs more memory than it may have.")
    _end(code, answer)


def _answer(task: dict[str, Any], limits: dict[str, Any]) -> pa.Table:
    """Return the rows up to the limits; the schema's metadata says whether there were more."""
    sandbox = Sandbox(task["views"], task["files"], limits["memory_mb"])
    timer = threading.Timer(limits["seconds"], sandbox.interrupt)
    timer.daemon = True
    timer.start()
    try:
        reader = sandbox.select(task["text"], BATCH_ROWS)
        kept: list[pa.RecordBatch] = []
        rows = size = 0
        truncated = False
        for batch in sandbox.batches(reader):
            left = limits["rows"] - rows
            full = rows > 0 and size > limits["answer_mb"] * MEGABYTE
            truncated = full or batch.num_rows > left
            if not full:
                kept.append(batch.slice(0, left))
            if truncated:
                break
            rows += batch.num_rows
            size += batch.nbytes
    except TimeoutError:
        raise InputError(too_long(limits["seconds"])) from None
    table = pa.Table.from_batches(kept, reader.schema)
    return table.replace_schema_metadata({"truncated": "yes" if truncated else "no"})


def _message(text: str) -> bytes:
    return json.dumps({"message": text}).encode()


def _end(code: int, answer: bytes) -> None:
    """Answer and end the process at once, whatever other threads do."""
    _ended.acquire()
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    os._exit(code)


def _end_after(seconds: float, message: str) -> None:
    timer = threading.Timer(seconds, _end, (REFUSED, _message(message)))
    timer.daemon = True
    timer.start()


def _limit_memory(memory_mb: int) -> None:
    """Bound what the whole process may take, where the system knows such a bound."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most = memory_mb * MEGABYTE + HEADROOM
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main()
