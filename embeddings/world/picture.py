"""A picture of kin on a map of the world, drawn from the shipped land mask: no image is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from embeddings import land
from embeddings.atomic import atomic_path
from embeddings.errors import InputError, SourceError
from embeddings.types import LonLat

Colour = tuple[int, int, int]

WIDTH = 1200
SOUTH, NORTH = -60.0, 84.0
"""The maps leave out the Antarctic unless something lies there."""
OVERSAMPLING = 2

_SEA: Colour = (226, 233, 238)
_LAND: Colour = (196, 196, 188)
_GRATICULE: Colour = (206, 215, 222)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (28, 32, 38)
_FAINT: Colour = (96, 103, 112)
# Pale orange to dark red: the more similar, the darker; lightness alone tells the order.
_RAMP = np.array([(253, 178, 76), (244, 109, 47), (210, 33, 44), (116, 6, 42)])
_HEADER, _FOOTER, _MARGIN = 46, 46, 16
_DOT = 3.2


@dataclass(frozen=True)
class Kin:
    """A query and what was found: degrees (OGC:CRS84) and cosines, ``(m,)`` each."""

    title: str
    query: LonLat
    lon: npt.NDArray[np.float64]
    lat: npt.NDArray[np.float64]
    similarity: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if not len(self.lon) == len(self.lat) == len(self.similarity):
            raise InputError(
                f"{len(self.lon)} longitudes, {len(self.lat)} latitudes and "
                f"{len(self.similarity)} similarities came together: give one of each a place."
            )


def draw_world(
    out: Path, searches: Sequence[Kin], attribution: str = "", base: Path | None = None
) -> None:
    """Write a PNG with a map for each search, one below the other.

    ``base`` is an image of the whole Earth in plate carree; without it, land and sea are drawn
    in plain colours. Raises InputError if there is no search, SourceError for a bad base.
    """
    if not searches:
        raise InputError("There is no search to draw; give one at least.")
    lats = np.concatenate([np.append(kin.lat, kin.query.lat) for kin in searches])
    south = -90.0 if (lats < SOUTH).any() else SOUTH
    world = _base_map(base, south)
    panels = [_panel(kin, world, south) for kin in searches]
    footer = _FOOTER // 2 if attribution else _MARGIN // 2
    height = sum(panel.height for panel in panels) + footer
    page = Image.new("RGB", (panels[0].width, height), _PAPER)
    for i, panel in enumerate(panels):
        page.paste(panel, (0, sum(p.height for p in panels[:i])))
    if attribution:
        at = (page.width - _MARGIN, page.height - 8)
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
        draw.text(at, attribution, fill=_FAINT, font=font, anchor="rb")
    small = page.quantize(256, dither=Image.Dither.NONE)
    with atomic_path(out) as temporary:
        small.save(temporary, format="PNG", optimize=True)


def _base_map(base: Path | None, south: float) -> Image.Image:
    size = (WIDTH, round(WIDTH * (NORTH - south) / 360.0))
    if base is None:
        mask = land.mask()
        per_degree = mask.shape[0] / 180.0
        seen = mask[round((90.0 - NORTH) * per_degree) : round((90.0 - south) * per_degree)]
        share = Image.fromarray(np.where(seen, 255, 0).astype(np.uint8))
        share = share.resize(size, Image.Resampling.BOX)
        sea = Image.new("RGB", size, _SEA)
        _draw_graticule(ImageDraw.Draw(sea), size, south)
        sea.paste(Image.new("RGB", size, _LAND), mask=share)
        return sea
    try:
        with Image.open(base) as image:
            rows = image.height / 180.0
            box = (0.0, (90.0 - NORTH) * rows, float(image.width), (90.0 - south) * rows)
            picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS, box=box)
    except OSError as error:
        raise SourceError(f"The base map {base} cannot be read: {error}.") from error
    # Darker and greyer than it was, so that the places stand out.
    return Image.blend(picture, picture.convert("L").convert("RGB"), 0.35)


def _draw_graticule(draw: ImageDraw.ImageDraw, size: tuple[int, int], south: float) -> None:
    for lon in range(-150, 180, 30):
        x = _pixel(lon, 0.0, south)[0]
        draw.line((x, 0, x, size[1]), fill=_GRATICULE)
    for lat in range(-60, 90, 30):
        y = _pixel(0.0, lat, south)[1]
        draw.line((0, y, size[0], y), fill=_GRATICULE, width=2 if lat == 0 else 1)


def _pixel(lon: float, lat: float, south: float) -> tuple[float, float]:
    per_degree = WIDTH / 360.0
    return (lon + 180.0) * per_degree, (NORTH - max(lat, south)) * per_degree


def _panel(kin: Kin, world: Image.Image, south: float) -> Image.Image:
    """Draw one map with its title and legend."""
    width, height = world.size
    panel = Image.new("RGB", (width + 2 * _MARGIN, height + _HEADER + _FOOTER), _PAPER)
    panel.paste(_with_places(kin, world, south), (_MARGIN, _HEADER))
    draw = ImageDraw.Draw(panel)
    frame = (_MARGIN - 1, _HEADER - 1, _MARGIN + width, _HEADER + height)
    draw.rectangle(frame, outline=_FAINT)
    title = ImageFont.load_default(size=22)
    draw.text((_MARGIN, _HEADER / 2), kin.title, fill=_INK, font=title, anchor="lm")
    _draw_legend(panel, draw, kin, _HEADER + height + _FOOTER // 2 - 2)
    return panel


def _with_places(kin: Kin, world: Image.Image, south: float) -> Image.Image:
    """Return the map with the places on it, the most similar on top, and the query's mark."""
    scale = OVERSAMPLING
    large = world.resize((world.width * scale, world.height * scale), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(large)
    order = np.argsort(kin.similarity, kind="stable")
    colours = _colours(kin.similarity)
    radius = _DOT * scale
    for i in order.tolist():
        x, y = (v * scale for v in _pixel(float(kin.lon[i]), float(kin.lat[i]), south))
        red, green, blue = colours[i].tolist()
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=(red, green, blue), outline=_PAPER)
    x, y = (v * scale for v in _pixel(*kin.query.lonlat(), south))
    _draw_mark(draw, x, y, scale)
    return large.resize(world.size, Image.Resampling.LANCZOS)


def _draw_mark(draw: ImageDraw.ImageDraw, x: float, y: float, scale: float) -> None:
    """Draw a five-pointed star with a white edge, as atlases mark a place."""
    for radius, colour in ((13.0, _PAPER), (10.0, (0, 92, 200))):
        reach = [radius * scale * (1.0 if i % 2 == 0 else 0.45) for i in range(10)]
        turn = [math.pi * i / 5 for i in range(10)]
        star = [
            (x + r * math.sin(t), y - r * math.cos(t)) for r, t in zip(reach, turn, strict=True)
        ]
        draw.polygon(star, fill=colour)


def _draw_legend(panel: Image.Image, draw: ImageDraw.ImageDraw, kin: Kin, y: int) -> None:
    font = ImageFont.load_default(size=14)
    _draw_mark(draw, _MARGIN + 10, y, 0.9)
    draw.text((_MARGIN + 26, y), "the place asked for", fill=_INK, font=font, anchor="lm")
    if not len(kin.similarity):
        return
    x = _MARGIN + 190
    low, high = float(kin.similarity.min()), float(kin.similarity.max())
    text = f"its {len(kin.lon):,} most similar places: cosine {low:.2f}"
    draw.text((x, y), text, fill=_INK, font=font, anchor="lm")
    x += round(draw.textlength(text, font=font)) + 10
    ramp = _ramp(np.linspace(0, 1, 140))
    panel.paste(Image.fromarray(np.repeat(ramp[None], 12, axis=0)), (x, y - 6))
    draw.text((x + 150, y), f"{high:.2f}", fill=_INK, font=font, anchor="lm")


def _colours(similarity: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    if not len(similarity):
        return np.empty((0, 3), np.uint8)
    low, high = float(similarity.min()), float(similarity.max())
    return _ramp((similarity.astype(np.float64) - low) / max(high - low, 1e-9))


def _ramp(share: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(share, places, _RAMP[:, i]) for i in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=1)), np.uint8)
