"""``serve``: run one server until it is told to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from threadpoolctl import threadpool_limits

from embed_server.app import create_app
from embed_server.errors import PortTakenError, StdinMissingError
from embed_server.ready_file import ReadyFile, default_path
from embed_server.settings import HOST, Settings
from embeddings import __version__

logger = logging.getLogger(__name__)

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

BACKLOG = 128
ANSWER_WAIT_S = 5
"""How long requests in flight may take to finish when the server stops."""


def serve(settings: Settings) -> int:
    """Serve ``settings.store`` until a signal, or the end of standard input, says stop.

    Prints one line of JSON on standard output when requests are accepted; logs go to standard
    error. Returns the exit code: 0 after a stop, 130 after Ctrl-C, 1 if the start failed.

    Raises PortTakenError, ReadyFileError, StdinMissingError or StoreError.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    if settings.server.stop_with_stdin and sys.stdin is None:
        raise StdinMissingError(
            "--stop-with-stdin stops the server when its standard input closes, but it was "
            "started without one. Start it with a pipe as standard input."
        )
    with bound_socket(settings.server.port) as listener:
        settled = settings.at_port(listener.getsockname()[1])
        server = Server(settled)
        # Requests run side by side already. To share out the small products of a search as well
        # takes 0.1 ms less on an idle machine, and several more on a busy one.
        with server.announced(), threadpool_limits(1, user_api="blas"):
            server.run(sockets=[listener])
    return server.exit_code


@contextmanager
def bound_socket(port: int) -> Iterator[socket.socket]:
    """Listen on the loopback; 0 takes a free port. Raises PortTakenError.

    Listening begins here, not when the application is ready: two servers that only bind could
    share the port until then.
    """
    # Where the protocol is not named, asyncio leaves Nagle's algorithm on, and every answer waits
    # 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        # SO_REUSEADDR lets a restarted server have its port back on POSIX; on Windows it would
        # let two programs share one, and SO_EXCLUSIVEADDRUSE forbids that.
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise PortTakenError(
                f"Port {port} on {HOST} cannot be used: {error.strerror or error}. Another "
                "program may have it. Choose another port, or --port 0 for a free one."
            ) from error
        yield listener


class Server(uvicorn.Server):
    """uvicorn, with our ready file, our ways of stopping and our exit code."""

    def __init__(self, settings: Settings) -> None:
        config = uvicorn.Config(
            create_app(settings),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            http="httptools",
            loop="asyncio",
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=ANSWER_WAIT_S,
        )
        super().__init__(config)
        self.exit_code = EXIT_FAILED
        self._settings = settings
        self._path = settings.server.ready_file or default_path(settings.server.port)
        self._path = self._path.absolute()
        self._ready = ReadyFile(
            url=settings.server.url,
            token=settings.security.token.get_secret_value(),
            pid=os.getpid(),
            version=__version__,
        )

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Write the ready file, and make sure that it does not outlive the block.

        The socket listens already, so requests that come before the application is ready wait.
        Raises ReadyFileError.
        """
        self._ready.write(self._path)
        try:
            yield
        finally:
            self._ready.remove(self._path)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the line; who reads it finds the ready file."""
        await super().startup(sockets=sockets)
        self.exit_code = EXIT_DONE
        print(json.dumps(self._ready.announcement(self._path)), flush=True)
        if self._settings.server.stop_with_stdin:
            stop_with_stdin(self.stop)

    def stop(self) -> None:
        """Ask for a graceful stop, from any thread."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on SIGINT, SIGTERM and SIGBREAK.

        uvicorn's own version raises the signal again at the end, which would end the process
        before the ready file is removed and with another exit code.
        """
        names = ("SIGINT", "SIGTERM", "SIGBREAK")
        signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self._on_signal) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            self.exit_code = EXIT_INTERRUPTED
            self.force_exit = self.should_exit
        self.should_exit = True


def stop_with_stdin(stop: Callable[[], None]) -> threading.Thread:
    """Call ``stop`` when standard input closes. What is written there is ignored."""
    descriptor = sys.stdin.fileno()

    def watch() -> None:
        # os.read, not sys.stdin.read: a thread inside the latter holds a lock that the
        # interpreter needs to end.
        try:
            while os.read(descriptor, 4096):
                pass
        except OSError as error:
            logger.warning("Standard input failed (%s).", error)
        logger.info("Standard input is closed: stopping.")
        stop()

    thread = threading.Thread(target=watch, name="terrakin-stdin", daemon=True)
    thread.start()
    return thread
