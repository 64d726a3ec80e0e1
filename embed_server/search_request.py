"""A search as the client sends it -> a search as ``embeddings`` takes it."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from embed_server.search_models import (
    ExamplesRequest,
    FilterRequest,
    FusedSearchRequest,
    SearchRequest,
)
from embeddings.errors import InputError
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.query.polygons import read_polygons
from embeddings.search import SearchQuery, SearchResult, Weighted
from embeddings.sources.areas import Area
from embeddings.types import Bounds, LonLat, TimeRange


def search_query(request: SearchRequest) -> tuple[SearchQuery, tuple[str, ...]]:
    """Return the query, and notes on what was mended in it. Raises InputError."""
    notes: list[str] = []
    query = SearchQuery(
        at=None if request.at is None else LonLat(*request.at),
        k=request.k,
        exclude_m=request.exclude_m,
        positive=_examples(request.positive, notes),
        negative=_examples(request.negative, notes),
        filter=_filter(request.filter, notes),
        apart_m=request.apart_m,
        limit=request.limit,
        offset=request.offset,
        state=request.state,
        confirmed=tuple(request.confirmed),
        rejected=tuple(request.rejected),
    )
    return query, tuple(notes)


def weighted(request: FusedSearchRequest) -> tuple[Weighted, ...]:
    """Return the collections that are to be searched together. Raises InputError."""
    return tuple(Weighted(each.id, each.weight) for each in request.collections)


def next_page(request: SearchRequest, result: SearchResult) -> dict[str, Any] | None:
    """Return the request for the page after ``result``; None after the last."""
    if result.next_offset is None:
        return None
    asked = request.model_dump(mode="json", exclude_unset=True)
    return {**asked, "offset": result.next_offset, "state": result.state}


def _examples(given: ExamplesRequest, notes: list[str]) -> Examples:
    return Examples(
        places=tuple(LonLat(*place) for place in given.places),
        ids=tuple(given.ids),
        areas=_areas(given.polygons, None, notes),
        vectors=tuple(map(tuple, given.vectors)),
        images=tuple(map(_image, given.images)),
    )


def _image(path: str) -> Path:
    if not PurePath(path).is_absolute():
        raise InputError(
            f"Image '{path}' is not the absolute path of a file on this machine. Give that."
        )
    return Path(path)


def _filter(given: FilterRequest, notes: list[str]) -> Filter:
    return Filter(
        bounds=None if given.bbox is None else Bounds(*given.bbox),
        polygons=_areas(given.polygons, given.crs, notes),
        time=None if given.datetime is None else TimeRange.parse(given.datetime),
        where=given.where,
        ids=None if given.ids is None else tuple(given.ids),
    )


def _areas(geojson: dict[str, Any] | None, crs: str | None, notes: list[str]) -> tuple[Area, ...]:
    if geojson is None:
        return ()
    read = read_polygons(geojson, crs)
    notes.extend(read.notes)
    return (read.area,)
