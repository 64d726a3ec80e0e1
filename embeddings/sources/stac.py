"""Scenes described by STAC: an Item, or a FeatureCollection of Items, as JSON.

Read as plain JSON (STAC 1.0 and 1.1, extensions eo and raster). Where a catalogue describes an
asset twice (as COG and JPEG 2000, at several resolutions), the COG and the finest is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embeddings.errors import BandError, InputError, SourceError
from embeddings.sources.addresses import address_of, is_remote, path_of, relative_to, shown
from embeddings.sources.fetching import read_document
from embeddings.sources.reading import SceneFile, SceneRef
from embeddings.sources.scene_dates import iso
from embeddings.store.layout import scene_from

_RASTER_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/vrt")
_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".vrt", ".img")
_DATA_ROLES = {"data", "reflectance", "temperature", "backscatter", "amplitude"}
_PICTURE_ROLES = {"visual", "thumbnail", "overview", "metadata"}
_PICTURE_KEYS = {"visual", "thumbnail", "overview", "preview", "rendered_preview", "tilejson"}
_BASELINE_OFFSET = -1000.0


@dataclass(frozen=True, slots=True)
class _Asset:
    """A raster asset of an item. ``names`` and ``common`` have an entry a band, or none."""

    key: str
    href: str
    names: tuple[str, ...]
    common: tuple[str, ...]
    spectral: bool
    data: bool
    scale: float | None
    offset: float | None
    nodata: float | None
    rank: tuple[bool, float]
    """Orders assets of the same band: GeoTIFF first, then the finer."""
    uneven: bool
    """Whether its bands declare different scales."""

    def answers_to(self) -> set[str]:
        """Return the names a user may mean it by, in lower case."""
        single = len(self.names) <= 1
        others = {*self.names, *self.common} if single else set()
        return {name.lower() for name in (self.key, *others)}


def is_stac(uri: str) -> bool:
    """Whether a path or an address looks like STAC: JSON, or an API's item."""
    path = path_of(uri)
    if path.suffix.lower() in (".json", ".geojson"):
        return True
    return (
        is_remote(uri)
        and path.suffix.lower() not in _RASTER_ENDINGS
        and ("items" in path.parts or path.name == "search")
    )


def stac_scenes(
    uri: str, *, assets: Sequence[str] | None = None, mask: str | None = None
) -> list[SceneRef]:
    """Return the items in a file or at an address, each as a scene.

    ``assets`` picks by asset key, band name or common name, in their order; None: all single-band
    spectral rasters, or else all of the role "data". ``mask`` names an asset that is read along.
    Raises InputError, SourceError or, for assets that an item lacks, BandError.
    """
    return [item_scene(item, uri, assets=assets, mask=mask) for item in _items(_document(uri), uri)]


def _document(uri: str) -> Any:
    content = read_document(uri)
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(
            f"'{shown(uri)}' is no JSON ({error}). Give a STAC Item or ItemCollection."
        ) from None


def _items(document: Any, uri: str) -> list[Any]:
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "Feature":
        return [document]
    if kind == "FeatureCollection":
        items = document.get("features")
        if not isinstance(items, list) or not items:
            raise InputError(f"'{shown(uri)}' holds no items. Widen the search that it came from.")
        return items
    if kind in ("Collection", "Catalog"):
        raise InputError(
            f"'{shown(uri)}' is a STAC {kind}, not an item. Give its items, or search it: "
            "stac:https://HOST/collections/ID?bbox=W,S,E,N&datetime=FROM/TO."
        )
    raise InputError(
        f"'{shown(uri)}' is no STAC: its 'type' is {json.dumps(kind)}. Give an Item ('Feature') or "
        "an ItemCollection ('FeatureCollection')."
    )


def item_scene(
    item: Any, source: str, *, assets: Sequence[str] | None, mask: str | None
) -> SceneRef:
    """Return an item, read from ``source``, as a scene. Raises as ``stac_scenes``."""
    _check(item, source)
    name = str(item["id"])
    rasters = [
        asset
        for key, value in item["assets"].items()
        if (asset := _asset(key, value, item, source)) is not None
    ]
    if not rasters:
        raise InputError(
            f"The item '{name}' in '{shown(source)}' has no raster among its assets "
            f"({', '.join(item['assets']) or 'none'})."
        )
    chosen = _picked(rasters, assets, name) if assets else _default(rasters)
    masks = [replace(_one(rasters, mask, name), names=(mask,))] if mask else []
    chosen = [asset for asset in chosen if asset.key not in {m.key for m in masks}]
    if not chosen:
        raise InputError(
            f"The item '{name}' in '{shown(source)}' has no asset to embed; choose some with "
            f"--assets: {_listed(rasters)}."
        )
    corrected = [_offset_of_baseline(asset, item["properties"]) for asset in chosen]
    notes = [note for _, note in corrected if note]
    notes += [
        f"The bands of asset '{asset.key}' declare different scales; those in the file are used."
        for asset in chosen
        if asset.uneven
    ]
    files = [_file(asset) for asset, _ in corrected] + [
        replace(_file(asset), scale=1.0, offset=0.0) for asset in masks
    ]
    return SceneRef(
        scene_from(name),
        tuple(files),
        _time(item["properties"], name),
        shown(source),
        tuple(dict.fromkeys(notes)),
    )


def _check(item: Any, source: str) -> None:
    if not isinstance(item, dict) or item.get("type") != "Feature":
        raise InputError(f"'{shown(source)}' holds something that is no STAC item. Check it.")
    missing = [key for key in ("id", "geometry", "properties", "assets") if key not in item]
    if missing or not all(isinstance(item[key], dict) for key in ("properties", "assets")):
        raise InputError(
            f"'{shown(source)}' is no STAC item: it lacks {', '.join(missing) or 'readable assets'}"
            ". GeoJSON alone does not describe imagery."
        )


def _file(asset: _Asset) -> SceneFile:
    return SceneFile(asset.href, asset.names or None, asset.scale, asset.offset, asset.nodata)


def _asset(key: str, value: Any, item: Mapping[str, Any], source: str) -> _Asset | None:
    """Read an asset; None for what is no raster."""
    href = value.get("href") if isinstance(value, dict) else None
    if not isinstance(href, str) or not href:
        raise InputError(f"The asset '{key}' of item '{item['id']}' has no href. Mend the item.")
    kind = str(value.get("type") or "").lower()
    ending = path_of(href).suffix.lower()
    if not kind.startswith(_RASTER_TYPES) if kind else ending not in _RASTER_ENDINGS:
        return None
    bands, spectral = _bands(value)
    roles = {str(role).lower() for role in value.get("roles") or ()}
    picture = key.lower() in _PICTURE_KEYS or roles & _PICTURE_ROLES
    scales = {tuple(_number(band.get(k)) for k in ("scale", "offset", "nodata")) for band in bands}
    scale, offset, nodata = scales.pop() if len(scales) == 1 else (None, None, None)
    gsd = _number(bands[0].get("gsd")) if bands else None
    names = tuple(str(band.get("name") or band.get("common") or key) for band in bands)
    return _Asset(
        key=key,
        href=_resolved(href, item, source),
        names=names if len(set(names)) == len(names) else (),
        common=tuple(str(band["common"]) for band in bands if band.get("common")),
        spectral=spectral and not picture,
        data=not picture and (not roles or bool(roles & _DATA_ROLES)),
        scale=scale,
        offset=offset,
        nodata=nodata,
        rank=("tiff" not in kind and ending not in (".tif", ".tiff"), gsd or math.inf),
        uneven=bool(scales),
    )


def _bands(asset: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return what is known of each band, and whether they are bands of a spectrum.

    STAC 1.1 has ``bands`` whose values may stand at the asset; 1.0 ``eo:bands`` and
    ``raster:bands`` beside each other.
    """
    new = [dict(asset) | band for band in _dicts(asset.get("bands"))] or [dict(asset)]
    eo, raster = _dicts(asset.get("eo:bands")), _dicts(asset.get("raster:bands"))
    old = max(len(eo), len(raster))
    if old:
        new = [dict(asset) | (new[i] if len(new) == old else {}) for i in range(old)]
    known = []
    for i, band in enumerate(new):
        spectrum = eo[i] if len(eo) == len(new) else {}
        numbers = raster[i] if len(raster) == len(new) else {}
        named = band if "bands" in asset else {}
        known.append(
            {
                "name": spectrum.get("name") or named.get("name"),
                "common": spectrum.get("common_name") or band.get("eo:common_name"),
                "scale": numbers.get("scale", band.get("raster:scale")),
                "offset": numbers.get("offset", band.get("raster:offset")),
                "nodata": numbers.get("nodata", band.get("nodata")),
                "gsd": numbers.get("spatial_resolution")
                or band.get("raster:spatial_resolution")
                or band.get("gsd"),
            }
        )
    spectral = bool(eo) or any(
        f"eo:{key}" in band for band in new for key in ("common_name", "center_wavelength")
    )
    return known, spectral


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    """Return a number of STAC, where "nan" and "inf" are texts."""
    try:
        number = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    # One NaN for all, so that two bands without data compare equal.
    return math.nan if number is not None and math.isnan(number) else number


def _resolved(href: str, item: Mapping[str, Any], source: str) -> str:
    """Return where an asset is: beside the item's file or, if not there, beside its own link."""
    href = address_of(href)
    if is_remote(href):
        return href
    near = relative_to(source, href)
    if is_remote(near) or Path(near).exists():
        return near
    for link in _dicts(item.get("links")):
        if link.get("rel") == "self" and is_remote(str(link.get("href"))):
            return relative_to(str(link["href"]), href)
    return near


def _default(rasters: Sequence[_Asset]) -> list[_Asset]:
    """Return the assets that are imagery: single bands of a spectrum, or else data."""
    spectral = [asset for asset in rasters if asset.spectral and asset.data] or [
        asset for asset in rasters if asset.spectral
    ]
    single = [asset for asset in spectral if len(asset.names) == 1]
    chosen = single or spectral or [asset for asset in rasters if asset.data]
    best: dict[tuple[str, ...], _Asset] = {}
    for asset in chosen:
        names = asset.names or (asset.key,)
        if names not in best or asset.rank < best[names].rank:
            best[names] = asset
    return list(best.values())


def _picked(rasters: Sequence[_Asset], wanted: Sequence[str], item: str) -> list[_Asset]:
    return [_one(rasters, name, item) for name in dict.fromkeys(wanted)]


def _one(rasters: Sequence[_Asset], wanted: str, item: str) -> _Asset:
    """Return the asset of a key, or else the best of a band name or common name."""
    for asset in rasters:
        if asset.key == wanted:
            return asset
    found = [asset for asset in rasters if wanted.lower() in asset.answers_to()]
    if not found:
        raise BandError(
            f"The item '{item}' has no asset '{wanted}'. It has {_listed(rasters)}. Choose with "
            "--assets by key, band name or common name."
        )
    return min(found, key=lambda asset: asset.rank)


def _listed(rasters: Sequence[_Asset]) -> str:
    return ", ".join(_described(rasters))


def _described(rasters: Sequence[_Asset]) -> Iterator[str]:
    for asset in rasters:
        others = [name for name in (*asset.names, *asset.common) if name != asset.key]
        yield f"{asset.key} ({', '.join(dict.fromkeys(others))})" if others else asset.key


def _offset_of_baseline(asset: _Asset, properties: Mapping[str, Any]) -> tuple[_Asset, str | None]:
    """Mend the offset of Sentinel-2's processing baseline 04.00 and later (ESA, 2022).

    Earth Search declares it also for files from which it was taken already, and says so in a
    property; Planetary Computer names the baseline only.
    """
    applied = any(
        properties.get(f"{owner}:boa_offset_applied") is True
        for owner in ("earthsearch", "sentinel")
    )
    tiff = not asset.rank[0]
    if applied and tiff and asset.offset:
        return replace(asset, offset=0.0), (
            f"The declared offset {asset.offset:g} is left out: the item says that it was applied."
        )
    baseline = _number(properties.get("s2:processing_baseline"))
    undeclared = asset.scale is None and asset.offset is None
    if baseline is None or baseline < 4.0 or applied or not (asset.spectral and undeclared):
        return asset, None
    return replace(asset, scale=1.0, offset=_BASELINE_OFFSET), (
        f"The item is of Sentinel-2 processing baseline {properties['s2:processing_baseline']}: "
        f"{_BASELINE_OFFSET:g} is added to its numbers, as ESA prescribes."
    )


def _time(properties: Mapping[str, Any], item: str) -> str | None:
    for key in ("datetime", "start_datetime"):
        if properties.get(key):
            try:
                return iso(str(properties[key]))
            except InputError as error:
                raise SourceError(f"The item '{item}': {error}") from None
    return None
