"""An image on disk that stands for one chip: its vector, made as a run of ``embed`` would make it.

Import this module late: it brings GDAL, which a search without images does not need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from embeddings.encoders import BandWant, Encoder
from embeddings.encoding import align, normalise
from embeddings.errors import (
    BandError,
    InputError,
    NoDataError,
    SourceError,
    SourceNotFoundError,
    SpecMismatchError,
)
from embeddings.fitting import SMALL_VALUES
from embeddings.scene_run import stored_encoder
from embeddings.sources.band_names import find, match
from embeddings.sources.chip_images import ImageKind, image_kind, read_image
from embeddings.sources.chips import cut
from embeddings.sources.files import data_indexes, declares_nodata
from embeddings.sources.grids import TargetGrid
from embeddings.sources.masks import MaskRule
from embeddings.sources.opening import Opened, open_files
from embeddings.sources.raster import RasterScene, paired
from embeddings.sources.reading import Reading, SceneFile
from embeddings.sources.scenes import MosaicRef, find_scenes
from embeddings.spec import GSD_TOLERANCE, ChipLayout, Preprocessing, parse_size
from embeddings.store import Collection
from embeddings.store.layout import ENCODER_STEM

BYTE_MAX = 255

Tell = Callable[[str], None]


def encode_image(
    collection: Collection,
    path: Path,
    *,
    encoder: Encoder | None = None,
    tell: Tell = lambda _: None,
) -> NDArray[np.float32]:
    """Return the vector ``(1, dim) float32`` that the collection would store for an image.

    ``path`` is a GeoTIFF or another raster with a place, or a folder with one for each band; or
    an image without a place (PNG, JPEG). It shows one chip: of the collection's size in metres or
    pixels where it has a place, else of its size in pixels. Bands are told apart by their names
    or else taken in order. Where the image declares neither scale nor offset nor nodata, those of
    the collection's scenes hold. ``encoder`` is what ``image_encoder`` gave, to load it once for
    many images; ``tell`` hears what was decided. Raises InputError and its kinds, StoreError.
    """
    encoder = encoder if encoder is not None else image_encoder(collection)
    if not path.exists():
        raise SourceNotFoundError(f"There is no image '{path}'. Check the path and its spelling.")
    try:
        read, notes = _values(_read(collection, encoder, path), collection, path)
        pixels = _one_chip(read, collection)
    except SourceError as error:
        raise type(error)(f"Image '{path}': {error}") from error
    for note in (*read.notes, *notes, *_check_range(pixels, encoder, collection, path)):
        tell(f"Image {path.name}: {note.rstrip('.')}.")
    return encoder.encode(normalise(pixels, _preprocessing(collection)))


def image_encoder(collection: Collection, weights: Path | None = None) -> Encoder:
    """Return the encoder that makes vectors of images as the collection has them.

    Raises InputError if it was not made from imagery, or the weights are not there;
    ExtraMissingError if the libraries that run it are not installed.
    """
    _preprocessing(collection)
    if not (collection.path / f"{ENCODER_STEM}.json").exists():
        raise InputError(
            f"Collection '{collection.id}' came without the encoder that made its vectors, so an "
            "image cannot be the example. Give a place, an id or a vector, or make the collection "
            "anew with 'terrakin embed raster'."
        )
    return stored_encoder(collection, weights)


def _preprocessing(collection: Collection) -> Preprocessing:
    pre = collection.spec.preprocessing
    if pre is None:
        raise InputError(
            f"Collection '{collection.id}' has no encoder for images: its vectors stand for places "
            "or were made elsewhere. Give a place, an id or a vector as the example, or search a "
            "collection that was made with 'terrakin embed raster' or 'embed chips'."
        )
    return pre


@dataclass(frozen=True)
class _Read:
    """The numbers of an image as its file declares their meaning, bands in the stored order."""

    values: NDArray[np.float32]
    """``(bands, height, width)``"""
    valid: NDArray[np.bool_]
    """``(height, width)``"""
    scale: tuple[float, ...]
    """What the numbers of each band were multiplied with."""
    declares: bool
    """Whether the file says what its numbers mean: a scale, an offset."""
    notes: tuple[str, ...]


def _read(collection: Collection, encoder: Encoder, path: Path) -> _Read:
    if path.is_dir():
        return _read_placed(collection, encoder, path)
    try:
        kind = image_kind(path)
    except SourceError as error:
        raise SourceError(f"it {error}.") from error
    if kind.gsd_m is not None and any(s.pixels is not None for s in collection.scenes):
        return _read_placed(collection, encoder, path)
    # Images of a table are taken pixel by pixel, wherever they lie.
    return _read_plain(collection, encoder, path, kind)


def _read_plain(collection: Collection, encoder: Encoder, path: Path, kind: ImageKind) -> _Read:
    """Read an image without a place, as ``embed chips`` does."""
    height, width = _layout(collection).chip_px
    if (kind.height, kind.width) != (height, width):
        raise InputError(
            f"Image '{path}' has {kind.width} x {kind.height} pixels; a chip of collection "
            f"'{collection.id}' has {width} x {height}. Clip the image to that size."
        )
    known = kind.bands if kind.named else [""] * len(kind.bands)
    order, notes = _band_order(kind.bands, known, encoder, collection.spec.bands)
    nodata, _ = _nodata(collection)
    try:
        values, valid = read_image(path, order, nodata)
        numbers, _ = read_image(path, order, nodata, scale=1.0)
    except SourceError as error:
        raise SourceError(f"it {error}.") from error
    declares = not np.array_equal(values, numbers, equal_nan=True)
    return _Read(values, valid, tuple(kind.scale[i] for i in order), declares, tuple(notes))


def _read_placed(collection: Collection, encoder: Encoder, path: Path) -> _Read:
    """Read an image that says where it lies, as ``embed raster`` does."""
    pre = _preprocessing(collection)
    notes: list[str] = []
    with ExitStack() as stack:
        files = _files(path, pre.mask)
        opened = open_files(files, Reading(detect_nodata=False), stack)
        if pre.mask is not None:
            if MaskRule.parse(pre.mask).locate([band.name for band in opened.bands]) is not None:
                opened = open_files(files, Reading(detect_nodata=False, mask=pre.mask), stack)
            else:
                notes.append(f"there is no band {pre.mask}, so no pixel counts as missing by it")
        if not any(declares_nodata(band.file) for band in opened.bands):
            nodata, in_all_bands = _nodata(collection)
            opened = replace(opened, nodata=nodata, in_all_bands=in_all_bands)
        grid = _grid_of_one_chip(opened.grid, collection, path)
        with RasterScene(opened, grid, None, stack) as scene:
            declares = any(s != 1 for s in scene.scale) or any(o != 0 for o in scene.offset)
            _align(scene, encoder, collection.spec.bands, _transparency(opened))
            values, valid = scene.read(0, 0, scene.height, scene.width)
            return _Read(values, valid, scene.scale, declares, (*scene.notes, *notes))


def _files(path: Path, mask: str | None) -> Sequence[SceneFile | str]:
    if not path.is_dir():
        return [str(path)]
    found = find_scenes([str(path)], mask=mask)
    if len(found) != 1 or isinstance(found[0], MosaicRef):
        raise InputError(
            f"The folder '{path}' holds {len(found)} images; an example is one. Name the image, "
            "or a folder that holds one file for each band."
        )
    return found[0].files


def _transparency(opened: Opened) -> str:
    """Return what to say of a band that is no data: GDAL marks the fourth of four 8-bit bands."""
    datasets = [band.file.dataset for band in opened.bands]
    if all(len(data_indexes(dataset)) == dataset.count for dataset in datasets):
        return ""
    return (
        " One more band is marked as transparency. If it holds data, say so, for example with "
        "'gdal_edit.py -colorinterp_4 undefined IMAGE'."
    )


def _align(scene: RasterScene, encoder: Encoder, stored: Sequence[str], hint: str) -> None:
    """Bring the bands into the stored order. Raises BandError, with a hint at its end."""
    try:
        align(scene, encoder.wants, tuple(stored))
    except BandError as error:
        order = _chosen(scene.bands, scene.known, stored)
        if order is None:
            raise BandError(f"{error}{hint}") from error
        scene.choose(order, stored)
        align(scene, encoder.wants, tuple(stored))


def _band_order(
    names: Sequence[str], known: Sequence[str], encoder: Encoder, stored: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return which bands make the stored ones, in order, and notes. Raises BandError."""
    try:
        if encoder.wants.bands is not None:
            return match(encoder.wants.bands, names), []
        return paired(names, stored, known)
    except BandError:
        order = _chosen(names, known, stored)
        if order is None:
            raise
        return order, []


def _chosen(names: Sequence[str], known: Sequence[str], stored: Sequence[str]) -> list[int] | None:
    """Return the stored bands among more of them, or all in order where none has a name."""
    if not any(known):
        return list(range(len(stored))) if len(names) == len(stored) else None
    found = find([BandWant(name) for name in stored], names, known)
    order = [index for index in found if index is not None]
    return order if len(order) == len(stored) else None


def _grid_of_one_chip(own: TargetGrid, collection: Collection, path: Path) -> TargetGrid:
    """Return the pixels that an image is read with: its own, or resampled to the stored size.

    Raises InputError unless it is as large as one chip.
    """
    spec, layout = collection.spec, _layout(collection)
    gsd = math.sqrt(own.pixel_m[0] * own.pixel_m[1])
    native = abs(gsd - spec.gsd_m) <= GSD_TOLERANCE * spec.gsd_m
    sides = own.pixel_m if native else (spec.gsd_m, spec.gsd_m)
    chip, apart = layout.chip_px, 0
    if ":" not in layout.chip_asked and (asked := parse_size(layout.chip_asked))[1] == "m":
        # How many pixels make so many metres differs with latitude: one more or less will do.
        chip, apart = (round(asked[0] / sides[0]), round(asked[0] / sides[1])), 1
    shares = own.pixel_m[0] / sides[0], own.pixel_m[1] / sides[1]
    there = round(own.height * shares[0]), round(own.width * shares[1])
    if all(abs(a - b) <= apart for a, b in zip(there, chip, strict=True)):
        if native:
            return own
        finer = Affine.scale(own.width / chip[1], own.height / chip[0])
        return TargetGrid(own.crs_wkt, own.transform @ finer, chip[1], chip[0])
    raise InputError(_wrong_size(there, chip, sides, collection, path))


def _wrong_size(
    there: tuple[int, int],
    chip: tuple[int, int],
    pixel_m: tuple[float, float],
    collection: Collection,
    path: Path,
) -> str:
    many = (there[0] // chip[0]) * (there[1] // chip[1])
    what = (
        f"Image '{path}' covers {there[1]} x {there[0]} pixels of {pixel_m[1]:.4g} m; a chip of "
        f"collection '{collection.id}' has {chip[1]} x {chip[0]}"
    )
    if not many:
        return f"{what}, so the image is too small. Give one that covers a whole chip."
    chips = "more than one chip" if many == 1 else f"{many:,} chips"
    box = f"-srcwin 0 0 {chip[1]} {chip[0]} IMAGE chip.tif"
    return (
        f"{what}, so it holds {chips}. Clip it to the one that is meant, for example with "
        f"'gdal_translate {box}', or give it as an area: a polygon stands for all its chips."
    )


def _nodata(collection: Collection) -> tuple[float | None, bool]:
    """Return the one nodata value that scenes were read with beside what files declare.

    And whether all bands have to hold it, since it was found in the corners.
    """
    rules = {
        (rule["nodata"], rule.get("nodata_where") == "all bands")
        for rule in _rules(collection)
        if rule.get("nodata") is not None
    }
    return rules.pop() if len(rules) == 1 else (None, False)


def _rules(collection: Collection) -> list[Mapping[str, Any]]:
    """Return how the numbers of each scene became values."""
    rules = [scene.pixels for scene in collection.scenes if scene.pixels is not None]
    return [member for rule in rules for member in rule.get("members", [rule])]


def _values(read: _Read, collection: Collection, path: Path) -> tuple[_Read, list[str]]:
    """Give the numbers the meaning that those of the collection have. Raises SpecMismatchError."""
    stored = _preprocessing(collection).scale
    if read.declares:
        if not np.allclose(read.scale, stored):
            raise SpecMismatchError(
                f"Image '{path}' declares that its numbers are to be multiplied with "
                f"{_numbers(read.scale)}; those of collection '{collection.id}' are with "
                f"{_numbers(stored)}. Give an image whose numbers mean the same."
            )
        return read, []
    offsets = {tuple(map(float, rule["offset"])) for rule in _rules(collection)}
    offset = offsets.pop() if len(offsets) == 1 else (0.0,) * len(stored)
    notes = []
    if offsets:
        notes.append("scenes of the collection have several offsets; none was added")
    if all(s == 1 for s in stored) and not any(offset):
        return read, notes
    values = read.values * np.asarray(stored, np.float32)[:, None, None]
    values += np.asarray(offset, np.float32)[:, None, None]
    notes.append(
        "it declares neither scale nor offset, so its numbers were taken as those of the scenes: "
        f"times {_numbers(stored)}, plus {_numbers(offset)}"
    )
    return replace(read, values=values), notes


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))


def _one_chip(read: _Read, collection: Collection) -> NDArray[np.float32]:
    """Return the pixels ``(1, bands, height, width)``. Raises NoDataError."""
    least = _preprocessing(collection).min_valid
    corner = np.zeros(1, np.int64)
    height, width = read.valid.shape
    found = cut(read.values, read.valid, (height, width), corner, corner, least)
    if not len(found.pixels):
        raise NoDataError(
            f"only {found.absent_share[0]:.0%} of its pixels have data, and a chip of collection "
            f"'{collection.id}' needs {max(least, 0.01):.0%}. Give another image."
        )
    return found.pixels


def _check_range(
    pixels: NDArray[np.float32], encoder: Encoder, collection: Collection, path: Path
) -> tuple[str, ...]:
    """Return a note where the numbers can hardly mean what those of the collection do.

    Raises InputError where they are reflectance of 0 to 1 and those of the collection are not.
    """
    pre = _preprocessing(collection)
    large = bool(pre.mean) and min(pre.mean) > BYTE_MAX
    if encoder.wants.values != "reflectance-10000" and not large:
        return ()
    high = float(pixels.max())
    if high <= SMALL_VALUES:
        typical = f", {np.mean(pre.mean):,.0f} on average" if pre.mean else ""
        raise InputError(
            f"Image '{path}': no value is above {high:.3g}, but collection '{collection.id}' was "
            f"made from large numbers{typical}. Give the image with the numbers of its scenes, "
            "for example reflectance times 10,000."
        )
    if high <= BYTE_MAX:
        return (
            f"no value is above {high:.4g}, as in an 8-bit picture, but the collection was made "
            "from larger numbers, such as reflectance times 10,000; its vector says little then",
        )
    return ()


def _layout(collection: Collection) -> ChipLayout:
    layout = collection.spec.layout
    assert layout is not None, "a collection of imagery says how it was cut"
    return layout
