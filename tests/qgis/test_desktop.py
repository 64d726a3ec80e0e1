"""The real QGIS desktop with the packaged plugin, the real server and real mouse clicks.

One QGIS is started under Xvfb and driven by desktop/drive.py; each test looks at one part of
what it saw. QGIS's profile has a dead HTTP proxy set, so all of it works in spite of that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from desktop.launch import Desktop, write_profile

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("xvfb-run") and shutil.which("qgis")),
        reason="needs the QGIS desktop and xvfb-run",
    ),
    pytest.mark.usefixtures("qgis"),  # some tests read the drive's files with QGIS's own classes
]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def desktop(package, command, data, server, tmp_path_factory):
    import qgis.core

    folder = tmp_path_factory.mktemp("desktop")
    write_profile(folder, package, command, qgis.core.Qgis.QGIS_VERSION_INT)
    out = Path(os.environ.get("TERRAKIN_SCREENSHOTS", folder / "out"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "seen.json").unlink(missing_ok=True)
    config = {
        "data": str(data),
        "ready": str(server.ready_path),
        "out": str(out),
        "steps": "steps",
    }
    running = Desktop(folder, config)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def seen(desktop):
    """All that the drive saw, once it is through."""
    result = desktop.wait()
    assert result["state"] == "done", result.get("error")
    return result


def test_loads_from_the_package_under_its_packaged_name(seen):
    assert seen["module"].endswith("profiles/test/python/plugins/terrakin/__init__.py")
    assert seen["toolbar"] == [
        "Terrakin panel",
        "Find similar places",
        "Export similar places…",
    ]
    assert seen["find_enabled_at_first"] is False


def test_starts_the_server_and_lists_collections(seen):
    assert {"dateline", "kin"} <= set(seen["collections"])
    assert seen["starting_label"] == "Starting the server…"


def test_click_gives_the_servers_answer_as_a_layer(seen, direct_search):
    search = seen["search"]
    [[lon, lat]] = search["query_layers"]
    answer = direct_search("kin", {"at": [lon, lat], "k": 12, "exclude_m": 300})
    expected = [
        (f["id"], f["properties"]["rank"], pytest.approx(f["properties"]["similarity"], abs=1e-5))
        for f in answer["features"]
    ]
    assert len(expected) == 12
    assert [(r["id"], r["rank"], r["similarity"]) for r in search["rows"]] == expected
    for name in ("lon", "percentile"):
        expected = [f["properties"][name] for f in answer["features"]]
        assert [row[name] for row in search["rows"]] == expected
    assert search["rows"][0]["datetime"] == "2026-06-01T00:00:00Z"
    assert search["rows"][0]["grid_cell"] == answer["features"][0]["properties"]["grid_cell"]


def test_click_lands_where_the_mouse_was(seen):
    """55 % east and 40 % north in the scene, within two screen pixels of about 8 m."""
    from qgis.core import QgsCoordinateReferenceSystem as Crs
    from qgis.core import QgsCoordinateTransform, QgsPointXY, QgsProject

    [[lon, lat]] = seen["search"]["query_layers"]
    to_scene = QgsCoordinateTransform(
        Crs("EPSG:4326"), Crs("EPSG:32633"), QgsProject.instance().transformContext()
    )
    point = to_scene.transform(QgsPointXY(lon, lat))
    west, south, east, north = seen["scene_box"]
    assert point.x() == pytest.approx(west + 0.55 * (east - west), abs=16)
    assert point.y() == pytest.approx(south + 0.4 * (north - south), abs=16)


def test_layer_is_a_grouped_memory_layer_of_multipolygons(seen):
    search = seen["search"]
    [[lon, lat]] = search["query_layers"]
    assert search["name"] == f"Places like {lon:.3f}, {lat:.3f} (kin)"
    assert search["provider"] == "memory"
    assert search["crs"] == "EPSG:4326"
    assert search["geometry"] == 6
    assert search["fields"] == [
        *("rank", "similarity", "percentile", "datetime", "grid_cell", "id", "lon", "lat"),
    ]
    assert search["aliases"][2] == "% of random pairs less alike"
    assert search["group"][1] == "Terrakin"
    assert search["siblings"][0].startswith("Query at")


def test_style_is_graduated_by_similarity_best_first(seen):
    search = seen["search"]
    similarities = [row["similarity"] for row in search["rows"]]
    assert search["renderer"] == "graduatedSymbol"
    assert search["attribute"] == "similarity"
    assert len(search["classes"]) == 5
    assert len({entry["colour"] for entry in search["classes"]}) == 5
    assert search["classes"][0]["range"][1] == pytest.approx(max(similarities))
    assert search["classes"][-1]["range"][0] == pytest.approx(min(similarities))
    assert search["labels"] is True


def test_provenance_says_what_was_asked_of_what(seen):
    search = seen["search"]
    provenance = json.loads(search["provenance"])
    assert [[provenance["query_lon"], provenance["query_lat"]]] == search["query_layers"]
    assert (provenance["collection"], provenance["k"], provenance["exclude_m"]) == ("kin", 12, 300)
    assert provenance["spec"]["model"] == "rcf"
    assert len(provenance["spec"]["weights_sha256"]) == 64
    assert provenance["server_version"]
    assert provenance["plugin_version"]
    assert provenance["created"].endswith("+00:00")
    assert "'kin'" in search["abstract"]
    assert "k=12" in search["history"][0]
    assert "kin" in search["keywords"]["keywords"]


def test_an_answer_that_may_miss_some_says_so(seen):
    share, compared = "about 99.64 % of the true best", "chose 12,000 of 1,000,000 chips"
    assert seen["incomplete_bar"][0].endswith(f"in kin, {share}.")
    assert compared in seen["incomplete"]["messages"][0]
    assert share.capitalize() in seen["incomplete_dock"]
    assert share.capitalize() in seen["incomplete"]["abstract"]
    assert compared in seen["incomplete"]["abstract"]
    assert "true best" not in seen["search"]["abstract"] + seen["search"]["messages"][0]


def test_map_zooms_to_the_results_and_the_tool_stays(seen):
    west, south, east, north = seen["search"]["view"]
    assert seen["tool_after_button"] is True
    assert seen["search"]["tool_active"] is True
    assert east - west < 8000
    assert north - south < 8000
    assert "12 places like" in seen["search"]["messages"][0]


def test_screenshots_show_the_ramp_over_the_imagery(seen, desktop):
    from qgis.PyQt.QtGui import QImage

    picture = QImage(str(desktop.out / "2-result.png"))
    assert (picture.width(), picture.height()) == (1600, 1000)
    colours = {picture.pixelColor(x, y).name() for x in range(320, 1160) for y in range(190, 960)}
    drawn = {entry["colour"] for entry in seen["search"]["classes"]} & colours
    assert len(drawn) >= 4
    assert "#00e5ff" in colours


def test_export_keeps_places_style_and_provenance(seen):
    from qgis.core import QgsVectorLayer

    layer = QgsVectorLayer(f"{seen['export']}|layername=places", "places", "ogr")
    assert layer.featureCount() == 12
    assert layer.renderer().type() == "graduatedSymbol"
    assert layer.customProperty("terrakin/provenance") == seen["search"]["provenance"]
    assert layer.metadata().abstract() == seen["search"]["abstract"]
    siblings = {path.name for path in Path(seen["export"]).parent.iterdir()}
    assert not {name for name in siblings if name.startswith(".terrakin")}


def test_export_to_nowhere_says_so(seen):
    assert "missing" in seen["export_nowhere"][0]
    assert "Choose a folder" in seen["export_nowhere"][0]


def test_click_outside_the_coverage_shows_the_servers_words(seen):
    assert "lies outside collection 'kin'" in seen["outside"][0]
    assert "nearest chip" in seen["outside"][0]
    assert "lies outside collection 'kin'" in seen["outside_bar"][0]
    assert seen["outside_usable"] is True


def test_click_beyond_180_is_wrapped_and_parts_are_kept(seen):
    dateline = seen["dateline"]
    [[lon, lat]] = dateline["query_layers"]
    assert (lon, lat) == pytest.approx((-179.995, -16.8), abs=2e-4)
    assert len(dateline["rows"]) == 40
    assert max(row["parts"] for row in dateline["rows"]) == 2
    assert {row["lon"] > 0 for row in dateline["rows"]} == {True, False}
    west, _, east, _ = dateline["view"]
    assert east - west < 0.2, "the map must not zoom out to the whole world"


def test_pacific_map_shows_both_sides_together(seen):
    west, _, east, _ = seen["dateline_pacific"]["view"]
    assert 2000 < east - west < 6000


def test_click_off_the_earth_is_explained(seen):
    assert "ESRI:54009" in seen["off_the_earth"][0]
    assert "choose another CRS" in seen["off_the_earth"][0]


def test_cancel_ends_a_hanging_search_at_once(seen):
    assert seen["cancel"]["seconds"] < 3
    assert "cancelled" in seen["cancel"]["messages"][0]
    assert seen["cancel"]["busy"] is False
    assert seen["cancel"]["usable"] is True


def test_server_that_dies_during_a_search_is_reported(seen):
    death = seen["server_dies"]
    assert "The server stopped while it was answering" in death["messages"][0]
    assert death["status"] == "Not connected"
    assert death["start_usable"] is True
    assert death["find_enabled"] is False


def test_server_that_dies_while_idle_is_noticed(seen):
    assert "Start it again" in seen["server_dies_idle"]["messages"][0]
    assert seen["server_dies_idle"]["find_enabled"] is False


def test_missing_command_is_explained(seen):
    assert "Settings > Options > Terrakin" in seen["wrong_command"]["messages"][0]
    assert seen["wrong_command"]["start_usable"] is True


def test_second_click_replaces_the_running_search(seen):
    assert len(seen["two_clicks"]["layers"]) == 1


def test_map_stays_where_zooming_is_not_wanted(seen):
    assert seen["two_clicks"]["view_kept"] is True


def test_results_survive_their_server(seen):
    assert seen["server_dies"]["rows_kept"] == [12, 12, 40, 40]


def test_bad_ready_files_are_told_apart(seen):
    assert "does not accept the token" in seen["wrong_token"]["messages"][0]
    assert "No Terrakin server runs at" in seen["not_running"]["messages"][0]
    assert "is not the ready file" in seen["odd_file"]["messages"][0]
    assert all(seen[name]["start_usable"] for name in ("wrong_token", "not_running", "odd_file"))


def test_disconnecting_leaves_a_foreign_server_running(seen):
    assert seen["connected"]["status"].startswith("Connected to 127.0.0.1:")
    assert seen["connected"]["stop_text"] == "Disconnect"
    assert seen["foreign_alive_after_disconnect"] is True


def test_unload_releases_everything(seen):
    unload = seen["unload"]
    assert unload["server_alive"] is False
    assert unload["leftovers"] == []
    assert unload["menu"] == []
    assert unload["provider"] is False
    assert unload["map_tool"] != "PlaceTool"
    assert unload["messages"] == []
    assert unload["seconds"] < 8


def test_killed_qgis_leaves_no_orphan(seen, until):
    """Last in the file: it ends the QGIS of all the tests above."""
    pid = seen["last_server_pid"]
    assert is_alive(pid)
    os.kill(seen["pid"], signal.SIGKILL)
    until(lambda: not is_alive(pid), 15)
