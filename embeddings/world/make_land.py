"""Derive ``embeddings/land.png`` from Natural Earth's land at 1:50 million (public domain).

``python -m embeddings.world.make_land ne_50m_land.json embeddings/land.png``: a bit is set where
the middle of a square of 0.05 degrees lies in a land polygon. Lakes are not cut out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin

from embeddings.atomic import atomic_path

DEGREES = 0.05


def make_land(polygons: Path, out: Path) -> None:
    """Write the mask of a GeoJSON file of land polygons (OGC:CRS84) as a 1-bit PNG."""
    features = json.loads(polygons.read_text(encoding="utf-8"))["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    size = (round(180 / DEGREES), round(360 / DEGREES))
    grid = from_origin(-180.0, 90.0, DEGREES, DEGREES)
    land = rasterize(shapes, size, transform=grid, dtype=np.uint8).astype(bool)
    with atomic_path(out) as temporary:
        Image.fromarray(land).save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m embeddings.world.make_land ne_50m_land.json OUT.png")
    make_land(Path(sys.argv[1]), Path(sys.argv[2]))
