"""What the drive does, step by step. Steps are generators that yield what to wait for."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from hands import (
    CONFIG,
    DATA,
    OUT,
    Until,
    bar_texts,
    canvas,
    click_map,
    controller,
    dock,
    is_alive,
    layers,
    message_after,
    messages,
    new_layer,
    pause,
    press,
    search_at,
    seen,
    shoot,
    shoot_window,
    show_crs,
    start_own_server,
)
from osgeo import gdal
from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsPointXY,
    QgsProject,
    QgsRasterLayer,
    QgsSettings,
)
from qgis.gui import QgsMapTip
from qgis.PyQt.QtCore import QPoint
from qgis.PyQt.QtWidgets import QDockWidget, QToolBar
from qgis.utils import iface, loadPlugin, startPlugin, unloadPlugin


def step_load():
    """The plugin has been loaded from the profile by QGIS itself."""
    import terrakin

    window = iface.mainWindow()
    window.resize(1600, 1000)
    window.move(0, 0)
    iface.newProject()
    for other in window.findChildren(QDockWidget):
        if other.objectName() in ("Browser", "Browser2", "LayerStyling", "MessageLog"):
            other.close()
    seen["module"] = terrakin.__file__
    seen["toolbar"] = [
        action.text()
        for bar in window.findChildren(QToolBar)
        if bar.objectName() == "TerrakinToolBar"
        for action in bar.actions()
    ]
    seen["find_enabled_at_first"] = dock().find_button.isEnabled()
    controller().show_action.setChecked(True)
    dock().setUserVisible(True)
    yield pause(1)
    shoot("1-start")


def step_scene():
    """A true-colour raster of the scene."""
    bands = [str(DATA / "scene" / f"{band}.tif") for band in ("B04", "B03", "B02")]
    gdal.BuildVRT(str(OUT / "scene.vrt"), bands, separate=True).FlushCache()
    raster = QgsRasterLayer(str(OUT / "scene.vrt"), "Scene")
    raster.setContrastEnhancement(
        QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum
    )
    QgsProject.instance().addMapLayer(raster)
    box = raster.extent()
    show_crs("EPSG:32633", box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum())
    seen["scene_box"] = [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]
    yield pause(1)


def step_server():
    yield from start_own_server()
    seen["server_pid"] = controller().session.process.pid
    seen["collections"] = [
        dock().collection_box.itemData(i) for i in range(dock().collection_box.count())
    ]


def step_search():
    box = dock().collection_box
    box.setCurrentIndex(box.findData("kin"))
    dock().k_box.setValue(12)
    dock().exclude_box.setValue(300)
    press(dock().find_button)
    seen["tool_after_button"] = canvas().mapTool() is controller().tool
    west, south, east, north = seen["scene_box"]
    yield from search_at(west + 0.55 * (east - west), south + 0.4 * (north - south), "search")
    shoot("2-result")


def step_table():
    """The attribute table, and the tip at the best place, as a user sees them."""
    [layer] = layers("Places like")
    table = iface.showAttributeTable(layer)
    table.resize(1240, 420)
    yield pause(1)
    shoot_window(table, "2-table")
    table.close()
    best = next(f for f in layer.getFeatures() if f["rank"] == 1).geometry().centroid().asPoint()
    to_map = QgsCoordinateTransform(
        layer.crs(), canvas().mapSettings().destinationCrs(), QgsProject.instance()
    )
    place = to_map.transform(best)
    pixel = canvas().getCoordinateTransform().transform(place)
    tip = QgsMapTip()
    tip.showMapTip(layer, place, QPoint(round(pixel.x()), round(pixel.y())), canvas())
    yield pause(1)
    shoot("2-tip")
    tip.clear(canvas())


def step_export():
    target = OUT / "places.gpkg"
    yield from message_after(lambda: controller().export_to(str(target)), "Exported")
    seen["export"] = str(target)
    nowhere = str(OUT / "missing" / "places.gpkg")
    yield from message_after(lambda: controller().export_to(nowhere), "cannot be written")
    seen["export_nowhere"] = messages()


def step_incomplete():
    """The same search, as a server with an index of a large collection would answer it."""
    from terrakin.core.wire import SearchAnswer

    whole = SearchAnswer.from_json
    less = {"expected_recall": 0.99645, "considered": 12_000, "numberMatched": 1_000_000}
    SearchAnswer.from_json = lambda data: whole({**data, **less})
    west, south, east, north = seen["scene_box"]
    yield from search_at((west + east) / 2, (south + north) / 2, "incomplete")
    SearchAnswer.from_json = whole
    seen["incomplete_bar"] = bar_texts()
    seen["incomplete_dock"] = dock().result_label.text()
    shoot("2-incomplete")


def step_outside():
    west, south, east, north = seen["scene_box"]
    show_crs("EPSG:32633", west - 9000, south - 9000, east + 9000, north + 9000)
    yield pause(0.5)
    yield from message_after(lambda: click_map(west - 7000, south), "kin")
    seen["outside"] = messages()
    seen["outside_bar"] = bar_texts()
    seen["outside_usable"] = dock().find_button.isEnabled()


def step_dateline():
    """A click at 180.005 degrees east, on a map that goes on beyond 180."""
    box = dock().collection_box
    box.setCurrentIndex(box.findData("dateline"))
    dock().exclude_box.setValue(0)
    dock().k_box.setValue(40)
    show_crs("EPSG:4326", 179.98, -16.82, 180.03, -16.78)
    yield pause(0.5)
    yield from search_at(180.005, -16.8, "dateline")
    show_crs("EPSG:3832", 3338000, -1900000, 3341200, -1897000)
    to_map = QgsCoordinateTransform(
        QgsCoordinateReferenceSystem("EPSG:4326"),
        QgsCoordinateReferenceSystem("EPSG:3832"),
        QgsProject.instance(),
    )
    place = to_map.transform(QgsPointXY(-179.995, -16.8))
    show_crs("EPSG:3832", place.x() - 1500, place.y() - 1500, place.x() + 1500, place.y() + 1500)
    yield pause(0.5)
    yield from search_at(place.x(), place.y(), "dateline_pacific")
    shoot("3-dateline")


def step_off_the_earth():
    show_crs("ESRI:54009", -2.5e7, -1.2e7, 2.5e7, 1.2e7)
    yield pause(0.5)
    yield from message_after(lambda: click_map(-1.9e7, 1.0e7), "outside the area")
    seen["off_the_earth"] = messages()
    west, south, east, north = seen["scene_box"]
    box = dock().collection_box
    box.setCurrentIndex(box.findData("kin"))
    show_crs("EPSG:32633", west, south, east, north)
    yield pause(0.5)


def step_cancel():
    """The server hangs; the user cancels."""
    pid, job = seen["server_pid"], controller().session
    west, south, east, north = seen["scene_box"]
    os.kill(pid, signal.SIGSTOP)
    click_map((west + east) / 2, (south + north) / 2)
    yield Until(lambda: dock().busy_row.isVisible(), "the busy row")
    yield pause(0.5)
    shoot("4-busy")
    started = time.monotonic()
    press(dock().cancel_button)
    yield Until(lambda: job.job is None, "the cancelled job")
    seen["cancel"] = {
        "seconds": time.monotonic() - started,
        "messages": messages(),
        "busy": dock().busy_row.isVisible(),
        "usable": dock().find_button.isEnabled(),
    }
    os.kill(pid, signal.SIGCONT)
    yield pause(0.5)


def step_server_dies():
    """The server is killed while it answers."""
    pid = seen["server_pid"]
    west, south, east, north = seen["scene_box"]
    os.kill(pid, signal.SIGSTOP)
    click_map((west + east) / 2, (south + north) / 2)
    yield Until(lambda: controller().session.job is not None, "the job")
    yield pause(1)
    yield from message_after(lambda: os.kill(pid, signal.SIGKILL), "stopped")
    yield Until(lambda: dock().start_button.isVisible(), "the start button")
    seen["server_dies"] = {
        "messages": messages(),
        "status": dock().status_label.text(),
        "start_usable": dock().start_button.isEnabled(),
        "find_enabled": dock().find_button.isEnabled(),
        "layers_kept": len(layers("Places like")),
        "rows_kept": [layer.featureCount() for layer in layers("Places like")],
    }
    shoot("5-server-died")


def step_wrong_command():
    """The command of the options does not exist."""
    settings = QgsSettings()
    command = settings.value("terrakin/command")
    settings.setValue("terrakin/command", "/no/such/terrakin")
    dock().store_widget.setFilePath(str(DATA / "store"))
    yield from message_after(lambda: press(dock().start_button), "/no/such/terrakin")
    seen["wrong_command"] = {
        "messages": messages(),
        "start_usable": dock().start_button.isEnabled(),
    }
    settings.setValue("terrakin/command", command)


def step_two_clicks():
    """A second click takes the place of a search that is still running; the map stays."""
    yield from start_own_server()
    box = dock().collection_box
    box.setCurrentIndex(box.findData("kin"))
    dock().zoom_box.setChecked(False)
    pid = controller().session.process.pid
    west, south, east, north = seen["scene_box"]
    middle = (south + north) / 2
    known = {layer.id() for layer in layers("Places like")}
    view = canvas().extent()
    os.kill(pid, signal.SIGSTOP)
    click_map(west + 0.5 * (east - west), middle)
    yield pause(0.5)
    click_map(west + 0.7 * (east - west), middle)
    yield pause(0.5)
    os.kill(pid, signal.SIGCONT)
    yield Until(lambda: controller().session.job is None, "the end of the job")
    yield pause(1)
    seen["two_clicks"] = {
        "layers": [layer.name() for layer in new_layer("Places like", known)],
        "view_kept": canvas().extent() == view,
    }
    dock().zoom_box.setChecked(True)


def step_server_dies_idle():
    """The server is killed while nothing is asked of it."""
    pid = controller().session.process.pid
    yield from message_after(lambda: os.kill(pid, signal.SIGKILL), "The server stopped")
    yield Until(lambda: dock().start_button.isVisible(), "the start button")
    seen["server_dies_idle"] = {
        "messages": messages(),
        "find_enabled": dock().find_button.isEnabled(),
    }


def step_connect():
    """Ready files: wrong token, no server there, not a ready file, good."""
    session, ready = controller().session, json.loads(Path(CONFIG["ready"]).read_text())
    wrong, dead, odd = (OUT / f"{name}.json" for name in ("wrong", "dead", "odd"))
    wrong.write_text(json.dumps({**ready, "token": "x" * 43}))
    dead.write_text(json.dumps({**ready, "url": "http://127.0.0.1:9"}))
    odd.write_text("[]")
    for name, path, part in (
        ("wrong_token", wrong, "token"),
        ("not_running", dead, "No Terrakin server runs"),
        ("odd_file", odd, "not the ready file"),
    ):
        yield from message_after(lambda path=path: session.connect_to(str(path)), part)
        seen[name] = {"messages": messages(), "start_usable": dock().start_button.isEnabled()}
    session.connect_to(CONFIG["ready"])
    yield Until(lambda: dock().collection_box.isEnabled(), "the collections")
    seen["connected"] = {
        "status": dock().status_label.text(),
        "stop_text": dock().stop_button.text(),
    }
    press(dock().stop_button)
    yield Until(lambda: dock().start_button.isVisible(), "the start button")
    seen["foreign_alive_after_disconnect"] = is_alive(ready["pid"])


def step_unload():
    """Unloading stops the server and takes everything out of QGIS."""
    yield from start_own_server()
    pid = controller().session.process.pid
    press(dock().find_button)
    started = time.monotonic()
    unloadPlugin("terrakin")
    seconds = time.monotonic() - started
    yield pause(0.5)
    window = iface.mainWindow()
    names = {widget.objectName() for widget in window.findChildren((QDockWidget, QToolBar))}
    raster_menu = [action.text() for action in iface.rasterMenu().actions()]
    seen["unload"] = {
        "seconds": seconds,
        "server_alive": is_alive(pid),
        "leftovers": sorted(name for name in names if "errakin" in name),
        "menu": [text for text in raster_menu if "errakin" in text],
        "provider": QgsApplication.processingRegistry().providerById("terrakin") is not None,
        "map_tool": type(canvas().mapTool()).__name__,
        "messages": messages(),
    }


def step_again():
    """Load it again and start a server, for the test that kills QGIS."""
    loadPlugin("terrakin")
    startPlugin("terrakin")
    dock().setUserVisible(True)
    yield from start_own_server()
    seen["last_server_pid"] = controller().session.process.pid


STEPS = (
    step_load,
    step_scene,
    step_server,
    step_search,
    step_table,
    step_export,
    step_incomplete,
    step_outside,
    step_dateline,
    step_off_the_earth,
    step_cancel,
    step_server_dies,
    step_wrong_command,
    step_two_clicks,
    step_server_dies_idle,
    step_connect,
    step_unload,
    step_again,
)
