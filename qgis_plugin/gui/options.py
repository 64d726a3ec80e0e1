"""The page Settings > Options > Terrakin."""

from __future__ import annotations

from dataclasses import replace

from qgis.gui import QgsFileWidget, QgsOptionsPageWidget, QgsOptionsWidgetFactory
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QFormLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from ..core.errors import CommandNotFoundError
from ..core.server_process import find_command
from ..core.settings import Settings
from ..core.version import icon_path
from ..core.wire import MAX_K


class OptionsFactory(QgsOptionsWidgetFactory):
    """Makes the page for QGIS's options dialog."""

    def __init__(self) -> None:
        super().__init__("Terrakin", QIcon(icon_path("terrakin.svg")))

    def createWidget(self, parent: QWidget) -> QgsOptionsPageWidget:
        return OptionsPage(parent)


class OptionsPage(QgsOptionsPageWidget):
    """Command, default store and default number of places."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        settings = Settings.load()
        self.command_widget = QgsFileWidget()
        self.command_widget.setStorageMode(QgsFileWidget.StorageMode.GetFile)
        self.command_widget.setDialogTitle("The terrakin command")
        self.command_widget.setFilePath(settings.command)
        self.command_widget.lineEdit().setPlaceholderText(_found_by_itself())
        self.store_widget = QgsFileWidget()
        self.store_widget.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.store_widget.setFilePath(settings.store)
        self.store_widget.lineEdit().setPlaceholderText(Settings().store_folder)
        self.k_box = QSpinBox()
        self.k_box.setRange(1, MAX_K)
        self.k_box.setValue(settings.k)
        form = QFormLayout()
        form.addRow("Terrakin command", self.command_widget)
        form.addRow("Default store folder", self.store_widget)
        form.addRow("Default number of places", self.k_box)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        note = QLabel(
            "The command “terrakin” computes, stores and searches embeddings. It is installed "
            "outside QGIS, from Terrakin's repository (its README says how), and runs on this "
            "computer only. Leave its field empty to use the one on the PATH."
        )
        note.setWordWrap(True)
        layout.addWidget(note)
        layout.addStretch(1)

    def apply(self) -> None:
        """Save the page; QGIS calls this on OK."""
        replace(
            Settings.load(),
            command=self.command_widget.filePath().strip(),
            store=self.store_widget.filePath().strip(),
            k=self.k_box.value(),
        ).save()


def _found_by_itself() -> str:
    try:
        return find_command("")
    except CommandNotFoundError:
        return "not found on the PATH"
