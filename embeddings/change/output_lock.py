"""One process at a time makes an output, whatever command it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from embeddings.atomic import writing_to
from embeddings.errors import StoreLockedError

_LOCK = ".lock"


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """Keep others from an output; lend the folder beside it, where finished windows are kept.

    The folder goes if none are there at the end. Raises StoreLockedError if another process makes
    the same output.
    """
    folder = out.with_name(f".{out.name}.staging")
    lock = FileLock(folder / _LOCK, timeout=0)
    with writing_to(folder):
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLockedError(
                f"Another process is making '{out.name}'. Wait for it, or write to another file."
            ) from None
    try:
        yield folder
    finally:
        # Before the lock is let go: what stands there after it is the next process's.
        if not any(folder.glob("*.npz")):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        if os.name == "nt":  # where the lock is a file until it is let go
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def all_held(outputs: Iterable[Path]) -> Iterator[None]:
    """Keep others from several outputs; see ``held``."""
    with ExitStack() as stack:
        for path in outputs:
            stack.enter_context(held(path))
        yield


def cleared(folder: Path) -> None:
    """Remove all of a folder that is lent but the lock."""
    with writing_to(folder):
        for left in folder.iterdir():
            if left.name != _LOCK:
                left.unlink()
