"""Which scenes there are in what the user gives: files, folders, STAC, Parquet, addresses.

Rasters given singly or by a pattern are looked at together, those of a folder on their own:

- no two share a band's name: they are the bands of one scene (B02.tif, B03.tif, ...);
- all have the same two or more bands: every file is a scene;
- every folder has the same bands: the files of a folder are a scene.

A file with one band has the band that it is named after; others those they describe, or B1 to Bn.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.sources import stac_api
from embeddings.sources.addresses import address_of, is_remote, path_of, shown, without_secrets
from embeddings.sources.fetching import state_of
from embeddings.sources.files import data_indexes
from embeddings.sources.majortom_images import image_scenes
from embeddings.sources.masks import MaskRule
from embeddings.sources.reading import SceneFile, SceneRef
from embeddings.sources.remote import gdal_env, local_name
from embeddings.sources.scene_dates import scene_time
from embeddings.sources.stac import is_stac, stac_scenes
from embeddings.store.layout import check_scene, scene_from

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Endings of the files that are taken from a folder; files given singly may end as they like."""

PARQUET = (".parquet", ".geoparquet")
_SHOWN = 6
_LONGEST_ID = 120


@dataclass(frozen=True, slots=True)
class MosaicRef:
    """Scenes of one day, seen as one; they may lie in different CRS."""

    id: str
    members: tuple[SceneRef, ...]
    datetime: str | None = None
    """Of the first member, ISO 8601 in UTC."""
    origin: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Options:
    each: bool
    assets: tuple[str, ...] | None
    mask: str | None


@dataclass(frozen=True, slots=True)
class _Raster:
    """A raster and its bands; None: they are not known, or it cannot be opened."""

    uri: str
    bands: tuple[str, ...] | None
    fault: str | None = None
    """What GDAL said when it did not open the file."""

    @property
    def folder(self) -> str:
        return str(path_of(self.uri).parent)


def find_scenes(
    inputs: Sequence[str],
    *,
    datetime: str | None = None,
    scene: str | None = None,
    each: bool = False,
    mosaic: bool = False,
    assets: tuple[str, ...] | None = None,
    mask: str | None = None,
) -> list[SceneRef | MosaicRef]:
    """Return the scenes in what was given, in that order; of rasters only headers are read.

    ``datetime`` is ISO 8601 for all scenes, or a strptime pattern to find in the name of each
    scene's first file or of its folder. ``scene`` names a single scene. ``each``: every raster is
    a scene. ``mosaic``: scenes of one UTC day become one, those without a date too. ``assets``
    picks bands of STAC items and Parquet rows, ``mask`` (as of Reading) one more to read along.
    Raises InputError or one of its kinds.
    """
    options = _Options(each, assets, MaskRule.parse(mask).band if mask else None)
    found = [ref for given in _expanded(inputs) for ref in _scenes_of(given, options)]
    if assets and not any(_has_assets(ref) for ref in found):
        raise InputError(
            "--assets chooses among the assets of STAC items or the columns of Parquet files; none "
            "was given. --bands chooses among the bands of rasters."
        )
    dated = [_dated(ref, datetime) for ref in _unique(found)]
    refs: list[SceneRef | MosaicRef] = _mosaics(dated) if mosaic else list(dated)
    if scene is not None:
        if len(refs) > 1:
            raise InputError(
                f"--scene {scene} names one scene, but {len(refs)} were found: "
                f"{_listed([ref.id for ref in refs])}. Leave it out, or run one command a scene."
            )
        refs = [replace(refs[0], id=check_scene(scene))]
    return refs


def describe(ref: SceneRef | MosaicRef) -> str:
    """Return a line about a scene for progress and errors."""
    day = f", {ref.datetime[:10]}" if ref.datetime else ""
    if isinstance(ref, MosaicRef):
        return f"{ref.id} (mosaic of {len(ref.members)} scenes{day})"
    if len(ref.files) == 1:
        return f"{ref.id} ({shown(ref.files[0].uri)}{day})"
    return f"{ref.id} ({len(ref.files)} files of {ref.origin}{day})"


def _has_assets(ref: SceneRef) -> bool:
    return not _is_rasters(ref.origin)


def _is_rasters(origin: str) -> bool:
    return not (origin.startswith(stac_api.PREFIX) or is_stac(origin) or _is_parquet(origin))


def _is_parquet(uri: str) -> bool:
    return path_of(uri).suffix.lower() in PARQUET


def _expanded(inputs: Sequence[str]) -> list[str | list[str]]:
    """Return what was given with folders and patterns as their files.

    A text is a STAC document, a search or a Parquet file; a list holds rasters to look at
    together. All that were given singly or by a pattern stand where the first was given.
    """
    if not inputs:
        raise InputError("No file was given. Name rasters, a folder, a STAC item or an address.")
    loose: list[str] = []
    groups: list[str | list[str]] = []
    for given in inputs:
        for name in _matches(given):
            if not is_remote(name) and Path(name).is_dir():
                groups.extend(_in_folder(name))
            elif not _is_rasters(name):
                groups.append(name)
            else:
                if not loose:
                    groups.append(loose)
                loose.append(_checked(name))
    doubled = [name for name, count in Counter(loose).items() if count > 1]
    if doubled:
        raise InputError(f"'{shown(doubled[0])}' was given twice. Give every file once.")
    return groups


def _matches(given: str) -> list[str]:
    """Return what a pattern stands for, which the shells of Windows leave to programs."""
    given = address_of(given)
    literal = is_remote(given) or given.startswith((stac_api.PREFIX, "/vsi"))
    if literal or not glob.has_magic(given) or Path(given).exists():
        return [given]
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - also absolute patterns
    usable = [
        name
        for name in found
        if Path(name).is_dir() or Path(name).suffix.lower() in (*RASTERS, *PARQUET, ".json")
    ]
    if not usable:
        raise SourceNotFoundError(
            f"No file that can be used matches '{given}'. Rasters end in {', '.join(RASTERS)}."
        )
    return usable


def _in_folder(name: str) -> list[str | list[str]]:
    """Return the rasters of a folder as one group or, where it has none, its Parquet files."""
    try:
        entries = sorted(Path(name).iterdir())
    except OSError as error:
        raise SourceError(
            f"The folder '{name}' cannot be read ({error.strerror}). Check its permissions."
        ) from error
    for endings in (RASTERS, PARQUET):
        files = [
            str(entry.absolute())
            for entry in entries
            if entry.suffix.lower() in endings and entry.is_file() and entry.name[0] != "."
        ]
        if files:
            return [files] if endings == RASTERS else list(files)
    folders = [entry.name for entry in entries if entry.is_dir()]
    hint = f" Its folders are not searched: give '{Path(name) / '*'}'." if folders else ""
    raise SourceNotFoundError(
        f"The folder '{name}' holds no raster ({', '.join(RASTERS)}) and no Parquet file.{hint}"
    )


def _checked(name: str) -> str:
    if is_remote(name) or name.startswith("/vsi"):
        return name
    path = Path(name)
    try:
        there = path.is_file()
    except OSError as error:
        raise SourceError(f"'{name}' cannot be read ({error.strerror}).") from error
    if not there:
        raise SourceNotFoundError(f"There is no file '{name}'. Check the path and its spelling.")
    return str(path.absolute())


def _scenes_of(given: str | list[str], options: _Options) -> list[SceneRef]:
    if isinstance(given, list):
        return [_scene(files) for files in _grouped(given, each=options.each)]
    if given.startswith(stac_api.PREFIX):
        return stac_api.api_scenes(given, assets=options.assets, mask=options.mask)
    if _is_parquet(given):
        return image_scenes(given, columns=options.assets, mask=options.mask)
    return stac_scenes(given, assets=options.assets, mask=options.mask)


def _scene(files: Sequence[_Raster]) -> SceneRef:
    first = path_of(files[0].uri)
    return SceneRef(
        scene_from(first.stem if len(files) == 1 else first.parent.name),
        tuple(SceneFile(file.uri) for file in files),
        origin=shown(files[0].uri if len(files) == 1 else files[0].folder),
    )


def _grouped(files: Sequence[str], *, each: bool) -> list[list[_Raster]]:
    """Return the rasters of each scene. Raises InputError where they follow no rule."""
    if each or len(files) == 1:
        return [[_Raster(file, None)] for file in files]
    rasters = [_header(file) for file in files]
    known = [raster for raster in rasters if raster.bands is not None]
    if known and _share_bands(known) and len(known[0].bands or ()) > 1:
        # Files that cannot be opened are scenes too: their faults do not stop the others.
        return [[raster] for raster in rasters]
    for raster in rasters:
        if raster.fault is not None:
            raise _not_opened(raster)
    if _disjoint(rasters):
        return [rasters]
    folders: dict[str, list[_Raster]] = {}
    for raster in rasters:
        folders.setdefault(raster.folder, []).append(raster)
    contents = {frozenset(_names(group)) for group in folders.values()}
    if len(contents) == 1 and all(_disjoint(group) for group in folders.values()):
        return list(folders.values())
    raise InputError(
        "The files are neither the bands of one scene nor scenes of the same bands: "
        f"{_seen(rasters)}. '--each' makes every file a scene; otherwise run one command a scene."
    )


def _header(uri: str) -> _Raster:
    """Return the names of a file's bands, or why it cannot be opened."""
    try:
        with local_name(uri) as name, gdal_env(name), rasterio.open(name) as dataset:
            indexes = data_indexes(dataset)
            if len(indexes) == 1:
                return _Raster(uri, (path_of(uri).stem,))
            named = Counter(dataset.descriptions[i - 1] for i in indexes)
            return _Raster(
                uri,
                tuple(
                    f"B{i}" if named[own] > 1 or not own else own
                    for i in indexes
                    for own in [dataset.descriptions[i - 1]]
                ),
            )
    except RasterioError as error:
        return _Raster(uri, None, without_secrets(str(error)))


def _not_opened(raster: _Raster) -> SourceError:
    """Return why a file cannot be opened: of a remote one, first whether it can be reached."""
    if is_remote(raster.uri):
        try:
            state_of(raster.uri)
        except SourceError as error:
            return error
    return SourceError(
        f"'{shown(raster.uri)}' is not a raster that GDAL can read ({raster.fault}). Give GeoTIFF "
        "or COG files."
    )


def _names(rasters: Sequence[_Raster]) -> Iterator[str]:
    for raster in rasters:
        yield from raster.bands or ()


def _disjoint(rasters: Sequence[_Raster]) -> bool:
    return max(Counter(_names(rasters)).values(), default=0) <= 1


def _share_bands(rasters: Sequence[_Raster]) -> bool:
    return len({frozenset(raster.bands or ()) for raster in rasters}) == 1 and len(rasters) > 1


def _seen(rasters: Sequence[_Raster]) -> str:
    """Return one file a kind with its bands."""
    kinds: dict[frozenset[str], _Raster] = {}
    for raster in rasters:
        kinds.setdefault(frozenset(raster.bands or ()), raster)
    told = [
        f"'{shown(raster.uri)}' has {_listed(raster.bands or ())}"
        for raster in list(kinds.values())[:_SHOWN]
    ]
    return "; ".join(told) + ("; ..." if len(kinds) > _SHOWN else "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _unique(refs: Sequence[SceneRef]) -> list[SceneRef]:
    """Give every scene an id of its own: with its folder's name before it, else a number after.

    Upper and lower case are the same to some file systems.
    """
    taken = Counter(ref.id.lower() for ref in refs)
    named = [_with_folder(ref) if taken[ref.id.lower()] > 1 else ref for ref in refs]
    used = Counter(ref.id.lower() for ref in named)
    given: set[str] = {name for name, count in used.items() if count == 1}
    result = []
    for ref in named:
        name, number = ref.id, 1
        while used[ref.id.lower()] > 1 and name.lower() in given:
            number += 1
            name = f"{ref.id[:_LONGEST_ID]}-{number}"
        given.add(name.lower())
        result.append(replace(ref, id=name))
    return result


def _with_folder(ref: SceneRef) -> SceneRef:
    if not _is_rasters(ref.origin):
        return ref
    folder = path_of(ref.files[0].uri).parent
    parent = folder if len(ref.files) == 1 else folder.parent
    return replace(ref, id=scene_from(f"{parent.name}-{ref.id}")[:_LONGEST_ID])


def _dated(ref: SceneRef, asked: str | None) -> SceneRef:
    if asked is None or ("%" in asked and ref.datetime is not None):
        return ref
    path = path_of(ref.files[0].uri)
    return replace(ref, datetime=scene_time(asked, [path.name, path.parent.name]))


def _mosaics(refs: Sequence[SceneRef]) -> list[SceneRef | MosaicRef]:
    """Join the scenes of every day, in order of the days; those without a date come last."""
    days: dict[str, list[SceneRef]] = {}
    for ref in sorted(refs, key=lambda ref: ref.datetime or "~"):
        days.setdefault(ref.datetime[:10] if ref.datetime else "", []).append(ref)
    return [
        members[0]
        if len(members) == 1
        else MosaicRef(
            day or "mosaic",
            tuple(members),
            members[0].datetime,
            members[0].origin,
            (f"{len(members)} scenes were joined: {_listed([ref.id for ref in members])}.",),
        )
        for day, members in days.items()
    ]
