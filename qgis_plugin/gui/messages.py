"""Tell the user the outcome in the message bar, and the log panel the details."""

from __future__ import annotations

from qgis.core import Qgis
from qgis.gui import QgisInterface

from ..core.tasks import LOG_TAG, log

SECONDS_SHOWN = 6
ONE_LINE = 120
"""The bar shows about this many characters; a longer text gets a button that shows all of it."""


class Messages:
    """The plugin's messages; a new one takes the place of the one before."""

    def __init__(self, iface: QgisInterface) -> None:
        self._bar = iface.messageBar()

    def success(self, text: str) -> None:
        """Say that something worked; disappears by itself."""
        self._show(text, Qgis.MessageLevel.Success, SECONDS_SHOWN)

    def info(self, text: str) -> None:
        """Say something that needs no action; disappears by itself."""
        self._show(text, Qgis.MessageLevel.Info, SECONDS_SHOWN)

    def warning(self, text: str) -> None:
        """Say what went wrong and what to do; stays until it is closed or replaced."""
        self._show(text, Qgis.MessageLevel.Warning, 0)

    def clear(self) -> None:
        """Remove the plugin's messages from the bar."""
        for item in self._bar.items():
            if item.title() == LOG_TAG:
                self._bar.popWidget(item)

    def _show(self, text: str, level: Qgis.MessageLevel, seconds: int) -> None:
        self.clear()
        short = first_sentences(text, ONE_LINE)
        if short == text:
            self._bar.pushMessage(LOG_TAG, text, level, seconds)
        else:
            self._bar.pushMessage(LOG_TAG, short, text, level, seconds)
        log(text, level)


def first_sentences(text: str, length: int) -> str:
    """Return the whole sentences that fit into a length, at least one."""
    short, *others = text.split(". ")
    for other in others:
        if len(short) + len(other) + 2 > length:
            return f"{short}."
        short = f"{short}. {other}"
    return short
