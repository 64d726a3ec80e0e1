"""The files of an index and what ``index.json`` says of them.

COLLECTION/index/.lock                 held by the one builder
COLLECTION/index/KEY-1/index.json      what it is, what it belongs to, its recall curve; a hash of
                                       all that
COLLECTION/index/KEY-1/sums.u32        checksums of the pieces of all other files
COLLECTION/index/KEY-1/vectors.f16     unit vectors, float16, in the order of the rows
COLLECTION/index/KEY-1/ivf.faiss       centres and inverted lists, memory-mapped (kind "ivf")
COLLECTION/index/KEY-1/rows.arrow      what a search needs of the rows: the other columns,
COLLECTION/index/KEY-1/places.f64      centres and boxes,
COLLECTION/index/KEY-1/times.i64       times,
COLLECTION/index/KEY-1/ids.u64         and ids; ``embeddings.index.rows`` says more
COLLECTION/index/.building-KEY/        an index that is not finished

KEY stands for the rows and the vector space; the number grows when an index is built again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from embeddings.atomic import write_text
from embeddings.errors import StoreFormatError
from embeddings.index.curve import RecallCurve
from embeddings.index.lists import LISTS_FILE, Code
from embeddings.index.rows import ROW_FILES
from embeddings.index.sums import Sums
from embeddings.store.collection import Collection

INDEX_FORMAT_VERSION = 3

INDEX_FOLDER = "index"
MANIFEST_FILE = "index.json"
VECTORS_FILE = "vectors.f16"
LOCK_FILE = ".lock"
BUILDING = ".building-"

Kind = Literal["scan", "ivf"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is: the content of ``index.json``."""

    key: str
    kind: Kind
    count: int
    dim: int
    code: Code | Literal[""]
    """How vectors stand in the lists; empty without lists."""
    lists: int
    target_recall: float
    curve: RecallCurve | None
    files: Mapping[str, int]
    """Their sizes in bytes."""
    sums: str
    """SHA-256 of the checksums."""
    created: str
    seconds: float

    def save(self, folder: Path) -> None:
        """Write ``index.json`` atomically."""
        data = {"format": "terrakin-index", "format_version": INDEX_FORMAT_VERSION, **asdict(self)}
        data["sha256"] = _digest(data)
        write_text(folder / MANIFEST_FILE, json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``index.json``. Raises StoreFormatError, saying what is wrong."""
        path = folder / MANIFEST_FILE
        try:
            return cls._from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreFormatError(
                f"{path} is missing or damaged ({error}). Build the index again."
            ) from error

    def checked(self, folder: Path) -> Sums:
        """Return what checks the files. Raises OSError, StoreFormatError."""
        sizes = {name: self.files[name] for name in named_files(self.kind)}
        return Sums(folder, sizes, self.sums)

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        version = (data.pop("format"), data.pop("format_version"))
        if version != ("terrakin-index", INDEX_FORMAT_VERSION):
            raise ValueError(
                f"it is {version[0]} of version {version[1]}; this release reads "
                f"{INDEX_FORMAT_VERSION}"
            )
        told = data.pop("sha256")
        if told != _digest({"format": version[0], "format_version": version[1], **data}):
            raise ValueError("its hash is that of another text")
        if data["kind"] not in ("scan", "ivf"):
            raise ValueError(f"kind {data['kind']} is not known")
        if set(data["files"]) != set(named_files(data["kind"])):
            raise ValueError(f"it names the files {sorted(data['files'])}")
        if data["curve"] is not None:
            data["curve"] = RecallCurve.from_json(data["curve"])
        if (data["curve"] is None) != (data["kind"] == "scan"):
            raise ValueError("its recall curve does not go with its kind")
        return cls(**data)


def _digest(data: Mapping[str, Any]) -> str:
    """Return a hash of what a JSON object holds, however it is written."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def named_files(kind: Kind) -> tuple[str, ...]:
    """Return the files of an index of which there are checksums, in the order of these."""
    return (VECTORS_FILE, *ROW_FILES, *((LISTS_FILE,) if kind == "ivf" else ()))


def key_of(collection: Collection) -> str:
    """Return what changes whenever the rows change, or how their vectors are understood."""
    spec = collection.spec
    vectors = json.dumps([spec.dim, spec.dtype, spec.scale, spec.centre])
    return hashlib.sha256((collection.state + vectors).encode()).hexdigest()[:24]


def index_root(collection: Collection) -> Path:
    """Return the folder of all the collection's indexes."""
    return collection.path / INDEX_FOLDER


def building_folder(collection: Collection) -> Path:
    """Return where the index is made."""
    return index_root(collection) / f"{BUILDING}{key_of(collection)}-v{INDEX_FORMAT_VERSION}"


def finished_folders(collection: Collection) -> list[Path]:
    """Return the folders of finished indexes of the collection as it stands, newest first."""
    found = list(index_root(collection).glob(f"{key_of(collection)}-*"))
    return sorted(found, key=_number, reverse=True)


def next_folder(collection: Collection) -> Path:
    """Return where a finished index goes."""
    newest = max(map(_number, finished_folders(collection)), default=0)
    return index_root(collection) / f"{key_of(collection)}-{newest + 1}"


def remove_others(collection: Collection, kept: Path) -> None:
    """Remove all but one folder. What Windows holds open goes with the next build."""
    for folder in index_root(collection).iterdir():
        if folder.is_dir() and folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _number(folder: Path) -> int:
    text = folder.name.rpartition("-")[2]
    return int(text) if text.isdigit() else 0
