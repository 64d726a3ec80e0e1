"""Styles, classes and provenance of layers, and their export."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def result(terrakin, server):  # noqa: ARG001 - makes the package importable
    from terrakin.core.client import Client
    from terrakin.core.layers import Result
    from terrakin.core.wire import ReadyFile, SearchRequest

    client = Client(ReadyFile.read(str(server.ready_path)))
    request = SearchRequest("dateline", -179.995, -16.8, 60, 0.0)
    return Result.of(request, client.search(request))


@pytest.fixture
def changed(result, server, direct_search):  # noqa: ARG001
    """Make the result of the same search from an answer that a function has changed."""
    from terrakin.core.layers import Result
    from terrakin.core.wire import SearchAnswer, SearchRequest

    def make(change):
        request = SearchRequest("dateline", -179.995, -16.8, 60, 0.0)
        data = direct_search(request.collection, request.body())
        change(data)
        return Result.of(request, SearchAnswer.from_json(data))

    return make


def tips(layer) -> list[str]:
    """The map tip of each place, as QGIS fills it in."""
    from qgis.core import QgsExpression, QgsExpressionContext, QgsExpressionContextUtils

    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
    found = []
    for feature in layer.getFeatures():
        context.setFeature(feature)
        text = QgsExpression.replaceExpressionText(layer.mapTipTemplate(), context)
        found.append(" ".join(text.split()))
    return found


@pytest.fixture
def layer(result):
    from terrakin.core.layers import places_layer

    return places_layer(result)


@pytest.fixture
def source(layer):
    from qgis.core import QgsProject
    from terrakin.core.export import ExportSource

    return ExportSource.of(layer, QgsProject.instance().transformContext())


def export(source, path, is_cancelled=never, progress=lambda _: None):
    from terrakin.core.export import export_geopackage

    return export_geopackage(source, str(path), is_cancelled, progress)


def test_every_place_has_a_class(layer, result):
    ranges = layer.renderer().ranges()
    for place in result.answer.places:
        assert any(r.lowerValue() <= place.similarity <= r.upperValue() for r in ranges)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([], [-1.0, 1.0]),
        ([0.5], [0.5, 0.5]),
        ([0.9, 0.4], [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
    ],
)
def test_class_bounds(terrakin, values, bounds):  # noqa: ARG001
    from terrakin.core.style import class_bounds

    assert class_bounds(values) == pytest.approx(bounds)


def test_provenance_round_trip(layer, result):
    from terrakin.core.layers import provenance_of

    assert provenance_of(layer) == result.provenance


def test_places_say_how_rare_such_likeness_is(layer, result):
    values = [feature["percentile"] for feature in layer.getFeatures()]
    assert values == [place.percentile for place in result.answer.places]
    assert all(0 < value < 100 for value in values)
    first = tips(layer)[0]
    assert f"<b>1.</b> similarity {result.answer.places[0].similarity:.3f} " in first
    assert f"<br>more alike than {int(values[0])}" in first
    assert "% of random pairs" in first
    assert "100 %" not in first
    assert "<br>2026-06-01 " in first


def test_an_older_server_does_not_say(changed):
    from terrakin.core.layers import places_layer

    def older(data):
        del data["expected_recall"]
        for number, feature in enumerate(data["features"]):
            if number % 2:
                del feature["properties"]["percentile"]
            else:
                feature["properties"]["percentile"] = None

    result = changed(older)
    layer = places_layer(result)
    assert layer.featureCount() == 60
    assert not any(feature["percentile"] for feature in layer.getFeatures())
    assert not any("random pairs" in tip for tip in tips(layer))
    assert result.provenance.completeness == ""


def test_metadata_say_what_an_index_may_miss(changed, layer):
    from terrakin.core.layers import places_layer, provenance_of

    assert "true best" not in layer.metadata().abstract()
    answer = {"expected_recall": 0.99645, "considered": 1200, "numberMatched": 1_000_000}
    missing = places_layer(changed(lambda data: data.update(answer)))
    said = (
        "About 99.64 % of the true best are among them. An index chose 1,200 of 1,000,000 chips "
        "to compare."
    )
    assert said in missing.metadata().abstract()
    assert provenance_of(missing).expected_recall == 0.99645
    assert provenance_of(missing).completeness == said


def test_foreign_layers_have_no_provenance(terrakin):  # noqa: ARG001
    from qgis.core import QgsVectorLayer
    from terrakin.core.layers import provenance_of

    layer = QgsVectorLayer("Polygon?crs=EPSG:4326", "other", "memory")
    assert provenance_of(layer) is None
    layer.setCustomProperty("terrakin/provenance", "[1]")
    assert provenance_of(layer) is None


def test_metadata_is_valid_and_speaks_of_the_search(layer):
    metadata = layer.metadata()
    assert metadata.crs().authid() == "EPSG:4326"
    assert metadata.title() == layer.name()
    assert "chip dateline_" in metadata.abstract()
    assert metadata.rights() == ["Derived from embeddings under proprietary"]


def test_export_round_trip(source, layer, result, tmp_path):
    from qgis.core import QgsVectorLayer

    progress: list[float] = []
    path = export(source, tmp_path / "places", progress=progress.append)
    assert path == str(tmp_path / "places.gpkg")
    assert progress
    exported = QgsVectorLayer(path, "exported", "ogr")
    names = ("rank", "similarity", "percentile", "grid_cell", "id", "lon", "lat")
    rows = [[feature[name] for name in names] for feature in exported.getFeatures()]
    assert rows == [[feature[name] for name in names] for feature in layer.getFeatures()]
    shapes = zip(exported.getFeatures(), layer.getFeatures(), strict=True)
    assert all(a.geometry().equals(b.geometry()) for a, b in shapes)
    assert exported.customProperty("terrakin/provenance") == result.provenance.to_json()
    assert exported.renderer().classAttribute() == "similarity"
    assert exported.mapTipTemplate() == layer.mapTipTemplate()
    assert exported.attributeAlias(exported.fields().indexOf("percentile")).startswith("% of")
    assert [path.name for path in tmp_path.iterdir()] == ["places.gpkg"]


def test_exported_tables(source, tmp_path):
    path = export(source, tmp_path / "places.gpkg")
    with sqlite3.connect(path) as file:
        rows = file.execute("select styleName, useAsDefault from layer_styles").fetchall()
        metadata = file.execute("select count(*) from gpkg_metadata").fetchone()
        times = file.execute("select distinct datetime from places").fetchall()
    assert rows == [("terrakin", 1)]
    assert times[0][0].startswith("2026-06-01T00:00:00")
    assert metadata[0] >= 1


def test_export_replaces_an_older_file(source, tmp_path):
    target = tmp_path / "places.gpkg"
    target.write_bytes(b"old")
    export(source, target)
    assert target.read_bytes().startswith(b"SQLite format 3")


def test_cancelled_export_leaves_the_older_file(source, tmp_path):
    from terrakin.core.errors import CancelledError

    target = tmp_path / "places.gpkg"
    target.write_bytes(b"old")
    with pytest.raises(CancelledError):
        export(source, target, is_cancelled=lambda: True)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["places.gpkg"]


@pytest.mark.parametrize("place", ["missing/places.gpkg", "file/places.gpkg", "folder.gpkg"])
def test_export_to_an_impossible_place(source, tmp_path, place):
    from terrakin.core.errors import ExportError

    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.gpkg").mkdir()
    with pytest.raises(ExportError, match="cannot be written"):
        export(source, tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.gpkg"]


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from qgis.core import QgsApplication, QgsProject, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
from terrakin.core.errors import ExportError
from terrakin.core.export import ExportSource, export_geopackage
layer = QgsVectorLayer(sys.argv[2], "places", "ogr")
source = ExportSource.of(layer, QgsProject.instance().transformContext())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    export_geopackage(source, sys.argv[3], lambda: False, lambda _: None)
except ExportError as error:
    print(f"ExportError: {error}")
else:
    print("no error")
"""


@pytest.mark.parametrize("share", [0.02, 0.3, 0.4, 0.5, 0.7, 0.9])
def test_disk_full(source, plugins_folder, tmp_path, share):
    """A limit on the size of files stands for the full disk: a write fails, early or late."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    good = export(source, tmp_path / "good.gpkg")
    limit = round(Path(good).stat().st_size * share)
    out = tmp_path / "out"
    out.mkdir()
    (out / "places.gpkg").write_bytes(b"old")
    done = subprocess.run(
        [
            *(sys.executable, "-B", "-c", FULL_DISK),
            *(str(plugins_folder), good, str(out / "places.gpkg"), str(limit)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "ExportError" in done.stdout, done.stdout + done.stderr
    assert "disk full" in done.stdout
    assert (out / "places.gpkg").read_bytes() == b"old"
    assert [path.name for path in out.iterdir()] == ["places.gpkg"]


def test_provenance_is_plain_json(layer):
    data = json.loads(layer.customProperty("terrakin/provenance"))
    assert data["collection"] == "dateline"
    assert data["returned"] == 60
