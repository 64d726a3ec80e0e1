"""Files that a long run will write: told before it, not after it, when they could not be."""

from __future__ import annotations

import tempfile
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
        with tempfile.TemporaryFile(dir=folder):
            pass
