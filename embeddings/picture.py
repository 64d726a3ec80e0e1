"""A picture of a search: the scene, the places found, coloured by similarity, and the query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from PIL import Image, ImageDraw, ImageFont
from pyproj import Geod, Transformer
from pyproj.enums import TransformDirection
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.vrt import WarpedVRT
from shapely.geometry.base import BaseGeometry

from embeddings.atomic import atomic_path
from embeddings.errors import BandError, InputError, SourceError
from embeddings.sources.nodata import can_hold

Values = npt.NDArray[np.float64]
Point = tuple[float, float]
Band = np.ma.MaskedArray[Any, np.dtype[np.float64]]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_SIDE = 1400
"""Longest side of the map in pixels."""
MIN_SIDE = 900
"""Small scenes are enlarged to this."""

_NODATA: Colour = (226, 228, 230)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (28, 32, 38)
_FAINT: Colour = (96, 103, 112)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
# Violet to yellow, getting steadily lighter: it stands out from greens and blues, and lightness
# alone tells the order to colour-blind people.
_RAMP = np.array([(168, 52, 226), (226, 68, 158), (248, 118, 92), (253, 178, 56), (246, 250, 60)])
_SCENE_BRIGHTNESS = 0.86
_FILL_ALPHA = 64
_OVERSAMPLING = 2
_MARGIN = 18
_HEADER = 54
_FOOTER = 64


@dataclass(frozen=True)
class _Map:
    """The scene as a picture, and how longitude and latitude become its pixels."""

    image: Image.Image
    to_scene: Transformer
    from_lonlat: npt.NDArray[np.float64]
    """(2, 3) affine matrix from scene coordinates to pixels (x, y) of the picture."""
    metres_per_pixel: float

    def pixels(self, lonlat: npt.NDArray[np.float64], scale: float = 1) -> npt.NDArray[np.float64]:
        """Return (n, 2) pixels (x, y) of (n, 2) longitudes and latitudes."""
        x, y = self.to_scene.transform(lonlat[:, 0], lonlat[:, 1])
        return np.stack([x, y, np.ones_like(x)], axis=1) @ self.from_lonlat.T * scale


def draw_results(
    out: Path,
    bands: Sequence[Path],
    query: BaseGeometry,
    results: Sequence[BaseGeometry],
    similarity: npt.ArrayLike,
    title: str,
    attribution: str = "",
    *,
    nodata: float | None = None,
) -> None:
    """Write a PNG map of a search.

    ``bands`` are three files (red, green, blue) or one whose first three bands are those, in any
    CRS; the files may differ in resolution. ``query`` and ``results`` are footprints in degrees
    (OGC:CRS84, x is longitude); ``similarity`` is (n,), one for each result. ``nodata`` is a value
    that stands for no data in files that do not say so themselves.

    Raises SourceError if the scene cannot be read or placed, BandError if it has no three bands
    and InputError if the results and their similarities differ in number.
    """
    values = np.asarray(similarity, np.float64).ravel()
    if len(values) != len(results):
        raise InputError(
            f"{len(results)} results came with {len(values)} similarities: give one for each."
        )
    scene = _read_map(bands, nodata)
    _draw_footprints(scene, query, results, values)
    page = _page(scene, values, title, attribution)
    with atomic_path(out) as temporary:
        page.save(temporary, format="PNG", optimize=True)


def _read_map(bands: Sequence[Path], nodata: float | None) -> _Map:
    if len(bands) not in (1, 3):
        raise BandError(
            f"A picture came with {len(bands)} band files: give three (red, green, blue) or one "
            "file whose first three bands are those."
        )
    try:
        finest = min(bands, key=_pixel_area)
        with rasterio.open(finest) as first:
            if first.crs is None:
                raise SourceError(f"{finest} has no CRS, so nothing can be placed on it.")
            if len(bands) == 1 and first.count < 3:
                raise BandError(f"{bands[0]} has {first.count} of the three bands of a picture.")
            to_scene = Transformer.from_crs("OGC:CRS84", first.crs, always_xy=True)
            pixel_m = _pixel_size_m(first, to_scene)
            shape_px = np.array([first.width, first.height])
            from_scene = np.linalg.inv(_matrix(first))[:2]
            grid = {
                "crs": first.crs,
                "transform": first.transform,
                "width": first.width,
                "height": first.height,
            }
        sources = [(bands[0], i) for i in (1, 2, 3)] if len(bands) == 1 else [(b, 1) for b in bands]
        ground_m = shape_px * pixel_m
        side = np.clip(shape_px.max(), MIN_SIDE, MAX_SIDE)
        size = np.maximum(1, np.rint(ground_m * side / ground_m.max())).astype(int)
        layers = [_read_band(path, number, grid, size, nodata) for path, number in sources]
    except RasterioIOError as error:
        raise SourceError(f"The scene cannot be read for the picture: {error}.") from error
    image = _true_colour(np.ma.stack(layers)).resize(size.tolist(), Image.Resampling.BICUBIC)
    to_picture = from_scene * (size / shape_px)[:, None]
    return _Map(image, to_scene, to_picture, float(ground_m[0] / size[0]))


def _matrix(scene: rasterio.DatasetReader) -> npt.NDArray[np.float64]:
    """Return the (3, 3) matrix from (column, row, 1) to scene coordinates."""
    return np.array(list(scene.transform), np.float64).reshape(3, 3)


def _pixel_size_m(scene: rasterio.DatasetReader, to_scene: Transformer) -> npt.NDArray[np.float64]:
    """Return the (width, height) in metres on the ground of the pixel in the middle."""
    column, row = scene.width / 2, scene.height / 2
    pixels = np.array([(column, row, 1), (column + 1, row, 1), (column, row + 1, 1)])
    x, y, _ = _matrix(scene) @ pixels.T
    lon, lat = to_scene.transform(x, y, direction=TransformDirection.INVERSE)
    metres = Geod(ellps="WGS84").inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])[2]
    return np.asarray(metres, np.float64)


def _pixel_area(path: Path) -> float:
    with rasterio.open(path) as scene:
        return abs(float(scene.transform.determinant))


def _read_band(
    path: Path,
    number: int,
    grid: Mapping[str, Any],
    size: npt.NDArray[np.int_],
    nodata: float | None,
) -> Band:
    """Read one band on the finest band's grid, averaged down to ``size`` (width, height)."""
    shape = min(grid["height"], int(size[1])), min(grid["width"], int(size[0]))
    with rasterio.open(path) as scene:
        how = {"out_shape": shape, "masked": True, "resampling": Resampling.average}
        missing = nodata if can_hold(scene.dtypes[number - 1], nodata) else scene.nodata
        if missing == scene.nodata and scene.transform.almost_equals(grid["transform"]):
            return np.ma.asarray(scene.read(number, **how), np.float64)
        # A virtual copy that says which value is no data, so that averages leave it out.
        with WarpedVRT(
            scene, src_nodata=missing, nodata=missing, add_alpha=missing is None, **grid
        ) as told:
            return np.ma.asarray(told.read(number, **how), np.float64)


def _true_colour(bands: Band) -> Image.Image:
    """Stretch (3, rows, cols) between its 1st and 99th percentile; no data becomes light grey."""
    missing = np.ma.getmaskarray(bands).any(axis=0)
    pixels = np.empty((*missing.shape, 3), np.uint8)
    for i, band in enumerate(np.asarray(bands.data)):
        valid = band[~missing]
        low, high = np.percentile(valid, [1, 99]) if valid.size else (0.0, 1.0)
        stretched = np.clip((band - low) / max(high - low, 1e-9), 0, 1) ** 0.85
        pixels[..., i] = np.rint(stretched * 255 * _SCENE_BRIGHTNESS)
    pixels[missing] = _NODATA
    return Image.fromarray(pixels)


def _draw_footprints(
    scene: _Map, query: BaseGeometry, results: Sequence[BaseGeometry], values: Values
) -> None:
    """Draw the results, the most similar on top, and the query above all."""
    over = Image.new("RGBA", [side * _OVERSAMPLING for side in scene.image.size], (0, 0, 0, 0))
    draw = ImageDraw.Draw(over)
    colours = _colours(values)
    for i in np.argsort(values):
        for ring in _rings(scene, results[i]):
            draw.polygon(ring, fill=(*colours[i], _FILL_ALPHA))
            draw.line(ring, fill=(*_BLACK, 200), width=5 * _OVERSAMPLING, joint="curve")
            draw.line(ring, fill=(*colours[i], 255), width=3 * _OVERSAMPLING, joint="curve")
    for ring in _rings(scene, query):
        draw.line(ring, fill=(*_BLACK, 255), width=5 * _OVERSAMPLING, joint="curve")
        draw.line(ring, fill=(*_WHITE, 255), width=2 * _OVERSAMPLING, joint="curve")
    corners = np.concatenate([np.array(ring) for ring in _rings(scene, query)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    x, y = (low + high) / 2
    radius = max(17 * _OVERSAMPLING, 0.75 * float(np.hypot(*(high - low))))
    _draw_target(draw, (float(x), float(y)), radius, _OVERSAMPLING)
    over = over.resize(scene.image.size, Image.Resampling.LANCZOS)
    scene.image.paste(over, mask=over.getchannel("A"))


def _rings(scene: _Map, footprint: BaseGeometry) -> list[list[Point]]:
    """Return the outer rings of a footprint in pixels of the oversampled picture."""
    parts = [part for part in shapely.get_parts(footprint) if part.geom_type == "Polygon"]
    rings = [shapely.get_coordinates(part.exterior) for part in parts]
    return [[(x, y) for x, y in scene.pixels(ring, _OVERSAMPLING).tolist()] for ring in rings]


def _draw_target(draw: ImageDraw.ImageDraw, at: Point, radius: float, unit: float) -> None:
    """Draw a white ring with four ticks in a black casing; it leaves its inside open."""
    x, y = at
    for colour, width, reach in ((_BLACK, 6, 1.0), (_WHITE, 3, 0.0)):
        outer = radius + width * unit / 2
        box = (x - outer, y - outer, x + outer, y + outer)
        draw.ellipse(box, outline=colour, width=round(width * unit))
        start, end = radius, radius + (9 + reach) * unit
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            tick = (x + dx * start, y + dy * start, x + dx * end, y + dy * end)
            draw.line(tick, fill=colour, width=round(width * unit))


def _page(scene: _Map, values: Values, title: str, attribution: str) -> Image.Image:
    """Set the map on a page with title, legend, scale bar and attribution."""
    width, height = scene.image.size
    page = Image.new(
        "RGB", (width + 2 * _MARGIN, height + _HEADER + _FOOTER + _MARGIN // 2), _PAPER
    )
    page.paste(scene.image, (_MARGIN, _HEADER))
    draw = ImageDraw.Draw(page)
    draw.rectangle(
        (_MARGIN - 1, _HEADER - 1, _MARGIN + width, _HEADER + height), outline=_FAINT, width=1
    )
    text, font = _fitted(title, width, 26)
    draw.text((_MARGIN, _HEADER / 2), text, fill=_INK, font=font, anchor="lm")
    middle = _HEADER + height + 24
    _draw_legend(page, draw, (_MARGIN, middle), values)
    _draw_scale_bar(draw, (_MARGIN + width, middle), scene.metres_per_pixel, width)
    text, font = _fitted(attribution, width, 13)
    bottom = page.height - 8
    draw.text((_MARGIN + width, bottom), text, fill=_FAINT, font=font, anchor="rb")
    return page


def _draw_legend(
    page: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], values: Values
) -> None:
    """Draw the query's sign and the ramp of similarities, from ``at`` to the right."""
    x, y = at
    font = ImageFont.load_default(size=16)
    _draw_target(draw, (x + 14, y), 6, 0.6)
    draw.text((x + 34, y), "query", fill=_INK, font=font, anchor="lm")
    x += 104
    if not len(values):
        draw.text((x, y), "no place found", fill=_INK, font=font, anchor="lm")
        return
    noun = "place" if len(values) == 1 else "places"
    low, high = f"{values.min():.3f}", f"{values.max():.3f}"
    label = f"{len(values):,} {noun} · similarity {low}"
    draw.text((x, y), label, fill=_INK, font=font, anchor="lm")
    x += round(draw.textlength(label, font=font)) + 10
    if low != high:
        ramp = _ramp(np.linspace(0, 1, 150)).astype(np.uint8)
        page.paste(Image.fromarray(np.repeat(ramp[None], 14, axis=0)), (x, y - 7))
        draw.rectangle((x - 1, y - 8, x + 150, y + 7), outline=_FAINT)
        draw.text((x + 160, y), high, fill=_INK, font=font, anchor="lm")


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], metres_per_pixel: float, map_width: int
) -> None:
    """Draw a bar of a round length, at most a fifth of the map, ending at ``at``."""
    longest = metres_per_pixel * map_width / 5
    power = 10.0 ** math.floor(math.log10(longest))
    length = power * max(step for step in (1, 2, 5) if step * power <= longest)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    x, y = at
    start = x - round(length / metres_per_pixel)
    draw.line((start, y, x, y), fill=_INK, width=3)
    for end in (start, x):
        draw.line((end, y - 6, end, y + 6), fill=_INK, width=2)
    font = ImageFont.load_default(size=16)
    draw.text((start - 10, y), label, fill=_INK, font=font, anchor="rm")


def _fitted(text: str, width: int, size: int) -> tuple[str, Font]:
    """Return the text and a font with which it fits: smaller at first, then cut short."""
    for smaller in range(size, max(11, size // 2), -1):
        font = ImageFont.load_default(size=smaller)
        if font.getlength(text) <= width:
            return text, font
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…", font


def _colours(values: Values) -> list[Colour]:
    """Return a colour for each similarity, from the least to the most similar shown."""
    if not len(values):
        return []
    span = values.max() - values.min()
    share = (values - values.min()) / span if span > 0 else np.ones_like(values)
    return [(r, g, b) for r, g, b in _ramp(share).tolist()]


def _ramp(share: Values) -> npt.NDArray[np.int_]:
    """Return (n, 3) colours for shares from 0 to 1."""
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(share, places, _RAMP[:, i]) for i in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=1)), np.int_)
