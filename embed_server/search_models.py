"""The wire contract of searches and SQL (docs/api.md). Places are [longitude, latitude]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from embed_server.models import Feature, LonLatPair, Received, Sent


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
    considered: int
    expected_recall: float
    notes: list[str]
    timing_ms: dict[str, float]
    terrakin_version: str


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
