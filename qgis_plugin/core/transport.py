"""Send a request through QGIS's own network access and wait for the answer.

Meant for tasks and Processing threads: each thread has its own QgsNetworkAccessManager, and the
wait is an event loop of that thread.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Iterator

from qgis.core import QgsNetworkAccessManager
from qgis.PyQt.QtCore import QByteArray, QEventLoop, QTimer, QUrl
from qgis.PyQt.QtNetwork import QNetworkReply, QNetworkRequest

from .endpoints import Request
from .errors import (
    CancelledError,
    ServerError,
    ServerLostError,
    ServerNotRunningError,
    ServerTimeoutError,
)

POLL_MS = 100
QGIS_GRACE_MS = 1000
"""Our own deadline comes first, so that the error is ours."""


def send(request: Request, is_cancelled: Callable[[], bool]) -> tuple[int, bytes]:
    """Send a request; return the HTTP status and the body, whatever the status is.

    Raises ServerNotRunningError, ServerLostError, ServerTimeoutError, ServerError or
    CancelledError.
    """
    manager = QgsNetworkAccessManager.instance()
    with _loopback_without_proxy(manager, request.url):
        reply = manager.sendCustomRequest(
            _qt_request(request), request.method.encode("ascii"), QByteArray(request.body)
        )
        _outlast_qgis(reply, request.timeout_s)
        timed_out, sent = _wait(reply, request.timeout_s, is_cancelled)
    try:
        status = reply.attribute(QNetworkRequest.Attribute.HttpStatusCodeAttribute)
        lost = reply.error() == QNetworkReply.NetworkError.RemoteHostClosedError
        if status is None or lost or not reply.isFinished():
            raise _failure(reply, request, timed_out, sent, is_cancelled())
        return int(status), bytes(reply.readAll())
    finally:
        reply.deleteLater()


@contextmanager
def _loopback_without_proxy(manager: QgsNetworkAccessManager, url: str) -> Iterator[None]:
    """Let this thread's manager reach the address directly while the block runs.

    A proxy in QGIS's settings, in the system or in http_proxy cannot reach 127.0.0.1 of this
    machine. The list changed here lives in this thread's manager only: nothing is written to
    the user's settings, and the old list is put back. A proxy factory would not do: once one
    is installed, QGIS asks the system's proxies first, for all addresses.
    """
    before = manager.noProxyList()
    fallback, excluded = manager.fallbackProxy(), manager.excludeList()
    manager.setFallbackProxyAndExcludes(fallback, excluded, [*before, url])
    try:
        yield
    finally:
        manager.setFallbackProxyAndExcludes(fallback, excluded, before)


def _qt_request(request: Request) -> QNetworkRequest:
    qt_request = QNetworkRequest(QUrl(request.url))
    for name, value in request.headers.items():
        qt_request.setRawHeader(name.encode("ascii"), value.encode("ascii"))
    attribute = QNetworkRequest.Attribute
    qt_request.setAttribute(
        attribute.RedirectPolicyAttribute, QNetworkRequest.RedirectPolicy.ManualRedirectPolicy
    )
    qt_request.setAttribute(
        attribute.CacheLoadControlAttribute, QNetworkRequest.CacheLoadControl.AlwaysNetwork
    )
    qt_request.setAttribute(attribute.CacheSaveControlAttribute, False)
    manual = QNetworkRequest.LoadControl.Manual
    qt_request.setAttribute(attribute.CookieLoadControlAttribute, manual)
    qt_request.setAttribute(attribute.CookieSaveControlAttribute, manual)
    return qt_request


def _outlast_qgis(reply: QNetworkReply, timeout_s: float) -> None:
    """Let one reply be silent for its request's time, whatever QGIS's network options say.

    QGIS gives every reply a timer with the time of its options (60 s) that aborts it; Qt's own
    transfer timeout can only shorten that. The options stay as the user has set them.
    """
    timer = reply.findChild(QTimer, "timeoutTimer")
    if timer is not None:
        timer.start(int(timeout_s * 1000) + QGIS_GRACE_MS)


def _wait(
    reply: QNetworkReply, timeout_s: float, is_cancelled: Callable[[], bool]
) -> tuple[bool, bool]:
    """Wait for the reply to finish; abort it on cancel or timeout.

    Return whether the time ran out and whether a body had been sent to the server.
    """
    loop = QEventLoop()
    sent: list[int] = []
    reply.uploadProgress.connect(lambda done, _total: sent.append(done))
    reply.finished.connect(loop.quit)
    deadline = QTimer()
    deadline.setSingleShot(True)
    deadline.timeout.connect(reply.abort)
    deadline.start(int(timeout_s * 1000))
    poll = QTimer()
    poll.timeout.connect(lambda: reply.abort() if is_cancelled() else None)
    poll.start(POLL_MS)
    if not reply.isFinished():
        loop.exec()
    poll.stop()
    expired = not deadline.isActive()
    deadline.stop()
    return expired, any(sent)


def _failure(
    reply: QNetworkReply, request: Request, timed_out: bool, sent: bool, cancelled: bool
) -> ServerError | CancelledError:
    kind, error = QNetworkReply.NetworkError, reply.error()
    if cancelled:
        return CancelledError("The request was cancelled.")
    if timed_out or error in (kind.TimeoutError, kind.OperationCanceledError):
        return ServerTimeoutError(
            f"The server did not answer {request.url} within {request.timeout_s:g} s. It may be "
            "busy with a large collection: try again in a minute, or start it again."
        )
    if error == kind.RemoteHostClosedError or (sent and error == kind.ConnectionRefusedError):
        # When a connection breaks before the first byte of the answer, Qt tries once more.
        return ServerLostError(
            "The server stopped while it was answering. Start it again; its last messages are "
            "in the log panel, tab Terrakin."
        )
    if error == kind.ConnectionRefusedError:
        return ServerNotRunningError(
            f"No Terrakin server runs at {request.url}. Start one in the Terrakin panel, or "
            "choose the ready file of a running one."
        )
    return ServerError(f"{request.url} could not be reached: {reply.errorString()}.")
