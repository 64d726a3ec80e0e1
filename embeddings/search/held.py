"""The collections of a store that are searched, kept open from click to click."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embeddings.errors import OutsideCoverageError
from embeddings.index.files import MANIFEST_FILE
from embeddings.index.sums import IndexDamagedError
from embeddings.search.loaded import Loaded, load, state_of
from embeddings.store import Collection, Store
from embeddings.store.layout import COLLECTION_FILE

Mark = tuple[int, int, int]
"""By what a file is known not to have been written since: inode, time and size."""


@dataclass(frozen=True)
class Held:
    """A collection as its file says at this moment, and its rows ready to be searched."""

    collection: Collection
    loaded: Loaded


class HeldCollections:
    """Opens collections and keeps them while their files stand. Thread-safe.

    An index in which a search finds damage is let go of: the search ends with IndexDamagedError,
    and whoever then asks for the collection gets it without that index, until another stands in
    its place. ``gone`` is told the id of a collection whose rows, as they were, are no longer kept.
    """

    def __init__(self, store: Store, gone: Callable[[str], None]) -> None:
        self.store = store
        self._gone = gone
        self._known: dict[str, tuple[Mark | None, Collection]] = {}
        self._loaded: dict[str, Loaded] = {}
        self._damaged: dict[str, dict[Path, tuple[Mark | None, str]]] = {}
        """By collection, the indexes not to be opened: which they are, and why."""
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def get(self, name: str) -> Held:
        """Return a collection in its present state, opening it where that is new.

        Raises CollectionNotFoundError, OutsideCoverageError if it is empty, StoreError, or
        InputError if it is too large to be searched without an index.
        """
        self._forget_lost()
        collection = self._present(name)
        if not collection.count:
            raise OutsideCoverageError(
                f"Collection '{name}' is still empty. Run its embed command (again)."
            )
        with self._guard:
            lock = self._locks[name]
        # Others wait only for the collection that they search themselves.
        with lock:
            known = self._loaded.get(name)
            refused = self._refused(name, known.damage if known else None)
            state = state_of(collection, refused)
            if known is None or known.state != state or known.damage:
                self._gone(name)
                known = load(collection, state, refused)
                self._loaded[name] = known
        return Held(collection, known)

    def _refused(self, name: str, damage: IndexDamagedError | None) -> dict[Path, str]:
        """Return the indexes of a collection that are not to be opened, and why."""
        damaged = self._damaged.setdefault(name, {})
        if damage is not None:
            damaged[damage.folder] = (_mark(damage.folder, MANIFEST_FILE), str(damage))
        # Once another index has the name of one that was damaged, it may be opened.
        return {
            folder: reason
            for folder, (mark, reason) in damaged.items()
            if mark is not None and mark == _mark(folder, MANIFEST_FILE)
        }

    def _present(self, name: str) -> Collection:
        """Return what ``collection.json`` says, which is read only if it was written since."""
        mark, collection = self._known.get(name, (None, None))
        if collection is None or mark is None or mark != _mark(collection.path):
            path = self.store.collection(name).path
            mark = _mark(path)
            # Read after the mark, so that a file written in between is not taken for the old one.
            collection = Collection.load(path)
            self._known[name] = (mark, collection)
        return collection

    def _forget_lost(self) -> None:
        """Let go of the collections that are no longer in the store."""
        with self._guard:
            lost = [name for name, (_, held) in self._known.items() if _mark(held.path) is None]
            for name in lost:
                del self._known[name]
                self._loaded.pop(name, None)
        for name in lost:
            self._gone(name)


def _mark(folder: Path, file: str = COLLECTION_FILE) -> Mark | None:
    try:
        found = (folder / file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
