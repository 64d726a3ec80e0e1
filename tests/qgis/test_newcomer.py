"""A first start without any set-up: press Start and search the world."""

from __future__ import annotations

import time

import pytest

WAIT_S = 60


@pytest.fixture
def panel(terrakin, command):  # noqa: ARG001 - makes the package importable
    """A dock with its session, and settings as in a fresh profile (but for the command)."""
    from qgis.core import QgsSettings
    from qgis.PyQt.QtWidgets import QAction, QMainWindow
    from terrakin.gui.dock import Dock
    from terrakin.gui.session import Session

    QgsSettings().remove("terrakin")
    window = QMainWindow()
    session = Session(window)
    dock = Dock(session, QAction("Find", window), window)
    yield dock, session
    session.close()
    QgsSettings().remove("terrakin")


def spin(qgis, condition) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        qgis.processEvents()
        time.sleep(0.01)


def test_start_can_be_pressed_at_once_and_means_the_default_folder(panel):
    from terrakin.core.settings import Settings

    dock, _ = panel
    asked = []
    dock.start_asked.connect(asked.append)
    assert dock.store_widget.filePath() == ""
    assert dock.store_widget.lineEdit().placeholderText() == Settings().store_folder
    dock.start_button.click()
    dock.store_widget.setFilePath(" /elsewhere ")
    dock.start_button.click()
    assert asked == [Settings().store_folder, "/elsewhere"]


def test_the_world_is_chosen_where_it_is_alone_and_can_be_searched(panel, qgis, command, tmp_path):
    from qgis.core import QgsCoordinateReferenceSystem, QgsProject
    from qgis.gui import QgsMapCanvas
    from terrakin.core.wire import SearchRequest
    from terrakin.gui.results import zoom_to
    from terrakin.gui.session import Phase

    dock, session = panel
    found, failed = [], []
    session.found.connect(found.append)
    session.failed.connect(failed.append)
    session.start_server(str(command), str(tmp_path / "new" / "store"))
    spin(qgis, lambda: session.phase is Phase.READY or failed)
    assert failed == []
    assert (dock.form().collection, dock.find_button.isEnabled()) == ("world", True)
    assert "233,863 places" in dock.collection_label.text()
    session.search(SearchRequest("world", 8.2, 46.6, 40, 1_000_000.0))
    spin(qgis, lambda: found or failed)
    assert failed == []
    assert len(found[0].features) == 40
    canvas = QgsMapCanvas()
    canvas.resize(800, 600)
    for authid, turn in (("EPSG:4326", 360.0), ("EPSG:3857", 40_075_017.0)):
        canvas.setDestinationCrs(QgsCoordinateReferenceSystem(authid))
        assert zoom_to(canvas, found[0])
        assert 0.3 * turn < canvas.extent().width() < 1.3 * turn
    assert QgsProject.instance().count() == 0


def test_collections_of_ones_own_come_first(panel, qgis, server):
    from terrakin.gui.session import Phase

    dock, session = panel
    session.connect_to(str(server.ready_path))
    spin(qgis, lambda: session.phase is Phase.READY)
    offered = {dock.collection_box.itemData(i) for i in range(dock.collection_box.count())}
    assert offered == {"dateline", "kin", "world"}
    assert dock.form().collection == "dateline"
