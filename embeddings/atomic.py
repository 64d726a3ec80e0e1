"""Files appear whole or not at all, and the file system's refusals become our errors."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embeddings.errors import StorageFullError, StoreError, StoreNotWritableError

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


RESUMABLE = "What was finished is kept; free some space and run the same command again to go on."


@contextmanager
def atomic_path(final: Path, if_full: str = RESUMABLE) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; on success fsync it and rename it to ``final``.

    On failure the temporary file is removed and ``final`` is as it was. Raises StorageFullError,
    which tells what to do (``if_full``), or StoreNotWritableError when the file system says so.
    """
    temporary = final.with_name(f".{final.stem}.{os.getpid()}.tmp{final.suffix}")
    with writing_to(final, if_full):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync_file(temporary)
            temporary.replace(final)
            _sync_folder(final.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left. Nobody else may be writing there."""
    with writing_to(folder):
        for left in folder.rglob(".*.tmp.*"):
            left.unlink(missing_ok=True)


@contextmanager
def writing_to(target: Path, if_full: str = RESUMABLE) -> Iterator[None]:
    """Turn the OSErrors of a write into StorageFullError, StoreNotWritableError or StoreError."""
    try:
        yield
    except OSError as error:
        raise _translated(error, target, if_full) from error


def check_space(target: Path, needed: int) -> None:
    """Raise StorageFullError, naming the size, if ``needed`` bytes do not fit at ``target``."""
    folder = target
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFullError(
            f"Writing {target} would take about {needed / 1e9:,.1f} GB, but only {free / 1e9:,.1f} "
            "GB are free there. Nothing was written: choose another disk, a coarser grid or a "
            "smaller area."
        )


def write_text(final: Path, text: str) -> None:
    """Write a small text file atomically, UTF-8, LF line ends."""
    with atomic_path(final) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _translated(error: OSError, target: Path, if_full: str) -> StoreError:
    number = error.errno
    if number in _FULL or "No space left" in str(error):
        return StorageFullError(f"The disk is full: {target} could not be written. {if_full}")
    if number in _REFUSED:
        return StoreNotWritableError(
            f"{target} cannot be written ({os.strerror(number or 0)}). Choose a folder you may "
            "write to, or change its permissions."
        )
    return StoreError(f"{target} could not be written: {error}.")


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; NTFS journals the rename itself.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
