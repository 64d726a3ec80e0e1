"""Read-only SQL over the collections."""

from __future__ import annotations

from fastapi import APIRouter

from embed_server.routes.state import TheService
from embed_server.search_models import SqlAnswer, SqlRequest

router = APIRouter(tags=["sql"])


@router.post("/sql")
def sql(request: SqlRequest, service: TheService) -> SqlAnswer:
    """Answer one SELECT, within limits of rows and time."""
    return service.sql(request)
