"""Writing a store at an address: the work is done in a local copy, and pushed as it is published.

The local copy has all that a local store has (locks, staged batches, resume). A part goes to the
remote store as soon as it is published and is then dropped here; ``collection.json`` goes after
its parts. To go on, on this machine or another, takes ``collection.json`` and the encoder alone.

LOCAL/.remote/lock                      held by the one process of this machine that writes there
LOCAL/.remote/NAME/collection.json      the remote one that the local copy goes with
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from embeddings.atomic import atomic_path, writing_to
from embeddings.errors import (
    CancelledError,
    InputError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
)
from embeddings.store.collection import Collection
from embeddings.store.layout import (
    COLLECTION_FILE,
    COVERAGE_FOLDER,
    ENCODER_STEM,
    PARTS_FOLDER,
    REPLACING,
    STAGING_FOLDER,
    STORE_FILE,
    STORE_FORMAT_VERSION,
    check_name,
)
from embeddings.store.objects import RemoteFolder, shown
from embeddings.store.snapshot import Snapshot, Stored, beside, coverage_of, place
from embeddings.store.store import Store

CACHE_VARIABLE = "TERRAKIN_CACHE"
STATE_FOLDER = ".remote"

Published = Callable[[Collection], None]


@contextmanager
def work_store(
    store: Path | str, name: str, *, writing: bool = True, adding: str | None = None
) -> Iterator[tuple[Path, Published]]:
    """Give the folder to work in for a store, and what must hear of every published part.

    A path is its own folder. For an address it is the local copy, with the collection ``name``
    as it stands there; what the work leaves is pushed at the end, also when it was stopped or an
    input could not be read. ``adding`` names a scene whose rows must be compared with those of
    the others: unless it is complete, these are here meanwhile. Raises StoreError,
    StoreLockedError or ExtraMissingError.
    """
    if isinstance(store, Path):
        yield store, lambda _: None
        return
    with mirrored(store) as (folder, mirror):
        mirror.pull(name)
        if not writing:
            yield folder, lambda _: None
            return
        mirror.remote.check_writable()
        mirror.push_left(name)
        try:
            with mirror.others_here(name, adding):
                yield folder, mirror.push
        except (InputError, CancelledError):
            with suppress(StoreError):  # the first reason is the one to tell
                mirror.push_left(name)
            raise
        mirror.push_left(name)


@contextmanager
def mirrored(url: str) -> Iterator[tuple[Path, Mirror]]:
    """Give the local copy of the store at an address, and what pulls and pushes.

    Raises StoreLockedError if another process of this machine works in it.
    """
    remote = RemoteFolder(url)
    store = Store.create(work_folder(url))
    lock_file = store.path / STATE_FOLDER / "lock"
    with writing_to(lock_file):
        lock_file.parent.mkdir(exist_ok=True)
        lock = FileLock(lock_file, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLockedError(
                f"Another process on this machine is writing to {remote.shown}. Wait until it has "
                "finished, or stop it, and try again."
            ) from None
    try:
        yield store.path, Mirror(remote, store.path)
    finally:
        lock.release()


def work_folder(url: str) -> Path:
    """Return where the local copy of the store at an address lies."""
    given = os.environ.get(CACHE_VARIABLE)
    base = Path(given).expanduser() if given else user_cache_path("terrakin")
    digest = hashlib.sha256(shown(url).rstrip("/").encode()).hexdigest()
    return base / "stores" / digest[:16]


class Mirror:
    """Keeps a remote store equal to what is published in its local copy in ``folder``."""

    def __init__(self, remote: RemoteFolder | str, folder: Path) -> None:
        self.remote = RemoteFolder(remote) if isinstance(remote, str) else remote
        self.folder = folder
        self._standing: dict[str, Snapshot | None] = {}
        self._hashes: dict[tuple[str, int, int], str] = {}

    def pull(self, name: str) -> None:
        """Bring the local copy of a collection up to the remote one, without its parts.

        What this machine has staged or published beyond it is kept where it still fits.
        """
        check_name(name)
        self._check_store(name)
        found = Snapshot.load(self.remote, name)
        mark = self._mark(name)
        before = mark.read_bytes() if mark.exists() else None
        if found is None and before is not None:  # it was deleted there, and its parts with it
            Store(self.folder).discard(self.folder / name)
            mark.unlink()
        elif found is not None and (
            found.content != before or not (self.folder / name / COLLECTION_FILE).exists()
        ):
            self._take(found, name)
            self._write_mark(name, found.content)
        self._standing[name] = found

    @contextmanager
    def others_here(self, name: str, adding: str | None) -> Iterator[None]:
        """Hold the parts of all scenes but ``adding`` here, if that one is not complete.

        None stands for a scene that needs no others.
        """
        copied: list[Path] = []
        standing = self._standing.get(name)
        scenes = standing.collection.scenes if standing is not None and adding is not None else ()
        complete = any(scene.id == adding and scene.complete for scene in scenes)
        try:
            for scene in scenes:
                for part in () if complete or scene.id == adding else scene.parts:
                    path = self.folder / name / part.file
                    copied.append(path)
                    if standing is not None and not path.exists():
                        get_file(self.remote, name, standing.files[part.file], path)
            yield
        finally:
            for path in copied:
                path.unlink(missing_ok=True)

    def push(self, collection: Collection) -> None:
        """Push what is published and not yet there; ``collection.json`` after all else.

        A collection that is being made anew waits until it has taken the old one's place. Raises
        StoreLockedError if another process has written the collection there; nothing there is
        changed then.
        """
        name = collection.path.name
        standing = self._standing.get(name)
        waits = name.startswith(REPLACING) or (standing is None and not collection.scenes)
        if waits:
            return
        files = self._files(collection, standing)
        old: Mapping[str, Stored] = standing.files if standing is not None else {}
        before = standing.content if standing is not None else None
        new = [local for local in files if files[local] != old.get(local)]
        if not new and Snapshot.of(collection, files).content == before:
            return
        if self.remote.read(f"{name}/{COLLECTION_FILE}") != before:
            raise self._overtaken(name)
        for local in new:
            files[local] = self.push_part(collection, local, files[local])
        after = Snapshot.of(collection, files)
        if not self.remote.swap(f"{name}/{COLLECTION_FILE}", before, after.content):
            raise self._overtaken(name)
        self._standing[name] = after
        self._write_mark(name, after.content)
        self._drop(collection, new)
        kept = {stored.object for stored in files.values()}
        for stored in old.values():
            if stored.object not in kept:
                self.remote.remove(f"{name}/{stored.object}")
        self._mark_store()

    def push_left(self, name: str) -> None:
        """Push what an earlier call or run could not."""
        if (self.folder / name / COLLECTION_FILE).exists():
            self.push(Collection.load(self.folder / name))

    def push_part(self, collection: Collection, local: str, stored: Stored) -> Stored:
        """Upload one file of a collection; return where it lies.

        If an object of that name holds something else, which another writer or a killed run left,
        the file goes beside it.
        """
        path = collection.path / local
        if not path.exists():
            raise StoreError(
                f"{path} is neither there nor in {self.remote.shown}. Delete the folder "
                f"{collection.path} and run the same command again."
            )
        name = collection.path.name
        if not self.remote.create(f"{name}/{stored.object}", path):
            stored = beside(local, stored)
            self.remote.upload(f"{name}/{stored.object}", path)
        return stored

    def _check_store(self, name: str) -> None:
        """Refuse what is no store of ours, or one of another release."""
        marker = self.remote.read(STORE_FILE)
        if marker is not None:
            check_marker(marker, self.remote.shown)
            return
        others = [entry for entry in self.remote.names() if entry != name]
        if others:
            raise StoreError(
                f"{self.remote.shown} holds other files ({others[0]}) and is no Terrakin store. "
                "Name an empty or new folder of it."
            )

    def _mark_store(self) -> None:
        if self.remote.read(STORE_FILE) is None:
            self.remote.write(STORE_FILE, (self.folder / STORE_FILE).read_bytes())

    def _overtaken(self, name: str) -> StoreLockedError:
        return StoreLockedError(
            f"Another process has written collection '{name}' in {self.remote.shown} since this "
            "run began. What it wrote stands, and what this run finished is kept here. Run the "
            "same command again, without --replace, when the other has finished."
        )

    def _files(self, collection: Collection, standing: Snapshot | None) -> dict[str, Stored]:
        """Say where every file of the collection lies or goes."""
        folder = collection.path
        old: Mapping[str, Stored] = standing.files if standing is not None else {}
        files = {}
        for path in sorted(folder.glob(f"{ENCODER_STEM}.*")):
            files[path.name] = place(standing, path.name, self._hash(path), path.stat().st_size)
        for part in collection.parts:
            files[part.file] = place(standing, part.file, part.sha256, part.bytes)
            coverage = coverage_of(part.file)
            path = folder / coverage
            if path.exists():
                files[coverage] = place(standing, coverage, self._hash(path), path.stat().st_size)
            elif files[part.file] == old.get(part.file) and coverage in old:
                files[coverage] = old[coverage]
        return files

    def _hash(self, path: Path) -> str:
        state = path.stat()
        key = (str(path), state.st_mtime_ns, state.st_size)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]

    def _drop(self, collection: Collection, pushed: list[str]) -> None:
        with writing_to(collection.path):
            for local in pushed:
                if not local.startswith(f"{ENCODER_STEM}."):
                    (collection.path / local).unlink(missing_ok=True)

    def _take(self, found: Snapshot, name: str) -> None:
        """Let the local copy be as the remote one; ``collection.json`` comes last."""
        folder = self.folder / name
        theirs = replace(found.collection, path=folder)
        mine = _known(folder)
        if mine is None or (mine.created, mine.spec) != (theirs.created, theirs.spec):
            Store(self.folder).discard(folder)
        else:
            theirs = _joined(mine, theirs)
        for local, stored in found.files.items():
            if local.startswith(f"{ENCODER_STEM}."):
                get_file(self.remote, name, stored, folder / local)
        theirs.save()

    def _mark(self, name: str) -> Path:
        return self.folder / STATE_FOLDER / name / COLLECTION_FILE

    def _write_mark(self, name: str, content: bytes) -> None:
        with atomic_path(self._mark(name)) as path:
            path.write_bytes(content)


def get_file(remote: RemoteFolder, name: str, stored: Stored, target: Path) -> None:
    """Copy a file of the collection ``name`` here, whole and checked.

    Raises StoreFormatError if it is missing or not what ``collection.json`` says.
    """
    where = f"{remote.shown}/{name}/{stored.object}"
    with atomic_path(target) as path:
        if not remote.download(f"{name}/{stored.object}", path):
            raise StoreFormatError(f"{where} is missing.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if stored.sha256 is not None and digest != stored.sha256:
            raise StoreFormatError(
                f"{where} is damaged: its content is not what {COLLECTION_FILE} says."
            )


def check_marker(content: bytes, where: str) -> None:
    """Refuse a ``terrakin.json`` of another format version. Raises StoreFormatError."""
    try:
        version = json.loads(content)["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(f"{where}/{STORE_FILE} cannot be read: {error}.") from None
    if version != STORE_FORMAT_VERSION:
        raise StoreFormatError(
            f"The store {where} has format version {version}; this release reads "
            f"{STORE_FORMAT_VERSION}. Use the release of Terrakin that wrote it."
        )


def _known(folder: Path) -> Collection | None:
    """Return the local copy of a collection; None if there is none or it is damaged."""
    try:
        return Collection.load(folder)
    except StoreError:
        return None


def _joined(mine: Collection, theirs: Collection) -> Collection:
    """Keep of the local copy what the remote one lacks, scene by scene; drop the rest."""
    folder, kept = mine.path, set()
    for scene in mine.scenes:
        local = {part.file for part in scene.parts}
        if theirs.scene(scene.id) is None and all((folder / file).exists() for file in local):
            theirs = theirs.with_scene(scene)
            kept |= local | {coverage_of(file) for file in local}
    with writing_to(folder):
        for subfolder in (PARTS_FOLDER, COVERAGE_FOLDER):
            for path in (folder / subfolder).glob("*.parquet"):
                if f"{subfolder}/{path.name}" not in kept:
                    path.unlink()
        for path in (folder / STAGING_FOLDER).glob("*"):
            old, new = mine.scene(path.name), theirs.scene(path.name)
            if old is None or new is None or old.fingerprint != new.fingerprint:
                shutil.rmtree(path)
    return theirs
