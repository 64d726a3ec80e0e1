"""Start ``terrakin serve`` as a child of QGIS and stop it.

The server gets ``--stop-with-stdin`` and its standard input is our end of a pipe, so the
operating system stops it however QGIS ends.
"""

from __future__ import annotations

import os
from collections import deque
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Callable

from qgis.PyQt.QtCore import (
    QDir,
    QProcess,
    QProcessEnvironment,
    QStandardPaths,
    QTemporaryDir,
)

from .errors import CancelledError, CommandNotFoundError, ReadyFileError, ServerStartError
from .wire import ReadyFile

COMMAND = "terrakin"
READY_WITHIN_S = 60.0
STOP_WITHIN_MS = 6000
POLL_MS = 100
KEPT_LINES = 40

QGIS_ONLY_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONEXECUTABLE",
    "PYTHONSTARTUP",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "DYLD_FRAMEWORK_PATH",
    "DYLD_INSERT_LIBRARIES",
    "GDAL_DATA",
    "GDAL_DRIVER_PATH",
    "PROJ_LIB",
    "PROJ_DATA",
    "GEOTIFF_CSV",
    "QT_PLUGIN_PATH",
    "__PYVENV_LAUNCHER__",
)
"""QGIS bundles set these for their own libraries; another Python breaks with them."""


class State(Enum):
    """Where a server process stands."""

    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"


def find_command(configured: str) -> str:
    """Return the path of the command: the configured one, else the one on the PATH.

    Programs started from a desktop often lack the user's own folders on the PATH, so the places
    where pipx, uv and pip put commands are looked at too. Raises CommandNotFoundError.
    """
    if configured:
        if Path(configured).is_file() and os.access(configured, os.X_OK):
            return configured
        raise CommandNotFoundError(
            f"The Terrakin command set in the options, '{configured}', is not a program that can "
            "be run. Correct it in Settings > Options > Terrakin, or empty the field to look on "
            "the PATH."
        )
    found = QStandardPaths.findExecutable(COMMAND)
    found = found or QStandardPaths.findExecutable(COMMAND, _usual_folders())
    if found:
        return found
    raise CommandNotFoundError(
        f"The command '{COMMAND}' was not found on the PATH. Install it from Terrakin's repository "
        "(its README says how), or set its path in Settings > Options > Terrakin."
    )


def _usual_folders() -> list[str]:
    home = QDir.homePath()
    return [f"{home}/.local/bin", f"{home}/bin", "/opt/homebrew/bin", "/usr/local/bin"]


def server_environment() -> QProcessEnvironment:
    """Return QGIS's environment without what only QGIS's own libraries must see."""
    environment = QProcessEnvironment.systemEnvironment()
    for name in QGIS_ONLY_VARIABLES:
        environment.remove(name)
    environment.insert("PYTHONUTF8", "1")
    return environment


class ServerProcess:
    """One server on one store, started by the constructor and owned by this object.

    ``poll`` never blocks, so that the GUI can call it from a timer; ``wait_ready`` blocks, for
    Processing threads. Use an object in the thread that made it only. Raises
    CommandNotFoundError.
    """

    def __init__(
        self, command: str, store: str, on_line: Callable[[str], None] | None = None
    ) -> None:
        self.store = store
        self.ready: ReadyFile | None = None
        self._command = find_command(command)
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self._folder = QTemporaryDir()
        self._ready_path = self._folder.filePath("ready.json")
        self._deadline = monotonic() + READY_WITHIN_S
        self._process = QProcess()
        self._process.setProcessEnvironment(server_environment())
        self._process.setStandardOutputFile(QProcess.nullDevice())
        self._process.readyReadStandardError.connect(self._read_messages)
        self._process.start(
            self._command,
            [
                "serve",
                "--store",
                QDir.toNativeSeparators(store),
                "--port",
                "0",
                "--ready-file",
                QDir.toNativeSeparators(self._ready_path),
                "--stop-with-stdin",
            ],
        )

    @property
    def pid(self) -> int:
        """The process id; 0 once the process has ended."""
        return int(self._process.processId())

    def poll(self) -> State:
        """Return where the server stands. Raises ServerStartError if it failed to start."""
        if self._process.state() == QProcess.ProcessState.NotRunning:
            self._read_messages()
            if self.ready is None:
                raise ServerStartError(self._why_not_started())
            return State.ENDED
        if self.ready is not None:
            return State.READY
        if self._read_ready_file():
            return State.READY
        if monotonic() > self._deadline:
            self.stop()
            raise ServerStartError(
                f"The server on '{self.store}' was not ready within {READY_WITHIN_S:.0f} s and "
                f"was stopped. {self._last_words()}"
            )
        return State.STARTING

    def wait_ready(self, is_cancelled: Callable[[], bool]) -> ReadyFile:
        """Wait until the server is ready. Raises ServerStartError or CancelledError."""
        while self.poll() == State.STARTING:
            if is_cancelled():
                self.stop()
                raise CancelledError("The start of the server was cancelled.")
            self._process.waitForFinished(POLL_MS)
        if self.ready is None:
            raise ServerStartError(self._why_not_started())
        return self.ready

    def last_messages(self) -> str:
        """Return the last lines that the server wrote to its standard error."""
        self._read_messages()
        return "\n".join(self._lines)

    def ask_to_stop(self) -> None:
        """Close the server's input, which ends it in a moment. Does not wait."""
        self._process.closeWriteChannel()

    def stop(self, patience_ms: int = STOP_WITHIN_MS) -> None:
        """Stop the server: close its input, wait, then insist. Safe to call twice."""
        if self._process.state() != QProcess.ProcessState.NotRunning:
            self.ask_to_stop()
            if not self._process.waitForFinished(patience_ms):
                self._process.terminate()
                if not self._process.waitForFinished(patience_ms // 2):
                    self._process.kill()
                    self._process.waitForFinished(STOP_WITHIN_MS)
        self._read_messages()
        self._folder.remove()

    def _read_ready_file(self) -> bool:
        # The server renames the finished file into place; on a file system where that is not
        # atomic a half file may be seen, so an unreadable one is read again at the next poll.
        if not Path(self._ready_path).exists():
            return False
        try:
            self.ready = ReadyFile.read(self._ready_path)
        except ReadyFileError:
            return False
        return True

    def _read_messages(self) -> None:
        data = self._rest + bytes(self._process.readAllStandardError())
        *lines, self._rest = data.split(b"\n")
        if self._process.state() == QProcess.ProcessState.NotRunning and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._lines.append(text)
                if self._on_line is not None:
                    self._on_line(text)

    def _why_not_started(self) -> str:
        if self._process.error() == QProcess.ProcessError.FailedToStart:
            return (
                f"'{self._command}' could not be started ({self._process.errorString()}). Set "
                "the path of the terrakin command in Settings > Options > Terrakin."
            )
        return (
            f"The server on '{self.store}' ended as it started (exit code "
            f"{self._process.exitCode()}). {self._last_words()}"
        )

    def _last_words(self) -> str:
        last = " / ".join(list(self._lines)[-3:])
        return f"It said: {last}" if last else "It wrote no message."
