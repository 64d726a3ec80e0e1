"""Change through `qgis_process` and inside QGIS: the files are those of the command."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from conftest import HERE, launch
from test_probes import _layer, ask, inside, job, refused  # noqa: F401 - fixtures
from test_processing import PROGRAM, profile, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs qgis_process")

BANDS = ("B02", "B03", "B04", "B08")
DATES = {"BEFORE_DATE": "2016-05-01", "AFTER_DATE": "2017-05-01"}


@pytest.fixture(scope="module")
def place(command, tmp_path_factory) -> Path:
    """A folder with two dates of imagery, a scene elsewhere, and a store."""
    folder = tmp_path_factory.mktemp("change")
    python = shutil.which("python", path=str(command.parent)) or str(command.parent / "python")
    script = str(HERE / "make_change_store.py")
    subprocess.run([python, script, str(folder)], check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def probe_server(command, place, tmp_path_factory):
    """The server that the fixtures of the tests of probes ask."""
    running = launch(command, place / "store", tmp_path_factory.mktemp("change-server"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def by_command(command):
    """Run `terrakin change`; return its report."""

    def call(*words: object) -> dict:
        done = subprocess.run(
            [str(command), "change", *map(str, words), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def bands(place: Path, date: str) -> list[str]:
    """The files of a date."""
    return [str(place / date / f"{name}.tif") for name in BANDS]


def content(path: Path):
    """A file's bytes; of a GeoPackage, which counts how often it was written, its tables."""
    if path.suffix != ".gpkg":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def test_command_job_and_qgis_process_write_the_same_score(
    profile,  # noqa: F811 - the fixture
    probe_server,
    by_command,
    job,  # noqa: F811 - the fixture
    place,
    tmp_path,
):
    folders = [tmp_path / name for name in ("command", "job", "process")]
    for folder in folders:
        folder.mkdir()
    files = [{name: folder / f"{name}.tif" for name in ("score", "class")} for folder in folders]
    before, after = bands(place, "before"), bands(place, "after")
    told = by_command(
        *("raster", "--before", *before, "--after", *after, "--threshold", 2),
        *("--before-date", "2016-05-01", "--after-date", "2017-05-01"),
        *("--out", files[0]["score"], "--classes", files[0]["class"]),
        *("--objects", folders[0] / "changes.gpkg"),
    )
    report = job(
        "change-raster",
        **{"before": before, "after": after, "threshold": "2"},
        **{"before_date": "2016-05-01", "after_date": "2017-05-01"},
        **{"out": files[1]["score"], "classes": files[1]["class"]},
        objects=folders[1] / "changes.gpkg",
    )
    values = {"SERVER": probe_server.ready_path, "THRESHOLD": "2", **DATES}
    values |= {"SCORE": files[2]["score"], "CLASSES": files[2]["class"]}
    values |= {"OBJECTS": folders[2] / "changes.gpkg", "REPORT": folders[2] / "report.html"}
    arguments = [f"--{name}={value}" for name, value in values.items()]
    arguments += [f"--BEFORE={file}" for file in before] + [f"--AFTER={file}" for file in after]
    done = run(profile, "--json", "run", "terrakin:changeraster", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    written = {path.name for path in folders[0].iterdir()}
    assert {"score.tif", "score_coverage.tif", "score.qml", "class.tif", "changes.gpkg"} <= written
    assert {path.name for path in folders[1].iterdir()} == written
    assert {path.name for path in folders[2].iterdir()} == written | {"report.html"}
    for name in written:
        one, two, three = (content(folder / name) for folder in folders)
        assert one == two == three, name
    changed = told["changed"]
    assert report["change"]["changed"] == changed
    assert (results["CHANGED_AREA"], results["COMPARED"]) == (changed["area_m2"], 16_800)
    assert results["OBJECT_COUNT"] == told["objects"]["count"] >= 1
    assert results["COVERAGE"] == str(folders[2] / "score_coverage.tif")
    html = Path(results["REPORT"]).read_text()
    assert "Change from 2016-05-01 to 2017-05-01" in html


def test_layers_of_the_project_are_compared_and_the_maps_are_dressed(inside, place):  # noqa: F811
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject, QgsRasterLayer

    project = QgsProject.instance()
    sides = {}
    for side in ("before", "after"):
        layers = [QgsRasterLayer(file, Path(file).stem) for file in bands(place, side)]
        project.addMapLayers(layers)
        sides[side.upper()] = [layer.id() for layer in layers]
    outputs = {
        name: QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", project)
        for name in ("SCORE", "CLASSES", "OBJECTS")
    }
    values = {**sides, **outputs, **DATES, "THRESHOLD": "2", "MIN_AREA": 1000.0}
    results, context, feedback = inside("changeraster", values)
    assert results, feedback.textLog()
    assert "Change begins at score 2.000 (2)" in feedback.textLog()
    when = "2016-05-01 to 2017-05-01"
    score = loaded(results["SCORE"], f"Change {when}", context, feedback)
    assert score.renderer().type() == "singlebandpseudocolor"
    shader = score.renderer().shader().rasterShaderFunction()
    stops = shader.colorRampItemList()
    assert stops[2].value == 2.0
    assert stops[2].label == "2.00: change begins"
    assert stops[0].color.alpha() < 128 < stops[1].color.alpha() < stops[2].color.alpha() == 255
    classes = loaded(results["CLASSES"], f"Changed or not {when}", context, feedback)
    found = classes.renderer().classes()
    assert [each.label for each in found] == ["no change", "change"]
    assert found[0].color.alpha() < 128 < found[1].color.alpha() == 255
    objects = loaded(results["OBJECTS"], f"Objects that changed {when}", context, feedback)
    assert objects.featureCount() == results["OBJECT_COUNT"] >= 1
    assert min(feature["area_m2"] for feature in objects.getFeatures()) >= 1000
    assert objects.renderer().type() == "graduatedSymbol"
    for feature in objects.getFeatures():
        assert objects.renderer().rangeForValue(feature["mean_score"]) is not None
    coverage = QgsRasterLayer(results["COVERAGE"], "coverage")
    assert coverage.isValid()


def clicked(project, names: dict[str, str]):
    """A layer of points in EPSG:32631, 12 of each thing, where the block that changed is or not."""
    from qgis.core import QgsFeature, QgsGeometry, QgsPointXY, QgsVectorLayer

    layer = QgsVectorLayer("Point?crs=EPSG:32631&field=what:string", "my clicks", "memory")
    for what, place in names.items():
        for number in range(12):
            # Columns and rows of 10 m; the block is rows 40 to 60 and columns 50 to 80.
            col, row = {
                "left": (51 + number, 42 + number),
                "right": (68 + number, 42 + number),
                "away": (10 + 9 * number, 90),
            }[place]
            feature = QgsFeature(layer.fields())
            feature.setAttributes([what])
            x, y = 500_000 + 10 * col + 5, 5_200_000 - 10 * row - 5
            feature.setGeometry(QgsGeometry.fromPointXY(QgsPointXY(x, y)))
            layer.dataProvider().addFeature(feature)
    project.addMapLayer(layer)
    return layer


def test_clicks_on_the_map_choose_the_threshold_and_name_kinds(
    inside,  # noqa: F811 - the fixture
    place,
    tmp_path,
):
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject

    project = QgsProject.instance()
    values = {"BEFORE": bands(place, "before"), "AFTER": bands(place, "after"), "FIELD": "what"}
    values |= {"SCORE": str(tmp_path / "score.tif"), **DATES}
    layer = clicked(project, {"Yes": "left", "no": "away"})
    results, _, feedback = inside("changeraster", {**values, "CLICKS": layer.id()})
    assert results, feedback.textLog()
    assert "(clicks): " in feedback.textLog()
    assert "24 of 24 labels of my clicks.gpkg used." in feedback.textLog()
    assert "Of labels left out" in feedback.textLog()
    layer = clicked(project, {"roof": "left", "road": "right", "no change": "away"})
    outputs = {
        name: QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", project)
        for name in ("CLASSES", "OBJECTS")
    }
    results, context, feedback = inside("changeraster", {**values, **outputs, "CLICKS": layer.id()})
    assert results, feedback.textLog()
    when = "2016-05-01 to 2017-05-01"
    classes = loaded(results["CLASSES"], f"Kinds of change {when}", context, feedback)
    found = [each.label for each in classes.renderer().classes()]
    assert found == ["no change", "road", "roof", "unknown"]
    objects = loaded(results["OBJECTS"], f"Objects that changed {when}", context, feedback)
    assert objects.renderer().type() == "categorizedSymbol"
    assert {"kind", "kind_share"} <= {field.name() for field in objects.fields()}
    assert results["OBJECT_COUNT"] >= 1


def loaded(path: str, title: str, context, feedback):
    """The layer of an output, dressed as it is when it is loaded."""
    layer = _layer(path, context)
    details = context.layersToLoadOnCompletion()[path]
    assert details.name == title
    details.postProcessor().postProcessLayer(layer, context, feedback)
    return layer


def test_the_extent_keeps_the_map_inside(inside, place, tmp_path):  # noqa: F811 - the fixture
    from qgis.core import QgsRasterLayer

    whole = QgsRasterLayer(bands(place, "before")[0], "whole")
    box = whole.extent()
    sides = (box.xMinimum(), box.center().x(), box.yMinimum(), box.yMaximum())
    values = {
        "BEFORE": bands(place, "before"),
        "AFTER": bands(place, "after"),
        "EXTENT": ",".join(map(repr, sides)) + f" [{whole.crs().authid()}]",
        "SCORE": str(tmp_path / "score.tif"),
        "BANDS": "B02, B08",
        "THRESHOLD": "otsu",
    }
    results, _, feedback = inside("changeraster", values)
    assert results, feedback.textLog()
    part = QgsRasterLayer(results["SCORE"], "part")
    assert whole.width() // 2 <= part.width() <= whole.width() // 2 + 2
    assert part.height() == whole.height()


BAD_PAIRS = [
    ({"AFTER": "before"}, "The same content stands on both sides: B02.tif of BEFORE is"),
    ({"AFTER": "far"}, "The dates do not overlap"),
    ({"BEFORE_DATE": "2018-01-01"}, "the dates are in the wrong order"),
    ({"AFTER_DATE": "2016-05-01"}, "the same date twice"),
    ({"THRESHOLD": "often"}, "THRESHOLD often cannot be used"),
    ({"THRESHOLD": "clicks"}, "THRESHOLD clicks needs CLICKS"),
    ({"NODATA": "none at all"}, "NODATA is 'none at all'. Give a number, or none."),
    ({"SCORE": "score.jpg"}, "It must end in .tif"),
    ({"SCORE": "no/folder/score.tif"}, "folder"),
    ({"CLASSES": "score.tif"}, "Two outputs would be the file 'score.tif'"),
    ({"SCORE": "STORE/score.tif"}, "lies in the store"),
]


@pytest.mark.parametrize(("changes", "says"), BAD_PAIRS, ids=[s for _, s in BAD_PAIRS])
def test_a_bad_pair_is_one_error_and_writes_nothing(
    refused,  # noqa: F811 - the fixture
    place,
    tmp_path,
    changes,
    says,
):
    values = {"BEFORE": "before", "AFTER": "after", "SCORE": "score.tif", **DATES, **changes}
    for name in ("BEFORE", "AFTER"):
        values[name] = bands(place, values[name])
    for name in {"SCORE", "CLASSES"} & set(values):
        inside_store = values[name].startswith("STORE")
        values[name] = (place if inside_store else tmp_path) / values[name].replace(
            "STORE", "store"
        )
    said = refused("changeraster", **values)
    assert says in said
    assert said.count("Error") <= 1
    assert not list(tmp_path.iterdir())


def test_a_layer_without_a_file_is_no_date(refused, place, tmp_path):  # noqa: F811 - the fixture
    from qgis.core import QgsProject, QgsRasterLayer

    source = f"type=xyz&url=file://{place}/%7Bz%7D/%7Bx%7D/%7By%7D.png"
    layer = QgsRasterLayer(source, "tiles", "wms")
    QgsProject.instance().addMapLayer(layer)
    values = {"BEFORE": bands(place, "before"), "AFTER": [layer.id()]}
    said = refused("changeraster", **values, SCORE=tmp_path / "score.tif")
    assert "The layer 'tiles' is no file of its own" in said


def test_dense_vectors_give_a_raster_of_cells(inside, tmp_path):  # noqa: F811 - the fixture
    from qgis.core import QgsRasterLayer

    values = {"COLLECTION": "cells", "DENSE": "2", "RASTER": str(tmp_path / "cells.tif")}
    results, _, feedback = inside("changecollection", values)
    assert results, feedback.textLog()
    layer = QgsRasterLayer(results["RASTER"], "cells")
    assert (layer.width(), layer.height(), layer.bandCount()) == (70, 60, 4)
    assert layer.rasterUnitsPerPixelX() == 20.0
    assert results["COMPARED"] > 3500


def test_command_job_and_algorithm_write_the_same_change_of_a_collection(
    inside,  # noqa: F811 - the fixture
    by_command,
    job,  # noqa: F811 - the fixture
    place,
    tmp_path,
):
    folders = [tmp_path / name for name in ("command", "job", "inside")]
    for folder in folders:
        folder.mkdir()
    paths = [(folder / "change.gpkg", folder / "o.gpkg", folder / "r.html") for folder in folders]
    told = by_command(
        *("collection", "--store", place / "store", "--collection", "years"),
        *("--from", "2017-07-01", "--to", "2018-07-10", "--tolerance", 20),
        *("--out", paths[0][0], "--objects", paths[0][1], "--report", paths[0][2]),
    )
    job(
        "change-collection",
        **{"collection": "years", "from": "2017-07-01", "to": "2018-07-10", "tolerance_days": 20},
        **{"out": paths[1][0], "objects": paths[1][1], "report": [str(paths[1][2])]},
    )
    values = {"COLLECTION": "years", "FROM": "2017-07-01", "TO": "2018-07-10", "TOLERANCE": 20}
    values |= dict(zip(("FOOTPRINTS", "OBJECTS", "REPORT"), map(str, paths[2]), strict=True))
    results, _, feedback = inside("changecollection", values)
    assert results, feedback.textLog()
    for made in zip(*(each[:2] for each in paths), strict=True):
        one, two, three = map(content, made)
        assert one == two == three
    changed = told["changed"]
    assert (results["CHANGED"], results["COMPARED"]) == (changed["places"], 576)
    assert results["CHANGED_HECTARES"] == pytest.approx(changed["hectares"])
    assert "2018-07-01" in paths[2][2].read_text()
    assert results["REPORT"] == str(paths[2][2])


def test_clicks_choose_the_threshold_of_a_collection(inside, tmp_path):  # noqa: F811 - the fixture
    from qgis.core import QgsFeature, QgsGeometry, QgsPointXY, QgsProject, QgsVectorLayer

    layer = QgsVectorLayer("Point?crs=EPSG:4326&field=moved:string", "places", "memory")
    # Of 24 x 24 chips of 0.01 degrees, south and east of 10 E, 50 N, these three changed in 2018.
    for place in (30, 200, 201, *range(5, 570, 47)):
        row, col = divmod(place, 24)
        feature = QgsFeature(layer.fields())
        feature.setAttributes(["yes" if place in (30, 200, 201) else "no"])
        at = QgsPointXY(10 + 0.01 * (col + 0.5), 50 - 0.01 * (row + 0.5))
        feature.setGeometry(QgsGeometry.fromPointXY(at))
        layer.dataProvider().addFeature(feature)
    QgsProject.instance().addMapLayer(layer)
    values = {"COLLECTION": "years", "FROM": "2017-07-01", "CLICKS": layer.id(), "FIELD": "moved"}
    results, _, feedback = inside(
        "changecollection", {**values, "FOOTPRINTS": str(tmp_path / "change.gpkg")}
    )
    assert results, feedback.textLog()
    assert "(clicks): " in feedback.textLog()
    assert "16 of 16 labels of places.gpkg used." in feedback.textLog()
    assert "The threshold rests on 3 labels of change" in results["NOTES"]
    assert 3 <= results["CHANGED"] < 60


def test_since_when_is_loaded_with_the_dates(inside):  # noqa: F811 - the fixture
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject

    output = QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", QgsProject.instance())
    values = {"COLLECTION": "years", "ALL_DATES": True, "FOOTPRINTS": output}
    results, context, feedback = inside("changecollection", values)
    assert results, feedback.textLog()
    title = "Changed since (years) 2016-07-01 to 2018-07-01"
    layer = loaded(results["FOOTPRINTS"], title, context, feedback)
    assert layer.renderer().type() == "categorizedSymbol"
    labels = [each.label() for each in layer.renderer().categories()]
    assert {"2017-07-01", "2018-07-01"} <= set(labels)
    assert layer.featureCount() == 576


BAD_COLLECTIONS = [
    ({"FROM": "2017-07-01", "TO": "2017-07-01"}, "Both dates are 2017-07-01. Name two of"),
    ({"FROM": "2018-07-01", "TO": "2017-07-01"}, "FROM 2018-07-01 is later than TO 2017-07-01"),
    ({"FROM": "1990-01-01"}, "or raise TOLERANCE"),
    ({"COLLECTION": "where"}, "holds location embeddings"),
    ({"COLLECTION": "sea"}, "There is no collection 'sea'"),
    ({"WITH_COLLECTION": "where"}, "location embeddings"),
    ({"THRESHOLD": "clicks"}, "THRESHOLD clicks needs CLICKS"),
    ({"ALL_DATES": True, "HISTORY": True}, "HISTORY belongs to two dates; ALL_DATES asks since"),
    ({"FOOTPRINTS": "change.shp"}, "It must end in .gpkg or .parquet"),
    ({"FOOTPRINTS": ""}, "No map is wanted"),
    ({"OBJECTS": "o.shp"}, "OBJECTS is"),
]


@pytest.mark.parametrize(("changes", "says"), BAD_COLLECTIONS, ids=[s for _, s in BAD_COLLECTIONS])
def test_a_bad_collection_is_one_error_and_writes_nothing(
    refused,  # noqa: F811 - the fixture
    tmp_path,
    changes,
    says,
):
    values = {"COLLECTION": "years", "FOOTPRINTS": "change.gpkg", **changes}
    for name in {"FOOTPRINTS", "OBJECTS"} & set(values):
        values[name] = tmp_path / values[name] if values[name] else ""
    assert says in refused("changecollection", **values)
    assert not list(tmp_path.iterdir())


def test_a_cancel_stops_the_job_and_writes_no_map(
    inside,  # noqa: F811 - the fixture
    ask,  # noqa: F811 - the fixture
    place,
    tmp_path,
):
    from qgis.core import QgsProcessingFeedback

    class Cancelled(QgsProcessingFeedback):
        """Cancelled when the first status of the job is shown."""

        def setProgressText(self, text):  # noqa: N802 - QGIS calls it so
            super().setProgressText(text)
            self.cancel()

    values = {"BEFORE": bands(place, "before"), "AFTER": bands(place, "after")}
    # So many pixels that the job is far from its end when it is asked for the first time.
    values |= {"GSD": "3m", "SCORE": str(tmp_path / "score.tif")}
    before = {each["jobID"] for each in ask("GET", "/jobs")["jobs"]}
    results, _, _ = inside("changeraster", values, Cancelled())
    assert results is None
    assert not list(tmp_path.glob("score*"))
    (found,) = (each for each in ask("GET", "/jobs")["jobs"] if each["jobID"] not in before)
    assert found["status"] == "dismissed"
