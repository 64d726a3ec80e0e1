"""A made-up Sentinel-2 scene, for the demo without a scene and for tests.

Several land covers share their mean colour and differ in texture only, the light changes with
the relief, and haze brightens one side: mean colour alone does not tell the covers apart. All of
it follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import Affine

from embeddings.atomic import atomic_path
from embeddings.errors import InputError

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BANDS = ("B02", "B03", "B04", "B08")
COVERS = (
    "no data",
    "water",
    "sand",
    "forest",
    "shrub",
    "orchard",
    "cereal",
    "row crop",
    "meadow",
    "town",
)
"""Names of the classes of ``cover_map``, by number."""

PIXEL_M = 10.0
MIN_SIZE = 64
_CRS = "EPSG:32633"
_ORIGIN = (412_000.0, 5_018_000.0)
_WATER, _SAND, _FOREST, _SHRUB, _ORCHARD, _CEREAL, _ROW_CROP, _MEADOW, _TOWN = range(1, 10)
_DISTRICT_PX = 260
_PARCEL_KINDS = np.array(
    [_CEREAL, _CEREAL, _ROW_CROP, _ROW_CROP, _MEADOW, _MEADOW, _ORCHARD], np.uint8
)

# Surface reflectance times 10,000 in blue, green, red and near infrared. The woody covers share
# one colour, and so do the green fields.
_WOODY = (330, 540, 400, 2500)
_GREEN = (430, 780, 520, 3100)
_COLOURS = {
    _WATER: (520, 480, 300, 170),
    _SAND: (1050, 1450, 1780, 2500),
    _FOREST: _WOODY,
    _SHRUB: _WOODY,
    _ORCHARD: _WOODY,
    _CEREAL: _GREEN,
    _ROW_CROP: _GREEN,
    _MEADOW: _GREEN,
    _TOWN: (900, 980, 1020, 1900),
}
_STRAW = (700, 1080, 1300, 2500)
_SOIL = (620, 880, 1130, 1900)
_ROOF = (950, 1080, 1480, 2000)
_STREET = (960, 1050, 1100, 1400)


@dataclass(frozen=True)
class _Layout:
    """What lies where: everything that ``cover_map`` and the textures share. (size, size)."""

    cover: npt.NDArray[np.uint8]
    relief: Field
    along: Field
    """Pixels along the direction of the district's fields and streets."""
    across: Field
    edge: Field
    """Pixels to the nearest edge of the parcel."""
    parcel: npt.NDArray[np.uint32]
    """A well-mixed number for each parcel."""


def cover_map(seed: int = 0, size: int = 1024) -> npt.NDArray[np.uint8]:
    """Return the true class of each pixel of ``write_scene``'s scene: (size, size) uint8.

    The numbers count through ``COVERS``; 0 is the corner without data.
    """
    return _layout(np.random.default_rng(seed), _checked(size)).cover


def write_scene(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 1024,
    bands: Sequence[str] = BANDS,
    tag_nodata: bool = True,
) -> list[Path]:
    """Write one tiled uint16 GeoTIFF per band into ``folder``; return the paths in band order.

    EPSG:32633, pixels of 10 m, reflectance times 10,000. One corner is cut off and filled with
    0; ``tag_nodata`` says so in the files. Equal arguments give equal bytes. Raises InputError
    for a band other than ``BANDS`` or a size below ``MIN_SIZE``.
    """
    unknown = [band for band in bands if band not in BANDS]
    if unknown:
        raise InputError(f"The synthetic scene has no band {unknown}; it has {list(BANDS)}.")
    rng = np.random.default_rng(seed)
    layout = _layout(rng, _checked(size))
    pixels = _render(rng, layout)
    paths = []
    for band in bands:
        path = folder / f"{band}.tif"
        with atomic_path(path) as temporary:
            _write_band(temporary, band, pixels[BANDS.index(band)], tag_nodata)
        paths.append(path)
    return paths


def _write_band(path: Path, band: str, values: npt.NDArray[np.uint16], tag_nodata: bool) -> None:
    height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint16",
        count=1,
        width=width,
        height=height,
        crs=_CRS,
        transform=Affine(PIXEL_M, 0, _ORIGIN[0], 0, -PIXEL_M, _ORIGIN[1]),
        nodata=0 if tag_nodata else None,
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="deflate",
        predictor=2,
    ) as file:
        file.write(values, 1)
        file.set_band_description(1, band)


def _checked(size: int) -> int:
    if size < MIN_SIZE:
        raise InputError(f"A synthetic scene of {size} pixels is too small: {MIN_SIZE} or more.")
    return size


def _layout(rng: np.random.Generator, size: int) -> _Layout:
    relief = _fractal(rng, size, 1.9, longest=430)
    wooded = _fractal(rng, size, 1.6, longest=260) + 0.7 * relief
    urban = _fractal(rng, size, 2.2, longest=420)
    wildness = _fractal(rng, size, 1.8, longest=300)
    river = _fractal(rng, size, 2.6, longest=900)
    along, across, edge, parcel = _parcels(rng, size)

    cover = _PARCEL_KINDS[parcel % len(_PARCEL_KINDS)]
    woods = wooded > np.quantile(wooded, 0.68)
    cover[woods] = np.where(wildness > 0, _FOREST, _SHRUB)[woods]
    flat = urban - 0.4 * relief
    cover[(flat > np.quantile(flat, 0.9)) & ~woods] = _TOWN
    shore = np.quantile(relief, [0.08, 0.16])
    cover[(relief < shore[1]) & (wildness > -0.3)] = _SAND
    cover[(relief < shore[0]) | _along_contour(river, 5.0)] = _WATER
    cover[_cut_corner(size)] = 0
    return _Layout(cover, relief, along, across, edge, parcel)


def _parcels(
    rng: np.random.Generator, size: int
) -> tuple[Field, Field, Field, npt.NDArray[np.uint32]]:
    """Cut the land into districts, each with its own direction and size of parcels."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    y += 7 * _fractal(rng, size, 2.5, longest=200)
    x += 7 * _fractal(rng, size, 2.5, longest=200)
    number = max(4, round((size / _DISTRICT_PX) ** 2))
    centres = rng.uniform(0, size, (number, 2)).astype(np.float32)
    district = np.zeros((size, size), np.intp)
    nearest = np.full((size, size), np.inf, np.float32)
    for i, (cx, cy) in enumerate(centres):
        distance = (x - cx) ** 2 + (y - cy) ** 2
        district[distance < nearest] = i
        nearest = np.minimum(nearest, distance)

    angle = rng.uniform(0, np.pi, number).astype(np.float32)
    width = rng.uniform(44, 80, number).astype(np.float32)[district]
    length = rng.uniform(80, 150, number).astype(np.float32)[district]
    cosine, sine = np.cos(angle)[district], np.sin(angle)[district]
    along, across = x * cosine + y * sine, y * cosine - x * sine
    strip = np.floor(across / width)
    shift = _mixed(district, strip, 0) / np.float32(2**32)
    in_length = along / length + shift
    block = np.floor(in_length)
    to_side = np.abs((across / width - strip) - 0.5)
    to_end = np.abs((in_length - block) - 0.5)
    edge = np.minimum((0.5 - to_side) * width, (0.5 - to_end) * length)
    return along, across, edge.astype(np.float32), _mixed(district, strip, block)


def _render(rng: np.random.Generator, layout: _Layout) -> npt.NDArray[np.uint16]:
    """Colour and texture, then light, haze and the sensor: (4, size, size) uint16."""
    size = layout.cover.shape[0]
    colours = np.zeros((len(COVERS), len(BANDS)), np.float32)
    for cover, colour in _COLOURS.items():
        colours[cover] = colour
    scene = np.moveaxis(colours[layout.cover], -1, 0).copy()
    scene *= 1 + _texture(rng, layout)
    _add_fields(scene, layout)
    _add_town(rng, scene, layout)

    slope_y, slope_x = np.gradient(_blurred(layout.relief, 3.0))
    shade = 1 + np.clip(9 * (slope_x + slope_y), -0.45, 0.45)
    scene *= np.where(layout.cover == _WATER, 1, shade)
    scene *= 1 + 0.09 * _fractal(rng, size, 2.0, longest=500)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    haze = np.clip(0.75 * x + 0.35 * y - 0.25, 0, 1) + 0.12 * _fractal(rng, size, 2.4, longest=600)
    for band, depth in enumerate((330, 230, 160, 60)):
        scene[band] = _blurred(scene[band], 0.55) + depth * haze
    scene += rng.normal(0, 14, scene.shape).astype(np.float32)
    pixels = np.clip(np.rint(scene), 1, 10_000).astype(np.uint16)
    pixels[:, layout.cover == 0] = 0
    return pixels


def _texture(rng: np.random.Generator, layout: _Layout) -> Field:
    """Return relative brightness about 0, shared by the bands."""
    size = layout.cover.shape[0]
    fine = _fractal(rng, size, 0.0, longest=size)
    crowns = _standard(_blurred(fine, 1.1))
    clumps = _standard(_blurred(_fractal(rng, size, 0.0, longest=size), 2.6))
    broad = _fractal(rng, size, 1.4, longest=90)
    along, across = layout.along, layout.across
    waves = across / 8 + 0.7 * _fractal(rng, size, 2.2, longest=160)
    textures = {
        _WATER: 0.03 * fine + 0.06 * broad,
        _SAND: 0.10 * np.sin(2 * np.pi * waves) + 0.03 * fine + 0.05 * broad,
        _FOREST: 0.20 * crowns + 0.08 * broad,
        _SHRUB: 0.30 * np.tanh(2.5 * (clumps - 0.3)) + 0.07 * crowns + 0.07 * broad,
        _ORCHARD: 0.40 * _wave(along, 5) * _wave(across, 5) + 0.08 * fine,
        _CEREAL: 0.05 * _wave(across, 3.2) + 0.03 * fine + 0.05 * broad,
        _ROW_CROP: 0.17 * _wave(across, 6) + 0.04 * fine + 0.05 * broad,
        _MEADOW: 0.11 * clumps + 0.10 * broad + 0.03 * fine,
        _TOWN: 0.08 * fine,
    }
    relative = np.zeros((size, size), np.float32)
    for cover, texture in textures.items():
        np.copyto(relative, texture, where=layout.cover == cover, casting="same_kind")
    return relative


def _add_fields(scene: Field, layout: _Layout) -> None:
    """Give parcels their own shade, some a ripe or bare colour, and hedges and tracks between."""
    fields = (layout.cover >= _ORCHARD) & (layout.cover <= _MEADOW)
    draw = (layout.parcel >> np.uint32(8)) / np.float32(2**24)
    scene *= np.where(fields, 0.82 + 0.36 * ((draw * 7) % 1), 1)
    tilled = (layout.cover == _CEREAL) | (layout.cover == _ROW_CROP)
    texture = scene[3] / _GREEN[3]
    for low, high, colour in ((0.0, 0.4, _STRAW), (0.4, 0.6, _SOIL)):
        chosen = tilled & (draw >= low) & (draw < high)
        for band, value in enumerate(colour):
            np.copyto(scene[band], value * texture, where=chosen)
    bordered = fields & (layout.edge < 1.1)
    hedge = bordered & (layout.parcel % 3 != 0)
    for band in range(len(BANDS)):
        scene[band][hedge] = 0.8 * _WOODY[band]
        scene[band][bordered & ~hedge] = _SOIL[band]


def _add_town(rng: np.random.Generator, scene: Field, layout: _Layout) -> None:
    """Lay streets along the district's directions, and roofs and gardens between them."""
    town = layout.cover == _TOWN
    street = (layout.along % 17 < 1.8) | (layout.across % 11 < 1.6)
    lot = _mixed(np.floor(layout.along / 3.4), np.floor(layout.across / 3.7), rng.integers(2**16))
    draw = lot / np.float32(2**32)
    for band in range(len(BANDS)):
        garden, roof = _GREEN[band] * 0.8, _ROOF[band]
        blocks = np.where(draw < 0.42, roof * (0.7 + draw * 1.6), garden * (0.6 + draw * 0.5))
        np.copyto(scene[band], np.where(street, _STREET[band], blocks), where=town)


def _fractal(rng: np.random.Generator, size: int, slope: float, longest: float) -> Field:
    """Return noise whose amplitude falls with frequency to the power ``slope``.

    Waves longer than ``longest`` pixels are not stronger than those. Mean 0, deviation 1.
    """
    noise = np.fft.rfft2(rng.standard_normal((size, size)))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    amplitude = np.maximum(frequency, 1 / longest) ** -slope
    amplitude[0, 0] = 0
    return _standard(np.fft.irfft2(noise * amplitude, s=(size, size)))


def _blurred(values: Field, sigma: float) -> Field:
    """Return values after a Gaussian blur of ``sigma`` pixels; opposite sides meet."""
    rows, cols = values.shape
    squared = np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.rfftfreq(cols)[None, :] ** 2
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * squared)
    return np.asarray(np.fft.irfft2(np.fft.rfft2(values) * kernel, s=(rows, cols)), np.float32)


def _standard(values: npt.NDArray[np.floating]) -> Field:
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def _wave(position: Field, period: float) -> Field:
    return np.asarray(np.sin(position * np.float32(2 * np.pi / period)))


def _along_contour(field: Field, width_px: float) -> Mask:
    """Return a winding band of constant width: where the field is near 0."""
    slope_y, slope_x = np.gradient(_blurred(field, 3.0))
    return np.asarray(np.abs(field) < width_px * np.hypot(slope_x, slope_y))


def _cut_corner(size: int) -> Mask:
    """Return the north-west corner beyond the edge of the satellite's swath."""
    y, x = np.mgrid[:size, :size]
    return np.asarray(x + 0.22 * y < 0.14 * size)


def _mixed(*parts: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Return a well-mixed 32-bit number of integers (multiply and xor-shift)."""
    mixed = np.asarray(0x9E3779B9, np.uint32)
    for part in parts:
        number = np.asarray(part).astype(np.int64).astype(np.uint32)
        mixed = np.asarray((mixed ^ number) * np.uint32(0x85EBCA6B))
        mixed = np.asarray((mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        mixed = np.asarray(mixed ^ (mixed >> np.uint32(16)))
    return mixed
