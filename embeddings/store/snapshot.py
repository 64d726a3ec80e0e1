"""A collection as a remote store has it: its ``collection.json``, and under which names its files.

An object is never overwritten with another content: new content takes a name with its hash in it,
and the old object goes after the new ``collection.json`` stands.
So whoever reads a remote ``collection.json`` finds the files that belong to it. The member
``terrakin:files`` says where each file of the collection lies:

    "terrakin:files": {"parts/a-00000.parquet": {"object": "parts/a-00000.1f3870be.parquet",
                                                 "bytes": 81920, "sha256": "1f3870be..."}}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embeddings.errors import InputError, StoreFormatError
from embeddings.store.collection import Collection
from embeddings.store.layout import (
    COLLECTION_FILE,
    COVERAGE_FOLDER,
    ENCODER_STEM,
    PARTS_FOLDER,
    check_scene,
)
from embeddings.store.objects import RemoteFolder

FILES = "terrakin:files"

_FILE = re.compile(
    rf"(?:(?:{PARTS_FOLDER}|{COVERAGE_FOLDER})/[A-Za-z0-9][A-Za-z0-9_.-]*\.parquet"
    rf"|{ENCODER_STEM}\.[A-Za-z0-9_.-]+)"
)
"""Files of a collection beside ``collection.json``. A remote store may not name others."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of a collection in a remote store; ``object`` is relative to the collection."""

    object: str
    bytes: int | None
    sha256: str | None
    """None: not known, because the store was copied there by other means."""


@dataclass(frozen=True)
class Snapshot:
    """A remote collection at one moment; ``files`` by their names in a local store."""

    content: bytes
    """``collection.json`` as it stands there."""
    collection: Collection
    """With the names of a local store; ``path`` means nothing."""
    files: Mapping[str, Stored]

    @classmethod
    def load(cls, remote: RemoteFolder, name: str) -> Snapshot | None:
        """Read a collection of a remote store, or return None. Raises StoreError."""
        content = remote.read(f"{name}/{COLLECTION_FILE}")
        if content is None:
            return None
        where = f"{remote.shown}/{name}"
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            folder.mkdir()
            (folder / COLLECTION_FILE).write_bytes(content)
            try:
                collection = Collection.load(folder)
            except StoreFormatError as error:
                raise StoreFormatError(str(error).replace(str(folder), where)) from None
        listed = json.loads(content).get(FILES)
        try:
            if listed is None:
                files = _found(remote, collection)
            else:
                files = {local: Stored(**stored) for local, stored in listed.items()}
            _check_names(collection, files)
            local_names = {stored.object: local for local, stored in files.items()}
            collection = _renamed(collection, local_names)
        except (AttributeError, KeyError, TypeError, InputError) as error:
            raise StoreFormatError(
                f"{where}/{COLLECTION_FILE} names files that no collection has ({error}). Restore "
                "it from a backup, or make the collection anew with --replace."
            ) from None
        return cls(content, collection, files)

    @classmethod
    def of(cls, collection: Collection, files: Mapping[str, Stored]) -> Snapshot:
        """Describe a local collection whose files lie in a remote store as ``files`` says."""
        names = {local: stored.object for local, stored in files.items()}
        descriptor: dict[str, Any] = {
            **_renamed(collection, names).descriptor,
            FILES: {local: asdict(stored) for local, stored in files.items()},
        }
        return cls((json.dumps(descriptor, indent=1) + "\n").encode(), collection, files)


def place(snapshot: Snapshot | None, local: str, sha256: str, size: int) -> Stored:
    """Return where a file of that content goes: where it lies, else where nothing is needed."""
    files = snapshot.files if snapshot is not None else {}
    known = files.get(local)
    if known is not None and known.sha256 == sha256:
        return known
    plain = Stored(local, size, sha256)
    # What is known to be taken need not be looked at; RemoteFolder.create sees to the rest.
    taken = local in {stored.object for stored in files.values()}
    return beside(local, plain) if taken else plain


def beside(local: str, stored: Stored) -> Stored:
    """Return the place of a file under the name with its hash."""
    stem, _, suffix = local.rpartition(".")
    return replace(stored, object=f"{stem}.{str(stored.sha256)[:8]}.{suffix}")


def coverage_of(part: str) -> str:
    """Return the name of the coverage file that belongs to a part."""
    return f"{COVERAGE_FOLDER}/{part.removeprefix(f'{PARTS_FOLDER}/')}"


def _found(remote: RemoteFolder, collection: Collection) -> dict[str, Stored]:
    """Find the files of a collection that was copied there by other means than ``embed``."""
    name = collection.id
    files = {part.file: Stored(part.file, part.bytes, part.sha256) for part in collection.parts}
    for file in remote.names(name):
        content = remote.read(f"{name}/{file}") if file.startswith(f"{ENCODER_STEM}.") else None
        if content is not None:
            files[file] = Stored(file, len(content), hashlib.sha256(content).hexdigest())
    covered = {f"{COVERAGE_FOLDER}/{file}" for file in remote.names(f"{name}/{COVERAGE_FOLDER}")}
    for part in collection.parts:
        if coverage_of(part.file) in covered:
            files[coverage_of(part.file)] = Stored(coverage_of(part.file), None, None)
    return files


def _check_names(collection: Collection, files: Mapping[str, Stored]) -> None:
    """Refuse names that would lead out of the collection. Raises InputError."""
    for scene in collection.scenes:
        check_scene(scene.id)
    for name in [*files, *(stored.object for stored in files.values())]:
        if not _FILE.fullmatch(name):
            raise InputError(f"'{name}'")


def _renamed(collection: Collection, names: Mapping[str, str]) -> Collection:
    """Return the collection with its parts under other names. Raises KeyError."""
    scenes = tuple(
        replace(scene, parts=tuple(replace(part, file=names[part.file]) for part in scene.parts))
        for scene in collection.scenes
    )
    return replace(collection, scenes=scenes)
