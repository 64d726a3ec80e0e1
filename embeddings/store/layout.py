"""Names of the files of a store, and which names are allowed.

STORE/terrakin.json                        what this folder is
STORE/.lock                                held by the one writer
STORE/NAME/collection.json                 STAC Collection with the spec and the scenes
STORE/NAME/encoder.safetensors, .json      what a query image needs to be embedded later
STORE/NAME/parts/SCENE-00000.parquet       the embeddings
STORE/NAME/coverage/SCENE-00000.parquet    the chips left out of that part for lack of data
STORE/NAME/dense/SCENE-4/, SCENE-4.parquet a vector for every four pixels: tiles and their index
STORE/NAME/.staging/SCENE/00000.arrow      finished batches of an unfinished part
"""

from __future__ import annotations

import re
from pathlib import Path

from embeddings.errors import InputError

STORE_FORMAT_VERSION = 1
COLLECTION_FORMAT_VERSION = 1

SHIPPED_FOLDER = Path(__file__).parents[1] / "world" / "data"
"""A store of read-only collections that comes with the package and is present in every store."""

RESERVED_NAMES = {"world"}
"""Names of shipped collections; nothing else may be called so."""

STORE_FILE = "terrakin.json"
LOCK_FILE = ".lock"
COLLECTION_FILE = "collection.json"
ENCODER_STEM = "encoder"
PARTS_FOLDER = "parts"
COVERAGE_FOLDER = "coverage"
DENSE_FOLDER = "dense"
STAGING_FOLDER = ".staging"
REPLACING = ".replacing-"
DELETED = ".deleted-"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SCENE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10)
}


def check_name(name: str) -> str:
    """Return a collection name that is safe on every file system, or raise InputError."""
    if not _NAME.fullmatch(name) or name in _WINDOWS_DEVICES:
        raise InputError(
            f"'{name}' cannot name a collection. Use 1 to 64 lower-case letters, digits, '-' and "
            "'_', beginning with a letter or digit, for example 'carolina-2018'."
        )
    if name in RESERVED_NAMES:
        raise InputError(f"'{name}' is the collection that comes with Terrakin. Use another name.")
    return name


def check_scene(scene: str) -> str:
    """Return a scene id that is safe in file names and ids, or raise InputError."""
    if not _SCENE.fullmatch(scene) or scene.split(".")[0].lower() in _WINDOWS_DEVICES:
        raise InputError(
            f"'{scene}' cannot name a scene. Use 1 to 128 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit; --scene sets it."
        )
    return scene


def scene_from(text: str) -> str:
    """Make a scene id of a file or folder name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:128] or "scene"


def replacing_folder(store: Path, collection: str) -> Path:
    """Return where a collection is made anew while the old one serves."""
    return store / f"{REPLACING}{collection}"


def part_file(scene: str, part: int) -> str:
    """Return the path of a part relative to its collection, with forward slashes."""
    return f"{PARTS_FOLDER}/{scene}-{part:05d}.parquet"


def coverage_file(scene: str, part: int) -> str:
    """Return the path of a part's absent chips relative to its collection."""
    return f"{COVERAGE_FOLDER}/{scene}-{part:05d}.parquet"


def staged_file(collection: Path, scene: str, batch: int) -> Path:
    """Return the path of a staged batch."""
    return collection / STAGING_FOLDER / scene / f"{batch:05d}.arrow"
