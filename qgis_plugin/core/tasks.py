"""Run work beside the GUI as a QgsTask with a closed set of outcomes.

A job gets all it needs when it is made, on the main thread; its work never touches a layer or a
widget. The outcome is handed over on the main thread, exactly once, whatever happens.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Callable, Union

from qgis.core import Qgis, QgsMessageLog, QgsTask

from .errors import CancelledError, PluginError

LOG_TAG = "Terrakin"


@dataclass(frozen=True)
class Done:
    """The work returned a value."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """The work raised; the message is for the user."""

    error: PluginError


@dataclass(frozen=True)
class Cancelled:
    """The user, or the end of the plugin, stopped the work."""


Outcome = Union[Done, Failed, Cancelled]


class Job(QgsTask):
    """One piece of work: ``work(job)`` runs in a thread, ``on_end(job, outcome)`` on the
    main thread.

    The work reads ``job.isCanceled`` and calls ``job.setProgress`` with 0 to 100. Keep a
    reference to the job until ``on_end`` is called: QGIS does not.
    """

    def __init__(
        self, title: str, work: Callable[[Job], Any], on_end: Callable[[Job, Outcome], None]
    ) -> None:
        super().__init__(title, QgsTask.Flag.CanCancel)
        self._work = work
        self._on_end: Callable[[Job, Outcome], None] | None = on_end
        self._outcome: Outcome = Cancelled()

    def run(self) -> bool:
        """Do the work in a thread of QGIS's pool."""
        try:
            self._outcome = Done(self._work(self))
        except CancelledError:
            self._outcome = Cancelled()
        except PluginError as error:
            self._outcome = Failed(error)
        except Exception as error:
            log(traceback.format_exc(), Qgis.MessageLevel.Critical)
            self._outcome = Failed(
                PluginError(
                    f"{self.description()} failed unexpectedly ({type(error).__name__}: {error}). "
                    "The log panel, tab Terrakin, has the details; please report them."
                )
            )
        return isinstance(self._outcome, Done)

    def finished(self, result: bool) -> None:
        """Hand the outcome over (QGIS calls this on the main thread, also after a cancel)."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, Cancelled() if self.isCanceled() and not result else self._outcome)


def log(text: str, level: Qgis.MessageLevel = Qgis.MessageLevel.Info) -> None:
    """Write to the log panel, tab Terrakin."""
    QgsMessageLog.logMessage(text, LOG_TAG, level, False)
