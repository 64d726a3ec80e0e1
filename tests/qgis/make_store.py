"""Run by the server's Python: write seeded scenes and embed them into a store.

The collection ``kin`` lies in Italy (EPSG:32633); ``dateline`` straddles the 180th meridian.
Usage: make_store.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import rasterio
from pyproj import Transformer
from rasterio.transform import Affine

from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.synthetic import write_scene

DATELINE_CRS = "EPSG:32601"
DATELINE_LAT = -16.8


def move_to_dateline(paths: list[Path]) -> None:
    """Georeference a scene so that the 180th meridian runs through its middle."""
    to_utm = Transformer.from_crs("OGC:CRS84", DATELINE_CRS, always_xy=True)
    x, y = to_utm.transform(-180.0, DATELINE_LAT)
    for path in paths:
        with rasterio.open(path, "r+") as file:
            half = file.width * 10 / 2
            file.crs = DATELINE_CRS
            file.transform = Affine(10, 0, round(x - half), 0, -10, round(y + half))


def main(folder: Path) -> None:
    """Write FOLDER/scene, FOLDER/dateline and FOLDER/store."""
    for name, seed, size in (("scene", 7, 512), ("dateline", 8, 256)):
        (folder / name).mkdir()
        paths = write_scene(folder / name, seed=seed, size=size)
        if name == "dateline":
            move_to_dateline(paths)
        collection = "kin" if name == "scene" else name
        files = tuple(str(path) for path in paths)
        embed_raster(
            RasterJob(folder / "store", collection, files, chip="160m", datetime="2026-06-01")
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
