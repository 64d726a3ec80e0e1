"""Scenes found by a STAC API: ``stac:https://HOST/collections/ID?bbox=W,S,E,N&datetime=A/B``.

The search is GET /search, or GET /collections/ID/items where a server has none; pages follow its
``next`` links, with GET or POST.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.sources.addresses import shown
from embeddings.sources.fetching import fetch
from embeddings.sources.reading import SceneRef
from embeddings.sources.stac import item_scene
from embeddings.types import Bounds, TimeRange, parse_datetime

PREFIX = "stac:"
MOST = 100
"""Items taken where the search does not say ``max``."""

PAGE = 100
_DAY = len("2020-07-01")
_FORM = (
    "stac:https://HOST/collections/ID?bbox=W,S,E,N&datetime=FROM/TO&cloud=20&max=50 (each after "
    "the ? may be left out)"
)


@dataclass(frozen=True, slots=True)
class ApiSearch:
    """What is asked of a STAC API."""

    root: str
    collection: str
    bbox: Bounds | None = None
    datetime: str | None = None
    cloud: float | None = None
    """Percent of clouds that an item may have at most."""
    most: int = MOST

    @classmethod
    def parse(cls, text: str) -> ApiSearch:
        """Read ``stac:...``. Raises InputError."""
        address = text.removeprefix(PREFIX)
        parts = urlsplit(address)
        root, separator, collection = parts.path.rstrip("/").rpartition("/collections/")
        pairs = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(pairs) - {"bbox", "datetime", "cloud", "max"})
        host = parts.scheme in ("http", "https") and parts.netloc
        if not (host and separator and collection) or "/" in collection or unknown:
            told = f"unknown: {', '.join(unknown)}" if unknown else shown(address)
            raise InputError(f"This is no search of a STAC API ({told}). Write {_FORM}.")
        if pairs.get("datetime"):
            TimeRange.parse(pairs["datetime"])
        return cls(
            f"{parts.scheme}://{parts.netloc}{root}",
            collection,
            Bounds.parse(pairs["bbox"]) if pairs.get("bbox") else None,
            pairs.get("datetime") or None,
            _number(pairs, "cloud", 0, 100),
            int(_number(pairs, "max", 1, 100_000) or MOST),
        )

    def parameters(self) -> dict[str, str]:
        """Return the parameters of the request, but for the collection."""
        found = {"limit": str(min(self.most, PAGE))}
        if self.bbox is not None:
            found["bbox"] = ",".join(f"{edge:.10g}" for edge in self.bbox.west_south_east_north())
        if self.datetime is not None:
            found["datetime"] = _rfc3339(self.datetime)
        return found


def _number(pairs: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    text = pairs.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InputError(f"{name}={text} is no number of {low:g} to {high:g}. Write {_FORM}.")
    return value


def _rfc3339(text: str) -> str:
    """Return a time or a range as APIs want it; the last day of a range belongs to it."""
    start, slash, end = text.partition("/")
    if not slash and len(text) > _DAY:
        return _instant(text, "")
    return f"{_instant(start, '00:00:00Z')}/{_instant(end if slash else start, '23:59:59Z')}"


def _instant(text: str, time: str) -> str:
    if text in ("", ".."):
        return ".."
    if len(text) == _DAY:
        return f"{text}T{time}"
    return parse_datetime(text).isoformat().replace("+00:00", "Z")


def api_scenes(
    text: str, *, assets: Sequence[str] | None = None, mask: str | None = None
) -> list[SceneRef]:
    """Return the items that a search finds, by time and id, each as a scene.

    ``assets`` and ``mask`` as of ``stac_scenes``. Raises InputError, SourceError or BandError.
    """
    search = ApiSearch.parse(text)
    scenes: list[SceneRef] = []
    more = False
    for item, source in _found(search):
        if len(scenes) == search.most:
            more = True
            break
        if search.cloud is None or _clouds(item) <= search.cloud:
            scenes.append(item_scene(item, source, assets=assets, mask=mask))
    if not scenes:
        raise InputError(
            f"'{shown(search.root)}' has no items of '{search.collection}' that answer the search. "
            "Widen bbox, datetime or cloud."
        )
    scenes.sort(key=lambda scene: (scene.datetime or "", scene.id))
    if more:
        note = f"More items answer the search; the first {search.most} are taken ('max=')."
        scenes[0] = replace(scenes[0], notes=(*scenes[0].notes, note))
    return scenes


def _clouds(item: Any) -> float:
    """Return percent of clouds; an item that tells none is taken as clear."""
    properties = item.get("properties") if isinstance(item, dict) else None
    value = properties.get("eo:cloud_cover") if isinstance(properties, dict) else None
    return float(value) if isinstance(value, int | float) else 0.0


def _found(search: ApiSearch) -> Iterator[tuple[Any, str]]:
    """Give every item, and the address of the page it stands on."""
    address = f"{search.root}/search"
    parameters = {"collections": search.collection, **search.parameters()}
    try:
        page = _page("GET", address, params=parameters)
    except SourceNotFoundError:
        name = quote(search.collection, safe="")
        address = f"{search.root}/collections/{name}/items"
        page = _page("GET", address, params=search.parameters())
    seen: set[str] = set()
    body: dict[str, Any] = {}
    while True:
        for item in page["features"]:
            yield item, address
        link = next((e for e in page.get("links") or () if e.get("rel") == "next"), None)
        if link is None or not page["features"]:
            return
        method = str(link.get("method") or "GET").upper()
        address = urljoin(address, str(link.get("href") or ""))
        own = link.get("body") if isinstance(link.get("body"), dict) else {}
        body = {**(body or _as_body(search)), **own} if link.get("merge") else dict(own)
        if (mark := json.dumps([method, address, body], sort_keys=True)) in seen:
            raise SourceError(
                f"The pages of '{shown(address)}' go round in a circle. Set max= to what the first "
                "page holds, or search a smaller bbox."
            )
        seen.add(mark)
        more = {"json": body} if method == "POST" else {}
        page = _page(method, address, headers=link.get("headers"), **more)


def _as_body(search: ApiSearch) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(search.parameters())
    parameters["limit"] = int(parameters["limit"])
    if search.bbox is not None:
        parameters["bbox"] = list(search.bbox.west_south_east_north())
    return {"collections": [search.collection], **parameters}


def _page(method: str, address: str, **more: Any) -> dict[str, Any]:
    try:
        page = json.loads(fetch(method, address, **more))
    except ValueError:
        page = None
    if not isinstance(page, dict) or not isinstance(page.get("features"), list):
        raise SourceError(
            f"'{shown(address)}' does not answer like a STAC API (no list of features). Write "
            f"{_FORM}."
        )
    return page
