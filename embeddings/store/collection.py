"""What ``collection.json`` says: a STAC Collection with the spec and the scenes it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from embeddings.atomic import write_text
from embeddings.errors import CollectionNotFoundError, StoreFormatError
from embeddings.spec import STAC_EMBEDDING_EXTENSION, EmbeddingSpec
from embeddings.store.layout import COLLECTION_FILE, COLLECTION_FORMAT_VERSION
from embeddings.types import Bounds, TimeRange, parse_datetime, union_bounds


@dataclass(frozen=True, slots=True)
class Part:
    """One published Parquet file; ``file`` is relative to the collection."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One input: where it lies, how many chips it gave and how many lacked data."""

    id: str
    fingerprint: str
    files: tuple[str, ...]
    datetime: str | None
    footprint: Mapping[str, Any]
    """GeoJSON geometry of the whole scene, OGC:CRS84."""
    bbox: tuple[float, float, float, float]
    planned: int
    absent: int
    complete: bool
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    pixels: Mapping[str, Any] | None = None
    """How the files' numbers became values: scale and offset per band, nodata. None: unknown."""
    grid: Mapping[str, Any] | None = None
    """The regular grid of chips: crs, transform, rows, cols, chip_px, stride_px. None: unknown."""
    missing: int = 0
    """Chips that could not be read; neither embedded nor absent."""
    failed: tuple[int, ...] = ()
    """Numbers of the batches that could not be read."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a scene from its JSON object."""
        return cls(
            **{
                **data,
                "files": tuple(data["files"]),
                "bbox": tuple(data["bbox"]),
                "parts": tuple(Part(**part) for part in data["parts"]),
                "notes": tuple(data["notes"]),
                "failed": tuple(data.get("failed", ())),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which ``from_json`` restores an equal scene."""
        # Not asdict, which copies all that is in there: a collection may have thousands.
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "parts": [asdict(part) for part in self.parts]}

    @property
    def embedded(self) -> int:
        """How many chips of the scene are stored."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True)
class Collection:
    """One collection as its ``collection.json`` describes it. Reading it opens no Parquet."""

    path: Path
    id: str
    spec: EmbeddingSpec
    licence: str
    scenes: tuple[Scene, ...]
    created: str
    updated: str

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``path/collection.json``.

        Raises CollectionNotFoundError if there is none, StoreFormatError if it is damaged or of
        a format version this release does not know.
        """
        try:
            data = json.loads((path / COLLECTION_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise CollectionNotFoundError(f"There is no collection '{path.name}'.") from None
        except OSError as error:
            raise StoreFormatError(
                f"{path / COLLECTION_FILE} cannot be read ({error.strerror}). Check its "
                "permissions and those of its folder."
            ) from error
        except ValueError as error:
            raise StoreFormatError(
                f"{path / COLLECTION_FILE} is damaged ({error}). Delete the collection and embed "
                "it again, or restore the file from a backup."
            ) from error
        version = data.get("terrakin:format_version") if isinstance(data, dict) else None
        if version != COLLECTION_FORMAT_VERSION:
            raise StoreFormatError(
                f"Collection '{path.name}' has format version {version}; this release reads "
                f"{COLLECTION_FORMAT_VERSION}. Use the release of Terrakin that wrote it."
            )
        try:
            return cls(
                path=path,
                id=path.name,
                spec=EmbeddingSpec.from_json(data["terrakin:spec"]),
                licence=data["license"],
                scenes=tuple(Scene.from_json(scene) for scene in data["terrakin:scenes"]),
                created=data["created"],
                updated=data["updated"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreFormatError(
                f"{path / COLLECTION_FILE} lacks or misnames a field ({error}). Restore it from "
                "a backup, or delete the collection and embed it again."
            ) from error

    def save(self) -> None:
        """Write ``collection.json`` atomically, a scene a line: it is written for every part."""
        descriptor = self.descriptor
        scenes = ",\n  ".join(map(json.dumps, descriptor.pop("terrakin:scenes")))
        head = json.dumps(descriptor, indent=1).removesuffix("\n}")
        text = f'{head},\n "terrakin:scenes": [\n  {scenes}\n ]\n}}\n'
        write_text(self.path / COLLECTION_FILE, text)

    def with_scene(self, scene: Scene) -> Self:
        """Return the collection with ``scene`` added, or put in the place of its namesake."""
        known = {old.id: old for old in self.scenes} | {scene.id: scene}
        return replace(self, scenes=tuple(known.values()), updated=_now())

    def without_scene(self, scene_id: str) -> Self:
        """Return the collection without the scene of that id."""
        kept = tuple(scene for scene in self.scenes if scene.id != scene_id)
        return replace(self, scenes=kept, updated=_now())

    def scene(self, scene_id: str) -> Scene | None:
        """Return the scene of that id, or None."""
        return next((scene for scene in self.scenes if scene.id == scene_id), None)

    @property
    def title(self) -> str:
        """A line for lists."""
        return f"{self.id}: {self.spec.product}"

    @property
    def description(self) -> str:
        """A sentence for people."""
        return (
            f"{self.count:,} embeddings ({self.spec.dim} x {self.spec.dtype}, model "
            f"{self.spec.model} {self.spec.model_version}) of {len(self.scenes)} scene(s) from "
            f"{self.spec.source}."
        )

    @property
    def count(self) -> int:
        """How many embeddings are published."""
        return sum(scene.embedded for scene in self.scenes)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All published parts in the order of their rows."""
        return tuple(part for scene in self.scenes for part in scene.parts)

    @property
    def part_paths(self) -> list[Path]:
        """The files of all published parts that hold rows, in the order of their rows."""
        return [self.path / part.file for part in self.parts if part.rows]

    @cached_property
    def state(self) -> str:
        """A hash that changes whenever the rows change."""
        return hashlib.sha256("".join(part.sha256 for part in self.parts).encode()).hexdigest()

    @property
    def bounds(self) -> Bounds | None:
        """The box of all scenes, or None for an empty collection."""
        return union_bounds([Bounds(*scene.bbox) for scene in self.scenes])

    @property
    def time(self) -> TimeRange:
        """First and last time of the scenes; open where none has one."""
        times = [parse_datetime(scene.datetime) for scene in self.scenes if scene.datetime]
        return TimeRange(min(times), max(times)) if times else TimeRange(None, None)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The whole of ``collection.json``."""
        bounds = self.bounds
        interval = [t.isoformat() if t else None for t in (self.time.start, self.time.end)]
        return {
            "type": "Collection",
            "stac_version": "1.1.0",
            "stac_extensions": [STAC_EMBEDDING_EXTENSION],
            "id": self.id,
            "title": self.title,
            "description": self.description,
            "license": self.licence,
            "extent": {
                "spatial": {
                    "bbox": [
                        list(bounds.west_south_east_north())
                        if bounds
                        else [-180.0, -90.0, 180.0, 90.0]
                    ]
                },
                "temporal": {"interval": [interval]},
            },
            "links": [],
            **self.spec.to_stac(),
            "created": self.created,
            "updated": self.updated,
            "terrakin:format_version": COLLECTION_FORMAT_VERSION,
            "terrakin:spec": self.spec.to_json(),
            "terrakin:scenes": [scene.to_json() for scene in self.scenes],
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
