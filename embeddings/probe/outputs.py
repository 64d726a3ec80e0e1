"""Files that a long run will write: told before it, not after it, when they could not be."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from embeddings.atomic import writing_to
from embeddings.errors import InputError

IF_FULL = "Free some space, or write to another disk."


def check_file(file: Path) -> None:
    """Raise InputError if there is no folder for a file, or StoreError if it refuses new files.

    Only trying tells: permissions, read-only disks and quotas are known to the system alone.
    """
    folder = file.absolute().parent
    with writing_to(file, IF_FULL):
        if file.is_dir() or not folder.is_dir():
            raise InputError(f"'{file}' cannot be written: name a file in a folder that exists.")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except FileNotFoundError:  # as under /proc, which only looks like a folder
            raise InputError(
                f"'{file}' cannot be written: name a file in a folder that takes new files."
            ) from None


def check_spared(written: Iterable[Path], read: Iterable[Path | None], store: Path) -> None:
    """Raise InputError if a file to write is one that is read, or lies in the store."""
    sources = [path for path in read if path is not None]
    for file in written:
        if any(_same(file, source) for source in sources):
            raise InputError(
                f"'{file}' is read for this and would be replaced. Choose another name for what "
                "is written."
            )
        if file.resolve().is_relative_to(store.resolve()):
            raise InputError(
                f"'{file}' lies in the store '{store}', whose files belong to its collections. "
                "Choose another folder."
            )


def _same(one: Path, other: Path) -> bool:
    """Whether two paths name one file, whatever links or capitals lie between."""
    return one.resolve() == other.resolve() or (
        one.exists() and other.exists() and one.samefile(other)
    )
