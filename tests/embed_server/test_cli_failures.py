"""Bad input and bad places: one line that says what to do, exit code 1, nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.pipeline import RasterJob, embed_raster
from embeddings.store import Store
from embeddings.store.verify import verify

Terrakin = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, land: Any, write_raster: Any) -> Path:
    """A folder of files of all kinds, and a store with the collection 'land'."""
    folder = tmp_path_factory.mktemp("place")
    values = land(seed=1)
    holed = values.copy()
    holed[:, 40:60, 40:60] = 0
    write_raster(folder / "good.tif", holed, nodata=0)
    write_raster(folder / "nowhere.tif", values, crs=None)
    write_raster(folder / "empty.tif", np.zeros_like(values), nodata=0)
    write_raster(folder / "band.tif", values[:1])
    write_raster(folder / "far.tif", values[:1], origin=(700_000, 5_200_000))
    write_raster(folder / "other_crs.tif", values[:1], crs="EPSG:32634")
    write_raster(folder / "two_bands.tif", values[:2], origin=(510_000, 5_200_000))
    write_raster(folder / "tiny.tif", values[:, :5, :5])
    (folder / "text.tif").write_text("not a raster")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    embed_raster(RasterJob(folder / "store", "land", (str(folder / "good.tif"),), chip="8"))
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert message in done.stderr
    told = [line for line in done.stderr.splitlines() if " %  fitting the encoder" not in line]
    assert len(told) == 1
    assert told[0].startswith("Error: ")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["no.tif"], [], "There is no file"),
        (["text.tif"], [], "is not a raster that GDAL can read"),
        (["picture.png"], [], "is not a raster that GDAL can read"),
        (["nowhere.tif"], [], "has no CRS"),
        (["empty.tif"], [], "has data in all its pixels"),
        (["band.tif", "far.tif"], [], "do not share a place"),
        (["band.tif", "other_crs.tif"], [], "share one CRS"),
        (["two_bands.tif"], ["--collection", "land"], "made from the bands B1, B2, B3; given"),
        (["tiny.tif"], [], "A chip of 8 is 8 x 8 pixels, but the scene has only 5 x 5"),
        (["good.tif"], ["--bands", "B9"], "The scene has no band B9; it has B1, B2, B3"),
        (["good.tif"], ["--mask", "SCL"], "SCL"),
        (["good.tif"], ["--min-valid", "0"], "--min-valid is 0; give a share above 0"),
        (["good.tif"], ["--bbox", "10,10,11,11"], "does not meet"),
        (["good.tif"], ["--chip", "majortom:5"], "cannot be cut from Major TOM's images"),
        (["good.tif"], ["--chip", "0"], "less than one pixel"),
        (["good.tif"], ["--chip", "ten"], "is not a size"),
        (["good.tif"], ["--nodata", "black"], "is not a number"),
        (["good.tif"], ["--datetime", "yesterday"], "is not a date"),
        (["good.tif"], ["--collection", "../x"], "cannot name a collection"),
        (["good.tif"], ["--encoder", "magic"], "There is no encoder 'magic'"),
        (["good.tif"], ["--store", "{place}/good.tif"], "could not be written"),
        (["good.tif"], ["--store", "{place}/good.tif/below"], "cannot be written"),
        (["good.tif"], ["--store", "{place}"], "holds other files and is no Terrakin store"),
        (["good.tif"], ["--collection", "land", "--chip", "16"], "has another spec: chip"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_embedded(
    terrakin: Terrakin, place: Path, files: list[str], options: list[str], message: str
) -> None:
    before = snapshot(place)
    done = terrakin(
        "embed", "raster", *(place / file for file in files), "--chip", "8",
        "--store", place / "store", "--collection", "new",
        *(option.format(place=place) for option in options),
    )  # fmt: skip
    one_line(done, message)
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "--collection", "sea", "--at", "15,47"), "There is no collection 'sea'"),
        (("search", "--collection", "land", "--at", "-76,34"), "outside collection 'land'"),
        (("search", "--collection", "land", "--at", "15.0065,46.9486"), "There is no data at"),
        (
            ("search", "--collection", "land", "--at", "15.001,46.951", "--out", "x.shp"),
            "has no suffix that Terrakin writes",
        ),
        (
            ("search", "--collection", "land", "--at", "15.001,46.951", "--out", "{file}/x.gpkg"),
            "cannot be written",
        ),
        (("info", "sea"), "There: land"),
        (("verify", "sea"), "There: land"),
        (("rename", "sea", "hills"), "There: land"),
        (("rename", "land", "Land of Hills"), "cannot name a collection"),
        (("delete", "sea", "--yes"), "There: land"),
    ],
)
def test_what_cannot_be_found_or_written(
    terrakin: Terrakin, place: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = snapshot(place)
    filled = [word.format(file=place / "good.tif") for word in arguments]
    one_line(terrakin(*filled, "--store", place / "store", cwd=place), message)
    assert snapshot(place) == before


@pytest.mark.parametrize("command", ["collections", "verify"])
def test_what_is_no_store(terrakin: Terrakin, tmp_path: Path, command: str) -> None:
    one_line(terrakin(command, "--store", tmp_path), "is a folder, but no Terrakin store")
    one_line(terrakin(command, "--store", tmp_path / "no"), "does not exist")
    (tmp_path / "terrakin.json").write_text(json.dumps({"format_version": 99}))
    one_line(terrakin(command, "--store", tmp_path), "format version 99; this release reads 1")


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_errors_never_reach_standard_output(
    terrakin: Terrakin, place: Path, json_option: list[str]
) -> None:
    done = terrakin("info", "sea", "--store", place / "store", *json_option)
    one_line(done, "There is no collection 'sea'")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small tmpfs; its options as text. Linux and root only."""
    mounted: list[Path] = []

    def run(options: str) -> Path:
        target = tmp_path / "mounted"
        target.mkdir(exist_ok=True)
        if not shutil.which("mount") or not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("a small file system can be mounted by root on Linux only")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this machine does not let root mount a tmpfs")
        mounted.append(target)
        return target

    yield run
    for target in mounted:
        subprocess.run(["umount", "-l", str(target)], check=True)


def read_only(target: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(target)], check=True)


def test_a_read_only_store(terrakin: Terrakin, place: Path, mount: Callable[[str], Path]) -> None:
    target = mount("size=32m")
    shutil.copytree(place / "store", target / "store")
    read_only(target)
    embed = ("embed", "raster", place / "two_bands.tif", "--chip", "8", "--collection", "new")
    one_line(terrakin(*embed, "--store", target / "store"), "cannot be written")
    one_line(terrakin(*embed, "--store", target / "new"), "cannot be written")
    one_line(terrakin("delete", "land", "--yes", "--store", target / "store"), "cannot be written")
    assert terrakin("collections", "--store", target / "store").returncode == 0
    search = ("search", "--collection", "land", "--at", "15.001,46.951")
    assert terrakin(*search, "--store", target / "store").returncode == 0
    for suffix in ("gpkg", "geojson", "parquet"):
        out = target / f"places.{suffix}"
        one_line(terrakin(*search, "--store", target / "store", "--out", out), "cannot be written")


def test_a_full_disk(
    terrakin: Terrakin, tmp_path: Path, write_raster: Any, land: Any, mount: Any
) -> None:
    scene = write_raster(tmp_path / "scene.tif", land(400, 400))
    target = mount("size=2m")
    embed = ("embed", "raster", scene, "--chip", "8", "--collection", "land")
    done = terrakin(*embed, "--store", target / "store")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: The disk is full: ")
    assert list(target.rglob(".*.tmp*")) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(target)], check=True)
    assert terrakin(*embed, "--store", target / "store").returncode == 0
    whole = Store.open(target / "store").collection("land")
    embed_raster(RasterJob(tmp_path / "whole", "land", (str(scene),), chip="8"))
    other = Store.open(tmp_path / "whole").collection("land")
    assert verify(whole) == []
    assert whole.parts == other.parts


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "parquet"])
def test_a_full_disk_under_the_export(
    terrakin: Terrakin, place: Path, mount: Callable[[str], Path], suffix: str
) -> None:
    target = mount("size=64k")
    out = target / f"places.{suffix}"
    out.write_text("old")
    (target / "filler").write_bytes(bytes(48 * 1024))
    done = terrakin(
        "search", "--collection", "land", "--at", "15.001,46.951", "-k", "130",
        "--store", place / "store", "--out", out,
    )  # fmt: skip
    one_line(done, "could not be written. Free some space, or write to another disk.")
    assert "to go on" not in done.stderr
    assert out.read_text() == "old"
    assert {path.name for path in target.iterdir()} == {"filler", out.name}
