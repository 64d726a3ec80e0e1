"""The dock's connection to a server and the work in progress. No widgets.

Nothing here blocks: a server is started and watched by a timer, requests run as jobs.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any, Callable

from qgis.core import QgsApplication, QgsProject, QgsVectorLayer
from qgis.PyQt.QtCore import QObject, QTimer, pyqtSignal

from ..core import shared
from ..core.client import Client
from ..core.errors import PluginError, ServerLostError, ServerNotRunningError
from ..core.export import ExportSource, export_geopackage
from ..core.layers import Result
from ..core.server_process import STOP_WITHIN_MS, ServerProcess, State
from ..core.tasks import Cancelled, Done, Failed, Job, Outcome, log
from ..core.wire import Collection, ReadyFile, SearchRequest

POLL_MS = 200


class Phase(Enum):
    """Where the connection stands."""

    OFF = "off"
    STARTING = "starting"
    CONNECTING = "connecting"
    READY = "ready"
    STOPPING = "stopping"


class Kind(Enum):
    """What a job does. Jobs of different kinds run side by side."""

    CONNECT = "connect"
    SEARCH = "search"
    EXPORT = "export"


NEED_SERVER = (Kind.CONNECT, Kind.SEARCH)


class Session(QObject):
    """One server at a time, one job of a kind at a time: a new search takes the place of the
    running one. An export needs no server and goes on whatever becomes of it."""

    changed = pyqtSignal()
    """Phase, collections or job are not what they were."""
    found = pyqtSignal(object)
    """A Result has arrived."""
    exported = pyqtSignal(str)
    failed = pyqtSignal(object)
    """A PluginError for the user."""
    cancelled = pyqtSignal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.phase = Phase.OFF
        self.server: ReadyFile | None = None
        self.process: ServerProcess | None = None
        self.collections: list[Collection] = []
        self._current: dict[Kind, Job] = {}
        self._jobs: set[Job] = set()
        self._stop_deadline = 0.0
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._watch)

    @property
    def job(self) -> Job | None:
        """The job that the panel shows and ``cancel`` stops: connecting, else the newest."""
        if self.phase is Phase.STARTING:
            return None
        newest = next(reversed(list(self._current.values())), None)
        return self._current.get(Kind.CONNECT, newest)

    def start_server(self, command: str, store: str) -> None:
        """Start a server on a store folder and connect to it."""
        self._leave()
        try:
            self.process = ServerProcess(command, store, log)
        except PluginError as error:
            self.failed.emit(error)
            return
        self._timer.start()
        self._enter(Phase.STARTING)

    def connect_to(self, ready_path: str) -> None:
        """Connect to a running server by its ready file."""
        self._leave()
        try:
            server = ReadyFile.read(ready_path)
        except PluginError as error:
            self._enter(Phase.OFF)
            self.failed.emit(error)
            return
        self._connect(server)

    def stop(self) -> None:
        """Leave the server; stop it if it was started here."""
        shared.take_back()
        self._drop_jobs(NEED_SERVER)
        self.collections = []
        if self.process is None:
            self.server = None
            self._enter(Phase.OFF)
            return
        self.process.ask_to_stop()
        self._stop_deadline = monotonic() + STOP_WITHIN_MS / 1000
        self._enter(Phase.STOPPING)

    def refresh(self) -> None:
        """Read the list of collections again."""
        if self.server is not None:
            self._connect(self.server)

    def search(self, request: SearchRequest) -> None:
        """Search; ``found`` or ``failed`` or ``cancelled`` follows."""
        server = self.server
        if server is None or self.phase is not Phase.READY:
            text = "No Terrakin server is connected. Start one in the Terrakin panel first."
            self.failed.emit(ServerNotRunningError(text))
            return

        def work(job: Job) -> Result:
            return Result.of(request, Client(server, job.isCanceled).search(request))

        self._run(Kind.SEARCH, "Searching similar places", work, self.found.emit)

    def export(self, layer: QgsVectorLayer, path: str) -> None:
        """Write a result to a GeoPackage; ``exported`` or ``failed`` or ``cancelled`` follows."""
        source = ExportSource.of(layer, QgsProject.instance().transformContext())

        def work(job: Job) -> str:
            return export_geopackage(source, path, job.isCanceled, job.setProgress)

        self._run(Kind.EXPORT, f"Exporting to {Path(path).name}", work, self.exported.emit)

    def cancel(self) -> None:
        """Stop the start of the server, or the job that is shown."""
        if self.phase in (Phase.STARTING, Phase.CONNECTING):
            self.stop()
            self.cancelled.emit("Connecting to the server was cancelled.")
        elif self.job is not None:
            self.job.cancel()

    def close(self) -> None:
        """End everything before the plugin or QGIS goes away. May take a few seconds."""
        self.blockSignals(True)
        self._timer.stop()
        jobs = list(self._jobs)
        if Kind.EXPORT in self._current:
            log(f"{self._current[Kind.EXPORT].description()}: cancelled, the plugin is closing.")
        self._drop_jobs(tuple(Kind))
        for job in jobs:
            job.waitForFinished(STOP_WITHIN_MS)
        self._leave()

    def _connect(self, server: ReadyFile) -> None:
        def work(job: Job) -> list[Collection]:
            client = Client(server, job.isCanceled)
            client.check()
            return client.collections()

        def connected(collections: list[Collection]) -> None:
            self.server, self.collections = server, collections
            if self.process is not None:
                shared.lend(self.process.store, server)
            self._enter(Phase.READY)

        self.phase = Phase.CONNECTING
        self._run(Kind.CONNECT, "Connecting to the Terrakin server", work, connected)

    def _run(
        self,
        kind: Kind,
        title: str,
        work: Callable[[Job], Any],
        on_done: Callable[[Any], None],
    ) -> None:
        job = Job(title, work, self._finish(kind, on_done))
        replaced = self._current.pop(kind, None)
        if replaced is not None:
            replaced.cancel()
        self._current[kind] = job
        self._jobs.add(job)
        job.progressChanged.connect(self.changed)
        QgsApplication.taskManager().addTask(job)
        self.changed.emit()

    def _finish(self, kind: Kind, on_done: Callable[[Any], None]) -> Callable[[Job, Outcome], None]:
        """Return what to do at the end of a job.

        A search that was replaced is forgotten: its successor answers for it. An export is not:
        the user must hear that a file was not written.
        """

        def finish(job: Job, outcome: Outcome) -> None:
            self._jobs.discard(job)
            if self._current.get(kind) is job:
                del self._current[kind]
            elif kind is not Kind.EXPORT:
                return
            if isinstance(outcome, Done):
                on_done(outcome.value)
            elif isinstance(outcome, Failed):
                self._fail(outcome.error, kind)
            elif isinstance(outcome, Cancelled):
                self.cancelled.emit(f"{job.description()}: cancelled.")
            self.changed.emit()

        return finish

    def _fail(self, error: PluginError, kind: Kind) -> None:
        gone = isinstance(error, (ServerLostError, ServerNotRunningError))
        if kind is Kind.CONNECT or gone:
            self.stop()
        self.failed.emit(error)

    def _watch(self) -> None:
        """Follow the server process: starting, ready, ended."""
        if self.process is None:
            self._timer.stop()
            return
        try:
            state = self.process.poll()
        except PluginError as error:
            stopping = self.phase is Phase.STOPPING
            self._leave()
            self._enter(Phase.OFF)
            if not stopping:
                self.failed.emit(error)
            return
        if self.phase is Phase.STOPPING:
            if state is State.ENDED or monotonic() > self._stop_deadline:
                self._leave(patience_ms=0)
                self._enter(Phase.OFF)
        elif state is State.ENDED:
            self._fail(self._ended(), Kind.CONNECT)
        elif state is State.READY and self.phase is Phase.STARTING and self.process.ready:
            self._connect(self.process.ready)

    def _ended(self) -> ServerLostError:
        said = self.process.last_messages().splitlines()[-1:] if self.process else []
        last = f" Its last message: {said[0]}" if said else ""
        return ServerLostError(f"The server stopped. Start it again.{last}")

    def _leave(self, patience_ms: int = STOP_WITHIN_MS) -> None:
        shared.take_back()
        self._drop_jobs(NEED_SERVER)
        self._timer.stop()
        if self.process is not None:
            self.process.stop(patience_ms)
        self.process, self.server, self.collections = None, None, []
        self.phase = Phase.OFF

    def _drop_jobs(self, kinds: tuple[Kind, ...]) -> None:
        for job in [self._current.pop(kind) for kind in kinds if kind in self._current]:
            job.cancel()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.changed.emit()
