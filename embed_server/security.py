"""Who and what is let in, decided before any route: Host, token, interface version, body.

The server trusts nothing but its token. The Host check stops web pages whose name was made to
resolve to 127.0.0.1 (DNS rebinding); there are no CORS headers, so no other page can read an
answer.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embed_server.errors import (
    ApiVersionError,
    BadHostError,
    InvalidRequestError,
    RequestTooLargeError,
    ServerError,
    UnauthorizedError,
    problem_of,
)
from embed_server.models import API_VERSION, PROBLEM_JSON
from embed_server.settings import Settings

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
VERSION_HEADER = "Terrakin-Api-Version"
OPEN_PATH = "/health"
HTTP_PORT = 80
_WHOLE_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?!u[dD][89a-fA-F]).)", re.DOTALL
)
"""What a backslash may begin in JSON: a pair of surrogates, or anything but one surrogate."""


def problem_response(error: BaseException) -> JSONResponse:
    """Return the problem object of an exception as a response."""
    problem = problem_of(error)
    headers = dict(error.headers) if isinstance(error, ServerError) else None
    return JSONResponse(
        problem.model_dump(), problem.status, headers=headers, media_type=PROBLEM_JSON
    )


class Guard:
    """ASGI middleware that lets a request through or answers with a problem object."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._port = settings.server.port
        self._token = settings.security.token.get_secret_value().encode()
        self._max_body_bytes = settings.limits.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            check_host(headers, self._port)
            if scope["path"] != OPEN_PATH:
                check_token(headers, self._token)
                check_version(headers)
            body = await read_body(headers, receive, self._max_body_bytes)
            check_text(body or b"")
        except ServerError as error:
            await problem_response(error)(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)


def check_host(headers: Headers, port: int) -> None:
    """Raise BadHostError unless the one Host header names the loopback and our port."""
    hosts = headers.getlist("host")
    allowed = {f"{name}:{port}" for name in LOOPBACK_NAMES}
    if port == HTTP_PORT:
        allowed.update(LOOPBACK_NAMES)
    if len(hosts) != 1 or hosts[0].lower() not in allowed:
        raise BadHostError(
            f"The Host header says '{', '.join(hosts)}'. This server answers to "
            f"{', '.join(sorted(allowed))} only; use the url of its ready file."
        )


def check_token(headers: Headers, token: bytes) -> None:
    """Raise UnauthorizedError unless the one Authorization header carries the token."""
    given = headers.getlist("authorization")
    scheme, _, received = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise UnauthorizedError(
            "The request carries no token. Send 'Authorization: Bearer TOKEN' with the token of "
            "the server's ready file."
        )
    # Header bytes are latin-1; comparing takes the same time however much of the token is right.
    if not secrets.compare_digest(received.strip().encode("latin-1"), token):
        raise UnauthorizedError(
            "The token is not this server's. Every start makes a new one: read the ready file "
            "again."
        )


def check_version(headers: Headers) -> None:
    """Raise ApiVersionError if the client states a version this server does not speak."""
    stated = headers.getlist(VERSION_HEADER)
    if any(version.strip() != str(API_VERSION) for version in stated):
        raise ApiVersionError(
            f"The client speaks version {', '.join(stated)} of the interface, this server speaks "
            f"version {API_VERSION}. Update the older of the two."
        )


async def read_body(headers: Headers, receive: Receive, max_bytes: int) -> bytes | None:
    """Read the whole body, so that no route sees more than ``max_bytes`` however it is sent.

    Return None if the client went away. Raises RequestTooLargeError.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(f"{int(announced):,}", max_bytes)
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(f"more than {max_bytes:,}", max_bytes)
        more = message.get("more_body", False)
    return bytes(body)


def check_text(body: bytes) -> None:
    """Raise InvalidRequestError if JSON in ``body`` would hold what cannot be written again.

    That is one surrogate without the other, escaped (``"\\ud800"``) or as bytes: Python reads it
    as a character, and an answer that repeats it cannot be encoded.
    """
    try:
        # Python's reader takes what has zero bytes for UTF-16 or UTF-32, and surrogates in them.
        readable = "\0" not in body.decode()
    except UnicodeDecodeError:
        readable = False
    if not readable:
        raise InvalidRequestError("The body of the request is not text in UTF-8. Send JSON so.")
    suspect = b"\\ud" in body or b"\\uD" in body
    if suspect and b"\\" in _WHOLE_ESCAPE.sub(b"", body):
        raise InvalidRequestError(
            "The body of the request holds half of a character: one surrogate, \\ud800 to "
            "\\udfff, without the other. Send whole characters, in UTF-8 or as pairs such as "
            "\\ud83d\\ude00."
        )


def _too_large(size: str, max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The body of the request has {size} bytes; {max_bytes:,} are allowed. Name files by "
        "their paths instead of sending them."
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``body`` once and then what the client does next."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
