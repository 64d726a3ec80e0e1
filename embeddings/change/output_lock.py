"""One process at a time makes an output, whatever command it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from embeddings.atomic import writing_to
from embeddings.errors import StoreError, StoreLockedError

_LOCK = ".lock"
_TRIES = 100
"""To lock a file whose folder others may be removing; all of them take milliseconds."""


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """Keep others from an output; lend the folder beside it, where finished windows are kept.

    The folder goes if none are there at the end. Raises StoreLockedError if another process makes
    the same output.
    """
    folder = out.with_name(f".{out.name}.staging")
    lock = FileLock(folder / _LOCK, timeout=0)
    with writing_to(folder):
        try:
            _acquire(lock, folder)
        except Timeout:
            raise StoreLockedError(
                f"Another process is making '{out.name}'. Wait for it, or write to another file."
            ) from None
    try:
        yield folder
    finally:
        # Before the lock is let go: what stands there after it is the next process's.
        if not any(folder.glob("*.npz")):
            # The lock last: as soon as it is gone, another process may begin here.
            with suppress(StoreError):
                cleared(folder)
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        if os.name == "nt":  # where the lock is a file until it is let go
            with suppress(OSError):
                folder.rmdir()


def _acquire(lock: FileLock, folder: Path) -> None:
    """Make the folder and lock it, though a process that is done may remove it at any time.

    Raises Timeout if another process has it, OSError if it cannot be made.
    """
    for left in reversed(range(_TRIES)):
        try:
            folder.mkdir(exist_ok=True)
            lock.acquire()
        except OSError:  # a Timeout among them, which a file that was just removed gives too
            if not left:
                raise
        else:
            if _stands(lock):
                return
            lock.release()
    raise Timeout(lock.lock_file)


def _stands(lock: FileLock) -> bool:
    """Whether the file that is locked is the one that others find under its name."""
    descriptor = lock._context.lock_file_fd
    if os.name == "nt" or descriptor is None:  # Windows lets nobody remove an open file
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), Path(lock.lock_file).stat())
    except FileNotFoundError:
        return False


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
