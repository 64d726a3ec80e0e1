"""The dock's session: which jobs run beside each other, and who hears of their end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

WAIT_S = 30


class Heard:
    """All that a session has signalled."""

    def __init__(self, session) -> None:
        self.exported, self.failed, self.cancelled, self.found = [], [], [], []
        session.exported.connect(self.exported.append)
        session.failed.connect(lambda error: self.failed.append(str(error)))
        session.cancelled.connect(self.cancelled.append)
        session.found.connect(self.found.append)


@pytest.fixture
def session(terrakin):  # noqa: ARG001 - makes the package importable
    from terrakin.gui.session import Session

    made = Session()
    yield made
    made.close()


@pytest.fixture
def heard(session):
    return Heard(session)


@pytest.fixture
def spin(qgis):
    """Let Qt work until a condition holds."""
    import time

    def run(condition) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            qgis.processEvents()
            time.sleep(0.01)

    return run


@pytest.fixture
def places(terrakin):  # noqa: ARG001
    from qgis.core import QgsFeature, QgsGeometry, QgsVectorLayer

    layer = QgsVectorLayer("MultiPolygon?crs=EPSG:4326&field=rank:integer", "places", "memory")
    feature = QgsFeature(layer.fields())
    feature.setGeometry(QgsGeometry.fromWkt("MultiPolygon(((0 0, 1 0, 1 1, 0 0)))"))
    feature.setAttributes([1])
    layer.dataProvider().addFeatures([feature])
    return layer


@pytest.fixture
def slow_export(monkeypatch):
    """Real exports that begin only when the test says so, or end when they are cancelled."""
    from terrakin.core.errors import CancelledError
    from terrakin.gui import session as module

    go, real = threading.Event(), module.export_geopackage

    def export(source, path, is_cancelled, set_progress):
        while not go.wait(0.01):
            if is_cancelled():
                raise CancelledError("stopped")
        return real(source, path, is_cancelled, set_progress)

    monkeypatch.setattr(module, "export_geopackage", export)
    yield go
    go.set()


def request(**changes):
    from terrakin.core.wire import SearchRequest

    values = {"collection": "kin", "lon": 13.914, "lat": 45.283, "k": 5, "exclude_m": 0.0}
    return SearchRequest(**{**values, **changes})


def connect(session, running, spin) -> None:
    from terrakin.gui.session import Phase

    session.connect_to(str(running.ready_path))
    spin(lambda: session.phase is Phase.READY)


def test_an_export_goes_on_beside_everything_else(
    session, heard, spin, server, places, slow_export, tmp_path
):
    from terrakin.gui.session import Phase

    connect(session, server, spin)
    session.export(places, str(tmp_path / "places.gpkg"))
    session.search(request())
    spin(lambda: heard.found)
    session.refresh()
    assert session.job.description().startswith("Connecting")
    spin(lambda: session.phase is Phase.READY)
    session.stop()
    assert session.phase is Phase.OFF
    connect(session, server, spin)
    assert session.job.description() == "Exporting to places.gpkg"
    slow_export.set()
    spin(lambda: heard.exported)
    assert (tmp_path / "places.gpkg").exists()
    assert (heard.cancelled, heard.failed, session.job) == ([], [], None)


def test_algorithms_take_the_server_of_the_panel(
    session, spin, command, data, tmp_path, monkeypatch
):
    from qgis.core import QgsProcessingContext, QgsProcessingFeedback
    from terrakin.algorithms.similar_places import SimilarPlaces
    from terrakin.gui.session import Phase

    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    store = str(data / "store")

    def told() -> str:
        values = {"SERVER": "", "STORE": f"{store}/", "COLLECTION": "kin", "K": 3}
        values |= {"POINT": "13.914,45.283 [EPSG:4326]"}
        values |= {"OUTPUT": str(tmp_path / "kin.gpkg")}
        feedback = QgsProcessingFeedback()
        _, done = SimilarPlaces().create().run(values, QgsProcessingContext(), feedback)
        assert done, feedback.textLog()
        return feedback.textLog()

    session.start_server(str(command), store)
    spin(lambda: session.phase is Phase.READY)
    assert "Starting a server" not in told()
    session.stop()
    assert "Starting a server" in told()
    spin(lambda: session.phase is Phase.OFF)


def test_an_export_that_another_replaces_is_announced(
    session, heard, spin, places, slow_export, tmp_path
):
    session.export(places, str(tmp_path / "first.gpkg"))
    session.export(places, str(tmp_path / "second.gpkg"))
    spin(lambda: heard.cancelled)
    assert heard.cancelled == ["Exporting to first.gpkg: cancelled."]
    slow_export.set()
    spin(lambda: heard.exported)
    assert [path.name for path in tmp_path.iterdir()] == ["second.gpkg"]
    assert session.job is None


@pytest.mark.usefixtures("slow_export")
def test_cancel_stops_the_job_that_is_shown(session, heard, spin, own_server, places, tmp_path):
    connect(session, own_server, spin)
    session.export(places, str(tmp_path / "places.gpkg"))
    os.kill(own_server.process.pid, signal.SIGSTOP)
    session.search(request())
    assert session.job.description().startswith("Searching")
    session.cancel()
    spin(lambda: heard.cancelled)
    assert heard.cancelled == ["Searching similar places: cancelled."]
    assert session.job.description() == "Exporting to places.gpkg"
    session.cancel()
    spin(lambda: session.job is None)
    assert heard.cancelled[1:] == ["Exporting to places.gpkg: cancelled."]
    os.kill(own_server.process.pid, signal.SIGCONT)


def test_a_new_search_takes_the_place_of_the_running_one_in_silence(
    session, heard, spin, own_server
):
    connect(session, own_server, spin)
    os.kill(own_server.process.pid, signal.SIGSTOP)
    session.search(request(k=3))
    session.search(request(k=4))
    os.kill(own_server.process.pid, signal.SIGCONT)
    spin(lambda: heard.found and session.job is None)
    assert [len(result.features) for result in heard.found] == [4]
    assert heard.cancelled == []


def test_an_export_that_fails_leaves_the_server_connected(
    session, heard, spin, server, places, tmp_path
):
    from terrakin.gui.session import Phase

    connect(session, server, spin)
    session.export(places, str(tmp_path / "missing" / "places.gpkg"))
    spin(lambda: heard.failed)
    assert "cannot be written" in heard.failed[0]
    assert session.phase is Phase.READY
