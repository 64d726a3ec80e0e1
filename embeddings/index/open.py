"""Opens the index of a collection, or says why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embeddings.errors import StoreFormatError
from embeddings.index.files import VECTORS_FILE, Manifest, finished_folders, index_root, key_of
from embeddings.index.ivf import IvfIndex
from embeddings.index.lists import Lists
from embeddings.index.rows import RowFiles
from embeddings.index.vectors import VectorFile
from embeddings.store.collection import Collection


@dataclass(frozen=True, slots=True)
class Opened:
    """An index, its rows and what its ``index.json`` says; or None, and why."""

    index: IvfIndex | VectorFile | None
    rows: RowFiles | None
    manifest: Manifest | None
    reason: str


def open_index(collection: Collection) -> IvfIndex | VectorFile | None:
    """Return the index of the collection as it stands, or None: build one, or scan."""
    return examine_index(collection).index


def examine_index(collection: Collection) -> Opened:
    """Open the newest index that is whole and belongs to these rows. Neither is read."""
    folders = finished_folders(collection)
    opened = _first(collection, folders)
    # A builder may have put a new one in the place of the one that was about to be opened.
    while opened.index is None and (now := finished_folders(collection)) != folders:
        folders = now
        opened = _first(collection, folders)
    return opened


def _first(collection: Collection, folders: list[Path]) -> Opened:
    reason = f"Collection '{collection.id}' has no index."
    if not folders and any(path.is_dir() for path in index_root(collection).glob("*-*")):
        reason = f"The index of collection '{collection.id}' is not finished, or of other rows."
    for folder in folders:
        try:
            return _open(collection, folder)
        except (OSError, StoreFormatError) as error:
            reason = str(error)
    return Opened(None, None, None, reason)


def _open(collection: Collection, folder: Path) -> Opened:
    manifest = Manifest.load(folder)
    told = (manifest.key, manifest.count, manifest.dim)
    if told != (key_of(collection), collection.count, collection.spec.dim):
        raise StoreFormatError(f"{folder} belongs to another collection. Build the index again.")
    vectors = VectorFile(folder / VECTORS_FILE, manifest.count, manifest.dim)
    rows = RowFiles(folder, collection.spec, manifest.count)
    if manifest.curve is None:
        return Opened(vectors, rows, manifest, "")
    lists = Lists(folder, manifest.count, manifest.dim)
    index = IvfIndex(vectors, lists, manifest.curve, manifest.target_recall)
    return Opened(index, rows, manifest, "")
