"""Opens the index of a collection, or says why it cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embeddings.errors import StoreFormatError
from embeddings.index.files import VECTORS_FILE, Manifest, finished_folders, index_root, key_of
from embeddings.index.ivf import IvfIndex
from embeddings.index.lists import LISTS_FILE, Lists, Plan
from embeddings.index.rows import RowFiles
from embeddings.index.sums import IndexDamagedError, Sums
from embeddings.index.vectors import VectorFile
from embeddings.store.collection import Collection

NONE_REFUSED: Mapping[Path, str] = {}


@dataclass(frozen=True, slots=True)
class Opened:
    """An index, its rows, what its ``index.json`` says and what checks it; or None, and why."""

    index: IvfIndex | VectorFile | None
    rows: RowFiles | None
    manifest: Manifest | None
    sums: Sums | None
    reason: str


def open_index(collection: Collection) -> IvfIndex | VectorFile | None:
    """Return the index of the collection as it stands, or None: build one, or scan."""
    return examine_index(collection).index


def examine_index(collection: Collection, refused: Mapping[Path, str] = NONE_REFUSED) -> Opened:
    """Open the newest index that is whole, as far as opening it tells, and of these rows.

    ``refused`` are folders that are not to be opened, and why.
    """
    folders = finished_folders(collection)
    opened = _first(collection, folders, refused)
    # A builder may have put a new one in the place of the one that was about to be opened.
    while opened.index is None and (now := finished_folders(collection)) != folders:
        folders = now
        opened = _first(collection, folders, refused)
    return opened


def index_problems(collection: Collection) -> list[str]:
    """Read the index of the collection as it stands to its end; return what is wrong with it."""
    problems = []
    for folder in finished_folders(collection)[:1]:
        try:
            sums = _open(collection, folder).sums
            assert sums is not None
            sums.check()
        except (OSError, StoreFormatError, IndexDamagedError) as error:
            problems.append(str(error))
    return problems


def _first(collection: Collection, folders: list[Path], refused: Mapping[Path, str]) -> Opened:
    reason = f"Collection '{collection.id}' has no index."
    if not folders and any(path.is_dir() for path in index_root(collection).glob("*-*")):
        reason = f"The index of collection '{collection.id}' is not finished, or of other rows."
    for folder in folders:
        if folder in refused:
            reason = refused[folder]
            continue
        try:
            return _open(collection, folder)
        except (OSError, StoreFormatError, IndexDamagedError) as error:
            reason = str(error)
    return Opened(None, None, None, None, reason)


def _open(collection: Collection, folder: Path) -> Opened:
    manifest = Manifest.load(folder)
    told = (manifest.key, manifest.count, manifest.dim)
    if told != (key_of(collection), collection.count, collection.spec.dim):
        raise StoreFormatError(f"{folder} belongs to another collection. Build the index again.")
    sums = manifest.checked(folder)
    count, dim = manifest.count, manifest.dim
    vectors = VectorFile(folder / VECTORS_FILE, count, dim, sums.guard(VECTORS_FILE))
    rows = RowFiles(folder, collection.spec, count, sums)
    if manifest.curve is None or manifest.code == "":
        return Opened(vectors, rows, manifest, sums, "")
    plan = Plan(dim, manifest.lists, manifest.code)
    lists = Lists(folder, count, plan, sums.guard(LISTS_FILE))
    index = IvfIndex(vectors, lists, manifest.curve, manifest.target_recall)
    return Opened(index, rows, manifest, sums, "")
