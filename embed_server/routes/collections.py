"""Collections of embeddings."""

from __future__ import annotations

from fastapi import APIRouter

from embed_server.models import Collection, Collections
from embed_server.routes.state import TheService

router = APIRouter(prefix="/collections", tags=["collections"])


@router.get("")
def collections(service: TheService) -> Collections:
    """List the collections of the store."""
    return service.collections()


@router.get("/{collection_id}")
def collection(collection_id: str, service: TheService) -> Collection:
    """Describe one collection."""
    return service.collection(collection_id)
