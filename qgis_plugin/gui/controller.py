"""Joins the dock, the map tool, the session and the project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qgis.core import QgsPointXY, QgsProject, QgsVectorLayer
from qgis.gui import QgisInterface
from qgis.PyQt.QtCore import QObject, Qt
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QAction, QFileDialog

from ..core.errors import PluginError
from ..core.geometry import to_lonlat
from ..core.layers import Result, provenance_of
from ..core.settings import Settings
from ..core.version import icon_path
from ..core.wire import SearchRequest
from .dock import Dock
from .map_tool import PlaceTool
from .messages import Messages
from .results import add_result, zoom_to
from .session import Session


class Controller(QObject):
    """Owns the actions, the dock, the tool and the session; ``close`` releases them all."""

    def __init__(self, iface: QgisInterface) -> None:
        super().__init__(iface.mainWindow())
        self.iface = iface
        self.messages = Messages(iface)
        self.session = Session(self)
        self.show_action = self._action("terrakin.svg", "Terrakin panel")
        self.find_action = self._action("find.svg", "Find similar places")
        self.find_action.setCheckable(True)
        self.export_action = self._action("export.svg", "Export similar places…")
        self.dock = Dock(self.session, self.find_action, iface.mainWindow())
        self.show_action.setCheckable(True)
        self.dock.setToggleVisibilityAction(self.show_action)
        iface.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.dock)
        self.tool = PlaceTool(iface.mapCanvas())
        self.tool.setAction(self.find_action)
        self._result_layer_id = ""
        self._connect()

    @property
    def actions(self) -> list[QAction]:
        """The actions for the toolbar and the menu."""
        return [self.show_action, self.find_action, self.export_action]

    def close(self) -> None:
        """Stop the server and the jobs, and take everything out of QGIS's window."""
        self._remember()
        self.session.close()
        self.messages.clear()
        self._put_tool_away()
        self.tool.deleteLater()
        self.iface.removeDockWidget(self.dock)
        self.dock.deleteLater()
        for action in self.actions:
            action.deleteLater()
        self.deleteLater()

    def search_at(self, point: QgsPointXY) -> None:
        """Search the places like the one at a point in the canvas's CRS."""
        project, form = QgsProject.instance(), self.dock.form()
        crs = self.iface.mapCanvas().mapSettings().destinationCrs()
        try:
            lon, lat = to_lonlat(point, crs, project.transformContext())
            request = SearchRequest(form.collection, lon, lat, form.k, form.exclude_m)
        except PluginError as error:
            self.messages.warning(str(error))
            return
        self.messages.clear()
        self.session.search(request)

    def export_to(self, path: str) -> None:
        """Write the current result to a GeoPackage."""
        layer = self.current_result()
        if layer is None:
            self.messages.warning(
                "There is no result to export. Select a layer of similar places, or search first."
            )
            return
        self.session.export(layer, path)

    def current_result(self) -> QgsVectorLayer | None:
        """Return the active layer if it is a result, else the newest result of this session."""
        newest = QgsProject.instance().mapLayer(self._result_layer_id)
        for layer in (self.iface.activeLayer(), newest):
            if isinstance(layer, QgsVectorLayer) and provenance_of(layer) is not None:
                return layer
        return None

    def _action(self, icon: str, text: str) -> QAction:
        return QAction(QIcon(icon_path(icon)), text, self.iface.mainWindow())

    def _connect(self) -> None:
        self.tool.clicked.connect(self.search_at)
        self.find_action.triggered.connect(self._toggle_tool)
        self.export_action.triggered.connect(self._ask_export)
        self.dock.export_asked.connect(self._ask_export)
        self.dock.start_asked.connect(self._start)
        self.dock.connect_asked.connect(self._ask_ready_file)
        self.session.found.connect(self._show)
        self.session.exported.connect(lambda path: self.messages.success(f"Exported to {path}."))
        self.session.failed.connect(lambda error: self.messages.warning(str(error)))
        self.session.cancelled.connect(self.messages.info)

    def _toggle_tool(self, active: bool) -> None:
        if active:
            self.dock.setUserVisible(True)
            self.iface.mapCanvas().setMapTool(self.tool)
        else:
            self._put_tool_away()

    def _put_tool_away(self) -> None:
        if self.iface.mapCanvas().mapTool() is self.tool:
            self.iface.actionPan().trigger()

    def _start(self, store: str) -> None:
        self._remember()
        self.session.start_server(Settings.load().command, store)

    def _ask_ready_file(self) -> None:
        last = Settings.load().ready_file
        path, _ = QFileDialog.getOpenFileName(
            self.dock,
            "Ready file of a running Terrakin server",
            last,
            "Ready files (*.json);;All (*)",
        )
        if path:
            replace(Settings.load(), ready_file=path).save()
            self.session.connect_to(path)

    def _ask_export(self) -> None:
        layer = self.current_result()
        folder = QgsProject.instance().homePath() or str(Path.home())
        path = ""
        if layer is not None:
            path, _ = QFileDialog.getSaveFileName(
                self.dock, "Export similar places", f"{folder}/places.gpkg", "GeoPackage (*.gpkg)"
            )
        if path or layer is None:
            self.export_to(path)

    def _show(self, result: Result) -> None:
        layer = add_result(self.iface, result)
        self._result_layer_id = layer.id()
        self.dock.show_result(result)
        shown = not self.dock.form().zoom or zoom_to(self.iface.mapCanvas(), result)
        count = len(result.features)
        provenance = result.provenance
        text = f"{count:,} places like {provenance.place} in {result.answer.collection}"
        if count and provenance.share_found:
            text = f"{text}, {provenance.share_found}. {provenance.compared}"
        else:
            text = f"{text}."
        if count == 0:
            self.messages.info(f"{text} Lower the distance to leave out.")
        elif shown:
            self.messages.success(text)
        else:
            self.messages.warning(f"{text} The project's CRS cannot show them: choose another.")

    def _remember(self) -> None:
        form = self.dock.form()
        replace(
            Settings.load(),
            store=self.dock.store_widget.filePath().strip(),
            k=form.k,
            exclude_m=form.exclude_m,
            zoom=form.zoom,
        ).save()
