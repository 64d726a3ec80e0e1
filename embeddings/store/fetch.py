"""Copying collections of a remote store into a local one: whole files, checked, resumable.

STORE/.fetching-NAME      a collection on its way; the next call keeps the files that are whole
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embeddings.atomic import check_space, writing_to
from embeddings.errors import (
    CancelledError,
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    StoreError,
    StoreFormatError,
)
from embeddings.store.collection import Collection
from embeddings.store.layout import (
    COLLECTION_FILE,
    COVERAGE_FOLDER,
    ENCODER_STEM,
    PARTS_FOLDER,
    STORE_FILE,
    check_name,
)
from embeddings.store.mirror import check_marker, get_file
from embeddings.store.objects import RemoteFolder
from embeddings.store.snapshot import Snapshot, Stored
from embeddings.store.store import Store

FETCHING = ".fetching-"

Tell = Callable[[int, int, str], None]
"""``tell(done, total, message)``, in bytes."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was copied of one collection; ``kept`` files were there already."""

    collection: str
    embeddings: int
    files: int
    kept: int
    bytes: int


def fetch(
    url: str,
    store: Path,
    names: Sequence[str] = (),
    *,
    replace: bool = False,
    tell: Tell = lambda *_: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Fetched]:
    """Copy collections (all, or those named) from the store at an address into a local store.

    A collection that is here already is brought up to the remote one if it is an earlier state
    of it; another one of the same name is refused unless ``replace``. Every file is compared
    with the hash in ``collection.json``. Raises StoreError; CancelledError, after which the same
    call goes on.
    """
    remote = RemoteFolder(url)
    marker = remote.read(STORE_FILE)
    if marker is None:
        raise StoreError(
            f"There is no Terrakin store at {remote.shown}. Give the address that was given to "
            "'terrakin embed --store'."
        )
    check_marker(marker, remote.shown)
    found = _snapshots(remote, names)
    with Store.opened_or_made(store) as local:
        work = [_Fetch(remote, local, name, snapshot) for name, snapshot in found.items()]
        for one in work:
            one.choose_folder(may_replace=replace)
        return [one.run(tell, cancelled) for one in work]


def _snapshots(remote: RemoteFolder, names: Sequence[str]) -> dict[str, Snapshot]:
    found = {}
    for name in names or [entry for entry in remote.names() if _is_name(entry)]:
        snapshot = Snapshot.load(remote, check_name(name))
        if snapshot is not None:
            found[name] = snapshot
        elif names:
            there = ", ".join(entry for entry in remote.names() if _is_name(entry)) or "none"
            raise CollectionNotFoundError(
                f"There is no collection '{name}' in {remote.shown}. There: {there}."
            )
    return found


def _is_name(entry: str) -> bool:
    try:
        check_name(entry)
    except InputError:
        return False
    return True


class _Fetch:
    """One collection on its way."""

    def __init__(self, remote: RemoteFolder, store: Store, name: str, snapshot: Snapshot) -> None:
        self.remote = remote
        self.store = store
        self.name = name
        self.snapshot = snapshot
        self.target = store.path / name
        self.folder = store.path / f"{FETCHING}{name}"

    def choose_folder(self, *, may_replace: bool) -> None:
        """Work where it belongs if that only adds files, else beside it.

        Raises CollectionExistsError if another collection has the name.
        """
        if not (self.target / COLLECTION_FILE).exists():
            return
        try:
            here: Collection | None = Collection.load(self.target)
        except StoreFormatError:
            here = None
        theirs = self.snapshot.collection
        if here is None or not _is_earlier(here, theirs):
            if not may_replace:
                raise CollectionExistsError(
                    f"{self.store.path} has a collection '{self.name}' already, and it is not an "
                    f"earlier state of the one in {self.remote.shown}. Use --replace to put that "
                    "one in its place, rename this one, or choose another --store."
                )
        elif set(here.parts) <= set(theirs.parts):
            self.folder = self.target

    def run(self, tell: Tell, cancelled: Callable[[], bool]) -> Fetched:
        """Copy what is missing, then let the collection stand."""
        todo = list(self.snapshot.files.items())
        missing = [pair for pair in todo if not _is_here(self.folder / pair[0], pair[1])]
        total = sum(stored.bytes or 0 for _, stored in missing)
        check_space(self.folder, total)
        done, copied, damaged = 0, 0, []
        for number, (local, stored) in enumerate(missing, start=1):
            tell(done, total, f"'{self.name}': file {number} of {len(missing)}")
            if cancelled():
                raise CancelledError(
                    "Stopped as asked. What was copied is kept; the same command goes on from "
                    "there."
                )
            try:
                get_file(self.remote, self.name, stored, self.folder / local)
            except StoreFormatError as error:
                damaged.append(str(error))
            else:
                copied += (self.folder / local).stat().st_size
            done += stored.bytes or 0
        if damaged:
            raise self._damaged(damaged)
        self._finish()
        tell(total, total, f"'{self.name}': done")
        count = self.snapshot.collection.count
        return Fetched(self.name, count, len(todo), len(todo) - len(missing), copied)

    def _damaged(self, problems: list[str]) -> StoreError:
        now = self.remote.read(f"{self.name}/{COLLECTION_FILE}")
        if now != self.snapshot.content:
            return StoreError(
                f"Collection '{self.name}' in {self.remote.shown} was changed while it was being "
                "copied. Run the same command again; what was copied and still belongs to it is "
                "kept."
            )
        more = f" And {len(problems) - 5} more." if len(problems) > 5 else ""
        return StoreFormatError(
            f"{' '.join(problems[:5])}{more} Collection '{self.name}' was not changed here; what "
            "is whole is kept. Embed it again at its address with --replace, or restore the files "
            "there, and run the same command again."
        )

    def _finish(self) -> None:
        with writing_to(self.folder):
            for pattern in (f"{PARTS_FOLDER}/*", f"{COVERAGE_FOLDER}/*", f"{ENCODER_STEM}.*"):
                for path in self.folder.glob(pattern):
                    if path.relative_to(self.folder).as_posix() not in self.snapshot.files:
                        path.unlink()
        replace(self.snapshot.collection, path=self.folder, id=self.name).save()
        if self.folder != self.target:
            self.store.put_in_place(self.folder, self.target)


def _is_earlier(here: Collection, theirs: Collection) -> bool:
    """Whether a collection is an earlier state of another: nothing in it is of its own."""
    if (here.created, here.spec) != (theirs.created, theirs.spec):
        return False
    there = {scene.id: scene.fingerprint for scene in theirs.scenes}
    return all(there.get(scene.id) == scene.fingerprint for scene in here.scenes)


def _is_here(path: Path, stored: Stored) -> bool:
    if stored.sha256 is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == stored.sha256
