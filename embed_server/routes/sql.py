"""Read-only SQL over the collections."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from embed_server.routes.state import TheService
from embed_server.search_models import SqlAnswer, SqlRequest

router = APIRouter(tags=["sql"])


@router.post("/sql", response_model=SqlAnswer)
def sql(request: SqlRequest, service: TheService) -> Response:
    """Answer one SELECT, within limits of rows and time."""
    return Response(service.sql(request), media_type="application/json")
