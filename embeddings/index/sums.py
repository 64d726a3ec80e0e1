"""Whether an index still is what was written: a checksum of every 16 KiB, checked at first touch.

``sums.u32`` holds the CRC-32 of each piece, file after file; ``index.json`` knows its hash. A piece
is read and checked when something in it is used for the first time, so that opening reads no more
than it needs; what was checked is remembered.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embeddings.atomic import atomic_path
from embeddings.errors import CollectionChangedError, StoreFormatError
from embeddings.index.base import Rows

SUMS_FILE = "sums.u32"

PIECE_BYTES = 2**14
RUN_PIECES = 64
"""So many neighbouring pieces are read at once."""

_SHIFT = PIECE_BYTES.bit_length() - 1
_SUM = np.dtype("<u4")


class IndexDamagedError(CollectionChangedError):
    """A file of an index that is in use is not what was written.

    Whoever asks again is answered without the index.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} is damaged ({what}). Build the index again.")
        self.folder = path.parent


def write_sums(folder: Path, names: Sequence[str], check: Callable[[float], None]) -> str:
    """Write the checksums of files of a folder; return what ``Sums`` is to be given as a hash.

    ``check(share done)`` may raise to stop.
    """
    runs = [
        (folder / name, start)
        for name in names
        for start in range(0, (folder / name).stat().st_size, RUN_PIECES * PIECE_BYTES)
    ]
    digest = hashlib.sha256()
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        with atomic_path(folder / SUMS_FILE) as temporary, temporary.open("wb") as file:
            for done, sums in enumerate(threads.map(_sums_of, runs)):
                check(done / len(runs))
                digest.update(sums)
                file.write(sums)
    finally:
        threads.shutdown(cancel_futures=True)
    return digest.hexdigest()


def _sums_of(run: tuple[Path, int]) -> bytes:
    """Return the checksums of the pieces of a file from a byte on."""
    path, start = run
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(RUN_PIECES * PIECE_BYTES)
    return np.array(_crcs(content), _SUM).tobytes()


def _crcs(content: bytes) -> list[int]:
    view = memoryview(content)
    return [zlib.crc32(view[at : at + PIECE_BYTES]) for at in range(0, len(view), PIECE_BYTES)]


class Sums:
    """The checksums of an index, and the first damage that was found by them."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], sha256: str) -> None:
        """Read them. Raises StoreFormatError if they are not those that were written."""
        self._folder = folder
        self._sizes = sizes
        self.damage: IndexDamagedError | None = None
        path = folder / SUMS_FILE
        with _opening(path):
            content = path.read_bytes()
        many = [-(-size // PIECE_BYTES) for size in sizes.values()]
        whole = len(content) == _SUM.itemsize * sum(many)
        if not whole or hashlib.sha256(content).hexdigest() != sha256:
            raise StoreFormatError(f"{path} is damaged. Build the index again.")
        pieces = np.split(np.frombuffer(content, _SUM), np.cumsum(many)[:-1])
        self._sums = dict(zip(sizes, pieces, strict=True))

    def guard(self, name: str) -> Guard:
        """Open a file to check what is used of it. Raises StoreFormatError."""
        path = self._folder / name
        with _opening(path):
            guard = Guard(path, self._sums[name], self._note)
            size = path.stat().st_size
        if size != self._sizes[name]:
            raise StoreFormatError(
                f"{path} has {size:,} bytes, not {self._sizes[name]:,}. Build the index again."
            )
        return guard

    def check(self) -> None:
        """Read all files to their ends. Raises StoreFormatError, IndexDamagedError."""
        for name in self._sizes:
            self.guard(name).all()

    def _note(self, damage: IndexDamagedError) -> None:
        self.damage = self.damage or damage


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFormatError(
            f"{path} cannot be read ({error}). Build the index again."
        ) from error


class Guard:
    """Checks the pieces of a file when they are first used. Thread-safe.

    What is asked raises IndexDamagedError if a piece is damaged or cannot be read. The file is
    read, not mapped: a disk that fails then is an error, where it would end the process.
    """

    def __init__(
        self,
        path: Path,
        sums: NDArray[np.uint32],
        note: Callable[[IndexDamagedError], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._sums = sums
        self._note = note
        self._known = np.zeros(len(sums), np.bool_)
        self._left = len(sums)
        self._lock = threading.Lock()
        if self._left:
            # Kept open, for the file may be removed while it is used.
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self._file)

    @classmethod
    def trusting(cls, path: Path) -> Self:
        """Check nothing of a file, which is being built."""
        return cls(path, np.empty(0, np.uint32))

    def all(self) -> None:
        """Check the whole file."""
        self.span(0, len(self._sums) << _SHIFT)

    def span(self, start: int, stop: int) -> None:
        """Check the bytes from ``start`` up to ``stop``."""
        if self._left and stop > start:
            first = start >> _SHIFT
            known = self._known[first : ((stop - 1) >> _SHIFT) + 1]
            if np.count_nonzero(known) < len(known):
                self._check(np.flatnonzero(~known) + first)

    def spans(self, starts: Rows, length: int) -> None:
        """Check ``length`` bytes, where the file is so long, from each of ``starts``.

        These lie multiples of ``length`` apart.
        """
        if not self._left or not len(starts):
            return
        within = PIECE_BYTES % length == 0 and int(starts[0]) % length == 0
        for offset in (0,) if within else (*range(0, length, PIECE_BYTES), length - 1):
            pieces = (starts + offset if offset else starts) >> _SHIFT
            known = self._known.take(pieces, mode="clip")
            if np.count_nonzero(known) < len(known):
                self._check(np.unique(np.minimum(pieces[~known], len(self._known) - 1)))

    def _check(self, pieces: Rows) -> None:
        """Check pieces, sorted, each once."""
        apart = np.flatnonzero(np.diff(pieces) != 1) + 1
        firsts = pieces[np.append(0, apart)].tolist()
        lasts = pieces[np.append(apart - 1, len(pieces) - 1)].tolist()
        for first, last in zip(firsts, lasts, strict=True):
            for start in range(first, last + 1, RUN_PIECES):
                self._check_run(start, min(start + RUN_PIECES, last + 1))
        with self._lock:
            self._left -= int(np.count_nonzero(~self._known[pieces]))
            self._known[pieces] = True

    def _check_run(self, start: int, stop: int) -> None:
        try:
            with self._lock:
                os.lseek(self._file, start << _SHIFT, os.SEEK_SET)
                content = os.read(self._file, (stop - start) << _SHIFT)
        except OSError as error:
            raise self._damage(str(error)) from error
        for piece, found in zip(range(start, stop), _crcs(content), strict=False):
            if found != self._sums[piece]:
                raise self._damage(f"bytes {piece << _SHIFT:,} to {(piece + 1) << _SHIFT:,}")
        if len(content) <= (stop - 1 - start) << _SHIFT:
            raise self._damage(f"it ends after {(start << _SHIFT) + len(content):,} bytes")

    def _damage(self, what: str) -> IndexDamagedError:
        # One that is not raised holds on to no frame of a search.
        self._note(IndexDamagedError(self._path, what))
        return IndexDamagedError(self._path, what)
