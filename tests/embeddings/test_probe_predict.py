"""Predictions as tables: every row as the probe says, whole files or none, the same bytes again."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely

from embeddings import codec
from embeddings.analysis.applicability import measure_applicability
from embeddings.analysis.probes import UNKNOWN, LinearProbe
from embeddings.errors import (
    CancelledError,
    InputError,
    NoDataError,
    OutsideCoverageError,
    SpecMismatchError,
    StoreFormatError,
)
from embeddings.probe.model import ProbeModel, TrainedOn
from embeddings.probe.predict import PredictOptions, PredictReport, predict
from embeddings.probe.predict_scores import BLOCK_ROWS, Scorer
from embeddings.sources.areas import Area
from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader
from embeddings.store.schema import embedding_array
from embeddings.types import Bounds, TimeRange
from tests.embeddings.index_data import clustered, spec_of, write_collection

DIM = 16
CLASSES = ("sea", "Ödland", "wood")
TIMES = (datetime(2018, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))


def probe_of(task: str = "classes", **more: Any) -> LinearProbe:
    """A probe whose classes all occur among clustered vectors."""
    rng = np.random.default_rng(5)
    columns = {"number": 1, "positive": 1}.get(task, len(CLASSES))
    classes = {"number": (), "positive": CLASSES[:1]}.get(task, CLASSES)
    values = {
        "task": task,
        "kind": "ridge" if task == "number" else "logistic",
        "classes": classes,
        "mean": rng.normal(size=DIM).astype(np.float32) / 10,
        "scale": rng.uniform(0.5, 2, DIM).astype(np.float32),
        "weights": rng.normal(size=(DIM, columns)).astype(np.float32),
        "bias": rng.normal(size=columns).astype(np.float32) / 10,
        "strength": 1.0,
        "temperature": 1.5,
        **more,
    }
    return LinearProbe(**values)


def model_of(probe: LinearProbe, collection: Collection) -> ProbeModel:
    return ProbeModel(probe, (TrainedOn.of(collection),))


def collection_of(path: Path, *pieces: np.ndarray, spec: EmbeddingSpec | None = None) -> Collection:
    makers = [lambda piece=piece: piece for piece in pieces]
    return write_collection(path, spec or spec_of(DIM), makers, TIMES)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Two parts, the first a few blocks long; places and times are seeded."""
    folder = tmp_path_factory.mktemp("predict") / "clusters"
    return collection_of(
        folder, clustered(3 * BLOCK_ROWS + 7, DIM, seed=1), clustered(500, DIM, seed=2)
    )


def vectors_of(collection: Collection) -> np.ndarray:
    return Reader(collection).vectors(np.arange(collection.count))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("thresholds", [None, np.array([0.7, np.inf, 0.4])])
def test_rows_get_what_the_probe_says(
    tmp_path: Path, dtype: str, thresholds: np.ndarray | None
) -> None:
    vectors = clustered(3000, DIM, seed=3)
    scale = codec.fit_scale(vectors) if dtype == "int8" else None
    collection = collection_of(tmp_path / "c", vectors, spec=spec_of(DIM, dtype=dtype, scale=scale))
    probe = probe_of(thresholds=thresholds)
    report = predict(
        model_of(probe, collection),
        collection,
        tmp_path / "out.parquet",
        options=PredictOptions(per_class=True),
    )
    rows = pq.read_table(tmp_path / "out.parquet").to_pandas()
    stored = vectors_of(collection)
    said = probe.predict(stored)
    shares = probe.probabilities(stored).astype(np.float64)
    ordered = np.sort(shares, axis=1)
    # Where two classes are as likely but for the last digits, or at a threshold, either will do.
    clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    if thresholds is not None:
        clear &= (np.abs(shares - np.nan_to_num(thresholds, posinf=9)) > 1e-5).all(axis=1)
    names = np.array([*CLASSES, "unknown"])[said]
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(rows["class"].to_numpy()[clear], names[clear])
    assert set(names) >= ({"unknown", "sea", "wood"} if thresholds is not None else set(CLASSES))
    np.testing.assert_allclose(rows["probability"], ordered[:, -1], atol=2e-6)
    np.testing.assert_allclose(rows["margin"], ordered[:, -1] - ordered[:, -2], atol=4e-6)
    entropy = -(shares * np.log(shares)).sum(axis=1) / np.log(3)
    np.testing.assert_allclose(rows["entropy"], entropy, atol=1e-5)
    for number, name in enumerate(CLASSES):
        np.testing.assert_allclose(rows[f"p_{name}"], shares[:, number], atol=2e-6)
    counts = {name: int((rows["class"] == name).sum()) for name in CLASSES}
    assert report.classes == counts
    assert report.unknown == int((rows["class"] == "unknown").sum())
    assert report.rows == 3000 == sum(counts.values()) + report.unknown


def test_halves_of_all_kinds_are_widened_exactly() -> None:
    spec = spec_of(DIM)
    probe = probe_of("number", mean=np.zeros(DIM, np.float32), scale=np.ones(DIM, np.float32))
    weights = np.zeros((DIM, 1), np.float32)
    weights[0] = 1
    scorer = Scorer(replace(probe, weights=weights, bias=np.zeros(1, np.float32)), spec.scale)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(halves)
    for values in (halves[finite], halves):
        stored = np.zeros((len(values), DIM), np.float16)
        stored[:, 0] = values
        scored = scorer.score(stored)
        good = np.isfinite(values)
        np.testing.assert_array_equal(scored.there, good)
        np.testing.assert_array_equal(
            scored.measures["value"][good], values[good].astype(np.float32)
        )


def test_columns_items_and_metadata_of_geoparquet(collection: Collection, tmp_path: Path) -> None:
    model = model_of(probe_of(), collection)
    predict(model, collection, tmp_path / "out.parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert file.schema_arrow.names == [
        *("id", "grid_cell", "datetime", "lon", "lat", "class", "probability", "margin"),
        *("entropy", "bbox", "geometry"),
    ]
    items = Reader(collection).rows(np.arange(collection.count))
    rows = file.read()
    for name in ("id", "grid_cell", "datetime", "lon", "lat", "bbox", "geometry"):
        assert rows[name].to_pylist() == items[name].to_pylist(), name
    assert rows["class"].null_count == 0
    geo = json.loads(file.metadata.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], column["geometry_types"]) == ("1.1.0", ["Polygon"])
    boxes = np.array([[*box.values()] for box in items["bbox"].to_pylist()])
    np.testing.assert_array_equal(
        column["bbox"], [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
    )
    said = json.loads(file.metadata.metadata[b"terrakin"])
    assert said["model_sha256"] == model.sha256
    assert (said["collection"], said["collection_state"]) == (collection.id, collection.state)
    frame = geopandas.read_parquet(tmp_path / "out.parquet", bbox=(10, -10, 20, 10))
    assert 0 < len(frame) < collection.count


def test_footprints_over_the_antimeridian_keep_their_kind(
    collection: Collection, tmp_path: Path
) -> None:
    part = collection.part_paths[1]
    table = pq.read_table(part)
    both = shapely.MultiPolygon([shapely.box(179.9, 0, 180, 1), shapely.box(-180, 0, -179.9, 1)])
    at = table.column_names.index("geometry")
    shapes = table["geometry"].to_pylist()
    boxes = table["bbox"].to_pylist()
    shapes[3] = shapely.to_wkb(both, byte_order=1)
    boxes[3] = {"xmin": 179.9, "ymin": 0.0, "xmax": -179.9, "ymax": 1.0}
    changed = table.set_column(at, table.schema.field("geometry"), pa.array(shapes, pa.binary()))
    changed = changed.set_column(
        changed.column_names.index("bbox"),
        changed.schema.field("bbox"),
        pa.array(boxes, changed.schema.field("bbox").type),
    )
    copy = copied(collection, tmp_path / "copy")
    pq.write_table(changed, copy.part_paths[1])
    predict(model_of(probe_of(), copy), copy, tmp_path / "out.parquet")
    geo = json.loads(pq.read_metadata(tmp_path / "out.parquet").metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert column["geometry_types"] == ["Polygon", "MultiPolygon"]
    assert (column["bbox"][0], column["bbox"][2]) == (-180, 180)


def copied(collection: Collection, path: Path) -> Collection:
    shutil.copytree(collection.path, path)
    return Collection.load(path)


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_the_bytes_do_not_depend_on_the_run(
    collection: Collection, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(probe_of(thresholds=np.full(3, 0.6)), collection)
    predict(model, collection, tmp_path / f"one{suffix}")
    monkeypatch.setattr("embeddings.probe.predict_workers.MOST_THREADS", 1)
    predict(model, collection, tmp_path / f"two{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_a_row_says_the_same_whatever_else_is_asked_for(
    collection: Collection, tmp_path: Path
) -> None:
    model = model_of(probe_of(), collection)
    predict(model, collection, tmp_path / "all.parquet")
    area = Area.of_box(Bounds(20, -30, 21.5, 60))
    predict(model, collection, tmp_path / "some.parquet", within=area)
    every = pq.read_table(tmp_path / "all.parquet").to_pandas().set_index("id")
    some = pq.read_table(tmp_path / "some.parquet").to_pandas().set_index("id")
    inside = every["lon"].between(20, 21.5) & every["lat"].between(-30, 60)
    assert 0 < inside.sum() < 1000
    assert every[inside].drop(columns="bbox").equals(some.drop(columns="bbox"))


def test_times_and_areas_choose_rows(collection: Collection, tmp_path: Path) -> None:
    model = model_of(probe_of(), collection)
    triangle = shapely.Polygon([(5, -50), (40, 0), (5, 50)])
    geopandas.GeoSeries([triangle], crs=4326).to_file(tmp_path / "area.gpkg")
    time = TimeRange.parse("2018-06-01/2019-01-01")
    report = predict(
        model,
        collection,
        tmp_path / "out.parquet",
        within=Area.of_file(tmp_path / "area.gpkg"),
        time=time,
    )
    rows = pq.read_table(tmp_path / "out.parquet").to_pandas()
    every = Reader(collection).rows(np.arange(collection.count)).to_pandas()
    wanted = shapely.contains_xy(triangle, every["lon"], every["lat"])
    wanted &= every["datetime"].between(time.start, time.end).to_numpy()
    assert rows["id"].tolist() == every["id"][wanted].tolist()
    assert report.rows == wanted.sum() > 50


@pytest.mark.parametrize(
    "wanted",
    [
        {"within": Area.of_box(Bounds(100, 0, 101, 1))},
        {"within": Area.of_box(Bounds(0, 0, 1e-9, 1e-9))},
        {"time": TimeRange.parse("2030-01-01/..")},
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_nothing_there_is_an_error_and_no_file(
    collection: Collection, tmp_path: Path, wanted: dict[str, Any], suffix: str
) -> None:
    (tmp_path / f"out{suffix}").write_bytes(b"old")
    with pytest.raises(OutsideCoverageError, match="covers 0,-60,60,60"):
        predict(model_of(probe_of(), collection), collection, tmp_path / f"out{suffix}", **wanted)
    assert [path.name for path in tmp_path.iterdir()] == [f"out{suffix}"]
    assert (tmp_path / f"out{suffix}").read_bytes() == b"old"


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_cancelling_leaves_the_old_file(
    collection: Collection, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_bytes(b"old")
    asked: Iterator[bool] = iter([False, True, True])
    with pytest.raises(CancelledError):
        predict(model_of(probe_of(), collection), collection, out, cancelled=lambda: next(asked))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_bytes() == b"old"


def test_progress_comes_to_its_end(collection: Collection, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    predict(
        model_of(probe_of(), collection),
        collection,
        tmp_path / "out.parquet",
        progress=lambda p: told.append((p.done, p.total)),
    )
    assert told[-1] == (collection.count, collection.count)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def with_bad_vectors(path: Path, rows: int = 900) -> tuple[Collection, np.ndarray]:
    """A collection whose file was written elsewhere: some vectors hold NaN or infinity."""
    collection = collection_of(path, clustered(rows, DIM, seed=4), spec=spec_of(DIM))
    part = collection.part_paths[0]
    table = pq.read_table(part)
    values = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(np.float16)
    values[5, 3], values[700, 0], values[701, 1] = np.nan, np.inf, -np.inf
    at = table.column_names.index("embedding")
    pq.write_table(
        table.set_column(at, table.schema.field("embedding"), embedding_array(values)), part
    )
    return collection, np.array([5, 700, 701])


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_vectors_that_are_no_numbers_get_no_class(tmp_path: Path, suffix: str) -> None:
    collection, bad = with_bad_vectors(tmp_path / "c")
    out = tmp_path / f"out{suffix}"
    report = predict(model_of(probe_of(), collection), collection, out)
    assert (report.rows, report.no_data) == (897, 3)
    assert "3 vectors hold values that are not numbers" in report.notes[0]
    if suffix == ".parquet":
        ids = pq.read_table(out)["id"].to_pylist()
    else:
        ids = pyogrio.read_dataframe(out, layer="predictions", read_geometry=False)["id"].tolist()
    every = Reader(collection).rows(np.arange(900))["id"].to_pylist()
    assert ids == [name for row, name in enumerate(every) if row not in bad]


def test_only_such_vectors_are_an_error(tmp_path: Path) -> None:
    collection, bad = with_bad_vectors(tmp_path / "c")
    item = Reader(collection).rows(bad[:1])
    lon, lat = item["lon"][0].as_py(), item["lat"][0].as_py()
    area = Area.of_box(Bounds(lon - 1e-6, lat - 1e-6, lon + 1e-6, lat + 1e-6))
    with pytest.raises(NoDataError, match="All 1 vectors"):
        predict(model_of(probe_of(), collection), collection, tmp_path / "o.parquet", within=area)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_applicability_is_a_column_where_the_probe_knows_it(tmp_path: Path, dtype: str) -> None:
    vectors = clustered(3000, DIM, seed=3)
    scale = codec.fit_scale(vectors) if dtype == "int8" else None
    collection = collection_of(tmp_path / "c", vectors, spec=spec_of(DIM, dtype=dtype, scale=scale))
    train = clustered(300, DIM, seed=9)
    near = measure_applicability(train, train.mean(axis=0), train.std(axis=0), np.arange(300))
    probe = probe_of(applicability=near)
    model = model_of(probe, collection)
    predict(model, collection, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["applicability"].to_numpy()
    np.testing.assert_allclose(found, near.dissimilarity(vectors_of(collection)), rtol=1e-4)
    options = PredictOptions(applicability=False)
    predict(model, collection, tmp_path / "out.parquet", options=options)
    assert "applicability" not in pq.read_schema(tmp_path / "out.parquet").names


def read(report: PredictReport) -> Any:
    return pq.read_table(report.files[0]).to_pandas()


def test_other_tasks(collection: Collection, tmp_path: Path) -> None:
    vectors, out = vectors_of(collection), tmp_path / "out.parquet"

    number = probe_of("number")
    rows = read(predict(model_of(number, collection), collection, out))
    np.testing.assert_allclose(rows["value"], number.predict(vectors), rtol=1e-4, atol=1e-5)
    assert not {"class", "probability"} & set(rows.columns)

    several = probe_of("multilabel", thresholds=np.array([0.3, 0.5, 0.9]))
    rows = read(predict(model_of(several, collection), collection, out))
    shares, said = several.probabilities(vectors), several.predict(vectors)
    for at, name in enumerate(CLASSES):
        np.testing.assert_allclose(rows[f"p_{name}"], shares[:, at], atol=2e-6)
        clear = np.abs(shares[:, at] - [0.3, 0.5, 0.9][at]) > 1e-5
        assert (rows[f"is_{name}"].to_numpy() == said[:, at])[clear].all()
        assert 0 < rows[f"is_{name}"].sum() < len(rows)

    for prevalence in (None, 0.2):
        one = probe_of("positive", prevalence=prevalence)
        report = predict(model_of(one, collection), collection, out)
        rows, share = read(report), one.probabilities(vectors)[:, 0]
        np.testing.assert_allclose(rows["probability"], share, atol=5e-6)
        clear = np.abs(share - 0.5) > 1e-4
        names = np.where(one.predict(vectors), "sea", "not sea")
        assert (rows["class"].to_numpy() == names)[clear].all()
        assert set(report.classes) == {"sea", "not sea"} == set(rows["class"])


def test_a_class_called_unknown_stays_apart_from_ours(
    collection: Collection, tmp_path: Path
) -> None:
    probe = probe_of(classes=("Unknown", "sea", "SEA"), thresholds=np.full(3, 0.7))
    report = predict(
        model_of(probe, collection),
        collection,
        tmp_path / "out.gpkg",
        options=PredictOptions(per_class=True),
    )
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg", layer="predictions")
    assert set(frame["class"]) == {"Unknown", "sea", "SEA", "not recognised"}
    assert (frame["class"] == "not recognised").sum() == report.unknown > 0
    assert {"p_Unknown", "p_sea", "p_SEA_2"} <= set(frame.columns)


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_all_places_are_named_where_that_is_asked(
    collection: Collection, tmp_path: Path, suffix: str
) -> None:
    train = vectors_of(collection)[:300]
    near = measure_applicability(train, train.mean(axis=0), train.std(axis=0), np.arange(300))
    probe = probe_of(applicability=near, thresholds=np.full(3, 0.7))
    model = model_of(probe, collection)
    out = tmp_path / f"out{suffix}"
    some = predict(model, collection, out)
    refused = out.read_bytes()
    every = predict(model, collection, out, options=PredictOptions(name_all=True))
    assert 0 < some.unknown < some.rows == every.rows
    assert every.unknown == 0
    assert all(every.classes[name] >= number for name, number in some.classes.items())
    assert out.read_bytes() != refused
    if suffix == ".parquet":
        rows = pq.read_table(out).to_pandas()
        likely = probe.probabilities(vectors_of(collection))
        assert (rows["class"] == np.array(CLASSES)[likely.argmax(axis=1)]).mean() > 0.999
        assert rows["applicability"].max() > near.threshold
        assert json.loads(pq.read_metadata(out).metadata[b"terrakin"])["name_all"]


def test_only_classes_can_all_be_named(collection: Collection, tmp_path: Path) -> None:
    model = model_of(probe_of("number"), collection)
    with pytest.raises(InputError, match=r"Only a map of classes says unknown.*Leave it out"):
        predict(model, collection, tmp_path / "out.parquet", options=PredictOptions(name_all=True))
    assert not list(tmp_path.iterdir())


def test_geopackage_has_polygons_and_a_style(collection: Collection, tmp_path: Path) -> None:
    model = model_of(probe_of(thresholds=np.full(3, 0.7)), collection)
    predict(model, collection, tmp_path / "out.gpkg")
    predict(model, collection, tmp_path / "out.parquet")
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg", layer="predictions")
    rows = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert frame.crs == "EPSG:4326"
    assert frame["class"].tolist() == rows["class"].tolist()
    assert frame["id"].tolist() == rows["id"].tolist()
    np.testing.assert_array_equal(frame["margin"], rows["margin"])
    assert shapely.equals(frame.geometry.to_numpy(), shapely.from_wkb(rows["geometry"])).all()
    info = pyogrio.read_info(tmp_path / "out.gpkg", layer="predictions")
    assert info["geometry_type"] == "Polygon"
    assert json.loads(info["layer_metadata"]["terrakin"])["model_sha256"] == model.sha256
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        (style,) = database.execute(
            "SELECT styleQML FROM layer_styles WHERE useAsDefault = 1 "
            "AND f_table_name = 'predictions' AND f_geometry_column = 'geom'"
        ).fetchone()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # SQLite counts what is written, and GDAL does not always write in as many steps.
    content = (tmp_path / "out.gpkg").read_bytes()
    assert content[24:28] == content[92:96] == b"\0\0\0\1"
    renderer = Xml.fromstring(style).find("renderer-v2")
    assert renderer is not None
    values = [each.get("value") for each in renderer.iter("category")]
    assert values == [*CLASSES, "unknown"]
    symbols = {each.get("name"): each for each in renderer.iter("symbol")}
    fills = [symbols[str(at)].find(".//Option[@name='color']").get("value") for at in range(4)]
    assert len(set(fills)) == 4
    assert fills[3] == "158,158,158,255"


def test_a_number_is_styled_by_steps(collection: Collection, tmp_path: Path) -> None:
    predict(model_of(probe_of("number"), collection), collection, tmp_path / "out.gpkg")
    values = pyogrio.read_dataframe(tmp_path / "out.gpkg", layer="predictions")["value"]
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        (style,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
    ranges = [*Xml.fromstring(style).iter("range")]
    # The first and the last are open, as QGIS does not draw what is in no range.
    lower, upper = ([float(each.get(end)) for each in ranges] for end in ("lower", "upper"))
    assert lower[1:] == upper[:-1]
    assert lower[0] < float(values.min())
    assert upper[-1] > float(values.max())
    step = (float(values.max()) - float(values.min())) / len(ranges)
    assert np.diff(lower[1:]) == pytest.approx(step)
    assert upper[0] == pytest.approx(float(values.min()) + step)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out.shp", r"Use one of .parquet, .gpkg, .tif, .tiff"),
        ("out", "no suffix of a prediction"),
        ("none/out.gpkg", "in a folder that exists"),
        ("folder.parquet", "name a file"),
    ],
)
def test_files_that_cannot_be_written_are_refused_first(
    collection: Collection, tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=says):
        predict(model_of(probe_of(), collection), collection, tmp_path / name)


def test_a_second_raster_belongs_to_tif(collection: Collection, tmp_path: Path) -> None:
    options = PredictOptions(measures=True)
    with pytest.raises(InputError, match=r"belongs to \.tif"):
        predict(model_of(probe_of(), collection), collection, tmp_path / "o.gpkg", options=options)


def test_a_model_of_other_vectors_is_refused(collection: Collection, tmp_path: Path) -> None:
    spec = replace(collection.spec, product="other clusters", dim=DIM + 1)
    model = ProbeModel(probe_of(), (TrainedOn("other", "s", spec),))
    with pytest.raises(SpecMismatchError, match="other clusters") as caught:
        predict(model, collection, tmp_path / "out.parquet")
    assert "dim (collection: 16, asked: 17)" in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_scenes_that_are_not_there_are_named(collection: Collection, tmp_path: Path) -> None:
    options = PredictOptions(scenes=("mars",))
    with pytest.raises(InputError, match=r"no scene 'mars'\. Its scenes are s"):
        predict(model_of(probe_of(), collection), collection, tmp_path / "o.gpkg", options=options)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.unlink(),
        lambda path: pq.write_table(pq.read_table(path).slice(1), path),
        lambda path: pq.write_table(pq.read_table(path).drop_columns("embedding"), path),
    ],
)
def test_a_damaged_part_is_an_error_and_no_file(
    collection: Collection, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    copy = copied(collection, tmp_path / "copy")
    damage(copy.part_paths[1])
    with pytest.raises(StoreFormatError):
        predict(model_of(probe_of(), copy), copy, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_unknown_is_the_code_that_the_probe_uses() -> None:
    scorer = Scorer(probe_of(thresholds=np.full(3, 2.0)), None)
    assert (scorer.score(clustered(50, DIM).astype(np.float16)).codes == UNKNOWN).all()


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg", ".tif"])
def test_a_killed_prediction_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    collection = collection_of(tmp_path / "c", *(clustered(300, DIM, seed=s) for s in range(3)))
    model_of(probe_of(), collection).save(tmp_path / "model")
    out = tmp_path / f"out{suffix}"
    out.write_bytes(b"old")
    script = """
import os, sys
from pathlib import Path
from embeddings.probe.model import ProbeModel
from embeddings.probe.predict import predict
from embeddings.store import Collection
model, collection, out = map(Path, sys.argv[1:])
predict(
    ProbeModel.load(model), Collection.load(collection), out,
    progress=lambda p: p.done > 300 and os._exit(7),
)
"""
    arguments = [tmp_path / "model", collection.path, out]
    if suffix == ".tif":
        # Scattered places have no raster, but the scene can be told to be one.
        text = (collection.path / "collection.json").read_text()
        grid = {"crs": "EPSG:32633", "transform": [9, 0, 5e5, 0, -9, 5e6], "rows": 3, "cols": 300}
        grid |= {"chip_px": [1, 1], "stride_px": [1, 1]}
        text = text.replace('"grid": null', f'"grid": {json.dumps(grid)}')
        (collection.path / "collection.json").write_text(text)
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=False)
    assert done.returncode == 7
    assert out.read_bytes() == b"old"
    predict(ProbeModel.load(arguments[0]), Collection.load(collection.path), out)
    assert out.stat().st_size > 1000


def test_names_that_xml_cannot_hold_still_make_a_style(
    collection: Collection, tmp_path: Path
) -> None:
    probe = probe_of(classes=('a "b" <c> & \x07', "sea", "wood"))
    predict(model_of(probe, collection), collection, tmp_path / "out.gpkg")
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        (style,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
    values = [each.get("value") for each in Xml.fromstring(style).iter("category")]
    assert values == ['a "b" <c> & ', "sea", "wood", "unknown"]
