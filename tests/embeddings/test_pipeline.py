"""Embedding scenes into collections: again, more, otherwise, and stopped anywhere."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings import codec, encoders
from embeddings.errors import (
    BandError,
    CancelledError,
    CollectionExistsError,
    InputError,
    NoDataError,
    SpecMismatchError,
    StoreFormatError,
    TerrakinError,
)
from embeddings.pipeline import Progress, RasterJob, embed_raster
from embeddings.sources.raster import RasterScene
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.store.verify import verify
from tests.embeddings.hashes import contents

Embed = Callable[..., Collection]


def without_times(collection: Collection) -> dict[str, Any]:
    return {**collection.descriptor, "created": None, "updated": None}


@pytest.fixture
def scene(tmp_path: Path, land: Any, write_raster: Any) -> Path:
    """Made-up land with a corner of 40 x 40 pixels without data."""
    values = land(seed=3)
    values[:, :40, :40] = 0
    return write_raster(tmp_path / "scene.tif", values)


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches of 24 chips and parts of 48, so that a small scene has many of both."""
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    monkeypatch.setattr("embeddings.scene_run.rows_per_part", lambda _: 48)


def test_the_report_counts_every_chip(tmp_path: Path, scene: Path) -> None:
    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8")
    report = embed_raster(job)
    assert (report.planned, report.embedded, report.absent, report.resumed) == (144, 119, 25, 0)
    assert (report.collection, report.scenes[0].scene) == ("land", "scene")
    assert "a corner holds 0 in every band" in report.notes[0]
    assert embed_raster(job).resumed == 119


def test_rows_hold_what_the_encoder_gives(tmp_path: Path, scene: Path, embed: Embed) -> None:
    collection = embed(tmp_path / "store", scene, dtype="float32", datetime="2018-10-13")
    encoder = encoders.load(collection.path)
    pre = collection.spec.preprocessing
    assert pre is not None
    items = Reader(collection).items(limit=1000)
    vectors = np.concatenate([values for _, values in Reader(collection).batches()])
    with RasterScene.open([str(scene)]) as opened:
        pixels, _ = opened.read(0, 0, 96, 96)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (pre.mean, pre.std))
    for row, name in list(enumerate(items["id"].to_pylist()))[::10]:
        top, left = (8 * int(number) for number in name.split("_")[1:])
        chip = (pixels[:, top : top + 8, left : left + 8] - mean) / std
        assert np.allclose(vectors[row], encoder.encode(chip[None])[0], rtol=1e-4, atol=1e-5)
    assert set(items["datetime"].to_pylist()) == {collection.time.start}
    assert items["grid_cell"][0].as_py().endswith("R")


def test_the_same_again_does_nothing(tmp_path: Path, scene: Path, embed: Embed) -> None:
    collection = embed(tmp_path / "store", scene)
    files = [path for path in collection.path.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    embed(tmp_path / "store", scene)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    assert {path for path in collection.path.rglob("*") if path.is_file()} == set(files)


def test_a_second_scene_is_embedded_with_the_stored_filters(
    tmp_path: Path, scene: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    first = embed(tmp_path / "store", scene)
    kept = contents(first.path)
    second = write_raster(tmp_path / "second.tif", land(seed=8), origin=(530_000, 5_200_000))
    both = embed(tmp_path / "store", second)
    assert kept.items() <= contents(both.path).items()
    assert (both.spec, [s.id for s in both.scenes]) == (first.spec, ["scene", "second"])
    assert both.count == 119 + 144
    assert verify(both) == []
    alone = embed(tmp_path / "alone", second)
    assert alone.spec.weights_sha256 != both.spec.weights_sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chip": "16"}, r"chip \(collection: 8, asked: 16\)"),
        ({"chip": "80m"}, r"chip \(collection: 8, asked: 80m\)"),
        ({"stride": "4"}, r"stride \(collection: 8, asked: 4\)"),
        ({"dtype": "float32"}, r"dtype \(collection: float16, asked: float32\)"),
        ({"source": "Landsat"}, r"source \(collection: user imagery, asked: Landsat\)"),
        ({"licence": "MIT"}, r"licence \(collection: proprietary, asked: MIT\)"),
    ],
)
def test_another_spec_is_refused(
    tmp_path: Path, scene: Path, embed: Embed, change: dict[str, str], message: str
) -> None:
    collection = embed(tmp_path / "store", scene)
    before = contents(collection.path), collection.descriptor
    with pytest.raises(SpecMismatchError, match=message) as caught:
        embed(tmp_path / "store", scene, **change)
    assert "--replace" in str(caught.value)
    with pytest.raises(SpecMismatchError, match=message):
        embed(tmp_path / "store", scene, scene="another", **change)
    after = Store.open(tmp_path / "store").collection("land")
    assert (contents(after.path), after.descriptor) == before


def test_what_does_not_fit_is_refused_and_changes_nothing(
    tmp_path: Path, scene: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    collection = embed(tmp_path / "store", scene)
    before = contents(collection.path), without_times(collection)
    empty = np.zeros((3, 96, 96), np.uint16)
    cases: list[tuple[type[TerrakinError], str, Path, dict[str, Any]]] = [
        (
            CollectionExistsError,
            "made from other files or settings",
            write_raster(tmp_path / "other" / "scene.tif", land(seed=9)),
            {},
        ),
        (CollectionExistsError, "other files or settings", scene, {"nodata": "none"}),
        (
            BandError,
            "B1, B2, B3; given: B1, B2",
            write_raster(tmp_path / "two.tif", land(bands=2)),
            {},
        ),
        (
            SpecMismatchError,
            "gsd_m .collection: 10",
            write_raster(tmp_path / "coarse.tif", land(), res=20),
            {},
        ),
        (
            NoDataError,
            "nothing was added",
            write_raster(tmp_path / "empty.tif", empty, nodata=0),
            {},
        ),
        (InputError, "the scene has only", write_raster(tmp_path / "t.tif", land(7, 7)), {}),
        (InputError, "no storage type", scene, {"dtype": "float64"}),
        (InputError, "no encoder 'magic'", scene, {"encoder": "magic"}),
        (InputError, "cannot name a scene", scene, {"scene": "a/b"}),
        (InputError, "cannot name a collection", scene, {"collection": "../land"}),
        (InputError, "finds no date", scene, {"datetime": "%Y%m%d"}),
    ]
    for kind, message, file, more in cases:
        with pytest.raises(kind, match=message):
            embed(tmp_path / "store", file, **more)
        after = Store.open(tmp_path / "store").collection("land")
        assert (contents(after.path), without_times(after)) == before
    assert {p.name for p in (tmp_path / "store").iterdir()} <= {"land", "terrakin.json", ".lock"}


@pytest.mark.parametrize("nodata", [0, None])
def test_a_first_scene_without_data_leaves_no_collection(
    tmp_path: Path, write_raster: Any, embed: Embed, nodata: int | None
) -> None:
    file = write_raster(tmp_path / "e.tif", np.zeros((2, 96, 96), np.uint16), nodata=nodata)
    with pytest.raises(NoDataError, match="has data in all its pixels"):
        embed(tmp_path / "store", file)
    assert not (tmp_path / "store").exists()


def test_the_bands_of_another_scene_pair_by_name(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    first, second = land(seed=1), land(seed=2)
    files = [
        [
            write_raster(tmp_path / name / f"B{i + 2:02d}.tif", values[i : i + 1], origin=origin)
            for i in range(3)
        ]
        for name, values, origin in (
            ("a", first, (500_000, 5_200_000)),
            ("b", second, (520_000, 5_200_000)),
        )
    ]
    embed(tmp_path / "one", *files[0])
    one = embed(tmp_path / "one", *files[1])
    embed(tmp_path / "two", *files[0])
    two = embed(tmp_path / "two", *reversed(files[1]))
    assert contents(one.path) == contents(two.path)


@pytest.mark.parametrize("batches", range(6))
@pytest.mark.usefixtures("in_pieces")
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, scene: Path, embed: Embed, batches: int
) -> None:
    whole = embed(tmp_path / "whole", scene)
    assert len(whole.parts) == 3
    asked = itertools.count(1)
    job = RasterJob(tmp_path / "cut", "land", (str(scene),), chip="8")
    # The sample asks twelve times; then every batch asks once.
    with pytest.raises(CancelledError, match="the same command goes on"):
        embed_raster(job, cancelled=lambda: next(asked) > 12 + batches)
    report = embed_raster(job)
    cut = Store.open(tmp_path / "cut").collection("land")
    assert (report.embedded, report.absent) == (119, 25)
    assert (report.resumed > 0) == (batches > 0)
    assert contents(cut.path) == contents(whole.path)
    assert without_times(cut) == without_times(whole)


class Crash(BaseException):
    """Stands for the end of the process."""


@pytest.mark.usefixtures("in_pieces")
def test_a_crash_at_any_rename_goes_on_to_the_same_bytes(
    tmp_path: Path, scene: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed(tmp_path / "whole", scene)
    real, crashes = Path.replace, 0
    for number in range(2, 30):
        late = number % 3 == 0
        renames = itertools.count(1)

        def crash(
            path: Path,
            target: Path,
            *,
            count: Any = renames,
            stop: int = number,
            after: bool = late,
        ) -> Path:
            last = next(count) == stop
            if last and not after:
                raise Crash
            done = real(path, target)
            if last:
                raise Crash
            return done

        store = tmp_path / f"cut-{number}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            try:
                embed(store, scene)
            except Crash:
                crashes += 1
        again = embed(store, scene)
        assert contents(again.path) == contents(whole.path)
        assert without_times(again) == without_times(whole)
        if next(renames) < number:
            break
    assert crashes > 15


def test_what_a_killed_process_left_is_swept(tmp_path: Path, scene: Path, embed: Embed) -> None:
    collection = embed(tmp_path / "store", scene)
    before = set(collection.path.rglob("*"))
    (collection.path / ".collection.4242.tmp.json").write_text("{")
    (collection.path / "parts" / ".scene-00000.4242.tmp.parquet").write_bytes(b"PAR1")
    embed(tmp_path / "store", scene)
    assert set(collection.path.rglob("*")) == before


def test_batches_of_a_scene_that_is_unknown_are_not_trusted(
    tmp_path: Path, scene: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    collection = embed(tmp_path / "store", scene)
    stale = collection.path / ".staging" / "second" / "00000.arrow"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of other files")
    second = write_raster(tmp_path / "second.tif", land(seed=8))
    assert embed(tmp_path / "store", second).count == 119 + 144
    assert not stale.parent.parent.exists()


@pytest.mark.usefixtures("in_pieces")
def test_a_damaged_batch_is_an_error_in_words(tmp_path: Path, scene: Path) -> None:
    asked = itertools.count(1)
    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8")
    with pytest.raises(CancelledError):
        embed_raster(job, cancelled=lambda: next(asked) > 13)
    (staged,) = (tmp_path / "store" / "land" / ".staging" / "scene").iterdir()
    staged.write_bytes(staged.read_bytes()[:-20])
    with pytest.raises(StoreFormatError, match="Delete it and run the same command again"):
        embed_raster(job)
    staged.unlink()
    assert embed_raster(job).embedded == 119


@pytest.mark.parametrize("cpus", [1, 5])
def test_the_number_of_processors_changes_no_byte(
    tmp_path: Path, scene: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    here = contents(embed(tmp_path / "here", scene).path)
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    assert contents(embed(tmp_path / "there", scene).path) == here


def test_progress_runs_from_nothing_to_all(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    seen: list[Progress] = []
    embed_raster(RasterJob(tmp_path / "store", "land", (str(scene),), chip="8"), seen.append)
    done = [step.done for step in seen]
    assert done == sorted(done)
    assert (done[0], done[-1], len(seen)) == (0, 144, 7)
    assert {step.total for step in seen[1:]} == {144}
    assert seen[-1].message.startswith("144 of 144 chips")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_stored_vectors_are_close_to_the_encoders(
    tmp_path: Path, scene: Path, embed: Embed, dtype: str
) -> None:
    exact = embed(tmp_path / "exact", scene, dtype="float32")
    other = embed(tmp_path / "other", scene, dtype=dtype)
    a, b = (np.concatenate([v for _, v in Reader(c).batches()]) for c in (exact, other))
    bound = np.abs(a) / 2048 + 2.0**-25
    if dtype == "int8":
        assert other.spec.scale is not None
        bound = np.broadcast_to(np.array(other.spec.scale) * 0.5001, a.shape)
        assert codec.HEADROOM > 1
    assert (np.abs(a - b) <= bound).all()
    assert verify(other) == []


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("T18SVD_20181013T160231.tif", "%Y%m%dT%H%M%S", "2018-10-13T16:02:31+00:00"),
        ("LC08_2018286_x.tif", "%Y%j", "2018-10-13T00:00:00+00:00"),
        ("a.tif", "2018-10-13T18:00:00+02:00", "2018-10-13T16:00:00+00:00"),
    ],
)
def test_times_come_from_the_user_or_the_file_name(
    tmp_path: Path,
    land: Any,
    write_raster: Any,
    embed: Embed,
    name: str,
    pattern: str,
    expected: str,
) -> None:
    collection = embed(tmp_path / "store", write_raster(tmp_path / name, land()), datetime=pattern)
    assert collection.scenes[0].datetime == expected


def test_how_numbers_became_values_is_kept_and_scales_are_not_mixed(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    first = write_raster(tmp_path / "a.tif", land(seed=1), scales=(0.5,) * 3, offsets=(7.0,) * 3)
    collection = embed(tmp_path / "store", first, offset=-10.0, nodata=0)
    assert collection.scenes[0].pixels == {
        "scale": [0.5] * 3,
        "offset": [2.0] * 3,
        "nodata": 0.0,
        "nodata_where": "any band",
    }
    assert collection.spec.preprocessing is not None
    assert collection.spec.preprocessing.scale == (0.5,) * 3
    other = write_raster(tmp_path / "b.tif", land(seed=2))
    with pytest.raises(SpecMismatchError, match=r"pixel scale \(collection: \(0.5.*asked: \(1.0"):
        embed(tmp_path / "store", other)
    same = write_raster(tmp_path / "c.tif", land(seed=2), scales=(0.5,) * 3)
    assert len(embed(tmp_path / "store", same).scenes) == 2


def test_what_is_not_said_is_taken_from_the_collection(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    files = [write_raster(tmp_path / f"{i}.tif", land(seed=i)) for i in range(3)]
    made = {"chip": "160m", "stride": "80m", "dtype": "int8", "source": "S2", "licence": "MIT"}
    first = embed(tmp_path / "store", files[0], **made)
    again = embed(tmp_path / "store", files[1], chip=None)
    assert again.spec == first.spec
    assert len(embed(tmp_path / "store", files[2], chip="0.16km", stride=" 80m").scenes) == 3
    large = write_raster(tmp_path / "large.tif", land(192, 192))
    fresh = embed(tmp_path / "fresh", large, chip=None)
    assert fresh.spec.layout is not None
    assert (fresh.spec.layout.chip_px, fresh.spec.layout.stride_px) == ((32, 32), (32, 32))
    assert (fresh.spec.dtype, fresh.spec.source) == ("float16", "user imagery")
    assert fresh.licence == "proprietary"


def test_scenes_that_differ_in_case_alone_are_refused(
    tmp_path: Path, scene: Path, embed: Embed
) -> None:
    before = embed(tmp_path / "store", scene, scene="May")
    with pytest.raises(CollectionExistsError, match="'MAY' differs only in upper and lower case"):
        embed(tmp_path / "store", scene, scene="MAY")
    assert Store.open(tmp_path / "store").collection("land") == before


def test_collections_made_before_scenes_told_their_pixels_are_read(
    tmp_path: Path, scene: Path, embed: Embed
) -> None:
    collection = embed(tmp_path / "store", scene)
    path = collection.path / "collection.json"
    data = json.loads(path.read_text())
    for name in ("pixels", "grid"):
        del data["terrakin:scenes"][0][name]
    del data["terrakin:spec"]["preprocessing"]["scale"]
    path.write_text(json.dumps(data))
    old = Store.open(tmp_path / "store").collection("land")
    assert (old.spec, old.scenes[0].grid) == (collection.spec, None)
    assert embed(tmp_path / "store", scene).count == 119


def test_imagery_does_not_go_into_a_collection_of_places(
    tmp_path: Path, scene: Path, embed: Embed
) -> None:
    collection = embed(tmp_path / "store", scene)
    replace(collection, spec=replace(collection.spec, layout=None, preprocessing=None)).save()
    with pytest.raises(SpecMismatchError, match="embeddings of places, not of imagery"):
        embed(tmp_path / "store", scene)


@pytest.mark.parametrize(
    ("encoder", "bunched"), [("rcf", False), ("rcf:mosaiks,features=64", True)]
)
def test_search_takes_the_mean_off_vectors_that_bunch(
    tmp_path: Path, scene: Path, embed: Embed, encoder: str, bunched: bool
) -> None:
    for dtype in ("float16", "int8"):
        spec = embed(tmp_path / dtype, scene, encoder=encoder, dtype=dtype).spec
        assert (spec.centre is not None) == bunched
