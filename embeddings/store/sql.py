"""Read-only SQL over the collections of a store, in a process of its own that is always stopped.

DuckDB's limits alone do not hold: some functions neither hear an interruption nor count against
its memory limit. So the query runs in a child process, which ends with its time; the child's
database sees the parts of the collections and no other file, and cannot be told otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from embeddings.errors import InputError, StoreError, StoreFormatError
from embeddings.store.collection import Collection
from embeddings.store.reader import quoted
from embeddings.store.schema import item_columns
from embeddings.store.store import Store

MAX_ROWS = 100_000
MAX_SECONDS = 600.0
MAX_LENGTH = 100_000
GRACE_SECONDS = 5.0
"""The child gets so much longer to start and to stop by itself."""
REFUSED = 3
"""The child's exit code where its answer is an error as JSON."""


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """How much a query may take. Raises InputError.

    ``memory_mb`` is DuckDB's own limit, ``answer_mb`` that of the columns and rows as JSON.
    """

    rows: int = 1_000
    seconds: float = 30.0
    memory_mb: int = 2_048
    answer_mb: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise InputError(f"The row limit is {self.rows}; it may be 1 to {MAX_ROWS:,}.")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise InputError(
                f"The time limit is {self.seconds:g} s; it may be up to {MAX_SECONDS:g} s."
            )
        if self.memory_mb < 64 or self.answer_mb < 1:
            raise InputError("The memory limit must be 64 MB or more, the answer's 1 MB or more.")


@dataclass(frozen=True)
class SqlResult:
    """The first rows of an answer, as the query's process wrote them."""

    json: bytes
    """An object with what the properties return."""

    @cached_property
    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self.json))

    @property
    def columns(self) -> list[str]:
        """Names of the columns; two may be equal."""
        return list(self._read["columns"])

    @property
    def rows(self) -> list[list[Any]]:
        """Rows as JSON holds them: times as ISO 8601, bytes as base64, what is not finite null."""
        return list(self._read["rows"])

    @property
    def truncated(self) -> bool:
        """Whether there were more rows."""
        return bool(self._read["truncated"])

    @property
    def seconds(self) -> float:
        """From the question until the answer was made."""
        return float(self._read["seconds"])


def run_sql(store: Store, text: str, limits: SqlLimits | None = None) -> SqlResult:
    """Answer one SELECT (or WITH, DESCRIBE, SHOW) over views, one for each collection.

    Raises InputError for what is not allowed, cannot be read or takes too long or too much memory.
    """
    limits = limits or SqlLimits()
    if len(text) > MAX_LENGTH:
        raise InputError(f"The query has {len(text):,} characters; it may have {MAX_LENGTH:,}.")
    # The clock that all processes share.
    started = time.monotonic()
    collections = list(_readable(store))
    task = {
        "text": text,
        "views": {each.id: view(each) for each in collections},
        "files": [file for each in collections for file in _files(each)],
        "limits": asdict(limits),
        "started": started,
    }
    return SqlResult(_in_a_child(task, limits))


def view(collection: Collection) -> str:
    """Return the SQL that makes the view of a collection: its columns, embeddings decoded."""
    spec = collection.spec
    stored = '"embedding"'
    if spec.scale is not None:
        scales = ", ".join(map(repr, spec.scale))
        stored = f"list_transform({stored}, lambda v, i: v * ([{scales}]::FLOAT[])[i])"
    names = [quoted(name) for name in item_columns(spec)]
    names.append(f"{stored}::FLOAT[{spec.dim}] AS embedding")
    files = ", ".join("'" + file.replace("'", "''") + "'" for file in _files(collection))
    return (
        f"CREATE VIEW {quoted(collection.id)} AS SELECT {', '.join(names)} "
        f"FROM read_parquet([{files}])"
    )


def _files(collection: Collection) -> list[str]:
    return [path.resolve().as_posix() for path in collection.part_paths]


def _readable(store: Store) -> Iterable[Collection]:
    """Yield the collections that have rows and can be read; the others have no view."""
    for name in [*store.names(), *store.shipped()]:
        try:
            collection = store.collection(name)
        except StoreFormatError:
            continue
        if collection.count and all(path.is_file() for path in collection.part_paths):
            yield collection


def _in_a_child(task: dict[str, Any], limits: SqlLimits) -> bytes:
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            # -P: a file json.py of the folder that the server runs in is not Python's json.
            [sys.executable, "-P", "-m", "embeddings.store.sql_child"],
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=limits.seconds + 2 * GRACE_SECONDS,
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows
        )
    except subprocess.TimeoutExpired:
        raise InputError(too_long(limits.seconds)) from None
    if done.returncode == REFUSED:
        raise InputError(json.loads(done.stdout)["message"])
    if done.returncode == 1:
        raise StoreError(f"The query's process failed: {_last_line(done.stderr)}.")
    if done.returncode:
        raise StoreError(
            f"The query's process ended with code {done.returncode}, most likely for lack of "
            f"memory ({limits.memory_mb:,} MB are allowed). Ask for fewer rows or columns."
        )
    return done.stdout


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rsplit("\n", maxsplit=1)[-1].rstrip(".")


def too_long(seconds: float) -> str:
    """Say that a query was stopped."""
    return (
        f"The query took longer than {seconds:g} s and was stopped. Ask for less (a WHERE on lon "
        "and lat, no cross join), or allow it more time."
    )
