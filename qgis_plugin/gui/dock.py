"""The panel: server, search, result."""

from __future__ import annotations

from dataclasses import dataclass

from qgis.core import QgsApplication
from qgis.gui import QgsDockWidget, QgsFileWidget
from qgis.PyQt.QtCore import QSize, Qt, pyqtSignal
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import (
    QAction,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from ..core.layers import Result
from ..core.provenance import percent_text
from ..core.settings import Settings
from ..core.version import icon_path
from ..core.wire import MAX_K, Collection, first_choice
from .session import Phase, Session

MAX_EXCLUDE_M = 1_000_000.0
DOT_COLOURS = {
    Phase.OFF: "#9e9e9e",
    Phase.STARTING: "#f5a623",
    Phase.CONNECTING: "#f5a623",
    Phase.READY: "#2e9e5b",
    Phase.STOPPING: "#f5a623",
}
STYLE = """
QLabel#title { font-size: 15pt; font-weight: 600; }
QLabel#subtle { color: palette(placeholder-text); }
QPushButton#find { font-size: 11pt; font-weight: 600; padding: 9px; border-radius: 6px;
                   border: 1px solid #5b2a86; background: #6c36a0; color: white; }
QPushButton#find:hover { background: #7d45b3; }
QPushButton#find:checked { background: #fb8c5a; border-color: #d96a38; color: #2a1233; }
QPushButton#find:disabled { background: palette(button); border-color: palette(mid);
                            color: palette(mid); }
"""


@dataclass(frozen=True)
class SearchForm:
    """What the user chose for the next search."""

    collection: str
    k: int
    exclude_m: float
    zoom: bool


class Dock(QgsDockWidget):
    """Shows the session and emits what the user asks for."""

    start_asked = pyqtSignal(str)
    """Start a server on this store folder."""
    connect_asked = pyqtSignal()
    export_asked = pyqtSignal()

    def __init__(self, session: Session, find_action: QAction, parent: QWidget) -> None:
        super().__init__("Terrakin", parent)
        self.setObjectName("TerrakinDock")
        self._session = session
        self._find_action = find_action
        settings = Settings.load()
        body = QWidget()
        body.setStyleSheet(STYLE)
        layout = QVBoxLayout(body)
        layout.setSpacing(10)
        for part in (
            self._header(),
            self._server_box(settings),
            self._search_box(settings),
            self._busy_row(),
            self._result_box(),
        ):
            layout.addWidget(part)
        layout.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(body)
        self.setWidget(scroll)
        frame = scroll.verticalScrollBar().sizeHint().width() + 2 * scroll.frameWidth()
        self.setMinimumWidth(body.minimumSizeHint().width() + frame)
        session.changed.connect(self.refresh)
        self.refresh()

    def form(self) -> SearchForm:
        """Return what the user chose."""
        return SearchForm(
            collection=self.collection_box.currentData() or "",
            k=self.k_box.value(),
            exclude_m=self.exclude_box.value(),
            zoom=self.zoom_box.isChecked(),
        )

    def show_result(self, result: Result) -> None:
        """Sum up the newest result."""
        places = result.answer.places
        if places:
            best, last = places[0].similarity, places[-1].similarity
            span = f"similarity {best:.3f} down to {last:.3f}"
            if places[-1].percentile is not None:
                percent = percent_text(places[-1].percentile)
                span += f", all more alike than {percent} % of random pairs"
        else:
            span = "nothing found: lower the distance to leave out"
        there, complete = result.answer.matched, result.provenance.completeness
        self.result_label.setText(
            f"<b>{result.provenance.title}</b><br>{len(places):,} of "
            f"{result.answer.considered if there is None else there:,} places, {span}"
            + (f"<br>{complete}" if complete else "")
        )
        self.export_button.setEnabled(True)

    def refresh(self) -> None:
        """Bring all widgets in line with the session."""
        phase, job = self._session.phase, self._session.job
        self._show_server(phase)
        self._show_collections(self._session.collections)
        busy = job is not None or phase in (Phase.STARTING, Phase.CONNECTING, Phase.STOPPING)
        self.busy_row.setVisible(busy)
        if job is not None and job.progress() > 0:
            self.progress.setRange(0, 100)
            self.progress.setValue(int(job.progress()))
        else:
            self.progress.setRange(0, 0)
        self.busy_label.setText(job.description() if job else self._busy_text(phase))
        self.cancel_button.setEnabled(job is not None or phase is not Phase.STOPPING)

    def _header(self) -> QWidget:
        header = QWidget()
        row = QHBoxLayout(header)
        row.setContentsMargins(0, 0, 0, 0)
        logo = QLabel()
        logo.setPixmap(QIcon(icon_path("terrakin.svg")).pixmap(QSize(40, 40)))
        title, subtitle = QLabel("Terrakin"), QLabel("Find the places that are like this place")
        title.setObjectName("title")
        subtitle.setObjectName("subtle")
        subtitle.setWordWrap(True)
        texts = QVBoxLayout()
        texts.setSpacing(0)
        texts.addWidget(title)
        texts.addWidget(subtitle)
        row.addWidget(logo)
        row.addLayout(texts, 1)
        return header

    def _server_box(self, settings: Settings) -> QWidget:
        box = QGroupBox("Server")
        layout = QVBoxLayout(box)
        status = QHBoxLayout()
        self.dot = QLabel()
        self.dot.setFixedSize(12, 12)
        self.status_label = QLabel()
        self.status_label.setWordWrap(True)
        status.addWidget(self.dot)
        status.addWidget(self.status_label, 1)
        layout.addLayout(status)
        self.store_widget = QgsFileWidget()
        self.store_widget.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.store_widget.setDialogTitle("Store folder of Terrakin")
        self.store_widget.lineEdit().setPlaceholderText(Settings().store_folder)
        self.store_widget.setToolTip(
            "The folder of your collections; a new one is made. The world comes with the server."
        )
        self.store_widget.setFilePath(settings.store)
        layout.addWidget(self.store_widget)
        buttons = QHBoxLayout()
        self.start_button = QPushButton(_theme("mActionStart.svg"), "Start server")
        self.start_button.clicked.connect(
            lambda: self.start_asked.emit(
                Settings(store=self.store_widget.filePath().strip()).store_folder
            )
        )
        self.connect_button = QPushButton("Connect to running…")
        self.connect_button.setToolTip("Choose the ready file of a server that runs already")
        self.connect_button.clicked.connect(self.connect_asked)
        self.stop_button = QPushButton(_theme("mActionStop.svg"), "Stop server")
        self.stop_button.clicked.connect(self._session.stop)
        for button in (self.start_button, self.connect_button, self.stop_button):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        return box

    def _search_box(self, settings: Settings) -> QWidget:
        box = QGroupBox("Search")
        layout = QVBoxLayout(box)
        layout.addLayout(self._collection_rows())
        self.k_box = QSpinBox()
        self.k_box.setRange(1, MAX_K)
        self.k_box.setValue(settings.k)
        self.exclude_box = QDoubleSpinBox()
        self.exclude_box.setRange(0.0, MAX_EXCLUDE_M)
        self.exclude_box.setDecimals(0)
        self.exclude_box.setSingleStep(100)
        self.exclude_box.setSuffix(" m")
        self.exclude_box.setValue(settings.exclude_m)
        self.exclude_box.setToolTip("Leave out places whose centre is this near to the query")
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Number of places", self.k_box)
        form.addRow("Leave out within", self.exclude_box)
        layout.addLayout(form)
        self.zoom_box = QCheckBox("Zoom to the results")
        self.zoom_box.setChecked(settings.zoom)
        layout.addWidget(self.zoom_box)
        layout.addWidget(self._find_button())
        self.hint = QLabel("Click a place on the map.")
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setVisible(False)
        layout.addWidget(self.hint)
        return box

    def _collection_rows(self) -> QVBoxLayout:
        self.collection_box = QComboBox()
        self.collection_box.setSizePolicy(
            QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred
        )
        # A long title must not widen the panel.
        self.collection_box.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.collection_box.setMinimumContentsLength(12)
        self.collection_box.currentIndexChanged.connect(self._show_collection)
        self.reload_button = QToolButton()
        self.reload_button.setIcon(_theme("mActionRefresh.svg"))
        self.reload_button.setToolTip("Read the list of collections again")
        self.reload_button.clicked.connect(self._session.refresh)
        chooser = QHBoxLayout()
        chooser.addWidget(self.collection_box, 1)
        chooser.addWidget(self.reload_button)
        self.collection_label = QLabel()
        self.collection_label.setObjectName("subtle")
        self.collection_label.setWordWrap(True)
        rows = QVBoxLayout()
        rows.addWidget(QLabel("Collection"))
        rows.addLayout(chooser)
        rows.addWidget(self.collection_label)
        return rows

    def _find_button(self) -> QPushButton:
        self.find_button = QPushButton(QIcon(icon_path("find_light.svg")), " Find similar places")
        self.find_button.setObjectName("find")
        self.find_button.setCheckable(True)
        self.find_button.setIconSize(QSize(22, 22))
        self.find_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.find_button.clicked.connect(self._find_action.trigger)
        self._find_action.toggled.connect(self._show_tool)
        return self.find_button

    def _busy_row(self) -> QWidget:
        self.busy_row = QWidget()
        layout = QVBoxLayout(self.busy_row)
        layout.setContentsMargins(0, 0, 0, 0)
        self.busy_label = QLabel()
        layout.addWidget(self.busy_label)
        row = QHBoxLayout()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.clicked.connect(self._session.cancel)
        row.addWidget(self.progress, 1)
        row.addWidget(self.cancel_button)
        layout.addLayout(row)
        return self.busy_row

    def _result_box(self) -> QWidget:
        box = QGroupBox("Result")
        layout = QVBoxLayout(box)
        self.result_label = QLabel("No search yet.")
        self.result_label.setWordWrap(True)
        layout.addWidget(self.result_label)
        self.export_button = QPushButton(QIcon(icon_path("export.svg")), " Export to GeoPackage…")
        self.export_button.setEnabled(False)
        self.export_button.clicked.connect(self.export_asked)
        layout.addWidget(self.export_button)
        return box

    def _show_tool(self, active: bool) -> None:
        self.find_button.setChecked(active)
        self.hint.setVisible(active and self.find_button.isEnabled())

    def _show_server(self, phase: Phase) -> None:
        own, server = self._session.process, self._session.server
        self.dot.setStyleSheet(f"border-radius: 6px; background: {DOT_COLOURS[phase]};")
        address = server.url.partition("//")[2] if server else ""
        texts = {
            Phase.OFF: "Not connected",
            Phase.STARTING: "Starting the server…",
            Phase.CONNECTING: "Connecting…",
            Phase.READY: f"{'Running on' if own else 'Connected to'} {address}, version "
            f"{server.version if server else ''}",
            Phase.STOPPING: "Stopping the server…",
        }
        self.status_label.setText(texts[phase])
        off = phase is Phase.OFF
        self.store_widget.setEnabled(off)
        self.start_button.setVisible(off)
        self.connect_button.setVisible(off)
        self.stop_button.setVisible(not off)
        self.stop_button.setEnabled(phase is not Phase.STOPPING)
        self.stop_button.setText("Stop server" if own else "Disconnect")

    def _show_collections(self, collections: list[Collection]) -> None:
        shown = [self.collection_box.itemData(i) for i in range(self.collection_box.count())]
        if shown != [collection.id for collection in collections]:
            chosen = self.collection_box.currentData()
            self.collection_box.clear()
            for collection in collections:
                self.collection_box.addItem(collection.title, collection.id)
            first = first_choice(collections)
            if first is not None and self.collection_box.findData(chosen) < 0:
                chosen = first.id
            self.collection_box.setCurrentIndex(self.collection_box.findData(chosen))
        ready = self._session.phase is Phase.READY
        self.reload_button.setEnabled(ready)
        self.collection_box.setEnabled(ready)
        self._find_action.setEnabled(ready and bool(collections))
        self.find_button.setEnabled(ready and bool(collections))
        self.find_button.setToolTip(
            "Then click a place on the map" if ready else "Start a server first, or connect to one"
        )
        self._show_tool(self._find_action.isChecked())
        self._show_collection()

    def _show_collection(self) -> None:
        chosen = self.collection_box.currentData()
        found = [entry for entry in self._session.collections if entry.id == chosen]
        if found:
            text = describe(found[0])
        elif self._session.phase is Phase.READY:
            text = "The store is empty: make a collection with “terrakin embed raster”."
        else:
            text = "Connect to a server to see its collections."
        self.collection_label.setText(text)

    @staticmethod
    def _busy_text(phase: Phase) -> str:
        starting = "Starting the server" if phase is Phase.STARTING else "Stopping the server"
        return starting if phase in (Phase.STARTING, Phase.STOPPING) else ""


def describe(collection: Collection) -> str:
    """Return one line on a collection: size, model, time, licence."""
    parts = [f"{collection.item_count:,} places"]
    if collection.model:
        size = f", {collection.dim} dimensions" if collection.dim else ""
        parts.append(f"model {collection.model}{size}")
    days = [day[:10] for day in collection.interval if day]
    if days:
        parts.append(days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    if collection.licence:
        parts.append(collection.licence)
    return " · ".join(parts)


def _theme(name: str) -> QIcon:
    return QgsApplication.getThemeIcon(name)
