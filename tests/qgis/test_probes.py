"""Probes through `qgis_process` and inside QGIS: the files are those of the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import HERE, launch
from test_processing import PROGRAM, profile, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs qgis_process")

FIT = {"FOLDS": 5, "CURVE": "false"}
ENDED = ("successful", "failed", "dismissed")


@pytest.fixture(scope="module")
def land(command, data, tmp_path_factory) -> Path:
    """A folder with labels and a store of the collections `land` and `kin`."""
    folder = tmp_path_factory.mktemp("land")
    python = shutil.which("python", path=str(command.parent)) or str(command.parent / "python")
    script = str(HERE / "make_probe_store.py")
    subprocess.run([python, script, str(folder), str(data / "store")], check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def probe_server(command, land, tmp_path_factory):
    running = launch(command, land / "store", tmp_path_factory.mktemp("probe-server"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ask(probe_server):
    """Send a request to the server without the plugin."""
    ready = probe_server.ready()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(method: str, path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(
            ready["url"] + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {ready['token']}",
                "Content-Type": "application/json",
            },
        )
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)

    return send


@pytest.fixture(scope="module")
def job(ask):
    """Run a process of the server; return its report."""

    def execute(process: str, **inputs: object) -> dict:
        given = {k: str(v) if isinstance(v, Path) else v for k, v in inputs.items()}
        status = ask("POST", f"/processes/{process}/execution", {"inputs": given})
        while status["status"] not in ENDED:
            time.sleep(0.05)
            status = ask("GET", f"/jobs/{status['jobID']}")
        assert status["status"] == "successful", status["message"]
        return ask("GET", f"/jobs/{status['jobID']}/results")["report"]["value"]

    return execute


@pytest.fixture(scope="module")
def terrakin_command(command):
    """Run `terrakin probe`."""

    def call(*words: object) -> str:
        done = subprocess.run(
            [str(command), "probe", *map(str, words)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def process(profile, probe_server):  # noqa: F811 - the fixture
    """Run an algorithm by `qgis_process`; return its results. The run must succeed."""

    def call(algorithm: str, **values: object) -> dict:
        done = attempt(profile, probe_server, algorithm, values)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["results"]

    return call


def attempt(profile, server, algorithm, values) -> subprocess.CompletedProcess:  # noqa: F811
    given = {"SERVER": server.ready_path, "COLLECTION": "land", **values}
    arguments = [f"--{key}={value}" for key, value in given.items()]
    return run(profile, "--json", "run", f"terrakin:{algorithm}", *arguments)


@pytest.fixture
def inside(terrakin, probe_server):  # noqa: ARG001 - the plugin must be imported
    """Run an algorithm inside QGIS; return results and context. ``feedback`` may cancel it."""
    from qgis.core import (
        QgsApplication,
        QgsProcessingContext,
        QgsProcessingFeedback,
        QgsProject,
    )
    from terrakin.algorithms.provider import TerrakinProvider

    provider = TerrakinProvider()
    registry = QgsApplication.processingRegistry()
    registry.addProvider(provider)
    project = QgsProject.instance()

    def call(algorithm: str, values: dict, feedback=None):
        context = QgsProcessingContext()
        context.setProject(project)
        feedback = feedback or QgsProcessingFeedback()
        given = {"SERVER": str(probe_server.ready_path), "COLLECTION": "land", **values}
        found = registry.createAlgorithmById(f"terrakin:{algorithm}")
        results, done = found.run(given, context, feedback)
        return results if done else None, context, feedback

    yield call
    project.clear()
    registry.removeProvider(provider)


@pytest.fixture
def refused(inside):
    """Run an algorithm inside QGIS that must fail; return what it said."""

    def call(algorithm: str, **values: object) -> str:
        given = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        results, _, feedback = inside(algorithm, given)
        assert results is None
        return feedback.textLog()

    return call


@pytest.fixture(scope="module")
def by_command(land, terrakin_command) -> Path:
    """The model that the command fits."""
    terrakin_command(
        *("fit", "--store", land / "store", "--collection", "land", "--field", "class"),
        *("--labels", land / "points.gpkg", "--folds", 5, "--no-curve", "--out", land / "command"),
    )
    return land / "command"


@pytest.fixture(scope="module")
def by_process(land, process) -> dict:
    """What `qgis_process` says of the same fit."""
    return process(
        "fitprobe",
        INPUT=land / "points.gpkg",
        FIELD="class",
        MODEL=land / "process.safetensors",
        REPORT=land / "process.html",
        **FIT,
    )


def said(model: Path) -> dict:
    """All that a model's file says, but when and by which run it was made."""
    described = json.loads(model.with_suffix(".json").read_text())
    del described["provenance"]
    return described


def test_command_job_and_qgis_process_fit_the_same_probe(by_command, by_process, job, land):
    report = job(
        "probe-fit",
        **{"collection": "land", "labels": land / "points.gpkg", "field": "class"},
        **{"out": land / "job", "folds": 5, "curve": False},
    )
    models = [by_command, Path(report["model"]), Path(by_process["MODEL"])]
    tensors = [model.with_suffix(".safetensors").read_bytes() for model in models]
    assert tensors[0] == tensors[1] == tensors[2]
    described = [said(model) for model in models]
    assert described[0] == described[1] == described[2]


def test_a_fit_says_how_good_the_probe_is(by_command, by_process, land):
    validation = said(by_command)["validation"]
    figure = validation["spatial"]["figures"]["accuracy"]
    assert by_process["FIGURE"] == validation["main"] == "accuracy"
    assert by_process["JUDGED"] is True
    assert (by_process["ACCURACY"], by_process["LOW"], by_process["HIGH"]) == pytest.approx(
        (figure["value"], figure["low"], figure["high"])
    )
    random = validation["random"]["figures"]["accuracy"]["value"]
    assert by_process["RANDOM_ACCURACY"] == pytest.approx(random)
    assert by_process["CHIPS"] == 250
    assert by_process["WARNINGS"] == "\n".join(validation["warnings"])
    assert "<!DOCTYPE html>" in (land / "process.html").read_text()


def test_command_job_and_qgis_process_write_the_same_map(
    by_command, terrakin_command, job, process, land, tmp_path
):
    paths = [tmp_path / f"{name}.gpkg" for name in ("command", "job", "process")]
    where = ("--store", land / "store", "--collection", "land")
    terrakin_command("predict", "--model", by_command, *where, "--out", paths[0])
    report = job("probe-predict", model=by_command, collection="land", out=paths[1])
    model = by_command.with_suffix(".safetensors")
    done = process("predictprobe", MODEL=model, FOOTPRINTS=paths[2])
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1] == contents[2]
    assert (done["CHIPS"], done["UNKNOWN"]) == (report["rows"], report["unknown"])
    assert json.loads(done["CLASSES"]) == report["classes"]


def test_a_raster_is_that_of_the_command_too(qgis, terrakin_command, process, land, tmp_path):  # noqa: ARG001
    labels = kin_labels(tmp_path / "labels.gpkg")
    more = {"COLLECTION": "kin", "MODEL": tmp_path / "kin.safetensors"}
    process("fitprobe", INPUT=labels, FIELD="side", **more, **FIT)
    out = tmp_path / "process.tif"
    process("predictprobe", **more, RASTER=out, MEASURES="true")
    where = ("--store", land / "store", "--collection", "kin")
    terrakin_command(
        *("predict", "--model", tmp_path / "kin", *where),
        *("--out", tmp_path / "command.tif", "--measures"),
    )
    for end in (".tif", "_probability.tif", ".qml"):
        pair = [tmp_path / f"{name}{end}" for name in ("process", "command")]
        assert pair[0].read_bytes() == pair[1].read_bytes()


def test_a_raster_of_labels_gives_the_probe_of_the_command(
    inside, refused, terrakin_command, land, tmp_path
):
    raster = tmp_path / "classes.tif"
    write_classes(raster)
    values = {"COLLECTION": "kin", "FOLDS": 5, "CURVE": False}
    values["MODEL"] = str(tmp_path / "inside.safetensors")
    results, _, feedback = inside("fitprobe", {**values, "RASTER": str(raster)})
    assert results, feedback.textLog()
    terrakin_command(
        *("fit", "--store", land / "store", "--collection", "kin", "--labels", raster),
        *("--field", "1", "--folds", 5, "--no-curve", "--out", tmp_path / "command"),
    )
    models = [tmp_path / f"{name}.safetensors" for name in ("inside", "command")]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert said(models[0]) == said(models[1])
    both = {"INPUT": land / "points.gpkg", "RASTER": raster}
    for given in ({}, both):
        assert "one of them" in refused("fitprobe", **values, **given)


def test_collections_beside_each_other_are_those_of_the_command(
    process, terrakin_command, land, tmp_path
):
    more = {"OTHERS": "radar", "MODEL": tmp_path / "process.safetensors"}
    labels = {"INPUT": land / "points.gpkg", "FIELD": "class"}
    process("fitprobe", **labels, **more, **FIT)
    process("predictprobe", **more, FOOTPRINTS=tmp_path / "process.gpkg")
    asked = process("queueplaces", **more, COUNT=7, OUTPUT=tmp_path / "queue.gpkg")
    where = ("--store", land / "store", "--collection", "land", "--with", "radar")
    terrakin_command(
        *("fit", *where, "--field", "class", "--labels", land / "points.gpkg"),
        *("--folds", 5, "--no-curve", "--out", tmp_path / "command"),
    )
    model = ("--model", tmp_path / "command")
    terrakin_command("predict", *where, *model, "--out", tmp_path / "command.gpkg")
    text = terrakin_command(
        "queue", *where, *model, "-n", 7, "--out", tmp_path / "list.gpkg", "--json"
    )
    tensors = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("process", "command")]
    assert tensors[0] == tensors[1]
    said_of = [said(tmp_path / f"{name}.safetensors") for name in ("process", "command")]
    assert [each["collection"] for each in said_of[0]["trained_on"]] == ["land", "radar"]
    assert said_of[0] == said_of[1]
    maps = [(tmp_path / f"{name}.gpkg").read_bytes() for name in ("process", "command")]
    assert maps[0] == maps[1]
    assert asked["CANDIDATES"] == json.loads(text)["candidates"]


def write_classes(path: Path) -> None:
    """A raster of two classes over the collection `kin`, in its CRS."""
    import numpy as np
    from osgeo import gdal, osr

    file = gdal.GetDriverByName("GTiff").Create(str(path), 64, 64, 1, gdal.GDT_Byte)
    file.SetGeoTransform((412_000.0, 80.0, 0.0, 5_018_000.0, 0.0, -80.0))
    crs = osr.SpatialReference()
    crs.ImportFromEPSG(32633)
    file.SetProjection(crs.ExportToWkt())
    values = np.ones((64, 64), np.uint8)
    values[:, 24:40] = 2
    file.GetRasterBand(1).WriteArray(values)
    file.FlushCache()


def kin_labels(path: Path) -> Path:
    """Points over the collection `kin` in two classes, in its own CRS."""
    from qgis.core import (
        QgsCoordinateTransformContext,
        QgsFeature,
        QgsGeometry,
        QgsPointXY,
        QgsVectorFileWriter,
        QgsVectorLayer,
    )

    layer = QgsVectorLayer("Point?crs=EPSG:32633&field=side:string", "labels", "memory")
    west, north = 412_000.0, 5_018_000.0
    features = []
    for number in range(200):
        row, col = divmod(number * 5, 31)
        feature = QgsFeature(layer.fields())
        x, y = west + 160 * col + 80, north - 160 * row - 80
        feature.setGeometry(QgsGeometry.fromPointXY(QgsPointXY(x, y)))
        feature.setAttributes(["east" if col > 15 else "west"])
        features.append(feature)
    layer.dataProvider().addFeatures(features)
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    QgsVectorFileWriter.writeAsVectorFormatV3(
        layer, str(path), QgsCoordinateTransformContext(), options
    )
    return path


BAD = [
    (
        {"INPUT": "alike.gpkg"},
        "NAMES 'Join' joins them under the commonest name, NAMES 'Keep apart'",
    ),
    ({"INPUT": "nowhere.shp"}, "The layer 'nowhere' has no CRS"),
    ({"INPUT": "one.gpkg"}, "wood"),
    ({"FIELD": "absent"}, "has no field 'absent'. Its fields are"),
    ({"COLLECTION": "sea"}, "There is no collection 'sea'"),
    ({"MODEL": "no/folder/model.safetensors"}, "in a folder that exists"),
    ({"REPORT": "STORE/report.html"}, "lies in the store"),
]


@pytest.mark.parametrize(("changes", "says"), BAD, ids=[next(iter(c)) for c, _ in BAD])
def test_a_bad_fit_is_one_error_and_writes_nothing(refused, land, tmp_path, changes, says):
    values = {"INPUT": "points.gpkg", "FIELD": "class", "MODEL": "m.safetensors", **changes}
    values["INPUT"] = land / values["INPUT"]
    values["MODEL"] = tmp_path / values["MODEL"]
    if "REPORT" in values:
        values["REPORT"] = land / values["REPORT"].replace("STORE", "store")
    assert says in refused("fitprobe", **values, **FIT)
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_product_maps_nothing(
    profile,  # noqa: F811 - the fixture
    probe_server,
    refused,
    by_process,
    tmp_path,
):
    out = tmp_path / "map.tif"
    values = {"MODEL": by_process["MODEL"], "COLLECTION": "kin"}
    done = attempt(profile, probe_server, "predictprobe", {**values, "RASTER": out})
    assert done.returncode != 0
    assert "was fitted to other vectors than those of collection 'kin'" in done.stdout + done.stderr
    said = refused("predictprobe", **values, RASTER=tmp_path / "map.jpg")
    assert "It must end in .tif" in said
    assert "No map is wanted" in refused("predictprobe", **values)
    assert "There is no file" in refused("predictprobe", MODEL=tmp_path / "none", RASTER=out)
    assert not list(tmp_path.iterdir())


def test_the_queue_leaves_out_what_is_labelled(inside, refused, by_process, land, tmp_path):
    from qgis.core import QgsVectorLayer

    out = tmp_path / "queue.gpkg"
    values = {"MODEL": by_process["MODEL"], "LABELS": str(land / "points.gpkg"), "FIELD": "class"}
    done, _, feedback = inside("queueplaces", {**values, "COUNT": 15, "OUTPUT": str(out)})
    assert done, feedback.textLog()
    assert (done["LABELLED"], done["CANDIDATES"]) == (250, 326)
    layer = QgsVectorLayer(str(out), "queue", "ogr")
    assert sorted(f["rank"] for f in layer.getFeatures()) == list(range(1, 16))
    assert "is there already" in refused("queueplaces", **values, OUTPUT=out)
    assert "ends in .gpkg" in refused("queueplaces", **values, OUTPUT=tmp_path / "queue.shp")
    del values["LABELS"]
    said = refused("queueplaces", **values, OUTPUT=tmp_path / "other.gpkg")
    assert "FIELD is a field of LABELS" in said


def test_a_mask_and_an_extent_keep_the_map_inside(inside, refused, by_process, land, tmp_path):
    from qgis.core import QgsFeature, QgsGeometry, QgsProject, QgsRectangle, QgsVectorLayer

    side = QgsVectorLayer(str(land / "points.gpkg"), "points", "ogr").extent()
    box = QgsRectangle(side.xMinimum(), side.yMinimum(), side.center().x(), side.yMaximum())
    mask = QgsVectorLayer("Polygon?crs=EPSG:4326", "mask", "memory")
    feature = QgsFeature(mask.fields())
    feature.setGeometry(QgsGeometry.fromRect(box))
    mask.dataProvider().addFeatures([feature])
    QgsProject.instance().addMapLayer(mask)
    sides = (box.xMinimum(), box.xMaximum(), box.yMinimum(), box.yMaximum())
    extent = ",".join(map(repr, sides)) + " [EPSG:4326]"
    values, counts = {"MODEL": by_process["MODEL"]}, []
    for number, where in enumerate(({}, {"EXTENT": extent}, {"MASK": mask.id()})):
        given = {**values, **where, "FOOTPRINTS": str(tmp_path / f"{number}.gpkg")}
        done, _, feedback = inside("predictprobe", given)
        assert done, feedback.textLog()
        counts.append(done["CHIPS"])
    assert counts[0] == 576
    assert 0.4 * 576 < counts[1] == counts[2] < 0.6 * 576
    both = {**values, "MASK": mask.id(), "EXTENT": extent, "FOOTPRINTS": tmp_path / "both.gpkg"}
    assert "Both polygons and an extent" in refused("predictprobe", **both)


def test_a_map_never_replaces_the_file_of_its_mask(inside, by_process, tmp_path):
    from qgis.core import QgsProcessingFeatureSourceDefinition, QgsProject, QgsVectorLayer

    area = tmp_path / "area.gpkg"
    values = {"MODEL": by_process["MODEL"]}
    assert inside("predictprobe", {**values, "FOOTPRINTS": str(area)})[0]
    mask = QgsVectorLayer(f"{area}|layername=predictions", "area", "ogr")
    QgsProject.instance().addMapLayer(mask)
    before = area.read_bytes()
    for given in (mask.id(), QgsProcessingFeatureSourceDefinition(mask.id(), False)):
        results, _, feedback = inside(
            "predictprobe", {**values, "MASK": given, "FOOTPRINTS": str(area)}
        )
        assert results is None
        assert "the file of the polygons themselves" in feedback.textLog()
    assert area.read_bytes() == before


def points_layer(land: Path):
    """A memory layer of the labels, in the project, with changes that are not saved."""
    from qgis.core import QgsFeatureRequest, QgsProject, QgsVectorLayer

    source = QgsVectorLayer(str(land / "points.gpkg"), "points", "ogr")
    layer = source.materialize(QgsFeatureRequest())
    layer.setName("clicked points")
    QgsProject.instance().addMapLayer(layer)
    return layer


def test_only_selected_features_and_edits_not_yet_saved_are_labels(inside, land, tmp_path):
    from qgis.core import QgsProcessingFeatureSourceDefinition

    layer = points_layer(land)
    ids = sorted(feature.id() for feature in layer.getFeatures())
    layer.startEditing()
    layer.deleteFeature(ids[0])
    layer.selectByIds(ids[:120])
    field = layer.fields().lookupField("class")
    layer.changeAttributeValue(ids[1], field, "another")
    layer.changeAttributeValue(ids[2], field, "another")
    values = {"FIELD": "class", "MODEL": str(tmp_path / "m.safetensors"), "FOLDS": 5}
    values.update({"CURVE": False, "UNKNOWN_ERROR": 0.0})
    chosen = QgsProcessingFeatureSourceDefinition(layer.id(), True)
    results, _, feedback = inside("fitprobe", {**values, "INPUT": chosen})
    assert results, feedback.textLog()
    described = said(Path(results["MODEL"]))
    assert described["labels"]["labels_read"] == results["CHIPS"] == 119
    assert described["labels"]["source"] == "clicked points.gpkg"
    assert "another" in described["probe"]["classes"]
    assert described["probe"]["thresholds"] is None
    layer.removeSelection()
    results, _, feedback = inside("fitprobe", {**values, "INPUT": chosen})
    assert results is None
    assert "gives no features" in feedback.textLog()


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        ({"FIELD": "height"}, "r2"),
        ({"FIELD": "both", "TASK": 3, "SEPARATOR": ";"}, "macro_f1"),
        ({"FIELD": "", "TASK": 4}, "auc"),
        ({"BLOCK": 9e6}, None),
    ],
)
def test_every_task_has_its_figure(inside, land, tmp_path, changes, figure):
    values = {"INPUT": str(land / "points.gpkg"), "FIELD": "class", "FOLDS": 5, "CURVE": False}
    values.update({"MODEL": str(tmp_path / "m.safetensors"), **changes})
    results, _, feedback = inside("fitprobe", values)
    assert results, feedback.textLog()
    assert (results["JUDGED"], results.get("FIGURE")) == (figure is not None, figure)
    if figure is None:
        assert "ACCURACY" not in results
        assert "No accuracy is known" in results["WARNINGS"]
    else:
        told = said(tmp_path / "m")["validation"]["spatial"]["figures"][figure]
        assert results["ACCURACY"] == told["value"]


def test_an_invalid_polygon_is_left_to_the_server(inside, land, tmp_path):
    """QGIS would stop at it; the server mends it and says so."""
    from qgis.core import QgsFeature, QgsGeometry, QgsProject, QgsVectorLayer

    layer = QgsVectorLayer("Polygon?crs=EPSG:4326&field=class:string", "drawn", "memory")
    points = QgsVectorLayer(str(land / "points.gpkg"), "points", "ogr")
    features = []
    for point in points.getFeatures():
        x, y = point.geometry().asPoint()
        bow = f"POLYGON(({x - 1e-3} {y - 1e-3},{x + 1e-3} {y + 1e-3},{x + 1e-3} {y - 1e-3},"
        bow += f"{x - 1e-3} {y + 1e-3},{x - 1e-3} {y - 1e-3}))"
        feature = QgsFeature(layer.fields())
        feature.setGeometry(QgsGeometry.fromWkt(bow))
        feature.setAttributes([point["class"]])
        features.append(feature)
    layer.dataProvider().addFeatures(features)
    QgsProject.instance().addMapLayer(layer)
    values = {"INPUT": layer.id(), "FIELD": "class", "MODEL": str(tmp_path / "m"), "RULE": 3}
    results, _, feedback = inside("fitprobe", {**values, "FOLDS": 5, "CURVE": False})
    assert results, feedback.textLog()
    assert said(tmp_path / "m.json")["labels"]["made_valid"]["count"] == 250


def test_loaded_maps_have_their_style_and_the_queue_its_ranks(inside, by_process):
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject

    def loaded(algorithm: str, name: str, **values):
        output = QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", QgsProject.instance())
        model = values.pop("model", by_process["MODEL"])
        given = {"MODEL": str(model), **values, name: output}
        results, context, feedback = inside(algorithm, given)
        assert results, feedback.textLog()
        details = context.layersToLoadOnCompletion()[results[name]]
        layer = _layer(results[name], context)
        details.postProcessor().postProcessLayer(layer, context, feedback)
        return details.name, layer, context  # which owns the layer

    title, layer, _kept = loaded("predictprobe", "FOOTPRINTS")
    assert title == "process (land)"
    labels = {each.label() for each in layer.renderer().categories()}
    assert labels >= set(said(Path(by_process["MODEL"]))["probe"]["classes"])
    assert "576 chips of the collection 'land', predicted" in layer.metadata().abstract()
    assert "mapped with a probe by Terrakin" in layer.metadata().history()[0]
    _, layer, _kept = loaded("queueplaces", "OUTPUT", COUNT=12)
    assert layer.labelsEnabled()
    assert layer.labeling().settings().fieldName == 'if("rank" <= 10, "rank", NULL)'


def _layer(path, context):
    from qgis.core import QgsProcessingUtils

    layer = QgsProcessingUtils.mapLayerFromString(path, context)
    assert layer is not None
    assert layer.isValid()
    return layer


def test_a_raster_map_is_loaded_with_the_names_of_its_classes(inside, tmp_path):
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject

    labels, model = kin_labels(tmp_path / "labels.gpkg"), str(tmp_path / "kin.safetensors")
    fit = {"INPUT": str(labels), "FIELD": "side", "FOLDS": 5, "CURVE": False}
    results, _, feedback = inside("fitprobe", {**fit, "COLLECTION": "kin", "MODEL": model})
    assert results, feedback.textLog()
    output = QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", QgsProject.instance())
    values = {"MODEL": model, "COLLECTION": "kin", "RASTER": output}
    results, context, feedback = inside("predictprobe", values)
    assert results, feedback.textLog()
    layer = _layer(results["RASTER"], context)
    details = context.layersToLoadOnCompletion()[results["RASTER"]]
    details.postProcessor().postProcessLayer(layer, context, feedback)
    assert layer.renderer().type() == "paletted"
    names = [each.label for each in layer.renderer().classes()]
    assert names == ["east", "west", "unknown"]


def test_a_cancel_stops_the_job_and_writes_nothing(inside, ask, land, tmp_path):
    from qgis.core import QgsProcessingFeedback

    feedback = QgsProcessingFeedback()
    feedback.progressChanged.connect(lambda _: feedback.cancel())
    values = {"INPUT": str(land / "points.gpkg"), "FIELD": "class"}
    values["MODEL"] = str(tmp_path / "m.safetensors")
    before = {each["jobID"] for each in ask("GET", "/jobs")["jobs"]}
    results, _, _ = inside("fitprobe", values, feedback)
    assert results is None
    assert "Nothing was written" in feedback.textLog()
    assert not list(tmp_path.iterdir())
    (job,) = (each for each in ask("GET", "/jobs")["jobs"] if each["jobID"] not in before)
    assert job["status"] == "dismissed"


def test_from_a_map_to_its_accuracy(inside, refused, by_process, terrakin_command, tmp_path):
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject, QgsVectorLayer

    area, path = tmp_path / "map.gpkg", tmp_path / "sample.gpkg"
    assert inside("predictprobe", {"MODEL": by_process["MODEL"], "FOOTPRINTS": str(area)})[0]
    output = QgsProcessingOutputLayerDefinition(str(path), QgsProject.instance())
    values = {"MAP": str(area), "TOTAL": 100, "MINIMUM": 10, "OUTPUT": output}
    drawn, context, feedback = inside("samplemap", values)
    assert drawn, feedback.textLog()
    assert drawn["PLACES"] == sum(each["sampled"] for each in json.loads(drawn["STRATA"])) == 100
    loaded = _layer(str(path), context)
    context.layersToLoadOnCompletion()[str(path)].postProcessor().postProcessLayer(
        loaded, context, feedback
    )
    hidden = {c.name for c in loaded.attributeTableConfig().columns() if c.hidden}
    assert hidden == {"map_class"}
    assert "No place of" in refused("mapaccuracy", SAMPLE=path)

    sample = QgsVectorLayer(f"{path}|layername=sample", "sample", "ogr")
    QgsProject.instance().addMapLayer(sample)
    sample.startEditing()
    reference = sample.fields().lookupField("reference")
    for feature in sample.getFeatures():
        said_by_map = feature["map_class"]
        truth = "wood" if said_by_map == "unknown" else said_by_map
        sample.changeAttributeValue(feature.id(), reference, truth)
    assert "edits that are not saved" in refused("mapaccuracy", SAMPLE=sample.id())
    assert sample.commitChanges()
    sample.setSubsetString("\"map_class\" = 'wood'")
    assert "needs the whole sample" in refused("mapaccuracy", SAMPLE=sample.id())
    sample.setSubsetString("")
    values = {"SAMPLE": sample.id(), "REPORT": str(tmp_path / "accuracy.html")}
    found, _, feedback = inside("mapaccuracy", values)
    assert found, feedback.textLog()
    told = json.loads(terrakin_command("accuracy", "--sample", path, "--json"))
    overall = told["overall_accuracy"]
    assert (found["ACCURACY"], found["HALF_WIDTH"]) == (overall["value"], overall["half_width"])
    assert json.loads(found["CLASSES"]) == told["classes"]
    assert found["PLACES"] == 100
    assert "<!DOCTYPE html>" in Path(found["REPORT"]).read_text()
    assert "is no file of its own" in refused(
        "samplemap", MAP=_clicked(), OUTPUT=tmp_path / "x.gpkg"
    )


def test_outputs_may_be_named_from_the_working_folder(inside, land, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"INPUT": str(land / "points.gpkg"), "FIELD": "class", "MODEL": "m.safetensors"}
    found, _, feedback = inside("fitprobe", {**values, "REPORT": "m.html", **FIT})
    assert found, feedback.textLog()
    assert found["MODEL"] == str(tmp_path / "m.safetensors")
    inside("predictprobe", {"MODEL": "m.safetensors", "FOOTPRINTS": "map.gpkg"})
    inside("samplemap", {"MAP": "map.gpkg", "TOTAL": 60, "MINIMUM": 5, "OUTPUT": "sample.gpkg"})
    _fill_in(tmp_path / "sample.gpkg")
    found, _, feedback = inside("mapaccuracy", {"SAMPLE": "sample.gpkg", "REPORT": "a.html"})
    assert found, feedback.textLog()
    assert found["REPORT"] == str(tmp_path / "a.html")
    assert (tmp_path / "a.html").exists()


def _fill_in(path: Path) -> None:
    """Say that the map is right everywhere, and that unknown places are wood."""
    from qgis.core import QgsVectorLayer

    sample = QgsVectorLayer(f"{path}|layername=sample", "sample", "ogr")
    assert sample.startEditing()
    reference = sample.fields().lookupField("reference")
    for feature in sample.getFeatures():
        truth = feature["map_class"].replace("unknown", "wood")
        sample.changeAttributeValue(feature.id(), reference, truth)
    assert sample.commitChanges()


def _clicked() -> str:
    """The id of a memory layer in the project."""
    from qgis.core import QgsProject, QgsVectorLayer

    layer = QgsVectorLayer("Polygon?crs=EPSG:4326", "drawn", "memory")
    QgsProject.instance().addMapLayer(layer)
    return layer.id()


def test_a_fit_beside_the_main_thread_reads_a_layer_that_is_being_edited(
    inside,  # noqa: ARG001 - it offers the algorithms
    probe_server,
    land,
    tmp_path,
    until,
):
    """As the toolbox runs it: QGIS goes on answering while the server works."""
    from qgis.core import (
        QgsApplication,
        QgsProcessingAlgRunnerTask,
        QgsProcessingContext,
        QgsProcessingFeedback,
        QgsProject,
    )
    from qgis.PyQt.QtCore import QCoreApplication, QTimer

    layer = points_layer(land)
    layer.startEditing()
    layer.deleteFeature(min(feature.id() for feature in layer.getFeatures()))
    context, feedback = QgsProcessingContext(), QgsProcessingFeedback()
    context.setProject(QgsProject.instance())
    registry = QgsApplication.processingRegistry()
    algorithm = registry.createAlgorithmById("terrakin:fitprobe")
    values = {"SERVER": str(probe_server.ready_path), "COLLECTION": "land", "INPUT": layer.id()}
    values.update({"FIELD": "class", "MODEL": str(tmp_path / "m.safetensors"), "CURVE": False})
    ended, ticks = [], []
    clock = QTimer()
    clock.timeout.connect(lambda: ticks.append(0))
    clock.start(20)
    task = QgsProcessingAlgRunnerTask(algorithm, values, context, feedback)
    task.executed.connect(lambda done, results: ended.append((done, results)))
    QgsApplication.taskManager().addTask(task)

    def has_ended() -> bool:
        QCoreApplication.processEvents()
        return bool(ended)

    until(has_ended, 60)
    [(done, results)] = ended
    assert done, feedback.textLog()
    assert results["CHIPS"] == 249
    assert len(ticks) > 5
