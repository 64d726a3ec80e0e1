"""What the plugin's algorithms have in common."""

from __future__ import annotations

from qgis.core import QgsProcessingAlgorithm
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtGui import QIcon

from ..core.version import icon_path


class TerrakinAlgorithm(QgsProcessingAlgorithm):
    """An algorithm with the plugin's icon; a subclass sets the texts below."""

    ID = ""
    TITLE = ""
    HELP = ""
    ICON = "terrakin.svg"

    def createInstance(self) -> TerrakinAlgorithm:
        return type(self)()

    def name(self) -> str:
        return self.ID

    def displayName(self) -> str:
        return self.tr(self.TITLE)

    def shortHelpString(self) -> str:
        return self.tr(self.HELP)

    def icon(self) -> QIcon:
        return QIcon(icon_path(self.ICON))

    def svgIconPath(self) -> str:
        return icon_path(self.ICON)

    def tr(self, text: str) -> str:
        """Translate a text."""
        return QCoreApplication.translate("Terrakin", text)
