"""The server's own exceptions, and the one table that gives every exception its HTTP status.

Codes stand on the exception classes. No FastAPI here: ``app`` turns exceptions into responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from embed_server.models import Problem
from embeddings import errors as embedding_errors
from embeddings.errors import TerrakinError


class ServerError(TerrakinError):
    """Base of what can go wrong around the server, not in the science."""

    code = "server-error"
    headers: ClassVar[Mapping[str, str]] = {}


class PortTakenError(ServerError):
    """The port cannot be bound. Seen on the command line only."""

    code = "port-taken"


class ReadyFileError(ServerError):
    """The ready file cannot be written or read. Seen on the command line and in the client."""

    code = "ready-file"


class StdinMissingError(ServerError):
    """The server should stop with its standard input but has none. Command line only."""

    code = "stdin-missing"


class SettingError(ServerError):
    """An environment variable sets a value that is not allowed. Command line only."""

    code = "invalid-setting"


class InvalidRequestError(ServerError):
    """The request is not of the form the interface asks for."""

    code = "invalid-request"

    @classmethod
    def of(cls, errors: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
        """Name the first three of pydantic's ``errors``, with the values received."""
        shown = "; ".join(_described(error) for error in errors[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        return cls(f"The request is not valid: {shown}{more}. GET /api describes what is allowed.")


class BadHostError(ServerError):
    """The Host header does not name the loopback: a rebound web page, or a wrong address."""

    code = "bad-host"


class UnauthorizedError(ServerError):
    """The token is missing or wrong."""

    code = "unauthorized"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class NotFoundError(ServerError):
    """No resource has this path."""

    code = "not-found"


class ProcessNotFoundError(NotFoundError):
    """No process has this id."""

    code = "process-not-found"


class JobNotFoundError(NotFoundError):
    """No job has this id, or it was forgotten."""

    code = "job-not-found"


class ResultNotReadyError(NotFoundError):
    """The job has no result (yet)."""

    code = "result-not-ready"


class MethodNotAllowedError(ServerError):
    """The resource exists but does not know this method."""

    code = "method-not-allowed"


class ApiVersionError(ServerError):
    """The client speaks a version of the interface that this server does not."""

    code = "api-version"


class RequestTooLargeError(ServerError):
    """The body of the request is larger than allowed."""

    code = "request-too-large"
    # The rest of the body is not read, so the connection cannot serve another request.
    headers: ClassVar[Mapping[str, str]] = {"Connection": "close"}


class TooManyJobsError(ServerError):
    """The queue of jobs is full."""

    code = "too-many-jobs"


class TooManyQueriesError(ServerError):
    """As many SQL queries run as may at once."""

    code = "too-many-queries"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


STATUS: dict[type[TerrakinError], HTTPStatus] = {
    embedding_errors.InputError: HTTPStatus.BAD_REQUEST,
    embedding_errors.PlaceError: HTTPStatus.BAD_REQUEST,
    embedding_errors.SourceError: HTTPStatus.BAD_REQUEST,
    embedding_errors.SourceNotFoundError: HTTPStatus.BAD_REQUEST,
    embedding_errors.NoDataError: HTTPStatus.BAD_REQUEST,
    embedding_errors.BandError: HTTPStatus.BAD_REQUEST,
    embedding_errors.OutsideCoverageError: HTTPStatus.NOT_FOUND,
    embedding_errors.NoDataAtPlaceError: HTTPStatus.NOT_FOUND,
    embedding_errors.StoreError: HTTPStatus.INTERNAL_SERVER_ERROR,
    embedding_errors.StoreFormatError: HTTPStatus.INTERNAL_SERVER_ERROR,
    embedding_errors.CollectionNotFoundError: HTTPStatus.NOT_FOUND,
    embedding_errors.ItemNotFoundError: HTTPStatus.NOT_FOUND,
    embedding_errors.CollectionExistsError: HTTPStatus.CONFLICT,
    embedding_errors.SpecMismatchError: HTTPStatus.CONFLICT,
    embedding_errors.CollectionChangedError: HTTPStatus.CONFLICT,
    embedding_errors.StoreLockedError: HTTPStatus.CONFLICT,
    embedding_errors.StoreNotWritableError: HTTPStatus.INSUFFICIENT_STORAGE,
    embedding_errors.StorageFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    embedding_errors.ExtraMissingError: HTTPStatus.NOT_IMPLEMENTED,
    InvalidRequestError: HTTPStatus.BAD_REQUEST,
    BadHostError: HTTPStatus.BAD_REQUEST,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ProcessNotFoundError: HTTPStatus.NOT_FOUND,
    JobNotFoundError: HTTPStatus.NOT_FOUND,
    ResultNotReadyError: HTTPStatus.NOT_FOUND,
    MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
    ApiVersionError: HTTPStatus.NOT_ACCEPTABLE,
    RequestTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooManyJobsError: HTTPStatus.TOO_MANY_REQUESTS,
    TooManyQueriesError: HTTPStatus.TOO_MANY_REQUESTS,
}
"""A class that is not listed has the status of its nearest listed ancestor."""

INTERNAL_CODE = "internal"
INTERNAL_DETAIL = (
    "The server failed unexpectedly; nothing you sent explains it. The reason stands in the "
    "server's log (its standard error). Please report it."
)


def problem_of(error: BaseException) -> Problem:
    """Return the problem object (RFC 9457) of any exception; an unlisted one is ``internal``."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUS and isinstance(error, TerrakinError):
            status = STATUS[ancestor]
            return Problem(
                title=status.phrase, status=status.value, detail=str(error), code=error.code
            )
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Problem(
        title=status.phrase, status=status.value, detail=INTERNAL_DETAIL, code=INTERNAL_CODE
    )


def _described(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON ({error.get('ctx', {}).get('error', 'it ends early')})"
    if isinstance(error.get("input"), bytes):
        return "the body was not read as JSON; send it with 'Content-Type: application/json'"
    where = ".".join(str(part) for part in error["loc"] if part != "body") or "the body"
    received = repr(error.get("input"))
    if len(received) > 80:
        received = received[:77] + "..."
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]} (received {received})"
