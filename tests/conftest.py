"""Small rasters for all tests, and the evaluation data where it is there.

The tests under tests/qgis run in QGIS's own Python, which has no rasterio: nothing but pytest is
imported before a fixture is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the evaluation data."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests used the evaluation data, so that its absence is not overlooked.

    Counted from the reports, since the tests may have run in other processes.
    """

    def chosen(*outcomes: str) -> list[Any]:
        reports = [each for name in outcomes for each in terminalreporter.getreports(name)]
        return [each for each in reports if "shared_data" in getattr(each, "keywords", ())]

    skipped = {report.nodeid for report in chosen("skipped")}
    ran = {report.nodeid for report in chosen("passed", "failed") if report.when == "call"}
    if skipped or ran or chosen("error"):
        terminalreporter.write_line(f"shared_data: {len(ran)} ran, {len(skipped)} skipped")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the evaluation data, which is no part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the evaluation data is not there: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def land() -> Callable[..., Any]:
    """Make pixels ``(bands, rows, cols)`` with patches of several textures and brightnesses."""
    import numpy as np

    def make(
        rows: int = 96, cols: int = 96, bands: int = 3, seed: int = 0, dtype: str = "uint16"
    ) -> Any:
        rng = np.random.default_rng(seed)
        patches = rng.uniform(300, 3000, (bands, -(-rows // 12), -(-cols // 12)))
        level = patches.repeat(12, axis=1).repeat(12, axis=2)[:, :rows, :cols]
        noise = rng.normal(0, 1, (bands, rows, cols)) * level[::-1] * 0.1
        return (np.clip(level + noise, 1, 9000) / (40 if dtype == "uint8" else 1)).astype(dtype)

    return make


@pytest.fixture(scope="session")
def write_raster() -> Callable[..., Path]:
    """Write ``(bands, rows, cols)`` as a GeoTIFF; keywords go to the profile or the bands."""
    import rasterio
    from rasterio.transform import from_origin

    def write(
        path: Path,
        values: Any,
        *,
        crs: str | None = "EPSG:32633",
        origin: tuple[float, float] = (500_000.0, 5_200_000.0),
        res: float = 10.0,
        transform: Any = None,
        alpha: Any = None,
        mask: Any = None,
        tags: dict[str, str] | None = None,
        **more: Any,
    ) -> Path:
        bands = {
            name: more.pop(name) for name in ("scales", "offsets", "descriptions") & more.keys()
        }
        count, height, width = values.shape
        profile = {
            "driver": "GTiff",
            "dtype": values.dtype,
            "count": count + (alpha is not None),
            "height": height,
            "width": width,
            "crs": crs,
            "transform": transform or from_origin(*origin, res, res),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, "w", **profile | more) as file,
        ):
            for index, band in enumerate(values, start=1):
                file.write(band, index)
            if alpha is not None:
                file.write(alpha, count + 1)
                file.colorinterp = [
                    *[rasterio.enums.ColorInterp.undefined] * count,
                    rasterio.enums.ColorInterp.alpha,
                ]
            if mask is not None:
                file.write_mask(mask)
            for name, per_band in bands.items():
                setattr(file, name, per_band)
            file.update_tags(**(tags or {}))
        return path

    return write


@pytest.fixture(scope="session")
def terrakin() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a process of its own, with nothing set from outside."""

    def run(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if "TERRAKIN" not in name}
        return subprocess.run(
            [sys.executable, "-m", "embed_server.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            env={**kept, "PYTHONUTF8": "1", **more.pop("env", {})},
            **more,
        )

    return run
