"""What goes over the wire, as dataclasses. Raw JSON stops here; no Qt in this file.

The contract is docs/api.md. Longitudes and latitudes are in degrees (OGC:CRS84), always in the
order longitude, latitude.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence, TypeVar
from urllib.parse import urlsplit

from .errors import AnswerError, ReadyFileError, RequestError

API_VERSION = 1
MAX_K = 10_000
DEFAULT_K = 25
DEFAULT_EXCLUDE_M = 300.0
WORLD = "world"
"""The read-only collection that every server offers."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Ring = tuple[tuple[float, float], ...]
"""A closed ring of (lon, lat)."""
Polygon = tuple[Ring, ...]
"""The outer ring, then the holes."""

T = TypeVar("T")


@dataclass(frozen=True)
class ReadyFile:
    """How to reach a running server: what ``terrakin serve --ready-file`` writes."""

    url: str
    token: str
    pid: int
    version: str

    @classmethod
    def read(cls, path: str) -> ReadyFile:
        """Read the file. Raises ReadyFileError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ReadyFileError(
                f"The ready file '{path}' cannot be read ({error.strerror or error}). A server "
                "writes it when it starts and removes it when it stops: start one with "
                "'terrakin serve --store FOLDER --ready-file FILE'."
            ) from None
        except ValueError:
            raise ReadyFileError(_not_ready_file(path, "it is not text")) from None
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: str) -> ReadyFile:
        """Read the file's text; ``path`` is for the message. Raises ReadyFileError."""
        try:
            data = json.loads(text)
            ready = cls(
                _text(data, "url").rstrip("/"),
                _text(data, "token"),
                int(data["pid"]),
                _text(data, "version"),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ReadyFileError(_not_ready_file(path, str(error))) from None
        parts = urlsplit(ready.url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK:
            raise ReadyFileError(
                f"The ready file '{path}' names {ready.url}, which is not on this machine. The "
                "plugin sends its token to http://127.0.0.1 only: choose the ready file of a "
                "server that runs here."
            )
        return ready

    def __repr__(self) -> str:
        return f"ReadyFile(url={self.url!r}, pid={self.pid}, version={self.version!r})"


@dataclass(frozen=True)
class Health:
    """Who answers at an address."""

    name: str
    version: str
    api_version: int

    @classmethod
    def from_json(cls, data: Any) -> Health:
        """Read ``GET /health``. Raises AnswerError."""
        return _reading(
            "health",
            lambda: cls(_text(data, "name"), _text(data, "version"), int(data["api_version"])),
        )


@dataclass(frozen=True)
class Collection:
    """One collection of embeddings."""

    id: str
    title: str
    item_count: int
    bbox: tuple[float, float, float, float] | None
    """West, south, east, north in degrees; west > east across the antimeridian."""
    interval: tuple[str | None, str | None]
    licence: str
    model: str
    dim: int | None

    @classmethod
    def from_json(cls, data: Any) -> Collection:
        """Read one collection. Raises AnswerError."""
        return _reading("collection", lambda: cls._read(data))

    @classmethod
    def list_from_json(cls, data: Any) -> list[Collection]:
        """Read ``GET /collections``. Raises AnswerError."""
        entries = _reading("collections", lambda: list(data["collections"]))
        return [cls.from_json(entry) for entry in entries]

    @classmethod
    def _read(cls, data: Any) -> Collection:
        extent = data.get("extent") or {}
        boxes = (extent.get("spatial") or {}).get("bbox") or []
        intervals = (extent.get("temporal") or {}).get("interval") or [[None, None]]
        spec = data.get("spec") or {}
        dim = spec.get("dim")
        return cls(
            id=_text(data, "id"),
            title=str(data.get("title") or data["id"]),
            item_count=int(data["itemCount"]),
            bbox=_box(boxes[0]) if boxes else None,
            interval=(intervals[0][0], intervals[0][1]),
            licence=str(data.get("license") or ""),
            model=str(spec.get("model") or ""),
            dim=None if dim is None else int(dim),
        )


def first_choice(collections: Sequence[Collection]) -> Collection | None:
    """Return the collection to offer first: the user's own first one, else the world."""
    own = [collection for collection in collections if collection.id != WORLD]
    return next(iter([*own, *collections]), None)


def only_choice(collections: Sequence[Collection]) -> Collection | None:
    """Return the one meant where none is named: the user's only one, or the world alone."""
    own = [collection for collection in collections if collection.id != WORLD]
    candidates = own or collections
    return candidates[0] if len(candidates) == 1 else None


@dataclass(frozen=True)
class SearchRequest:
    """A search as the user asked for it: place in degrees, distance in metres.

    Raises RequestError if the number of places or the distance is out of range.
    """

    collection: str
    lon: float
    lat: float
    k: int
    exclude_m: float

    def __post_init__(self) -> None:
        if not self.collection:
            raise RequestError("No collection is chosen. Choose one in the Terrakin panel.")
        if not 1 <= self.k <= MAX_K:
            raise RequestError(f"{self.k} places were asked for; the server gives 1 to {MAX_K:,}.")
        if not (math.isfinite(self.exclude_m) and self.exclude_m >= 0):
            raise RequestError(
                f"The distance to leave out is {self.exclude_m:g} m; it must be 0 or more."
            )

    def body(self) -> dict[str, Any]:
        """Return the JSON object to send."""
        return {"at": [self.lon, self.lat], "k": self.k, "exclude_m": self.exclude_m}


@dataclass(frozen=True)
class Place:
    """One chip: a result, or the query itself (then rank 0 and similarity 1)."""

    id: str
    polygons: tuple[Polygon, ...]
    rank: int
    similarity: float
    lon: float
    lat: float
    datetime: str | None
    grid_cell: str | None
    percentile: float | None = None
    """Percent of random pairs of the collection that are less alike; older servers do not say."""

    @classmethod
    def from_json(cls, feature: Any, is_query: bool = False) -> Place:
        """Read a GeoJSON feature. Raises KeyError, TypeError or ValueError."""
        values = feature["properties"]
        similarity = 1.0 if is_query else _number(values["similarity"])
        return cls(
            id=str(feature["id"]),
            polygons=_polygons(feature["geometry"]),
            rank=0 if is_query else int(values["rank"]),
            similarity=similarity,
            lon=_number(values["lon"]),
            lat=_number(values["lat"]),
            datetime=values.get("datetime"),
            grid_cell=values.get("grid_cell"),
            percentile=None if is_query else _optional(values, "percentile", _number),
        )


@dataclass(frozen=True)
class SearchAnswer:
    """The places most like a place, best first."""

    places: tuple[Place, ...]
    query: Place
    collection: str
    spec: dict[str, Any]
    k: int
    exclude_m: float
    considered: int
    server_version: str
    expected_recall: float | None = None
    """Share of the true best that such an answer holds; older servers do not say."""
    matched: int | None = None
    """How many places there were to choose among."""

    @classmethod
    def from_json(cls, data: Any) -> SearchAnswer:
        """Read the answer to a search. Raises AnswerError."""
        return _reading("search", lambda: cls._read(data))

    @classmethod
    def _read(cls, data: Any) -> SearchAnswer:
        return cls(
            places=tuple(Place.from_json(feature) for feature in data["features"]),
            query=Place.from_json(data["query"], is_query=True),
            collection=_text(data, "collection"),
            spec=dict(data["spec"]),
            k=int(data["k"]),
            exclude_m=_number(data["exclude_m"]),
            considered=int(data["considered"]),
            server_version=_text(data, "terrakin_version"),
            expected_recall=_optional(data, "expected_recall", _number),
            matched=_optional(data, "numberMatched", int),
        )


@dataclass(frozen=True)
class JobStatus:
    """How a job of the server fares. ``error`` is status, code and words of one that failed."""

    id: str
    status: str
    progress: int
    """Percent."""
    message: str
    log: tuple[str, ...]
    """Lines that begin with the time, a space after it."""
    error: tuple[int, str, str] | None = None

    @classmethod
    def from_json(cls, data: Any) -> JobStatus:
        """Read the status of a job. Raises AnswerError."""
        return _reading("job", lambda: cls._read(data))

    @property
    def has_ended(self) -> bool:
        """Whether the status is the last."""
        return self.status in ("successful", "failed", "dismissed")

    @classmethod
    def _read(cls, data: Any) -> JobStatus:
        problem = data.get("problem")
        return cls(
            id=_text(data, "jobID"),
            status=_text(data, "status"),
            progress=int(data["progress"]),
            message=str(data.get("message") or ""),
            log=tuple(str(line) for line in data.get("log") or ()),
            error=problem
            and (int(problem["status"]), str(problem["code"]), str(problem["detail"])),
        )


def report_of(data: Any) -> dict[str, Any]:
    """Return the report among a job's results. Raises AnswerError."""
    return _reading("results", lambda: dict(data["report"]["value"]))


def _reading(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise AnswerError(
            f"The server's {what} answer is not of interface version {API_VERSION} "
            f"({type(error).__name__}: {error}). Update the plugin and the terrakin command to "
            "the same version."
        ) from None


def _text(data: Any, key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"'{key}' is not a text")
    return value


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


def _optional(data: Any, key: str, read: Callable[[Any], T]) -> T | None:
    """Read what the interface gained without a new version: missing or null is None."""
    value = data.get(key)
    return None if value is None else read(value)


def _box(values: Any) -> tuple[float, float, float, float]:
    west, south, east, north = (_number(value) for value in values)
    return west, south, east, north


def _polygons(geometry: Any) -> tuple[Polygon, ...]:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a footprint of type '{kind}'")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    return tuple(tuple(_ring(ring) for ring in polygon) for polygon in polygons)


def _ring(ring: Any) -> Ring:
    points = tuple((_number(point[0]), _number(point[1])) for point in ring)
    if len(points) < 4:
        raise ValueError(f"a ring of {len(points)} points")
    return points


def _not_ready_file(path: str, why: str) -> str:
    return (
        f"'{path}' is not the ready file of a Terrakin server ({why}). Choose the file that "
        "'terrakin serve --ready-file FILE' wrote: JSON with url, token, pid and version."
    )
