"""Put results into the project and the map."""

from __future__ import annotations

from qgis.core import QgsLayerTreeGroup, QgsProject, QgsVectorLayer
from qgis.gui import QgisInterface, QgsMapCanvas

from ..core.geometry import view_of
from ..core.layers import Result, places_layer, query_layer

GROUP = "Terrakin"
MARGIN = 1.2


def add_result(iface: QgisInterface, result: Result) -> QgsVectorLayer:
    """Add the layers of a result in a group of their own, on top; return the places' layer.

    Groups of earlier results are folded and hidden, so that the map shows one answer.
    """
    project = QgsProject.instance()
    group = _results_group(project)
    for earlier in group.children():
        earlier.setExpanded(False)
        earlier.setItemVisibilityChecked(False)
    places, query = places_layer(result), query_layer(result)
    title = f"{result.provenance.place} ({result.provenance.collection})"
    own_group = group.insertGroup(0, title)
    for layer in (query, places):
        project.addMapLayer(layer, False)
        own_group.addLayer(layer)
    group.setExpanded(True)
    iface.setActiveLayer(places)
    return places


def zoom_to(canvas: QgsMapCanvas, result: Result) -> bool:
    """Show the query and its results in the map; False if the map's CRS cannot show them."""
    places = [result.answer.query, *result.answer.places]
    context = QgsProject.instance().transformContext()
    view = view_of(places, canvas.mapSettings().destinationCrs(), context)
    if view.isEmpty():
        return False
    view.scale(MARGIN)
    canvas.setExtent(view)
    canvas.refresh()
    return True


def _results_group(project: QgsProject) -> QgsLayerTreeGroup:
    root = project.layerTreeRoot()
    return root.findGroup(GROUP) or root.insertGroup(0, GROUP)
