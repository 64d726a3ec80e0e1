"""Work that takes much memory is done a few at a time; the rest waits a little, or is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from embed_server.errors import TooManyQueriesError

MOST_WAITING = 8
"""Each of those who wait holds one of the server's 40 worker threads, and searches need some."""


class Turns:
    """At most ``most`` have their turn at once; others wait for it up to ``wait_s`` seconds."""

    def __init__(self, most: int, wait_s: float) -> None:
        self._most = most
        self._wait_s = wait_s
        self._free = threading.BoundedSemaphore(most)
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold a turn for the length of a with block. Raises TooManyQueriesError."""
        if not self._free.acquire(blocking=False):
            self._wait()
        try:
            yield
        finally:
            self._free.release()

    def _wait(self) -> None:
        if not self._places.acquire(blocking=False):
            raise self._refused(f"{MOST_WAITING} more wait already")
        try:
            if not self._free.acquire(timeout=self._wait_s):
                raise self._refused(f"none of them ended within {self._wait_s:g} s")
        finally:
            self._places.release()

    def _refused(self, why: str) -> TooManyQueriesError:
        return TooManyQueriesError(
            f"As many SQL queries run as may at once ({self._most}), and {why}. Try again later, "
            "or start the server with a larger TERRAKIN_LIMIT_MAX_SQL."
        )
