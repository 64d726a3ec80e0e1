"""Draw the pictures of the docs from the evaluation data: python docs/make_pictures.py."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import shapely
from pictures import save_small
from PIL import Image

from embeddings.export import result_geojson
from embeddings.picture import draw_results
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.search import Searcher, SearchQuery
from embeddings.store import Store
from embeddings.types import LonLat

DOCS = Path(__file__).resolve().parent
SCENE = DOCS.parents[1] / "shared" / "data" / "sentinel2-carolina" / "sentinel-2"
BANDS = [f"B{number:02d}" for number in range(1, 9)]
ATTRIBUTION = (
    "Contains modified Copernicus Sentinel data 2018; scene from patrickcgray/open-geo-tutorial, "
    "CC BY-SA 3.0"
)
PLACES = {
    "town": ("the town of Beaufort", LonLat(-76.657, 34.718)),
    "sea": ("the open sea", LonLat(-76.638, 34.650)),
    "dunes": ("the dunes of Shackleford Banks", LonLat(-76.606, 34.672)),
}


def main() -> int:
    """Embed the Carolina scene and draw a search from each of three places."""
    if not SCENE.is_dir():
        print(f"The evaluation data is not there: {SCENE}", file=sys.stderr)
        return 1
    files = tuple(str(SCENE / f"{band}.tif") for band in BANDS)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        embed_raster(RasterJob(store, "carolina", files, chip="160m", datetime="2018-10-13"))
        searcher = Searcher(Store.open(store))
        for name, (title, place) in PLACES.items():
            query = SearchQuery(place, k=50, exclude_m=300)
            answer = result_geojson(searcher.search("carolina", query))
            picture = DOCS / "images" / f"carolina-{name}.png"
            draw_results(
                picture,
                [SCENE / f"{band}.tif" for band in ("B04", "B03", "B02")],
                shapely.geometry.shape(answer["query"]["geometry"]),
                [shapely.geometry.shape(f["geometry"]) for f in answer["features"]],
                [f["properties"]["similarity"] for f in answer["features"]],
                f"The 50 places most like {title}",
                ATTRIBUTION,
                nodata=255,
            )
            with Image.open(picture) as image:
                image.load()
            save_small(image, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
