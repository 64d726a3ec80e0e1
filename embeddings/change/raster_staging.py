"""What a run of ``change raster`` has finished, kept beside its output until all is done.

FOLDER/.NAME.staging/run.json      what the run was asked for and of which files
FOLDER/.NAME.staging/fit.json      the shift and the model, before any window is scored
FOLDER/.NAME.staging/ROW_COL.npz   a finished window: scores, coverage, and a few pixels to show

Each file is written beside its place, fsynced and renamed, so a run killed anywhere leaves whole
ones only, and the next run of the same inputs and settings goes on with them (decision 0001).
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from embeddings.atomic import atomic_path, sweep, write_text, writing_to
from embeddings.dense import Tile
from embeddings.errors import StoreLockedError

_RUN, _FIT, _LOCK = "run.json", "fit.json", ".lock"


class Staging:
    """The finished windows of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def open(cls, out: Path, run: Mapping[str, Any]) -> Iterator[Self]:
        """Hold what an earlier run with the same ``run`` (JSON) left, else an empty folder.

        Raises StoreLockedError if another process writes to the same output.
        """
        folder = out.with_name(f".{out.name}.staging")
        with writing_to(folder):
            folder.mkdir(exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLockedError(
                f"Another process is making '{out.name}'. Wait for it, or write to another file."
            ) from None
        staging = cls(folder)
        try:
            staging._begin(json.dumps(run, sort_keys=True))
            yield staging
        finally:
            lock.release()
            if not any(folder.glob("*.npz")):
                staging.discard()

    def _begin(self, run: str) -> None:
        sweep(self._folder)
        file = self._folder / _RUN
        if not file.exists() or file.read_text(encoding="utf-8") != run:
            with writing_to(self._folder):
                for left in self._folder.iterdir():
                    if left.name != _LOCK:
                        left.unlink()
            write_text(file, run)

    def sweep(self, outputs: Sequence[Path]) -> None:
        """Remove what a killed run left beside the outputs: files that never got their name."""
        for path in outputs:
            with writing_to(path):
                for left in path.absolute().parent.glob(f".{glob.escape(path.stem)}.*.tmp*"):
                    left.unlink(missing_ok=True)

    def fit(self) -> dict[str, Any] | None:
        """Return the fit of an earlier run, if there is one."""
        file = self._folder / _FIT
        found: dict[str, Any] | None = None
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        return found

    def keep_fit(self, fit: Mapping[str, Any]) -> None:
        """Keep the fit."""
        write_text(self._folder / _FIT, json.dumps(fit))

    def has(self, tile: Tile) -> bool:
        """Whether a window is finished."""
        return self._file(tile).exists()

    def keep(self, tile: Tile, **arrays: NDArray[Any]) -> None:
        """Keep a finished window."""
        with atomic_path(self._file(tile)) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    def load(self, tile: Tile) -> dict[str, NDArray[Any]]:
        """Return a finished window."""
        with np.load(self._file(tile)) as found:
            return dict(found)

    def discard(self) -> None:
        """Remove all of it, when the outputs are whole."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, tile: Tile) -> Path:
        return self._folder / f"{tile.row}_{tile.col}.npz"
