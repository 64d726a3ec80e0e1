"""The Processing provider ``terrakin``."""

from __future__ import annotations

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from ..core.version import icon_path, plugin_version
from .export_places import ExportPlaces
from .similar_places import SimilarPlaces


class TerrakinProvider(QgsProcessingProvider):
    """Offers all of the plugin's algorithms."""

    def id(self) -> str:
        return "terrakin"

    def name(self) -> str:
        return "Terrakin"

    def versionInfo(self) -> str:
        return plugin_version()

    def icon(self) -> QIcon:
        return QIcon(icon_path("terrakin.svg"))

    def svgIconPath(self) -> str:
        return icon_path("terrakin.svg")

    def loadAlgorithms(self) -> None:
        for algorithm in (SimilarPlaces, ExportPlaces):
            self.addAlgorithm(algorithm())
