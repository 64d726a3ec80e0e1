"""The public images the world collection is made of, as arrays on one plate carree grid."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from embeddings import land
from embeddings.errors import SourceError

MAX_ROWS = 1350
"""Images are averaged down to this many rows (0.13 degrees), about half a cell of 25 km."""

FILES = {
    "july": "bluemarble_july*.jpg",
    "december": "bluemarble_december*.jpg",
    "night": "blackmarble_night*.jpg",
    "relief": "etopo*.npz",
}

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WorldImages:
    """Rasters from 90 to -90 and -180 to 180 degrees.

    ``seasons`` is ``(6, rows, cols) float32``: red, green and blue of the local summer, then of
    the local winter (0 to 255). July is summer north of the equator, December south of it, so
    that like places of both hemispheres look alike. ``night`` is ``(rows, cols)``, the logarithm
    of brightness; ``land`` the share of land; ``elevation`` metres above the sea, 0 at sea, on a
    coarser grid of its own. ``files`` are what was read; ``sha256`` is a hash of their contents.
    """

    seasons: Pixels
    night: Pixels
    land: Pixels
    elevation: Pixels
    files: tuple[str, ...]
    sha256: str


def read_images(folder: Path) -> WorldImages:
    """Read the images of a folder. Raises SourceError if one is missing or has another shape."""
    paths = {name: _only(folder, pattern) for name, pattern in FILES.items()}
    july, december, night = (_read_rgb(paths[name]) for name in ("july", "december", "night"))
    shapes = {image.shape for image in (july, december, night)}
    if len(shapes) != 1 or july.shape[2] != 2 * july.shape[1]:
        raise SourceError(
            f"The images have the shapes {sorted(shapes)} (bands, rows, columns): all three must "
            "show the whole Earth in plate carree, twice as wide as high, in one size."
        )
    equator = july.shape[1] // 2
    summer = np.concatenate([july[:, :equator], december[:, equator:]], axis=1)
    winter = np.concatenate([december[:, :equator], july[:, equator:]], axis=1)
    ordered = tuple(sorted(paths.values()))
    digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in ordered))
    return WorldImages(
        np.concatenate([summer, winter]),
        np.log1p(night.mean(axis=0)),
        _land(*july.shape[1:]),
        _read_relief(paths["relief"]),
        tuple(path.name for path in ordered),
        digest.hexdigest(),
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceError(
            f"{folder} holds {len(found)} files named {pattern}; one is needed. Give the folder "
            f"with {json.dumps(list(FILES.values()))}; docs/world.md says where they come from."
        )
    return found[0]


def _read_rgb(path: Path) -> Pixels:
    """Return ``(3, rows, cols) float32``, averaged down by a whole factor if larger."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise SourceError(f"{path} cannot be read as an image: {error}.") from error
    factor = max(1, pixels.shape[0] // MAX_ROWS)
    rows, cols = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor, 3)
    means = blocks.mean(axis=(1, 3), dtype=np.float32)
    return np.ascontiguousarray(means.transpose(2, 0, 1))


def _land(rows: int, cols: int) -> Pixels:
    """Return the share of land of each pixel."""
    south, west = np.meshgrid(
        90.0 - np.arange(1, rows + 1) * (180.0 / rows),
        -180.0 + np.arange(cols) * (360.0 / cols),
        indexing="ij",
    )
    east, north = west + 360.0 / cols, south + 180.0 / rows
    ends = (np.minimum(east, 180.0), np.minimum(north, 90.0))
    share = land.land_share(west, np.maximum(south, -90.0), *ends)
    return np.asarray(share, np.float32)


def _read_relief(path: Path) -> Pixels:
    """Return ``(rows, cols)``: north first, from -180 eastward. The file begins elsewhere."""
    try:
        with np.load(path) as data:
            metres, lon, lat = data["z"], data["lon"], data["lat"]
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"{path} has no arrays z, lon and lat: {error}.") from error
    cols = round(360.0 / float(lon[1] - lon[0]))
    metres = metres[:, :cols]  # the last column may repeat the first
    metres = metres[::-1] if lat[0] < lat[-1] else metres
    # The first pixel begins half a step west of its middle; that many steps lie east of -180.
    start = round((float(lon[0]) + 180.0) / 360.0 * cols - 0.5)
    rolled = np.roll(metres, start % cols, axis=1)
    return np.asarray(np.maximum(rolled, 0), np.float32)
