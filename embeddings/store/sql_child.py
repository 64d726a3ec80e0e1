"""The process of one SQL query: a task as JSON in, the answer or an error as JSON out."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import orjson

from embeddings.errors import InputError, TerrakinError
from embeddings.store.reader import Sandbox
from embeddings.store.sql import GRACE_SECONDS, REFUSED, too_long
from embeddings.store.sql_answer import encoded

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
        code, answer = 0, _answer(task, limits)
    except TerrakinError as error:
        code, answer = REFUSED, _message(str(error))
    except MemoryError:
        code, answer = REFUSED, _message("The query needs more memory than it may have.")
    _end(code, answer)


def _answer(task: dict[str, Any], limits: dict[str, Any]) -> bytes:
    """Return the rows up to the limits, as ``SqlResult`` has them."""
    sandbox = Sandbox(task["views"], task["files"], limits["memory_mb"])
    timer = threading.Timer(limits["seconds"], sandbox.interrupt)
    timer.daemon = True
    timer.start()
    try:
        reader = sandbox.select(task["text"], BATCH_ROWS)
        columns, most = reader.schema.names, limits["answer_mb"] * MEGABYTE
        rows, truncated = encoded(sandbox.batches(reader), columns, limits["rows"], most)
    except TimeoutError:
        raise InputError(too_long(limits["seconds"])) from None
    answer = {
        "columns": columns,
        "rows": orjson.Fragment(b"[" + b",".join(rows) + b"]"),
        "truncated": truncated,
        "seconds": time.monotonic() - task["started"],
    }
    return orjson.dumps(answer)


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
