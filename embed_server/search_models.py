"""The wire contract of searches and SQL (docs/api.md). Places are [longitude, latitude]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from embed_server.models import GEOJSON, MAX_OFFSET, Feature, LonLatPair, Received, Sent


class ExamplesRequest(Received):
    """Examples of what is wanted, or of what is not."""

    places: list[LonLatPair] = Field(default=[], description="[[longitude, latitude], ...]")
    ids: list[StrictStr] = Field(default=[], description="Ids of items.")
    polygons: dict[str, Any] | None = Field(
        default=None, description="GeoJSON: each chip whose centre lies inside."
    )
    vectors: list[list[StrictFloat]] = Field(
        default=[], description="Vectors as stored in the collection."
    )
    images: list[StrictStr] = Field(
        default=[], description="Absolute paths on this machine: an image of one chip each."
    )


class FilterRequest(Received):
    """What all results must meet; what is left out asks for nothing."""

    bbox: Annotated[list[StrictFloat], Field(min_length=4, max_length=4)] | None = Field(
        default=None, description="[west, south, east, north] of centres; W > E over ±180."
    )
    polygons: dict[str, Any] | None = Field(
        default=None, description="GeoJSON that holds the centres."
    )
    crs: StrictStr | None = Field(
        default=None, description="CRS of the polygons' coordinates, 'EPSG:32617'; else lon, lat."
    )
    datetime: StrictStr | None = Field(
        default=None, description="ISO 8601: an instant, A/B, ../B or A/.. (UTC)."
    )
    where: StrictStr | None = Field(
        default=None, description="Expression over the columns: cloud < 20 AND class = 'field'."
    )
    ids: list[StrictStr] | None = Field(default=None, description="The only items allowed.")


class SearchRequest(Received):
    """Which place or examples to start from, how many kin to find, and which may be found."""

    at: LonLatPair | None = Field(
        default=None, description="[longitude, latitude] in degrees: a positive example."
    )
    positive: ExamplesRequest = Field(default=ExamplesRequest())
    negative: ExamplesRequest = Field(default=ExamplesRequest())
    filter: FilterRequest = Field(default=FilterRequest())
    k: StrictInt = Field(default=10, ge=1)
    exclude_m: StrictFloat = Field(default=0.0, ge=0, allow_inf_nan=False, description="Metres.")
    apart_m: StrictFloat = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Least metres between two results."
    )
    limit: StrictInt | None = Field(
        default=None, ge=1, description="Most results of the k on this page; all."
    )
    offset: StrictInt = Field(
        default=0, ge=0, le=MAX_OFFSET, description="How many of the k come before this page."
    )
    state: StrictStr | None = Field(
        default=None, description="That of the first page; the request fails if it has changed."
    )
    confirmed: list[StrictStr] = Field(
        default=[], description="Ids of results that were judged right."
    )
    rejected: list[StrictStr] = Field(
        default=[], description="Ids of results that were judged wrong."
    )


class WeightedCollection(Received):
    """A collection and how much its cosine counts."""

    id: StrictStr
    weight: StrictFloat = Field(default=1.0, description="0.001 to 1,000.")


class FusedSearchRequest(SearchRequest):
    """A search of several collections on one grid."""

    collections: list[WeightedCollection] = Field(
        description="2 to 8; geometry and attributes are those of the first."
    )


class PrecisionStep(Sent):
    """The estimated precision of all results from a similarity up, with a 90 % interval."""

    similarity: float
    precision: float
    low: float
    high: float
    labels: int


class NextPage(Sent):
    """The request for the next page."""

    rel: Literal["next"] = "next"
    method: Literal["POST"] = "POST"
    href: str
    type: str = GEOJSON
    body: dict[str, Any]


class SearchAnswer(Sent):
    """The most similar places, best first, GeoJSON."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: list[Feature]
    numberReturned: int  # noqa: N815 - OGC's name
    numberMatched: int  # noqa: N815 - OGC's name
    query: Feature | None
    at: LonLatPair | None
    collection: str
    spec: dict[str, Any]
    exclude_m: float
    apart_m: float
    k: int
    limit: int
    offset: int
    state: str
    considered: int
    expected_recall: float
    precision: list[PrecisionStep] | None
    notes: list[str]
    timing_ms: dict[str, float]
    links: list[NextPage]
    terrakin_version: str


class FusedSearchAnswer(SearchAnswer):
    """The most similar places in several collections."""

    collections: list[WeightedCollection]


class SqlRequest(Received):
    """One read-only SELECT over the collections, each a table of its name."""

    query: StrictStr
    limit: StrictInt = Field(default=1_000, ge=1, le=100_000, description="Most rows.")
    timeout_s: StrictFloat = Field(default=30.0, gt=0, le=600, description="Seconds it may take.")


class SqlAnswer(Sent):
    """The first rows of an answer."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool
    seconds: float
