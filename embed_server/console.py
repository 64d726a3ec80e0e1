"""What the command shows: progress on standard error, data on standard output, exit codes."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from embeddings.report import Progress

EXIT_FAILED = 1
EXIT_PARTLY = 3
EXIT_INTERRUPTED = 130


class ProgressLine:
    """One line on standard error: rewritten on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown = 0.0
        self._live = sys.stderr.isatty()
        self._open = False

    def __call__(self, progress: Progress) -> None:
        """Show how far the run is, and when it will be done."""
        now = time.monotonic()
        last = progress.done == progress.total
        if now - self._shown < (0.1 if self._live else 5.0) and not last:
            return
        self._shown = now
        share = progress.done / max(progress.total, 1)
        text = f"{100 * share:3.0f} %  {progress.message}"
        if 0 < share < 1:
            left = (now - self._started) * (1 - share) / share
            text += f", about {left:.0f} s left"
        click.echo(f"\r\x1b[K{text}" if self._live else text, err=True, nl=not self._live)
        self._open = self._live

    def close(self) -> None:
        """End the line."""
        if self._open:
            click.echo(err=True)
            self._open = False


@contextmanager
def progress_line() -> Iterator[ProgressLine]:
    """Yield a progress line and end it whatever happens."""
    line = ProgressLine()
    try:
        yield line
    finally:
        line.close()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C (or SIGTERM) sets, so that work stops between two batches.

    A second Ctrl-C interrupts at once; files are whole even then.
    """
    stop = threading.Event()

    def on_signal(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        click.echo("\nStopping after this batch; Ctrl-C again stops at once.", err=True)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note(text: str) -> None:
    """Say something on standard error."""
    click.echo(text, err=True)


def show(data: Any, lines: list[str], *, as_json: bool) -> None:
    """Print data on standard output: as JSON, or as lines for people."""
    click.echo(json.dumps(data, indent=1) if as_json else "\n".join(lines))
