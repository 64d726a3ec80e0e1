"""What a run of ``change raster`` has finished, kept beside its output until all is done.

FOLDER/.NAME.staging/run.json      what the run was asked for and of which files
FOLDER/.NAME.staging/fit.json      the shift and the model, before any window is scored
FOLDER/.NAME.staging/ROW_COL.npz   a finished window: scores, coverage, and a few pixels to show
FOLDER/.NAME.staging/kinds.json    what told the kinds of change
FOLDER/.NAME.staging/ROW_COL.npy   the kinds of a window's pixels of change

Each file is written beside its place, fsynced and renamed, so a run killed anywhere leaves whole
ones only, and the next run of the same inputs and settings goes on with them (decision 0001).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embeddings.atomic import atomic_path, sweep, write_text, writing_to
from embeddings.change.output_lock import cleared, held
from embeddings.dense import Tile
from embeddings.probe.predict_raster import sidecars

_RUN, _FIT, _KINDS = "run.json", "fit.json", "kinds.json"


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
        with held(out) as folder:
            staging = cls(folder)
            staging._begin(json.dumps(run, sort_keys=True))
            yield staging

    def _begin(self, run: str) -> None:
        sweep(self._folder)
        file = self._folder / _RUN
        if not file.exists() or file.read_text(encoding="utf-8") != run:
            cleared(self._folder)
            write_text(file, run)

    def sweep(self, outputs: Sequence[Path]) -> None:
        """Remove what a killed run left beside the outputs: files that never got their name.

        The outputs are held, so nobody else is writing what is removed.
        """
        for path in (each for out in outputs for each in _with_sidecars(out)):
            names = _temporary(path)
            with writing_to(path):
                for left in path.absolute().parent.glob(".*.tmp*"):
                    if names.fullmatch(left.name):
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

    def begin_kinds(self, mark: str) -> None:
        """Keep the kinds of an earlier run if the same ``mark`` told them, else none."""
        file = self._folder / _KINDS
        if file.exists() and file.read_text(encoding="utf-8") == mark:
            return
        with writing_to(self._folder):
            for left in self._folder.glob("*.npy"):
                left.unlink()
        write_text(file, mark)

    def kinds(self, tile: Tile) -> NDArray[np.uint8] | None:
        """Return the kinds of a window's pixels of change, if they are known."""
        file = self._file(tile).with_suffix(".npy")
        return np.asarray(np.load(file)) if file.exists() else None

    def keep_kinds(self, tile: Tile, codes: NDArray[np.uint8]) -> None:
        """Keep them."""
        with atomic_path(self._file(tile).with_suffix(".npy")) as temporary:
            np.save(temporary, codes, allow_pickle=False)

    def discard(self) -> None:
        """Remove all of it, when the outputs are whole."""
        cleared(self._folder)

    def _file(self, tile: Tile) -> Path:
        return self._folder / f"{tile.row}_{tile.col}.npz"


def _with_sidecars(out: Path) -> tuple[Path, ...]:
    return (out, *sidecars(out)) if out.suffix.lower() in (".tif", ".tiff") else (out,)


def _temporary(path: Path) -> re.Pattern[str]:
    """Return what the names of files are like that would have become ``path``, and of no others.

    As `atomic_path` makes them, once or twice over, and GDAL and SQLite beside these.
    """
    mark = r"\.\d+\.tmp"
    stem, suffix = re.escape(f".{path.stem}"), re.escape(path.suffix)
    beside = r"(\.aux\.xml|-journal|-wal|-shm)?"
    return re.compile(rf"({stem}|\.{stem}{mark}){mark}({suffix}|\.plain\.tif){beside}")
