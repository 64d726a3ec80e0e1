"""``create_app``: the ASGI application of one server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from embed_server.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError
from embed_server.jobs import JobQueue
from embed_server.routes import all_routes
from embed_server.security import Guard, problem_response
from embed_server.service import Service
from embed_server.settings import Settings
from embeddings import __version__
from embeddings.errors import TerrakinError
from embeddings.store import Store

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Build the application over an existing store.

    The port in ``settings`` must be the one that clients use: links and the Host check name it.
    Raises StoreError if the store cannot be opened.
    """
    store = Store.create(settings.store)
    jobs = JobQueue(settings.limits, settings.server.url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        try:
            yield
        finally:
            await run_sync(jobs.close)

    app = FastAPI(
        title="Terrakin",
        summary="Search Earth embeddings on this machine.",
        version=__version__,
        openapi_url="/api",
        # Their pages load scripts from the internet; Terrakin works offline.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = Service(store, settings.limits, settings.server.url)
    app.state.jobs = jobs
    app.include_router(all_routes())
    app.add_middleware(Guard, settings=settings)
    app.add_exception_handler(TerrakinError, _failed)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _failed(request: Request, error: Exception) -> Response:
    response = problem_response(error)
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s %s failed.", request.method, request.url.path, exc_info=error)
    return response


def _unexpected(_: Request, error: Exception) -> Response:
    """Answer; Starlette raises the error again after that, and uvicorn logs its traceback."""
    return problem_response(error)


def _not_valid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(InvalidRequestError.of(error.errors()))


def _refused(request: Request, error: Exception) -> Response:
    """Turn the framework's own refusals into ours."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(
            NotFoundError(f"There is nothing at '{path}'. GET / links to what there is.")
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = problem_response(
            MethodNotAllowedError(f"'{path}' does not know {request.method}; it knows {allowed}.")
        )
        response.headers["Allow"] = allowed
        return response
    return problem_response(
        InvalidRequestError(f"{error.detail}. GET /api describes what is allowed.")
    )
