"""The steps of docs/make_screenshot.py: one search over the Carolina scene, as a user does it."""

from __future__ import annotations

from hands import (
    DATA,
    OUT,
    Until,
    canvas,
    controller,
    dock,
    pause,
    press,
    search_at,
    shoot,
)
from osgeo import gdal
from qgis.core import (
    QgsContrastEnhancement,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsPointXY,
    QgsProject,
    QgsRasterLayer,
    QgsRasterMinMaxOrigin,
    QgsRectangle,
)
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QDockWidget, QToolBar
from qgis.utils import iface

SIZE = (1400, 820)
PANEL_WIDTHS = {"Layers": 250, "TerrakinDock": 370}
CRS = "EPSG:32618"
BEAUFORT = QgsPointXY(-76.657, 34.718)
BOTH_SHORES = QgsRectangle(-76.7185, 34.676, -76.628, 34.7275)
"""Degrees: Morehead City, Beaufort and the water between them."""
GAMMA = 1.5
"""Woods and water are dark beside sand."""
NODATA = 255
PLACES = 60
KEPT_BARS = ("mFileToolBar", "mMapNavToolBar", "TerrakinToolBar")


def step_window():
    window = iface.mainWindow()
    window.resize(*SIZE)
    window.move(0, 0)
    iface.newProject()
    for other in window.findChildren(QDockWidget):
        if other.objectName() in ("Browser", "Browser2", "LayerStyling", "MessageLog"):
            other.close()
    for bar in window.findChildren(QToolBar):
        bar.setVisible(bar.objectName() in KEPT_BARS)
    controller().show_action.setChecked(True)
    dock().setUserVisible(True)
    panels = [window.findChild(QDockWidget, name) for name in PANEL_WIDTHS]
    window.resizeDocks(panels, list(PANEL_WIDTHS.values()), Qt.Orientation.Horizontal)
    yield pause(1)


def step_scene():
    """The scene in true colour, stretched to what both shores show."""
    bands = [str(DATA / f"{band}.tif") for band in ("B04", "B03", "B02")]
    path = str(OUT / "scene.vrt")
    gdal.BuildVRT(path, bands, separate=True, srcNodata=NODATA, VRTNodata=NODATA).FlushCache()
    raster = QgsRasterLayer(path, "Sentinel-2, 13 October 2018")
    raster.setContrastEnhancement(
        QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum,
        QgsRasterMinMaxOrigin.Limits.CumulativeCut,
        BOTH_SHORES,
    )
    raster.brightnessFilter().setGamma(GAMMA)
    QgsProject.instance().addMapLayer(raster)
    QgsProject.instance().layerTreeRoot().findLayer(raster.id()).setExpanded(False)
    yield pause(1)  # QGIS gives the project the CRS of its first layer, a little later
    QgsProject.instance().setCrs(QgsCoordinateReferenceSystem(CRS))
    canvas().setDestinationCrs(QgsCoordinateReferenceSystem(CRS))
    canvas().setExtent(to_map().transformBoundingBox(raster.extent()))
    canvas().refresh()
    yield pause(2)


def step_search():
    dock().store_widget.setFilePath(str(OUT / "embeddings"))
    press(dock().start_button)
    yield Until(lambda: dock().collection_box.isEnabled(), "the collections")
    dock().k_box.setValue(PLACES)
    press(dock().find_button)
    place = to_map().transform(BEAUFORT)
    yield from search_at(place.x(), place.y(), "search")
    canvas().setExtent(to_map().transformBoundingBox(BOTH_SHORES))
    canvas().refresh()
    yield pause(4)
    shoot("qgis")


def to_map() -> QgsCoordinateTransform:
    wgs84 = QgsCoordinateReferenceSystem("EPSG:4326")
    return QgsCoordinateTransform(wgs84, QgsCoordinateReferenceSystem(CRS), QgsProject.instance())


STEPS = (step_window, step_scene, step_search)
