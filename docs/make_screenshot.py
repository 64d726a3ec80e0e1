"""Take the screenshot of the docs: python docs/make_screenshot.py [--home FOLDER].

Embeds the Carolina scene (evaluation data), starts the QGIS desktop under Xvfb with the packaged
plugin, searches with real clicks, and writes docs/images/qgis.png.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from make_pictures import ATTRIBUTION, BANDS, DOCS, SCENE
from pictures import save_small
from PIL import Image, ImageDraw, ImageFont

from embeddings.pipeline import RasterJob, embed_raster

ROOT = DOCS.parent
QGIS_VERSION = 32200
"""As which QGIS the profile has been used before: no newer one asks for a first run."""
STRIP_PX = 22


def main() -> int:
    """Take the screenshot; return the exit code."""
    parser = argparse.ArgumentParser(description="Take the screenshot of the docs.")
    parser.add_argument("--home", type=Path, help="new folder to work in; its name is shown")
    home = parser.parse_args().home
    if not SCENE.is_dir():
        print(f"The evaluation data is not there: {SCENE}", file=sys.stderr)
        return 1
    folder = home or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=home is None)
    try:
        picture = take(folder)
        save_small(with_attribution(Image.open(picture)), DOCS / "images" / "qgis.png")
    finally:
        shutil.rmtree(folder)
    return 0


def take(folder: Path) -> Path:
    """Drive QGIS in ``folder``; return the picture of its window."""
    embed_raster(
        RasterJob(
            folder / "embeddings",
            "carolina",
            tuple(str(SCENE / f"{band}.tif") for band in BANDS),
            chip="160m",
            datetime="2018-10-13",
            source="Sentinel-2",
            licence="CC-BY-SA-3.0",
        )
    )
    launch = load(ROOT / "tests" / "qgis" / "desktop" / "launch.py")
    package = load(ROOT / ".ci" / "package.py").build(ROOT, folder / "package")
    command = Path(sys.executable).parent / "terrakin"
    launch.write_profile(folder, package, command, QGIS_VERSION)
    config = {"data": str(SCENE), "out": str(folder), "steps": "screenshot"}
    desktop = launch.Desktop(folder, config, HOME=str(folder))
    try:
        seen = desktop.wait()
        if seen["state"] != "done":
            raise SystemExit(seen.get("error", "The drive failed."))
        return folder / "qgis.png"
    finally:
        desktop.kill()


def with_attribution(window: Image.Image) -> Image.Image:
    """Return the window with a strip below that names the source of the imagery."""
    page = Image.new("RGB", (window.width, window.height + STRIP_PX), "white")
    page.paste(window.convert("RGB"), (0, 0))
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(page).text((6, window.height + 4), ATTRIBUTION, fill="#606770", font=font)
    return page


def load(path: Path) -> ModuleType:
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
