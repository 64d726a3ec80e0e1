"""What a run of ``embed raster`` is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args

from embeddings.errors import InputError
from embeddings.sources.fragments import parse_fragment
from embeddings.sources.reading import Reading
from embeddings.spec import Dtype, EmbeddingSpec, parse_size
from embeddings.store.layout import check_name
from embeddings.types import Bounds

ENCODER = "rcf"
CHIP = "32"
DTYPE = "float16"
SOURCE = "user imagery"
LICENCE = "proprietary"
NATIVE = "native"
MOST_WORKERS = 256


@dataclass(frozen=True, slots=True)
class RasterJob:
    """What to embed, and where to.

    ``files`` is what ``sources.scenes`` finds scenes in: rasters, folders, STAC items, addresses.
    ``chip`` and ``stride`` are "32" (pixels), "320m" or, for the chip, "majortom:224"; ``nodata``
    a number, "none" (embed everything the files do not mask) or None (look at the corners);
    ``datetime`` ISO 8601 or a strptime pattern that stands in each scene's file name. None stands
    for what the collection has, or else for the defaults above.
    """

    store: Path
    collection: str
    files: tuple[str, ...]
    encoder: str | None = None
    weights: Path | None = None
    weights_sha256: str | None = None
    chip: str | None = None
    stride: str | None = None
    bands: tuple[str, ...] | None = None
    assets: tuple[str, ...] | None = None
    nodata: str | float | None = None
    offset: float | None = None
    scale: float | None = None
    mask: str | None = None
    min_valid: float | None = None
    gsd: str | None = None
    """Metres a pixel ("10") to resample to; "native": as it is, whatever the encoder wants."""
    bbox: Bounds | None = None
    datetime: str | None = None
    scene: str | None = None
    each: bool = False
    """Every file is a scene of its own."""
    mosaic: bool = False
    """Scenes of one day become one."""
    dtype: str | None = None
    source: str | None = None
    licence: str | None = None
    dense: str | None = None
    """Store a vector for every so many pixels too: "1", "4", "40m". None: not."""
    replace: bool = False
    workers: int = 1
    scheduler: str | None = None

    def check(self) -> None:
        """Raise InputError if a field cannot be used, whatever the files say."""
        check_name(self.collection)
        if not self.files:
            raise InputError("No file was given. Name the bands of the scene.")
        nodata_rule(self.nodata)
        _gsd_metres(self.gsd)
        if self.dense is not None:
            parse_size(self.dense)
        check_stored(self.dtype, self.min_valid)
        if not 1 <= self.workers <= MOST_WORKERS:
            raise InputError(f"--workers is {self.workers}; it may be 1 to {MOST_WORKERS}.")
        if self.scheduler is not None and self.workers != 1:
            raise InputError("--workers are processes of this machine; --scheduler has its own.")

    def reading(self, known: EmbeddingSpec | None) -> Reading:
        """Return how the files are read; ``known`` is the spec of the collection appended to."""
        nodata, detect = nodata_rule(self.nodata)
        pre = known.preprocessing if known is not None else None
        box = self.bbox.west_south_east_north() if self.bbox is not None else None
        return Reading(
            nodata=nodata,
            detect_nodata=detect,
            offset=self.offset,
            scale=self.scale,
            bands=self.bands,
            mask=self.mask if self.mask is not None or pre is None else pre.mask,
            gsd_m=_gsd_metres(self.gsd),
            bbox=box,
        )

    def choices(self, known: EmbeddingSpec | None) -> Choices:
        """Return what was asked for or else is chosen; ``known`` is the collection appended to.

        Raises InputError if dense vectors are asked for and the chips are fragments.
        """
        own = Choices(ENCODER, self.chip, self.stride or self.chip, 1.0, DTYPE, SOURCE, LICENCE)
        if known is not None and known.layout is not None:
            layout, pre = known.layout, known.preprocessing
            own = Choices(
                known.model,
                layout.chip_asked,
                layout.stride_asked,
                pre.min_valid if pre is not None else 1.0,
                known.dtype,
                known.source,
                known.licence,
            )
        asked = {field.name: getattr(self, field.name) for field in fields(Choices)}
        if self.chip is not None and _is_fragment(self.chip) != _is_fragment(own.chip):
            asked["stride"] = self.stride or self.chip  # that of the collection belongs to no grid
        made = replace(own, **{name: value for name, value in asked.items() if value is not None})
        if self.dense is not None and _is_fragment(made.chip):
            raise InputError(
                "--dense needs a regular grid; Major TOM's fragments are warped for each cell. "
                "Give --chip in pixels or metres, and another --collection if this one has "
                "fragments."
            )
        return made


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of a job that a collection may answer."""

    encoder: str
    chip: str | None
    """None: as the encoder wants it."""
    stride: str | None
    min_valid: float
    dtype: str
    source: str
    licence: str


def _is_fragment(chip: str | None) -> bool:
    return chip is not None and parse_fragment(chip) is not None


def check_stored(dtype: str | None, min_valid: float | None) -> None:
    """Raise InputError for a storage type that there is not, or a share that is none."""
    if dtype is not None and dtype not in get_args(Dtype):
        raise InputError(
            f"'{dtype}' is no storage type. Choose one of {', '.join(get_args(Dtype))}."
        )
    if min_valid is not None and not 0 < min_valid <= 1:
        raise InputError(f"--min-valid is {min_valid:g}; give a share above 0 and up to 1.")


def nodata_rule(nodata: str | float | None) -> tuple[float | None, bool]:
    """Return the nodata value, and whether to look for one. Raises InputError."""
    if nodata is None:
        return None, True
    if nodata == "none":
        return None, False
    try:
        value = float(nodata)
        # NaN and infinity never are data, so nothing is to be looked for.
        return (value if math.isfinite(value) else None), False
    except ValueError:
        raise InputError(
            f"--nodata {nodata} is not a number. Give the value that marks missing "
            "pixels, or 'none'."
        ) from None


def _gsd_metres(gsd: str | None) -> float | None:
    if gsd is None or gsd == NATIVE:
        return None
    value, _ = parse_size(gsd)
    if value <= 0:
        raise InputError(f"--gsd {gsd} is no pixel size. Give metres, for example 10m, or native.")
    return value
