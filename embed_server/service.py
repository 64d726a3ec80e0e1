"""Wire models -> embeddings -> wire models. No FastAPI here; every method may run in any thread."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from embed_server import models
from embed_server.errors import InvalidRequestError
from embed_server.job import Work
from embed_server.models import GEOJSON, Link
from embed_server.processes import PROCESSES, find_process
from embed_server.search_models import (
    FusedSearchRequest,
    NextPage,
    SearchRequest,
    SqlRequest,
)
from embed_server.search_request import next_page, search_query, weighted
from embed_server.settings import LimitSettings
from embed_server.turns import Turns
from embeddings import __version__
from embeddings.errors import CollectionNotFoundError, StoreFormatError
from embeddings.export import items_geojson, result_geojson
from embeddings.search import Searcher, SearchResult
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.store.sql import SqlLimits, run_sql
from embeddings.types import Bounds, TimeRange

logger = logging.getLogger(__name__)

CONFORMANCE = (
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/landing-page",
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/json",
    "http://www.opengis.net/spec/ogcapi-common-2/1.0/conf/collections",
)
OPENAPI_JSON = "application/vnd.oai.openapi+json;version=3.1"


class Service:
    """What the routes call."""

    def __init__(self, store: Store, limits: LimitSettings, base_url: str) -> None:
        self._store = store
        self._limits = limits
        self._base_url = base_url
        self._searcher = Searcher(store)
        self.sql_turns = Turns(limits.max_sql, limits.sql_wait_s)

    def landing(self) -> models.LandingPage:
        """Return the way in."""
        here = self._base_url
        return models.LandingPage(
            title="Terrakin",
            description=f"Earth embeddings in {self._store.path}, served to this machine.",
            links=[
                Link(rel="self", href=f"{here}/"),
                Link(rel="service-desc", href=f"{here}/api", type=OPENAPI_JSON),
                Link(rel="conformance", href=f"{here}/conformance"),
                Link(rel="data", href=f"{here}/collections"),
                Link(
                    rel="http://www.opengis.net/def/rel/ogc/1.0/processes", href=f"{here}/processes"
                ),
                Link(rel="http://www.opengis.net/def/rel/ogc/1.0/job-list", href=f"{here}/jobs"),
            ],
        )

    def health(self) -> models.Health:
        """Say who answers here."""
        return models.Health(version=__version__)

    def conformance(self) -> models.Conformance:
        """Name the OGC conformance classes."""
        return models.Conformance(conformsTo=list(CONFORMANCE))

    def collections(self) -> models.Collections:
        """Describe every readable collection; the log names one that is damaged."""
        found = []
        for name in [*self._store.names(), *self._store.shipped()]:
            try:
                found.append(self._described(self._store.collection(name)))
            except (CollectionNotFoundError, StoreFormatError) as error:
                logger.warning("Collection '%s' is left out of the list: %s", name, error)
        links = [Link(rel="self", href=f"{self._base_url}/collections")]
        return models.Collections(collections=found, links=links)

    def collection(self, collection_id: str) -> models.Collection:
        """Describe one collection. Raises CollectionNotFoundError."""
        return self._described(self._store.collection(collection_id))

    def items(self, collection_id: str, query: models.ItemsQuery) -> dict[str, Any]:
        """Return one page of items as GeoJSON. Raises CollectionNotFoundError or InputError."""
        self._within("limit", query.limit, self._limits.max_items)
        bounds = Bounds.parse(query.bbox) if query.bbox is not None else None
        time = TimeRange.parse(query.datetime) if query.datetime is not None else None
        reader = Reader(self._store.collection(collection_id))
        features = items_geojson(
            reader.items(bounds=bounds, time=time, limit=query.limit, offset=query.offset)
        )
        matched = reader.count(bounds=bounds, time=time)
        return {
            "type": "FeatureCollection",
            "features": features,
            "numberMatched": matched,
            "numberReturned": len(features),
            "links": self._page_links(collection_id, query, len(features), matched),
        }

    def item(self, collection_id: str, item_id: str) -> dict[str, Any]:
        """Return one item as GeoJSON. Raises CollectionNotFoundError or ItemNotFoundError."""
        reader = Reader(self._store.collection(collection_id))
        (feature,) = items_geojson(reader.item(item_id))
        here = f"{self._url_of(collection_id)}/items/{quote(item_id, safe='')}"
        links = [
            Link(rel="self", href=here, type=GEOJSON),
            Link(rel="collection", href=self._url_of(collection_id)),
        ]
        return {**feature, "links": [link.model_dump() for link in links]}

    def search(self, collection_id: str, request: SearchRequest) -> dict[str, Any]:
        """Find the places most like a place or examples, as GeoJSON.

        Raises InputError, OutsideCoverageError, NoDataAtPlaceError, ItemNotFoundError,
        CollectionNotFoundError or CollectionChangedError.
        """
        self._within("k", request.k, self._limits.max_k)
        query, notes = search_query(request)
        result = self._searcher.search(collection_id, query)
        return self._page(f"{self._url_of(collection_id)}/search", request, result, notes)

    def search_fused(self, request: FusedSearchRequest) -> dict[str, Any]:
        """Find them in several collections together. Raises the same errors."""
        self._within("k", request.k, self._limits.max_k)
        query, notes = search_query(request)
        result = self._searcher.search_fused(weighted(request), query)
        return self._page(f"{self._base_url}/search", request, result, notes)

    def _page(
        self, href: str, request: SearchRequest, result: SearchResult, notes: tuple[str, ...]
    ) -> dict[str, Any]:
        body = next_page(request, result)
        links = [] if body is None else [NextPage(href=href, body=body).model_dump()]
        return {**result_geojson(result, notes), "links": links}

    def sql(self, request: SqlRequest) -> bytes:
        """Answer one SELECT with a ``SqlAnswer`` as JSON, which the query's process has made.

        Raises InputError or TooManyQueriesError.
        """
        with self.sql_turns.turn():
            limits = SqlLimits(request.limit, request.timeout_s)
            return run_sql(self._store, request.query, limits).json

    def processes(self) -> models.Processes:
        """List what can run as a job."""
        return models.Processes(
            processes=[process.summary(self._base_url) for process in PROCESSES.values()],
            links=[Link(rel="self", href=f"{self._base_url}/processes")],
        )

    def process(self, process_id: str) -> models.ProcessDescription:
        """Describe one process. Raises ProcessNotFoundError."""
        return find_process(process_id).describe(self._base_url)

    def work(self, process_id: str, execution: models.Execution) -> Work:
        """Return the checked work of a process.

        Raises ProcessNotFoundError or InvalidRequestError.
        """
        return find_process(process_id).work(self._store.path, execution.inputs)

    def _described(self, collection: Collection) -> models.Collection:
        bounds, time = collection.bounds, collection.time
        here = self._url_of(collection.id)
        return models.Collection(
            id=collection.id,
            title=collection.title,
            description=collection.description,
            license=collection.licence,
            extent=models.Extent(
                spatial=models.SpatialExtent(
                    bbox=[list(bounds.west_south_east_north())] if bounds else []
                ),
                temporal=models.TemporalExtent(interval=[[_utc(time.start), _utc(time.end)]]),
            ),
            itemCount=collection.count,
            spec=collection.spec.to_json(),
            links=[
                Link(rel="self", href=here),
                Link(rel="items", href=f"{here}/items", type=GEOJSON),
            ],
        )

    def _page_links(
        self, collection_id: str, query: models.ItemsQuery, returned: int, matched: int
    ) -> list[dict[str, Any]]:
        here = f"{self._url_of(collection_id)}/items"
        asked = query.model_dump(exclude_none=True)
        links = [Link(rel="self", href=f"{here}?{urlencode(asked)}", type=GEOJSON)]
        if returned and query.offset + returned < matched:
            following = asked | {"offset": query.offset + returned}
            links.append(Link(rel="next", href=f"{here}?{urlencode(following)}", type=GEOJSON))
        return [link.model_dump() for link in links]

    def _url_of(self, collection_id: str) -> str:
        return f"{self._base_url}/collections/{quote(collection_id, safe='')}"

    @staticmethod
    def _within(name: str, value: int, most: int) -> None:
        if value > most:
            raise InvalidRequestError(
                f"{name} is {value:,}; 1 to {most:,} are allowed. Ask for fewer."
            )


def _utc(time: datetime | None) -> str | None:
    return time.isoformat().replace("+00:00", "Z") if time else None
