"""Time and memory of `terrakin change raster`, beside the few lines that do the simplest of it.

A made-up pair of 1,100 x 1,100 pixels in 13 bands, as processes of their own from reading the files
to a score on disk. `python tests/bench/change_speed.py --large` takes 10,000 x 10,000 pixels in 4
bands instead, and only ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter

SIDE, BANDS = 1100, 13
LARGE_SIDE, LARGE_BANDS = 10_000, 4
STRIP = 1000

FEW_LINES = """
import sys
from pathlib import Path
import numpy as np, rasterio
from scipy.ndimage import gaussian_filter
sys.path.insert(0, sys.argv[1])
from change_quality import _residual, _stretched
scenes = []
for folder in sys.argv[2:4]:
    files = sorted(Path(folder).glob("*.tif"))
    scene = np.stack([rasterio.open(file).read(1) for file in files]).astype("float32")
    scenes.append(np.stack([gaussian_filter(band, 2) for band in _stretched(scene)]))
with rasterio.open(files[0]) as first:
    profile = first.profile | {"dtype": "float32"}
with rasterio.open(sys.argv[4], "w", **profile) as out:
    out.write(_residual(*scenes).astype("float32"), 1)
"""


def run(side: int = SIDE, bands: int = BANDS, *, rival: bool = True) -> dict[str, str]:
    """Return seconds, memory, and what the work was."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder, side, bands)
        dates = (str(folder / "2016"), str(folder / "2017"))
        report, began = folder / "report.json", time.perf_counter()
        command = [sys.executable, "-m", "embed_server.cli", "change", "raster"]
        command += ["--before", dates[0], "--after", dates[1], "--report", str(report)]
        command += ["--out", str(folder / "score.tif")]
        subprocess.run(command, check=True, capture_output=True)
        ours = time.perf_counter() - began
        told = json.loads(report.read_text())
        work = {key: each["share"] for key, each in told["seconds"].items()}
        found = {
            "pair": f"{side} x {side} pixels, {bands} bands",
            "seconds": f"{ours:.1f}",
            "peak memory": f"{told['peak_memory_bytes'] / 1e9:.2f} GB",
            "share of the work": ", ".join(f"{key} {share:.0%}" for key, share in work.items()),
        }
        if rival:
            began = time.perf_counter()
            words = [str(Path(__file__).parent), *dates, str(folder / "few.tif")]
            subprocess.run([sys.executable, "-c", FEW_LINES, *words], check=True)
            theirs = time.perf_counter() - began
            found["few lines, seconds"] = f"{theirs:.1f}"
            found["ours / few lines"] = f"{ours / theirs:.2f}"
    return found


def write_pair(folder: Path, side: int, bands: int) -> None:
    """Write two dates, a file a band: one ground, another light, and a tenth of it new."""
    rng = np.random.default_rng(0)
    tile = np.stack([gaussian_filter(rng.normal(size=(STRIP, STRIP)), 3) for _ in range(4)])
    mixing = rng.uniform(0.3, 1, (bands, 4))
    profile = {
        **{"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint16"},
        **{"crs": "EPSG:32633", "transform": from_origin(500_000, 5_200_000, 10, 10)},
        **{"tiled": True, "compress": "deflate"},
    }
    across = -(-side // STRIP)
    for year, gain in (("2016", 1.0), ("2017", 0.8)):
        (folder / year).mkdir()
        for band in range(bands):
            mixed = np.tensordot(mixing[band], tile, 1)
            if year == "2017":
                mixed[100:400, 200:530] = np.roll(mixed, 450, axis=0)[100:400, 200:530]
            with rasterio.open(folder / year / f"B{band + 1:02d}.tif", "w", **profile) as file:
                for top in range(0, side, STRIP):
                    rows = min(STRIP, side - top)
                    strip = np.tile(mixed, across)[:rows, :side]
                    noise = rng.normal(0, 20, strip.shape)
                    values = gain * (3000 + 6000 * strip) + noise
                    window = rasterio.windows.Window(0, top, side, rows)
                    file.write(values.clip(1, 65535).astype(np.uint16), 1, window=window)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    size = (LARGE_SIDE, LARGE_BANDS) if parser.parse_args().large else (SIDE, BANDS)
    for key, value in run(*size, rival=size[0] == SIDE).items():
        print(f"{key:<24} {value}")
