"""Talk to a server: endpoints build, transport sends, wire reads."""

from __future__ import annotations

from typing import Any, Callable

from . import endpoints
from .errors import ServerNotRunningError
from .transport import send
from .wire import Collection, Health, ReadyFile, SearchAnswer, SearchRequest


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

    def _ask(self, request: endpoints.Request) -> Any:
        status, body = send(request, self._is_cancelled)
        return endpoints.read_answer(status, body, request.url)
