"""What QGIS loads: registers the plugin's parts and releases them again."""

from __future__ import annotations

from qgis.core import QgsApplication
from qgis.gui import QgisInterface

from .algorithms.provider import TerrakinProvider
from .gui.controller import Controller
from .gui.options import OptionsFactory

MENU = "Terrakin"


class TerrakinPlugin:
    """The plugin. Without a window (qgis_process) only the Processing provider is registered."""

    def __init__(self, iface: QgisInterface | None) -> None:
        self.iface = iface
        self.provider: TerrakinProvider | None = None
        self.controller: Controller | None = None
        self._toolbar = None
        self._options: OptionsFactory | None = None

    def initProcessing(self) -> None:
        """Register the Processing provider (qgis_process calls only this)."""
        self.provider = TerrakinProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Register everything."""
        self.initProcessing()
        self.controller = Controller(self.iface)
        self._toolbar = self.iface.addToolBar(MENU)
        self._toolbar.setObjectName("TerrakinToolBar")
        for action in self.controller.actions:
            self._toolbar.addAction(action)
            self.iface.addPluginToRasterMenu(MENU, action)
        self._options = OptionsFactory()
        self.iface.registerOptionsWidgetFactory(self._options)
        QgsApplication.instance().aboutToQuit.connect(self.controller.session.close)

    def unload(self) -> None:
        """Release everything that was registered."""
        if self.controller is not None:
            QgsApplication.instance().aboutToQuit.disconnect(self.controller.session.close)
            for action in self.controller.actions:
                self.iface.removePluginRasterMenu(MENU, action)
            self._toolbar.deleteLater()
            self.iface.unregisterOptionsWidgetFactory(self._options)
            self.controller.close()
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
        self.provider = self.controller = self._toolbar = self._options = None
