"""A store: a folder of collections, with one writer at a time and any number of readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from filelock import FileLock, Timeout

from embeddings.atomic import write_text, writing_to
from embeddings.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StoreNotWritableError,
)
from embeddings.store.collection import Collection
from embeddings.store.layout import (
    COLLECTION_FILE,
    DELETED,
    LOCK_FILE,
    REPLACING,
    SHIPPED_FOLDER,
    STORE_FILE,
    STORE_FORMAT_VERSION,
    check_name,
    replacing_folder,
)

Made = TypeVar("Made")


class Store:
    """A folder that ``terrakin.json`` marks as a store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing store. Raises StoreError or StoreFormatError."""
        marker = path / STORE_FILE
        try:
            data = json.loads(marker.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            what = "is a folder, but no Terrakin store" if path.is_dir() else "does not exist"
            raise StoreError(
                f"The store {path} {what}. Name the folder given to 'terrakin embed --store', or "
                "make a new store with that command."
            ) from None
        except OSError as error:
            raise StoreError(_unreadable(path, error)) from error
        except ValueError as error:
            raise StoreFormatError(f"{marker} cannot be read: {error}.") from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != STORE_FORMAT_VERSION:
            raise StoreFormatError(
                f"The store {path} has format version {version}; this release reads "
                f"{STORE_FORMAT_VERSION}. Use the release of Terrakin that wrote it."
            )
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open a store, making it first where there is none. A folder with files is refused."""
        with writing_to(path):
            there = (path / STORE_FILE).exists()
            if not there:
                if path.is_dir() and any(path.iterdir()):
                    raise StoreError(
                        f"{path} holds other files and is no Terrakin store. Name an empty or "
                        "new folder."
                    )
                path.mkdir(parents=True, exist_ok=True)
        if not there:
            content = {"format": "terrakin-store", "format_version": STORE_FORMAT_VERSION}
            write_text(path / STORE_FILE, json.dumps(content) + "\n")
        return cls.open(path)

    @classmethod
    @contextmanager
    def opened_or_made(cls, path: Path) -> Iterator[Self]:
        """Hold the write lock of a store, making it first where there is none.

        If this made the store and the work fails before anything stands in it, the store and the
        folders made for it are removed again.
        """
        made = [folder for folder in (path, *path.parents) if not _exists(folder)]
        began = not _exists(path / STORE_FILE)
        store = cls.create(path)
        try:
            with store.writing():
                yield store
        except BaseException:
            if began:
                store._remove_if_empty(made)
            raise

    def _remove_if_empty(self, folders: Sequence[Path]) -> None:
        own = {STORE_FILE, LOCK_FILE}
        with suppress(OSError):
            if {path.name for path in self.path.iterdir()} <= own:
                for file in own:
                    (self.path / file).unlink(missing_ok=True)
                for folder in folders:
                    folder.rmdir()

    def names(self) -> list[str]:
        """Return the names of the store's own collections, sorted, readable or not.

        Raises StoreError.
        """
        return _names(self.path)

    def shipped(self) -> list[str]:
        """Return the names of the read-only collections that come with the package."""
        return [name for name in _names(SHIPPED_FOLDER) if name not in self.names()]

    def collection(self, name: str) -> Collection:
        """Return one collection, own or shipped.

        Raises CollectionNotFoundError, naming those there are.
        """
        if name in self.shipped():
            return Collection.load(SHIPPED_FOLDER / name)
        self._check_there(name)
        return Collection.load(self.path / name)

    def _check_there(self, name: str) -> None:
        if name in self.names():
            return
        if name in self.shipped():
            raise StoreNotWritableError(
                f"Collection '{name}' comes with Terrakin and is read-only. Embed into, rename or "
                "delete a collection of your own."
            )
        there = ", ".join([*self.names(), *self.shipped()])
        raise CollectionNotFoundError(
            f"There is no collection '{name}' in {self.path}. There: {there}."
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's write lock, which the operating system frees if this process dies.

        Raises StoreLockedError at once if another process holds it.
        """
        with writing_to(self.path):
            lock = FileLock(self.path / LOCK_FILE, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise StoreLockedError(
                    f"Another process is writing to the store {self.path}. Wait until it has "
                    "finished, or stop it, and try again."
                ) from None
        try:
            self._tidy()
            yield
        finally:
            lock.release()

    def _tidy(self) -> None:
        """Finish what a killed process left half-way. The lock is held.

        A collection that was made anew and stands whole takes its place if the old one is already
        gone. One that is not whole is kept while the old one serves: its command goes on with it.
        """
        with writing_to(self.path):
            left = [path for path in self.path.iterdir() if path.name.startswith(".")]
        for folder in left:
            if folder.name.startswith(DELETED):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name.startswith(REPLACING):
                target = self.path / folder.name.removeprefix(REPLACING)
                if _exists(target / COLLECTION_FILE):
                    continue
                if _is_whole(folder):
                    self.put_in_place(folder, target)
                else:
                    self.discard(folder)

    def rename(self, name: str, new_name: str) -> Collection:
        """Rename a collection. Raises CollectionNotFoundError or CollectionExistsError."""
        check_name(new_name)
        with self.writing():
            self._check_there(name)
            collection = self.collection(name)
            if (self.path / new_name).exists():
                raise CollectionExistsError(
                    f"There is a collection '{new_name}' in {self.path} already. Choose another "
                    "name, or delete that one first."
                )
            self.discard(replacing_folder(self.path, name))
            with writing_to(collection.path):
                collection.path.rename(self.path / new_name)
            renamed = Collection.load(self.path / new_name)
            renamed.save()
            return renamed

    def delete(self, name: str) -> None:
        """Delete a collection for good, damaged or not. Raises CollectionNotFoundError."""
        with self.writing():
            self._check_there(name)
            self.discard(replacing_folder(self.path, name))
            self.discard(self.path / name)

    def made_anew(
        self, name: str, goes_on: Callable[[Path], bool], make: Callable[[Path], Made]
    ) -> Made:
        """Make the collection ``name`` by ``make(folder)``, anew where there is one.

        The old collection serves until the new one stands; then they change places. What an
        earlier run left of the new one is kept if ``goes_on(folder)`` says so.
        """
        target = self.path / name
        if not _exists(target / COLLECTION_FILE):
            return make(target)
        fresh = replacing_folder(self.path, name)
        if _exists(fresh / COLLECTION_FILE) and not goes_on(fresh):
            self.discard(fresh)
        made = make(fresh)
        self.put_in_place(fresh, target)
        return made

    def put_in_place(self, fresh: Path, target: Path) -> None:
        """Let the collection in ``fresh`` take the place of the one in ``target``."""
        trash = self._trash(target)
        with writing_to(target):
            if target.exists():
                target.rename(trash)
            fresh.rename(target)
        Collection.load(target).save()
        shutil.rmtree(trash, ignore_errors=True)

    def discard(self, folder: Path) -> None:
        """Take a collection's folder out of sight in one step, then remove it, if it is there."""
        if not _exists(folder):
            return
        trash = self._trash(folder)
        with writing_to(folder):
            folder.rename(trash)
            shutil.rmtree(trash)

    def _trash(self, folder: Path) -> Path:
        trash = self.path / f"{DELETED}{folder.name.lstrip('.')}"
        shutil.rmtree(trash, ignore_errors=True)
        return trash


def _exists(path: Path) -> bool:
    """Whether there is something; what may not be looked at is taken to be there."""
    try:
        return path.exists()
    except OSError:
        return True


def _is_whole(folder: Path) -> bool:
    try:
        collection = Collection.load(folder)
    except StoreError:
        return False
    return bool(collection.scenes) and all(scene.complete for scene in collection.scenes)


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"The store {path} cannot be read ({error.strerror}). Check that it is still there, and "
        "its permissions."
    )


def _names(folder: Path) -> list[str]:
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise StoreError(_unreadable(folder, error)) from error
    return sorted(path.name for path in found if _exists(path / COLLECTION_FILE))
