"""The algorithms through `qgis_process`, which has no window, and inside QGIS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

PROGRAM = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
POINT = (13.914, 45.283)

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs qgis_process")


@pytest.fixture(scope="module")
def profile(package, command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    plugins = folder / "profiles" / "default" / "python" / "plugins"
    plugins.mkdir(parents=True)
    with zipfile.ZipFile(package) as archive:
        archive.extractall(plugins)
    settings = folder / "profiles" / "default" / "QGIS"
    settings.mkdir()
    (settings / "QGIS3.ini").write_text(f"[terrakin]\ncommand={command}\n")
    run(folder, "plugins", "enable", "terrakin")
    return folder


def run(profile: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "QGIS_CUSTOM_CONFIG_PATH": str(profile)}
    return subprocess.run(
        [PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def similar(profile: Path, out: Path, **values: object) -> dict:
    """Run terrakin:similarplaces; return its JSON answer. The run must succeed."""
    arguments = [f"--{key}={value}" for key, value in values.items()]
    done = run(profile, "--json", "run", "terrakin:similarplaces", *arguments, f"--OUTPUT={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def rows(path: Path) -> list[tuple[str, int]]:
    from qgis.core import QgsVectorLayer

    layer = QgsVectorLayer(str(path), "places", "ogr")
    assert layer.isValid()
    return [(feature["id"], feature["rank"]) for feature in layer.getFeatures()]


def expected(direct_search, k: int, exclude_m: float) -> list[tuple[str, int]]:
    answer = direct_search("kin", {"at": list(POINT), "k": k, "exclude_m": exclude_m})
    return [(f["id"], f["properties"]["rank"]) for f in answer["features"]]


def test_algorithms_are_listed(profile):
    listed = run(profile, "list").stdout
    assert "terrakin:similarplaces" in listed.replace("\t", " ")
    assert "terrakin:exportplaces" in listed


def test_running_server_gives_the_same_places(qgis, profile, server, direct_search, tmp_path):  # noqa: ARG001
    answer = similar(
        profile,
        tmp_path / "places.gpkg",
        SERVER=server.ready_path,
        COLLECTION="kin",
        POINT=f"{POINT[0]},{POINT[1]} [EPSG:4326]",
        K=8,
        EXCLUDE=300,
    )
    assert rows(tmp_path / "places.gpkg") == expected(direct_search, 8, 300)
    assert answer["results"]["COUNT"] == 8
    provenance = json.loads(answer["results"]["PROVENANCE"])
    assert (provenance["query_lon"], provenance["query_lat"]) == POINT


def test_starts_a_server_on_a_store_and_stops_it(qgis, profile, data, direct_search, tmp_path):  # noqa: ARG001
    before = servers(data / "store")
    similar(
        profile,
        tmp_path / "places.geojson",
        STORE=data / "store",
        COLLECTION="kin",
        POINT=f"{POINT[0]},{POINT[1]}",
        K=5,
    )
    assert rows(tmp_path / "places.geojson") == expected(direct_search, 5, 300)
    assert servers(data / "store") == before


def servers(store: Path) -> set[str]:
    """The running servers on a store."""
    """The command lines of all servers that run on this machine, with their process ids."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "serve" in line and str(store) in line:
            found.add(f"{folder.name} {line}")
    return found


def test_point_in_another_crs(qgis, profile, server, direct_search, tmp_path):  # noqa: ARG001
    from qgis.core import QgsCoordinateReferenceSystem as Crs
    from qgis.core import QgsCoordinateTransform, QgsPointXY, QgsProject

    to_utm = QgsCoordinateTransform(
        Crs("EPSG:4326"), Crs("EPSG:32633"), QgsProject.instance().transformContext()
    )
    point = to_utm.transform(QgsPointXY(*POINT))
    similar(
        profile,
        tmp_path / "places.gpkg",
        SERVER=server.ready_path,
        COLLECTION="kin",
        POINT=f"{point.x()},{point.y()} [EPSG:32633]",
        K=4,
    )
    assert rows(tmp_path / "places.gpkg") == expected(direct_search, 4, 300)


def test_defaults_are_those_of_the_panel_and_do_not_follow_the_settings(terrakin):  # noqa: ARG001
    from terrakin.algorithms.similar_places import SimilarPlaces
    from terrakin.core.settings import Settings

    try:
        Settings(k=7, exclude_m=0.0).save()
        algorithm = SimilarPlaces()
        algorithm.initAlgorithm()
        found = [algorithm.parameterDefinition(name).defaultValue() for name in ("K", "EXCLUDE")]
    finally:
        Settings().save()
    assert found == [Settings().k, Settings().exclude_m]


def test_a_store_that_is_not_there_yet_has_the_world(profile, tmp_path):
    answer = similar(
        profile, tmp_path / "kin.gpkg", STORE=tmp_path / "new", POINT="8.2,46.6 [EPSG:4326]", K=3
    )
    provenance = json.loads(answer["results"]["PROVENANCE"])
    assert (provenance["collection"], len(rows(tmp_path / "kin.gpkg"))) == ("world", 3)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"COLLECTION": "none"}, "There is no collection 'none'"),
        ({"COLLECTION": ""}, "COLLECTION is empty"),
        ({"COLLECTION": "kin", "POINT": "0,0 [EPSG:4326]"}, "lies outside collection 'kin'"),
        ({"COLLECTION": "kin", "SERVER": ""}, "Neither SERVER nor STORE is given"),
        ({"COLLECTION": "kin", "SERVER": "/no/ready.json"}, "cannot be read"),
    ],
)
def test_errors_reach_the_caller(profile, server, tmp_path, values, part):
    all_values = {
        "SERVER": server.ready_path,
        "POINT": "13.914,45.283 [EPSG:4326]",
        "K": 3,
        "OUTPUT": tmp_path / "places.gpkg",
        **values,
    }
    arguments = [f"--{key}={value}" for key, value in all_values.items() if value != ""]
    done = run(profile, "run", "terrakin:similarplaces", *arguments)
    assert done.returncode != 0
    assert part in done.stdout + done.stderr


def test_export_through_qgis_process(qgis, profile, server, tmp_path):  # noqa: ARG001
    similar(
        profile,
        tmp_path / "places.gpkg",
        SERVER=server.ready_path,
        COLLECTION="kin",
        POINT="13.914,45.283 [EPSG:4326]",
        K=6,
    )
    target = tmp_path / "exported.gpkg"
    arguments = (f"--INPUT={tmp_path / 'places.gpkg'}", f"--OUTPUT={target}")
    done = run(profile, "run", "terrakin:exportplaces", *arguments)
    assert done.returncode == 0, done.stderr
    assert rows(target) == rows(tmp_path / "places.gpkg")


def test_loaded_output_has_style_and_provenance(terrakin, server):  # noqa: ARG001
    from qgis.core import (
        QgsApplication,
        QgsProcessingContext,
        QgsProcessingFeedback,
        QgsProject,
    )
    from terrakin.algorithms.provider import TerrakinProvider
    from terrakin.core.layers import provenance_of

    provider = TerrakinProvider()
    QgsApplication.processingRegistry().addProvider(provider)
    try:
        context, feedback = QgsProcessingContext(), QgsProcessingFeedback()
        context.setProject(QgsProject.instance())
        algorithm = QgsApplication.processingRegistry().createAlgorithmById(
            "terrakin:similarplaces"
        )
        values = {
            "SERVER": str(server.ready_path),
            "COLLECTION": "kin",
            "POINT": "13.914,45.283 [EPSG:4326]",
            "K": 9,
            "OUTPUT": "TEMPORARY_OUTPUT",
        }
        layer_id = run_and_load(algorithm, values, context, feedback)
        layer = context.getMapLayer(layer_id)
        assert layer.renderer().classAttribute() == "similarity"
        assert provenance_of(layer).k == 9
    finally:
        QgsApplication.processingRegistry().removeProvider(provider)


def run_and_load(algorithm, values, context, feedback) -> str:
    """Run an algorithm and do what QGIS does with outputs that are to be loaded."""
    from qgis.core import QgsProcessingOutputLayerDefinition, QgsProject

    output = QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", QgsProject.instance())
    results, done = algorithm.run({**values, "OUTPUT": output}, context, feedback)
    assert done, feedback.textLog()
    details = context.layersToLoadOnCompletion()[results["OUTPUT"]]
    assert details.name == "Places like 13.914, 45.283 (kin)"
    layer = context.getMapLayer(results["OUTPUT"])
    details.postProcessor().postProcessLayer(layer, context, feedback)
    return results["OUTPUT"]
