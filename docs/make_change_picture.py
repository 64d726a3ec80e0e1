"""Draw since when the land round Pucallpa is another: python docs/make_change_picture.py.

Landsat imagery of 1985 to 2020, courtesy of the U.S. Geological Survey (public domain), beside the
first lasting change of each chip.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from pictures import save_small
from PIL import Image, ImageDraw, ImageFont

from embeddings.change.collection_job import CollectionChangeJob
from embeddings.change.collection_layers import STAYED, write
from embeddings.change.collection_run import CollectionChange, measure
from embeddings.pipeline import RasterJob, embed_raster

DOCS = Path(__file__).resolve().parent
SCENES = DOCS.parents[1] / "shared" / "data" / "landsat-pucallpa"
BANDS = ("swir1", "nir", "red", "green")
CHIP, STRIDE = "6", "3"
WIDTH = 1100
HEAD, FOOT = 30, 64
BRIGHT = np.array([190.0, 250.0, 90.0])[:, None, None]
"""Of SWIR, near infrared and red: what is shown as full."""
ATTRIBUTION = "Landsat imagery courtesy of the U.S. Geological Survey"


def main() -> int:
    """Embed the years, find since when, and draw both."""
    if not SCENES.is_dir():
        print(f"The evaluation data is not there: {SCENES}", file=sys.stderr)
        return 1
    files = sorted(SCENES.glob("*.tif"))
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder) / "store", Path(folder) / "since.tif"
        paths = tuple(map(str, files))
        embed_raster(
            RasterJob(store, "years", paths, chip=CHIP, stride=STRIDE, bands=BANDS, datetime="%Y")
        )
        made = measure(CollectionChangeJob(store, "years", out, all_dates=True))
        write(made)
        picture = _drawn(made, out, files)
    save_small(picture, DOCS / "images" / "pucallpa-since.png")
    return 0


def _drawn(made: CollectionChange, out: Path, files: list[Path]) -> Image.Image:
    with rasterio.open(out) as since, rasterio.open(files[0]) as first:
        codes, palette = since.read(1), since.colormap(1)
        box = since.bounds
        cut = first.window(*box).round()
        shape = int(cut.height), int(cut.width)
    height = round(WIDTH / 2 * shape[0] / shape[1])
    colours = np.array([palette[code][:3] for code in range(256)], np.uint8)
    colours[0] = 255
    whole = Image.new("RGB", (WIDTH, HEAD + height + HEAD + 2 * height + FOOT), "white")
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(15)
    for number, file in enumerate((files[0], files[-1])):
        left = number * WIDTH // 2
        whole.paste(_scene(file, cut).resize((WIDTH // 2, height)), (left, HEAD))
        draw.text((left + 6, 6), file.stem, "black", font)
    top = HEAD + height + HEAD
    draw.text((6, top - HEAD + 6), "Since when the land is another", "black", font)
    large = Image.fromarray(colours[codes]).resize((WIDTH, 2 * height), Image.Resampling.NEAREST)
    whole.paste(large, (0, top))
    # At the last date nothing can be told to last.
    names = {code: label[:4] for code, label in enumerate(made.dates.labels[:-1]) if code}
    _legend(draw, names | {STAYED: "no lasting change"}, colours, top + 2 * height + 8, font)
    draw.text((6, top + 2 * height + 36), ATTRIBUTION, (90, 90, 90), font)
    return whole


def _scene(file: Path, cut: rasterio.windows.Window) -> Image.Image:
    with rasterio.open(file) as source:
        values = source.read([1, 2, 3], window=cut).astype(float)
    return Image.fromarray((np.moveaxis(np.clip(values / BRIGHT, 0, 1), 0, 2) * 255).astype("u1"))


def _legend(
    draw: ImageDraw.ImageDraw,
    names: dict[int, str],
    colours: np.ndarray,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left = 6
    for code, name in names.items():
        draw.rectangle((left, top, left + 18, top + 18), tuple(colours[code].tolist()), "grey")
        draw.text((left + 24, top), name, "black", font)
        left += 100


if __name__ == "__main__":
    sys.exit(main())
