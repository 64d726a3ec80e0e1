"""What a run of ``embed chips`` is asked for, and what its table and images make of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from embeddings.encoders import Wants
from embeddings.errors import BandError, InputError, SourceError
from embeddings.raster_job import (
    DTYPE,
    ENCODER,
    LICENCE,
    SOURCE,
    Choices,
    check_stored,
    nodata_rule,
)
from embeddings.sources.band_names import match
from embeddings.sources.chip_images import ImageKind, read_image, stamp_of
from embeddings.sources.chip_table import ChipTable, Images
from embeddings.sources.chips import BATCH_BYTES, BATCH_CHIPS, cut
from embeddings.sources.footprints import polygons
from embeddings.spec import ChipLayout, EmbeddingSpec, parse_size
from embeddings.store.layout import check_name, check_scene, scene_from
from embeddings.store.order import hilbert_index

UNKNOWN_SIDE_M = 100.0
"""Side of the footprints where nothing says how large the chips are."""
MIN_VALID = 1e-6
"""A chip is embedded if any of its pixels has data."""
HILBERT_BITS = 26
"""Cells of the curve are half a metre high."""
_WGS84 = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class ChipsJob:
    """Which table of images to embed, and where to.

    ``bands`` chooses bands by name and order, or names them; ``nodata`` is a number, or "none";
    ``scale`` is what the numbers are multiplied with, in place of what the files declare;
    ``chip_size`` the side of a chip on the ground, "640m". None stands for what the collection
    has, or else for the default.
    """

    store: Path
    collection: str
    table: Path
    encoder: str | None = None
    weights: Path | None = None
    weights_sha256: str | None = None
    bands: tuple[str, ...] | None = None
    nodata: str | float | None = None
    scale: float | None = None
    min_valid: float | None = None
    chip_size: str | None = None
    scene: str | None = None
    dtype: str | None = None
    source: str | None = None
    licence: str | None = None
    replace: bool = False

    def check(self) -> None:
        """Raise InputError if a field cannot be used, whatever the table says."""
        check_name(self.collection)
        nodata_rule(self.nodata)
        self.side_m()
        if self.scene is not None:
            check_scene(self.scene)
        check_stored(self.dtype, self.min_valid)

    def scene_id(self) -> str:
        """Return the name of the table's record in the collection."""
        return self.scene if self.scene is not None else scene_from(self.table.stem)

    def side_m(self) -> float | None:
        """Return the side of a chip on the ground in metres, if it was given."""
        if self.chip_size is None:
            return None
        value, unit = parse_size(self.chip_size)
        if unit == "px" or value <= 0:
            raise InputError(
                f"--chip-size {self.chip_size} is no length on the ground. Give metres: 640m."
            )
        return value

    def choices(self, known: EmbeddingSpec | None) -> Choices:
        """Return what was asked for or else is chosen; ``known`` is the collection appended to."""
        own = Choices(ENCODER, None, None, MIN_VALID, DTYPE, SOURCE, LICENCE)
        if known is not None:
            pre = known.preprocessing
            least = pre.min_valid if pre is not None else MIN_VALID
            own = Choices(known.model, None, None, least, known.dtype, known.source, known.licence)
        names = ("encoder", "min_valid", "dtype", "source", "licence")
        asked = {name: getattr(self, name) for name in names}
        return replace(own, **{name: value for name, value in asked.items() if value is not None})


@dataclass(frozen=True, slots=True)
class ReadChips:
    """The chips of some rows of a table."""

    pixels: NDArray[np.float32]
    """``(n, bands, height, width)``; pixels without data hold the mean of the chip's others."""
    kept: tuple[int, ...]
    """The row of each chip."""
    absent: tuple[int, ...]
    """Rows whose images have too little data."""
    share: tuple[float, ...]
    """Of the pixels of the absent ones, those with data."""
    unreadable: dict[int, str]
    """Rows whose images cannot be read, and why."""


@dataclass(frozen=True)
class TablePlan:
    """A checked table, how its images are read and where they lie."""

    job: ChipsJob
    table: ChipTable
    images: Images
    bands: tuple[str, ...]
    indexes: tuple[int, ...]
    """Which bands of the images, from 0."""
    side: float | None
    """Side of the chips on the ground in metres, if it was given."""

    @classmethod
    def of(cls, job: ChipsJob, table: ChipTable, images: Images) -> TablePlan:
        """Choose the bands that the user wants. Raises BandError."""
        chosen = images.kind.chosen(job.bands)
        return cls(job, table, images, *chosen, job.side_m())

    def sized(self, stored: ChipLayout | None) -> TablePlan:
        """Take the size of the collection's chips where neither user nor images say one."""
        if self.knows_size or stored is None:
            return self
        value, unit = parse_size(stored.chip_asked)
        return replace(self, side=value) if unit == "m" else self

    def aligned(self, wants: Wants, stored: Sequence[str] | None) -> TablePlan:
        """Bring the bands into the encoder's order, or that of the collection.

        Raises BandError, naming the bands that lack and those that are there.
        """
        if wants.bands is not None:
            order = match(wants.bands, self.bands)
            names = tuple(band.name for band in wants.bands)
        elif stored is None or set(stored) == set(self.bands):
            names = tuple(stored or self.bands)
            order = [self.bands.index(name) for name in names]
        elif len(stored) == len(self.bands) and not set(stored) & set(self.bands):
            names, order = tuple(stored), list(range(len(self.bands)))
        else:
            raise BandError(
                f"The collection was made from the bands {', '.join(stored)}; the images have "
                f"{', '.join(self.bands)}. Choose or name them with --bands."
            )
        return replace(self, bands=names, indexes=tuple(self.indexes[i] for i in order))

    @property
    def kind(self) -> ImageKind:
        """What the images have in common."""
        return self.images.kind

    @property
    def layout(self) -> ChipLayout:
        """Every chip is a whole image."""
        size = (self.kind.height, self.kind.width)
        side = f"{self.side_m:.12g}m"
        return ChipLayout(side, side, size, size)

    @property
    def knows_size(self) -> bool:
        """Whether the user or the images say how large a chip is on the ground."""
        return self.side is not None or self.kind.gsd_m is not None

    @property
    def gsd_m(self) -> float:
        """Metres a pixel: of the side that was given, of the images, or of UNKNOWN_SIDE_M."""
        if self.side is None and self.kind.gsd_m is not None:
            return self.kind.gsd_m
        return (self.side or UNKNOWN_SIDE_M) / self.kind.width

    @property
    def side_m(self) -> float:
        """The width of a chip on the ground, metres."""
        return self.gsd_m * self.kind.width

    @property
    def scale(self) -> tuple[float, ...]:
        """What the numbers of each band are multiplied with."""
        if self.job.scale is not None:
            return (self.job.scale,) * len(self.bands)
        return tuple(self.kind.scale[i] for i in self.indexes)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that changes pixels or rows.

        Its first half is of the table and the settings, the second of the images' content.
        """
        job = asdict(self.job)
        names = ("nodata", "scale", "min_valid", "bands")
        settings = [repr(job[name]) for name in names]
        listed = json.dumps([self.table.sha256, *settings, f"{self.side_m:.6g}"])
        halves = (hashlib.sha256(text.encode()) for text in (listed, self.images.sha256))
        return "".join(half.hexdigest()[:32] for half in halves)

    @property
    def batches(self) -> list[range]:
        """Divide the rows into batches of bounded memory."""
        size = 4 * len(self.bands) * self.kind.height * self.kind.width
        most = max(1, min(BATCH_CHIPS, BATCH_BYTES // size))
        rows = self.table.rows
        return [range(start, min(start + most, rows)) for start in range(0, rows, most)]

    def read(self, rows: Sequence[int], min_valid: float) -> ReadChips:
        """Read the images of some rows; those that cannot be read are told apart."""
        size, corner = (self.kind.height, self.kind.width), np.zeros(1, np.int64)
        pixels: list[NDArray[np.float32]] = []
        kept: list[int] = []
        absent: list[int] = []
        share: list[float] = []
        unreadable: dict[int, str] = {}
        for row in rows:
            try:
                values, valid = self._image(row)
            except SourceError as error:
                unreadable[row] = str(error)
                continue
            if valid.all():
                pixels.append(values)
                kept.append(row)
                continue
            chip = cut(values, valid, size, corner, corner, min_valid)
            pixels += list(chip.pixels)
            (kept if len(chip.pixels) else absent).append(row)
            share += chip.absent_share.tolist()
        empty = np.empty((0, len(self.bands), *size), np.float32)
        return ReadChips(
            np.stack(pixels) if pixels else empty,
            tuple(kept),
            tuple(absent),
            tuple(share),
            unreadable,
        )

    def _image(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read one image, as ``read_image`` does; it must be the one that was hashed."""
        file, (nodata, _) = self.table.files[row], nodata_rule(self.job.nodata)
        found = read_image(file, self.indexes, nodata, self.job.scale)
        if stamp_of(file) != self.images.stamps[row]:
            raise SourceError("was changed while this ran; run the same command again")
        return found

    def footprints(self, rows: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return footprints (shapely, OGC:CRS84) and boxes ``(n, 4)`` xmin ymin xmax ymax."""
        lon, lat = (axis[np.asarray(rows, int)] for axis in (self.table.lon, self.table.lat))
        by_pixels = self.side is None and self.kind.gsd_m is not None
        down = self.gsd_m * self.kind.height if by_pixels else self.side_m
        return rectangles(lon, lat, self.side_m, down)

    def order(self, rows: Sequence[int]) -> NDArray[np.uint64]:
        """Return where the chips' centres lie along a Hilbert curve over the Earth."""
        cells = 1 << HILBERT_BITS
        lon, lat = (axis[np.asarray(rows, int)] for axis in (self.table.lon, self.table.lat))
        col = np.minimum((lon + 180.0) / 360.0 * cells, cells - 1).astype(np.int64)
        row = np.minimum((lat + 90.0) / 180.0 * cells, cells - 1).astype(np.int64)
        return hilbert_index(row, col, HILBERT_BITS)


def rectangles(
    lon: NDArray[np.float64], lat: NDArray[np.float64], width_m: float, height_m: float
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Make rectangles around places ``(n,)`` in degrees, sides north and east on the ellipsoid.

    Returns shapely geometries and boxes ``(n, 4)``, as ``polygons`` does.
    """
    reach = float(np.hypot(width_m, height_m) / 2)
    corner = float(np.degrees(np.arctan2(width_m, height_m)))
    ring = np.array([-corner, 180.0 + corner, 180.0 - corner, corner])
    shape = (len(lon), 4)
    lons, lats, _ = _WGS84.fwd(
        np.repeat(lon, 4), np.repeat(lat, 4), np.tile(ring, len(lon)), np.full(4 * len(lon), reach)
    )
    return polygons(np.reshape(lons, shape), np.reshape(lats, shape))
