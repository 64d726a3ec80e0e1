"""Similarity search."""

from __future__ import annotations

from fastapi import APIRouter

from embed_server.routes.state import GeoJsonResponse, TheService
from embed_server.search_models import (
    FusedSearchAnswer,
    FusedSearchRequest,
    SearchAnswer,
    SearchRequest,
)

router = APIRouter(tags=["search"], default_response_class=GeoJsonResponse)


@router.post("/collections/{collection_id}/search", response_model=SearchAnswer)
def search(collection_id: str, request: SearchRequest, service: TheService) -> GeoJsonResponse:
    """Find the places most like a place, or like examples."""
    return GeoJsonResponse(service.search(collection_id, request))


@router.post("/search", response_model=FusedSearchAnswer)
def search_fused(request: FusedSearchRequest, service: TheService) -> GeoJsonResponse:
    """Find the places most like a place, or like examples, in several collections together."""
    return GeoJsonResponse(service.search_fused(request))
