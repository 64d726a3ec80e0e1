"""Hands and eyes for the drive of the QGIS desktop: press, click, wait, look."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsProject,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtTest import QTest
from qgis.utils import iface, plugins

CONFIG = json.loads(Path(os.environ["TERRAKIN_DRIVE"]).read_text())
DATA, OUT = Path(CONFIG["data"]), Path(CONFIG["out"])
STEP_S = 60
LEFT = Qt.MouseButton.LeftButton
logged: list[str] = []
seen: dict = {"pid": os.getpid(), "steps": []}
"""What the tests get to read."""


class Until:
    """Wait until a condition holds, or stop the drive after some seconds."""

    def __init__(self, condition, what: str, seconds: float = STEP_S) -> None:
        self.condition, self.what = condition, what
        self.deadline = time.monotonic() + seconds


def pause(seconds: float) -> Until:
    """Let QGIS draw for a while."""
    end = time.monotonic() + seconds
    return Until(lambda: time.monotonic() > end, "a pause", seconds + STEP_S)


def controller():
    return plugins["terrakin"].controller


def dock():
    return controller().dock


def canvas():
    return iface.mapCanvas()


def bar_texts() -> list[str]:
    return [item.text() for item in iface.messageBar().items() if item.title() == "Terrakin"]


def messages() -> list[str]:
    """What the message bar shows, in full: it may show the first sentences of what is logged."""
    return [
        next(text for text in reversed(logged) if text.startswith(shown)) for shown in bar_texts()
    ]


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that ended but was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def press(button) -> None:
    QTest.mouseClick(button, LEFT)


def click_map(x: float, y: float) -> None:
    """Send a real mouse click to the canvas at a point of its CRS."""
    pixel = canvas().getCoordinateTransform().transform(x, y)
    QTest.mouseClick(
        canvas().viewport(),
        LEFT,
        Qt.KeyboardModifier.NoModifier,
        QPoint(round(pixel.x()), round(pixel.y())),
    )


def layers(prefix: str) -> list:
    found = QgsProject.instance().mapLayers().values()
    return [layer for layer in found if layer.name().startswith(prefix)]


def new_layer(prefix: str, known: set) -> list:
    return [layer for layer in layers(prefix) if layer.id() not in known]


def search_at(x: float, y: float, name: str):
    """Click, wait for the result layer, describe it under ``name``."""
    known = {layer.id() for layer in layers("Places like")}
    click_map(x, y)
    yield Until(lambda: new_layer("Places like", known), f"the layer of {name}")
    yield Until(lambda: controller().session.job is None, "the end of the job")
    layer = new_layer("Places like", known)[0]
    yield pause(1.5)
    seen[name] = described(layer)


def described(layer) -> dict:
    """All that the tests want to know of a result layer and of the window around it."""
    node = QgsProject.instance().layerTreeRoot().findLayer(layer.id())
    group = node.parent()
    renderer = layer.renderer()
    metadata = layer.metadata()
    view = canvas().extent()
    return {
        "name": layer.name(),
        "provider": layer.providerType(),
        "crs": layer.crs().authid(),
        "geometry": layer.wkbType(),
        "fields": [field.name() for field in layer.fields()],
        "aliases": [field.displayName() for field in layer.fields()],
        "rows": [
            {
                **{key: feature[key] for key in ("rank", "similarity", "percentile", "id")},
                **{key: feature[key] for key in ("lon", "lat")},
                "grid_cell": feature["grid_cell"],
                "datetime": feature["datetime"].toString(Qt.DateFormat.ISODate),
                "parts": len(feature.geometry().asMultiPolygon()),
            }
            for feature in layer.getFeatures()
        ],
        "renderer": renderer.type(),
        "attribute": renderer.classAttribute(),
        "classes": [
            {"range": [r.lowerValue(), r.upperValue()], "colour": r.symbol().color().name()}
            for r in renderer.ranges()
        ],
        "labels": layer.labelsEnabled(),
        "provenance": layer.customProperty("terrakin/provenance"),
        "abstract": metadata.abstract(),
        "history": metadata.history(),
        "keywords": metadata.keywords(),
        "group": [group.name(), group.parent().name()],
        "siblings": [child.name() for child in group.children()],
        "view": [view.xMinimum(), view.yMinimum(), view.xMaximum(), view.yMaximum()],
        "tool_active": canvas().mapTool() is controller().tool,
        "messages": messages(),
        "query_layers": [
            [f["clicked_lon"], f["clicked_lat"]]
            for child in group.findLayers()
            if child.layer().name().startswith("Query at")
            for f in child.layer().getFeatures()
        ],
    }


def shoot(name: str) -> None:
    QgsApplication.processEvents()
    iface.mainWindow().grab().save(str(OUT / f"{name}.png"))


def shoot_window(widget, name: str) -> None:
    """Take a picture of a window of its own, or of a tip that floats over the main one."""
    QgsApplication.processEvents()
    widget.grab().save(str(OUT / f"{name}.png"))


def show_crs(authid: str, west: float, south: float, east: float, north: float) -> None:
    """Show a rectangle, given in the CRS."""
    QgsProject.instance().setCrs(QgsCoordinateReferenceSystem(authid))
    canvas().setDestinationCrs(QgsCoordinateReferenceSystem(authid))
    canvas().setExtent(QgsRectangle(west, south, east, north))
    canvas().refresh()


def message_after(action, part: str):
    """Act, wait for a message that contains a text, and for the GUI to be usable again."""
    controller().messages.clear()
    action()
    yield Until(lambda: any(part in text for text in messages()), f"a message with '{part}'")
    yield Until(lambda: not dock().busy_row.isVisible(), "the end of the work")


def start_own_server():
    dock().store_widget.setFilePath(str(DATA / "store"))
    press(dock().start_button)
    seen["starting_label"] = dock().status_label.text()
    yield Until(lambda: dock().collection_box.isEnabled(), "the collections")
