"""Start the QGIS desktop under Xvfb with the packaged plugin and a drive. Needs no QGIS here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DRIVE_S = 300
SCREEN = "-screen 0 1600x1000x24"
INI = """\
[PythonPlugins]
terrakin=true
[qgis]
checkVersion=false
showTips{short}=false
firstRunVersionFlag={version}
[core]
NewsFeed\\httpsfeedqgisorg\\disabled=true
[proxy]
proxyEnabled=true
proxyType=HttpProxy
proxyHost=127.0.0.1
proxyPort=9
[terrakin]
command={command}
"""


def write_profile(folder: Path, package: Path, command: Path, version: int) -> None:
    """Make a QGIS profile named `test` with the unzipped package, as a user would have it."""
    profile = folder / "profiles" / "test"
    plugins = profile / "python" / "plugins"
    plugins.mkdir(parents=True)
    with zipfile.ZipFile(package) as archive:
        archive.extractall(plugins)
    (profile / "QGIS").mkdir()
    ini = INI.format(command=command, version=version, short=version // 100)
    (profile / "QGIS" / "QGIS3.ini").write_text(ini)


class Desktop:
    """A QGIS desktop under Xvfb and what its drive has written so far.

    ``config`` names the folders ``data`` and ``out``, and in ``steps`` the module with the steps.
    ``variables`` are added to QGIS's environment.
    """

    def __init__(self, folder: Path, config: dict, **variables: str) -> None:
        self.out = Path(config["out"])
        (folder / "config.json").write_text(json.dumps({**config, "code": str(HERE)}))
        environment = {
            **{key: value for key, value in os.environ.items() if key != "QT_QPA_PLATFORM"},
            "TERRAKIN_DRIVE": str(folder / "config.json"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # What a QGIS bundle would set; the server must not inherit it.
            "PYTHONPATH": str(folder / "not-for-the-server"),
            "GDAL_DATA": str(folder / "not-for-the-server"),
            **variables,
        }
        environment.pop("QGIS_CUSTOM_CONFIG_PATH", None)
        self.log = (folder / "qgis.log").open("wb")
        self.process = subprocess.Popen(
            [
                *("xvfb-run", "-a", "-s", SCREEN, "qgis", "--nologo", "--noversioncheck"),
                *("--profiles-path", str(folder), "--profile", "test"),
                *("--code", str(HERE / "drive.py")),
            ],
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def seen(self) -> dict:
        path = self.out / "seen.json"
        return json.loads(path.read_text()) if path.exists() else {"state": "starting"}

    def wait(self) -> dict:
        deadline = time.monotonic() + DRIVE_S
        while self.seen()["state"] not in ("done", "failed"):
            assert self.process.poll() is None, f"QGIS ended: see {self.log.name}"
            assert time.monotonic() < deadline, f"not done after {DRIVE_S} s: {self.seen()}"
            time.sleep(0.2)
        return self.seen()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.log.close()
