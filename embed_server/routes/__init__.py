"""The routes: one file per resource. They receive, call the service or the jobs, and answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from embed_server.models import PROBLEM_JSON, Problem
from embed_server.routes import collections, items, jobs, landing, processes, search, sql

# For the OpenAPI description only: embed_server.security has checked the token before.
_TOKEN = Depends(HTTPBearer(auto_error=False, description="The token of the ready file."))

_PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem object (RFC 9457).",
        "content": {PROBLEM_JSON: {"schema": Problem.model_json_schema()}},
    }
}


def all_routes() -> APIRouter:
    """Return the routes of the whole interface."""
    router = APIRouter(responses=_PROBLEM)
    router.include_router(landing.open_router)
    for part in (landing, collections, items, search, sql, processes, jobs):
        router.include_router(part.router, dependencies=[_TOKEN])
    return router
