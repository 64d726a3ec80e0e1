"""The one tree of exceptions of the plugin. No Qt here.

A message says what came, what is allowed and what to do next: it is shown to the user as it is.
"""

from __future__ import annotations


class PluginError(Exception):
    """Base of everything a user must hear about."""


class PlaceError(PluginError):
    """The clicked point is not a place on Earth in the project's CRS."""


class RequestError(PluginError):
    """The user's search settings cannot be sent."""


class ReadyFileError(PluginError):
    """The ready file of a server is missing or not one."""


class CommandNotFoundError(PluginError):
    """The ``terrakin`` command is not installed where QGIS looks for it."""


class ServerStartError(PluginError):
    """The server was started but ended, or was not ready in time."""


class ServerError(PluginError):
    """Base of what can go wrong between the plugin and a server."""


class ServerNotRunningError(ServerError):
    """Nothing listens at the server's address, or something else does."""


class ServerLostError(ServerError):
    """The server went away while it was answering."""


class ServerTimeoutError(ServerError):
    """The server did not answer in time."""


class AnswerError(ServerError):
    """The answer is not what docs/api.md promises."""


class ProblemError(ServerError):
    """The server refused with a problem object (RFC 9457); ``code`` is stable."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class UnauthorizedError(ProblemError):
    """The server does not accept the token."""


class ApiVersionError(ProblemError):
    """Plugin and server speak different versions of the interface."""


class ExportError(PluginError):
    """The result could not be written to a file."""


class CancelledError(PluginError):
    """The user asked to stop."""
