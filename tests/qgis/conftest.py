"""Real QGIS, the packaged plugin, the real server. Run with QGIS's own Python.

The server's command is taken from TERRAKIN_COMMAND, else from the repository's .venv.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.dont_write_bytecode = True
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_S = 60


def _package_script():
    spec = importlib.util.spec_from_file_location("package", ROOT / ".ci" / "package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def command() -> Path:
    """The server's command."""
    path = Path(os.environ.get("TERRAKIN_COMMAND", ROOT / ".venv" / "bin" / "terrakin"))
    if not path.exists():
        pytest.fail(f"{path} does not exist: set up .venv, or set TERRAKIN_COMMAND.")
    return path


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """The plugin's zip as `make package` builds it."""
    return _package_script().build(ROOT, tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def plugins_folder(package, tmp_path_factory) -> Path:
    """A folder that holds the unzipped package, as a profile's python/plugins does."""
    folder = tmp_path_factory.mktemp("plugins")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))
    return folder


@pytest.fixture(scope="session")
def qgis(tmp_path_factory):
    """A QgsApplication with its own empty profile."""
    profile = tmp_path_factory.mktemp("profile")
    os.environ["QGIS_CUSTOM_CONFIG_PATH"] = str(profile)
    from qgis.core import QgsApplication, QgsMapLayer
    from qgis.PyQt import sip
    from qgis.PyQt.QtCore import QCoreApplication, QSettings

    QCoreApplication.setOrganizationName("terrakin-test")
    QCoreApplication.setApplicationName("terrakin-test")
    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(profile))
    application = QgsApplication([], True, str(profile))
    application.initQgis()
    yield application
    # PyQGIS keeps what an algorithm raised, and with it the frames of a test and its layers. They
    # must go while there are providers.
    for layer in (each for each in gc.get_objects() if isinstance(each, QgsMapLayer)):
        if not sip.isdeleted(layer) and sip.ispyowned(layer):
            sip.delete(layer)
    application.exitQgis()


@pytest.fixture(scope="session")
def terrakin(qgis, plugins_folder):  # noqa: ARG001 - QGIS must be up before the plugin loads
    """The plugin, imported under its packaged name from the unzipped package."""
    import terrakin

    assert Path(terrakin.__file__).is_relative_to(plugins_folder)
    return terrakin


@pytest.fixture(scope="session")
def data(command, tmp_path_factory) -> Path:
    """A folder with seeded scenes and a store of two collections, `kin` and `dateline`."""
    folder = tmp_path_factory.mktemp("data")
    python = shutil.which("python", path=str(command.parent)) or str(command.parent / "python")
    subprocess.run([python, str(HERE / "make_store.py"), str(folder)], check=True, timeout=300)
    return folder


@dataclass
class RunningServer:
    """A real server, started without the plugin."""

    process: subprocess.Popen
    ready_path: Path

    def ready(self) -> dict:
        return json.loads(self.ready_path.read_text())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


def launch(command: Path, store: Path, folder: Path) -> RunningServer:
    """Start a server and wait until it is ready."""
    ready_path = folder / "ready.json"
    process = subprocess.Popen(
        [
            *(str(command), "serve", "--store", str(store), "--port", "0"),
            *("--ready-file", str(ready_path), "--stop-with-stdin"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    wait_for(ready_path.exists, START_S)
    return RunningServer(process, ready_path)


@pytest.fixture(scope="session")
def server(command, data, tmp_path_factory):
    """A server that stays up for all tests."""
    running = launch(command, data / "store", tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture
def own_server(command, data, tmp_path):
    """A server that a test may hurt."""
    running = launch(command, data / "store", tmp_path)
    yield running
    running.process.kill()
    running.process.wait(30)


def wait_for(condition, seconds: float) -> None:
    """Poll until the condition holds; fail after the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not hold within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def until():
    """The function `wait_for`."""
    return wait_for


@pytest.fixture
def direct_search(server):
    """Search without the plugin: what the plugin's results are compared with."""
    import urllib.request

    def search(collection: str, body: dict) -> dict:
        ready = server.ready()
        request = urllib.request.Request(
            f"{ready['url']}/collections/{collection}/search",
            data=json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {ready['token']}",
                "Content-Type": "application/json",
            },
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)

    return search
