"""The wire contract of docs/api.md. Places are [longitude, latitude] in degrees, OGC:CRS84."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

API_VERSION = 1

GEOJSON = "application/geo+json"
PROBLEM_JSON = "application/problem+json"

MAX_OFFSET = 2**53 - 1
"""The largest whole number that every JSON reader holds exactly."""

LonLatPair = Annotated[list[StrictFloat], Field(min_length=2, max_length=2)]

JobState = Literal["accepted", "running", "successful", "failed", "dismissed"]


class Received(BaseModel):
    """Base of what clients send: a misspelt field is an error, not silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sent(BaseModel):
    """Base of what the server answers."""

    model_config = ConfigDict(frozen=True)


class Problem(Sent):
    """A problem object (RFC 9457) with a stable ``code``."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


class Link(Sent):
    """A link to another resource."""

    rel: str
    href: str
    type: str = "application/json"


class Health(Sent):
    """Who answers here."""

    status: Literal["ok"] = "ok"
    name: Literal["terrakin"] = "terrakin"
    version: str
    api_version: int = API_VERSION


class LandingPage(Sent):
    """The way in."""

    title: str
    description: str
    links: list[Link]


class Conformance(Sent):
    """The OGC conformance classes that the server keeps."""

    conformsTo: list[str]  # noqa: N815 - OGC's name


class SpatialExtent(Sent):
    """[[west, south, east, north]]; west > east across the antimeridian; [] if empty."""

    bbox: list[list[float]]


class TemporalExtent(Sent):
    """[[start, end]] in UTC; null where open or timeless."""

    interval: list[list[str | None]]


class Extent(Sent):
    """Where and when a collection's embeddings lie."""

    spatial: SpatialExtent
    temporal: TemporalExtent


class Collection(Sent):
    """One collection of embeddings."""

    id: str
    title: str
    description: str
    license: str
    extent: Extent
    itemCount: int  # noqa: N815 - camel case as in numberMatched
    spec: dict[str, Any]
    links: list[Link]


class Collections(Sent):
    """All collections of the store."""

    collections: list[Collection]
    links: list[Link]


class ItemsQuery(Received):
    """The query parameters of a list of items."""

    bbox: str | None = Field(default=None, description="W,S,E,N in degrees; W > E over ±180.")
    datetime: str | None = Field(
        default=None, description="ISO 8601: an instant, A/B, ../B or A/.. (UTC)."
    )
    limit: int = Field(default=100, ge=1)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)


class Feature(Sent):
    """A GeoJSON feature: the footprint of one embedding."""

    type: Literal["Feature"] = "Feature"
    id: str
    geometry: dict[str, Any]
    bbox: list[float] | None = None
    properties: dict[str, Any]


class Items(Sent):
    """A page of items, GeoJSON."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: list[Feature]
    numberMatched: int  # noqa: N815 - OGC's name
    numberReturned: int  # noqa: N815 - OGC's name
    links: list[Link]


class EmbedRasterInputs(Received):
    """What ``embed-raster`` takes; only ``files`` and ``collection`` are required.

    What is left out, or null, is not passed on: the collection's own value holds, or the default
    of ``RasterJob``.
    """

    files: list[StrictStr] = Field(
        min_length=1,
        description="Scenes: absolute paths on this machine of rasters, folders, STAC items or "
        "Parquet files of images; or addresses of them (http, https, s3, gs, az).",
    )
    collection: StrictStr = Field(description="Name of the new or existing collection.")
    encoder: StrictStr | None = Field(
        default=None, description="Default: as the collection has, else 'rcf'."
    )
    weights: StrictStr | None = Field(
        default=None, description="Absolute path of the encoder's weights."
    )
    weights_sha256: StrictStr | None = Field(
        default=None, description="What the weights must hash to, hexadecimal."
    )
    chip: StrictStr | None = Field(
        default=None,
        description="Side of a chip: pixels, '160m' or 'majortom:224'. Default: as the collection "
        "has, else as the encoder was trained, else 32.",
    )
    stride: StrictStr | None = Field(
        default=None,
        description="Step between chips, as chip. Default: as the collection has, else the chip.",
    )
    bands: list[StrictStr] | None = Field(
        default=None, description="Which bands, in which order. Default: as the encoder wants."
    )
    assets: list[StrictStr] | None = Field(
        default=None, description="Assets of STAC items, by key or common name."
    )
    nodata: StrictFloat | Literal["none"] | None = Field(
        default=None, description="Value of pixels without data; by default the files say it."
    )
    mask: StrictStr | None = Field(
        default=None, description="Band of missing pixels: 'SCL', 'QA_PIXEL=bit3,bit4'."
    )
    min_valid: StrictFloat | None = Field(
        default=None, description="Share of valid pixels a chip needs, up to 1. Default: 1."
    )
    offset: StrictFloat | None = Field(
        default=None, description="Added to every pixel, such as -1000 for Sentinel-2 from 04.00."
    )
    scale: StrictFloat | None = Field(
        default=None, description="What numbers are multiplied with, in place of the files' own."
    )
    gsd: StrictStr | None = Field(
        default=None, description="Pixel size to resample to, such as '10m'; or 'native'."
    )
    bbox: Annotated[list[StrictFloat], Field(min_length=4, max_length=4)] | None = Field(
        default=None, description="Only this part: [west, south, east, north] in degrees."
    )
    datetime: StrictStr | None = Field(
        default=None, description="ISO 8601, UTC; or a pattern of the file names such as %Y%m%d."
    )
    scene: StrictStr | None = Field(default=None, description="Id; by default from file names.")
    each: StrictBool = Field(default=False, description="Every file is a scene of its own.")
    mosaic: StrictBool = Field(default=False, description="Scenes of one day become one.")
    dtype: Literal["float16", "float32", "int8"] | None = Field(
        default=None, description="Default: as the collection has, else 'float16'."
    )
    source: StrictStr | None = Field(
        default=None,
        description="The data the files come from. Default: as the collection has, else "
        "'user imagery'.",
    )
    licence: StrictStr | None = Field(
        default=None,
        description="SPDX identifier. Default: as the collection has, else 'proprietary'.",
    )
    dense: StrictStr | None = Field(
        default=None,
        description="Store a vector for every so many pixels too, as rasters: '1', '4', '40m'.",
    )
    replace: StrictBool = Field(
        default=False,
        description="Make the collection anew; the old one serves until the new one stands.",
    )
    workers: StrictInt = Field(
        default=1, ge=1, le=256, description="Processes of the server's machine that encode."
    )
    scheduler: StrictStr | None = Field(
        default=None, description="Address of a Dask scheduler, tcp://HOST:PORT."
    )


class BuildIndexInputs(Received):
    """What ``build-index`` takes; without ``recall`` that of ``terrakin index`` holds."""

    collection: StrictStr = Field(description="Collection to index; a present index is replaced.")
    recall: StrictFloat | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the true best 100 that a search is to find; 0.99.",
    )


class IndexReport(Sent):
    """The result of ``build-index``: what was built, and how complete answers of 100 are."""

    collection: str
    kind: Literal["ivf", "scan"]
    rows: int
    bytes: int
    seconds: dict[str, float]
    recall: float
    considered: int
    lists: int


class ChipCounts(Sent):
    """Numbers of chips and what was decided without asking."""

    planned: int
    embedded: int
    absent: int
    missing: int
    resumed: int
    dense: int
    notes: list[str]


class SceneReport(ChipCounts):
    """What became of one scene."""

    scene: str


class EmbedReport(ChipCounts):
    """The result of ``embed-raster``: together and scene by scene."""

    collection: str
    failures: list[str]
    scenes: list[SceneReport]


class ProcessSummary(Sent):
    """A process in a list."""

    id: str
    title: str
    description: str
    version: str
    jobControlOptions: list[str]  # noqa: N815 - OGC's name
    links: list[Link]


class ProcessDescription(ProcessSummary):
    """A process with the JSON Schemas of its inputs and of its result."""

    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]


class Processes(Sent):
    """All processes."""

    processes: list[ProcessSummary]
    links: list[Link]


class Execution(Received):
    """The inputs of a process; each process says which it takes."""

    inputs: dict[str, Any]


class JobStatus(Sent):
    """How a job fares. Times are UTC."""

    jobID: str  # noqa: N815 - OGC's name
    type: Literal["process"] = "process"
    processID: str  # noqa: N815 - OGC's name
    status: JobState
    progress: int = Field(ge=0, le=100, description="Percent.")
    message: str
    created: str
    started: str | None
    finished: str | None
    updated: str
    log: list[str]
    problem: Problem | None = None
    links: list[Link]


class Jobs(Sent):
    """All jobs that the server remembers, oldest first."""

    jobs: list[JobStatus]
    links: list[Link]
