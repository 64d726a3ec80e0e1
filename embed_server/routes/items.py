"""The items of a collection: one GeoJSON feature an embedding."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from embed_server.models import Feature, Items, ItemsQuery
from embed_server.routes.state import GeoJsonResponse, TheService

router = APIRouter(
    prefix="/collections/{collection_id}/items",
    tags=["items"],
    default_response_class=GeoJsonResponse,
)


@router.get("", response_model=Items)
def items(
    collection_id: str, query: Annotated[ItemsQuery, Query()], service: TheService
) -> GeoJsonResponse:
    """List items, by place and time if asked, one page at a time."""
    return GeoJsonResponse(service.items(collection_id, query))


@router.get("/{item_id}", response_model=Feature)
def item(collection_id: str, item_id: str, service: TheService) -> GeoJsonResponse:
    """Return one item."""
    return GeoJsonResponse(service.item(collection_id, item_id))
