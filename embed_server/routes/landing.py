"""The way in: landing page, conformance, and the one resource without token, health."""

from __future__ import annotations

from fastapi import APIRouter

from embed_server.models import Conformance, Health, LandingPage
from embed_server.routes.state import TheService

open_router = APIRouter(tags=["about"])
router = APIRouter(tags=["about"])


@open_router.get("/health")
def health(service: TheService) -> Health:
    """Say who answers here and which version of the interface it speaks."""
    return service.health()


@router.get("/")
def landing(service: TheService) -> LandingPage:
    """Link to everything."""
    return service.landing()


@router.get("/conformance")
def conformance(service: TheService) -> Conformance:
    """Name the OGC conformance classes."""
    return service.conformance()
