"""A small store that reading tests share, and a spec to change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.pipeline import RasterJob, embed_raster
from embeddings.spec import ChipLayout, EmbeddingSpec, Preprocessing
from embeddings.store import Collection, Store

TIME = "2018-10-13T10:00:00Z"


@pytest.fixture(scope="session")
def embed() -> Callable[..., Collection]:
    """Embed files into the collection 'land' of a store; keywords as of RasterJob."""

    def run(store: Path, *files: Path, collection: str = "land", **more: Any) -> Collection:
        more = {"chip": "8", **more}
        embed_raster(RasterJob(store, collection, tuple(map(str, files)), **more))
        return Store.open(store).collection(collection)

    return run


@pytest.fixture(scope="session")
def small(
    tmp_path_factory: pytest.TempPathFactory,
    land: Callable[..., Any],
    write_raster: Callable[..., Path],
    embed: Callable[..., Collection],
) -> Collection:
    """Read only: scenes 'a' (dated) and 'b' (not), 144 chips of 8 x 8 pixels of 10 m each."""
    folder = tmp_path_factory.mktemp("small")
    first = write_raster(folder / "a.tif", land(seed=1))
    second = write_raster(folder / "b.tif", land(seed=2), origin=(520_000, 5_200_000))
    embed(folder / "store", first, datetime=TIME)
    return embed(folder / "store", second)


@pytest.fixture
def make_spec() -> Callable[..., EmbeddingSpec]:
    """Make a spec of four dimensions; keywords replace its fields."""

    def make(**changes: Any) -> EmbeddingSpec:
        spec = EmbeddingSpec(
            product="rcf on tests",
            model="rcf",
            model_version="1",
            weights_sha256="0" * 64,
            dim=4,
            dtype="float16",
            scale=None,
            norm="none",
            bands=("B02", "B03"),
            gsd_m=10.0,
            layout=ChipLayout("80m", "80m", (8, 8), (8, 8)),
            grid_km=10.0,
            preprocessing=Preprocessing((1.0, 2.0), (0.5, 0.25), "bilinear", (1.0, 1.0)),
            source="tests",
            licence="CC0-1.0",
        )
        return replace(spec, **changes)

    return make


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Forbid looking into a folder or file; root becomes nobody for that, until the test ends."""
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has no permissions of this kind")
    shut: list[Path] = []
    root = os.geteuid() == 0

    def close(path: Path) -> None:
        if root and not shut:
            # Those that pytest made; a process of several has one more.
            for folder in (tmp_path, *tmp_path.parents[:3]):
                if not folder.stat().st_mode & 0o001:
                    folder.chmod(0o755)
            for found in (tmp_path, *tmp_path.rglob("*")):
                os.chown(found, 65534, 65534)
            os.seteuid(65534)
        path.chmod(0)
        shut.append(path)

    yield close
    if root:
        os.seteuid(0)
    for path in shut:
        path.chmod(0o755)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
